//! CLIP, its tokenizer and preprocessing, and the text encoder of Stable Diffusion, against the original modules.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ip2p_worker::models::Weights;
use ip2p_worker::models::clip::Clip;
use ip2p_worker::models::clip_config::{ClipConfig, Heads, text_config_from_json};
use ip2p_worker::models::preprocess;
use ip2p_worker::models::text_encoder::TextEncoder;
use ip2p_worker::models::tokenizer::{ClipTokenizer, Dialect};
use serde_json::Value;

use crate::place;
use crate::support::{self, Reference};

const CPU: Device = Device::Cpu;

fn texts(path: &Path, key: &str) -> Vec<String> {
    let file: Value = support::json(path);
    file[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_string()).collect()
}

fn borrowed(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Ids as rows of u32; the file has i32.
fn ids(tensor: &Tensor) -> Vec<Vec<u32>> {
    tensor.to_dtype(DType::U32).unwrap().to_vec2().unwrap()
}

fn hf(case: &Path) -> Clip {
    let weights = Weights::open(&case.join("hf.safetensors")).unwrap();
    let config = ClipConfig::from_json(&case.join("config.json")).unwrap();
    Clip::from_hf(&weights, &config, ClipTokenizer::for_model(case).unwrap(), DType::F32, &CPU).unwrap()
}

fn openai(case: &Path) -> Clip {
    let weights = Weights::open(&case.join("openai.safetensors")).unwrap();
    let config: Value = support::json(&case.join("openai_config.json"));
    let heads = |key: &str| config[key].as_u64().unwrap() as usize;
    let heads = Heads { text: heads("text_heads"), vision: heads("vision_heads") };
    Clip::from_openai(&weights, Some(heads), ClipTokenizer::for_model(case).unwrap(), DType::F32, &CPU).unwrap()
}

#[test]
fn golden_clip_tokens() {
    let (Some(case), Some(file)) = (place::case("clip"), place::file("clip", "tokens.safetensors")) else { return };
    let reference = Reference::open(&file);
    let tokenizer = ClipTokenizer::for_model(&case).unwrap();
    let too_long = support::json::<Value>(&case.join("texts.json"))["raises_without_truncate"].clone();
    for (dialect, name) in [(Dialect::OpenAi, "clip_tokens"), (Dialect::StableDiffusion, "sd_tokens")] {
        let rows = ids(reference.get(name));
        for (i, text) in texts(&case.join("texts.json"), "texts").iter().enumerate() {
            let tokens = tokenizer.encode(text, dialect, rows[i].len()).unwrap();
            assert_eq!(tokens.ids, rows[i], "{name} of {text:?}");
            if dialect == Dialect::OpenAi {
                assert_eq!(Value::Bool(tokens.count > rows[i].len()), too_long[i], "{} tokens in {text:?}", tokens.count);
            }
        }
    }
}

#[test]
fn golden_clip_preprocess() {
    let (Some(case), Some(file)) = (place::case("clip"), place::file("clip", "preprocess.safetensors")) else { return };
    let reference = Reference::open(&file);
    let size = ClipConfig::from_json(&case.join("config.json")).unwrap().vision.image_size;
    for name in reference.names().filter(|name| name.starts_with("image_")) {
        let image = reference.get(name);
        reference.assert_close(&name.replace("image_", "resized_"), &preprocess::resize_bicubic(image, size).unwrap(), 1e-5);
        reference.assert_close(&name.replace("image_", "normalised_"), &preprocess::clip_input(image, size).unwrap(), 1e-5);
    }
}

#[test]
fn golden_clip_sd_text_encoder() {
    let (Some(case), Some(file)) = (place::case("clip"), place::file("clip", "sd_text_encoder.safetensors")) else { return };
    let reference = Reference::open(&file);
    let weights = Weights::open(&case.join("hf.safetensors")).unwrap();
    let config = text_config_from_json(&case.join("config.json")).unwrap();
    let tokenizer = ClipTokenizer::for_model(&case).unwrap();
    let encoder = TextEncoder::new(&weights, "text_model.", &config, tokenizer, DType::F32, &CPU).unwrap();
    let ids = reference.get("input_ids").to_dtype(DType::U32).unwrap();
    reference.assert_close("last_hidden_state", &encoder.forward(&ids).unwrap(), 1e-4);
    let texts = texts(&case.join("sd_texts.json"), "texts");
    reference.assert_close("last_hidden_state", &encoder.encode(&borrowed(&texts)).unwrap(), 1e-4);
}

#[test]
fn golden_clip_features_and_similarities() {
    let (Some(case), Some(file)) = (place::case("clip"), place::file("clip", "similarity.safetensors")) else { return };
    let reference = Reference::open(&file);
    let all = texts(&case.join("texts.json"), "texts");
    let captions = ["text_0", "text_1"].map(|key| texts(&case.join("similarity_texts.json"), key));
    for clip in [hf(&case), openai(&case)] {
        reference.assert_close("text_features_of_texts_json", &clip.text_features(&borrowed(&all)).unwrap(), 2e-5);
        for (side, captions) in captions.iter().enumerate() {
            let tokens: Vec<Vec<u32>> = captions.iter().map(|text| clip.tokens(text).unwrap().ids).collect();
            assert_eq!(tokens, ids(reference.get(&format!("tokens_{side}"))));
            let images = reference.get(&format!("image_{side}"));
            reference.assert_close(&format!("image_features_{side}"), &clip.image_features(images).unwrap(), 2e-5);
            reference.assert_close(&format!("text_features_{side}"), &clip.text_features(&borrowed(captions)).unwrap(), 2e-5);
        }
        let raw = clip.raw_image_features(reference.get("image_0")).unwrap();
        reference.assert_close("image_features_0_unnormalised", &raw, 2e-5);
        let raw = clip.raw_text_features(&borrowed(&captions[0])).unwrap();
        reference.assert_close("text_features_0_unnormalised", &raw, 2e-5);
        similarities(&clip, &reference, &captions);
    }
}

fn similarities(clip: &Clip, reference: &Reference, captions: &[Vec<String>; 2]) {
    for (row, (before, after)) in captions[0].iter().zip(&captions[1]).enumerate() {
        let image = |name: &str| reference.get(name).narrow(0, row, 1).unwrap();
        let pair = clip.text_pair(before, after).unwrap();
        let scores = clip.quartet(&image("image_0"), &image("image_1"), &pair).unwrap()[0];
        for (name, found, tolerance) in [
            ("sim_0", scores.clip_sim_0, 1e-5),
            ("sim_1", scores.clip_sim_1, 1e-5),
            ("sim_direction", scores.clip_sim_dir, 5e-5),
            ("sim_image", scores.clip_sim_image, 1e-5),
        ] {
            let expected = f64::from(reference.f32s(name)[row]);
            let error = (found - expected).abs();
            println!("{name}, row {row}: {error:.2e}, tolerance {tolerance:.0e}");
            assert!(error <= tolerance, "{name}, row {row}: {found} against {expected}, error {error:e}");
        }
    }
}

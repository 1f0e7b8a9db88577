//! The bundled models load through the same code as the large ones, and do what they were trained for.

use candle_core::{DType, Device};
use ip2p_pipeline::ids::CaptionId;
use ip2p_pipeline::rng::{Purpose, Stream};
use ip2p_worker::models::clip::Clip;
use ip2p_worker::models::llm::{Finish, Llm, Options, Prompt, Sampling};
use ip2p_worker::models::text_encoder::TextEncoder;
use std::path::{Path, PathBuf};

const CPU: Device = Device::Cpu;

fn tiny(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/tiny").join(model)
}

#[test]
fn language_model_writes_in_the_format_of_the_original() {
    let mut llm = Llm::open(&tiny("llm"), DType::F32, &CPU).unwrap();
    let sampling = Sampling { temperature: 0.0, top_p: 1.0, frequency_penalty: 0.0 };
    let caption = "a green triangle on the beach";
    let mut rng = Stream::keyed(0, CaptionId::of(caption).bytes(), 0, Purpose::Tokens);
    let prompt = format!("{caption}\n##\n");
    let whole = llm.generate(Prompt::Text(&prompt), &Options { sampling, max_tokens: 96, stop: &[], form: &[] }, &mut rng).unwrap();
    assert_eq!(whole.finish, Finish::Stop);
    let body = whole.text.strip_suffix("\nEND").unwrap();
    let (edit, output) = body.split_once("\n%%\n").unwrap();
    assert!(!edit.is_empty() && !output.is_empty() && output != caption && !output.contains("%%"));
    let stopped =
        llm.generate(Prompt::Text(&prompt), &Options { sampling, max_tokens: 96, stop: &["\nEND"], form: &[] }, &mut rng).unwrap();
    assert_eq!(stopped.text, body);
    assert!(!llm.can_chat());
}

#[test]
fn clip_places_synonyms_together() {
    let clip = Clip::open(&tiny("clip"), DType::F32, &CPU).unwrap();
    let features = clip.text_features(&["a red circle", "a red disc", "a blue star"]).unwrap().to_vec2::<f32>().unwrap();
    let cosine = |a: usize, b: usize| features[a].iter().zip(&features[b]).map(|(x, y)| x * y).sum::<f32>();
    assert!((cosine(0, 0) - 1.0).abs() < 1e-5);
    assert!(cosine(0, 1) > cosine(0, 2), "{} against {}", cosine(0, 1), cosine(0, 2));
    let tokens = clip.tokens("a red circle").unwrap();
    assert!(tokens.count >= 5 && tokens.ids.contains(&0));
}

#[test]
fn text_encoder_pads_with_its_own_end_token() {
    let encoder = TextEncoder::from_folder(&tiny("diffusion"), DType::F32, &CPU).unwrap();
    let states = encoder.encode(&["", "a red circle"]).unwrap();
    assert_eq!(states.dims(), [2, encoder.length(), encoder.width()]);
    assert_eq!(encoder.count("").unwrap(), 2);
}

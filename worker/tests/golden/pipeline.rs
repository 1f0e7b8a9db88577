//! The original's whole image generation, end to end: draws, latents, pictures, similarities, what is kept, JPEG files.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, IndexOp, Tensor};
use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::records::{Candidate, ScoredCandidate, Scores, Triplet, Verdict};
use ip2p_pipeline::selection::judge;
use ip2p_pipeline::spec::{Filter, ImageFormat, Sampler};
use ip2p_worker::diffusion::{Draw, Settings, Texts, draw};
use ip2p_worker::images::Rgb8;
use ip2p_worker::models::clip::Clip;
use ip2p_worker::models::clip_config::{ClipConfig, text_config_from_json};
use ip2p_worker::models::text_encoder::TextEncoder;
use ip2p_worker::models::tokenizer::ClipTokenizer;
use ip2p_worker::models::vae::{each_image, to_unit};
use ip2p_worker::models::{UNet, Vae, Weights};
use serde::Deserialize;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::{colorspace::ColorSpace, options::DecoderOptions};

use super::place::{case, file};
use super::support::{Reference, assert_bytes, assert_written, json, max_difference};
use super::{mt19937, unet, vae};

#[derive(Deserialize)]
struct Run {
    global_seed: u32,
    steps: usize,
    n_samples: usize,
    max_out_samples: u32,
    min_p2p: f64,
    max_p2p: f64,
    min_cfg: f64,
    max_cfg: f64,
    clip_threshold: f64,
    clip_dir_threshold: f64,
    clip_img_threshold: f64,
    samples: Vec<Sample>,
    kept: BTreeMap<String, Vec<u64>>,
}

#[derive(Deserialize)]
struct Sample {
    prompt: usize,
    seed: u32,
    p2p_threshold: f64,
    cfg_scale: f64,
    #[serde(flatten)]
    scores: Scores,
}

#[derive(Deserialize)]
struct Prompt {
    caption: String,
    edit: String,
    output: String,
}

struct Models {
    unet: UNet,
    vae: Vae,
    text: TextEncoder,
    clip: Clip,
}

/// Those of the three cases; `None` when one is not there.
fn models() -> Option<Models> {
    let (Some(clip), Some(vae_folder), Some(unet_folder)) = (case("clip"), case("vae"), case("unet_p2p")) else { return None };
    let tokenizer = || ClipTokenizer::for_model(&clip).unwrap();
    let weights = Weights::open(&clip.join("hf.safetensors")).unwrap();
    let config = clip.join("config.json");
    let text_config = text_config_from_json(&config).unwrap();
    Some(Models {
        unet: unet::all(&unet_folder).swap_remove(0).1,
        vae: vae::load(&vae_folder, &vae_folder.join("vae_diffusers.safetensors")),
        text: TextEncoder::new(&weights, "text_model.", &text_config, tokenizer(), DType::F32, &Device::Cpu).unwrap(),
        clip: Clip::from_hf(&weights, &ClipConfig::from_json(&config).unwrap(), tokenizer(), DType::F32, &Device::Cpu).unwrap(),
    })
}

#[test]
fn golden_pipeline() {
    let (Some(folder), Some(samples), Some(models)) = (case("pipeline"), file("pipeline", "samples.json"), models()) else { return };
    let run: Run = json(&samples);
    check_draws(&run, &std::fs::read_to_string(samples).unwrap());
    let reference = Reference::open(&folder.join("samples.safetensors"));
    let prompts = std::fs::read_to_string(folder.join("prompts.jsonl")).unwrap();
    for (prompt, line) in prompts.lines().enumerate() {
        let text: Prompt = serde_json::from_str(line).unwrap();
        let triplet = Triplet::new(text.caption, text.edit, text.output, None);
        check_prompt(&folder, &run, &models, &reference, prompt, &triplet);
    }
}

/// Seeds, thresholds and guidance scales follow from the global seed; exactly, as the file's text shows.
fn check_draws(run: &Run, text: &str) {
    let mut seed = mt19937::first_seed(run.global_seed);
    for sample in &run.samples {
        assert_eq!(sample.seed, seed);
        let (p2p, cfg, next) = mt19937::draw(seed);
        let threshold = run.min_p2p + p2p * (run.max_p2p - run.min_p2p);
        let scale = run.min_cfg + cfg * (run.max_cfg - run.min_cfg);
        assert_written(text, "p2p_threshold", threshold);
        assert_written(text, "cfg_scale", scale);
        seed = next;
    }
}

/// All samples of one prompt, drawn in one batch.
fn check_prompt(folder: &Path, run: &Run, models: &Models, reference: &Reference, prompt: usize, triplet: &Triplet) {
    let rows: Vec<usize> = (0..run.samples.len()).filter(|&i| run.samples[i].prompt == prompt).collect();
    assert_eq!(rows.len(), run.n_samples);
    let latents = drawn(run, models, reference, &rows, triplet);
    let (first, n) = (rows[0], rows.len());
    let expected = |name: &str| reference.get(name).narrow(0, first, n).unwrap();
    let difference = max_difference(&latents, &expected("final_latents"));
    assert!(difference <= 5e-3, "prompt {prompt}: latents differ by {difference:e}");

    let (_, _, c, h, w) = latents.dims5().unwrap();
    let decoded = models.vae.decode(&latents.reshape((2 * n, c, h, w)).unwrap()).unwrap();
    let (_, channels, height, width) = decoded.dims4().unwrap();
    let decoded = decoded.reshape((n, 2, channels, height, width)).unwrap();
    let difference = max_difference(&decoded, &expected("decoded"));
    assert!(difference <= 1e-3, "prompt {prompt}: decoded differs by {difference:e}");

    let unit = to_unit(&decoded).unwrap();
    let side = |i: usize| unit.i((.., i)).unwrap().contiguous().unwrap();
    let pictures = |i: usize| each_image(&side(i)).unwrap().iter().map(|x| Rgb8::from_tensor(x).unwrap()).collect::<Vec<_>>();
    let pictures = [pictures(0), pictures(1)];
    for (i, pictures) in pictures.iter().enumerate() {
        let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.bytes.clone()).collect();
        let name = format!("image_{i}_u8");
        assert_bytes(&name, &bytes, &expected(&name).flatten_all().unwrap().to_vec1::<u8>().unwrap(), 0.005);
    }

    let texts = models.clip.text_pair(&triplet.caption, &triplet.output).unwrap();
    let scores = models.clip.quartet(&side(0), &side(1), &texts).unwrap();
    for (&row, scores) in rows.iter().zip(&scores) {
        let expected = run.samples[row].scores;
        let all = |s: Scores| [s.clip_sim_0, s.clip_sim_1, s.clip_sim_dir, s.clip_sim_image];
        let close = all(*scores).into_iter().zip(all(expected)).all(|(a, b)| (a - b).abs() <= 2e-4);
        assert!(close, "sample {row}: {scores:?} is not {expected:?}");
    }
    check_kept(folder, run, prompt, &rows, &scores, &pictures);
}

fn drawn(run: &Run, models: &Models, reference: &Reference, rows: &[usize], triplet: &Triplet) -> Tensor {
    let encode = |text: &str| models.text.encode(&[text]).unwrap();
    let texts = Texts::new(&models.unet, &encode(""), &encode(&triplet.caption), &encode(&triplet.output)).unwrap();
    let noise = reference.get("noise");
    let (_, _, _, height, width) = noise.dims5().unwrap();
    let draws: Vec<Draw> = rows
        .iter()
        .map(|&row| {
            let noise = noise.i(row).unwrap().flatten_from(1).unwrap().to_vec2::<f32>().unwrap();
            let Sample { p2p_threshold, cfg_scale, .. } = run.samples[row];
            Draw { p2p_threshold, cfg_scale, noise: Box::new(move |draw, out| out.copy_from_slice(&noise[draw as usize])) }
        })
        .collect();
    let settings = Settings { sampler: Sampler::EulerAncestral, steps: run.steps, size: (height, width) };
    draw(&models.unet, &texts, &draws, settings, &mut |_| ControlFlow::Continue(())).unwrap()
}

/// The same pairs are kept, and their JPEG files have the same luma.
fn check_kept(folder: &Path, run: &Run, prompt: usize, rows: &[usize], scores: &[Scores], pictures: &[Vec<Rgb8>; 2]) {
    let filter = Filter {
        clip_text: run.clip_threshold,
        clip_direction: run.clip_dir_threshold,
        clip_image: run.clip_img_threshold,
        keep: run.max_out_samples,
    };
    let candidate = |(&row, &scores): (&usize, &Scores)| {
        let Sample { seed, p2p_threshold, cfg_scale, .. } = run.samples[row];
        let triplet = TripletId::of("", "", "");
        let candidate = Candidate { triplet, sample: row as u32, seed: u64::from(seed), p2p_threshold, cfg_scale };
        ScoredCandidate { candidate, scores: Some(scores), error: None, images: None }
    };
    let scored: Vec<ScoredCandidate> = rows.iter().zip(scores).map(candidate).collect();
    let verdicts = judge(&scored, &filter);
    let name = format!("{prompt:07}");
    let mut expected = run.kept.get(&name).cloned().unwrap_or_default();
    expected.sort();
    let mut kept = vec![];
    for (i, _) in verdicts.iter().enumerate().filter(|(_, verdict)| **verdict == Verdict::Kept) {
        let seed = scored[i].candidate.seed;
        kept.push(seed);
        for (half, pictures) in pictures.iter().enumerate() {
            let file = std::fs::read(folder.join(format!("dataset/{name}/{seed}_{half}.jpg"))).unwrap();
            let ours = pictures[i].encode(ImageFormat::Jpeg { quality: 100 }).unwrap();
            let difference = mean_difference(&luma(&ours), &luma(&file));
            assert!(difference < 1.0, "{name}/{seed}_{half}.jpg: luma differs by {difference}");
        }
    }
    kept.sort();
    assert_eq!(kept, expected, "prompt {prompt}");
}

fn luma(jpeg: &[u8]) -> Vec<u8> {
    let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::Luma);
    JpegDecoder::new_with_options(Cursor::new(jpeg), options).decode().unwrap()
}

fn mean_difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

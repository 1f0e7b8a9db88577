//! Speed of drawing with the bundled tiny models: `cargo bench -p ip2p-worker --bench diffusion`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ip2p_pipeline::spec::Sampler;
use ip2p_worker::diffusion::{Draw, Settings, Texts, draw};
use ip2p_worker::models::clip::Clip;
use ip2p_worker::models::unet::Rows;
use ip2p_worker::models::{UNet, Vae};

/// Candidates of one batch.
const PAIRS: usize = 8;

fn model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/tiny/diffusion")
}

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn unet(c: &mut Criterion) {
    let unet = UNet::open(&model(), false, DType::F32, &Device::Cpu).unwrap();
    let text = unet.text_context(&random(&[3, 77, unet.config().context_width])).unwrap();
    let x = random(&[4 * PAIRS, unet.config().in_channels, 8, 8]);
    let t = Tensor::new(&[500f32], &Device::Cpu).unwrap();
    let mut group = c.benchmark_group("unet, tiny, 8x8 latents");
    group.sample_size(20).throughput(Throughput::Elements(4 * PAIRS as u64));
    let shared: Vec<_> = (0..PAIRS).flat_map(|i| [(i, PAIRS + i), (2 * PAIRS + i, 3 * PAIRS + i)]).collect();
    for (name, shared) in [("alone", vec![]), ("sharing", shared)] {
        let rows = Rows { texts: vec![(0, 2 * PAIRS), (1, PAIRS), (2, PAIRS)], shared };
        group.bench_function(name, |b| b.iter(|| unet.forward(&x, &t, &text, &rows).unwrap()));
    }
    group.finish();
}

fn sampler(c: &mut Criterion) {
    let unet = UNet::open(&model(), false, DType::F32, &Device::Cpu).unwrap();
    let states = || random(&[1, 77, unet.config().context_width]);
    let texts = Texts::new(&unet, &states(), &states(), &states()).unwrap();
    let settings = Settings { sampler: Sampler::EulerAncestral, steps: 10, size: (8, 8) };
    let candidate = |i: usize| Draw {
        p2p_threshold: 0.1 + 0.1 * i as f64,
        cfg_scale: 7.5,
        noise: Box::new(|draw, out| out.iter_mut().enumerate().for_each(|(i, x)| *x = ((i as u64 * 7 + draw * 13) as f32).sin())),
    };
    let draws: Vec<Draw> = (0..PAIRS).map(candidate).collect();
    let mut group = c.benchmark_group("draw, tiny, 10 steps");
    group.sample_size(10).throughput(Throughput::Elements(PAIRS as u64));
    group.bench_function("pairs", |b| b.iter(|| draw(&unet, &texts, &draws, settings, &mut |_| ControlFlow::Continue(())).unwrap()));
    group.finish();
}

fn vae(c: &mut Criterion) {
    let vae = Vae::open(&model(), DType::F32, &Device::Cpu).unwrap();
    let z = random(&[2 * PAIRS, vae.config().latent_channels, 8, 8]);
    let mut group = c.benchmark_group("vae, tiny, 64x64 pixels");
    group.sample_size(20).throughput(Throughput::Elements(2 * PAIRS as u64));
    group.bench_function("decode", |b| b.iter(|| vae.decode(&z).unwrap()));
    group.finish();
}

/// The texts of one triplet are encoded once; then every pair of images gets its four similarities.
fn clip(c: &mut Criterion) {
    let clip = Clip::open(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../models/tiny/clip"), DType::F32, &Device::Cpu).unwrap();
    let mut group = c.benchmark_group("clip, tiny, 64x64 pixels");
    group.sample_size(20);
    let texts = ["a small red circle on a white background", "a small blue circle on a white background"];
    group.throughput(Throughput::Elements(2)).bench_function("texts", |b| b.iter(|| clip.text_pair(texts[0], texts[1]).unwrap()));
    let images = || Tensor::rand(0f32, 1.0, (PAIRS, 3, 64, 64), &Device::Cpu).unwrap();
    let (before, after) = (images(), images());
    group.throughput(Throughput::Elements(2 * PAIRS as u64));
    group.bench_function("images", |b| b.iter(|| clip.image_features(&before).and_then(|_| clip.image_features(&after)).unwrap()));
    let pair = clip.text_pair(texts[0], texts[1]).unwrap();
    group.throughput(Throughput::Elements(PAIRS as u64));
    group.bench_function("quartets of pairs", |b| b.iter(|| clip.quartet(&before, &after, &pair).unwrap()));
    group.finish();
}

criterion_group!(benches, unet, sampler, vae, clip);
criterion_main!(benches);

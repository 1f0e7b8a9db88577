//! The noise schedule and complete runs of the sampler with Prompt-to-Prompt and guidance.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Tensor;
use ip2p_pipeline::spec::Sampler;
use ip2p_worker::diffusion::p2p::shares;
use ip2p_worker::diffusion::schedule::{Schedule, alphas_cumprod, ancestral, betas};
use ip2p_worker::diffusion::{Draw, Drawn, Settings, Texts, draw};
use ip2p_worker::models::{Error, UNet};
use serde::Deserialize;

use super::place::{case, file, runs};
use super::support::{Reference, json, max_difference};
use super::unet;

const LATENTS: f32 = 3e-3;

fn assert_relative(what: &str, actual: &[f64], expected: &[f32], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    for (i, (a, &e)) in actual.iter().zip(expected).enumerate() {
        let e = f64::from(e);
        assert!((a - e).abs() <= tolerance * e.abs(), "{what}[{i}]: {a} is not {e}");
    }
}

#[test]
fn golden_schedule() {
    let Some(file) = file("sampler", "schedule.safetensors") else { return };
    let reference = Reference::open(&file);
    let schedule = Schedule::default();
    assert_relative("betas", &betas(), &reference.f32s("betas"), 1e-6);
    assert_relative("alphas_cumprod", &alphas_cumprod(), &reference.f32s("alphas_cumprod"), 0.0);
    let all: Vec<f64> = (0..1000).map(|t| schedule.sigma(f64::from(t))).collect();
    assert_relative("sigmas_1000", &all, &reference.f32s("sigmas_1000"), 1e-5);
    for (sigma, t) in reference.f32s("probe_sigmas").into_iter().zip(reference.f32s("probe_t")) {
        assert!((schedule.time(f64::from(sigma)) - f64::from(t)).abs() <= 2e-3, "time of {sigma}");
    }
    let counts: Vec<usize> = reference.names().filter_map(|name| name.strip_prefix("sigma_up_")?.parse().ok()).collect();
    assert!(!counts.is_empty());
    counts.into_iter().for_each(|n| check_steps(&reference, &schedule, n));
}

fn check_steps(reference: &Reference, schedule: &Schedule, n: usize) {
    let expected = |name: &str| reference.f32s(&format!("{name}_{n}"));
    let sigmas = schedule.sigmas(n);
    assert_relative("sigmas", &sigmas, &expected("sigmas"), 1e-5);
    let splits: Vec<_> = sigmas.windows(2).map(|pair| ancestral(pair[0], pair[1])).collect();
    assert_relative("sigma_up", &splits.iter().map(|s| s.up).collect::<Vec<_>>(), &expected("sigma_up"), 1e-4);
    assert_relative("sigma_down", &splits.iter().map(|s| s.down).collect::<Vec<_>>(), &expected("sigma_down"), 1e-4);
    for (sigma, t) in sigmas.iter().zip(expected("t_from_sigma")) {
        assert!((schedule.time(*sigma) - f64::from(t)).abs() <= 2e-3, "time of {sigma}");
    }
}

#[derive(Deserialize)]
struct Run {
    run: String,
    cfg_scale: f64,
    p2p_threshold: f64,
    steps: usize,
}

/// The description that belongs to a file of runs: `run*.safetensors` with `runs*.json` of the same ending, or `runs.json`.
fn runs_of(file: &Path) -> Vec<Run> {
    let name = file.file_stem().unwrap().to_str().unwrap();
    let own = file.with_file_name(format!("runs{}.json", name.trim_start_matches("runs").trim_start_matches("run")));
    json(&if own.is_file() { own } else { file.with_file_name("runs.json") })
}

/// Draw 0 is the initial noise, draw i + 1 the noise of step i.
fn noise<'a>(initial: &'a [f32], steps: &'a [f32]) -> impl Fn(u64, &mut [f32]) + 'a {
    move |draw, out: &mut [f32]| match draw {
        0 => out.copy_from_slice(initial),
        draw => out.copy_from_slice(&steps[(draw as usize - 1) * out.len()..draw as usize * out.len()]),
    }
}

/// Every reference run, alone and with the others of as many steps as one batch of candidates: a row does not depend on its
/// neighbours.
#[test]
fn golden_sampler() {
    // The runs draw with the UNet of unet_p2p.
    let Some(models) = case("unet_p2p") else { return };
    let (_, unet) = unet::all(&models).swap_remove(0);
    for file in runs("sampler", "run") {
        let reference = Reference::open(&file);
        let described: Vec<Run> =
            runs_of(&file).into_iter().filter(|run| reference.find(&format!("{}.final", run.run)).is_some()).collect();
        assert!(!described.is_empty(), "no runs of {}", file.display());
        let mut by_steps: BTreeMap<usize, Vec<Run>> = BTreeMap::new();
        for run in described {
            check_run(&unet, &reference, std::slice::from_ref(&run));
            by_steps.entry(run.steps).or_default().push(run);
        }
        by_steps.values().filter(|together| together.len() > 1).for_each(|together| check_run(&unet, &reference, together));
    }
}

fn check_run(unet: &UNet, reference: &Reference, runs: &[Run]) {
    let (initial, steps) = (reference.f32s("initial_noise"), reference.f32s("step_noises"));
    let text = |name: &str, row: usize| reference.get(name).narrow(0, row, 1).unwrap();
    let texts = Texts::new(unet, &text("uncond", 0), &text("cond", 0), &text("cond", 1)).unwrap();
    let size = reference.get("initial_noise").dims4().unwrap();
    let settings = Settings { sampler: Sampler::EulerAncestral, steps: runs[0].steps, size: (size.2, size.3) };
    let draw_of = |run: &Run| Draw { p2p_threshold: run.p2p_threshold, cfg_scale: run.cfg_scale, noise: Box::new(noise(&initial, &steps)) };
    let draws: Vec<Draw> = runs.iter().map(draw_of).collect();
    let mut after_step: Vec<Tensor> = vec![];
    let mut record = |drawn: &Drawn| {
        after_step.push(drawn.latents().unwrap());
        ControlFlow::Continue(())
    };
    let latents = draw(unet, &texts, &draws, settings, &mut record).unwrap();
    for (i, run) in runs.iter().enumerate() {
        let name = |what: &str| format!("{}.{what}", run.run);
        let on: Vec<u8> = (0..run.steps).map(|step| u8::from(shares(run.p2p_threshold, step, run.steps))).collect();
        assert_eq!(on, reference.bytes(&name("p2p_on")), "{}", run.run);
        for (step, x) in after_step.iter().enumerate() {
            let expected = reference.get(&name("latents_after_step")).get(step).unwrap();
            let difference = max_difference(&x.get(i).unwrap(), &expected);
            assert!(difference <= LATENTS, "{} after step {step}: {difference:e}", run.run);
        }
        reference.assert_close(&name("final"), &latents.get(i).unwrap(), LATENTS);
    }
}

/// The progress callback can stop a drawing; nothing runs after it.
#[test]
fn golden_sampler_stops_when_asked() {
    let Some(folder) = case("unet_p2p") else { return };
    let (_, unet) = unet::all(&folder).swap_remove(0);
    let states = Tensor::zeros((1, 5, unet.config().context_width), candle_core::DType::F32, unet.device()).unwrap();
    let texts = Texts::new(&unet, &states, &states, &states).unwrap();
    let candidate = || Draw { p2p_threshold: 0.5, cfg_scale: 7.5, noise: Box::new(|_, out| out.fill(0.5)) };
    for sampler in [Sampler::EulerAncestral, Sampler::Dpmpp2m] {
        let settings = Settings { sampler, steps: 5, size: (8, 8) };
        let mut calls = 0;
        let mut stop = |drawn: &Drawn| {
            calls += 1;
            if drawn.done == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let error = draw(&unet, &texts, &[candidate()], settings, &mut stop).unwrap_err();
        assert!(matches!(error, Error::Stopped { step: 2, steps: 5 }), "{error}");
        assert_eq!(calls, 2);
    }
}

/// With one text for both images and the same noise, both images of a pair are the same at any threshold.
#[test]
fn golden_sampler_same_text_gives_same_images() {
    let Some(folder) = case("unet_p2p") else { return };
    let (_, unet) = unet::all(&folder).swap_remove(0);
    let width = unet.config().context_width;
    let states = |value: f32| Tensor::full(value, (1, 5, width), unet.device()).unwrap();
    let texts = Texts::new(&unet, &states(0.0), &states(0.5), &states(0.5)).unwrap();
    let wave = |draw: u64, out: &mut [f32]| out.iter_mut().enumerate().for_each(|(i, x)| *x = ((i as u64 * 7 + draw * 13) as f32).sin());
    let candidate = |p2p_threshold| Draw { p2p_threshold, cfg_scale: 3.0, noise: Box::new(wave) };
    let settings = Settings { sampler: Sampler::Dpmpp2m, steps: 4, size: (8, 12) };
    let latents = draw(&unet, &texts, &[candidate(0.0), candidate(0.7)], settings, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(latents.dims(), [2, 2, unet.config().out_channels, 8, 12]);
    for pair in 0..2 {
        let pair = latents.get(pair).unwrap();
        assert!(max_difference(&pair.get(0).unwrap(), &pair.get(1).unwrap()) < 1e-3);
    }
    assert!(max_difference(&latents.get(0).unwrap(), &latents.get(1).unwrap()) < 1e-3);
}

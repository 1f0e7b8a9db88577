//! Candidate pairs of one triplet, drawn in one batch with Prompt-to-Prompt and guidance of their own.
//!
//! The batch of n pairs has 4n rows in four blocks of n: without text for the first images, without text for the second
//! images, with caption for the first, with edited caption for the second. With one pair this is the original's order.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};
use ip2p_pipeline::spec::Sampler;

use super::p2p::shares;
use super::sampler::{Process, sample};
use super::schedule::Schedule;
use crate::models::unet::{Rows, TextContext, UNet};
use crate::models::{Error, Result};

/// Fills a slice with the standard normal numbers of one draw: 0 is the initial noise, 1.. the noise of the steps.
pub type Noise<'a> = Box<dyn Fn(u64, &mut [f32]) + 'a>;

/// One candidate pair to draw. Both of its images get the same noise.
pub struct Draw<'a> {
    /// In [0, 1]: the share of the steps in which the second image uses the first's self-attention maps.
    pub p2p_threshold: f64,
    /// Guidance scale, 1 for none.
    pub cfg_scale: f64,
    pub noise: Noise<'a>,
}

/// The texts of one triplet, ready for every step: the empty text, the caption and the edited caption.
pub struct Texts {
    context: TextContext,
}

impl Texts {
    /// Computes keys and values once; each of `empty`, `before` and `after` is [1, tokens, width] from the text encoder.
    pub fn new(unet: &UNet, empty: &Tensor, before: &Tensor, after: &Tensor) -> Result<Self> {
        Ok(Texts { context: unet.text_context(&Tensor::cat(&[empty, before, after], 0)?)? })
    }
}

/// What all candidates of a batch have in common.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub sampler: Sampler,
    pub steps: usize,
    /// Height and width of the latents.
    pub size: (usize, usize),
}

/// The state after a step.
pub struct Drawn<'a> {
    /// Steps done, from 1.
    pub done: usize,
    pub steps: usize,
    x: &'a Tensor,
}

impl Drawn<'_> {
    /// The latents at this step: fp32 [n, 2, c, h, w].
    pub fn latents(&self) -> Result<Tensor> {
        by_pair(self.x)
    }
}

/// Draws pairs: fp32 latents [n, 2, c, h, w], scaled as the autoencoder's [`decode`](crate::models::Vae::decode) expects.
///
/// Each pair depends on its own [`Draw`] only, up to rounding. `progress` is called after every step;
/// `ControlFlow::Break` stops with [`Error::Stopped`].
pub fn draw(
    unet: &UNet,
    texts: &Texts,
    draws: &[Draw],
    settings: Settings,
    progress: &mut dyn FnMut(&Drawn) -> ControlFlow<()>,
) -> Result<Tensor> {
    if draws.is_empty() || settings.steps == 0 || settings.size.0 == 0 || settings.size.1 == 0 {
        return Err(Error::Input("drawing needs at least one candidate, one step and one latent".into()));
    }
    if unet.config().in_channels != unet.config().out_channels {
        return Err(Error::Input(format!("drawing needs a text-to-image UNet, this one has {} input channels", unet.config().in_channels)));
    }
    let schedule = Schedule::default();
    let sigmas = schedule.sigmas(settings.steps);
    let scales: Vec<f32> = draws.iter().chain(draws).map(|draw| draw.cfg_scale as f32).collect();
    let scales = Tensor::from_vec(scales, (2 * draws.len(), 1, 1, 1), unet.device())?;
    let mut pairs = Pairs { unet, texts, draws, settings, schedule, scales, progress };
    let x = (pairs.noise_of(0)? * sigmas.first().copied().unwrap_or_default())?;
    by_pair(&sample(settings.sampler, &sigmas, x, &mut pairs)?)
}

/// [first images, second images] -> [n, 2, c, h, w].
fn by_pair(x: &Tensor) -> Result<Tensor> {
    let (rows, c, h, w) = x.dims4()?;
    Ok(x.reshape((2, rows / 2, c, h, w))?.transpose(0, 1)?.contiguous()?)
}

struct Pairs<'a> {
    unet: &'a UNet,
    texts: &'a Texts,
    draws: &'a [Draw<'a>],
    settings: Settings,
    schedule: Schedule,
    scales: Tensor,
    progress: &'a mut dyn FnMut(&Drawn) -> ControlFlow<()>,
}

impl Pairs<'_> {
    /// One draw of noise for every pair, for both of its images: [2n, c, h, w].
    fn noise_of(&self, draw: u64) -> Result<Tensor> {
        let (height, width) = self.settings.size;
        let channels = self.unet.config().out_channels;
        let size = channels * height * width;
        let mut noise = vec![0f32; self.draws.len() * size];
        self.draws.iter().zip(noise.chunks_mut(size.max(1))).for_each(|(candidate, out)| (candidate.noise)(draw, out));
        let one = Tensor::from_vec(noise, (self.draws.len(), channels, height, width), &Device::Cpu)?;
        Ok(Tensor::cat(&[&one, &one], 0)?.to_device(self.unet.device())?)
    }

    fn rows(&self, step: usize) -> Rows {
        let n = self.draws.len();
        let sharing = |&i: &usize| self.draws.get(i).is_some_and(|draw| shares(draw.p2p_threshold, step, self.settings.steps));
        let pairs = |first: usize| (0..n).filter(sharing).map(move |i| (first + i, first + n + i));
        Rows { texts: vec![(0, 2 * n), (1, n), (2, n)], shared: pairs(0).chain(pairs(2 * n)).collect() }
    }
}

impl Process for Pairs<'_> {
    /// Guidance as the original applies it, to the denoised estimates: D_empty + scale (D_text - D_empty).
    fn denoise(&mut self, step: usize, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let eps = predict(self.unet, &self.schedule, (&self.texts.context, &self.rows(step)), &[x, x], None, sigma)?;
        let half = x.dim(0)?;
        let (empty, text) = (eps.narrow(0, 0, half)?, eps.narrow(0, half, half)?);
        let guided = (&empty + (text - &empty)?.broadcast_mul(&self.scales)?)?;
        Ok((x - (guided * sigma)?)?)
    }

    fn noise(&mut self, draw: u64, _: &Tensor) -> Result<Tensor> {
        self.noise_of(draw)
    }

    fn after(&mut self, step: usize, x: &Tensor) -> Result<()> {
        let steps = self.settings.steps;
        match (self.progress)(&Drawn { done: step + 1, steps, x }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Stopped { step: step + 1, steps }),
        }
    }
}

/// The predicted noise of latents `x` (parts of one batch) at `sigma`. The UNet sees them with unit variance, beside
/// `images` where it was trained on picture latents too.
pub(super) fn predict(
    unet: &UNet,
    schedule: &Schedule,
    (text, rows): (&TextContext, &Rows),
    x: &[&Tensor],
    images: Option<&Tensor>,
    sigma: f64,
) -> Result<Tensor> {
    let mut input = (Tensor::cat(x, 0)? / (sigma * sigma + 1.0).sqrt())?;
    if let Some(images) = images {
        input = Tensor::cat(&[&input, images], 1)?;
    }
    let t = Tensor::from_vec(vec![schedule.time(sigma) as f32], 1, unet.device())?;
    unet.forward(&input, &t, text, rows)
}

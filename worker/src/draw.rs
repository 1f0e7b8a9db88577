//! Drawing the candidates of one triplet: the only place where spec, random streams and models meet.

use crate::control::Control;
use crate::diffusion::{self, Draw, Settings, Texts};
use crate::failure::{Result, failure, model};
use crate::images::Rgb8;
use crate::loaded::{Diffusion, Models};
use crate::models::clip::{Clip, TextPair};
use crate::models::vae;
use candle_core::{DType, Device, Tensor};
use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{Candidate, Scores, Triplet};
use ip2p_pipeline::rng::{Purpose, Stream};
use ip2p_pipeline::spec::{ImageFormat, Spec};
use ip2p_pipeline::task::Cause;
use std::ops::{ControlFlow, Range};

/// All candidates of a triplet, by sample number.
pub fn candidates(spec: &Spec, triplet: TripletId) -> impl Iterator<Item = Candidate> + '_ {
    (0..spec.stages.pairs.samples).map(move |sample| Candidate::draw(spec.seed, triplet, sample, &spec.stages.pairs))
}

/// The candidates of one batch of a triplet.
pub fn batch(spec: &Spec, triplet: TripletId, number: u32) -> Vec<Candidate> {
    let samples = spec.stages.pairs.samples_of(number);
    samples.map(|sample| Candidate::draw(spec.seed, triplet, sample, &spec.stages.pairs)).collect()
}

/// A candidate, drawn and scored.
pub struct Finished {
    pub candidate: Candidate,
    pub scores: Scores,
    /// Before and after.
    pub pixels: [Rgb8; 2],
}

impl Finished {
    /// The images as files.
    pub fn encode(&self, format: ImageFormat) -> Result<[Vec<u8>; 2]> {
        let encode = |image: &Rgb8| image.encode(format).map_err(|e| failure(Cause::Bug, format!("image encoder: {e}")));
        Ok([encode(&self.pixels[0])?, encode(&self.pixels[1])?])
    }
}

/// Models at work on one triplet; its texts are encoded once.
pub struct Drawer<'m> {
    spec: &'m Spec,
    diffusion: &'m Diffusion,
    clip: &'m Clip,
    texts: Texts,
    scored_texts: TextPair,
}

impl<'m> Drawer<'m> {
    pub fn new(models: &'m mut Models, spec: &'m Spec, triplet: &Triplet) -> Result<Self> {
        let (diffusion, clip) = models.for_pairs()?;
        warn_if_cut(diffusion, triplet)?;
        let encode = |text: &str| diffusion.text.encode(&[text]).map_err(model);
        let (before, after) = (encode(&triplet.caption)?, encode(&triplet.output)?);
        let texts = Texts::new(&diffusion.unet, &diffusion.empty, &before, &after).map_err(model)?;
        let scored_texts = clip.text_pair(&triplet.caption, &triplet.output).map_err(model)?;
        Ok(Drawer { spec, diffusion, clip, texts, scored_texts })
    }

    /// Final latents of one batch: fp32 [n, 2, c, h, w]. A batch that does not fit the memory is drawn in halves, whose
    /// last bits can differ on a GPU: better than no images.
    pub fn latents(&self, batch: &[Candidate], control: &Control) -> Result<Tensor> {
        let parts = in_halves(0..batch.len(), &|range| self.latents_at_once(&batch[range], control))?;
        Tensor::cat(&parts, 0).map_err(|e| model(e.into()))
    }

    fn latents_at_once(&self, batch: &[Candidate], control: &Control) -> Result<Tensor> {
        let pairs = &self.spec.stages.pairs;
        let side = pairs.resolution as usize / self.diffusion.vae.factor();
        let settings = Settings { sampler: pairs.sampler, steps: pairs.steps as usize, size: (side, side) };
        let draws: Vec<Draw> = batch.iter().map(|candidate| self.draw(candidate)).collect();
        // Who must leave leaves within a step: a batch can take minutes.
        let must_end = || control.lost() || control.draining();
        let mut go_on = |_: &diffusion::Drawn| if must_end() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        diffusion::draw(&self.diffusion.unet, &self.texts, &draws, settings, &mut go_on).map_err(model)
    }

    fn draw(&self, candidate: &Candidate) -> Draw<'static> {
        let noise = Stream::new(self.spec.seed, candidate.triplet, candidate.sample, Purpose::Noise);
        Draw {
            p2p_threshold: candidate.p2p_threshold,
            cfg_scale: candidate.cfg_scale,
            noise: Box::new(move |draw, out| noise.normals(draw, out)),
        }
    }

    /// Decodes and scores one batch. The scores are those of the float images, before they are rounded to bytes.
    pub fn finish(&self, batch: &[Candidate], latents: &Tensor) -> Result<Vec<Finished>> {
        let part = |range: Range<usize>| {
            let latents = latents.narrow(0, range.start, range.len()).map_err(|e| model(e.into()))?;
            self.finish_at_once(&batch[range], &latents)
        };
        Ok(in_halves(0..batch.len(), &part)?.into_iter().flatten().collect())
    }

    fn finish_at_once(&self, batch: &[Candidate], latents: &Tensor) -> Result<Vec<Finished>> {
        let (before, after) = self.images(latents).map_err(model)?;
        let mut scores = self.clip.quartet(&before, &after, &self.scored_texts).map_err(model)?;
        for (scores, finite) in scores.iter_mut().zip(finite(latents).map_err(model)?) {
            if !finite {
                *scores = Scores { clip_sim_0: f64::NAN, clip_sim_1: f64::NAN, clip_sim_dir: f64::NAN, clip_sim_image: f64::NAN };
            }
        }
        let before = rgb8(&before)?;
        let after = rgb8(&after)?;
        let finished = batch.iter().zip(scores).zip(before.into_iter().zip(after));
        Ok(finished.map(|((candidate, scores), (a, b))| Finished { candidate: candidate.clone(), scores, pixels: [a, b] }).collect())
    }

    /// Images before and after, each [n, 3, h, w] in [0, 1].
    fn images(&self, latents: &Tensor) -> crate::models::Result<(Tensor, Tensor)> {
        let (n, _, c, h, w) = latents.dims5()?;
        let decoded = vae::to_unit(&self.diffusion.vae.decode(&latents.reshape((2 * n, c, h, w))?)?)?;
        let (_, channels, height, width) = decoded.dims4()?;
        let pairs = decoded.reshape((n, 2, channels, height, width))?;
        let half = |i| pairs.narrow(1, i, 1)?.squeeze(1)?.contiguous();
        Ok((half(0)?, half(1)?))
    }

    /// The latents of each candidate on the CPU: [2, c, h, w].
    pub fn split(&self, latents: &Tensor) -> Result<Vec<Tensor>> {
        let each = || -> candle_core::Result<Vec<Tensor>> {
            let latents = latents.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            (0..latents.dim(0)?).map(|i| latents.get(i)?.contiguous()).collect()
        };
        each().map_err(|e| model(e.into()))
    }

    /// The inverse of [`Drawer::split`].
    pub fn join(&self, latents: &[Tensor]) -> Result<Tensor> {
        let joined = Tensor::stack(latents, 0).and_then(|all| all.to_device(self.diffusion.unet.device()));
        joined.map_err(|e| model(e.into()))
    }
}

/// Does `work` for a range as a whole or, where the memory is too small for that, for its halves.
fn in_halves<T>(range: Range<usize>, work: &impl Fn(Range<usize>) -> Result<T>) -> Result<Vec<T>> {
    match work(range.clone()) {
        Err(f) if f.cause == Cause::Resource && range.len() > 1 => {
            tracing::warn!(candidates = range.len(), "does not fit the memory, trying halves: {}", f.message);
            let middle = range.start + range.len() / 2;
            let mut parts = in_halves(range.start..middle, work)?;
            parts.extend(in_halves(middle..range.end, work)?);
            Ok(parts)
        }
        whole => Ok(vec![whole?]),
    }
}

/// Which candidates have finite latents; on some devices clamping turns the rest into plain black images.
fn finite(latents: &Tensor) -> crate::models::Result<Vec<bool>> {
    let sums: Vec<f32> = latents.flatten_from(1)?.sum(1)?.to_dtype(DType::F32)?.to_vec1()?;
    Ok(sums.into_iter().map(f32::is_finite).collect())
}

/// The models see only the first tokens of a text; what a caption says behind them is lost without a trace.
fn warn_if_cut(diffusion: &Diffusion, triplet: &Triplet) -> Result<()> {
    for text in [&triplet.caption, &triplet.output] {
        let (tokens, seen) = (diffusion.text.count(text).map_err(model)?, diffusion.text.length());
        if tokens > seen {
            tracing::warn!(triplet = %triplet.id, "a caption has {tokens} tokens, the models see the first {seen}: {text}");
        }
    }
    Ok(())
}

/// Draws one candidate of a finished run again, bit for bit, as encoded images before and after.
///
/// Its whole batch is drawn, because the plan's batches decide the last bits.
pub async fn again(plan: &Plan, triplet: Triplet, sample: u32) -> Result<[Vec<u8>; 2]> {
    let spec = plan.spec.clone();
    let device = crate::device::Device::start(Models::of_plan(plan).await?).map_err(|e| failure(Cause::Resource, e.to_string()))?;
    device
        .run(move |models| {
            let drawer = Drawer::new(models, &spec, &triplet)?;
            let batch = batch(&spec, triplet.id, spec.stages.pairs.batch_of(sample));
            let finished = drawer.finish(&batch, &drawer.latents(&batch, &Control::default())?)?;
            let wanted = finished.iter().find(|finished| finished.candidate.sample == sample);
            wanted.ok_or_else(|| failure(Cause::BadInput, format!("the run draws no sample {sample}")))?.encode(spec.stages.pairs.image)
        })
        .await
}

/// Draws the first batch of a triplet that is in no corpus, as those of the run are drawn. A device that cannot do this
/// can draw nothing.
pub fn reference(models: &mut Models, spec: &Spec) -> Result<()> {
    let text = |text: &str| text.to_string();
    let triplet = Triplet::new(text("a red circle"), text("make it blue"), text("a blue circle"), None);
    let batch = batch(spec, triplet.id, 0);
    let drawer = Drawer::new(models, spec, &triplet)?;
    let finished = drawer.finish(&batch, &drawer.latents(&batch, &Control::default())?)?;
    match finished.iter().any(|finished| !finished.scores.clip_sim_dir.is_nan()) {
        true => Ok(()),
        false => Err(failure(Cause::Bug, "no image of the reference is finite")),
    }
}

fn rgb8(images: &Tensor) -> Result<Vec<Rgb8>> {
    let each = vae::each_image(images).map_err(model)?;
    each.iter().map(|image| Rgb8::from_tensor(image).map_err(model)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_done_in_halves_down_to_one() {
        let fits = |most: usize| {
            move |range: Range<usize>| match range.len() <= most {
                true => Ok((range.start, range.end)),
                false => Err(failure(Cause::Resource, "out of memory")),
            }
        };
        assert_eq!(in_halves(0..5, &fits(8)).unwrap(), [(0, 5)]);
        assert_eq!(in_halves(0..5, &fits(2)).unwrap(), [(0, 2), (2, 3), (3, 5)]);
        assert_eq!(in_halves(0..3, &fits(0)).unwrap_err().cause, Cause::Resource);
        let defect = |_: Range<usize>| -> Result<()> { Err(failure(Cause::Bug, "broken")) };
        assert_eq!(in_halves(0..4, &defect).unwrap_err().cause, Cause::Bug);
    }
}

//! `pairs`: triplet -> scored candidates, with the images of the best.
//!
//! Its record is a batch of a triplet, because a triplet can take longer than a worker lives. Unfused, it stores every
//! candidate's latents instead, and `filter` decodes and scores them.

use super::bundle::ImageBundle;
use super::patience::{Draws, draw_patiently};
use super::pool::{Encoded, Pool, all_failed, some_finite};
use super::{Env, input, role, rows};
use crate::blocking::blocking;
use crate::control::Control;
use crate::draw::{self, Drawer, Finished};
use crate::failure::{Result, domain};
use crate::loaded::Models;
use crate::run_partition::{ChunkData, ChunkPlace, Work};
use async_trait::async_trait;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{ChunkManifest, Counts};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{ScoredCandidate, Triplet};
use ip2p_pipeline::spec::Filter;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::Assignment;
use std::sync::Arc;

struct PairsWork {
    env: Env,
    triplets: Vec<Triplet>,
    /// Failed attempts at the partition before this one.
    failures: u32,
    drawn: Vec<Drawn>,
    /// Chooses the images that are stored.
    filter: Filter,
    /// The triplet whose batches are being drawn, by number, and its candidates since the last chunk.
    open: Option<(u64, Pool)>,
}

/// What was made of one candidate since the last chunk.
struct Drawn {
    scored: ScoredCandidate,
    images: Option<Encoded>,
    /// Final latents, [2, c, h, w], in the unfused form.
    latents: Option<candle_core::Tensor>,
}

pub(super) async fn open(env: &Env, assignment: Assignment, again: Option<&ChunkManifest>) -> Result<impl Work + use<>> {
    let filter = again.and_then(|chunk| chunk.stored_by.clone()).unwrap_or_else(|| env.plan.spec.stages.filter.clone());
    let prompts = input(env, Stage::Prompts, assignment.partition).await?;
    let triplets = rows(env, &prompts, role::TRIPLETS).await?;
    Ok(PairsWork { env: env.clone(), triplets, failures: assignment.failures, drawn: Vec::new(), filter, open: None })
}

/// The triplets of a partition on the device thread.
struct OnDevice<'a> {
    env: &'a Env,
    triplets: &'a [Triplet],
    control: &'a Arc<Control>,
}

/// A batch as it comes from the device.
enum Batch {
    Fused(Vec<Finished>),
    /// Candidates with their final latents.
    Unfused(Vec<Drawn>),
}

#[async_trait]
impl Draws for OnDevice<'_> {
    type Drawn = Batch;

    async fn draw(&self, record: u64) -> Result<Batch> {
        let (plan, control) = (self.env.plan.clone(), self.control.clone());
        let (triplet, number) = plan.spec.stages.pairs.record(record);
        let triplet = self.triplets[triplet as usize].clone();
        self.env.device.run(move |models| draw_batch(models, &plan, &triplet, number, &control)).await
    }

    async fn draw_reference(&self) -> Result<()> {
        let plan = self.env.plan.clone();
        self.env.device.run(move |models| draw::reference(models, &plan.spec)).await
    }

    async fn refresh(&self) -> Result<()> {
        self.env.device.refresh().await
    }

    fn device(&self) -> String {
        self.env.device.name().to_string()
    }
}

#[async_trait]
impl Work for PairsWork {
    fn records(&self) -> u64 {
        self.triplets.len() as u64 * u64::from(self.env.plan.spec.stages.pairs.batches())
    }

    /// One batch.
    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64> {
        let (triplet, number) = self.env.plan.spec.stages.pairs.record(start);
        if self.open.as_ref().is_some_and(|(open, _)| *open != triplet) {
            self.close().await?;
        }
        let verdict = {
            let draws = OnDevice { env: &self.env, triplets: &self.triplets, control };
            draw_patiently(&draws, start, self.failures).await?
        };
        let (drawn, kept) = match verdict {
            Ok(Batch::Fused(batch)) => self.add(triplet, batch),
            Ok(Batch::Unfused(batch)) => {
                let drawn = batch.len();
                self.drawn.extend(batch);
                (drawn, 0)
            }
            Err(error) => {
                // Candidates stay in the order of the plan.
                self.close().await?;
                let failed = quarantined(&self.env.plan, &self.triplets[triplet as usize], number, &error);
                let drawn = failed.len();
                self.drawn.extend(failed);
                (drawn, 0)
            }
        };
        control.made(drawn as u64, kept);
        Ok(start + 1)
    }

    fn held(&self) -> u64 {
        let images = |drawn: &Drawn| drawn.images.iter().flatten().map(Vec::len).sum::<usize>();
        let latents = |drawn: &Drawn| drawn.latents.as_ref().map_or(0, |tensor| 4 * tensor.elem_count());
        self.drawn.iter().map(|drawn| images(drawn) + latents(drawn)).sum::<usize>() as u64
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        self.close().await?;
        let extension = self.env.plan.spec.stages.pairs.image.extension();
        let stored_by = self.env.plan.spec.stages.pairs.fuse.then(|| self.filter.clone());
        let mut data = ChunkData { stored_by, ..ChunkData::default() };
        let mut bundle = ImageBundle::new(place.key("images.tar"));
        let (mut table, mut latents) = (Vec::new(), Vec::new());
        for Drawn { mut scored, images, latents: drawn } in std::mem::take(&mut self.drawn) {
            data.counts.add(&counts_of(&scored));
            let pair = scored.candidate.pair_id().to_string();
            if let Some(images) = images {
                scored.images = Some(bundle.add(&pair, extension, &images)?);
            }
            latents.extend(drawn.map(|tensor| (pair, tensor)));
            table.push(scored);
        }
        data.objects.push((role::CANDIDATES, place.key("candidates.parquet"), Table::encode(&table).map_err(domain)?));
        if let Some((key, tar)) = bundle.finish()? {
            data.objects.push((role::IMAGES, key, tar));
        }
        if !latents.is_empty() {
            data.objects.push((role::LATENTS, place.key("latents.safetensors"), super::latents::encode(latents)?));
        }
        Ok(data)
    }
}

impl PairsWork {
    /// Adds a batch of a triplet to those before it; returns how many candidates it has, and how many more pass now.
    fn add(&mut self, triplet: u64, batch: Vec<Finished>) -> (usize, u64) {
        let keep_rejected = self.env.plan.spec.stages.pairs.keep_rejected;
        let (_, pool) = self.open.get_or_insert_with(|| (triplet, Pool::new(&self.filter, keep_rejected)));
        let (drawn, before) = (batch.len(), pool.kept());
        pool.add(batch);
        (drawn, pool.kept().saturating_sub(before))
    }

    /// Encodes the images of the triplet at hand: no more of its candidates join the race.
    async fn close(&mut self) -> Result<()> {
        let Some((_, pool)) = self.open.take() else { return Ok(()) };
        let format = self.env.plan.spec.stages.pairs.image;
        let finished = blocking("that encodes images", move || pool.finish(format)).await?;
        self.drawn.extend(finished.into_iter().map(|(scored, images)| Drawn { scored, images, latents: None }));
        Ok(())
    }
}

fn quarantined(plan: &Plan, triplet: &Triplet, number: u32, error: &str) -> Vec<Drawn> {
    tracing::warn!(triplet = %triplet.id, batch = number, "quarantined: {error}");
    let failed = all_failed(draw::batch(&plan.spec, triplet.id, number).into_iter(), error);
    failed.into_iter().map(|(scored, images)| Drawn { scored, images, latents: None }).collect()
}

fn counts_of(scored: &ScoredCandidate) -> Counts {
    let quarantined = u64::from(scored.error.is_some());
    Counts { expected: 1, output: 1 - quarantined, quarantined, ..Counts::default() }
}

fn draw_batch(models: &mut Models, plan: &Plan, triplet: &Triplet, number: u32, control: &Control) -> Result<Batch> {
    let spec = &plan.spec;
    let batch = draw::batch(spec, triplet.id, number);
    let drawer = Drawer::new(models, spec, triplet)?;
    let latents = drawer.latents(&batch, control)?;
    if spec.stages.pairs.fuse {
        return Ok(Batch::Fused(some_finite(drawer.finish(&batch, &latents)?)?));
    }
    let drawn = batch.into_iter().zip(drawer.split(&latents)?).map(|(candidate, latents)| {
        let scored = ScoredCandidate { candidate, scores: None, error: None, images: None };
        Drawn { scored, images: None, latents: Some(latents) }
    });
    Ok(Batch::Unfused(drawn.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::run_partition::run_partition;
    use crate::testing;
    use ip2p_pipeline::commit;
    use ip2p_pipeline::manifest::{Attempt, PartitionManifest};
    use ip2p_pipeline::store::Store;
    use ip2p_pipeline::task::Cause;
    use std::path::Path;

    /// Copies the bundled diffusion model with a UNet whose every output is NaN, as a sick GPU's is.
    fn sick_model(folder: &Path) {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("models/tiny/diffusion");
        for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "."] {
            std::fs::create_dir_all(folder.join(part)).unwrap();
            let Ok(files) = std::fs::read_dir(tiny.join(part)) else { continue };
            for file in files.map(|file| file.unwrap().path()).filter(|path| path.is_file()) {
                std::fs::copy(&file, folder.join(part).join(file.file_name().unwrap())).unwrap();
            }
        }
        let weights = folder.join("unet/diffusion_pytorch_model.safetensors");
        let mut tensors = candle_core::safetensors::load(&weights, &candle_core::Device::Cpu).unwrap();
        let bias = tensors.get_mut("conv_out.bias").unwrap();
        *bias = bias.affine(0.0, f64::NAN).unwrap();
        candle_core::safetensors::save(&tensors, &weights).unwrap();
    }

    /// A partition with four triplets.
    async fn env(plan: Plan) -> Env {
        let store = Store::memory();
        let colours = ["blue", "green", "white", "black"];
        let triplet = |c: &&str| Triplet::new("a red circle".to_string(), format!("make it {c}"), format!("a {c} circle"), None);
        let triplets: Vec<Triplet> = colours.iter().map(triplet).collect();
        let dir = plan.dir(Stage::Prompts);
        let key = dir.data(0, 1, 0, "triplets.parquet");
        let object = commit::write_data(&store, role::TRIPLETS, key, Triplet::encode(&triplets).unwrap()).await.unwrap();
        let attempt = Attempt { epoch: 1, worker: "w".to_string() };
        let chunk = ChunkManifest {
            stage: Stage::Prompts,
            partition: 0,
            start: 0,
            end: 4,
            attempt: attempt.clone(),
            counts: Counts { expected: 4, output: 4, ..Counts::default() },
            objects: vec![object],
            seconds: 1.0,
            figures: Default::default(),
            stored_by: None,
        };
        let manifest = PartitionManifest { stage: Stage::Prompts, partition: 0, records: 4, attempt, chunks: vec![chunk] };
        commit::commit_partition(&store, &dir, &manifest).await.unwrap();
        let device = Device::start(Models::prepare(&plan.spec).await.unwrap()).unwrap();
        Env { store, plan: Arc::new(plan), device, kept: Arc::default() }
    }

    async fn attempt(env: &Env, failures: u32) -> Result<Counts> {
        let assignment = Assignment { stage: Stage::Pairs, partition: 0, epoch: 7 + u64::from(failures), failures };
        run_partition(env, assignment, "w", &Arc::new(Control::default())).await.map(|finished| finished.counts)
    }

    /// A kill loses at most the batch at hand, and so does a worker that is asked to leave.
    #[tokio::test]
    async fn a_triplet_is_committed_batch_by_batch() {
        let dir = tempfile::tempdir().unwrap();
        let plan = |samples: u32, chunk| {
            let mut plan = testing::plan(dir.path());
            (plan.spec.stages.pairs.samples, plan.spec.stages.pairs.batch, plan.spec.stages.filter.keep) = (samples, 2, 2);
            plan.spec.run.chunk = std::time::Duration::from_secs(chunk);
            plan
        };
        let candidates = async |env: &Env| {
            let manifest = input(env, Stage::Pairs, 0).await.unwrap();
            let rows = rows::<ScoredCandidate>(env, &manifest, role::CANDIDATES).await.unwrap();
            (manifest.records, manifest.chunks.len(), rows)
        };
        let env_of = async |plan: Plan| {
            let env = env(plan).await;
            attempt(&env, 0).await.unwrap();
            candidates(&env).await
        };
        let (records, chunks, fine) = env_of(plan(3, 0)).await;
        assert_eq!((records, chunks, fine.len()), (8, 8, 12));
        let (_, chunks, coarse) = env_of(plan(3, 3600)).await;
        assert_eq!(chunks, 1);
        let scores = |rows: &[ScoredCandidate]| rows.iter().map(|row| (row.candidate.clone(), row.scores)).collect::<Vec<_>>();
        assert_eq!(scores(&fine), scores(&coarse), "where it is cut changes no bit");

        let env = env(plan(3, 3600)).await;
        let control = Arc::new(Control::default());
        control.drain();
        let assignment = Assignment { stage: Stage::Pairs, partition: 0, epoch: 7, failures: 0 };
        let f = run_partition(&env, assignment, "w", &control).await.unwrap_err();
        assert_eq!(f.cause, Cause::Preempted);
        assert!(f.message.contains("step 1"), "it leaves within a step: {}", f.message);
    }

    /// The models are real, and so is their failure.
    #[tokio::test]
    async fn a_sick_device_quarantines_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = testing::plan(dir.path());
        sick_model(dir.path());
        plan.spec.models.diffusion = dir.path().display().to_string();
        let env = env(plan).await;
        let f = attempt(&env, 0).await.unwrap_err();
        assert_eq!((f.cause, f.message.as_str()), (Cause::Bug, "no image of the batch is finite"));
        let f = attempt(&env, 1).await.unwrap_err();
        assert_eq!(f.cause, Cause::Resource);
        assert!(f.message.contains("cpu") && f.message.contains("is at fault"), "{}", f.message);
        assert!(env.store.list(&env.plan.dir(Stage::Pairs).root()).await.unwrap().is_empty());
        assert_eq!(env.device.broken(), None, "its models do load");
    }

    #[tokio::test]
    async fn models_that_cannot_be_loaded_again_end_the_worker() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = testing::plan(dir.path());
        sick_model(dir.path());
        plan.spec.models.diffusion = dir.path().display().to_string();
        let env = env(plan).await;
        env.device.run(|models| models.for_pairs().map(drop)).await.unwrap();
        std::fs::remove_file(dir.path().join("unet/diffusion_pytorch_model.safetensors")).unwrap();
        let f = attempt(&env, 1).await.unwrap_err();
        assert_eq!(f.cause, Cause::Resource);
        assert!(env.device.broken().unwrap().contains("cannot be loaded again"));
    }
}

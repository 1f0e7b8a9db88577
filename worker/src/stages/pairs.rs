//! `pairs`: triplet -> scored candidates, with the images of the best.
//!
//! Unfused, it stores every candidate's latents instead, and `filter` decodes and scores them.

use super::bundle::ImageBundle;
use super::patience::{Draws, draw_patiently};
use super::pool::{Encoded, Pool, all_failed};
use super::{Env, input, role, rows};
use crate::control::Control;
use crate::draw::{self, Drawer, batches, candidates};
use crate::failure::{Result, domain};
use crate::loaded::Models;
use crate::run_partition::{ChunkData, ChunkPlace, Work};
use async_trait::async_trait;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{ScoredCandidate, Triplet};
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::Assignment;
use std::sync::Arc;

struct PairsWork {
    env: Env,
    triplets: Vec<Triplet>,
    /// Failed attempts at the partition before this one.
    failures: u32,
    drawn: Vec<Drawn>,
}

/// What was made of one candidate since the last chunk.
struct Drawn {
    scored: ScoredCandidate,
    images: Option<Encoded>,
    /// Final latents, [2, c, h, w], in the unfused form.
    latents: Option<candle_core::Tensor>,
}

pub(super) async fn open(env: &Env, assignment: Assignment) -> Result<impl Work + use<>> {
    let prompts = input(env, Stage::Prompts, assignment.partition).await?;
    let triplets = rows(env, &prompts, role::TRIPLETS).await?;
    Ok(PairsWork { env: env.clone(), triplets, failures: assignment.failures, drawn: Vec::new() })
}

/// The triplets of a partition on the device thread.
struct OnDevice<'a> {
    env: &'a Env,
    triplets: &'a [Triplet],
    control: &'a Arc<Control>,
}

#[async_trait]
impl Draws for OnDevice<'_> {
    type Drawn = Vec<Drawn>;

    async fn draw(&self, record: u64) -> Result<Vec<Drawn>> {
        let (plan, triplet, control) = (self.env.plan.clone(), self.triplets[record as usize].clone(), self.control.clone());
        self.env.device.run(move |models| draw_triplet(models, &plan, &triplet, &control)).await
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
        self.triplets.len() as u64
    }

    /// One triplet.
    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64> {
        let draws = OnDevice { env: &self.env, triplets: &self.triplets, control };
        let verdict = draw_patiently(&draws, start, self.failures).await?;
        self.drawn.extend(verdict.unwrap_or_else(|error| quarantined(&self.env.plan, &self.triplets[start as usize], &error)));
        Ok(start + 1)
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let extension = self.env.plan.spec.stages.pairs.image.extension();
        let mut data = ChunkData::default();
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

fn quarantined(plan: &Plan, triplet: &Triplet, error: &str) -> Vec<Drawn> {
    tracing::warn!(triplet = %triplet.id, "quarantined: {error}");
    let failed = all_failed(candidates(&plan.spec, triplet.id), error);
    failed.into_iter().map(|(scored, images)| Drawn { scored, images, latents: None }).collect()
}

fn counts_of(scored: &ScoredCandidate) -> Counts {
    let quarantined = u64::from(scored.error.is_some());
    Counts { expected: 1, output: 1 - quarantined, quarantined, ..Counts::default() }
}

/// Draws all candidates of a triplet, batch by batch.
fn draw_triplet(models: &mut Models, plan: &Plan, triplet: &Triplet, control: &Control) -> Result<Vec<Drawn>> {
    let spec = &plan.spec;
    let drawer = Drawer::new(models, spec, triplet)?;
    let mut pool = Pool::new(&spec.stages.filter, spec.stages.pairs.keep_rejected);
    let mut unfused = Vec::new();
    for batch in batches(spec) {
        let batch: Vec<_> = candidates(spec, triplet.id).skip(batch.start as usize).take(batch.len()).collect();
        let latents = drawer.latents(&batch, control)?;
        let before = pool.kept();
        if spec.stages.pairs.fuse {
            pool.add(drawer.finish(&batch, &latents)?);
        } else {
            unfused.extend(batch.iter().zip(drawer.split(&latents)?).map(|(candidate, latents)| {
                let scored = ScoredCandidate { candidate: candidate.clone(), scores: None, error: None, images: None };
                Drawn { scored, images: None, latents: Some(latents) }
            }));
        }
        control.made(batch.len() as u64, pool.kept().saturating_sub(before));
    }
    let fused = pool.finish(spec.stages.pairs.image)?.into_iter();
    Ok(fused.map(|(scored, images)| Drawn { scored, images, latents: None }).chain(unfused).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;
    use crate::run_partition::run_partition;
    use crate::testing;
    use ip2p_pipeline::commit;
    use ip2p_pipeline::manifest::{Attempt, ChunkManifest, PartitionManifest};
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

    /// The models are real, and so is their failure.
    #[tokio::test]
    async fn a_sick_device_quarantines_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut plan = testing::plan(dir.path());
        sick_model(dir.path());
        plan.spec.models.diffusion = dir.path().display().to_string();
        let env = env(plan).await;
        let f = attempt(&env, 0).await.unwrap_err();
        assert_eq!((f.cause, f.message.as_str()), (Cause::Bug, "no image of the triplet is finite"));
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

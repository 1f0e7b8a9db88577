//! `pairs`: triplet -> scored candidates, with the images of the best.
//!
//! Unfused, it stores every candidate's latents instead, and `filter` decodes and scores them.

use super::bundle::ImageBundle;
use super::pool::{Encoded, Pool, all_failed};
use super::{Env, Work, input, role, rows};
use crate::control::Control;
use crate::draw::{Drawer, batches, candidates};
use crate::failure::{Result, domain};
use crate::loaded::Models;
use crate::run_partition::{ChunkData, ChunkPlace};
use async_trait::async_trait;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{ScoredCandidate, Triplet};
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::Cause;
use std::sync::Arc;

struct PairsWork {
    env: Env,
    triplets: Vec<Triplet>,
    drawn: Vec<Drawn>,
}

/// What was made of one candidate since the last chunk.
struct Drawn {
    scored: ScoredCandidate,
    images: Option<Encoded>,
    /// Final latents, [2, c, h, w], in the unfused form.
    latents: Option<candle_core::Tensor>,
}

pub(super) async fn open(env: &Env, partition: u32) -> Result<impl Work + use<>> {
    let prompts = input(env, Stage::Prompts, partition).await?;
    let triplets = rows(env, &prompts, role::TRIPLETS).await?;
    Ok(PairsWork { env: env.clone(), triplets, drawn: Vec::new() })
}

#[async_trait]
impl Work for PairsWork {
    fn records(&self) -> u64 {
        self.triplets.len() as u64
    }

    /// One triplet. If it fails alone it goes to quarantine, and the partition goes on.
    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64> {
        let triplet = self.triplets[start as usize].clone();
        let (plan, job, watched) = (self.env.plan.clone(), triplet.clone(), control.clone());
        let drawn = self.env.device.run(move |models| draw_triplet(models, &plan, &job, &watched)).await;
        let mut drawn = match drawn {
            Err(f) if f.cause == Cause::Bug => {
                tracing::warn!(triplet = %triplet.id, "quarantined: {}", f.message);
                let failed = all_failed(candidates(&self.env.plan.spec, triplet.id), &f.message);
                failed.into_iter().map(|(scored, images)| Drawn { scored, images, latents: None }).collect()
            }
            drawn => drawn?,
        };
        self.drawn.append(&mut drawn);
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

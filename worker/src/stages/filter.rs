//! `filter`: scored candidates -> verdicts, and images of all that are kept.
//!
//! It works from stored scores. Images that an earlier choice of thresholds dropped are drawn again from their
//! streams, which gives the same bits.

use super::bundle::ImageBundle;
use super::patience::{Draws, draw_patiently};
use super::pool::{Encoded, Pool, some_finite};
use super::{Env, input, latents, role, rows};
use crate::control::Control;
use crate::draw::{self, Drawer};
use crate::failure::{Result, domain, failure};
use crate::loaded::Models;
use crate::run_partition::{ChunkData, ChunkPlace, Work};
use async_trait::async_trait;
use candle_core::Tensor;
use ip2p_pipeline::commit;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, DataObject, PartitionManifest};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{IndexRow, ScoredCandidate, Triplet, Verdict};
use ip2p_pipeline::selection;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::{Assignment, Cause};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

struct FilterWork {
    env: Env,
    triplets: Vec<Triplet>,
    /// All candidates, `samples` per triplet, in the triplets' order.
    candidates: Vec<ScoredCandidate>,
    pairs: PartitionManifest,
    /// Failed attempts at the partition before this one.
    failures: u32,
    /// The latents of the chunk that was read last: its triplets come one after the other.
    latents: tokio::sync::Mutex<Option<(String, Latents)>>,
    judged: Vec<Judged>,
}

/// Final latents by pair id.
type Latents = Arc<HashMap<String, Tensor>>;

/// A row of the selection, with images that are not in the store yet.
struct Judged {
    row: IndexRow,
    images: Option<Encoded>,
}

pub(super) async fn open(env: &Env, assignment: Assignment) -> Result<impl Work + use<>> {
    let Assignment { partition, failures, .. } = assignment;
    let prompts = input(env, Stage::Prompts, partition).await?;
    let triplets: Vec<Triplet> = rows(env, &prompts, role::TRIPLETS).await?;
    let pairs = input(env, Stage::Pairs, partition).await?;
    let candidates: Vec<ScoredCandidate> = rows(env, &pairs, role::CANDIDATES).await?;
    let expected = triplets.len() * env.plan.spec.stages.pairs.samples as usize;
    if candidates.len() != expected {
        let found = candidates.len();
        let message = format!("pairs partition {partition} has {found} candidates, its triplets need {expected}. Run `audit`");
        return Err(failure(Cause::BadInput, message));
    }
    Ok(FilterWork { env: env.clone(), triplets, candidates, pairs, failures, latents: Default::default(), judged: Vec::new() })
}

#[async_trait]
impl Work for FilterWork {
    fn records(&self) -> u64 {
        self.triplets.len() as u64
    }

    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64> {
        let verdict = draw_patiently(&Judging { work: self, control }, start, self.failures).await?;
        let judged = verdict.unwrap_or_else(|error| self.quarantined(start, &error));
        let kept = judged.iter().filter(|j| j.row.verdict == Verdict::Kept).count();
        control.made(judged.len() as u64, kept as u64);
        self.judged.extend(judged);
        Ok(start + 1)
    }

    fn held(&self) -> u64 {
        self.judged.iter().filter_map(|judged| judged.images.as_ref()).flatten().map(Vec::len).sum::<usize>() as u64
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let extension = self.env.plan.spec.stages.pairs.image.extension();
        let mut data = ChunkData::default();
        let mut bundle = ImageBundle::new(place.key("images.tar"));
        let mut table = Vec::new();
        let mut redrawn = 0;
        for Judged { mut row, images } in std::mem::take(&mut self.judged) {
            count(&mut data.counts, &row.verdict);
            if let Some(images) = images {
                row.images = Some(bundle.add(&row.pair.to_string(), extension, &images)?);
                redrawn += 1;
            }
            table.push(row);
        }
        data.figures.insert("images_drawn".to_string(), f64::from(redrawn));
        data.objects.push((role::SELECTION, place.key("selection.parquet"), Table::encode(&table).map_err(domain)?));
        if let Some((key, tar)) = bundle.finish()? {
            data.objects.push((role::IMAGES, key, tar));
        }
        Ok(data)
    }
}

fn count(counts: &mut Counts, verdict: &Verdict) {
    counts.expected += 1;
    match verdict {
        Verdict::Kept => counts.output += 1,
        Verdict::Rejected(reason) => counts.reject(reason.name()),
        Verdict::Quarantined(_) => counts.quarantined += 1,
    }
}

/// The triplets of a partition on the device thread.
struct Judging<'a> {
    work: &'a FilterWork,
    control: &'a Arc<Control>,
}

#[async_trait]
impl Draws for Judging<'_> {
    type Drawn = Vec<Judged>;

    async fn draw(&self, record: u64) -> Result<Vec<Judged>> {
        let work = self.work;
        let (triplet, scored) = (work.triplets[record as usize].clone(), work.scored(record).to_vec());
        if work.env.plan.spec.stages.pairs.fuse {
            work.judge_scores(triplet, scored, self.control).await
        } else {
            work.judge_latents(record, triplet, scored, self.control).await
        }
    }

    async fn draw_reference(&self) -> Result<()> {
        let plan = self.work.env.plan.clone();
        self.work.env.device.run(move |models| draw::reference(models, &plan.spec)).await
    }

    async fn refresh(&self) -> Result<()> {
        self.work.env.device.refresh().await
    }

    fn device(&self) -> String {
        self.work.env.device.name().to_string()
    }
}

impl FilterWork {
    /// The candidates of a triplet.
    fn scored(&self, record: u64) -> &[ScoredCandidate] {
        let samples = self.env.plan.spec.stages.pairs.samples as usize;
        &self.candidates[record as usize * samples..][..samples]
    }

    /// The verdicts of a triplet whose images cannot be made.
    fn quarantined(&self, record: u64, error: &str) -> Vec<Judged> {
        let triplet = &self.triplets[record as usize];
        tracing::warn!(triplet = %triplet.id, "quarantined: {error}");
        let verdict = |scored: &ScoredCandidate| Verdict::Quarantined(scored.error.clone().unwrap_or_else(|| error.to_string()));
        let judged = |scored: &ScoredCandidate| Judged { row: index_row(triplet, scored.clone(), verdict(scored)), images: None };
        self.scored(record).iter().map(judged).collect()
    }

    /// The usual way: judge the stored scores, and draw only what is kept and lacks its images.
    async fn judge_scores(&self, triplet: Triplet, scored: Vec<ScoredCandidate>, control: &Arc<Control>) -> Result<Vec<Judged>> {
        let verdicts = selection::judge(&scored, &self.env.plan.spec.stages.filter);
        let lacks =
            |(c, verdict): (&ScoredCandidate, &Verdict)| (*verdict == Verdict::Kept && c.images.is_none()).then_some(c.candidate.sample);
        let lacking: BTreeSet<u32> = scored.iter().zip(&verdicts).filter_map(lacks).collect();
        let mut drawn = HashMap::new();
        if !lacking.is_empty() {
            let (plan, job, control) = (self.env.plan.clone(), triplet.clone(), control.clone());
            drawn = self.env.device.run(move |models| redraw(models, &plan, &job, &lacking, &control)).await?;
        }
        let judged = scored.into_iter().zip(verdicts).map(|(scored, verdict)| {
            let images = drawn.remove(&scored.candidate.sample);
            Judged { row: index_row(&triplet, scored, verdict), images }
        });
        Ok(judged.collect())
    }

    /// The unfused way: decode and score the stored latents first.
    async fn judge_latents(
        &self,
        record: u64,
        triplet: Triplet,
        scored: Vec<ScoredCandidate>,
        control: &Arc<Control>,
    ) -> Result<Vec<Judged>> {
        if scored.iter().any(|candidate| candidate.error.is_some()) {
            return self.judge_scores(triplet, scored, control).await;
        }
        let stored = self.latents_of(record, &scored).await?;
        let (plan, job) = (self.env.plan.clone(), triplet.clone());
        let finished = self.env.device.run(move |models| finish_stored(models, &plan, &job, &stored)).await?;
        let (scored, images): (Vec<_>, Vec<_>) = finished.into_iter().unzip();
        let verdicts = selection::judge(&scored, &self.env.plan.spec.stages.filter);
        let rows = scored.into_iter().zip(verdicts).map(|(scored, verdict)| index_row(&triplet, scored, verdict));
        Ok(rows.zip(images).map(|(row, images)| Judged { row, images }).collect())
    }

    /// The latents of a triplet's candidates, in order, from the chunks that hold its batches.
    async fn latents_of(&self, triplet: u64, scored: &[ScoredCandidate]) -> Result<Vec<Tensor>> {
        let batches = self.env.plan.spec.stages.pairs.records_of(triplet);
        let chunks = self.pairs.chunks.iter().filter(|chunk| chunk.start < batches.end && batches.start < chunk.end);
        let mut found = HashMap::new();
        for object in chunks.flat_map(|chunk| &chunk.objects).filter(|object| object.role == role::LATENTS) {
            let all = self.read_latents(object).await?;
            let wanted = scored.iter().map(|c| c.candidate.pair_id().to_string());
            found.extend(wanted.filter_map(|pair| all.get(&pair).cloned().map(|latents| (pair, latents))));
        }
        let of_pair = |c: &ScoredCandidate| {
            let pair = c.candidate.pair_id().to_string();
            let missing = || failure(Cause::BadInput, format!("pair {pair} of the pairs stage has no stored latents. Run `audit`"));
            found.remove(&pair).ok_or_else(missing)
        };
        scored.iter().map(of_pair).collect()
    }

    async fn read_latents(&self, object: &DataObject) -> Result<Latents> {
        let mut last = self.latents.lock().await;
        if let Some((key, latents)) = &*last
            && *key == object.key
        {
            return Ok(latents.clone());
        }
        let bytes = commit::read_data(&self.env.store, object).await.map_err(domain)?;
        let latents = Arc::new(latents::decode(&self.env.store.url_of(&object.key), &bytes)?);
        *last = Some((object.key.clone(), latents.clone()));
        Ok(latents)
    }
}

fn index_row(triplet: &Triplet, scored: ScoredCandidate, verdict: Verdict) -> IndexRow {
    IndexRow {
        pair: scored.candidate.pair_id(),
        caption: triplet.caption.clone(),
        edit: triplet.edit.clone(),
        output: triplet.output.clone(),
        url: triplet.url.clone(),
        candidate: scored.candidate,
        scores: scored.scores,
        verdict,
        images: scored.images,
    }
}

/// Draws the batches that hold `samples` again, whole, because the plan's batches decide the last bits.
fn redraw(
    models: &mut Models,
    plan: &Plan,
    triplet: &Triplet,
    samples: &BTreeSet<u32>,
    control: &Control,
) -> Result<HashMap<u32, Encoded>> {
    let spec = &plan.spec;
    let drawer = Drawer::new(models, spec, triplet)?;
    let batches: BTreeSet<u32> = samples.iter().map(|&sample| spec.stages.pairs.batch_of(sample)).collect();
    let mut drawn = HashMap::new();
    for number in batches {
        let batch = draw::batch(spec, triplet.id, number);
        let latents = drawer.latents(&batch, control)?;
        for finished in drawer.finish(&batch, &latents)? {
            if samples.contains(&finished.candidate.sample) {
                drawn.insert(finished.candidate.sample, finished.encode(spec.stages.pairs.image)?);
            }
        }
    }
    Ok(drawn)
}

/// Decodes and scores stored latents in the plan's batches.
fn finish_stored(
    models: &mut Models,
    plan: &Plan,
    triplet: &Triplet,
    stored: &[Tensor],
) -> Result<Vec<(ScoredCandidate, Option<Encoded>)>> {
    let spec = &plan.spec;
    let drawer = Drawer::new(models, spec, triplet)?;
    let mut pool = Pool::new(&spec.stages.filter, spec.stages.pairs.keep_rejected);
    for number in 0..spec.stages.pairs.batches() {
        let samples = spec.stages.pairs.samples_of(number);
        let latents = drawer.join(&stored[samples.start as usize..samples.end as usize])?;
        pool.add(some_finite(drawer.finish(&draw::batch(spec, triplet.id, number), &latents)?)?);
    }
    pool.finish(spec.stages.pairs.image)
}

//! What a run would do: pure arithmetic on the plan, and what the store already holds.

use crate::{pin, prepare};
use ip2p_pipeline::Result;
use ip2p_pipeline::commit;
use ip2p_pipeline::corpus::{self, CorpusReport};
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_pipeline::spec::{ImageFormat, PromptBackend, Spec};
use ip2p_pipeline::store::Store;
use std::fmt;

/// UNet samples per pair and step: two images, each with and without the text.
const UNET_SAMPLES: u64 = 4;

/// What `plan` prints.
#[derive(Clone, Debug)]
pub struct Forecast {
    pub run: String,
    pub corpus: CorpusReport,
    pub partitioning: Partitioning,
    pub work: Work,
    /// Committed and all partitions of each stage; unknown sizes are `None`.
    pub done: Vec<(Stage, u32, Option<u32>)>,
}

/// Upper bounds: every completion gives a triplet, every triplet keeps `keep` pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    pub captions: u64,
    pub completions: u64,
    pub candidates: u64,
    pub unet_samples: u64,
    pub kept: u64,
    pub image_bytes: u64,
}

impl Work {
    pub fn of(spec: &Spec, captions: u64) -> Self {
        let pairs = &spec.stages.pairs;
        let per_caption = match spec.stages.prompts.backend {
            PromptBackend::File => 1,
            PromptBackend::Local | PromptBackend::OpenAi(_) => u64::from(spec.stages.prompts.per_caption),
        };
        let completions = captions.saturating_mul(per_caption);
        let candidates = completions.saturating_mul(u64::from(pairs.samples));
        let kept = completions.saturating_mul(u64::from(spec.stages.filter.keep));
        let stored = if pairs.keep_rejected { candidates } else { kept };
        Work {
            captions,
            completions,
            candidates,
            unet_samples: candidates.saturating_mul(u64::from(pairs.steps)).saturating_mul(UNET_SAMPLES),
            kept,
            image_bytes: stored.saturating_mul(2).saturating_mul(image_bytes(pairs.image, pairs.resolution)),
        }
    }
}

/// Bytes of one image of photographic content.
///
/// JPEG at quality 100: 0.83 bytes a pixel, from the 436 GB of the original's published 512x512 set of about
/// one million pairs; lossless formats: 1.5 bytes a pixel, half of the raw size.
fn image_bytes(format: ImageFormat, resolution: u32) -> u64 {
    let per_pixel = match format {
        ImageFormat::Jpeg { .. } => 0.83,
        ImageFormat::Png | ImageFormat::Webp => 1.5,
    };
    (f64::from(resolution).powi(2) * per_pixel) as u64
}

/// Reads the corpus (or its frozen copy) and the store; writes nothing.
pub async fn forecast(spec: Spec) -> Result<Forecast> {
    let store = Store::look(&spec.store, &spec.store_options)?.child(&spec.name);
    let corpus_dir = prepare::corpus_dir(&spec).await?;
    let frozen = corpus::load(&store, &corpus_dir).await?;
    let (report, fingerprint) = match frozen {
        Some(manifest) => (manifest.report, Some(manifest.fingerprint)),
        None => (corpus::scan(&spec.corpus, prepare::takes_triplets(&spec)).await?, None),
    };
    let mut partitioning = Partitioning { records: report.usable, partition_records: spec.partition.records };
    let work = Work::of(&spec, report.usable);
    let run = store.url().to_string();
    let mut done = Stage::RUN.map(|stage| (stage, 0, None)).to_vec();
    if let Some(fingerprint) = fingerprint {
        let (_, models) = pin::pin(&spec.models).await?;
        let prompts = Plan::prompts_dir(&spec, fingerprint, &models);
        let frozen = commit::read(&store, &layout::partitioning(&prompts)).await?;
        partitioning = frozen.unwrap_or(partitioning);
        let plan = Plan::new(spec, corpus_dir, fingerprint, models, partitioning);
        for (stage, committed, _) in &mut done {
            *committed = match stage {
                Stage::Shards => prepare::committed(&store, plan.dir(*stage)).await?.len() as u32,
                _ => count_committed(&store, plan.dir(*stage)).await?,
            };
        }
    }
    let partitions = partitioning.partitions()?;
    for (stage, _, of) in &mut done {
        *of = match stage {
            Stage::Prompts | Stage::Pairs | Stage::Filter | Stage::Corpus => Some(partitions),
            Stage::Index => Some(1),
            Stage::Shards => None,
        };
    }
    Ok(Forecast { run, corpus: report, partitioning, work, done })
}

async fn count_committed(store: &Store, dir: StageDir) -> Result<u32> {
    let keys = store.list(&dir.manifests()).await?;
    Ok(keys.iter().filter(|(key, _)| StageDir::partition_of(key).is_some()).count() as u32)
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let w = &self.work;
        writeln!(f, "run           {}", self.run)?;
        writeln!(f, "corpus        {} usable captions in {} rows of {} files", w.captions, self.corpus.rows, self.corpus.files.len())?;
        for (reason, skipped) in &self.corpus.skipped {
            writeln!(f, "  skipped     {:>12}  {reason} (first: {}, row {})", skipped.rows, skipped.first.file, skipped.first.row)?;
        }
        let records = self.partitioning.partition_records;
        writeln!(f, "partitions    {:>12}  of {records} captions", self.partitioning.records.div_ceil(u64::from(records.max(1))))?;
        writeln!(f, "completions   {:>12}  at most, retries not counted", w.completions)?;
        writeln!(f, "candidates    {:>12}  at most", w.candidates)?;
        writeln!(f, "UNet samples  {:>12}  at most (4 a step and candidate)", w.unet_samples)?;
        writeln!(f, "kept pairs    {:>12}  at most", w.kept)?;
        writeln!(f, "image bytes   {:>12}  at most, about", human_bytes(w.image_bytes))?;
        writeln!(f, "already done")?;
        for (stage, committed, of) in &self.done {
            let of = of.map_or("as many as the index asks for".to_string(), |n| format!("of {n} partitions"));
            writeln!(f, "  {:<11} {committed:>12}  {of}", stage.name())?;
        }
        Ok(())
    }
}

/// 1000-based, three digits.
pub fn human_bytes(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        let cases =
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_600, "1.0 MB"), (436_000_000_000, "436.0 GB"), (u64::MAX, "18446.7 PB")];
        for (bytes, text) in cases {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}

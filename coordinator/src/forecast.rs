//! What a run would do: pure arithmetic on the plan, and what the store already holds.

use crate::summary::Summary;
use crate::text::printable;
use crate::{pin, prepare};
use ip2p_pipeline::Result;
use ip2p_pipeline::commit;
use ip2p_pipeline::corpus::{self, CorpusReport, FileReport};
use ip2p_pipeline::formats::card::Funnel;
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_pipeline::spec::{ImageFormat, PromptBackend, Spec};
use ip2p_pipeline::store::Store;
use std::fmt;

/// UNet samples per pair and step: two images, each with and without the text.
const UNET_SAMPLES: u64 = 4;

/// Files of the corpus named when they differ in format or columns; further ones are counted.
const SHOWN: usize = 5;

/// What `plan` prints.
#[derive(Clone, Debug)]
pub struct Forecast {
    pub run: String,
    pub corpus: CorpusReport,
    pub partitioning: Partitioning,
    pub work: Work,
    /// What became of it, once everything is done.
    pub outcome: Option<Outcome>,
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
    /// Of the images that the run keeps for itself.
    pub stored_bytes: u64,
    /// Of the images in the dataset: a full copy of the kept ones in each format.
    pub dataset_bytes: u64,
    /// How many formats that are.
    pub formats: u64,
}

/// What a finished run made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub funnel: Funnel,
    pub unet_samples: u64,
    /// Files of the dataset, and their bytes.
    pub files: u64,
    pub dataset_bytes: u64,
}

impl Outcome {
    /// Of the last complete run, if it had this plan and all that it made is still `done`.
    async fn of(store: &Store, plan: &Plan, done: &[(Stage, u32, Option<u32>)]) -> Result<Option<Self>> {
        let summary: Option<Summary> = commit::read(store, layout::SUMMARY).await?;
        let Some(summary) = summary.filter(|summary| summary.complete && summary.plan == plan.fingerprint()) else { return Ok(None) };
        let whole = |(stage, committed, _): &(Stage, u32, Option<u32>)| {
            summary.stage(*stage).is_some_and(|figures| figures.partitions == Some(*committed))
        };
        if !done.iter().all(whole) {
            return Ok(None);
        }
        let funnel = summary.funnel();
        let files = store.list(&plan.dir(Stage::Shards).dataset_root()).await?;
        Ok(Some(Outcome {
            unet_samples: unet_samples(funnel.pairs.expected, &plan.spec),
            funnel,
            files: files.len() as u64,
            dataset_bytes: files.iter().map(|(_, bytes)| bytes).sum(),
        }))
    }
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
        let bytes = |pairs_of_images: u64| pairs_of_images.saturating_mul(2).saturating_mul(image_bytes(pairs.image, pairs.resolution));
        let formats = spec.stages.shards.formats.len() as u64;
        Work {
            captions,
            completions,
            candidates,
            unet_samples: unet_samples(candidates, spec),
            kept,
            stored_bytes: bytes(stored),
            dataset_bytes: bytes(kept).saturating_mul(formats),
            formats,
        }
    }
}

fn unet_samples(candidates: u64, spec: &Spec) -> u64 {
    candidates.saturating_mul(u64::from(spec.stages.pairs.steps)).saturating_mul(UNET_SAMPLES)
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
    let mut outcome = None;
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
        outcome = Outcome::of(&store, &plan, &done).await?;
    }
    let partitions = partitioning.partitions()?;
    for (stage, committed, of) in &mut done {
        *of = match stage {
            Stage::Prompts | Stage::Pairs | Stage::Filter | Stage::Corpus => Some(partitions),
            Stage::Index => Some(1),
            Stage::Shards => outcome.as_ref().map(|_| *committed),
        };
    }
    Ok(Forecast { run, corpus: report, partitioning, work, outcome, done })
}

async fn count_committed(store: &Store, dir: StageDir) -> Result<u32> {
    let keys = store.list(&dir.manifests()).await?;
    Ok(keys.iter().filter(|(key, _)| StageDir::partition_of(key).is_some()).count() as u32)
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "run           {}", self.run)?;
        writeln!(
            f,
            "corpus        {} usable captions in {} rows of {} files",
            self.work.captions,
            self.corpus.rows,
            self.corpus.files.len()
        )?;
        for line in columns(&self.corpus.files) {
            writeln!(f, "  read as     {}", printable(&line))?;
        }
        for (reason, skipped) in &self.corpus.skipped {
            let file = printable(&skipped.first.file);
            writeln!(f, "  skipped     {:>12}  {reason} (first: {file}, row {})", skipped.rows, skipped.first.row)?;
        }
        let records = self.partitioning.partition_records;
        writeln!(f, "partitions    {:>12}  of {records} captions", self.partitioning.records.div_ceil(u64::from(records.max(1))))?;
        match &self.outcome {
            Some(outcome) => write!(f, "{outcome}")?,
            None => write!(f, "{}", self.work)?,
        }
        writeln!(f, "already done")?;
        for (stage, committed, of) in &self.done {
            let of = of.map_or("as many as the index asks for".to_string(), |n| format!("of {n} partitions"));
            writeln!(f, "  {:<11} {committed:>12}  {of}", stage.name())?;
        }
        Ok(())
    }
}

/// What the files were taken for: format and columns, and how many files are the same.
fn columns(files: &[FileReport]) -> Vec<String> {
    let mut kinds: Vec<(String, u64)> = Vec::new();
    for file in files {
        let column = |what: &str, name: &Option<String>| name.as_ref().map_or(format!("no {what}"), |name| format!("{what} in `{name}`"));
        let kind = match file.caption_column {
            // A file without rows shows no columns.
            None => format!("{}, no rows", file.format.name()),
            _ => format!("{}, {}, {}", file.format.name(), column("caption", &file.caption_column), column("url", &file.url_column)),
        };
        match kinds.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, n)) => *n += 1,
            None => kinds.push((kind, 1)),
        }
    }
    let more: u64 = kinds.iter().skip(SHOWN).map(|(_, n)| n).sum();
    let said = kinds.iter().take(SHOWN).map(|(kind, n)| format!("{kind} ({n} {})", if *n == 1 { "file" } else { "files" }));
    said.chain((more > 0).then(|| format!("otherwise ({more} files)"))).collect()
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "completions   {:>12}  at most, retries not counted", self.completions)?;
        writeln!(f, "candidates    {:>12}  at most", self.candidates)?;
        writeln!(f, "UNet samples  {:>12}  at most (4 a step and candidate)", self.unet_samples)?;
        writeln!(f, "kept pairs    {:>12}  at most", self.kept)?;
        let Work { stored_bytes, dataset_bytes, formats, .. } = self;
        let [all, stored, dataset] = [stored_bytes.saturating_add(*dataset_bytes), *stored_bytes, *dataset_bytes].map(human_bytes);
        writeln!(
            f,
            "image bytes   {all:>12}  at most, about: {stored} of the run itself, and {dataset} of the dataset, a full copy in each of its \
             formats ({formats})"
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Funnel { prompts, pairs, .. } = &self.funnel;
        writeln!(f, "completions   {:>12}  gave {} triplets, retries not counted", prompts.expected, prompts.output)?;
        writeln!(f, "candidates    {:>12}", pairs.expected)?;
        writeln!(f, "UNet samples  {:>12}  (4 a step and candidate)", self.unet_samples)?;
        writeln!(f, "kept pairs    {:>12}", pairs.output)?;
        writeln!(f, "dataset bytes {:>12}  in {} files", human_bytes(self.dataset_bytes), self.files)
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
    use crate::figures;
    use crate::fixture::{self, CANDIDATES, Fixture, KEPT};
    use ip2p_pipeline::corpus::Format;
    use std::time::Duration;

    fn file(format: Format, caption: Option<&str>, url: Option<&str>) -> FileReport {
        let [caption_column, url_column] = [caption, url].map(|name| name.map(str::to_string));
        FileReport { name: "x".to_string(), format, rows: 1, usable: 1, caption_column, url_column }
    }

    #[test]
    fn files_are_said_by_what_they_were_taken_for() {
        let mut files = vec![file(Format::Tsv, Some("2"), Some("1")); 3];
        files.push(file(Format::Jsonl, Some("TEXT"), None));
        files.push(file(Format::Jsonl, None, None));
        let said = ["TSV, caption in `2`, url in `1` (3 files)", "JSONL, caption in `TEXT`, no url (1 file)", "JSONL, no rows (1 file)"];
        assert_eq!(columns(&files), said);
        let many: Vec<FileReport> = (0..8).map(|i| file(Format::Csv, Some(&format!("c{i}")), None)).collect();
        assert_eq!(columns(&many).last().unwrap(), "otherwise (3 files)");
    }

    #[test]
    fn every_format_is_a_copy_of_the_kept_images() {
        let mut spec = fixture::spec();
        let image = (64.0 * 64.0 * 1.5) as u64;
        // 10 captions, of 3 samples 2 are kept, 3 formats.
        let work = Work::of(&spec, 10);
        assert_eq!((work.stored_bytes, work.dataset_bytes), (20 * 2 * image, 3 * 20 * 2 * image));
        let said =
            "983.0 kB  at most, about: 245.8 kB of the run itself, and 737.3 kB of the dataset, a full copy in each of its formats (3)";
        assert!(work.to_string().contains(said), "{work}");
        spec.stages.pairs.keep_rejected = true;
        spec.stages.shards.formats.truncate(1);
        let work = Work::of(&spec, 10);
        assert_eq!((work.stored_bytes, work.dataset_bytes), (30 * 2 * image, 20 * 2 * image));
    }

    #[tokio::test]
    async fn a_finished_run_is_said_as_it_is() {
        let Fixture { store, plan } = Fixture::finished().await;
        let stages = figures::of_store(&store, &plan).await.unwrap();
        let corpus = corpus::load(&store, &plan.corpus_dir).await.unwrap().unwrap();
        let summary = Summary::new(&plan, &corpus, stages, true, Duration::from_secs(1), &store);
        let done: Vec<_> = summary.stages.iter().map(|stage| (stage.stage, stage.committed, None)).collect();
        assert_eq!(Outcome::of(&store, &plan, &done).await.unwrap(), None);
        store.put(layout::SUMMARY, commit::encode(&summary).unwrap()).await.unwrap();
        let outcome = Outcome::of(&store, &plan, &done).await.unwrap().unwrap();
        assert_eq!((outcome.funnel.pairs.output, outcome.unet_samples), (KEPT, CANDIDATES * 4 * 4));
        let text = outcome.to_string();
        for (label, value, rest) in [("completions", 5, "  gave 4 triplets"), ("kept pairs", KEPT, "\n")] {
            let line = format!("{label:<14}{value:>12}{rest}");
            assert!(text.contains(&line), "`{line}` is not in {text}");
        }
        assert!(!text.contains("at most"), "{text}");
        let mut less = done.clone();
        less[4].1 -= 1;
        assert_eq!(Outcome::of(&store, &plan, &less).await.unwrap(), None, "a shard is missing");
    }

    #[test]
    fn bytes_are_readable() {
        let cases =
            [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (999_600, "1.0 MB"), (436_000_000_000, "436.0 GB"), (u64::MAX, "18446.7 PB")];
        for (bytes, text) in cases {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}

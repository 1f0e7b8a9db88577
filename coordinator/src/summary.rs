//! The summary at the end of a run: what became of the captions, where the time went, and how to load the result.

use crate::figures::{self, StageFigures};
use crate::nothing;
use crate::place::Place;
use crate::quarantine::{self, QuarantineError};
use crate::scheduler::Scheduler;
use crate::text::{count, duration, printable, share};
use ip2p_pipeline::Result;
use ip2p_pipeline::corpus::{CorpusManifest, Skipped};
use ip2p_pipeline::formats::card::Funnel;
use ip2p_pipeline::formats::original::loader;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::manifest::{Counts, DataObject};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::shard_plan::{SplitCount, SplitName};
use ip2p_pipeline::spec::{ImageFormat, ShardFormat, Split};
use ip2p_pipeline::store::Store;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Figures of a run; `summary.json` holds those of the last complete one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub run: String,
    pub plan: Fingerprint,
    pub complete: bool,
    /// Rows of the corpus files.
    pub rows: u64,
    /// Usable captions among them.
    pub captions: u64,
    /// Rows that were left out, by reason.
    #[serde(default)]
    pub skipped: BTreeMap<String, Skipped>,
    pub stages: Vec<StageFigures>,
    /// Triplets and pairs of each split; zeros before the index is done.
    pub splits: Vec<SplitCount>,
    pub formats: Vec<ShardFormat>,
    /// Shares that the splits were cut by.
    #[serde(default = "default_shares")]
    pub shares: Split,
    /// Format of the images.
    #[serde(default = "default_image")]
    pub image: ImageFormat,
    /// URL of the folder of the training shards.
    pub dataset: String,
    /// URL of the report.
    pub report: String,
    /// Seconds from the start to the end of this coordinator, earlier ones not counted.
    pub wall_seconds: f64,
    /// Why records are in quarantine.
    #[serde(default)]
    pub quarantine: Vec<QuarantineError>,
    /// Why a complete run has no pair, and what would change that.
    #[serde(default)]
    pub nothing_kept: Option<String>,
    /// The dataset's card and figures and the report, as they were written beside this summary; empty before.
    #[serde(default)]
    pub files: Vec<DataObject>,
}

impl Summary {
    /// Sums up a run that has just ended, after `wall`.
    pub fn of(plan: &Plan, corpus: &CorpusManifest, scheduler: &Scheduler, complete: bool, wall: Duration, store: &Store) -> Self {
        Self::new(plan, corpus, figures::of_scheduler(scheduler), complete, wall, store)
    }

    pub(crate) fn new(
        plan: &Plan,
        corpus: &CorpusManifest,
        stages: Vec<StageFigures>,
        complete: bool,
        wall: Duration,
        store: &Store,
    ) -> Self {
        let index = stages.iter().find(|stage| stage.stage == Stage::Index);
        let figure = |split: SplitName, what: &str| index.map_or(0, |index| index.figure(&format!("{}_{what}", split.name())));
        let splits = SplitName::ALL.map(|split| SplitCount { split, triplets: figure(split, "triplets"), pairs: figure(split, "pairs") });
        Summary {
            run: plan.spec.name.clone(),
            plan: plan.fingerprint(),
            complete,
            rows: corpus.report.rows,
            captions: corpus.records,
            skipped: corpus.report.skipped.clone(),
            splits: splits.to_vec(),
            formats: plan.spec.stages.shards.formats.clone(),
            shares: plan.spec.stages.shards.split,
            image: plan.spec.stages.pairs.image,
            dataset: store.url_of(&plan.dir(Stage::Shards).dataset_root()),
            report: store.url_of(layout::REPORT),
            wall_seconds: wall.as_secs_f64(),
            stages,
            quarantine: Vec::new(),
            nothing_kept: None,
            files: Vec::new(),
        }
    }

    /// Reads from the store why records are in quarantine and, of a complete run, why there is no pair.
    pub async fn add_reasons(&mut self, store: &Store, plan: &Plan) -> Result<()> {
        self.quarantine = quarantine::errors(store, plan, &self.stages).await?;
        if self.complete {
            self.nothing_kept = nothing::explain(store, plan, &self.stages).await?;
        }
        Ok(())
    }

    /// Figures of one stage.
    pub fn stage(&self, stage: Stage) -> Option<&StageFigures> {
        self.stages.iter().find(|figures| figures.stage == stage)
    }

    fn counts(&self, stage: Stage) -> Counts {
        self.stage(stage).map(|figures| figures.counts.clone()).unwrap_or_default()
    }

    /// Captions -> triplets -> candidates -> kept pairs. What could not be drawn counts once, in `filter`.
    pub fn funnel(&self) -> Funnel {
        Funnel { captions: self.captions, prompts: self.counts(Stage::Prompts), pairs: self.counts(Stage::Filter) }
    }

    /// How each format is loaded; nothing when there is nothing to load.
    pub fn loading(&self) -> Vec<Loading> {
        if self.nothing_kept.is_some() {
            return Vec::new();
        }
        let root = Place::of(&self.dataset).to_string();
        let loading = |format: &ShardFormat| match format {
            ShardFormat::Parquet => {
                Loading::line(*format, format!("datasets.load_dataset(\"parquet\", data_dir={})", python(&format!("{root}/data"))))
            }
            ShardFormat::Webdataset => Loading::line(
                *format,
                format!("datasets.load_dataset(\"webdataset\", data_dir={}, streaming=True)", python(&format!("{root}/webdataset"))),
            ),
            ShardFormat::Original => self.loading_original(&format!("{root}/original")),
        };
        self.formats.iter().map(loading).collect()
    }

    /// By the original's own loader, as far as that can read it.
    fn loading_original(&self, place: &str) -> Loading {
        let format = ShardFormat::Original;
        if let Some(why) = loader::obstacle(self.image) {
            return Loading { format, line: None, remark: Some(why) };
        }
        let split = self.splits.iter().find(|count| count.pairs > 0).map_or(SplitName::Train, |count| count.split);
        let arguments = loader::arguments(&self.shares, split);
        let line = format!("edit_dataset.EditDataset({}, {arguments})", python(place));
        Loading { format, line: Some(line), remark: loader::remark(&self.shares) }
    }
}

/// How one format of the dataset is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loading {
    pub format: ShardFormat,
    /// One line of Python; `None` when no reader can be named that takes the files as they are.
    pub line: Option<String>,
    /// What has to be known besides.
    pub remark: Option<String>,
}

impl Loading {
    fn line(format: ShardFormat, line: String) -> Self {
        Loading { format, line: Some(line), remark: None }
    }
}

// What summaries of earlier versions stand for, which did not say it.
fn default_shares() -> Split {
    loader::DEFAULT_SPLITS
}

fn default_image() -> ImageFormat {
    ImageFormat::Jpeg { quality: 100 }
}

/// A string literal of Python; JSON's are valid there.
fn python(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Reasons with their numbers, the most frequent first, e.g. `text_similarity 12, not_among_best 3`.
pub(crate) fn reasons(counts: &Counts) -> Vec<(String, u64)> {
    let mut reasons: Vec<(String, u64)> = counts.rejected.iter().map(|(reason, n)| (reason.clone(), *n)).collect();
    if counts.quarantined > 0 {
        reasons.push(("quarantined".to_string(), counts.quarantined));
    }
    reasons.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    reasons
}

fn turned_away(counts: &Counts) -> String {
    let reasons: Vec<String> = reasons(counts).iter().map(|(reason, n)| format!("{reason} {}", count(*n))).collect();
    if reasons.is_empty() { String::new() } else { format!("  turned away: {}", reasons.join(", ")) }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.complete { "complete" } else { "not complete" };
        writeln!(f, "run        {}: {state}, {}", printable(&self.run), duration(self.wall_seconds))?;
        let Funnel { captions, prompts, pairs } = self.funnel();
        writeln!(f, "captions   {:>10}  of {} rows", count(captions), count(self.rows))?;
        for (reason, Skipped { rows, first }) in &self.skipped {
            writeln!(f, "  left out {:>10}  {reason} (first: {}, row {})", count(*rows), printable(&first.file), first.row)?;
        }
        writeln!(f, "triplets   {:>10}{}", count(prompts.output), turned_away(&prompts))?;
        writeln!(f, "candidates {:>10}", count(pairs.expected))?;
        writeln!(
            f,
            "kept pairs {:>10}  {} of the candidates{}",
            count(pairs.output),
            share(pairs.output, pairs.expected),
            turned_away(&pairs)
        )?;
        let splits: Vec<String> = self.splits.iter().map(|s| format!("{} {}", s.split.name(), count(s.pairs))).collect();
        writeln!(f, "splits     {}", splits.join(", "))?;
        let times: Vec<String> = self.stages.iter().map(|s| format!("{} {}", s.stage, duration(s.seconds))).collect();
        writeln!(f, "work       {}", times.join(", "))?;
        let wasted = self.stages.iter().map(|s| (s.stage, s.figure(figures::WASTED_FIGURE))).filter(|(_, units)| *units > 0);
        for (stage, units) in wasted {
            writeln!(f, "wasted     {} units of {stage}, by attempts that another one outran", count(units))?;
        }
        for error in &self.quarantine {
            writeln!(f, "quarantine {error}")?;
        }
        if !self.complete {
            return writeln!(f, "           partitions that are not whole yet are not counted here; what they committed is kept");
        }
        writeln!(f, "shards     {}", printable(&Place::of(&self.dataset).to_string()))?;
        if let Some(why) = &self.nothing_kept {
            writeln!(f, "no pairs   {why}")?;
        }
        for Loading { format, line, remark } in self.loading() {
            if let Some(line) = line {
                writeln!(f, "load       {}", printable(&line))?;
            }
            if let Some(remark) = remark {
                writeln!(f, "{:<10} {remark}", format.name())?;
            }
        }
        writeln!(f, "report     {}", printable(&Place::of(&self.report).to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{CANDIDATES, Fixture, KEPT};
    use ip2p_pipeline::corpus;

    async fn summary(fixture: &Fixture) -> Summary {
        let stages = figures::of_store(&fixture.store, &fixture.plan).await.unwrap();
        let corpus = corpus::load(&fixture.store, &fixture.plan.corpus_dir).await.unwrap().unwrap();
        let mut summary = Summary::new(&fixture.plan, &corpus, stages, true, Duration::from_secs(75), &fixture.store);
        summary.add_reasons(&fixture.store, &fixture.plan).await.unwrap();
        summary
    }

    #[tokio::test]
    async fn the_funnel_adds_up_and_survives_json() {
        let fixture = Fixture::finished().await;
        let summary = summary(&fixture).await;
        let Funnel { captions, prompts, pairs } = summary.funnel();
        assert_eq!((captions, prompts.output, pairs.expected, pairs.output), (5, 4, CANDIDATES, KEPT));
        assert!(prompts.balanced() && pairs.balanced());
        assert_eq!(summary.splits.iter().map(|split| split.pairs).sum::<u64>(), KEPT);
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }

    #[tokio::test]
    async fn the_text_says_what_where_and_how() {
        let summary = summary(&Fixture::finished().await).await;
        let text = summary.to_string();
        let parts = [
            "run        small: complete, 1 m 15 s\n",
            "triplets            4  turned away: no_delimiter 1\n",
            "kept pairs          4  33% of the candidates  turned away: direction_similarity 4, image_similarity 3, quarantined 1\n",
            "splits     train 2, validation 1, test 1\n",
            "quarantine pairs: 1 x the image is not finite (for example ",
            "load       datasets.load_dataset(\"parquet\", data_dir=\"memory:/shards/",
        ];
        parts.iter().for_each(|part| assert!(text.contains(part), "{part}: {text}"));
        let why = Some("0 of 12 candidates kept: 8 fail clip_direction 0.2".to_string());
        let empty = Summary { nothing_kept: why, ..summary.clone() }.to_string();
        assert!(empty.contains("no pairs   0 of 12 candidates kept: 8 fail") && !empty.contains("load "), "{empty}");
        let mut raced = summary.clone();
        raced.stages[1].figures.insert(figures::WASTED_FIGURE.to_string(), 12.0);
        assert!(raced.to_string().contains("wasted     12 units of pairs"), "{raced}");
        let left_out = "captions            5  of 6 rows\n  left out          1  caption_empty (first: captions.jsonl, row 4)\n";
        assert!(text.contains(left_out), "{text}");
        let unfinished = Summary { complete: false, ..summary }.to_string();
        assert!(unfinished.contains("not complete") && !unfinished.contains("load"), "{unfinished}");
    }

    #[tokio::test]
    async fn the_original_loader_gets_a_line_that_works_or_none() {
        let summary = summary(&Fixture::finished().await).await;
        let png = summary.to_string();
        assert!(
            !png.contains("EditDataset(") && png.contains("\noriginal   the original's loader (edit_dataset.EditDataset) reads JPEG only"),
            "{png}"
        );
        let jpeg = Summary { image: ImageFormat::Jpeg { quality: 100 }, ..summary };
        assert!(jpeg.to_string().contains("/original\", split=\"train\", splits=(0.5, 0.25, 0.25))\n"), "{jpeg}");
        let usual = Summary { shares: loader::DEFAULT_SPLITS, ..jpeg.clone() }.to_string();
        assert!(usual.contains("/original\", split=\"train\")\n"), "{usual}");
        let inexact = Summary { shares: Split { train: 0.7, val: 0.2, test: 0.1 }, ..jpeg.clone() }.to_string();
        assert!(
            inexact.contains("splits=(0.7, 0.2, 0.10000000000000009))\noriginal   the shares 0.7, 0.2 and 0.1 add up to 0.9"),
            "{inexact}"
        );
        let mut untrained = Summary { shares: Split { train: 0.0, val: 0.5, test: 0.5 }, ..jpeg };
        untrained.splits[0].pairs = 0;
        assert!(untrained.to_string().contains("split=\"val\", splits=(0.0, 0.5, 0.5))"), "{untrained}");
    }

    #[test]
    fn paths_are_quoted_for_python() {
        assert_eq!(python(r#"a"b\c"#), r#""a\"b\\c""#);
    }
}

//! Measures the bundled tiny models with the oracle of their world, and prints the table of their model card.

use anyhow::{Context, anyhow, ensure};
use clap::Parser;
use ip2p_pipeline::completion::Rejection;
use ip2p_pipeline::records::{Candidate, CorpusRecord, ScoredCandidate, Triplet, Verdict};
use ip2p_pipeline::selection;
use ip2p_pipeline::spec::Spec;
use ip2p_pipeline::task::Failure;
use ip2p_tests::oracle::{Drawn, Quality, World};
use ip2p_worker::control::Control;
use ip2p_worker::device::Device;
use ip2p_worker::draw::{self, Drawer, Finished};
use ip2p_worker::loaded::Models;
use ip2p_worker::prompts::{CaptionOutcome, Generator, LocalBackend};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Measure the tiny models: captions, edits, pictures and the filter, as the pipeline makes them.
///
/// Run it in the repository's root. The same arguments give the same table on the same kind of device.
#[derive(Parser)]
#[command(
    after_help = "Example:\n  cargo run --release -p ip2p-tests --bin tiny-quality -- --captions 40 --set seed=1 --set stages.pairs.samples=4"
)]
struct Args {
    /// Seed, models, corpus, steps, guidance and thresholds are this pipeline's.
    #[arg(default_value = "configs/quickstart.yaml")]
    pipeline: PathBuf,
    /// Change a key of the pipeline.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Use the first so many captions of the corpus.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..))]
    captions: u32,
    /// The world that the models were trained on.
    #[arg(long, default_value = "models/tiny/world.json")]
    world: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let mut spec = Spec::load(&args.pipeline, &args.set).map_err(|problems| anyhow!("{problems}"))?;
    // One try at each caption's one completion, so that a failure is counted before another try hides it.
    (spec.stages.prompts.per_caption, spec.stages.prompts.attempts) = (1, 1);
    let records = records(Path::new(&spec.corpus.path), args.captions as usize)?;
    let mut bench = Bench {
        world: World::load(&args.world)?,
        device: Device::start(Models::prepare(&spec).await.map_err(failed)?)?,
        spec: Arc::new(spec),
        quality: Quality::default(),
    };
    let triplets = bench.language(&records).await?;
    for (i, triplet) in triplets.iter().enumerate() {
        eprintln!("{} of {}: {}: {}", i + 1, triplets.len(), triplet.caption, triplet.edit);
        bench.candidates(triplet).await?;
        if Quality::keeps_scene(&bench.world, triplet) {
            bench.overlaps(triplet).await?;
        }
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n\n{}", bench.conditions(records.len()), bench.quality)?;
    Ok(())
}

/// The first captions of a file with one `{"caption": ...}` a line.
fn records(path: &Path, count: usize) -> anyhow::Result<Vec<CorpusRecord>> {
    #[derive(serde::Deserialize)]
    struct Row {
        caption: String,
    }
    let file = std::fs::File::open(path).with_context(|| format!("{}: the captions", path.display()))?;
    let mut records = Vec::new();
    for (i, line) in BufReader::new(file).lines().take(count).enumerate() {
        let read = || Ok::<Row, anyhow::Error>(serde_json::from_str(&line?)?);
        let row = read().with_context(|| format!("{}, line {}: expected {{\"caption\": \"...\"}}", path.display(), i + 1))?;
        records.push(CorpusRecord { caption: row.caption, url: None, edit: None });
    }
    ensure!(!records.is_empty(), "{}: it holds no captions", path.display());
    Ok(records)
}

struct Bench {
    world: World,
    device: Device,
    spec: Arc<Spec>,
    quality: Quality,
}

impl Bench {
    /// Has the language model edit every caption; the triplets that pass the pipeline's rules.
    async fn language(&mut self, records: &[CorpusRecord]) -> anyhow::Result<Vec<Triplet>> {
        let prompts = self.spec.stages.prompts.clone();
        let backend = LocalBackend::new(self.device.clone(), &prompts);
        let generator = Generator::new(prompts, self.spec.seed, Arc::new(backend));
        let mut triplets = Vec::new();
        for record in records {
            let outcome = generator.outcome(record).await?;
            if let Some(problem) = &outcome.quarantined {
                return Err(anyhow!("`{}`: {problem}", record.caption));
            }
            let parsed = parses(&outcome);
            self.quality.parsed.count(parsed);
            let right = |t: &Triplet| self.world.edit_kind(&t.caption, &t.edit, &t.output).is_some();
            if parsed {
                self.quality.edits.count(outcome.triplets.iter().any(right));
            }
            triplets.extend(outcome.triplets);
        }
        Ok(triplets)
    }

    /// Draws, scores and filters the candidates of a triplet as the pipeline does.
    async fn candidates(&mut self, triplet: &Triplet) -> anyhow::Result<()> {
        let finished = self.draw(triplet, None).await?;
        let scored = |f: &Finished| ScoredCandidate { candidate: f.candidate.clone(), scores: Some(f.scores), error: None, images: None };
        let scored: Vec<ScoredCandidate> = finished.iter().map(scored).collect();
        let verdicts = selection::judge(&scored, &self.spec.stages.filter);
        for (finished, verdict) in finished.iter().zip(verdicts) {
            let drawn = read(&self.world, finished, verdict == Verdict::Kept)?;
            self.quality.candidate(&self.world, triplet, &drawn);
        }
        Ok(())
    }

    /// Draws the same candidates, from the same noise, with more and with less sharing.
    async fn overlaps(&mut self, triplet: &Triplet) -> anyhow::Result<()> {
        for (setting, p2p) in Quality::SHARING.into_iter().enumerate() {
            for finished in self.draw(triplet, Some(p2p)).await? {
                self.quality.overlap(setting, &read(&self.world, &finished, false)?);
            }
        }
        Ok(())
    }

    async fn draw(&self, triplet: &Triplet, p2p: Option<f64>) -> anyhow::Result<Vec<Finished>> {
        let (spec, triplet) = (self.spec.clone(), triplet.clone());
        self.device.run(move |models| draw(models, &spec, &triplet, p2p)).await.map_err(failed)
    }

    /// What the figures depend on.
    fn conditions(&self, captions: usize) -> String {
        let Spec { seed, corpus, stages, .. } = &*self.spec;
        let (pairs, filter) = (&stages.pairs, &stages.filter);
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        format!(
            "Measured by `cargo run --release -p ip2p-tests --bin tiny-quality -- {}`: {captions} captions of {}, seed {seed}, \
             temperature {}, {} candidates each, {} steps, guidance {} to {}, p2p {} to {}; kept at text {}, direction {}, image {}, \
             the best {}.",
            arguments.join(" "),
            corpus.path,
            stages.prompts.temperature,
            pairs.samples,
            pairs.steps,
            pairs.guidance.min,
            pairs.guidance.max,
            pairs.p2p.min,
            pairs.p2p.max,
            filter.clip_text,
            filter.clip_direction,
            filter.clip_image,
            filter.keep,
        )
    }
}

/// Whether a caption's one completion could be read, whatever it says.
fn parses(outcome: &CaptionOutcome) -> bool {
    let unreadable = [Rejection::NoCompletion.name(), Rejection::Unparsable.name()];
    outcome.rejected.iter().all(|rejected| !unreadable.contains(&rejected.reason.as_str()))
}

/// The candidates of a triplet in the plan's batches, all at the threshold `p2p` where it is given.
fn draw(models: &mut Models, spec: &Spec, triplet: &Triplet, p2p: Option<f64>) -> Result<Vec<Finished>, Failure> {
    let drawer = Drawer::new(models, spec, triplet)?;
    let at = |candidate: Candidate| Candidate { p2p_threshold: p2p.unwrap_or(candidate.p2p_threshold), ..candidate };
    let all: Vec<Candidate> = draw::candidates(spec, triplet.id).map(at).collect();
    let mut finished = Vec::new();
    for number in 0..spec.stages.pairs.batches() {
        let range = spec.stages.pairs.samples_of(number);
        let batch = &all[range.start as usize..range.end as usize];
        finished.extend(drawer.finish(batch, &drawer.latents(batch, &Control::default())?)?);
    }
    Ok(finished)
}

fn read<'w>(world: &'w World, finished: &Finished, kept: bool) -> anyhow::Result<Drawn<'w>> {
    let [before, after] = &finished.pixels;
    Ok(Drawn { before: world.read(before)?, after: world.read(after)?, kept })
}

fn failed(failure: Failure) -> anyhow::Error {
    anyhow!(failure.message)
}

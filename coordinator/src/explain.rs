//! `explain`: where a pair comes from, and how to draw it again.

use crate::prepare;
use crate::text::{command, count, printable};
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::manifest::{ChunkManifest, PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{IndexRow, RejectReason, ScoredCandidate, Triplet, Verdict};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::{Error, Result, commit};
use serde::Serialize;
use std::fmt;
use std::ops::Range;

/// Tables read at the same time while searching.
const PARALLEL: usize = 8;
/// Matches listed when a prefix fits several pairs.
const MATCHES: usize = 8;

/// All that is known of one candidate.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub run: String,
    pub row: IndexRow,
    /// What its verdict means in numbers.
    pub verdict: String,
    /// Who made it, stage by stage.
    pub made: Vec<Made>,
    pub lineage: Lineage,
    /// Draws the pair again, bit for bit.
    pub command: String,
}

/// How the user asked for an explanation.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The program as it was called, so that the command works where it is printed.
    pub program: &'a str,
    /// The pipeline file, or the URL of the run.
    pub run: &'a str,
    /// The `--set` arguments: without them the pipeline file may name another run.
    pub overrides: &'a [String],
}

impl Asked<'_> {
    /// The command that draws a pair again into a folder named after it.
    fn drawing(&self, pair: &str) -> String {
        let folder = format!("pair-{pair}");
        let overrides = self.overrides.iter().flat_map(|text| ["--set", text]);
        let words = [self.program, "explain", self.run, pair].into_iter().chain(overrides).chain(["--draw", &folder]);
        command(words)
    }
}

/// The chunk of a stage that the pair went through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Made {
    pub stage: Stage,
    pub partition: u32,
    /// Input records of the chunk.
    pub records: Range<u64>,
    pub epoch: u64,
    pub worker: String,
    /// Version of the coordinator that granted the attempt.
    pub version: Option<String>,
}

/// What, besides the pair's own seed, decides its bytes.
#[derive(Clone, Debug, Serialize)]
pub struct Lineage {
    pub plan: Fingerprint,
    pub dataset: Fingerprint,
    pub corpus: Fingerprint,
    pub run_seed: u64,
    /// Name, reference and fingerprint of each model.
    pub models: Vec<(String, String, Fingerprint)>,
}

/// Finds the one pair whose id begins with `wanted`, or whose seed it is, among all candidates of the run.
///
/// `asked` is how the user asked: it becomes the command that draws the pair again. Fails with [`Error::Invalid`] when
/// no pair or more than one fits.
pub async fn explain(store: &Store, plan: &Plan, wanted: &str, asked: &Asked<'_>) -> Result<Explanation> {
    let wanted = wanted.to_ascii_lowercase();
    if wanted.is_empty() || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::invalid(format!("`{wanted}` is neither the beginning of a pair id (hex digits) nor a seed")));
    }
    let mut found = search(store, plan, &wanted).await?;
    let Some(first) = found.pop() else {
        return Err(Error::invalid(format!(
            "no pair of this run has an id that begins with `{wanted}`, or this seed. See the index for all ids"
        )));
    };
    if !found.is_empty() {
        let ids: Vec<String> = found.iter().chain([&first]).take(MATCHES).map(|found| found.row.pair.to_string()).collect();
        return Err(Error::invalid(format!(
            "`{wanted}` fits {} pairs: give more digits. Some of them: {}",
            found.len() + 1,
            ids.join(", ")
        )));
    }
    tell(store, plan, first, asked).await
}

/// The same for the pair in row `number` of a committed partition of `filter`, without a search.
pub(crate) async fn row(store: &Store, plan: &Plan, partition: u32, number: usize, asked: &Asked<'_>) -> Result<Explanation> {
    let manifest: Option<PartitionManifest> = commit::read(store, &plan.dir(Stage::Filter).manifest(partition)).await?;
    let found = match manifest {
        Some(manifest) => matches_in(store, manifest, |_| true).await?.into_iter().nth(number),
        None => None,
    };
    let found = found.ok_or_else(|| Error::invalid(format!("partition {partition} of filter has no row {number}")))?;
    tell(store, plan, found, asked).await
}

async fn tell(store: &Store, plan: &Plan, found: Found, asked: &Asked<'_>) -> Result<Explanation> {
    let Found { row, partition, chunk } = found;
    let mut made = origins(store, plan, partition, &row).await?;
    made.push(Made::of(&chunk, None));
    for made in &mut made {
        made.version = version(store, made.epoch).await?;
    }
    let verdict = verdict(plan, &row);
    let command = asked.drawing(&row.pair.short());
    Ok(Explanation { run: store.url().to_string(), row, verdict, made, lineage: lineage(plan), command })
}

struct Found {
    row: IndexRow,
    partition: u32,
    chunk: ChunkManifest,
}

/// Every row that fits. It reads the filter's tables and not the index, so that a run at work can be asked too.
async fn search(store: &Store, plan: &Plan, wanted: &str) -> Result<Vec<Found>> {
    let manifests = prepare::manifests(store, plan.dir(Stage::Filter)).await?;
    let seed: Option<u64> = wanted.parse().ok();
    let fits = |row: &IndexRow| row.pair.to_string().starts_with(wanted) || Some(row.candidate.seed) == seed;
    let read = |manifest| async move { matches_in(store, manifest, fits).await };
    futures::stream::iter(manifests).map(read).buffered(PARALLEL).try_concat().await
}

async fn matches_in(store: &Store, manifest: PartitionManifest, fits: impl Fn(&IndexRow) -> bool) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for chunk in &manifest.chunks {
        let rows: Vec<IndexRow> = rows(store, chunk, role::SELECTION).await?;
        let rows = rows.into_iter().filter(&fits);
        found.extend(rows.map(|row| Found { row, partition: manifest.partition, chunk: chunk.clone() }));
    }
    Ok(found)
}

async fn rows<T: Table>(store: &Store, chunk: &ChunkManifest, role: &str) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for object in chunk.objects.iter().filter(|object| object.role == role) {
        let bytes = commit::read_data(store, object).await?;
        all.append(&mut T::decode(&store.url_of(&object.key), bytes)?);
    }
    Ok(all)
}

/// The chunks of `prompts` and `pairs` that made the triplet and the candidate.
async fn origins(store: &Store, plan: &Plan, partition: u32, row: &IndexRow) -> Result<Vec<Made>> {
    let triplet = row.candidate.triplet;
    let mut made = Vec::new();
    for chunk in chunks(store, plan, Stage::Prompts, partition).await? {
        let rows: Vec<Triplet> = rows(store, &chunk, role::TRIPLETS).await?;
        if rows.iter().any(|row| row.id == triplet) {
            made.push(Made::of(&chunk, None));
        }
    }
    for chunk in chunks(store, plan, Stage::Pairs, partition).await? {
        let rows: Vec<ScoredCandidate> = rows(store, &chunk, role::CANDIDATES).await?;
        if rows.iter().any(|found| found.candidate.triplet == triplet) {
            made.push(Made::of(&chunk, None));
        }
    }
    Ok(made)
}

async fn chunks(store: &Store, plan: &Plan, stage: Stage, partition: u32) -> Result<Vec<ChunkManifest>> {
    let manifest: Option<PartitionManifest> = commit::read(store, &plan.dir(stage).manifest(partition)).await?;
    Ok(manifest.map(|manifest| manifest.chunks).unwrap_or_default())
}

impl Made {
    fn of(chunk: &ChunkManifest, version: Option<String>) -> Self {
        let ChunkManifest { stage, partition, start, end, attempt, .. } = chunk;
        Made { stage: *stage, partition: *partition, records: *start..*end, epoch: attempt.epoch, worker: attempt.worker.clone(), version }
    }
}

/// The version that the coordinator of an epoch's term wrote down.
async fn version(store: &Store, epoch: u64) -> Result<Option<String>> {
    let term: Option<serde_json::Value> = commit::read(store, &layout::term((epoch >> 32) as u32)).await?;
    Ok(term.and_then(|term| Some(term.get("version")?.as_str()?.to_string())))
}

fn lineage(plan: &Plan) -> Lineage {
    let (references, prints) = (&plan.spec.models, &plan.models);
    let model = |name: &str, reference: Option<&String>, print: Option<Fingerprint>| Some((name.to_string(), reference?.clone(), print?));
    let models = [
        model("diffusion", Some(&references.diffusion), Some(prints.diffusion)),
        model("vae", references.vae.as_ref(), prints.vae),
        model("clip", Some(&references.clip), Some(prints.clip)),
        model("llm", references.llm.as_ref(), prints.llm),
    ];
    Lineage {
        plan: plan.fingerprint(),
        dataset: plan.lineage,
        corpus: plan.corpus,
        run_seed: plan.spec.seed,
        models: models.into_iter().flatten().collect(),
    }
}

/// The verdict with the numbers that led to it.
pub(crate) fn verdict(plan: &Plan, row: &IndexRow) -> String {
    let filter = &plan.spec.stages.filter;
    match (&row.verdict, row.scores) {
        (Verdict::Kept, _) => format!("kept: every score reaches its threshold, and it is among the best {} of its triplet", filter.keep),
        (Verdict::Quarantined(error), _) => format!("quarantined: {error}"),
        (Verdict::Rejected(reason), None) => format!("rejected: {}", reason.name()),
        (Verdict::Rejected(reason), Some(s)) => match reason {
            RejectReason::TextSimilarity => {
                let (name, score) =
                    if s.clip_sim_0 < filter.clip_text { ("clip_sim_0", s.clip_sim_0) } else { ("clip_sim_1", s.clip_sim_1) };
                format!("rejected: {name} {score:.4} is below clip_text {}", filter.clip_text)
            }
            RejectReason::DirectionSimilarity => {
                format!("rejected: clip_sim_dir {:.4} is below clip_direction {}", s.clip_sim_dir, filter.clip_direction)
            }
            RejectReason::ImageSimilarity => {
                format!("rejected: clip_sim_image {:.4} is below clip_image {}", s.clip_sim_image, filter.clip_image)
            }
            RejectReason::NotAmongBest => {
                format!("rejected: it passed, but {} others of its triplet have a higher clip_sim_dir", filter.keep)
            }
        },
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: &str| writeln!(f, "{name:<11}{}", printable(value));
        let IndexRow { pair, caption, edit, output, url, candidate, scores, images, .. } = &self.row;
        line("pair", &pair.to_string())?;
        line("triplet", &candidate.triplet.to_string())?;
        line("caption", caption)?;
        line("edit", edit)?;
        line("output", output)?;
        if let Some(url) = url {
            line("url", url)?;
        }
        let draw = format!(
            "sample {}, seed {}, p2p {:.6}, guidance {:.6}",
            candidate.sample, candidate.seed, candidate.p2p_threshold, candidate.cfg_scale
        );
        line("draw", &draw)?;
        if let Some(s) = scores {
            let (text, direction, image) = ((s.clip_sim_0, s.clip_sim_1), s.clip_sim_dir, s.clip_sim_image);
            line("scores", &format!("text {:.4} and {:.4}, direction {direction:.4}, image {image:.4}", text.0, text.1))?;
        }
        line("verdict", &self.verdict)?;
        match images {
            Some(images) => {
                for (name, image) in ["before", "after"].iter().zip(images) {
                    let end = image.offset + image.length;
                    line(name, &format!("{}/{} bytes {}..{end}", self.run.trim_end_matches('/'), image.object, image.offset))?;
                }
            }
            None => line("images", "not stored")?,
        }
        for made in &self.made {
            let records = format!("records {}..{}", count(made.records.start), count(made.records.end));
            let version = made.version.as_ref().map(|version| format!(", version {version}")).unwrap_or_default();
            let by = format!("partition {}, {records}, epoch {:#x}, worker {}{version}", made.partition, made.epoch, made.worker);
            line(made.stage.name(), &by)?;
        }
        for (name, reference, fingerprint) in &self.lineage.models {
            line(name, &format!("{reference} ({fingerprint})"))?;
        }
        let Lineage { plan, dataset, corpus, run_seed, .. } = &self.lineage;
        line("lineage", &format!("dataset {dataset}, plan {}, corpus {}, run seed {run_seed}", plan.short(), corpus.short()))?;
        line("draw again", &self.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use ip2p_pipeline::ids::PairId;

    const X: Asked = Asked { program: "ip2p-coordinator", run: "x", overrides: &[] };

    async fn rows_of(fixture: &Fixture, partition: u32) -> Vec<IndexRow> {
        let manifest = fixture.manifest(Stage::Filter, partition).await;
        rows(&fixture.store, &manifest.chunks[0], role::SELECTION).await.unwrap()
    }

    #[tokio::test]
    async fn a_kept_pair_tells_its_whole_way() {
        let fixture = Fixture::finished().await;
        let row = rows_of(&fixture, 1).await.remove(3);
        let wanted = row.pair.to_string()[..10].to_uppercase();
        let overrides = ["stages.filter.keep=2".to_string(), "corpus.path=my *.csv".to_string()];
        let asked = Asked { program: "target/release/ip2p-coordinator", run: "my pipeline.yaml", overrides: &overrides };
        let found = explain(&fixture.store, &fixture.plan, &wanted, &asked).await.unwrap();
        assert_eq!(found.row, row);
        let way: Vec<_> = found.made.iter().map(|made| (made.stage, made.partition, made.records.clone())).collect();
        assert_eq!(way, [(Stage::Prompts, 1, 0..2), (Stage::Pairs, 1, 1..2), (Stage::Filter, 1, 0..2)]);
        assert!(found.made.iter().all(|made| made.version.as_deref() == Some("0.1.0")));
        let text = found.to_string();
        for part in
            ["verdict    kept", "make it <blue>", "before     memory:/pairs/", "worker local-0.0", "llm        l (", "version 0.1.0"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let id = row.pair.short();
        let command = format!(
            "target/release/ip2p-coordinator explain 'my pipeline.yaml' {id} --set stages.filter.keep=2 --set 'corpus.path=my *.csv' \
             --draw pair-{id}\n"
        );
        assert!(text.ends_with(&command), "{text}");
    }

    #[tokio::test]
    async fn a_seed_and_a_rejected_pair_are_found_with_the_failed_threshold() {
        let fixture = Fixture::finished().await;
        let all = rows_of(&fixture, 1).await;
        let by_seed = explain(&fixture.store, &fixture.plan, &all[1].candidate.seed.to_string(), &X).await.unwrap();
        assert_eq!(by_seed.row.pair, all[1].pair);
        assert_eq!(by_seed.verdict, "rejected: clip_sim_dir 0.1000 is below clip_direction 0.2");
        let image = explain(&fixture.store, &fixture.plan, &all[2].pair.to_string(), &X).await.unwrap();
        assert_eq!(image.verdict, "rejected: clip_sim_image 0.5000 is below clip_image 0.7");
        let failed = explain(&fixture.store, &fixture.plan, &all[5].pair.to_string(), &X).await.unwrap();
        assert_eq!(failed.verdict, "quarantined: the image is not finite");
        assert!(failed.to_string().contains("images     not stored"));
    }

    #[tokio::test]
    async fn unknown_ambiguous_and_malformed_ids_are_refused() {
        let fixture = Fixture::finished().await;
        let message = |wanted: String| {
            let fixture = &fixture;
            async move { explain(&fixture.store, &fixture.plan, &wanted, &X).await.unwrap_err().to_string() }
        };
        let nobody = PairId::of(ip2p_pipeline::ids::TripletId::of("", "", ""), 0);
        assert!(message(nobody.to_string()).await.contains("no pair of this run"));
        assert!(message("../x".to_string()).await.contains("hex digits"));
        let mut ids: Vec<String> = Vec::new();
        for partition in 0..2 {
            ids.extend(rows_of(&fixture, partition).await.iter().map(|row| row.pair.to_string()));
        }
        let shared = ids.iter().find(|id| ids.iter().filter(|other| other[..1] == id[..1]).count() > 1).unwrap();
        assert!(message(shared[..1].to_string()).await.contains("give more digits"));
    }
}

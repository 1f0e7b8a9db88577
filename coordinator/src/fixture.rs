//! A small finished run in a memory store, for the tests of everything that reads runs.
//!
//! Five captions in two partitions; caption 1 gives no triplet. Of three samples per triplet the first is kept, the
//! second fails in direction, the third in image similarity, but the very last candidate is quarantined.

use crate::summary::Summary;
use crate::{figures, finish};
use bytes::Bytes;
use ip2p_pipeline::corpus::{self, CorpusManifest, CorpusReport, Position, Skipped};
use ip2p_pipeline::formats::{Sample, ShardWriter};
use ip2p_pipeline::ids::CaptionId;
use ip2p_pipeline::layout::{self, Stage};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, Counts, DataObject, PartitionManifest};
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_pipeline::records::{
    Candidate, CorpusRecord, ImageRef, IndexRow, RejectReason, RejectedCompletion, ScoredCandidate, Scores, Triplet, Verdict,
};
use ip2p_pipeline::spec::{ColumnProfile, ShardFormat, Spec};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::{commit, ids, layout::StageDir};
use serde_json::json;
use std::time::Duration;

/// Pairs that the run kept.
pub(crate) const KEPT: u64 = 4;
/// All candidates.
pub(crate) const CANDIDATES: u64 = 12;

pub(crate) struct Fixture {
    pub store: Store,
    pub plan: Plan,
}

pub(crate) fn spec() -> Spec {
    let spec = json!({
        "name": "small", "seed": 42, "store": "memory:///",
        "corpus": { "path": "captions.jsonl", "caption_column": null, "url_column": null, "limit": null },
        "partition": { "records": 3 },
        "models": { "diffusion": "d", "vae": null, "clip": "c", "llm": "l" },
        "stages": {
            "prompts": { "backend": { "kind": "local" }, "per_caption": 1, "temperature": 0.7, "top_p": 1.0, "max_tokens": 64,
                         "frequency_penalty": 0.1, "attempts": 3 },
            "pairs": { "samples": 3, "steps": 4, "sampler": "euler_ancestral", "p2p": { "min": 0.1, "max": 0.9 },
                       "guidance": { "min": 7.5, "max": 15.0 }, "resolution": 64, "batch": 4, "dtype": "f32", "fuse": true,
                       "keep_rejected": false, "image": { "kind": "png" } },
            "filter": { "clip_text": 0.2, "clip_direction": 0.2, "clip_image": 0.7, "keep": 2 },
            "index": {},
            "shards": { "formats": ["webdataset", "parquet", "original"], "split": { "train": 0.5, "val": 0.25, "test": 0.25 },
                        "shard_bytes": 1000000, "columns": "timbrooks" }
        },
        "run": { "launcher": "local", "workers": 1, "threads": null, "device": "auto",
                 "retry": { "attempts": 4, "backoff_min": 1.0, "backoff_max": 60.0 }, "max_quarantined": 0.5, "min_kept": 0.0, "lease": 30.0,
                 "chunk": 60.0, "listen": "127.0.0.1:0" }
    });
    serde_json::from_value(spec).unwrap()
}

impl Fixture {
    /// A finished run; the files of its original layout bear no seeds of its pairs.
    pub async fn finished() -> Self {
        Self::with_seeds(|_| 77).await
    }

    async fn with_seeds(seed: fn(&IndexRow) -> u64) -> Self {
        let store = Store::memory();
        let plan = freeze(&store, spec()).await;
        let fixture = Fixture { store, plan };
        let mut rows = Vec::new();
        for partition in 0..2 {
            rows.extend(fixture.partition(partition).await);
        }
        fixture.dataset(&rows, seed).await;
        fixture
    }

    /// A finished run with its card, report and summary.
    pub async fn closed() -> Self {
        let fixture = Self::with_seeds(|row| row.candidate.seed).await;
        let Fixture { store, plan } = &fixture;
        let stages = figures::of_store(store, plan).await.unwrap();
        let corpus = corpus::load(store, &plan.corpus_dir).await.unwrap().unwrap();
        let mut summary = Summary::new(plan, &corpus, stages, true, Duration::from_secs(1), store);
        finish::close(store, plan, &mut summary).await.unwrap();
        fixture
    }

    /// Writes data objects; the manifest of one chunk of all records.
    pub async fn chunk(
        &self,
        stage: Stage,
        partition: u32,
        range: (u64, u64),
        counts: Counts,
        data: Vec<(&str, String, Bytes)>,
    ) -> ChunkManifest {
        let mut objects = Vec::new();
        for (role, key, bytes) in data {
            objects.push(commit::write_data(&self.store, role, key, bytes).await.unwrap());
        }
        let attempt = Attempt { epoch: 1 << 32 | 7, worker: "local-0.0".to_string() };
        let (start, end) = range;
        let figures = Default::default();
        ChunkManifest { stage, partition, start, end, attempt, counts, objects, seconds: 2.5, figures, stored_by: None }
    }

    pub async fn commit(&self, records: u64, chunks: Vec<ChunkManifest>) {
        let first = &chunks[0];
        let dir = self.plan.dir(first.stage);
        for chunk in &chunks {
            commit::commit_chunk(&self.store, &dir, chunk).await.unwrap();
        }
        let (stage, partition, attempt) = (first.stage, first.partition, first.attempt.clone());
        commit::commit_partition(&self.store, &dir, &PartitionManifest { stage, partition, records, attempt, chunks }).await.unwrap();
    }

    pub fn key(&self, stage: Stage, partition: u32, start: u64, name: &str) -> String {
        self.plan.dir(stage).data(partition, 1 << 32 | 7, start, name)
    }

    pub async fn manifest(&self, stage: Stage, partition: u32) -> PartitionManifest {
        commit::read(&self.store, &self.plan.dir(stage).manifest(partition)).await.unwrap().unwrap()
    }

    /// Replaces a manifest, as only damage could.
    pub async fn damage_manifest(&self, stage: Stage, partition: u32, damage: impl FnOnce(&mut PartitionManifest)) {
        let mut manifest = self.manifest(stage, partition).await;
        damage(&mut manifest);
        self.store.put(&self.plan.dir(stage).manifest(partition), commit::encode(&manifest).unwrap()).await.unwrap();
    }

    /// Rewrites the rows of a table and describes them correctly, as only a defect of the program could.
    pub async fn damage_rows<T: Table>(&self, stage: Stage, partition: u32, role: &str, damage: impl FnOnce(&mut Vec<T>)) {
        let mut manifest = self.manifest(stage, partition).await;
        let object = manifest.chunks.iter_mut().flat_map(|chunk| &mut chunk.objects).find(|object| object.role == role).unwrap();
        let mut rows = T::decode(&object.key, self.store.require(&object.key).await.unwrap()).unwrap();
        damage(&mut rows);
        *object = commit::write_data(&self.store, role, object.key.clone(), T::encode(&rows).unwrap()).await.unwrap();
        self.store.put(&self.plan.dir(stage).manifest(partition), commit::encode(&manifest).unwrap()).await.unwrap();
    }

    /// `prompts`, `pairs` (two chunks where there are two triplets) and `filter` of a partition.
    async fn partition(&self, partition: u32) -> Vec<IndexRow> {
        let range = self.plan.partitioning.range(partition);
        let records = range.end - range.start;
        let captions: Vec<u64> = range.clone().filter(|&record| record != 1).collect();
        let triplets: Vec<Triplet> = captions.iter().map(|&record| triplet(record)).collect();
        let mut counts = Counts { expected: records, output: triplets.len() as u64, ..Counts::default() };
        let mut data = vec![("triplets", self.key(Stage::Prompts, partition, 0, "triplets.parquet"), Triplet::encode(&triplets).unwrap())];
        if range.contains(&1) {
            counts.reject("no_delimiter");
            let rejected = rejected_completion();
            data.push((
                "rejected",
                self.key(Stage::Prompts, partition, 0, "rejected.parquet"),
                RejectedCompletion::encode(&[rejected]).unwrap(),
            ));
        }
        let chunk = self.chunk(Stage::Prompts, partition, (0, records), counts, data).await;
        self.commit(records, vec![chunk]).await;

        let (mut chunks, mut all) = (Vec::new(), Vec::new());
        for (start, triplet) in (0..).zip(&triplets) {
            let last = partition == 1 && start + 1 == triplets.len() as u64;
            let (scored, chunk) = self.draw(partition, start, triplet, last).await;
            all.push((triplet.clone(), scored));
            chunks.push(chunk);
        }
        self.commit(triplets.len() as u64, chunks).await;
        self.filter(partition, all).await
    }

    async fn draw(&self, partition: u32, start: u64, triplet: &Triplet, last: bool) -> (Vec<ScoredCandidate>, ChunkManifest) {
        let pairs = &self.plan.spec.stages.pairs;
        let images = self.key(Stage::Pairs, partition, start, "images.tar");
        let (before, after) = (png([200, 40, 40]), png([40, 40, 200]));
        let mut scored: Vec<ScoredCandidate> = (0..3).map(|sample| scored(self.plan.spec.seed, triplet, sample, pairs)).collect();
        let place = |offset: usize, image: &Bytes| ImageRef::describe(&images, offset as u64, image);
        scored[0].images = Some([place(0, &before), place(before.len(), &after)]);
        let mut counts = Counts { expected: 3, output: 3, ..Counts::default() };
        if last {
            (scored[2].scores, scored[2].error) = (None, Some("the image is not finite".to_string()));
            (counts.output, counts.quarantined) = (2, 1);
        }
        let table = ScoredCandidate::encode(&scored).unwrap();
        let data = vec![
            ("candidates", self.key(Stage::Pairs, partition, start, "candidates.parquet"), table),
            ("images", images, [before, after].concat().into()),
        ];
        (scored, self.chunk(Stage::Pairs, partition, (start, start + 1), counts, data).await)
    }

    async fn filter(&self, partition: u32, all: Vec<(Triplet, Vec<ScoredCandidate>)>) -> Vec<IndexRow> {
        let records = all.len() as u64;
        let rows: Vec<IndexRow> = all.iter().flat_map(|(triplet, scored)| scored.iter().map(|scored| verdict(triplet, scored))).collect();
        let mut counts = Counts { expected: rows.len() as u64, ..Counts::default() };
        for row in &rows {
            match &row.verdict {
                Verdict::Kept => counts.output += 1,
                Verdict::Rejected(reason) => counts.reject(reason.name()),
                Verdict::Quarantined(_) => counts.quarantined += 1,
            }
        }
        let data = vec![("selection", self.key(Stage::Filter, partition, 0, "selection.parquet"), IndexRow::encode(&rows).unwrap())];
        let chunk = self.chunk(Stage::Filter, partition, (0, records), counts, data).await;
        self.commit(records, vec![chunk]).await;
        rows
    }

    /// The index, and one shard of each format.
    async fn dataset(&self, rows: &[IndexRow], seed: fn(&IndexRow) -> u64) {
        let kept: Vec<IndexRow> = rows.iter().filter(|row| row.verdict == Verdict::Kept).cloned().collect();
        let counts = |n: u64| Counts { expected: n, output: n, ..Counts::default() };
        let data = vec![
            ("index", self.key(Stage::Index, 0, 0, "index.parquet"), IndexRow::encode(rows).unwrap()),
            ("kept", self.key(Stage::Index, 0, 0, "kept.parquet"), IndexRow::encode(&kept).unwrap()),
        ];
        let mut index = self.chunk(Stage::Index, 0, (0, 1), counts(rows.len() as u64), data).await;
        let figures = [("shards", 4.0), ("train_pairs", 2.0), ("validation_pairs", 1.0), ("test_pairs", 1.0)];
        index.figures = figures.map(|(name, value)| (name.to_string(), value)).into();
        self.commit(1, vec![index]).await;

        let dir = self.plan.dir(Stage::Shards);
        let shard = |path: &str, bytes: Bytes| ("shard", dir.dataset(path), bytes);
        let folders = kept.iter().enumerate().flat_map(|(i, row)| {
            [0, 1].map(|which| shard(&format!("original/{i:07}/{}_{which}.png", seed(row)), Bytes::from_static(b"image")))
        });
        let (tar, parquet) = ("webdataset/train-000000.tar", "data/train-00000-of-00001.parquet");
        let partitions = [
            (KEPT, vec![shard(tar, file_of(ShardFormat::Webdataset, &kept))]),
            (KEPT, vec![shard(parquet, file_of(ShardFormat::Parquet, &kept))]),
            (KEPT, folders.collect()),
            (0, vec![shard("original/seeds.json", Bytes::from_static(b"[]"))]),
        ];
        for (partition, (samples, data)) in (0..).zip(partitions) {
            let chunk = self.chunk(Stage::Shards, partition, (0, 1), counts(samples), data).await;
            self.commit(1, vec![chunk]).await;
        }
    }
}

/// Corpus, partitioning and plan.
async fn freeze(store: &Store, spec: Spec) -> Plan {
    let records: Vec<CorpusRecord> = (0..5).map(|record| CorpusRecord { caption: caption(record), url: None, edit: None }).collect();
    let dir = StageDir { stage: Stage::Corpus, fingerprint: ids::Fingerprint::of(&["corpus"]) };
    let data = DataObject::describe("corpus", dir.data(0, 0, 0, "corpus.parquet"), &CorpusRecord::encode(&records).unwrap());
    store.put(&data.key, CorpusRecord::encode(&records).unwrap()).await.unwrap();
    let fingerprint = ids::Fingerprint::of(&["content"]);
    let skipped = Skipped { rows: 1, first: Position { file: "captions.jsonl".to_string(), row: 4 } };
    let manifest = CorpusManifest {
        attempt: Attempt { epoch: 0, worker: "import".to_string() },
        records: 5,
        fingerprint,
        objects: vec![corpus::CorpusObject { records: 5, data }],
        report: CorpusReport { rows: 6, usable: 5, skipped: [("caption_empty".to_string(), skipped)].into(), ..CorpusReport::default() },
    };
    store.put(&dir.manifest(0), commit::encode(&manifest).unwrap()).await.unwrap();
    let models = ip2p_pipeline::plan::ModelFingerprints { diffusion: fingerprint, vae: None, clip: fingerprint, llm: Some(fingerprint) };
    let plan = Plan::new(spec, dir, fingerprint, models, Partitioning { records: 5, partition_records: 3 });
    store.put(&layout::partitioning(&plan.dir(Stage::Prompts)), commit::encode(&plan.partitioning).unwrap()).await.unwrap();
    store.put(&layout::plan(plan.fingerprint()), commit::encode(&plan).unwrap()).await.unwrap();
    store.put(&layout::term(1), r#"{"process":7,"version":"0.1.0"}"#.into()).await.unwrap();
    plan
}

fn caption(record: u64) -> String {
    format!("a red circle, number {record}")
}

fn triplet(record: u64) -> Triplet {
    Triplet::new(caption(record), "make it <blue>".to_string(), caption(record).replace("red", "blue"), None)
}

fn rejected_completion() -> RejectedCompletion {
    let caption = caption(1);
    RejectedCompletion {
        caption_id: CaptionId::of(&caption),
        caption,
        number: 0,
        reason: "no_delimiter".to_string(),
        completion: "?".to_string(),
    }
}

fn scored(seed: u64, triplet: &Triplet, sample: u32, pairs: &ip2p_pipeline::spec::Pairs) -> ScoredCandidate {
    let (clip_sim_dir, clip_sim_image) = [(0.3, 0.9), (0.1, 0.95), (0.4, 0.5)][sample as usize];
    let scores = Scores { clip_sim_0: 0.25, clip_sim_1: 0.26, clip_sim_dir, clip_sim_image };
    ScoredCandidate { candidate: Candidate::draw(seed, triplet.id, sample, pairs), scores: Some(scores), error: None, images: None }
}

fn verdict(triplet: &Triplet, scored: &ScoredCandidate) -> IndexRow {
    let verdict = match (&scored.error, scored.candidate.sample) {
        (Some(error), _) => Verdict::Quarantined(error.clone()),
        (None, 0) => Verdict::Kept,
        (None, 1) => Verdict::Rejected(RejectReason::DirectionSimilarity),
        (None, _) => Verdict::Rejected(RejectReason::ImageSimilarity),
    };
    IndexRow {
        pair: scored.candidate.pair_id(),
        caption: triplet.caption.clone(),
        edit: triplet.edit.clone(),
        output: triplet.output.clone(),
        url: None,
        candidate: scored.candidate.clone(),
        scores: scored.scores,
        verdict,
        images: scored.images.clone(),
    }
}

/// An 8x8 picture of one colour.
fn png(colour: [u8; 3]) -> Bytes {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(8, 8, image::Rgb(colour)).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner().into()
}

/// A shard as workers write it.
pub(crate) fn file_of(format: ShardFormat, rows: &[IndexRow]) -> Bytes {
    let mut writer = ShardWriter::new(format, ColumnProfile::Timbrooks, "a shard", Vec::new()).unwrap();
    for (number, row) in (0..).zip(rows) {
        let sample = Sample::new(number, row.clone(), [png([200, 40, 40]), png([40, 40, 200])]).unwrap();
        writer.add(&sample).unwrap();
    }
    writer.finish("train").unwrap().0.into()
}

//! Files to start from that this program writes itself: `IP2P_BLESS=1` makes the test write them again.
//!
//! The others in `tests/fuzz/` were written by hand or by other programs (pyarrow, gzip, zstd, Python's pickle).

use ip2p_pipeline::commit;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, Counts, DataObject, PartitionManifest};
use ip2p_pipeline::plan::{ModelFingerprints, Partitioning, Plan};
use ip2p_pipeline::records::{
    Candidate, CorpusRecord, Edit, ImageRef, IndexRow, Quarantined, RejectedCompletion, ScoredCandidate, Scores, Triplet, Verdict,
};
use ip2p_pipeline::spec::{ColumnProfile, ImageFormat, ShardFormat, Spec, Unchecked};
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished, Progress, Report};
use ip2p_proto::v1;
use ip2p_worker::images::Rgb8;
use prost::Message;
use std::path::Path;

/// Writes them below `root`, the folder of all targets.
pub fn write(root: &Path) {
    let save = |name: &str, bytes: &[u8]| {
        let path = root.join(name);
        path.parent().map(std::fs::create_dir_all).transpose().expect("a folder");
        std::fs::write(path, bytes).expect("a file");
    };
    for (name, bytes) in tables() {
        save(&format!("tables/{name}.parquet"), &bytes);
    }
    save("corpus_parquet/our-own.parquet", &CorpusRecord::encode(&[record()]).expect("a table"));
    for (name, bytes) in manifests() {
        save(&format!("manifest/{name}.json"), &bytes);
    }
    for (name, bytes) in messages() {
        save(&format!("wire/{name}"), &bytes);
    }
    save("shard_tar/two.tar", &shard(ShardFormat::Webdataset));
    save("shard_parquet/two.parquet", &shard(ShardFormat::Parquet));
    for format in [ImageFormat::Jpeg { quality: 90 }, ImageFormat::Png, ImageFormat::Webp] {
        save(&format!("picture/small.{}", format.extension()), &picture(format));
    }
}

fn record() -> CorpusRecord {
    let edit = Some(Edit { edit: "make it blue".to_string(), output: "a blue circle".to_string() });
    CorpusRecord { caption: "a red circle".to_string(), url: Some("http://a/b.jpg".to_string()), edit }
}

fn row() -> IndexRow {
    let triplet = Triplet::new("a red circle".to_string(), "make it blue".to_string(), "a blue circle".to_string(), None);
    let candidate = Candidate { triplet: triplet.id, sample: 1, seed: 77, p2p_threshold: 0.5, cfg_scale: 8.0 };
    let image = ImageRef::describe("pairs/x/p00000-images.tar", 512, b"image");
    IndexRow {
        pair: candidate.pair_id(),
        caption: triplet.caption,
        edit: triplet.edit,
        output: triplet.output,
        url: None,
        candidate,
        scores: Some(Scores { clip_sim_0: 0.25, clip_sim_1: 0.3, clip_sim_dir: 0.21, clip_sim_image: 0.9 }),
        verdict: Verdict::Kept,
        images: Some([image.clone(), image]),
    }
}

fn tables() -> Vec<(&'static str, bytes::Bytes)> {
    let row = row();
    let triplet = Triplet::new(row.caption.clone(), row.edit.clone(), row.output.clone(), None);
    let rejected = RejectedCompletion {
        caption_id: record().id(),
        caption: row.caption.clone(),
        number: 0,
        reason: "unparsable".to_string(),
        completion: "no".to_string(),
    };
    let candidate = ScoredCandidate { candidate: row.candidate.clone(), scores: row.scores, error: None, images: row.images.clone() };
    let quarantined = Quarantined { record: row.pair.to_string(), error: "no room".to_string() };
    [
        ("corpus", CorpusRecord::encode(&[record()])),
        ("triplets", Triplet::encode(&[triplet])),
        ("rejected", RejectedCompletion::encode(&[rejected])),
        ("candidates", ScoredCandidate::encode(&[candidate])),
        ("quarantine", Quarantined::encode(&[quarantined])),
        ("index", IndexRow::encode(&[row])),
    ]
    .map(|(name, bytes)| (name, bytes.expect("a table")))
    .into()
}

fn plan() -> Plan {
    let text = "version: 1\nname: small\nstore: file://./out\ncorpus: { path: c.jsonl }\nmodels: { diffusion: d, clip: c, llm: l }\n";
    let spec = Spec::parse(text, "p.yaml", &[], &Unchecked).expect("a spec");
    let any = Fingerprint::of(&["any"]);
    let models = ModelFingerprints { diffusion: any, vae: None, clip: any, llm: Some(any) };
    Plan::new(spec, StageDir { stage: Stage::Corpus, fingerprint: any }, any, models, Partitioning { records: 10, partition_records: 3 })
}

fn manifests() -> Vec<(&'static str, bytes::Bytes)> {
    let attempt = Attempt { epoch: 1 << 32 | 4, worker: "local-0".to_string() };
    let chunk = ChunkManifest {
        stage: Stage::Pairs,
        partition: 2,
        start: 0,
        end: 3,
        attempt: attempt.clone(),
        counts: Counts { expected: 9, output: 4, rejected: [("clip_text".to_string(), 5)].into(), quarantined: 0 },
        objects: vec![DataObject::describe("candidates", "pairs/x/y".to_string(), b"data")],
        seconds: 1.5,
        figures: [("tokens".to_string(), 12.0)].into(),
        stored_by: None,
    };
    let partition = PartitionManifest { stage: Stage::Pairs, partition: 2, records: 3, attempt, chunks: vec![chunk.clone()] };
    let encoded = [("chunk", commit::encode(&chunk)), ("partition", commit::encode(&partition)), ("plan", commit::encode(&plan()))];
    encoded.map(|(name, bytes)| (name, bytes.expect("JSON"))).into()
}

fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let assignment = Assignment { stage: Stage::Pairs, partition: 2, epoch: 1 << 32 | 4, failures: 1 };
    let worker = || "gpu-1".to_string();
    let run = || "0123456789ab".to_string();
    let counts = Counts { expected: 9, output: 4, rejected: [("clip_text".to_string(), 5)].into(), quarantined: 0 };
    let finished = Finished { counts, seconds: 2.5, figures: [("tokens".to_string(), 12.0)].into() };
    let failure = Failure { cause: Cause::Resource, message: "no room".to_string() };
    let report = |outcome| v1::ReportRequest { worker: worker(), report: Some(Report { assignment, outcome }.into()), run: run() };
    let progress = Progress { assignment, done: 1, total: 3, units: 9, kept: 2 };
    let register = v1::RegisterRequest {
        protocol: ip2p_proto::PROTOCOL,
        version: "0.1.0".to_string(),
        worker: worker(),
        device: "cpu".to_string(),
        stages: vec!["pairs".to_string()],
        run_name: "small".to_string(),
        only: Some(v1::register_request::Only::Wave(v1::WaveIndex { name: "ip2p-small-pairs-1".to_string(), index: 3 })),
    };
    let welcome = v1::RegisterResponse {
        plan_json: serde_json::to_string(&plan()).expect("JSON"),
        store_url: "file:///out/small".to_string(),
        lease_millis: 30_000,
        worker: worker(),
        open_stages: vec!["pairs".to_string(), "filter".to_string()],
        run: run(),
    };
    let lease = v1::LeaseResponse { answer: Some(v1::lease_response::Answer::Assignment(assignment.into())) };
    vec![
        ("register", register.encode_to_vec()),
        ("welcome", welcome.encode_to_vec()),
        ("lease", lease.encode_to_vec()),
        ("ask", v1::LeaseRequest { worker: worker(), report: report(Ok(finished.clone())).report, run: run() }.encode_to_vec()),
        ("heartbeat", v1::HeartbeatRequest { worker: worker(), progress: Some(progress.into()), run: run() }.encode_to_vec()),
        ("done", report(Ok(finished)).encode_to_vec()),
        ("failed", report(Err(failure.clone())).encode_to_vec()),
        ("unfit", v1::UnfitRequest { worker: worker(), failed: Some(failure.into()), run: run() }.encode_to_vec()),
    ]
}

fn picture(format: ImageFormat) -> Vec<u8> {
    let bytes = (0..16 * 16 * 3).map(|n| (n * 7 % 251) as u8).collect();
    Rgb8 { width: 16, height: 16, bytes }.encode(format).expect("a picture")
}

fn shard(format: ShardFormat) -> Vec<u8> {
    use ip2p_pipeline::formats::{Sample, ShardWriter};
    let mut writer = ShardWriter::new(format, ColumnProfile::Timbrooks, "train-00000", Vec::new()).expect("a writer");
    for number in 0..2 {
        let images = [picture(ImageFormat::Png), picture(ImageFormat::Png)].map(bytes::Bytes::from);
        writer.add(&Sample::new(number, row(), images).expect("a sample")).expect("room");
    }
    writer.finish("train").expect("a shard").0
}

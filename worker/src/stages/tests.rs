//! `index` and `shards` on kept pairs in a store in memory: no models, no coordinator.

use super::bundle::ImageBundle;
use super::{Env, role};
use crate::control::Control;
use crate::device::Device;
use crate::failure::Result;
use crate::run_partition::run_partition;
use bytes::Bytes;
use ip2p_pipeline::commit;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, Counts, PartitionManifest, SHARDS_FIGURE};
use ip2p_pipeline::plan::{ModelFingerprints, Partitioning, Plan};
use ip2p_pipeline::records::{Candidate, IndexRow, RejectReason, Scores, Triplet, Verdict};
use ip2p_pipeline::spec::{Spec, Unchecked};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::{Assignment, Cause, Finished};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Triplets; of each, sample 0 is kept and sample 1 rejected.
const TRIPLETS: usize = 40;

const SPEC: &str = "
version: 1
name: small
seed: 7
store: file://./out
corpus: { path: captions.jsonl }
models: { diffusion: d, clip: c, llm: l }
stages:
  pairs: { samples: 2, image: png }
  filter: { keep: 1 }
  shards: { formats: [webdataset, parquet, original], shard_bytes: 64KB }
";

fn plan() -> Plan {
    let spec = Spec::parse(SPEC, "p.yaml", &[], &Unchecked).unwrap();
    let fingerprint = Fingerprint::of(&["test"]);
    let models = ModelFingerprints { diffusion: fingerprint, vae: None, clip: fingerprint, llm: None };
    let corpus_dir = StageDir { stage: Stage::Corpus, fingerprint };
    Plan::new(spec, corpus_dir, fingerprint, models, Partitioning { records: TRIPLETS as u64, partition_records: 1000 })
}

/// A worker's surroundings behind a finished `filter`.
async fn filtered() -> Env {
    let env = Env { store: Store::memory(), plan: Arc::new(plan()), device: Device::absent(), kept: Arc::default() };
    let mut bundle = ImageBundle::new(env.plan.dir(Stage::Pairs).data(0, 1, 0, "images.tar"));
    let rows: Vec<IndexRow> =
        (0..TRIPLETS).flat_map(|n| [0, 1].map(|sample| (n, sample))).map(|(n, sample)| row(n, sample, &mut bundle)).collect();
    let (key, tar) = bundle.finish().unwrap().unwrap();
    env.store.put(&key, tar).await.unwrap();
    let dir = env.plan.dir(Stage::Filter);
    let selection = IndexRow::encode(&rows).unwrap();
    let object = commit::write_data(&env.store, role::SELECTION, dir.data(0, 1, 0, "selection.parquet"), selection).await.unwrap();
    commit::commit_partition(&env.store, &dir, &manifest(Stage::Filter, TRIPLETS as u64, object)).await.unwrap();
    env
}

fn manifest(stage: Stage, records: u64, object: ip2p_pipeline::manifest::DataObject) -> PartitionManifest {
    let attempt = Attempt { epoch: 1, worker: "before".to_string() };
    let (counts, objects, figures) = (Counts::default(), vec![object], BTreeMap::new());
    let chunk = ChunkManifest {
        stage,
        partition: 0,
        start: 0,
        end: records,
        attempt: attempt.clone(),
        counts,
        objects,
        seconds: 1.0,
        figures,
        stored_by: None,
    };
    PartitionManifest { stage, partition: 0, records, attempt, chunks: vec![chunk] }
}

fn row(n: usize, sample: u32, bundle: &mut ImageBundle) -> IndexRow {
    let triplet = Triplet::new(format!("cat {n}"), "make it a dog".to_string(), format!("dog {n}"), None);
    let candidate = Candidate { triplet: triplet.id, sample, seed: n as u64, p2p_threshold: 0.5, cfg_scale: 7.5 };
    let picture = |which: u8| [&[0x89, b'P', b'N', b'G'][..], &vec![n as u8 ^ which; 2000]].concat();
    let kept = sample == 0;
    IndexRow {
        pair: candidate.pair_id(),
        caption: triplet.caption,
        edit: triplet.edit,
        output: triplet.output,
        url: None,
        images: kept.then(|| bundle.add(&candidate.pair_id().to_string(), "png", &[picture(0), picture(1)]).unwrap()),
        candidate,
        scores: Some(Scores { clip_sim_0: 0.3, clip_sim_1: 0.3, clip_sim_dir: 0.3, clip_sim_image: 0.9 }),
        verdict: if kept { Verdict::Kept } else { Verdict::Rejected(RejectReason::NotAmongBest) },
    }
}

async fn run(env: &Env, stage: Stage, partition: u32) -> Result<Finished> {
    run_partition(env, Assignment { stage, partition, epoch: 2, failures: 0 }, "test", &Arc::new(Control::default())).await
}

/// Runs `index`; returns the number of shards.
async fn index(env: &Env) -> u32 {
    run(env, Stage::Index, 0).await.unwrap().figures[SHARDS_FIGURE] as u32
}

async fn write_all_shards(env: &Env) -> u32 {
    let shards = index(env).await;
    for shard in 0..shards {
        run(env, Stage::Shards, shard).await.unwrap();
    }
    shards
}

async fn read_manifest(env: &Env, stage: Stage, partition: u32) -> PartitionManifest {
    commit::read(&env.store, &env.plan.dir(stage).manifest(partition)).await.unwrap().unwrap()
}

/// Everything in the store.
async fn contents(env: &Env) -> BTreeMap<String, Bytes> {
    let mut contents = BTreeMap::new();
    for (key, _) in env.store.list("").await.unwrap() {
        contents.insert(key.clone(), env.store.require(&key).await.unwrap());
    }
    contents
}

async fn flip_byte(env: &Env, key: &str, at: usize) {
    let mut bytes = env.store.require(key).await.unwrap().to_vec();
    bytes[at] ^= 1;
    env.store.put(key, bytes.into()).await.unwrap();
}

#[tokio::test]
async fn the_index_has_every_verdict_and_describes_its_objects() {
    let env = filtered().await;
    assert!(index(&env).await > 6, "several shards, or the other tests have lost their point");
    let manifest = read_manifest(&env, Stage::Index, 0).await;
    for (role, rows) in [(role::INDEX, 2 * TRIPLETS), (role::KEPT, TRIPLETS)] {
        let object = manifest.objects(role).next().unwrap();
        let bytes = commit::read_data(&env.store, object).await.unwrap();
        assert_eq!(IndexRow::decode(role, bytes).unwrap().len(), rows);
    }
}

#[tokio::test]
async fn an_altered_image_ends_the_attempt_with_the_name_of_its_object_and_of_its_maker() {
    let env = filtered().await;
    let shards = index(&env).await;
    let images = env.plan.dir(Stage::Pairs).data(0, 1, 0, "images.tar");
    // Behind the header of the first image, which some shard of each format holds.
    flip_byte(&env, &images, 512 + 100).await;
    let mut refused = 0;
    for shard in 0..shards {
        let Err(failure) = run(&env, Stage::Shards, shard).await else { continue };
        assert_eq!(failure.cause, Cause::Damaged { stage: Stage::Pairs, partition: 0 });
        for part in [&env.store.url_of(&images), "bytes 512 to 2516", "`audit`"] {
            assert!(failure.message.contains(part), "`{part}` is not in: {}", failure.message);
        }
        refused += 1;
    }
    assert_eq!(refused, 3, "one of each format");
}

#[tokio::test]
async fn a_committed_shard_is_written_again_with_the_same_bytes() {
    let env = filtered().await;
    let shards = write_all_shards(&env).await;
    let before = contents(&env).await;
    let dataset = format!("{}/", env.plan.dir(Stage::Shards).dataset_root());
    for key in before.keys().filter(|key| key.starts_with(&dataset)) {
        env.store.delete(key).await.unwrap();
    }
    for shard in 0..shards {
        let again = run(&env, Stage::Shards, shard).await.unwrap();
        assert_eq!(again.counts, read_manifest(&env, Stage::Shards, shard).await.counts());
    }
    assert!(contents(&env).await == before);
}

#[tokio::test]
async fn damaged_objects_of_a_committed_partition_are_made_again_or_left_alone() {
    let env = filtered().await;
    index(&env).await;
    let before = contents(&env).await;
    let manifest = read_manifest(&env, Stage::Index, 0).await;
    let object = |role| manifest.objects(role).next().unwrap().key.clone();
    env.store.delete(&object(role::INDEX)).await.unwrap();
    flip_byte(&env, &object(role::KEPT), 100).await;
    run(&env, Stage::Index, 0).await.unwrap();
    assert!(contents(&env).await == before);

    // What would be made is not what was committed: another version, or chance, made it.
    let mut other = manifest.clone();
    other.chunks[0].objects[0].blake3 = "0".repeat(64);
    env.store.put(&env.plan.dir(Stage::Index).manifest(0), commit::encode(&other).unwrap()).await.unwrap();
    let before = contents(&env).await;
    let failure = run(&env, Stage::Index, 0).await.unwrap_err();
    assert_eq!(failure.cause, Cause::BadInput);
    assert!(failure.message.contains(&object(role::INDEX)) && failure.message.contains("cannot be made again"), "{}", failure.message);
    assert!(contents(&env).await == before);
}

#[tokio::test]
async fn a_shard_that_would_become_another_is_not_written_again() {
    let env = filtered().await;
    let shards = write_all_shards(&env).await;
    for shard in 0..shards {
        let key = env.plan.dir(Stage::Shards).manifest(shard);
        let mut manifest = read_manifest(&env, Stage::Shards, shard).await;
        for object in manifest.chunks.iter_mut().flat_map(|chunk| &mut chunk.objects) {
            object.blake3 = "0".repeat(64);
            env.store.delete(&object.key).await.unwrap();
        }
        env.store.put(&key, commit::encode(&manifest).unwrap()).await.unwrap();
        let before = contents(&env).await;
        let failure = run(&env, Stage::Shards, shard).await.unwrap_err();
        assert_eq!(failure.cause, Cause::BadInput);
        assert!(
            failure.message.contains(&env.plan.dir(Stage::Shards).root()) && failure.message.contains("run again"),
            "{}",
            failure.message
        );
        assert!(contents(&env).await == before, "shard {shard}");
    }
}

#[tokio::test]
async fn a_worker_reads_the_kept_pairs_once_per_index() {
    let env = filtered().await;
    let shards = index(&env).await;
    run(&env, Stage::Shards, 0).await.unwrap();
    let mut manifest = read_manifest(&env, Stage::Index, 0).await;
    let kept = manifest.objects(role::KEPT).next().unwrap().key.clone();
    env.store.delete(&kept).await.unwrap();
    for shard in 1..shards - 1 {
        run(&env, Stage::Shards, shard).await.unwrap();
    }
    // Another index is read anew, and a worker that starts now has read none.
    manifest.attempt.epoch += 1;
    env.store.put(&env.plan.dir(Stage::Index).manifest(0), commit::encode(&manifest).unwrap()).await.unwrap();
    let message = run(&env, Stage::Shards, shards - 1).await.unwrap_err().message;
    assert!(message.contains(&kept) && message.contains("missing"), "{message}");
}

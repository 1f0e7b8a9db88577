//! From a spec to a run that can be driven: frozen corpus, frozen partitioning, plan, and what is already done.

use crate::dataset::Files;
use crate::digest;
use crate::listing::{self, Version};
use crate::pin;
use crate::scheduler::Recovered;
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::commit;
use ip2p_pipeline::corpus::{self, CorpusManifest};
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::manifest::{self, Attempt, PartitionManifest, SHARDS_FIGURE};
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_pipeline::spec::{Models, PromptBackend, Spec};
use ip2p_pipeline::store::{self, Created, Store};
use ip2p_pipeline::task::Finished;
use ip2p_pipeline::{Error, Result};
use std::collections::HashMap;
use std::path::Path;

/// Manifests read at the same time during recovery.
const READS: usize = 32;

/// A run whose input and partitioning are frozen in the store.
#[derive(Debug)]
pub struct Prepared {
    pub store: Store,
    pub plan: Plan,
    pub corpus: CorpusManifest,
}

/// The store of a run.
pub fn open_store(spec: &Spec) -> Result<Store> {
    let unusable = |error| match error {
        Error::File { path, source } => {
            Error::invalid(format!("store: the folder {path} cannot be made or used: {source}; choose another place, or make it writable"))
        }
        error => error,
    };
    Ok(Store::open_with(&spec.store, &spec.store_options).map_err(unusable)?.child(&spec.name))
}

/// Freezes what is not frozen yet, in a store that has shown that it can. Everything it writes is created once and
/// never changed.
pub async fn prepare(spec: Spec) -> Result<Prepared> {
    let store = open_store(&spec)?;
    store::probe(&store, random()?).await?;
    let corpus_dir = corpus_dir(&spec).await?;
    let mut corpus = frozen_corpus(&store, &spec, &corpus_dir).await?;
    let (pinned, models) = pin::pin(&spec.models).await?;
    let prompts = Plan::prompts_dir(&spec, corpus.fingerprint, &models);
    let wanted = Partitioning { records: corpus.records, partition_records: spec.partition.records };
    let partitioning = freeze(&store, &layout::partitioning(&prompts), wanted).await?;
    let mut plan = Plan::new(spec, corpus_dir, corpus.fingerprint, models, partitioning).pinned_to(pinned);
    plan.started_in = started_in(&plan.spec.models);
    plan.partitioning.partitions()?;
    // An older one of this fingerprint makes the same dataset, perhaps with other workers.
    let key = layout::plan(plan.fingerprint());
    if let Created::Theirs(bytes) = store.create(&key, commit::encode(&plan)?).await? {
        let first: Plan = commit::decode(&store.url_of(&key), &bytes)?;
        if first.corpus_dir != plan.corpus_dir {
            // The same captions from a file that was touched or moved: the plan that `gc` and `audit` follow names the first copy.
            corpus = frozen_corpus(&store, &plan.spec, &first.corpus_dir).await?;
            plan.corpus_dir = first.corpus_dir;
        }
    }
    Ok(Prepared { store, plan, corpus })
}

async fn frozen_corpus(store: &Store, spec: &Spec, dir: &StageDir) -> Result<CorpusManifest> {
    match corpus::load(store, dir).await? {
        Some(corpus) => Ok(corpus),
        None => corpus::import(&spec.corpus, takes_triplets(spec), store, dir, &import_attempt()?).await,
    }
}

/// Imports have no coordinator that could number them; chance keeps the objects of two at the same time apart.
fn import_attempt() -> Result<Attempt> {
    Ok(Attempt { epoch: random()?, worker: "import".to_string() })
}

pub(crate) fn random() -> Result<u64> {
    getrandom::u64().map_err(|e| Error::invalid(format!("the system gives no random numbers: {e}")))
}

/// The working directory, when a model's path starts there.
fn started_in(models: &Models) -> Option<String> {
    let references = [Some(&models.diffusion), models.vae.as_ref(), Some(&models.clip), models.llm.as_ref()];
    let relative = |reference: &str| local_path(reference).is_some_and(Path::is_relative);
    let any = references.into_iter().flatten().any(|reference| relative(reference));
    std::env::current_dir().ok().filter(|_| any).map(|folder| folder.display().to_string())
}

/// The path of a model on this machine; `None` for one in a remote store or on the hub.
pub(crate) fn local_path(reference: &str) -> Option<&Path> {
    match reference.split_once("://") {
        None => Some(Path::new(reference)),
        Some(("file", path)) => Some(Path::new(path)),
        Some(_) => None,
    }
}

/// Named after the files that a corpus is read from, so that a changed file is read again.
pub async fn corpus_dir(spec: &Spec) -> Result<StageDir> {
    let fingerprint = corpus::source_fingerprint(&spec.corpus, takes_triplets(spec)).await?;
    Ok(StageDir { stage: Stage::Corpus, fingerprint })
}

pub fn takes_triplets(spec: &Spec) -> bool {
    spec.stages.prompts.backend == PromptBackend::File
}

/// The first run's partitioning stays, so that no finished partition loses its bounds.
async fn freeze(store: &Store, key: &str, wanted: Partitioning) -> Result<Partitioning> {
    let frozen: Partitioning = match store.create(key, commit::encode(&wanted)?).await? {
        Created::Ours => return Ok(wanted),
        Created::Theirs(bytes) => commit::decode(&store.url_of(key), &bytes)?,
    };
    if frozen.partition_records != wanted.partition_records {
        tracing::warn!("partition.records stays {} for this run: its partitions were cut at the first start", frozen.partition_records);
    }
    Ok(frozen)
}

/// What the store already holds of every stage: one LIST per stage, then the manifests themselves, and one LIST of
/// the dataset.
pub async fn recover(store: &Store, plan: &Plan) -> Result<Vec<Recovered>> {
    let partitions = plan.partitioning.partitions()?;
    let mut recovered = Vec::new();
    for stage in Stage::RUN {
        let dir = plan.dir(stage);
        let mut committed = committed(store, dir).await?;
        let partitions = match stage {
            Stage::Prompts | Stage::Pairs | Stage::Filter | Stage::Corpus => partitions,
            Stage::Index => 1,
            Stage::Shards => match shards(store, plan, &recovered)? {
                Some(shards) => shards,
                // Those of an index that is gone: whoever gets one again finds it done.
                None => {
                    committed.clear();
                    0
                }
            },
        };
        if let Some((stray, _)) = committed.iter().find(|(partition, _)| *partition >= partitions) {
            let problem = format!("{stage} has {partitions} partitions: it is none of theirs. Remove it");
            return Err(Error::Damaged { key: store.url_of(&dir.manifest(*stray)), problem });
        }
        recovered.push(Recovered { stage, partitions, committed, unblocked: stage == Stage::Prompts });
    }
    Ok(recovered)
}

/// How many shards the index says, if it is committed.
fn shards(store: &Store, plan: &Plan, recovered: &[Recovered]) -> Result<Option<u32>> {
    let of = |stage| recovered.iter().filter(move |r| r.stage == stage).flat_map(|r| &r.committed);
    let Some((_, index)) = of(Stage::Index).next() else { return Ok(None) };
    let kept = of(Stage::Filter).map(|(_, filter)| filter.counts.output).sum();
    manifest::shards_of(&index.figures, kept).map(Some).ok_or_else(|| {
        let problem = format!("it says {:?} shards of {kept} kept pairs", index.figures.get(SHARDS_FIGURE));
        Error::Damaged { key: store.url_of(&plan.dir(Stage::Index).manifest(0)), problem }
    })
}

/// The committed partitions of one stage, with their figures. Shards whose files are missing or of another length are
/// left out: a worker writes them again.
pub(crate) async fn committed(store: &Store, dir: StageDir) -> Result<Vec<(u32, Finished)>> {
    if digest::are_of(dir.stage) {
        return digested(store, dir).await;
    }
    let mut manifests = manifests(store, dir).await?;
    if dir.stage == Stage::Shards && !manifests.is_empty() {
        let files = Files::list(store, &dir).await?;
        manifests.retain(|shard| match files.problem_of(shard) {
            Some(problem) => {
                tracing::warn!("shard {} of the dataset is not whole and has to be written again: {problem}", shard.partition);
                false
            }
            None => true,
        });
    }
    Ok(manifests.iter().map(finished).collect())
}

fn finished(manifest: &PartitionManifest) -> (u32, Finished) {
    (manifest.partition, Finished { counts: manifest.counts(), seconds: manifest.seconds(), figures: manifest.figures() })
}

/// The committed partitions of a stage that may have very many: only the manifests that no digest knows are read.
async fn digested(store: &Store, dir: StageDir) -> Result<Vec<(u32, Finished)>> {
    let listed = listing::versions(store, &dir.manifests()).await?;
    let mut listed: HashMap<u32, Version> =
        listed.into_iter().filter_map(|(key, version)| Some((StageDir::partition_of(&key)?, version))).collect();
    let known = if listed.is_empty() { HashMap::new() } else { digest::read(store, &dir, &listed).await? };
    let mut committed: Vec<(u32, Finished)> = known.into_iter().collect();
    committed.iter().for_each(|(partition, _)| drop(listed.remove(partition)));
    let (unknown, versions): (Vec<String>, Vec<Version>) =
        listed.into_iter().map(|(partition, version)| (dir.manifest(partition), version)).unzip();
    let read: Vec<_> = read_manifests(store, unknown).await?.iter().map(finished).collect();
    if read.len() >= digest::PARTITIONS {
        // Each as it was listed: of one that has changed since, no listing will show that version again.
        let known = read.iter().zip(versions).map(|((partition, finished), manifest)| digest::Known {
            partition: *partition,
            manifest,
            finished: finished.clone(),
        });
        digest::write(store, &dir, known.collect()).await;
    }
    committed.extend(read);
    committed.sort_unstable_by_key(|(partition, _)| *partition);
    Ok(committed)
}

/// All partition manifests of one stage, by partition.
pub async fn manifests(store: &Store, dir: StageDir) -> Result<Vec<PartitionManifest>> {
    let keys = store.list(&dir.manifests()).await?.into_iter().map(|(key, _)| key);
    read_manifests(store, keys.filter(|key| StageDir::partition_of(key).is_some()).collect()).await
}

async fn read_manifests(store: &Store, keys: Vec<String>) -> Result<Vec<PartitionManifest>> {
    let read = |key: String| async move {
        let manifest: PartitionManifest = commit::decode(&store.url_of(&key), &store.require(&key).await?)?;
        match layout::manifest_of(&key) == Some((manifest.stage, manifest.partition)) {
            true => Ok(manifest),
            false => {
                let problem = format!("it is the manifest of {} partition {}", manifest.stage, manifest.partition);
                Err(Error::Damaged { key: store.url_of(&key), problem })
            }
        }
    };
    futures::stream::iter(keys).map(read).buffered(READS).try_collect().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Fixture;
    use ip2p_pipeline::ids::Fingerprint;
    use ip2p_pipeline::manifest::{ChunkManifest, Counts};

    #[tokio::test]
    async fn shards_without_their_files_are_not_done() {
        let fixture = Fixture::finished().await;
        let (store, dir) = (&fixture.store, fixture.plan.dir(Stage::Shards));
        let done = || async {
            let recovered = recover(store, &fixture.plan).await.unwrap();
            let committed = |stage: &Recovered| stage.committed.iter().map(|(partition, _)| *partition).collect::<Vec<_>>();
            recovered.iter().map(committed).collect::<Vec<_>>()
        };
        let stages = [vec![0, 1], vec![0, 1], vec![0, 1], vec![0]].to_vec();
        assert_eq!(done().await, [stages.clone(), vec![vec![0, 1, 2, 3]]].concat());
        store.delete(&dir.dataset("webdataset/train-000000.tar")).await.unwrap();
        store.put(&dir.dataset("original/0000001/77_1.png"), "imag".into()).await.unwrap();
        assert_eq!(done().await, [stages, vec![vec![1, 3]]].concat());
    }

    /// A coordinator must not make room for what a manifest merely says.
    #[tokio::test]
    async fn manifests_that_cannot_be_are_named() {
        let fixture = Fixture::finished().await;
        let (store, plan) = (&fixture.store, &fixture.plan);
        let refused = async |key: String, text: String| {
            let sound = store.get(&key).await.unwrap();
            store.put(&key, text.into()).await.unwrap();
            let message = recover(store, plan).await.unwrap_err().to_string();
            assert!(message.contains(&key), "{message}");
            match sound {
                Some(sound) => store.put(&key, sound).await.unwrap(),
                None => store.delete(&key).await.unwrap(),
            }
            message
        };
        let pairs = |partition| plan.dir(Stage::Pairs).manifest(partition);
        let text = |bytes: bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let first = text(store.require(&pairs(0)).await.unwrap());
        for stray in [2, u32::MAX] {
            let own = first.replacen("\"partition\": 0", &format!("\"partition\": {stray}"), 1);
            assert!(refused(pairs(stray), own).await.contains("has 2 partitions"));
        }
        assert!(refused(pairs(1), first).await.contains("pairs partition 0"));
        let index = plan.dir(Stage::Index).manifest(0);
        let sound = text(store.require(&index).await.unwrap());
        for shards in ["4e9", "-1", "1e300"] {
            let wrong = sound.replacen("\"shards\": 4.0", &format!("\"shards\": {shards}"), 1);
            assert!(wrong != sound && refused(index.clone(), wrong).await.contains("shards of"), "{sound}");
        }
        recover(store, plan).await.unwrap();
    }

    fn manifest(partition: u32) -> PartitionManifest {
        let attempt = Attempt { epoch: 1, worker: "w".to_string() };
        PartitionManifest { stage: Stage::Pairs, partition, records: 0, attempt, chunks: Vec::new() }
    }

    #[tokio::test]
    async fn digests_spare_reading_and_decide_nothing() {
        let (store, dir) = (Store::memory(), StageDir { stage: Stage::Pairs, fingerprint: Fingerprint::of(&["x"]) });
        for partition in 0..1500 {
            store.put(&dir.manifest(partition), commit::encode(&manifest(partition)).unwrap()).await.unwrap();
        }
        let partitions = async || committed(&store, dir).await.map(|all| all.into_iter().map(|(p, _)| p).collect::<Vec<_>>());
        let all: Vec<u32> = (0..1500).collect();
        assert_eq!(partitions().await.unwrap(), all);
        // A digest that was altered is not believed.
        let (digest, _) = store.list(&dir.digests()).await.unwrap().remove(0);
        let text = String::from_utf8(store.require(&digest).await.unwrap().to_vec()).unwrap();
        let other = text.replacen("\"output\": 0", "\"output\": 77", 1);
        store.put(&digest, other.clone().into()).await.unwrap();
        store.put(&dir.manifest(1500), commit::encode(&manifest(1500)).unwrap()).await.unwrap();
        let found = async || {
            let found = committed(&store, dir).await.unwrap();
            (found.len(), found.iter().filter(|(_, finished)| finished.counts.output == 77).count())
        };
        assert_eq!(found().await, (1501, 0));
        // What a digest knows is not read again, and what it does not know is: under the name of its content this one counts.
        for (key, _) in store.list(&dir.digests()).await.unwrap() {
            store.delete(&key).await.unwrap();
        }
        store.put(&dir.digest(&digest::name_of(other.as_bytes())), other.into()).await.unwrap();
        assert_eq!(found().await, (1501, 1));
        // A manifest that is gone is gone.
        store.delete(&dir.manifest(8)).await.unwrap();
        assert!(!partitions().await.unwrap().contains(&8));
        // A broken digest costs time only.
        store.put(&digest, "no digest".into()).await.unwrap();
        assert_eq!(partitions().await.unwrap().len(), 1500);
    }

    /// Someone deletes a damaged manifest, as `audit` says, and its partition is made anew.
    #[tokio::test]
    async fn a_digest_knows_nothing_of_a_manifest_that_was_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let local = Store::open(&format!("file://{}", folder.path().display())).unwrap();
        for (store, at_start) in [(Store::memory(), true), (Store::memory(), false), (local, false)] {
            let dir = StageDir { stage: Stage::Pairs, fingerprint: Fingerprint::of(&["x"]) };
            for partition in 0..1000 {
                store.put(&dir.manifest(partition), commit::encode(&manifest(partition)).unwrap()).await.unwrap();
            }
            let output = async || {
                let found = committed(&store, dir).await.unwrap();
                assert_eq!(found.len(), 1000);
                found[7].1.counts.output
            };
            if at_start {
                assert_eq!(output().await, 0);
            } else {
                let finished = |partition| finished(&manifest(partition));
                digest::write_committed(&store, dir, (0..1000).map(finished).collect()).await;
            }
            assert_eq!(store.list(&dir.digests()).await.unwrap().len(), 1);
            let mut anew = manifest(7);
            anew.chunks.push(chunk(7, 5));
            store.delete(&dir.manifest(7)).await.unwrap();
            store.put(&dir.manifest(7), commit::encode(&anew).unwrap()).await.unwrap();
            assert_eq!(output().await, 5);
            // As long as the first one, too.
            anew.chunks[0].counts.output = 6;
            store.put(&dir.manifest(7), commit::encode(&anew).unwrap()).await.unwrap();
            assert_eq!(output().await, 6);
        }
    }

    fn chunk(partition: u32, output: u64) -> ChunkManifest {
        let attempt = Attempt { epoch: 1, worker: "w".to_string() };
        let counts = Counts { output, ..Counts::default() };
        let (objects, figures) = (Vec::new(), Default::default());
        ChunkManifest { stage: Stage::Pairs, partition, start: 0, end: 1, attempt, counts, objects, seconds: 0.0, figures, stored_by: None }
    }
}

//! `gc`: removes what lost attempts left behind.
//!
//! An object is garbage when it is an attempt's data or a probe's, no manifest of any plan of the run names it, and it is older
//! than the grace period; so is a digest that knows none of the manifests there are. An attempt writes its data just before it commits, so anything it may still commit is
//! young. The age is the store's own; objects are listed before manifests are read, so that a commit in between is
//! seen.

use crate::digest;
use crate::forecast::human_bytes;
use crate::found;
use crate::listing::{self, Listed};
use crate::prepare;
use crate::text::{count, duration, printable};
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::manifest::ChunkManifest;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result, commit, corpus};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime};

/// Objects removed at the same time.
const PARALLEL: usize = 16;

/// With a shorter grace, what a live attempt has written and not committed yet may be taken for garbage.
const SAFE_GRACE: Duration = Duration::from_secs(3600);

/// What to remove.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Younger objects stay.
    pub grace: Duration,
    /// Only say what would be removed.
    pub dry_run: bool,
    /// Also remove stage folders that no plan of the run refers to.
    pub unused_folders: bool,
}

/// What was removed, or would be.
#[derive(Clone, Debug, Serialize)]
pub struct Collected {
    pub dry_run: bool,
    /// Objects that no manifest names, by key.
    pub objects: Vec<Listed>,
    /// Objects that no manifest names, but that are too young to tell.
    pub young: u64,
    pub grace_seconds: f64,
    /// Why the grace may be too short; it goes to the log as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// Stage folders that no plan refers to.
    pub unused: Vec<Unused>,
}

/// A stage folder of no plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unused {
    pub folder: String,
    pub objects: u64,
    pub bytes: u64,
    /// It is removed too; false when it was not asked for, or when something in it is young.
    pub remove: bool,
}

/// Finds garbage at the moment `now` and removes it unless `options.dry_run`.
pub async fn gc(store: &Store, options: Options, now: SystemTime) -> Result<Collected> {
    let plans = found::plans(store).await?;
    if plans.is_empty() {
        return Err(Error::invalid(format!("there is no run at {}: nothing was removed", store.url())));
    }
    let stages = || [Stage::Corpus].into_iter().chain(Stage::RUN);
    let dirs = plans.iter().flat_map(|plan| stages().map(|stage| plan.dir(stage)));
    let dirs: BTreeMap<String, StageDir> = dirs.map(|dir| (dir.root(), dir)).collect();

    let warning = risk(store, &plans, options.grace).await?;
    if let Some(warning) = &warning {
        tracing::warn!("{warning}");
    }
    // A coordinator that was killed while it started has left its probe behind.
    let mut unnamed = listing::objects(store, layout::PROBES).await?;
    for dir in dirs.values() {
        unnamed.extend(unnamed_data(store, dir).await?);
        if digest::are_of(dir.stage) {
            let outdated = digest::outdated(store, dir).await?;
            let digests = listing::objects(store, &dir.digests()).await?;
            unnamed.extend(digests.into_iter().filter(|object| outdated.contains(&object.key)));
        }
    }
    let (mut garbage, young) = unnamed.into_iter().partition::<Vec<_>, _>(|object| is_old(object, options.grace, now));
    let young = young.len() as u64;
    let mut unused = Vec::new();
    for folder in unused_folders(store, &dirs).await? {
        let objects = listing::objects(store, &folder).await?;
        let remove = options.unused_folders && objects.iter().all(|object| is_old(object, options.grace, now));
        let bytes = objects.iter().map(|object| object.bytes).sum();
        unused.push(Unused { folder, objects: objects.len() as u64, bytes, remove });
        if remove {
            garbage.extend(objects);
        }
    }
    if !options.dry_run {
        remove(store, &garbage).await?;
    }
    Ok(Collected { dry_run: options.dry_run, objects: garbage, young, grace_seconds: options.grace.as_secs_f64(), warning, unused })
}

/// What a short grace endangers: a plan that is not done may have a live run. The shards' files are never removed.
async fn risk(store: &Store, plans: &[Plan], grace: Duration) -> Result<Option<String>> {
    for plan in plans.iter().filter(|_| grace < SAFE_GRACE) {
        let partitions = plan.partitioning.partitions()? as usize;
        for (stage, of) in [(Stage::Prompts, partitions), (Stage::Pairs, partitions), (Stage::Filter, partitions), (Stage::Index, 1)] {
            let keys = store.list(&plan.dir(stage).manifests()).await?;
            let committed = keys.iter().filter(|(key, _)| StageDir::partition_of(key).is_some()).count();
            if committed < of {
                return Ok(Some(format!(
                    "a grace of {} is short: {stage} of the plan {} has {committed} of {of} partitions, and if its run is alive, what a \
                     worker has written and not committed yet may be removed; use at least 1h unless no run is alive",
                    duration(grace.as_secs_f64()),
                    plan.fingerprint().short()
                )));
            }
        }
    }
    Ok(None)
}

/// Removes objects so that no manifest is left that names what is gone, whatever ends this halfway: all manifests first,
/// those of later stages before those of earlier ones, a partition's before its chunks' and the last chunk's first.
async fn remove(store: &Store, garbage: &[Listed]) -> Result<()> {
    let mut manifests: BTreeMap<Reverse<Stage>, BTreeMap<u32, Vec<&str>>> = BTreeMap::new();
    let mut others = Vec::new();
    for Listed { key, .. } in garbage {
        match layout::manifest_of(key) {
            Some((stage, partition)) => manifests.entry(Reverse(stage)).or_default().entry(partition).or_default().push(key),
            None => others.push(key.as_str()),
        }
    }
    for partitions in manifests.into_values() {
        let removals = partitions.into_values().map(|mut keys| async move {
            // `manifests/` comes behind `chunks/`.
            keys.sort_unstable_by_key(|key| Reverse(*key));
            for key in keys {
                store.delete(key).await?;
            }
            Ok::<_, Error>(())
        });
        futures::stream::iter(removals).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    }
    futures::stream::iter(others).map(|key| store.delete(key)).buffer_unordered(PARALLEL).try_collect().await
}

/// A clock that runs behind the store's makes everything young.
fn is_old(object: &Listed, grace: Duration, now: SystemTime) -> bool {
    now.duration_since(object.modified).is_ok_and(|age| age >= grace)
}

/// The data objects of a stage that no manifest names.
async fn unnamed_data(store: &Store, dir: &StageDir) -> Result<Vec<Listed>> {
    let mut objects = listing::objects(store, &dir.data_objects()).await?;
    if dir.stage == Stage::Corpus {
        let manifest = corpus::load(store, dir).await?;
        let named: HashSet<String> = manifest.into_iter().flat_map(|m| m.objects).map(|object| object.data.key).collect();
        objects.retain(|object| !named.contains(&object.key));
        return Ok(objects);
    }
    let manifests = prepare::manifests(store, *dir).await?;
    let committed: BTreeSet<u32> = manifests.iter().map(|manifest| manifest.partition).collect();
    let named: HashSet<&String> =
        manifests.iter().flat_map(|m| m.chunks.iter().flat_map(|c| &c.objects)).map(|object| &object.key).collect();
    objects.retain(|object| !named.contains(&object.key));
    // A partition at work is named by its chunks, also by those behind a lost one: the chain may reach them again.
    let at_work: BTreeSet<u32> = objects.iter().filter_map(|object| StageDir::partition_of_part(&object.key)).collect();
    let mut listed: HashMap<u32, Vec<String>> = HashMap::new();
    for (key, _) in if at_work.is_subset(&committed) { Vec::new() } else { store.list(&dir.chunks()).await? } {
        if let Some(partition) = StageDir::partition_of_part(&key) {
            listed.entry(partition).or_default().push(key);
        }
    }
    for &partition in at_work.difference(&committed) {
        let mut chunks = commit::chunk_chain(store, dir, partition).await?;
        let end = dir.chunk(partition, chunks.last().map_or(0, |chunk| chunk.end));
        for key in listed.remove(&partition).unwrap_or_default().iter().filter(|key| **key >= end) {
            chunks.extend(commit::read::<ChunkManifest>(store, key).await?);
        }
        let named: HashSet<&String> = chunks.iter().flat_map(|chunk| &chunk.objects).map(|object| &object.key).collect();
        objects.retain(|object| !named.contains(&object.key));
    }
    Ok(objects)
}

async fn unused_folders(store: &Store, used: &BTreeMap<String, StageDir>) -> Result<Vec<String>> {
    let mut unused = Vec::new();
    for stage in [Stage::Corpus].into_iter().chain(Stage::RUN) {
        let folders = listing::folders(store, stage.name()).await?;
        unused.extend(folders.into_iter().filter(|folder| !used.contains_key(folder)));
    }
    Ok(unused)
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for object in &self.objects {
            writeln!(f, "{:>10}  {}", human_bytes(object.bytes), printable(&object.key))?;
        }
        let bytes = human_bytes(self.objects.iter().map(|object| object.bytes).sum());
        let verb = if self.dry_run { "would be removed" } else { "removed" };
        writeln!(f, "{verb}: {} objects, {bytes}", count(self.objects.len() as u64))?;
        if self.young > 0 {
            let grace = duration(self.grace_seconds);
            writeln!(f, "left alone: {} objects that no manifest names yet, younger than {grace}", count(self.young))?;
        }
        for unused in self.unused.iter().filter(|unused| !unused.remove) {
            let Unused { folder, objects, bytes, .. } = unused;
            writeln!(f, "of no plan, left alone: {} with {} objects, {}", printable(folder), count(*objects), human_bytes(*bytes))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::audit;
    use crate::fixture::{Fixture, spec};
    use bytes::Bytes;
    use futures::stream::BoxStream;
    use ip2p_pipeline::task::Finished;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions,
        PutPayload, PutResult,
    };
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const HOUR: Duration = Duration::from_secs(3600);
    const ALL: Options = Options { grace: HOUR, dry_run: false, unused_folders: true };

    /// The memory store's clock is the system's.
    #[expect(clippy::disallowed_methods, reason = "compared with the times that the store gives its objects")]
    fn now() -> SystemTime {
        SystemTime::now()
    }

    fn later() -> SystemTime {
        now() + 2 * HOUR
    }

    async fn put(fixture: &Fixture, key: &str) -> String {
        fixture.store.put(key, Bytes::from_static(b"left over")).await.unwrap();
        key.to_string()
    }

    fn keys(collected: &Collected) -> Vec<&str> {
        collected.objects.iter().map(|object| object.key.as_str()).collect()
    }

    #[tokio::test]
    async fn a_finished_run_has_no_garbage() {
        let fixture = Fixture::closed().await;
        let collected = gc(&fixture.store, ALL, later()).await.unwrap();
        assert_eq!((keys(&collected).len(), collected.young, collected.unused.len()), (0, 0, 0));
        assert!(audit(&fixture.store, &fixture.plan, false).await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn a_losers_data_goes_after_the_grace_period_and_nothing_else() {
        let fixture = Fixture::closed().await;
        let loser = put(&fixture, &fixture.plan.dir(Stage::Pairs).data(0, 99, 0, "images.tar")).await;
        let probe = put(&fixture, &layout::probe(7)).await;
        let young = gc(&fixture.store, ALL, now()).await.unwrap();
        assert_eq!((keys(&young).len(), young.young), (0, 2));
        let dry = gc(&fixture.store, Options { dry_run: true, ..ALL }, later()).await.unwrap();
        assert_eq!(keys(&dry), [&probe, &loser]);
        assert!(fixture.store.get(&loser).await.unwrap().is_some());
        gc(&fixture.store, ALL, later()).await.unwrap();
        assert!(fixture.store.get(&loser).await.unwrap().is_none());
        assert!(audit(&fixture.store, &fixture.plan, false).await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn committed_chunks_of_a_partition_at_work_stay() {
        let fixture = Fixture::finished().await;
        let dir = fixture.plan.dir(Stage::Pairs);
        let manifest = fixture.manifest(Stage::Pairs, 1).await;
        fixture.store.delete(&dir.manifest(1)).await.unwrap();
        assert_eq!(keys(&gc(&fixture.store, ALL, later()).await.unwrap()).len(), 0);
        // Without its last chunk's manifest, that chunk's data was never committed.
        fixture.store.delete(&dir.chunk(1, 1)).await.unwrap();
        let mut lost: Vec<&str> = manifest.chunks[1].objects.iter().map(|object| object.key.as_str()).collect();
        lost.sort();
        assert_eq!(keys(&gc(&fixture.store, ALL, later()).await.unwrap()), lost);
    }

    /// The attempt that fills the gap goes on with what is committed behind it.
    #[tokio::test]
    async fn committed_chunks_behind_a_lost_one_stay() {
        let fixture = Fixture::finished().await;
        let dir = fixture.plan.dir(Stage::Pairs);
        let manifest = fixture.manifest(Stage::Pairs, 1).await;
        fixture.store.delete(&dir.manifest(1)).await.unwrap();
        fixture.store.delete(&dir.chunk(1, 0)).await.unwrap();
        let mut lost: Vec<&str> = manifest.chunks[0].objects.iter().map(|object| object.key.as_str()).collect();
        lost.sort();
        assert_eq!(keys(&gc(&fixture.store, ALL, later()).await.unwrap()), lost);
    }

    #[tokio::test]
    async fn digests_go_when_no_manifest_is_left_that_they_know() {
        let fixture = Fixture::finished().await;
        let dir = fixture.plan.dir(Stage::Pairs);
        let finished = async |partition| {
            let manifest = fixture.manifest(Stage::Pairs, partition).await;
            (partition, Finished { counts: manifest.counts(), seconds: manifest.seconds(), figures: manifest.figures() })
        };
        digest::write_committed(&fixture.store, dir, vec![finished(0).await, finished(1).await]).await;
        let (digest, _) = fixture.store.list(&dir.digests()).await.unwrap().remove(0);
        for (partition, garbage) in [(0, vec![]), (1, vec![digest.as_str()])] {
            fixture.damage_manifest(Stage::Pairs, partition, |_| ()).await;
            assert_eq!(keys(&gc(&fixture.store, ALL, later()).await.unwrap()), garbage);
        }
        assert!(fixture.store.get(&digest).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_short_grace_is_warned_of_while_a_plan_is_not_done() {
        let fixture = Fixture::finished().await;
        let warning = async |minutes: u64| {
            let options = Options { grace: Duration::from_secs(60 * minutes), dry_run: true, unused_folders: false };
            gc(&fixture.store, options, later()).await.unwrap().warning
        };
        assert_eq!(warning(59).await, None, "nothing is at work");
        fixture.store.delete(&fixture.plan.dir(Stage::Filter).manifest(1)).await.unwrap();
        let told = warning(59).await.unwrap();
        assert!(told.contains("filter of the plan") && told.contains("1 of 2 partitions"), "{told}");
        assert_eq!(warning(60).await, None);
    }

    #[tokio::test]
    async fn folders_of_no_plan_are_reported_and_removed_on_request() {
        let fixture = Fixture::finished().await;
        let key = put(&fixture, "pairs/0123456789ab/data/p00000000-x.tar").await;
        let told = gc(&fixture.store, Options { unused_folders: false, ..ALL }, later()).await.unwrap();
        assert_eq!(told.unused, [Unused { folder: "pairs/0123456789ab".to_string(), objects: 1, bytes: 9, remove: false }]);
        assert!(told.to_string().contains("left alone: pairs/0123456789ab with 1 objects, 9 B"));
        assert!(fixture.store.get(&key).await.unwrap().is_some());
        let young = gc(&fixture.store, ALL, now()).await.unwrap();
        assert!(!young.unused[0].remove);
        gc(&fixture.store, ALL, later()).await.unwrap();
        assert!(fixture.store.get(&key).await.unwrap().is_none());
    }

    /// A store that deletes only so many objects.
    #[derive(Debug)]
    struct Dying {
        inner: Arc<dyn ObjectStore>,
        deletes: Arc<AtomicU32>,
    }

    impl fmt::Display for Dying {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{} that dies", self.inner)
        }
    }

    type Answer<T> = object_store::Result<T>;

    #[async_trait::async_trait]
    impl ObjectStore for Dying {
        async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Answer<PutResult> {
            self.inner.put_opts(location, payload, options).await
        }

        async fn put_multipart_opts(&self, location: &Path, options: PutMultipartOptions) -> Answer<Box<dyn MultipartUpload>> {
            self.inner.put_multipart_opts(location, options).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Answer<GetResult> {
            self.inner.get_opts(location, options).await
        }

        fn delete_stream(&self, locations: BoxStream<'static, Answer<Path>>) -> BoxStream<'static, Answer<Path>> {
            let deletes = self.deletes.clone();
            let allowed = move || deletes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            let died = || object_store::Error::Generic { store: "test", source: "the store died".into() };
            let locations = locations.map(move |location| if allowed() { location } else { Err(died()) });
            self.inner.delete_stream(locations.boxed())
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Answer<ObjectMeta>> {
            self.inner.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Answer<ListResult> {
            self.inner.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Answer<()> {
            self.inner.copy_opts(from, to, options).await
        }
    }

    /// The folders of a plan that is gone, which comes back when its pipeline is run again.
    #[tokio::test]
    async fn however_far_it_comes_no_manifest_is_left_that_names_what_is_gone() {
        let mut whole_at = None;
        for deletes in 0.. {
            let Fixture { store, plan } = Fixture::closed().await;
            let mut spec = spec();
            spec.seed = 7;
            let other = Plan::new(spec, plan.corpus_dir, plan.corpus, plan.models.clone(), plan.partitioning);
            store.put(&layout::plan(other.fingerprint()), commit::encode(&other).unwrap()).await.unwrap();
            let partitioning = layout::partitioning(&plan.dir(Stage::Prompts));
            let frozen = store.require(&partitioning).await.unwrap();
            store.delete(&layout::plan(plan.fingerprint())).await.unwrap();

            let dying = Dying { inner: store.raw("").0, deletes: Arc::new(AtomicU32::new(deletes)) };
            let result = gc(&Store::over(Arc::new(dying), store.url()), ALL, later()).await;
            // The next run freezes the same partitioning again.
            store.put(&partitioning, frozen).await.unwrap();
            let audit = audit(&store, &plan, false).await.unwrap();
            assert!(audit.is_sound(), "after {deletes} deletes: {audit}");
            if result.is_ok() {
                whole_at = Some(deletes);
                break;
            }
        }
        assert!(whole_at.is_some_and(|deletes| deletes > 30), "{whole_at:?}");
    }

    #[tokio::test]
    async fn an_unreadable_plan_or_no_plan_stops_everything() {
        let fixture = Fixture::finished().await;
        put(&fixture, "plans/broken.json").await;
        let loser = put(&fixture, &fixture.plan.dir(Stage::Pairs).data(0, 99, 0, "images.tar")).await;
        assert!(gc(&fixture.store, ALL, later()).await.is_err());
        assert!(fixture.store.get(&loser).await.unwrap().is_some());
        assert!(gc(&Store::memory(), ALL, later()).await.is_err());
    }
}

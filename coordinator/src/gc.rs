//! `gc`: removes what lost attempts left behind.
//!
//! An object is garbage when it is an attempt's data or a probe's, no manifest of any plan of the run names it, and it is older
//! than the grace period. An attempt writes its data just before it commits, so anything it may still commit is
//! young. The age is the store's own; objects are listed before manifests are read, so that a commit in between is
//! seen.

use crate::forecast::human_bytes;
use crate::found;
use crate::listing::{self, Listed};
use crate::prepare;
use crate::text::{count, duration, printable};
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result, commit, corpus};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::time::{Duration, SystemTime};

/// Objects removed at the same time.
const PARALLEL: usize = 16;

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

    // A coordinator that was killed while it started has left its probe behind.
    let mut unnamed = listing::objects(store, layout::PROBES).await?;
    for dir in dirs.values() {
        unnamed.extend(unnamed_data(store, dir).await?);
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
        let removals = garbage.iter().map(|object| store.delete(&object.key));
        futures::stream::iter(removals).buffer_unordered(PARALLEL).try_collect::<()>().await?;
    }
    Ok(Collected { dry_run: options.dry_run, objects: garbage, young, grace_seconds: options.grace.as_secs_f64(), unused })
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
    // A partition at work is named by its chunks.
    let at_work: BTreeSet<u32> = objects.iter().filter_map(|object| StageDir::partition_of_part(&object.key)).collect();
    for &partition in at_work.difference(&committed) {
        let chunks = commit::chunk_chain(store, dir, partition).await?;
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
    use crate::fixture::Fixture;
    use bytes::Bytes;

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
        let fixture = Fixture::finished().await;
        let collected = gc(&fixture.store, ALL, later()).await.unwrap();
        assert_eq!((keys(&collected).len(), collected.young, collected.unused.len()), (0, 0, 0));
        assert!(audit(&fixture.store, &fixture.plan, false).await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn a_losers_data_goes_after_the_grace_period_and_nothing_else() {
        let fixture = Fixture::finished().await;
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

//! The index holds every verdict, and each shard format every kept pair.

use super::inspect::{Inspector, Present, damage_in};
use super::{PARALLEL, Tally, Verdicts, closing};
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::formats::count::{rows_in_parquet, samples_in_tar};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{DataObject, PartitionManifest};
use ip2p_pipeline::manifest::{SHARDS_FIGURE, role, shards_of};
use ip2p_pipeline::records::{IndexRow, ShardRow};
use ip2p_pipeline::spec::ShardFormat;
use ip2p_pipeline::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;

/// The table of kept pairs, and what the shards have to hold of it.
#[derive(Clone, Copy, Default)]
struct Kept {
    rows: Tally,
    samples: Tally,
    seeds: Tally,
}

impl Kept {
    fn add(&mut self, row: &IndexRow) {
        self.rows.add(row);
        ShardRow::of(row).iter().for_each(|sample| self.samples.add(sample));
        self.seeds.add(&row.candidate.seed);
    }
}

/// Checks `index` and `shards` against the verdicts of `filter`, if those are known. Returns the number of shards.
pub(super) async fn check(all: &mut Inspector<'_>, verdicts: Option<Verdicts>, present: &Present) -> Result<Option<u32>> {
    let needed = present.needed(Stage::Index, 0);
    let Some(index) = all.manifest(Stage::Index, 0, needed).await? else { return Ok(None) };
    let key = all.plan.dir(Stage::Index).manifest(0);
    let kept = verdicts.as_ref().map_or_else(|| index.counts().output, |verdicts| verdicts.kept.rows);
    let Some(shards) = shards_of(&index.figures(), kept) else {
        all.report(Stage::Index, Some(0), Some(&key), format!("it cannot have so many shards: {}", figure(&index, SHARDS_FIGURE)));
        return Ok(None);
    };
    let tables = index_tables(all, &index, &key).await?;
    if let (Some(verdicts), Some((found, kept))) = (verdicts, tables) {
        if found != verdicts {
            let problem = format!(
                "the index has {} rows with {} kept, the filter's partitions have {} with {}; or some rows differ",
                found.all.rows, found.kept.rows, verdicts.all.rows, verdicts.kept.rows
            );
            all.report(Stage::Index, Some(0), Some(&key), problem);
        }
        if kept.rows != verdicts.kept {
            let (found, expected) = (kept.rows.rows, verdicts.kept.rows);
            let problem = format!("the table of kept pairs has {found} rows, the filter kept {expected}; or some rows differ");
            all.report(Stage::Index, Some(0), Some(&key), problem);
        }
    }
    let pairs = ["train_pairs", "validation_pairs", "test_pairs"].map(|name| figure(&index, name) as u64).iter().sum();
    if let Some(Verdicts { all: rows, kept }) = verdicts
        && rows.rows > 0
        && pairs != kept.rows
    {
        all.report(Stage::Index, Some(0), Some(&key), format!("its splits have {pairs} pairs, the filter kept {}", kept.rows));
    }
    check_shards(all, shards, pairs, tables.map(|(_, kept)| kept), present).await?;
    Ok(Some(shards))
}

fn figure(manifest: &PartitionManifest, name: &str) -> f64 {
    manifest.figures().get(name).copied().unwrap_or(0.0)
}

/// Tallies of the whole index and of its table of kept pairs; `None` when they were not or could not be read.
async fn index_tables(all: &mut Inspector<'_>, index: &PartitionManifest, key: &str) -> Result<Option<(Verdicts, Kept)>> {
    for chunk in &index.chunks {
        all.check_objects(chunk, &[role::INDEX, role::KEPT]).await?;
    }
    if all.quick {
        return Ok(None);
    }
    let missing = [role::INDEX, role::KEPT].into_iter().filter(|role| index.objects(role).next().is_none());
    let missing: Vec<&str> = missing.collect();
    missing.iter().for_each(|role| all.report(Stage::Index, Some(0), Some(key), format!("it names no object `{role}`")));
    let found = all.visit(index, role::INDEX, Verdicts::default(), Verdicts::add).await?;
    let kept = all.visit(index, role::KEPT, Kept::default(), Kept::add).await?;
    Ok(found.zip(kept).filter(|_| missing.is_empty()))
}

/// What the shards of a format hold, by the words for it.
type Samples = BTreeMap<&'static str, Tally>;

/// The words for what the shards of a format hold: each is one sample a pair.
fn holdings(format: ShardFormat) -> &'static [&'static str] {
    match format {
        ShardFormat::Webdataset => &["the webdataset shards hold"],
        ShardFormat::Parquet => &["the parquet shards hold"],
        ShardFormat::Original => &["the original shards hold", "the original shards hold second images of"],
    }
}

async fn check_shards(all: &mut Inspector<'_>, shards: u32, pairs: u64, kept: Option<Kept>, present: &Present) -> Result<()> {
    for partition in present.of(Stage::Shards).filter(|&partition| partition >= shards) {
        let key = all.plan.dir(Stage::Shards).manifest(partition);
        all.report(Stage::Shards, Some(partition), Some(&key), format!("the index plans {shards} shards, counted from 0"));
    }
    let (store, plan, quick) = (all.store, all.plan, all.quick);
    // Before the manifests: a shard committed meanwhile names what it has written.
    let files = store.list(&plan.dir(Stage::Shards).dataset_root()).await?;
    let mut unnamed: BTreeSet<String> = files.into_iter().map(|(key, _)| key).collect();
    let check = |partition| check_shard(Inspector::new(store, plan, quick), partition);
    let mut checked = futures::stream::iter(0..shards).map(check).buffered(PARALLEL);
    let (mut written, mut found, mut complete, mut committed) = (0, Samples::new(), true, 0);
    while let Some((inspector, shard)) = checked.try_next().await? {
        complete &= shard.is_some() && inspector.findings.is_empty();
        all.join(inspector);
        if let Some(shard) = shard {
            written += shard.written;
            committed += 1;
            for key in &shard.files {
                unnamed.remove(key);
            }
            shard.samples.iter().for_each(|(what, tally)| found.entry(what).or_default().join(tally));
        }
    }
    // While shards are written their files are there before they are named.
    if committed == shards {
        closing::check(all, unnamed).await?;
    }
    if !complete {
        return Ok(());
    }
    let formats = &plan.spec.stages.shards.formats;
    if written != pairs * formats.len() as u64 {
        let problem =
            format!("the shards' manifests account for {written} samples, {} formats of {pairs} kept pairs expected", formats.len());
        all.report(Stage::Shards, None, None, problem);
    }
    for format in formats.iter().filter(|_| !quick) {
        let expected = kept.map(|kept| if *format == ShardFormat::Original { kept.seeds } else { kept.samples });
        for what in holdings(*format) {
            let found = found.get(what).copied().unwrap_or_default();
            if found.rows != pairs {
                all.report(Stage::Shards, None, None, format!("{what} {} pairs, {pairs} were kept", found.rows));
            } else if expected.is_some_and(|expected| expected != found) {
                let problem = format!("{what} {pairs} pairs, but not those that were kept: some are there twice, altered or strange");
                all.report(Stage::Shards, None, None, problem);
            }
        }
    }
    Ok(())
}

/// What one partition of `shards` holds.
struct Shard {
    /// By its manifest.
    written: u64,
    /// By its content.
    samples: Samples,
    /// Keys of its files.
    files: Vec<String>,
}

async fn check_shard(mut all: Inspector<'_>, partition: u32) -> Result<(Inspector<'_>, Option<Shard>)> {
    let Some(manifest) = all.manifest(Stage::Shards, partition, false).await? else { return Ok((all, None)) };
    let files = manifest.chunks.iter().flat_map(|chunk| &chunk.objects).map(|object| object.key.clone()).collect();
    let mut shard = Shard { written: manifest.counts().output, samples: Samples::new(), files };
    for chunk in &manifest.chunks {
        all.check_objects(chunk, &[role::SHARD]).await?;
        if all.quick {
            continue;
        }
        for object in chunk.objects.iter().filter(|object| object.role == role::SHARD) {
            let Some(file) = all.file(partition, object).await? else { continue };
            let Some((what, samples)) = samples_in(&all, object, file) else { continue };
            match damage_in(samples)? {
                Ok(tally) => shard.samples.entry(what).or_default().join(&tally),
                Err(e) => all.report(Stage::Shards, Some(partition), Some(&object.key), format!("it cannot be read: {e}")),
            }
        }
    }
    Ok((all, Some(shard)))
}

/// Samples in a file of the dataset; `None` for files that hold none, such as lists and cards.
fn samples_in(all: &Inspector<'_>, object: &DataObject, file: File) -> Option<(&'static str, Result<Tally>)> {
    let root = format!("{}/", all.plan.dir(Stage::Shards).dataset_root());
    let path = object.key.strip_prefix(&root)?;
    let (folder, name) = path.split_once('/')?;
    let mut tally = Tally::default();
    let (what, read) = match folder {
        "data" => (holdings(ShardFormat::Parquet)[0], rows_in_parquet(&object.key, file, |row| tally.add(&row))),
        "webdataset" => (holdings(ShardFormat::Webdataset)[0], samples_in_tar(&object.key, BufReader::new(file), |row| tally.add(&row))),
        "original" => {
            let (seed, which) = image_name(name)?;
            let seed = seed.parse::<u64>().map_err(|e| Error::format(&object.key, format!("its name has no seed: {e}")));
            (holdings(ShardFormat::Original)[which], seed.map(|seed| tally.add(&seed)))
        }
        _ => return None,
    };
    Some((what, read.map(|()| tally)))
}

/// The seed in `<folder>/<seed>_0.jpg` or `<seed>_1.jpg`, which names a pair in the original layout, and which image it is.
fn image_name(path: &str) -> Option<(&str, usize)> {
    let name = path.rsplit('/').next()?;
    let (stem, _) = name.rsplit_once('.')?;
    stem.strip_suffix("_0").map(|seed| (seed, 0)).or_else(|| stem.strip_suffix("_1").map(|seed| (seed, 1)))
}

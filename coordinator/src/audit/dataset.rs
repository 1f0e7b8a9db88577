//! The index holds every verdict, and each shard format every kept pair.

use super::inspect::{Inspector, Present};
use super::{PARALLEL, Tally, closing};
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::Result;
use ip2p_pipeline::formats::count::{rows_in_parquet, samples_in_tar};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{DataObject, PartitionManifest};
use ip2p_pipeline::manifest::{SHARDS_FIGURE, role};
use ip2p_pipeline::spec::ShardFormat;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::BufReader;

/// Checks `index` and `shards` against the verdicts of `filter`, if those are known. Returns the number of shards.
pub(super) async fn check(all: &mut Inspector<'_>, verdicts: Option<Tally>, present: &Present) -> Result<Option<u32>> {
    let needed = present.needed(Stage::Index, 0);
    let Some(index) = all.manifest(Stage::Index, 0, needed).await? else { return Ok(None) };
    let shards = figure(&index, SHARDS_FIGURE) as u32;
    let key = all.plan.dir(Stage::Index).manifest(0);
    let kept = index_tables(all, &index, &key).await?;
    if let (Some(verdicts), Some((found, kept_table))) = (verdicts, kept) {
        if found != verdicts {
            let problem = format!(
                "the index has {} rows with {} kept, the filter's partitions have {} with {}; or some verdicts differ",
                found.rows, found.kept, verdicts.rows, verdicts.kept
            );
            all.report(Stage::Index, Some(0), Some(&key), problem);
        }
        if (kept_table.rows, kept_table.kept) != (verdicts.kept, verdicts.kept) {
            let problem = format!("the table of kept pairs has {} rows, the filter kept {}", kept_table.rows, verdicts.kept);
            all.report(Stage::Index, Some(0), Some(&key), problem);
        }
    }
    let pairs = ["train_pairs", "validation_pairs", "test_pairs"].map(|name| figure(&index, name) as u64).iter().sum();
    if let Some(verdicts) = verdicts
        && verdicts.rows > 0
        && pairs != verdicts.kept
    {
        all.report(Stage::Index, Some(0), Some(&key), format!("its splits have {pairs} pairs, the filter kept {}", verdicts.kept));
    }
    check_shards(all, shards, pairs, present).await?;
    Ok(Some(shards))
}

fn figure(manifest: &PartitionManifest, name: &str) -> f64 {
    manifest.figures().get(name).copied().unwrap_or(0.0)
}

/// Tallies of the whole index and of its table of kept pairs; `None` when they were not or could not be read.
async fn index_tables(all: &mut Inspector<'_>, index: &PartitionManifest, key: &str) -> Result<Option<(Tally, Tally)>> {
    let mut tallies = Vec::new();
    for chunk in &index.chunks {
        all.check_objects(chunk, &[role::INDEX, role::KEPT]).await?;
    }
    if all.quick {
        return Ok(None);
    }
    for role in [role::INDEX, role::KEPT] {
        match index.objects(role).next() {
            Some(object) => tallies.extend(all.tally(object).await?),
            None => all.report(Stage::Index, Some(0), Some(key), format!("it names no object `{role}`")),
        }
    }
    Ok(match tallies[..] {
        [found, kept] => Some((found, kept)),
        _ => None,
    })
}

/// Samples found in the objects of each format.
type Samples = BTreeMap<&'static str, u64>;

async fn check_shards(all: &mut Inspector<'_>, shards: u32, kept: u64, present: &Present) -> Result<()> {
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
            shard.samples.into_iter().for_each(|(format, n)| *found.entry(format).or_default() += n);
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
    if written != kept * formats.len() as u64 {
        let problem =
            format!("the shards' manifests account for {written} samples, {} formats of {kept} kept pairs expected", formats.len());
        all.report(Stage::Shards, None, None, problem);
    }
    for format in formats.iter().map(|format| format.name()).filter(|_| !quick) {
        let n = found.get(format).copied().unwrap_or(0);
        if n != kept {
            all.report(Stage::Shards, None, None, format!("the {format} shards hold {n} pairs, {kept} were kept"));
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
            let Some((format, samples)) = samples_in(&all, object, file) else { continue };
            match samples {
                Ok(n) => *shard.samples.entry(format.name()).or_default() += n,
                Err(e) => all.report(Stage::Shards, Some(partition), Some(&object.key), format!("it cannot be read: {e}")),
            }
        }
    }
    Ok((all, Some(shard)))
}

/// Samples in a file of the dataset; `None` for files that hold none, such as lists and cards.
fn samples_in(all: &Inspector<'_>, object: &DataObject, file: File) -> Option<(ShardFormat, Result<u64, String>)> {
    let root = format!("{}/", all.plan.dir(Stage::Shards).dataset_root());
    let path = object.key.strip_prefix(&root)?;
    let (folder, name) = path.split_once('/')?;
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    match folder {
        "data" => Some((ShardFormat::Parquet, rows_in_parquet(file))),
        "webdataset" => Some((ShardFormat::Webdataset, samples_in_tar(BufReader::new(file)))),
        // `<seed>_0.jpg` and `<seed>_1.jpg` of each pair.
        "original" if stem.ends_with("_0") => Some((ShardFormat::Original, Ok(1))),
        _ => None,
    }
}

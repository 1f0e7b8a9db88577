//! `shards`: the kept pairs as training shards. Partition k is task k of the shard plan, which every worker
//! derives from the index alone.

use super::{Env, Work, input, role, rows};
use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{ChunkData, ChunkPlace};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::Error;
use ip2p_pipeline::formats::{Sample, ShardStats, ShardWriter, original};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, DataObject};
use ip2p_pipeline::records::{ImageRef, IndexRow};
use ip2p_pipeline::shard_plan::{Folder, KeptPair, ShardPlan, ShardTask};
use ip2p_pipeline::spec::ShardFormat;
use ip2p_pipeline::task::Cause;
use std::sync::Arc;

struct ShardsWork {
    env: Env,
    kept: Vec<IndexRow>,
    plan: ShardPlan,
    task: ShardTask,
    written: Vec<DataObject>,
    counts: Counts,
}

pub(super) async fn open(env: &Env, partition: u32) -> Result<impl Work + use<>> {
    let index = input(env, Stage::Index, 0).await?;
    let kept: Vec<IndexRow> = rows(env, &index, role::KEPT).await?;
    let mut pairs = Vec::new();
    for (position, row) in (0u32..).zip(&kept) {
        pairs.extend(KeptPair::of(position, row).map_err(domain)?);
    }
    let spec = &env.plan.spec;
    let plan = ShardPlan::new(pairs, spec.seed, &spec.stages.shards).map_err(domain)?;
    let task = plan.tasks().get(partition as usize).cloned();
    let task = task.ok_or_else(|| failure(Cause::Bug, format!("the index has no shard {partition}")))?;
    Ok(ShardsWork { env: env.clone(), kept, plan, task, written: Vec::new(), counts: Counts::default() })
}

/// Images fetched at the same time while a shard is written.
const FETCHES: usize = 16;

#[async_trait]
impl Work for ShardsWork {
    /// A shard is written whole or not at all.
    fn records(&self) -> u64 {
        1
    }

    async fn step(&mut self, _start: u64, control: &Arc<Control>) -> Result<u64> {
        self.counts = Counts { expected: self.task.len() as u64, output: self.task.len() as u64, ..Counts::default() };
        self.written = match self.task.clone() {
            ShardTask::File { format, split, path, pairs } => {
                let samples: Vec<(u64, u32)> = self.plan.samples(&pairs).collect();
                vec![self.write_file(format, split.name(), &path, samples).await?]
            }
            ShardTask::Folders { pairs } => {
                let folders: Vec<Folder> = self.plan.folders(&pairs).collect();
                self.write_folders(&folders).await?
            }
            ShardTask::Seeds => vec![self.put(original::SEEDS_PATH, self.plan.seeds_json().into()).await?],
        };
        control.made(self.task.len() as u64, 0);
        Ok(1)
    }

    async fn take_chunk(&mut self, _place: &ChunkPlace) -> Result<ChunkData> {
        let figures = [("samples".to_string(), self.task.len() as f64)].into();
        Ok(ChunkData { counts: self.counts.clone(), written: std::mem::take(&mut self.written), figures, ..ChunkData::default() })
    }
}

impl ShardsWork {
    /// Writes one WebDataset or Parquet file through a local temporary file, which bounds memory.
    async fn write_file(&self, format: ShardFormat, split: &str, path: &str, samples: Vec<(u64, u32)>) -> Result<DataObject> {
        let local = tempfile::NamedTempFile::new().map_err(|e| temporary(std::env::temp_dir(), e))?;
        let out = std::io::BufWriter::new(local.as_file());
        let mut writer = ShardWriter::new(format, self.env.plan.spec.stages.shards.columns, path, out).map_err(domain)?;
        let mut fetched = self.fetch(samples);
        while let Some(sample) = fetched.try_next().await? {
            writer.add(&sample).map_err(domain)?;
        }
        let (out, stats) = writer.finish(split).map_err(domain)?;
        out.into_inner().map_err(|e| temporary(local.path().to_path_buf(), e.into_error()))?;
        let key = self.key(path);
        self.env.store.put_file(&key, local.path()).await.map_err(domain)?;
        Ok(described(key, stats))
    }

    async fn write_folders(&self, folders: &[Folder]) -> Result<Vec<DataObject>> {
        let mut objects = Vec::new();
        for folder in folders {
            let numbers = folder.rows.iter().map(|&row| (0, row)).collect();
            let samples: Vec<Sample> = self.fetch(numbers).try_collect().await?;
            for (path, bytes) in original::folder(&folder.name, &samples).map_err(domain)? {
                objects.push(self.put(&path, bytes).await?);
            }
        }
        Ok(objects)
    }

    /// The samples of (number, row), in order, with their images.
    fn fetch(&self, samples: Vec<(u64, u32)>) -> impl futures::Stream<Item = Result<Sample>> + Unpin + '_ {
        let load = move |(number, row): (u64, u32)| async move {
            let row = self.kept.get(row as usize).ok_or_else(|| failure(Cause::Bug, format!("the index has no kept row {row}")))?;
            let images = row.images.as_ref().ok_or_else(|| failure(Cause::Bug, format!("pair {} has no images", row.pair)))?;
            let images = [self.image(&images[0]).await?, self.image(&images[1]).await?];
            Sample::new(number, row.clone(), images).map_err(domain)
        };
        Box::pin(futures::stream::iter(samples).map(load).buffered(FETCHES))
    }

    async fn image(&self, image: &ImageRef) -> Result<Bytes> {
        self.env.store.get_range(&image.object, image.offset..image.offset + image.length).await.map_err(domain)
    }

    fn key(&self, path: &str) -> String {
        self.env.plan.dir(Stage::Shards).dataset(path)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<DataObject> {
        let object = DataObject::describe(role::SHARD, self.key(path), &bytes);
        self.env.store.put(&object.key, bytes).await.map_err(domain)?;
        Ok(object)
    }
}

fn described(key: String, stats: ShardStats) -> DataObject {
    DataObject { role: role::SHARD.to_string(), key, bytes: stats.bytes, blake3: stats.blake3 }
}

fn temporary(path: std::path::PathBuf, source: std::io::Error) -> ip2p_pipeline::task::Failure {
    domain(Error::File { path: path.display().to_string(), source })
}

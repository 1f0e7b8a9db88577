//! `shards`: the kept pairs as training shards. Partition k is task k of the shard plan, which every worker
//! derives from the index alone.

use super::kept::Kept;
use super::local::{Local, described};
use super::{Env, role};
use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{ChunkData, ChunkPlace, Work};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::commit;
use ip2p_pipeline::formats::{Sample, ShardWriter, original};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{ChunkManifest, Counts, DataObject};
use ip2p_pipeline::shard_plan::{Folder, ShardTask};
use ip2p_pipeline::spec::ShardFormat;
use ip2p_pipeline::task::Cause;
use std::collections::HashMap;
use std::sync::Arc;

struct ShardsWork {
    env: Env,
    kept: Arc<Kept>,
    task: ShardTask,
    /// The files of a shard that is committed, by key: no others may take their place.
    committed: Option<HashMap<String, DataObject>>,
    written: Vec<DataObject>,
    counts: Counts,
}

pub(super) async fn open(env: &Env, partition: u32) -> Result<impl Work + use<>> {
    ShardsWork::open(env, partition).await
}

/// Writes the files of a committed shard again. Their bytes are a pure function of the lineage, so they are those
/// that the manifest describes; if not, nothing is written.
pub(super) async fn restore(env: &Env, partition: u32, chunks: &[ChunkManifest], control: &Arc<Control>) -> Result<()> {
    let mut work = ShardsWork::open(env, partition).await?;
    let objects = chunks.iter().flat_map(|chunk| &chunk.objects);
    let committed: HashMap<String, DataObject> = objects.map(|object| (object.key.clone(), object.clone())).collect();
    let files = committed.len();
    work.committed = Some(committed);
    work.step(0, control).await?;
    if work.written.len() != files {
        return Err(work.differs(&format!("{} files, {files} are committed", work.written.len())));
    }
    tracing::info!(partition, files, "wrote the files of a committed shard again");
    Ok(())
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
                let samples: Vec<(u64, u32)> = self.kept.plan.samples(&pairs).collect();
                vec![self.write_file(format, split.name(), &path, samples).await?]
            }
            ShardTask::Folders { pairs } => {
                let folders: Vec<Folder> = self.kept.plan.folders(&pairs).collect();
                self.write_folders(&folders).await?
            }
            ShardTask::Seeds => vec![self.put(original::SEEDS_PATH, self.kept.plan.seeds_json().into()).await?],
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
    async fn open(env: &Env, partition: u32) -> Result<Self> {
        let kept = env.kept.load(env).await?;
        let task = kept.plan.tasks().get(partition as usize).cloned();
        let task = task.ok_or_else(|| failure(Cause::Bug, format!("the index has no shard {partition}")))?;
        Ok(ShardsWork { env: env.clone(), kept, task, committed: None, written: Vec::new(), counts: Counts::default() })
    }

    /// Writes one WebDataset or Parquet file through a local temporary file, which bounds memory.
    async fn write_file(&self, format: ShardFormat, split: &str, path: &str, samples: Vec<(u64, u32)>) -> Result<DataObject> {
        let local = Local::new()?;
        let columns = self.env.plan.spec.stages.shards.columns;
        let mut writer = ShardWriter::new(format, columns, path, local.sink()?).map_err(domain)?;
        let mut fetched = self.fetch(samples);
        while let Some(sample) = fetched.try_next().await? {
            writer.add(&sample).map_err(domain)?;
        }
        let (sink, stats) = writer.finish(split).map_err(domain)?;
        local.close(sink)?;
        let object = described(role::SHARD, self.key(path), stats);
        self.may_write(&object)?;
        local.upload(&self.env.store, &object.key).await?;
        Ok(object)
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
            let found = self.kept.rows.get(row as usize)?;
            let row = found.ok_or_else(|| failure(Cause::Bug, format!("the index has no kept row {row}")))?;
            let images = row.images.as_ref().ok_or_else(|| failure(Cause::Bug, format!("pair {} has no images", row.pair)))?;
            let read = |image| commit::read_image(&self.env.store, image);
            let images = [read(&images[0]).await.map_err(domain)?, read(&images[1]).await.map_err(domain)?];
            Sample::new(number, row, images).map_err(domain)
        };
        Box::pin(futures::stream::iter(samples).map(load).buffered(FETCHES))
    }

    fn key(&self, path: &str) -> String {
        self.env.plan.dir(Stage::Shards).dataset(path)
    }

    async fn put(&self, path: &str, bytes: Bytes) -> Result<DataObject> {
        let object = DataObject::describe(role::SHARD, self.key(path), &bytes);
        self.may_write(&object)?;
        self.env.store.put(&object.key, bytes).await.map_err(domain)?;
        Ok(object)
    }

    /// A committed shard gets the bytes that its manifest describes, or none.
    fn may_write(&self, object: &DataObject) -> Result<()> {
        match &self.committed {
            Some(committed) if committed.get(&object.key) != Some(object) => {
                Err(self.differs(&format!("{} with {} bytes and BLAKE3 {}", object.key, object.bytes, object.blake3)))
            }
            _ => Ok(()),
        }
    }

    fn differs(&self, made: &str) -> ip2p_pipeline::task::Failure {
        let dir = self.env.plan.dir(Stage::Shards);
        let message = format!(
            "a shard cannot be written again as it was: now it would be {made}, which its manifest does not say. Another version of this \
             program wrote it: use that one, or delete {}/ and run again to write the whole dataset anew",
            self.env.store.url_of(&dir.root())
        );
        failure(Cause::BadInput, message)
    }
}

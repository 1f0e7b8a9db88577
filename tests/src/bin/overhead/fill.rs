//! A store with committed tasks, made quickly: by the real attempts and commits, but without waiting for the disk.

use crate::toy::Toy;
use crate::{STAGE, Size, plan};
use futures::{StreamExt, TryStreamExt};
use ip2p_coordinator::digest;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Finished};
use ip2p_worker::run_partition::run_partition;
use object_store::local::LocalFileSystem;
use std::sync::Arc;
use std::time::Duration;

/// Partitions in a digest of a run.
const DIGEST: usize = 1000;
/// Partitions at the same time.
const AT_ONCE: usize = 4;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    size: Size,
    /// As if the digests had been lost
    #[arg(long)]
    without_digests: bool,
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let folder = &arguments.size.store;
    let plan = plan(&arguments.size)?;
    std::fs::create_dir_all(folder)?;
    let store = Store::over(Arc::new(LocalFileSystem::new_with_prefix(folder)?), &format!("file://{}", folder.display()));
    let toy = Toy::new(store.clone(), &plan, Duration::ZERO);
    let attempt = |partition: u32| {
        let toy = &toy;
        async move {
            // Of a term before all terms.
            let assignment = Assignment { stage: STAGE, partition, epoch: u64::from(partition) + 1, failures: 0 };
            let finished = run_partition(toy, assignment, "filler", &Arc::default()).await;
            finished.map(|finished| (partition, finished)).map_err(|f| anyhow::anyhow!(f.message))
        }
    };
    let partitions = plan.partitioning.partitions()?;
    let committed: Vec<(u32, Finished)> = futures::stream::iter(0..partitions).map(attempt).buffered(AT_ONCE).try_collect().await?;
    if !arguments.without_digests {
        for some in committed.chunks(DIGEST) {
            digest::write_committed(&store, plan.dir(STAGE), some.to_vec()).await;
        }
    }
    println!("done {{}}");
    Ok(())
}

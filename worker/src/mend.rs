//! Damaged objects of a committed partition, made again.
//!
//! What a stage makes follows from its input and the plan, so it can be made once more. A manifest is never changed: an
//! object gets exactly the bytes that its manifest describes, or none.

use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::run_partition::{ChunkPlace, Stages};
use ip2p_pipeline::Error;
use ip2p_pipeline::fetch;
use ip2p_pipeline::manifest::{ChunkManifest, DataObject};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::task::{Assignment, Cause, Failure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Objects = BTreeMap<String, DataObject>;

/// Reads every object of the chunks, and makes those again that are missing or altered.
pub async fn mend(stages: &dyn Stages, assignment: Assignment, chunks: &[ChunkManifest], control: &Arc<Control>) -> Result<()> {
    for chunk in chunks {
        let damaged = damaged_objects(stages.store(), chunk).await?;
        if !damaged.is_empty() {
            make_again(stages, assignment, chunk, damaged, control).await?;
        }
    }
    Ok(())
}

async fn damaged_objects(store: &Store, chunk: &ChunkManifest) -> Result<Objects> {
    let mut damaged = Objects::new();
    for object in &chunk.objects {
        match fetch::stream(store, object, &mut std::io::sink()).await {
            Err(Error::Damaged { .. }) => drop(damaged.insert(object.key.clone(), object.clone())),
            read => read.map_err(domain)?,
        }
    }
    Ok(damaged)
}

async fn make_again(
    stages: &dyn Stages,
    assignment: Assignment,
    chunk: &ChunkManifest,
    damaged: Objects,
    control: &Arc<Control>,
) -> Result<()> {
    let mut missing: BTreeSet<String> = damaged.keys().cloned().collect();
    let (dir, partition) = (stages.dir(chunk.stage), chunk.partition);
    let place = ChunkPlace { dir, partition, epoch: chunk.attempt.epoch, start: chunk.start, damaged: Some(Arc::new(damaged)) };
    let mut work = stages.open(assignment, Some(chunk)).await?;
    let mut end = chunk.start;
    while end < chunk.end {
        end = work.step(end, control).await?.max(end + 1);
        control.at_record(end, work.records());
        if control.lost() || control.draining() {
            return Err(failure(Cause::Preempted, "asked to leave"));
        }
    }
    let data = work.take_chunk(&place).await?;
    for object in &data.written {
        missing.remove(&object.key);
    }
    for (role, key, bytes) in data.objects {
        let object = DataObject::describe(role, key, &bytes);
        if place.may_write(stages.store(), &object)? {
            stages.store().put(&object.key, bytes).await.map_err(domain)?;
            tracing::info!(object = object.key, "a damaged object was made again");
        }
        missing.remove(&object.key);
    }
    missing.first().map_or(Ok(()), |key| Err(differs(stages.store(), key)))
}

/// The failure of an object that would not get its bytes back.
pub(crate) fn differs(store: &Store, key: &str) -> Failure {
    let message = format!(
        "object {} is damaged and cannot be made again as it was: a language model on a server, another version of this program or \
         another kind of device made it. Run `audit`: it says what to delete so that this and all that was made from it is made anew",
        store.url_of(key)
    );
    failure(Cause::BadInput, message)
}

//! Work that would hold up heartbeats: a worker has one thread for everything that waits.

use crate::failure::{Result, failure};
use ip2p_pipeline::task::Cause;

/// Runs `work` on another thread. `purpose` completes "the thread ..." in messages.
pub async fn blocking<T: Send + 'static>(purpose: &str, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| failure(Cause::Bug, format!("the thread {purpose} ended: {e}")))?
}

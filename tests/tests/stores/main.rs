//! One suite for every store that can hold a run: a local folder and memory always, and the servers that
//! `IP2P_TEST_STORES` names, as `tests/stores/run.sh` does.

mod conformance;
mod faults;
mod runs;

use ip2p_pipeline::store::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;
use tempfile::TempDir;

/// A store of one test, empty at the start.
struct Place {
    store: Store,
    /// The folder of a local one, removed at the end.
    _folder: Option<Arc<TempDir>>,
}

/// URLs of real servers: `s3://bucket az://container`, reached as the environment says.
fn servers() -> Vec<String> {
    let urls = std::env::var("IP2P_TEST_STORES").unwrap_or_default();
    urls.split_whitespace().map(str::to_string).collect()
}

/// Every store, each with a prefix of its own.
fn places() -> Vec<Place> {
    ip2p_worker::tls::install();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let local = Store::open(&format!("file://{}", folder.path().display())).expect("a local store");
    let remote = servers().into_iter().map(|url| Place { store: Store::open(&url).expect("a store").child(&unique()), _folder: None });
    let own = [Place { store: local, _folder: Some(Arc::new(folder)) }, Place { store: Store::memory(), _folder: None }];
    own.into_iter().chain(remote).collect()
}

/// A name that no other test has, in this process or another.
fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos();
    format!("test-{now:x}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

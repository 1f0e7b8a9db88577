//! One suite for every store that can hold a run: a local folder and memory always, and the servers that
//! `IP2P_TEST_STORES` names, as `tests/stores/run.sh` does.

mod conformance;
mod faults;
mod runs;

use ip2p_pipeline::store::Store;
use ip2p_tests::servers::{unique, urls};
use std::sync::Arc;
use tempfile::TempDir;

/// A store of one test, empty at the start.
struct Place {
    store: Store,
    /// The folder of a local one, removed at the end.
    _folder: Option<Arc<TempDir>>,
}

/// Every store, each with a prefix of its own.
fn places() -> Vec<Place> {
    ip2p_worker::tls::install();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let local = Store::open(&format!("file://{}", folder.path().display())).expect("a local store");
    let remote = urls().into_iter().map(|url| Place { store: Store::open(&url).expect("a store").child(&unique()), _folder: None });
    let own = [Place { store: local, _folder: Some(Arc::new(folder)) }, Place { store: Store::memory(), _folder: None }];
    own.into_iter().chain(remote).collect()
}

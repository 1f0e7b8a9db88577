//! Counts the objects of a run while others write them, on a thread that may wait for a server that is away.

use ip2p_pipeline::store::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(30);

pub struct Progress {
    most: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Progress {
    /// Watches the run at `url`, which the environment describes.
    pub fn watch(url: &str) -> Self {
        let progress = Progress { most: Arc::default(), over: Arc::default() };
        let (most, over, url) = (progress.most.clone(), progress.over.clone(), url.to_string());
        std::thread::spawn(move || {
            let store = Store::open(&url).expect("a store");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            while !over.load(Ordering::Relaxed) {
                // A server that is away has nothing to show.
                let listed = runtime.block_on(store.list("")).unwrap_or_default();
                most.fetch_max(listed.len() as u64, Ordering::Relaxed);
                std::thread::sleep(LOOK);
            }
        });
        progress
    }

    /// The most objects that were seen at once.
    pub fn objects(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // The thread is not waited for: it may be in a request that lasts.
        self.over.store(true, Ordering::Relaxed);
    }
}

//! What the session tells an attempt, and what the attempt tells the session.

use ip2p_pipeline::task::{Assignment, Progress};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// Shared between the thread that works and the heartbeat. One per attempt.
#[derive(Debug, Default)]
pub struct Control {
    stop: Notify,
    drain: AtomicBool,
    lost: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    units: AtomicU64,
    kept: AtomicU64,
}

impl Control {
    /// Commit what is done, and leave; a step that would take long is given up.
    pub fn drain(&self) {
        self.drain.store(true, Ordering::Relaxed);
        self.stop.notify_one();
    }

    pub fn draining(&self) -> bool {
        self.drain.load(Ordering::Relaxed)
    }

    /// The lease is gone: whatever is uncommitted is for another worker to do.
    pub fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
        self.stop.notify_one();
    }

    pub fn lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// Resolves when the attempt should end: for steps that wait for others and can be dropped.
    pub async fn stopped(&self) {
        while !self.lost() && !self.draining() {
            self.stop.notified().await;
        }
    }

    pub fn at_record(&self, done: u64, total: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub fn made(&self, units: u64, kept: u64) {
        self.units.fetch_add(units, Ordering::Relaxed);
        self.kept.fetch_add(kept, Ordering::Relaxed);
    }

    pub fn progress(&self, assignment: Assignment) -> Progress {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        Progress { assignment, done: read(&self.done), total: read(&self.total), units: read(&self.units), kept: read(&self.kept) }
    }
}

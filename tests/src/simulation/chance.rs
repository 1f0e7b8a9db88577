//! All luck of a simulation, drawn in the order of its events: the same seed gives the same history.

use ip2p_pipeline::rng::{Purpose, Stream};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

pub struct Chance(Mutex<Stream>);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Chance(Mutex::new(Stream::keyed(seed, b"simulated events", 0, Purpose::Jitter)))
    }

    /// A number below `n`, which must not be 0.
    pub fn below(&self, n: u64) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64() % n
    }

    pub fn one_in(&self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn millis(&self, range: Range<u64>) -> Duration {
        Duration::from_millis(range.start + self.below(range.end - range.start))
    }
}

//! The life of one partition.

use super::{Moment, WorkerName};
use ip2p_pipeline::rng::{Purpose, Stream};
use std::time::Duration;

/// A time-bounded right to an attempt: it ends when its worker was silent for the policy's `lease`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub worker: WorkerName,
    pub epoch: u64,
    /// When it was granted.
    pub since: Moment,
}

/// Attempts that did not end in a commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries {
    pub failures: u32,
    pub preemptions: u32,
}

/// Every state a partition can be in. There are millions of them: what is large is boxed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Its input is not committed yet.
    Blocked,
    Ready {
        tries: Tries,
    },
    /// It failed and waits for its back-off to end.
    Waiting {
        tries: Tries,
        until: Moment,
    },
    Leased {
        tries: Tries,
        lease: Box<Lease>,
        /// A second attempt, because the first takes too long. Whichever commits first ends both.
        rival: Option<Box<Lease>>,
    },
    Committed,
    /// Given up; a later `resume` tries again.
    Failed {
        message: Box<str>,
    },
}

impl PartitionState {
    /// The state as one byte, for whoever draws a million of them.
    pub fn cell(&self) -> Cell {
        match self {
            PartitionState::Committed => Cell::Committed,
            PartitionState::Blocked => Cell::Blocked,
            PartitionState::Ready { .. } => Cell::Ready,
            PartitionState::Waiting { .. } => Cell::Waiting,
            PartitionState::Leased { rival: None, .. } => Cell::Leased,
            PartitionState::Leased { rival: Some(_), .. } => Cell::Raced,
            PartitionState::Failed { .. } => Cell::Failed,
        }
    }
}

/// What is drawn of a partition; of several drawn as one, the largest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Cell {
    Committed,
    #[default]
    Blocked,
    Ready,
    Waiting,
    Leased,
    /// Two attempts are at work.
    Raced,
    Failed,
}

/// Exponential back-off with full jitter in its upper half, the same in every replay.
pub fn backoff(failures: u32, partition: u32, epoch: u64, min: Duration, max: Duration) -> Duration {
    let doubled = min.saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX)).min(max);
    let mut id = [0; 16];
    id[..4].copy_from_slice(&partition.to_le_bytes());
    let jitter = Stream::keyed(epoch, &id, failures, Purpose::Jitter).uniform();
    doubled.mul_f64(0.5 + 0.5 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_cap_and_is_repeatable() {
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(60));
        for failures in 1..80 {
            let d = backoff(failures, 3, 9, min, max);
            let full = min.as_secs_f64() * 2f64.powi(failures as i32 - 1);
            let full = full.min(60.0);
            assert!(d.as_secs_f64() >= full / 2.0 - 1e-9 && d.as_secs_f64() <= full + 1e-9, "{failures}: {d:?}");
            assert_eq!(d, backoff(failures, 3, 9, min, max));
        }
        assert_ne!(backoff(1, 3, 9, min, max), backoff(1, 4, 9, min, max));
    }

    #[test]
    fn a_state_is_small() {
        assert!(size_of::<PartitionState>() <= 32, "{}", size_of::<PartitionState>());
    }
}

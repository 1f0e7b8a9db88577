//! How long attempts of a stage take, so that one that takes far longer is noticed.

use std::collections::VecDeque;
use std::time::Duration;

/// Attempts remembered: as many as show the pace of now.
const WINDOW: usize = 64;
/// Attempts to see before any is called slow.
const ENOUGH: usize = 3;
/// An attempt is slow when it takes so many times as long as half of the others do.
const SLOW: u32 = 3;

/// The durations of the latest attempts that committed.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace(VecDeque<Duration>);

impl Pace {
    pub fn record(&mut self, taken: Duration) {
        if self.0.len() == WINDOW {
            self.0.pop_front();
        }
        self.0.push_back(taken);
    }

    /// From here on an attempt is slow; `None` while too few are known.
    pub fn slow(&self) -> Option<Duration> {
        let mut sorted: Vec<Duration> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        (sorted.len() >= ENOUGH).then(|| sorted[sorted.len() / 2].saturating_mul(SLOW))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_three_times_the_median_of_late() {
        let mut pace = Pace::default();
        let secs = Duration::from_secs;
        for taken in [9, 1] {
            pace.record(secs(taken));
        }
        assert_eq!(pace.slow(), None);
        pace.record(secs(2));
        assert_eq!(pace.slow(), Some(secs(6)));
        (0..WINDOW).for_each(|_| pace.record(secs(10)));
        assert_eq!(pace.slow(), Some(secs(30)));
    }
}

//! Rate and remaining time of one stage, from what was seen in the last minute.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back a rate looks: long enough to even out chunks, short enough to show a stall.
const WINDOW: Duration = Duration::from_secs(60);
/// Less than this says nothing about the future.
const LEAST: Duration = Duration::from_secs(3);
/// Parts of the window whose paces are compared.
const SLICES: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    units: u64,
    partitions: f64,
}

/// What a stage has done, over time.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    samples: VecDeque<Sample>,
}

impl Meter {
    /// Records that at the moment `at` the stage had made `units` units and `partitions` partitions, fractions of
    /// those at work included. What was there at the first record was made before and counts for nothing.
    pub fn record(&mut self, at: Duration, units: u64, partitions: f64) {
        self.samples.push_back(Sample { at, units, partitions });
        // The sample just outside the window stays: it is where the window begins.
        while self.samples.get(1).is_some_and(|second| second.at + WINDOW <= at) {
            self.samples.pop_front();
        }
    }

    /// First and last sample, when they are far enough apart.
    fn span(&self) -> Option<(Sample, Sample, f64)> {
        let (first, last) = (*self.samples.front()?, *self.samples.back()?);
        let elapsed = last.at.saturating_sub(first.at);
        (elapsed >= LEAST).then_some((first, last, elapsed.as_secs_f64()))
    }

    /// Units per second; `None` when too little was seen, nothing happened, or a lost attempt took work back.
    pub fn rate(&self) -> Option<f64> {
        let (first, last, elapsed) = self.span()?;
        (last.units > first.units).then(|| (last.units - first.units) as f64 / elapsed)
    }

    /// Seconds until all `of` partitions are done, at the pace of the window.
    pub fn remaining(&self, of: u32) -> Option<f64> {
        let (first, last, elapsed) = self.span()?;
        let pace = (last.partitions - first.partitions) / elapsed;
        let left = f64::from(of) - last.partitions;
        (pace > 0.0 && left > 0.0).then(|| left / pace)
    }

    /// Least and most seconds until all `of` partitions are done: at the mean pace of the window give or take twice its
    /// standard error, from the paces of the window's [`SLICES`]. `None` when one cannot be told, and no end to the most
    /// when the pace may be none at all.
    pub fn interval(&self, of: u32) -> Option<(f64, f64)> {
        let left = f64::from(of) - self.samples.back()?.partitions;
        let paces = self.paces()?;
        let n = paces.len() as f64;
        let mean = paces.iter().sum::<f64>() / n;
        let variance = paces.iter().map(|pace| (pace - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let error = 2.0 * (variance / n).sqrt();
        let most = if mean > error { left / (mean - error) } else { f64::INFINITY };
        (mean > 0.0 && left > 0.0).then(|| (left / (mean + error), most))
    }

    /// Partitions per second in equal slices of the window.
    fn paces(&self) -> Option<Vec<f64>> {
        let (first, last, elapsed) = self.span()?;
        let slice = elapsed / SLICES as f64;
        let mut paces = Vec::new();
        let mut from = first;
        for sample in &self.samples {
            let seconds = sample.at.saturating_sub(from.at).as_secs_f64();
            if seconds >= slice || (sample.at == last.at && seconds >= slice / 2.0) {
                paces.push((sample.partitions - from.partitions) / seconds);
                from = *sample;
            }
        }
        (paces.len() > 2).then_some(paces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meter(samples: &[(u64, u64, f64)]) -> Meter {
        let mut meter = Meter::default();
        samples.iter().for_each(|&(at, units, partitions)| meter.record(Duration::from_secs(at), units, partitions));
        meter
    }

    #[test]
    fn recovered_work_is_no_speed() {
        let resumed = meter(&[(0, 1000, 10.0), (10, 1050, 10.5)]);
        assert_eq!(resumed.rate(), Some(5.0));
        assert_eq!(resumed.remaining(20), Some(190.0));
    }

    #[test]
    fn too_early_stalled_and_lost_work_give_no_number() {
        assert_eq!(meter(&[]).rate(), None);
        assert_eq!(meter(&[(0, 0, 0.0), (1, 50, 0.5)]).rate(), None);
        let stalled = meter(&[(0, 7, 0.5), (30, 7, 0.5)]);
        assert_eq!((stalled.rate(), stalled.remaining(2)), (None, None));
        let lost = meter(&[(0, 70, 1.5), (30, 7, 1.0)]);
        assert_eq!((lost.rate(), lost.remaining(2)), (None, None));
        assert_eq!(meter(&[(0, 0, 0.0), (30, 9, 2.0)]).remaining(2), None);
    }

    #[test]
    fn an_even_pace_is_sure_and_an_uneven_one_is_not() {
        let even: Vec<_> = (0..60).map(|s| (s, s, s as f64)).collect();
        let (least, most) = meter(&even).interval(100).unwrap();
        assert!((least - 41.0).abs() < 0.5 && (most - 41.0).abs() < 0.5, "{least} {most}");
        let uneven: Vec<_> = (0..60).map(|s| (s, s, (s / 20 * 20) as f64)).collect();
        let (least, most) = meter(&uneven).interval(100).unwrap();
        let middle = meter(&uneven).remaining(100).unwrap();
        assert!(least < middle && middle < most, "{least} {middle} {most}");
        assert_eq!(meter(&[(0, 0, 0.0), (1, 1, 1.0)]).interval(9), None);
        assert_eq!(meter(&even).interval(59), None, "nothing is left");
    }

    #[test]
    fn only_the_last_minute_counts() {
        let slow_then_fast: Vec<_> = (0..200).map(|s| (s, if s < 100 { s } else { 100 + (s - 100) * 10 }, s as f64)).collect();
        assert_eq!(meter(&slow_then_fast).rate(), Some(10.0));
    }

    proptest! {
        #[test]
        fn numbers_are_finite_and_memory_bounded(steps in prop::collection::vec((0u64..40, 0u64..1000, 0f64..50.0), 0..300)) {
            let mut meter = Meter::default();
            let mut now = Duration::ZERO;
            for (wait, units, partitions) in steps {
                now += Duration::from_secs(wait);
                meter.record(now, units, partitions);
                prop_assert!(meter.rate().is_none_or(|r| r.is_finite() && r > 0.0));
                prop_assert!(meter.interval(40).is_none_or(|(least, most)| least > 0.0 && least <= most));
                prop_assert!(meter.remaining(40).is_none_or(|s| s.is_finite() && s > 0.0));
            }
            let beyond = meter.samples.iter().filter(|sample| sample.at + WINDOW <= now).count();
            prop_assert!(beyond <= 1);
        }
    }
}

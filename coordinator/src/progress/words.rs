//! A picture of the run in words: one line per stage and one per worker.

use super::rate::Meter;
use crate::driver::{StageView, View, WorkerView};
use crate::text::{count, duration, printable, rate, share};
use ip2p_pipeline::layout::Stage;

/// Seconds of silence worth telling; heartbeats come every second.
const SILENT: f64 = 5.0;

/// Partitions done, with fractions of those at work.
pub(crate) fn partitions_done(stage: &StageView) -> f64 {
    (f64::from(stage.committed) + stage.in_progress).min(f64::from(stage.partitions))
}

/// Units that are accounted for or being made.
pub(crate) fn units_done(stage: &StageView) -> u64 {
    stage.counts.expected.saturating_add(stage.units_in_progress)
}

/// What stands beside a stage's bar, e.g. `5/12  3.2/s  1 m 20 s left  kept 31%`.
pub(super) fn stage_line(stage: &StageView, meter: &Meter) -> String {
    if stage.partitions == 0 {
        return "waits for the index".to_string();
    }
    let mut parts = vec![format!("{}/{}", count(stage.committed.into()), count(stage.partitions.into()))];
    if stage.committed < stage.partitions {
        parts.extend(meter.rate().map(rate));
        parts.extend(meter.remaining(stage.partitions).map(|seconds| format!("{} left", duration(seconds))));
    }
    parts.extend(kept(stage));
    if stage.counts.quarantined > 0 {
        parts.push(format!("{} in quarantine", count(stage.counts.quarantined)));
    }
    parts.join("  ")
}

/// Share of candidates kept: of attempts at work for `pairs`, of committed ones for `filter`.
pub(crate) fn kept(stage: &StageView) -> Option<String> {
    let (part, whole) = match stage.stage {
        Stage::Pairs => (stage.kept_in_progress, stage.units_in_progress),
        Stage::Filter => (stage.counts.output + stage.kept_in_progress, units_done(stage)),
        Stage::Corpus | Stage::Prompts | Stage::Index | Stage::Shards => return None,
    };
    (whole > 0).then(|| format!("kept {}", share(part, whole)))
}

/// What a worker does, e.g. `local-0.0 (cpu)  pairs 12  record 5 of 32`.
pub(super) fn worker_line(worker: &WorkerView) -> String {
    let mut text = printable(&worker.name);
    if !worker.device.is_empty() {
        text += &format!(" ({})", printable(&worker.device));
    }
    match (worker.holds, worker.progress) {
        (Some(held), Some(progress)) => {
            text += &format!("  {} {}  record {} of {}", held.stage, held.partition, count(progress.done), count(progress.total));
        }
        (Some(held), None) => text += &format!("  {} {}  starting", held.stage, held.partition),
        (None, _) => text += "  waits for work",
    }
    // A worker that waits for work sends no heartbeats.
    if worker.holds.is_some() && worker.silent >= SILENT {
        text += &format!("  silent for {}", duration(worker.silent));
    }
    text
}

/// The whole picture on one line, for where there is no terminal. Stages that have not begun are left out.
pub(super) fn plain_line(view: &View, meters: &[Meter]) -> String {
    let begun = view.stages.iter().zip(meters).filter(|(stage, _)| partitions_done(stage) > 0.0);
    let mut parts: Vec<String> = begun.map(|(stage, meter)| format!("{} {}", stage.stage, stage_line(stage, meter))).collect();
    match view.workers.len() {
        0 => {}
        1 => parts.push("1 worker".to_string()),
        n => parts.push(format!("{n} workers")),
    }
    parts.extend(trouble(view));
    parts.join(" | ")
}

/// Why the run stops, or what it waits for.
pub(super) fn trouble(view: &View) -> Option<String> {
    let stopping = view.stopping.as_ref().map(|why| format!("stopping: {}", printable(why)));
    stopping.or_else(|| view.deserted.as_ref().map(|why| format!("waiting for workers: {}", printable(why))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ip2p_pipeline::manifest::Counts;
    use ip2p_pipeline::task::{Assignment, Progress};
    use std::time::Duration;

    fn stage(stage: Stage, committed: u32, partitions: u32) -> StageView {
        let counts = Counts { expected: 400, output: 100, quarantined: 2, ..Counts::default() };
        StageView { stage, partitions, committed, counts, in_progress: 0.5, units_in_progress: 20, kept_in_progress: 5 }
    }

    #[test]
    fn a_stage_tells_pace_and_yield() {
        let mut meter = Meter::default();
        meter.record(Duration::ZERO, 400, 5.0);
        meter.record(Duration::from_secs(10), 420, 5.5);
        let pairs = stage(Stage::Pairs, 5, 12);
        assert_eq!(stage_line(&pairs, &meter), "5/12  2.0/s  2 m 10 s left  kept 25%  2 in quarantine");
        assert_eq!(stage_line(&stage(Stage::Filter, 12, 12), &meter), "12/12  kept 25%  2 in quarantine");
        assert_eq!(stage_line(&StageView { partitions: 0, ..stage(Stage::Shards, 0, 0) }, &meter), "waits for the index");
    }

    #[test]
    fn a_worker_tells_what_it_holds_and_how_long_it_was_silent() {
        let assignment = Assignment { stage: Stage::Pairs, partition: 12, epoch: 7, failures: 0 };
        let progress = Progress { assignment, done: 5, total: 32, units: 500, kept: 40 };
        let idle = WorkerView { name: "a\x1b[2J".to_string(), device: "cpu".to_string(), progress: None, holds: None, silent: 90.0 };
        let busy = WorkerView { progress: Some(progress), holds: Some(assignment), silent: 12.0, ..idle.clone() };
        assert_eq!(worker_line(&idle), "a [2J (cpu)  waits for work");
        assert_eq!(worker_line(&busy), "a [2J (cpu)  pairs 12  record 5 of 32  silent for 12 s");
    }

    #[test]
    fn the_plain_line_has_what_has_begun() {
        let waiting = StageView { in_progress: 0.0, ..stage(Stage::Index, 0, 1) };
        let mut view = View { stages: vec![stage(Stage::Pairs, 5, 12), waiting], ..View::default() };
        view.deserted = Some("none has registered yet".to_string());
        let line = |view: &View| plain_line(view, &[Meter::default(), Meter::default()]);
        assert_eq!(line(&view), "pairs 5/12  kept 25%  2 in quarantine | waiting for workers: none has registered yet");
        view.stopping = Some("interrupted".to_string());
        assert_eq!(line(&view), "pairs 5/12  kept 25%  2 in quarantine | stopping: interrupted");
    }
}

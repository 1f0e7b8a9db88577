//! `/metrics`: the same picture for Prometheus. docs/metrics.md lists every name.

use super::history::History;
use super::snapshot::{STATES, Snapshot};
use crate::scheduler::Cell;
use ip2p_pipeline::layout::Stage;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::atomic::AtomicU64;

/// What scrapers are told that they get.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Count = Family<Labels, Counter>;
type Seconds = Family<Labels, Counter<f64, AtomicU64>>;
type Level = Family<Labels, Gauge<f64, AtomicU64>>;

/// A state's value of the label `state`.
fn state_name(cell: Cell) -> &'static str {
    match cell {
        Cell::Committed => "committed",
        Cell::Blocked => "blocked",
        Cell::Ready => "ready",
        Cell::Waiting => "waiting",
        Cell::Leased => "leased",
        Cell::Raced => "raced",
        Cell::Failed => "failed",
    }
}

/// The metrics of one run in the OpenMetrics text format.
pub fn text(run: &str, snapshot: &Snapshot, history: &History) -> Result<String, fmt::Error> {
    let labels = [("run".into(), run.to_string().into())].into_iter();
    let mut registry = Registry::with_prefix_and_labels("ip2p", labels);
    stages(&mut registry, snapshot);
    workers(&mut registry, snapshot);
    happened(&mut registry, history);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn stage_label(stage: Stage) -> (&'static str, String) {
    ("stage", stage.name().to_string())
}

fn stages(registry: &mut Registry, snapshot: &Snapshot) {
    let (partitions, remaining, rate, kept) = (Level::default(), Level::default(), Level::default(), Level::default());
    let (records, rejected, wasted, figures, work) =
        (Count::default(), Count::default(), Count::default(), Seconds::default(), Seconds::default());
    for now in &snapshot.stages {
        let stage = stage_label(now.stage());
        for (cell, _) in STATES {
            let labels = vec![stage.clone(), ("state", state_name(cell).to_string())];
            partitions.get_or_create(&labels).set(f64::from(now.in_state(cell)));
        }
        let counts = &now.view.counts;
        let outcomes = [("output", counts.output), ("rejected", counts.rejected_total()), ("quarantined", counts.quarantined)];
        for (outcome, n) in outcomes {
            records.get_or_create(&vec![stage.clone(), ("outcome", outcome.to_string())]).inc_by(n);
        }
        for (reason, n) in &counts.rejected {
            rejected.get_or_create(&vec![stage.clone(), ("reason", reason.clone())]).inc_by(*n);
        }
        for (name, value) in &now.figures {
            figures.get_or_create(&vec![stage.clone(), ("figure", name.clone())]).inc_by(value.max(0.0));
        }
        let of_stage = vec![stage];
        work.get_or_create(&of_stage).inc_by(now.seconds.max(0.0));
        wasted.get_or_create(&of_stage).inc_by(now.wasted);
        rate.get_or_create(&of_stage).set(now.rate.unwrap_or(0.0));
        if let Some(left) = now.remaining {
            remaining.get_or_create(&of_stage).set(left.likely);
        }
        if now.stage() == Stage::Filter && counts.expected > 0 {
            kept.get_or_create(&Labels::new()).set(counts.output as f64 / counts.expected as f64);
        }
    }
    registry.register("partitions", "Partitions by stage and state", partitions);
    registry.register("records", "Units of committed partitions by what became of them", records);
    registry.register("rejected", "Units of committed partitions that a rule turned away", rejected);
    registry.register("work_seconds", "Seconds of work in committed partitions", work);
    registry.register("figures", "Sums of further figures of committed partitions, such as tokens", figures);
    registry.register("wasted_units", "Units of attempts that another attempt outran", wasted);
    registry.register("units_per_second", "Units made a second over the last minute", rate);
    registry.register("remaining_seconds", "Likely seconds until the stage is done", remaining);
    registry.register("kept_ratio", "Share of the judged candidates that was kept", kept);
}

fn workers(registry: &mut Registry, snapshot: &Snapshot) {
    let workers = Level::default();
    let busy = snapshot.workers.iter().filter(|worker| worker.view.holds.is_some()).count();
    for (state, n) in [("busy", busy), ("idle", snapshot.workers.len() - busy)] {
        workers.get_or_create(&vec![("state", state.to_string())]).set(n as f64);
    }
    let held = snapshot.workers.iter().filter(|worker| worker.view.holds.is_some());
    let silence: Gauge<f64, AtomicU64> = Gauge::default();
    silence.set(held.map(|worker| worker.view.silent).fold(0.0, f64::max));
    let up: Gauge<f64, AtomicU64> = Gauge::default();
    up.set(if snapshot.live && snapshot.stopping.is_none() { 1.0 } else { 0.0 });
    registry.register("workers", "Workers by state", workers);
    registry.register("heartbeat_age_seconds", "Age of the oldest heartbeat among workers that hold a lease", silence);
    registry.register("coordinator_working", "1 while a coordinator is at work and not stopping", up);
}

fn happened(registry: &mut Registry, history: &History) {
    let totals = history.totals();
    let (commits, failures) = (Count::default(), Count::default());
    for stage in Stage::RUN {
        commits.get_or_create(&vec![stage_label(stage)]).inc_by(totals.commits.get(&stage).copied().unwrap_or(0));
    }
    for (cause, n) in history.causes() {
        failures.get_or_create(&vec![("cause", cause.replace(' ', "_"))]).inc_by(*n);
    }
    let counter = |n: u64| {
        let counter: Counter = Counter::default();
        counter.inc_by(n);
        counter
    };
    registry.register("commits", "Partitions committed since the coordinator started", commits);
    registry.register("failed_attempts", "Failed attempts since the coordinator started, by cause", failures);
    registry.register("leases_granted", "Leases granted since the coordinator started", counter(totals.leases));
    registry.register("leases_lost", "Leases that ended without a report since the coordinator started", counter(totals.lost));
    registry.register("workers_gone", "Workers that left or were lost since the coordinator started", counter(totals.gone));
}

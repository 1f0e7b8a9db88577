//! Workers: those at work, and those that are gone.

use super::{ago, partition_link};
use crate::charts;
use crate::text::{count, duration, rate};
use crate::web::history::History;
use crate::web::snapshot::{Snapshot, WorkerNow};
use maud::{Markup, PreEscaped, html};

/// Workers shown.
const MOST: usize = 300;

pub fn content(snapshot: &Snapshot, history: &History, now: f64) -> Markup {
    html! {
        header { h1 { "Workers" } }
        div #workers { (table(snapshot)) }
        div #gone { (gone(history, now)) }
    }
}

pub fn table(snapshot: &Snapshot) -> Markup {
    let workers = &snapshot.workers;
    html! {
        section.panel {
            h2 { (count(workers.len() as u64)) " at work" }
            @if workers.is_empty() && snapshot.live { p.note { "No worker has registered yet." } }
            @else if workers.is_empty() { p.note { "Only a coordinator knows its workers; this page is made from the store." } }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Workers at work" {
                    table.list {
                        caption.sr-only { "Workers at work" }
                        thead { tr {
                            th scope="col" { "Worker" } th scope="col" { "Device" } th scope="col" { "Partition" } th scope="col" { "Progress" }
                            th scope="col" { "Pace" } th scope="col" { "Heartbeat" }
                        } }
                        tbody { @for worker in workers.iter().take(MOST) { (row(worker)) } }
                    }
                }
                @if workers.len() > MOST { p.note { "and " (count((workers.len() - MOST) as u64)) " more" } }
            }
        }
    }
}

fn row(worker: &WorkerNow) -> Markup {
    let view = &worker.view;
    let progress = view.progress.filter(|_| view.holds.is_some());
    html! {
        tr {
            th scope="row" { bdi { (view.name) } }
            td { bdi { (view.device) } }
            td { @match view.holds { Some(held) => (partition_link(held.stage, held.partition)), None => span.quiet { "waits for work" } } }
            td.progress {
                @if let Some(progress) = progress {
                    (PreEscaped(charts::track(100.0 * progress.done as f64 / progress.total.max(1) as f64, "flow")))
                    span.quiet { "record " (count(progress.done)) " of " (count(progress.total)) }
                } @else if view.holds.is_some() { span.quiet { "starting" } }
            }
            td { @if let Some(per_second) = worker.rate { (rate(per_second)) } }
            // A worker that waits for work sends no heartbeats.
            td.bad[view.holds.is_some() && view.silent > 5.0] { @if view.holds.is_some() { (duration(view.silent)) " ago" } }
        }
    }
}

pub fn gone(history: &History, now: f64) -> Markup {
    let gone: Vec<_> = history.gone_workers().collect();
    html! {
        @if !gone.is_empty() {
            section.panel {
                h2 { (count(gone.len() as u64)) " gone" }
                div.scroll tabindex="0" role="region" aria-label="Workers that are gone" {
                    table.list {
                        caption.sr-only { "Workers that left or were lost, the latest first" }
                        thead { tr {
                            th scope="col" { "Worker" } th scope="col" { "Device" } th scope="col" { "When" } th scope="col" { "Units made" } th scope="col" { "Why" }
                        } }
                        tbody {
                            @for worker in gone {
                                tr {
                                    th scope="row" { bdi { (worker.worker) } } td { bdi { (worker.device) } } td.quiet { (ago(worker.at, now)) }
                                    td { (count(worker.units)) } td.message { bdi { (worker.why) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

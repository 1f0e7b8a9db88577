//! What went wrong, and what takes long.

use super::{ago, partition_link};
use crate::charts;
use crate::html::words;
use crate::quarantine::QuarantineError;
use crate::text::{count, duration};
use crate::web::history::History;
use crate::web::snapshot::Snapshot;
use ip2p_pipeline::layout::Stage;
use maud::{Markup, PreEscaped, html};

/// Failing partitions shown.
const FAILING: usize = 50;

/// `quarantine` is what the store says of records in quarantine, or why it cannot be read.
pub fn content(snapshot: &Snapshot, history: &History, quarantine: &Result<Vec<QuarantineError>, String>, now: f64) -> Markup {
    html! {
        header { h1 { "Problems" } }
        (quarantined(snapshot, quarantine))
        div #failing { (failing(history, now)) }
        div #causes { (causes(snapshot, history)) }
        div #slowest { (slowest(history)) }
    }
}

fn quarantined(snapshot: &Snapshot, errors: &Result<Vec<QuarantineError>, String>) -> Markup {
    let records: u64 = snapshot.stages.iter().map(|stage| stage.view.counts.quarantined).sum();
    html! {
        section.panel {
            h2 { "In quarantine" }
            @match errors {
                Err(e) => p.bad { "The errors cannot be read: " (e) },
                Ok(_) if records == 0 => p.note { "No record is in quarantine." },
                Ok(errors) => {
                    p.note { "Records that could not be processed, by error. A sample of the partitions that have some." }
                    div.scroll tabindex="0" role="region" aria-label="Errors of records in quarantine" {
                        table.list {
                            caption.sr-only { "Errors of records in quarantine, the most frequent first" }
                            thead { tr { th scope="col" { "Stage" } th scope="col" { "Records" } th scope="col" { "Error" } th scope="col" { "For example" } } }
                            tbody {
                                @for error in errors {
                                    tr {
                                        td { (error.stage) } td { (count(error.records)) } td.message { bdi { (error.error) } }
                                        td { @if error.stage == Stage::Prompts { code { (short(&error.example)) } } @else { a href={ "/pair?id=" (error.example) } { code { (short(&error.example)) } } } }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn short(id: &str) -> String {
    id.chars().take(12).collect()
}

pub fn failing(history: &History, now: f64) -> Markup {
    let failing = history.failing();
    html! {
        section.panel {
            h2 { "Failing partitions" }
            @if failing.is_empty() { p.note { "No partition has failed without a later success." } }
            @else {
                div.scroll tabindex="0" role="region" aria-label="Failing partitions" {
                    table.list {
                        caption.sr-only { "Partitions whose last attempt failed, the latest first" }
                        thead { tr { th scope="col" { "When" } th scope="col" { "Partition" } th scope="col" { "What" } th scope="col" { "Error" } } }
                        tbody {
                            @for event in failing.iter().take(FAILING) {
                                tr {
                                    td.quiet { (ago(event.at, now)) } td { (partition_link(event.stage, event.partition)) }
                                    td { (event.what.words()) } td.message { bdi { (event.message) } }
                                }
                            }
                        }
                    }
                }
                @if failing.len() > FAILING { p.note { "and " (count((failing.len() - FAILING) as u64)) " more" } }
            }
        }
    }
}

/// Failed attempts by cause, and what was turned away by reason.
pub fn causes(snapshot: &Snapshot, history: &History) -> Markup {
    let causes = history.causes();
    let most = causes.values().copied().max().unwrap_or(1) as f64;
    let rejected = |stage| snapshot.stages.iter().find(|now| now.stage() == stage).map(|now| now.view.counts.clone());
    html! {
        section.two {
            div.panel {
                h2 { "Failed attempts by cause" }
                @if causes.is_empty() { p.note { "None. Only a coordinator at work knows of failed attempts." } }
                @for (cause, n) in causes { (PreEscaped(charts::bar(cause, 100.0 * *n as f64 / most, &count(*n), "rejected"))) }
            }
            div.panel {
                h2 { "Turned away by rule" }
                @for (stage, what) in [(Stage::Prompts, "Completions"), (Stage::Filter, "Candidates")] {
                    @if let Some(counts) = rejected(stage).filter(|counts| !counts.rejected.is_empty()) {
                        h3 { (what) }
                        @for (reason, n) in &counts.rejected {
                            (PreEscaped(charts::bar(&words(reason), 100.0 * *n as f64 / counts.expected.max(1) as f64, &count(*n), "rejected")))
                        }
                    }
                }
            }
        }
    }
}

pub fn slowest(history: &History) -> Markup {
    html! {
        section.panel {
            h2 { "Slowest partitions" }
            div.scroll tabindex="0" role="region" aria-label="Slowest partitions" {
                table.list {
                    caption.sr-only { "The slowest committed partitions of each stage" }
                    thead { tr { th scope="col" { "Partition" } th scope="col" { "Work" } th scope="col" { "Units" } th scope="col" { "Per unit" } } }
                    tbody {
                        @for stage in Stage::RUN {
                            @for slow in history.slowest(stage).iter().take(3) {
                                tr {
                                    th scope="row" { (partition_link(slow.stage, slow.partition)) } td { (duration(slow.seconds)) } td { (count(slow.units)) }
                                    td { @if slow.units > 0 { (per_unit(slow.seconds / slow.units as f64)) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn per_unit(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.0} ms", 1000.0 * seconds) } else { duration(seconds) }
}

//! The run: its stages, its partitions, what happened last.

use super::{ago, card, partition_link};
use crate::charts;
use crate::progress::words::kept;
use crate::scheduler::Cell;
use crate::text::{count, duration, rate, share};
use crate::web::history::History;
use crate::web::snapshot::{Remaining, STATES, Snapshot, StageNow};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use maud::{Markup, PreEscaped, html};

/// Events shown.
const EVENTS: usize = 12;

/// The page's content. `stage` is the one whose partitions are drawn.
pub fn content(name: &str, snapshot: &Snapshot, history: &History, stage: Stage, now: f64) -> Markup {
    html! {
        header { h1 { (name) } div #state role="status" aria-live="polite" { (state(snapshot)) } }
        section aria-labelledby="stages" { h2 #stages { "Stages" } div #flow { (flow(snapshot)) } }
        section.cards #figures { (figures(snapshot)) }
        section.panel aria-labelledby="partitions" {
            div.heading {
                h2 #partitions { "Partitions" }
                nav.choice aria-label="Stage" {
                    @for other in &snapshot.stages {
                        a href={ "/?stage=" (other.stage()) "#partitions" } aria-current=[(other.stage() == stage).then_some("true")] { (other.stage()) }
                    }
                }
            }
            (grid(snapshot, stage))
            div #states { (states(snapshot, stage)) }
        }
        section.panel aria-labelledby="events-title" { h2 #events-title { "Latest" } div #events { (events(history, snapshot.live, now)) } }
    }
}

/// One line for the whole run.
pub fn state(snapshot: &Snapshot) -> Markup {
    let (class, text) = match (&snapshot.stopping, snapshot.complete, snapshot.live) {
        (Some(why), ..) => ("warn", format!("Stopping: {why}")),
        (None, true, _) => ("good", "Complete".to_string()),
        (None, false, true) => ("busy", working(snapshot)),
        (None, false, false) => ("idle", "Not complete. This is what the store holds; no coordinator is seen from here".to_string()),
    };
    html! { p.state.(class) { (text) } }
}

/// Words that change seldom, because they are read aloud when they do.
fn working(snapshot: &Snapshot) -> String {
    match snapshot.workers.len() {
        0 => "Waiting for workers".to_string(),
        1 => "At work with 1 worker".to_string(),
        n => format!("At work with {n} workers"),
    }
}

pub fn flow(snapshot: &Snapshot) -> Markup {
    html! { ol.steps { @for stage in &snapshot.stages { (stage_card(stage)) } } }
}

fn stage_card(stage: &StageNow) -> Markup {
    let view = &stage.view;
    let class = if stage.complete() {
        "done"
    } else if view.committed > 0 || view.in_progress > 0.0 {
        "busy"
    } else {
        "idle"
    };
    html! {
        li.stage.(class) {
            h3 { (stage.stage()) @if stage.complete() { span.tick aria-label="complete" role="img" { "✓" } } }
            p.large { (count(view.committed.into())) @if stage.sized { small { " of " (count(view.partitions.into())) } } }
            (PreEscaped(charts::track(stage.percent(), if stage.complete() { "kept" } else { "flow" })))
            @if !stage.sized { p { "waits for the index" } }
            @if let Some(per_second) = stage.rate { p { (pace(per_second, unit(stage.stage()))) } }
            @if let Some(remaining) = stage.remaining { p { (duration(remaining.likely)) " left" @if let Some(between) = between(remaining) { br; (between) } } }
            @if let Some(kept) = kept(view) { p { (kept) } }
            @if view.counts.quarantined > 0 { p.bad { (count(view.counts.quarantined)) " in quarantine" } }
            @if stage.complete() && stage.seconds > 0.0 { p { (duration(stage.seconds)) " of work" } }
        }
    }
}

fn unit(stage: Stage) -> &'static str {
    match stage {
        Stage::Prompts => "completions",
        Stage::Pairs | Stage::Filter => "candidates",
        Stage::Index => "rows",
        Stage::Shards | Stage::Corpus => "pairs",
    }
}

/// `12 candidates/s`.
fn pace(per_second: f64, unit: &str) -> String {
    let text = rate(per_second);
    text.split_once('/').map_or(text.clone(), |(number, per)| format!("{number} {unit}/{per}"))
}

fn between(remaining: Remaining) -> Option<String> {
    let (least, most) = remaining.between?;
    Some(if most.is_finite() { format!("{} to {}", duration(least), duration(most)) } else { format!("{} or more", duration(least)) })
}

/// The stage that will be done last, as it looks now.
fn longest(snapshot: &Snapshot) -> Option<(Stage, Remaining)> {
    let remaining = snapshot.stages.iter().filter_map(|now| Some((now.stage(), now.remaining?)));
    remaining.max_by(|a, b| a.1.likely.total_cmp(&b.1.likely))
}

pub fn figures(snapshot: &Snapshot) -> Markup {
    let of = |stage| snapshot.stages.iter().find(|now| now.stage() == stage).map(|now| now.view.counts.clone()).unwrap_or_default();
    let (prompts, filter) = (of(Stage::Prompts), of(Stage::Filter));
    let work: f64 = snapshot.stages.iter().map(|stage| stage.seconds).sum();
    let wasted: u64 = snapshot.stages.iter().map(|stage| stage.wasted).sum();
    let wasted = if wasted > 0 { format!("{} units made for nothing", count(wasted)) } else { "in what is committed".to_string() };
    let of_all = |counts: &Counts, all| {
        if counts.expected > 0 { format!("{} of the {all}", share(counts.output, counts.expected)) } else { String::new() }
    };
    html! {
        @if let Some((stage, remaining)) = longest(snapshot) { (card(&duration(remaining.likely), "left", &format!("at the pace of {stage}"))) }
        (card(&count(filter.output), "pairs kept", &of_all(&filter, "candidates")))
        (card(&count(filter.expected), "candidates judged", ""))
        (card(&count(prompts.output), "triplets", &of_all(&prompts, "completions")))
        (card(&duration(work), "of work", &wasted))
    }
}

/// The cells come by script; without it the list below them says the same.
fn grid(snapshot: &Snapshot, stage: Stage) -> Markup {
    let partitions = snapshot.stages.iter().find(|now| now.stage() == stage).map_or(0, |now| now.view.partitions);
    html! {
        div.grid-wrap data-stage=(stage) data-partitions=(partitions) {
            canvas #grid tabindex="0" role="img" aria-describedby="grid-help" aria-label={ "Partitions of " (stage) " by state" } {}
            p.sr-only #grid-help { "Arrow keys move over the partitions, Enter opens one. The list below has the numbers." }
            p #tip role="status" aria-live="polite" { "Point at a cell for what is known of its partition." }
        }
    }
}

pub fn states(snapshot: &Snapshot, stage: Stage) -> Markup {
    let Some(now) = snapshot.stages.iter().find(|now| now.stage() == stage) else { return html! {} };
    let each = now.cells.each;
    html! {
        dl.states aria-label={ "Partitions of " (stage) " by state" } {
            @for (cell, words) in STATES {
                @if now.in_state(cell) > 0 || cell == Cell::Committed {
                    div { dt { i.cell.{ "c" (cell as u8) } {} (words) } dd { (count(now.in_state(cell).into())) } }
                }
            }
        }
        @if each > 1 { p.note { "Each cell is " (count(each.into())) " partitions; it shows the state most worth a look." } }
    }
}

pub fn events(history: &History, live: bool, now: f64) -> Markup {
    let events: Vec<_> = history.events().take(EVENTS).collect();
    html! {
        @if events.is_empty() && live { p.note { "Nothing has happened yet." } }
        @else if events.is_empty() { p.note { "Only a coordinator at work knows what happens. The store holds what is committed." } }
        @else {
            div.scroll tabindex="0" role="region" aria-label="Latest events" {
                table.list {
                    caption.sr-only { "Latest events, the newest first" }
                    thead { tr { th scope="col" { "When" } th scope="col" { "Partition" } th scope="col" { "What" } th scope="col" { "Message" } } }
                    tbody {
                        @for event in events {
                            tr {
                                td.quiet { (ago(event.at, now)) }
                                td { (partition_link(event.stage, event.partition)) }
                                td.bad[event.what.is_failure()] { (event.what.words()) }
                                td.message { bdi { (event.message) } @if let Some(worker) = &event.worker { " " span.quiet { (worker) } } }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_names_its_unit_before_the_time() {
        assert_eq!(pace(3.25, "candidates"), "3.2 candidates/s");
        assert_eq!(pace(0.1, "completions"), "6.0 completions/min");
    }

    #[test]
    fn an_interval_without_an_end_says_its_least() {
        let between = |most| between(Remaining { likely: 90.0, between: Some((60.0, most)) });
        assert_eq!(
            (between(120.0), between(f64::INFINITY)),
            (Some("1 m 00 s to 2 m 00 s".to_string()), Some("1 m 00 s or more".to_string()))
        );
    }
}

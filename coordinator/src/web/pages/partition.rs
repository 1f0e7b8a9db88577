//! The history of one partition.

use super::ago;
use crate::text::{count, duration};
use crate::web::history::Happened;
use crate::web::partition::Told;
use ip2p_pipeline::manifest::ChunkManifest;
use maud::{Markup, html};

pub fn content(told: &Told, now: f64) -> Markup {
    html! {
        header { p.kicker { "Partition" } h1 { (told.stage) " " (count(told.partition.into())) } p.sub { (told.state) } }
        @if !told.attempts.is_empty() {
            section.panel { h2 { "At work" } ul.plain { @for attempt in &told.attempts { li { (attempt) } } } }
        }
        @if let Some(error) = &told.last_error {
            section.panel { h2 { "Last error" } p.quiet { (ago(error.at, now)) ", " (error.what.words()) } pre { (error.message) } }
        }
        section.panel {
            h2 { "Committed chunks" }
            @if told.chunks.is_empty() { p.note { "None yet." } }
            @else { (chunks(&told.chunks)) }
            @if told.more > 0 { p.note { "and " (count(told.more as u64)) " more" } }
        }
        @if !told.events.is_empty() { section.panel { h2 { "What happened" } (events(&told.events, now)) } }
    }
}

fn chunks(chunks: &[ChunkManifest]) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="Committed chunks" {
            table.list {
                caption.sr-only { "Committed chunks, in order" }
                thead { tr {
                    th scope="col" { "Records" } th scope="col" { "Worker" } th scope="col" { "Epoch" } th scope="col" { "Work" } th scope="col" { "Expected" }
                    th scope="col" { "Output" } th scope="col" { "Rejected" } th scope="col" { "Quarantine" }
                } }
                tbody {
                    @for chunk in chunks {
                        tr {
                            th scope="row" { (count(chunk.start)) ".." (count(chunk.end)) }
                            td { bdi { (chunk.attempt.worker) } } td { code { (format!("{:#x}", chunk.attempt.epoch)) } } td { (duration(chunk.seconds)) }
                            td { (count(chunk.counts.expected)) } td { (count(chunk.counts.output)) } td { (count(chunk.counts.rejected_total())) }
                            td.bad[chunk.counts.quarantined > 0] { (count(chunk.counts.quarantined)) }
                        }
                    }
                }
            }
        }
    }
}

fn events(events: &[Happened], now: f64) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label="What happened" {
            table.list {
                caption.sr-only { "What happened, the latest first" }
                thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "Epoch" } th scope="col" { "Message" } } }
                tbody {
                    @for event in events {
                        tr {
                            td.quiet { (ago(event.at, now)) } td.bad[event.what.is_failure()] { (event.what.words()) } td { code { (format!("{:#x}", event.epoch)) } }
                            td.message { bdi { (event.message) } @if let Some(worker) = &event.worker { " " span.quiet { (worker) } } }
                        }
                    }
                }
            }
        }
    }
}

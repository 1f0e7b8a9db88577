//! One pair: where it comes from and how to draw it again.

use super::gallery::{captions, images, scores};
use super::partition_link;
use crate::explain::Explanation;
use crate::text::count;
use maud::{Markup, html};

/// `place` is its partition of `filter` and its row there, when that is known.
pub fn content(explanation: &Explanation, place: Option<(u32, usize)>) -> Markup {
    let row = &explanation.row;
    let c = &row.candidate;
    html! {
        header { p.kicker { "Pair " code { (row.pair) } } h1 { bdi { (row.edit) } } }
        section.two {
            div.panel.big {
                @if let Some((partition, number)) = place { (images(partition, number, row)) }
                (captions(row))
                (scores(row))
                p { (explanation.verdict) }
            }
            div.panel {
                h2 { "Where it comes from" }
                dl.lines {
                    dt { "draw" } dd { "sample " (c.sample) ", seed " (c.seed) ", p2p " (format!("{:.4}", c.p2p_threshold)) ", guidance " (format!("{:.4}", c.cfg_scale)) }
                    dt { "triplet" } dd { code { (c.triplet) } }
                    @if let Some(url) = &row.url { dt { "url" } dd.message { bdi { (url) } } }
                    @for made in &explanation.made {
                        dt { (made.stage) }
                        dd { (partition_link(made.stage, made.partition)) ", records " (count(made.records.start)) ".." (count(made.records.end))
                            ", worker " bdi { (made.worker) } ", epoch " code { (format!("{:#x}", made.epoch)) }
                            @if let Some(version) = &made.version { ", version " (version) } }
                    }
                    @for (name, reference, print) in &explanation.lineage.models { dt { (name) } dd { code { (reference) } " " span.quiet { (print.short()) } } }
                    dt { "lineage" } dd { "dataset " code { (explanation.lineage.dataset.short()) } ", plan " code { (explanation.lineage.plan.short()) }
                        ", corpus " code { (explanation.lineage.corpus.short()) } ", run seed " (explanation.lineage.run_seed) }
                }
                h3 { "Draw it again, bit for bit" }
                pre.command tabindex="0" { (explanation.command) }
            }
        }
    }
}

//! The gallery: pairs, the newest first.

use crate::explain;
use crate::html::words;
use crate::text::count;
use crate::web::gallery::{Card, Found, Query};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{IndexRow, RejectReason, Verdict};
use ip2p_pipeline::shard_plan::SplitName;
use maud::{Markup, html};

/// Characters of a text that a card shows; the page of the pair has all of it.
const TEXT: usize = 300;

pub fn content(plan: &Plan, query: &Query, found: &Found) -> Markup {
    html! {
        header { h1 { "Gallery" } p.sub { (heading(query)) } }
        (form(query, found))
        @if found.cards.is_empty() { p.note.empty { (nothing(query, found)) } }
        @else { ul.gallery aria-label="Pairs" { @for card in &found.cards { li { (pair_card(plan, card)) } } } }
        @if query.rejected && found.cards.iter().any(|card| card.row.images.is_none()) {
            p.note { "Pictures of rejected candidates are stored only with " code { "stages.pairs.keep_rejected: true" } "." }
        }
        nav.pages aria-label="Pages of the gallery" {
            @if query.after.is_some() { a href={ "/gallery" (link(query, None)) } { "Newest" } }
            @if let Some(next) = found.next { a href={ "/gallery" (link(query, Some(next))) } rel="next" { "Older" } }
        }
    }
}

fn heading(query: &Query) -> &'static str {
    if query.rejected { "Rejected candidates, the newest first" } else { "Kept pairs, the newest first" }
}

fn nothing(query: &Query, found: &Found) -> String {
    match (found.partitions, found.next) {
        (0, _) => "No pair has been judged yet. The first ones appear when a partition of filter is committed.".to_string(),
        (_, Some(_)) => format!("None among the newest {} partitions. Older ones may have some.", count(found.looked as u64)),
        (_, None) if *query == Query::default() => {
            "No pair has been kept so far. Look at the rejected candidates and at Quality.".to_string()
        }
        (_, None) => "Nothing fits these filters.".to_string(),
    }
}

fn link(query: &Query, after: Option<(u32, usize)>) -> String {
    let fields = query.fields(after);
    if fields.is_empty() { String::new() } else { format!("?{}", form_urlencoded(&fields)) }
}

/// `a=b&c=d`, with everything but plain letters and digits escaped.
fn form_urlencoded(fields: &[(&str, String)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|b| if b.is_ascii_alphanumeric() || b"-_.".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") })
            .collect()
    };
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    fields.join("&")
}

fn form(query: &Query, found: &Found) -> Markup {
    let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    html! {
        form.filters method="get" action="/gallery" role="search" aria-label="Filter the pairs" {
            div { label for="show" { "Show" } select #show name="show" {
                option value="kept" selected[!query.rejected] { "kept pairs" } option value="rejected" selected[query.rejected] { "rejected candidates" }
            } }
            div.wide { label for="text" { "Words" } input #text name="text" type="search" value=(query.text) maxlength="200" placeholder="in instruction or captions"; }
            div { label for="direction" { "Direction at least" } input #direction name="direction" type="number" step="any" inputmode="decimal" value=(number(query.direction)); }
            div { label for="image" { "Image at least" } input #image name="image" type="number" step="any" inputmode="decimal" value=(number(query.image)); }
            @if query.rejected {
                div { label for="reason" { "Reason" } select #reason name="reason" {
                    option value="" { "any" }
                    @for reason in RejectReason::ALL { option value=(reason.name()) selected[query.reason == Some(reason)] { (words(reason.name())) } }
                } }
            } @else if found.splits {
                div { label for="split" { "Split" } select #split name="split" {
                    option value="" { "any" }
                    @for split in SplitName::ALL { option value=(split.name()) selected[query.split == Some(split)] { (split.name()) } }
                } }
            }
            button type="submit" { "Show" }
        }
    }
}

fn pair_card(plan: &Plan, card: &Card) -> Markup {
    let row = &card.row;
    html! {
        article.pair {
            (images(card.partition, card.number, row))
            h2 { a href={ "/pair/" (card.partition) "/" (card.number) } { bdi { (cut(&row.edit)) } } }
            (captions(row))
            @if row.verdict != Verdict::Kept { p.reason { (words(&explain::verdict(plan, row))) } }
            (scores(row))
            p.id { (row.pair.short()) @if let Some(split) = card.split { " · " (split.name()) } }
        }
    }
}

pub fn captions(row: &IndexRow) -> Markup {
    html! { p.caption { bdi { (cut(&row.caption)) } br; span.arrow aria-hidden="true" { "→ " } span.sr-only { "becomes " } bdi { (cut(&row.output)) } } }
}

/// Before and after; a script lays one over the other.
pub fn images(partition: u32, number: usize, row: &IndexRow) -> Markup {
    let url = |which: usize| format!("/image/{partition}/{number}/{which}?{}", row.pair.short());
    html! {
        @if row.images.is_some() {
            div.images data-compare {
                img src=(url(0)) alt={ "Before: " (cut(&row.caption)) } loading="lazy" decoding="async" width="256" height="256";
                img src=(url(1)) alt={ "After: " (cut(&row.output)) } loading="lazy" decoding="async" width="256" height="256";
            }
        } @else { div.images.none { span { "not stored" } } }
    }
}

pub fn scores(row: &IndexRow) -> Markup {
    html! {
        @if let Some(s) = row.scores {
            dl.scores {
                div { dt { "direction" } dd { (format!("{:.3}", s.clip_sim_dir)) } }
                div { dt { "image" } dd { (format!("{:.3}", s.clip_sim_image)) } }
                div { dt { "text" } dd { (format!("{:.3} / {:.3}", s.clip_sim_0, s.clip_sim_1)) } }
            }
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(TEXT) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

//! The scores: how they are spread, and what other thresholds would keep.

use crate::charts;
use crate::text::{count, share};
use crate::web::history::{Yield, merged};
use crate::web::quality::{BINS, Kept, Sample, distribution};
use ip2p_pipeline::records::Scores;
use ip2p_pipeline::spec::Filter;
use maud::{Markup, PreEscaped, html};
use std::fmt::Write;

/// Points of the acceptance over time.
const POINTS: usize = 120;

/// `filter` holds the thresholds to try, `own` those of the run.
pub fn content(sample: &Sample, own: &Filter, filter: &Filter, yields: &[Yield]) -> Markup {
    html! {
        header { h1 { "Quality" } p.sub { (of_what(sample)) } }
        @if sample.scored.is_empty() { p.note.empty { "No candidate has been scored yet. The first scores appear when a partition of filter is committed." } }
        @else {
            section.two {
                div.panel #what-if { h2 { "What other thresholds would keep" } (thresholds(sample, own, filter)) (PreEscaped(charts::scatter(&sample.points(), filter)))
                    p.note { i.dot.kept {} " kept " i.dot.rejected {} " rejected. Drag the dashed lines, or type." }
                    h2 { "Acceptance over time" } (acceptance(yields)) }
                div.panel { h2 { "How the scores are spread" } (distributions(sample, filter)) }
            }
            section.two {
                div.panel { h2 { "Most frequent instructions" } (frequent(&sample.edits, sample.triplets)) }
                div.panel { h2 { "Words of the instructions" } (frequent(&sample.words, sample.triplets)) }
            }
        }
    }
}

fn of_what(sample: &Sample) -> String {
    let (candidates, triplets) = (count(sample.scored.len() as u64), count(sample.triplets.into()));
    let of = if sample.whole() {
        String::new()
    } else {
        format!(", from {} of {} partitions", count(sample.partitions as u64), count(sample.of as u64))
    };
    format!("{candidates} scored candidates of {triplets} triplets{of}")
}

fn thresholds(sample: &Sample, own: &Filter, filter: &Filter) -> Markup {
    let field = |name: &str, label: &str, value: f64| {
        html! {
            div { label for=(name) { (label) } input id=(name) name=(name) type="number" step="any" inputmode="decimal" value=(value); }
        }
    };
    html! {
        form.filters #thresholds method="get" action="/quality" {
            (field("image", "clip_image", filter.clip_image))
            (field("direction", "clip_direction", filter.clip_direction))
            (field("text", "clip_text", filter.clip_text))
            div { label for="keep" { "keep" } input #keep name="keep" type="number" min="0" step="1" value=(filter.keep); }
            button type="submit" { "Count" }
            @if filter != own { a.quiet href="/quality" { "the run's own" } }
        }
        p.answer { output #answer for="image direction text keep" aria-live="polite" { (answer(sample.kept(filter), sample)) } }
        p.note { "The run's own thresholds keep " (answer(sample.kept(own), sample)) "." }
    }
}

/// What the page's script says too.
fn answer(kept: Kept, sample: &Sample) -> String {
    format!(
        "{} pairs of {} triplets ({} of the candidates)",
        count(kept.pairs),
        count(kept.triplets),
        share(kept.pairs, sample.scored.len() as u64)
    )
}

fn distributions(sample: &Sample, filter: &Filter) -> Markup {
    let of = |value: fn(&Scores) -> f64| -> Vec<f64> { sample.scored.iter().map(|scored| value(&scored.scores)).collect() };
    html! {
        (histogram("direction", "clip_sim_dir", &of(|s| s.clip_sim_dir), filter.clip_direction))
        (histogram("image", "clip_sim_image", &of(|s| s.clip_sim_image), filter.clip_image))
        (histogram("caption and first image", "clip_sim_0", &of(|s| s.clip_sim_0), filter.clip_text))
        (histogram("edited caption and second image", "clip_sim_1", &of(|s| s.clip_sim_1), filter.clip_text))
    }
}

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 64.0;

fn histogram(name: &str, column: &str, values: &[f64], threshold: f64) -> Markup {
    let Some((bins, low, high)) = distribution(values) else { return html! {} };
    let most = bins.iter().copied().max().unwrap_or(1).max(1) as f64;
    let width = WIDTH / BINS as f64;
    let mut bars = String::new();
    for (number, n) in bins.iter().enumerate() {
        let height = HEIGHT * *n as f64 / most;
        let _ =
            write!(bars, "<rect x={:.1} y={:.1} width={:.1} height={height:.1} />", number as f64 * width, HEIGHT - height, width - 1.0);
    }
    let at = if high > low { WIDTH * (threshold - low) / (high - low) } else { 0.0 };
    let below = values.iter().filter(|value| **value < threshold).count() as u64;
    html! {
        figure.histogram {
            figcaption { b { (name) } " " code { (column) } span.quiet { " " (share(below, values.len() as u64)) " below " (threshold) } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ (column) " from " (format!("{low:.2}")) " to " (format!("{high:.2}")) ", " (share(below, values.len() as u64)) " below the threshold " (threshold) } {
                (PreEscaped(bars))
                @if (0.0..=WIDTH).contains(&at) { path.threshold d={ "M" (format!("{at:.1}")) " 0V" (HEIGHT) } vector-effect="non-scaling-stroke" {} }
            }
            div.ends { span { (format!("{low:.2}")) } span { (format!("{high:.2}")) } }
        }
    }
}

fn acceptance(yields: &[Yield]) -> Markup {
    let yields = merged(yields, POINTS);
    if yields.len() < 2 {
        return html! { p.note { "It takes a few commits of filter to see how the acceptance goes." } };
    }
    let share_of = |y: &Yield| y.kept as f64 / y.judged.max(1) as f64;
    let most = yields.iter().map(share_of).fold(0.01, f64::max);
    // By the number of candidates: time stands still while nobody works.
    let all: u64 = yields.iter().map(|y| y.judged).sum();
    let (mut line, mut seen) = (String::new(), 0);
    for y in &yields {
        seen += y.judged;
        let command = if line.is_empty() { 'M' } else { 'L' };
        let _ = write!(line, "{command}{:.1} {:.1}", WIDTH * seen as f64 / all.max(1) as f64, HEIGHT * (1.0 - share_of(y) / most));
    }
    let kept: u64 = yields.iter().map(|y| y.kept).sum();
    // One commit alone says little.
    let fifth = yields.len().div_ceil(5);
    let part = |some: &[Yield]| share(some.iter().map(|y| y.kept).sum(), some.iter().map(|y| y.judged).sum());
    let (first, last) = (part(&yields[..fifth]), part(&yields[yields.len() - fifth..]));
    html! {
        figure.histogram {
            figcaption { b { (share(kept, all)) " kept" } span.quiet { " of " (count(all)) " candidates; " (first) " at first, " (last) " of late" } }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                aria-label={ "Share of candidates kept, from " (first) " at first to " (last) " of late" } {
                path.line d=(line) vector-effect="non-scaling-stroke" {}
            }
            div.ends { span { "first commit" } span { "latest" } }
        }
    }
}

fn frequent(counted: &[(String, u64)], of: u32) -> Markup {
    let most = counted.first().map_or(1, |(_, n)| *n).max(1) as f64;
    html! {
        @for (text, n) in counted {
            (PreEscaped(charts::bar(&text.chars().take(80).collect::<String>(), 100.0 * *n as f64 / most, &format!("{} · {}", count(*n), share(*n, of.into())), "flow")))
        }
    }
}

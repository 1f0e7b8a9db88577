//! The charts of report and page, as inline SVG. Colours come from the style sheet, so that they follow light and dark;
//! nothing is an inline style, which the page's content-security policy would refuse.

use crate::figures::StageFigures;
use crate::html::{esc, words};
use crate::summary::{Summary, reasons};
use crate::text::{count, duration, share};
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::spec::Filter;
use std::fmt::Write;

/// One candidate of the scatter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// clip_sim_image.
    pub image: f64,
    /// clip_sim_dir.
    pub direction: f64,
    pub kept: bool,
}

/// One bar: name, share of the full width in percent, text behind it, class of its colour.
pub(crate) fn bar(name: &str, percent: f64, value: &str, class: &str) -> String {
    format!("<div class=row><span class=name>{}</span>{}<span class=value>{}</span></div>", esc(name), track(percent, class), esc(value))
}

/// A bar alone. It says nothing that the text beside it does not.
pub(crate) fn track(percent: f64, class: &str) -> String {
    let percent = if percent.is_finite() { percent.clamp(0.0, 100.0) } else { 0.0 };
    format!("<svg class=track aria-hidden=true><rect class=\"fill {class}\" width=\"{percent:.1}%\" height=\"100%\" rx=4 /></svg>")
}

/// Captions -> triplets -> candidates -> kept, on a logarithmic scale: the candidates would dwarf the rest.
pub(crate) fn funnel(summary: &Summary) -> String {
    let funnel = summary.funnel();
    let (prompts, pairs) = (&funnel.prompts, &funnel.pairs);
    let steps = [
        ("captions", funnel.captions, String::new(), "flow"),
        (
            "triplets",
            prompts.output,
            format!("{} of {} completions", share(prompts.output, prompts.expected), count(prompts.expected)),
            "flow",
        ),
        ("candidates", pairs.expected, String::new(), "flow"),
        ("kept pairs", pairs.output, format!("{} of the candidates", share(pairs.output, pairs.expected)), "kept"),
    ];
    let log = |n: u64| (n as f64 + 1.0).ln();
    let most = steps.iter().map(|step| log(step.1)).fold(f64::MIN_POSITIVE, f64::max);
    let bars = steps.iter().map(|(name, n, note, class)| {
        let value = if note.is_empty() { count(*n) } else { format!("{} · {note}", count(*n)) };
        bar(name, 100.0 * log(*n) / most, &value, class)
    });
    bars.collect()
}

/// What became of all candidates.
pub(crate) fn verdicts(counts: &Counts) -> String {
    let percent = |n: u64| 100.0 * n as f64 / counts.expected.max(1) as f64;
    let value = |n: u64| format!("{} · {}", count(n), share(n, counts.expected));
    let mut text = bar("kept", percent(counts.output), &value(counts.output), "kept");
    for (reason, n) in reasons(counts) {
        text += &bar(&words(&reason), percent(n), &value(n), "rejected");
    }
    text
}

/// Rows of the corpus without a caption for the run, by reason, the most frequent first; empty when every row had one.
pub(super) fn rows_left_out(summary: &Summary) -> String {
    let mut reasons: Vec<(&String, u64)> = summary.skipped.iter().map(|(reason, skipped)| (reason, skipped.rows)).collect();
    reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(*rows));
    let percent = |n: u64| 100.0 * n as f64 / summary.rows.max(1) as f64;
    let value = |n: u64| format!("{} · {} of the rows", count(n), share(n, summary.rows));
    reasons.iter().map(|(reason, n)| bar(&words(reason), percent(*n), &value(*n), "rejected")).collect()
}

/// Completions that gave no triplet, by reason; empty when all did.
pub(crate) fn rejected_completions(counts: &Counts) -> String {
    let percent = |n: u64| 100.0 * n as f64 / counts.expected.max(1) as f64;
    let value = |n: u64| format!("{} · {}", count(n), share(n, counts.expected));
    reasons(counts).iter().map(|(reason, n)| bar(&words(reason), percent(*n), &value(*n), "rejected")).collect()
}

/// Seconds of work by stage.
pub(crate) fn timing(stages: &[StageFigures]) -> String {
    let total: f64 = stages.iter().map(|stage| stage.seconds).sum();
    let most = stages.iter().map(|stage| stage.seconds).fold(f64::MIN_POSITIVE, f64::max);
    let bars = stages.iter().map(|stage| {
        let part = if total > 0.0 { format!(" · {:.0}%", 100.0 * stage.seconds / total) } else { String::new() };
        bar(stage.stage.name(), 100.0 * stage.seconds / most, &format!("{}{part}", duration(stage.seconds)), "flow")
    });
    bars.collect()
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 44.0;

/// Maps scores to places on the drawing.
struct Axes {
    x: (f64, f64),
    y: (f64, f64),
}

impl Axes {
    /// Ranges in steps of 0.1 that hold all points and both thresholds.
    fn around(points: &[Point], filter: &Filter) -> Self {
        let range = |values: &mut dyn Iterator<Item = f64>, threshold: f64| {
            let (low, high) = values.filter(|v| v.is_finite()).fold((threshold, threshold), |(low, high), v| (low.min(v), high.max(v)));
            (((low - 0.02) * 10.0).floor() / 10.0, ((high + 0.02) * 10.0).ceil() / 10.0)
        };
        let x = range(&mut points.iter().map(|p| p.image), filter.clip_image);
        Axes { x, y: range(&mut points.iter().map(|p| p.direction), filter.clip_direction) }
    }

    fn left(&self, image: f64) -> f64 {
        LEFT + (image - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn top(&self, direction: f64) -> f64 {
        HEIGHT - BOTTOM - (direction - self.y.0) / (self.y.1 - self.y.0) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Multiples of 0.1, or of 0.2 where there would be many, within a range.
fn ticks((low, high): (f64, f64)) -> impl Iterator<Item = f64> {
    let step = if high - low > 1.05 { 2 } else { 1 };
    let tenths = |value: f64| (value * 10.0).round() as i32;
    (tenths(low)..=tenths(high)).filter(move |tenth| tenth % step == 0).map(|tenth| f64::from(tenth) / 10.0)
}

/// Direction against image similarity, with the thresholds.
pub(crate) fn scatter(points: &[Point], filter: &Filter) -> String {
    let axes = Axes::around(points, filter);
    let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
    let mut svg = format!(
        "<svg class=scatter viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=img aria-label=\"Direction similarity against image similarity of candidates\" \
         data-left={LEFT} data-right={right} data-top={TOP} data-bottom={bottom} data-x0={} data-x1={} data-y0={} data-y1={}>",
        axes.x.0, axes.x.1, axes.y.0, axes.y.1
    );
    for tick in ticks(axes.x) {
        let x = axes.left(tick);
        let _ = write!(
            svg,
            "<path class=grid d=\"M{x:.1} {TOP}V{bottom}\"/><text x={x:.1} y={:.1} text-anchor=middle>{tick:.1}</text>",
            bottom + 16.0
        );
    }
    for tick in ticks(axes.y) {
        let y = axes.top(tick);
        let _ = write!(
            svg,
            "<path class=grid d=\"M{LEFT} {y:.1}H{right}\"/><text x={:.1} y={:.1} text-anchor=end>{tick:.1}</text>",
            LEFT - 7.0,
            y + 4.0
        );
    }
    for point in points.iter().filter(|p| p.image.is_finite() && p.direction.is_finite()) {
        let class = if point.kept { "k" } else { "r" };
        let _ = write!(svg, "<circle class={class} cx={:.1} cy={:.1} r=2.6 />", axes.left(point.image), axes.top(point.direction));
    }
    let (x, y) = (axes.left(filter.clip_image), axes.top(filter.clip_direction));
    let _ = write!(
        svg,
        "<path class=\"threshold image\" d=\"M{x:.1} {TOP}V{bottom}\"/><path class=\"threshold direction\" d=\"M{LEFT} {y:.1}H{right}\"/>\
         <text class=label x={:.1} y={:.1} text-anchor=end>image similarity (clip_sim_image), at least {}</text>\
         <text class=label x=0 y=0 transform=\"translate(13 {TOP}) rotate(-90)\" text-anchor=end>direction (clip_sim_dir), at least {}</text></svg>",
        right,
        HEIGHT - 8.0,
        filter.clip_image,
        filter.clip_direction
    );
    svg
}

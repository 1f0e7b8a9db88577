//! The page itself: a pure function of what was loaded.

use super::{ReportData, Shown};
use crate::charts;
use crate::html::{esc, words};
use crate::place::Place;
use crate::quarantine::QuarantineError;
use crate::summary::Loading;
use crate::text::{count, duration, share};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::Verdict;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// The whole report as one HTML document without any reference to the outside.
pub fn render(data: &ReportData) -> String {
    let name = esc(&data.summary.run);
    let sections = [
        header(data),
        nothing_section(data),
        figures(data),
        charts_section(data),
        kept_section(data),
        rejected_section(data),
        quarantine_section(data),
        loading_section(data),
        lineage_section(&data.plan),
    ];
    format!(
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n<meta name=viewport content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=Content-Security-Policy content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <title>{name}: InstructPix2Pix pairs</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        sections.concat()
    )
}

fn header(data: &ReportData) -> String {
    let summary = &data.summary;
    let state = if summary.complete { "complete" } else { "not complete" };
    format!(
        "<header>\n<p class=kicker>InstructPix2Pix training pairs · {state}</p>\n<h1>{}</h1>\n<p class=sub>{} captions became {} pairs in {}</p>\n</header>\n",
        esc(&summary.run),
        count(summary.captions),
        count(summary.funnel().pairs.output),
        duration(summary.wall_seconds)
    )
}

/// Why there is no pair; empty when there are some.
fn nothing_section(data: &ReportData) -> String {
    let section = |why: &String| format!("<section class=panel>\n<h2>No pairs</h2>\n<p>{}</p>\n</section>\n", esc(why));
    data.summary.nothing_kept.as_ref().map(section).unwrap_or_default()
}

fn quarantine_section(data: &ReportData) -> String {
    let errors = &data.summary.quarantine;
    if errors.is_empty() {
        return String::new();
    }
    let row = |error: &QuarantineError| format!("<dt>{} {}</dt><dd>{}</dd>\n", count(error.records), error.stage, esc(&error.error));
    let rows: String = errors.iter().map(row).collect();
    format!("<section class=panel>\n<h2>In quarantine</h2>\n<dl class=lines>\n{rows}</dl>\n</section>\n")
}

fn figures(data: &ReportData) -> String {
    let pairs = data.summary.funnel().pairs;
    let work: f64 = data.summary.stages.iter().map(|stage| stage.seconds).sum();
    let splits: Vec<String> = data.summary.splits.iter().map(|s| format!("{} {}", s.split.name(), count(s.pairs))).collect();
    let cards = [
        ("pairs kept", count(pairs.output), splits.join(" · ")),
        ("of the candidates", share(pairs.output, pairs.expected), format!("{} were drawn and scored", count(pairs.expected))),
        ("in quarantine", count(pairs.quarantined), "could not be drawn or scored".to_string()),
        ("of work", duration(work), "over all workers".to_string()),
    ];
    let cards = cards.iter().map(|(name, value, note)| {
        format!("<div class=card><b>{}</b><span>{}</span><small>{}</small></div>\n", esc(value), esc(name), esc(note))
    });
    format!("<section class=cards>\n{}</section>\n", cards.collect::<String>())
}

fn charts_section(data: &ReportData) -> String {
    let under = |title: &str, bars: String| if bars.is_empty() { bars } else { format!("<h3>{title}</h3>\n{bars}\n") };
    let left_out = under("Rows of the corpus that were left out", charts::rows_left_out(&data.summary));
    let completions = under("Completions that gave no triplet", charts::rejected_completions(&data.summary.funnel().prompts));
    let sampled = (data.points.len() as u64) < data.scored;
    let note = if sampled {
        format!(" A sample of {} of {} candidates.", count(data.points.len() as u64), count(data.scored))
    } else {
        String::new()
    };
    format!(
        "<section class=two>\n\
         <div class=panel>\n<h2>From captions to pairs</h2>\n{}\n<p class=note>Lengths are logarithmic.</p>\n<h3>What became of the candidates</h3>\n{}\n{left_out}{completions}</div>\n\
         <div class=panel>\n<h2>What the filter sees</h2>\n{}\n<p class=note><i class=\"dot kept\"></i> kept <i class=\"dot rejected\"></i> rejected. \
         Dashed: the thresholds. A point right and above of both can still be rejected: by the similarity of image and text, or because better ones of its \
         triplet were enough.{note}</p>\n<h3>Work by stage</h3>\n{}\n</div>\n</section>\n",
        charts::funnel(&data.summary),
        charts::verdicts(&data.summary.funnel().pairs),
        charts::scatter(&data.points, &data.plan.spec.stages.filter),
        charts::timing(&data.summary.stages)
    )
}

fn kept_section(data: &ReportData) -> String {
    let total = data.summary.funnel().pairs.output;
    let shown = data.kept.len() as u64;
    let note = if shown < total {
        format!("{} of {}: those with the smallest ids, which is a fair sample, because ids are hashes.", count(shown), count(total))
    } else {
        format!("All {}.", count(total))
    };
    let cards: String = data.kept.iter().map(pair).collect();
    format!(
        "<section id=kept>\n<h2>Kept pairs</h2>\n<p class=note>{note} Each shows the picture before and after its instruction.</p>\n\
         <div class=controls><input id=search type=search placeholder=\"Search instruction or caption\" aria-label=\"Search\">\n\
         <select id=order aria-label=\"Order\"><option value=direction>best direction first</option><option value=image>most similar first</option>\
         <option value=id>by pair id</option></select><span id=hits></span></div>\n<div class=gallery>\n{cards}</div>\n</section>\n"
    )
}

fn rejected_section(data: &ReportData) -> String {
    if data.rejected.is_empty() {
        return String::new();
    }
    let with_images = data.rejected.iter().any(|shown| shown.images.is_some());
    let hint = if with_images { "" } else { " Their pictures were not stored; <code>keep_rejected: true</code> stores them." };
    let cards: String = data.rejected.iter().map(pair).collect();
    format!(
        "<section id=rejected>\n<h2>Rejected pairs</h2>\n<p class=note>A sample for each reason.{hint}</p>\n<div class=gallery>\n{cards}</div>\n</section>\n"
    )
}

/// A card of the gallery.
fn pair(shown: &Shown) -> String {
    let row = &shown.row;
    let scores = row.scores;
    let (direction, image) = scores.map_or((0.0, 0.0), |s| (s.clip_sim_dir, s.clip_sim_image));
    let id = row.pair.to_string();
    let mut html = format!(
        "<article data-direction={direction:.4} data-image={image:.4} data-id={id} data-text=\"{}\">\n",
        esc(&format!("{} {} {}", row.edit, row.caption, row.output).to_lowercase())
    );
    if let Some([before, after]) = &shown.images {
        let _ = writeln!(
            html,
            "<div class=images><img src=\"{before}\" alt=\"Before: {}\" loading=lazy><img src=\"{after}\" alt=\"After: {}\" loading=lazy></div>",
            esc(&row.caption),
            esc(&row.output)
        );
    }
    let _ = writeln!(
        html,
        "<h4>{}</h4>\n<p class=caption>{}<br><span class=arrow>→</span> {}</p>",
        esc(&row.edit),
        esc(&row.caption),
        esc(&row.output)
    );
    if row.verdict != Verdict::Kept {
        let _ = writeln!(html, "<p class=reason>{}</p>", esc(&words(&shown.verdict)));
    }
    if let Some(s) = scores {
        let _ = writeln!(
            html,
            "<dl><div><dt>direction</dt><dd>{:.3}</dd></div><div><dt>image</dt><dd>{:.3}</dd></div><div><dt>text</dt><dd>{:.3} / {:.3}</dd></div></dl>",
            s.clip_sim_dir, s.clip_sim_image, s.clip_sim_0, s.clip_sim_1
        );
    }
    let c = &row.candidate;
    let _ = writeln!(
        html,
        "<p class=id title=\"seed {}, sample {}, Prompt-to-Prompt threshold, guidance scale\">{} · p2p {:.2} · cfg {:.1}</p>\n</article>",
        c.seed,
        c.sample,
        row.pair.short(),
        c.p2p_threshold,
        c.cfg_scale
    );
    html
}

fn loading_section(data: &ReportData) -> String {
    if data.summary.nothing_kept.is_some() {
        return String::new();
    }
    let lines: String = data.summary.loading().iter().map(loading).collect();
    let place = Place::of(&data.summary.dataset).to_string();
    format!(
        "<section class=panel>\n<h2>Load it</h2>\n<p>The shards are in <code>{}</code></p>\n<dl class=lines>\n{lines}</dl>\n</section>\n",
        esc(&place)
    )
}

fn loading(Loading { format, line, remark }: &Loading) -> String {
    let line = line.as_ref().map(|line| format!("<code>{}</code>", esc(line)));
    let parts: Vec<String> = line.into_iter().chain(remark.as_ref().map(|remark| esc(remark).to_string())).collect();
    format!("<dt>{}</dt><dd>{}</dd>\n", format.name(), parts.join("<br>"))
}

fn lineage_section(plan: &Plan) -> String {
    let (references, prints) = (&plan.spec.models, &plan.models);
    let mut rows = vec![
        ("dataset".to_string(), plan.lineage.to_string()),
        ("plan".to_string(), plan.fingerprint().to_string()),
        ("corpus".to_string(), format!("{} ({})", plan.corpus, plan.spec.corpus.path)),
        ("diffusion model".to_string(), format!("{} ({})", prints.diffusion, references.diffusion)),
        ("CLIP model".to_string(), format!("{} ({})", prints.clip, references.clip)),
    ];
    rows.extend(prints.vae.zip(references.vae.as_ref()).map(|(print, reference)| ("VAE".to_string(), format!("{print} ({reference})"))));
    rows.extend(
        prints.llm.zip(references.llm.as_ref()).map(|(print, reference)| ("language model".to_string(), format!("{print} ({reference})"))),
    );
    rows.push(("software".to_string(), format!("ip2p {}", env!("CARGO_PKG_VERSION"))));
    let rows: String = rows.iter().map(|(name, value)| format!("<dt>{}</dt><dd><code>{}</code></dd>\n", esc(name), esc(value))).collect();
    // A spec is plain data: it always has a JSON form.
    let spec = serde_json::to_string_pretty(&plan.spec).unwrap_or_default();
    format!(
        "<section class=panel>\n<h2>Where it comes from</h2>\n<dl class=lines>\n{rows}</dl>\n<p class=note>To see how one pair was made: \
         <code>ip2p-coordinator explain &lt;pipeline.yaml&gt; &lt;pair id&gt;</code></p>\n<details><summary>The validated pipeline</summary>\n<pre>{}</pre></details>\n</section>\n",
        esc(&spec)
    )
}

//! Exact rules about texts: which captions are taken up, what a model is asked, which of its answers count.

use std::collections::HashMap;

use ip2p_pipeline::completion::{PROMPT_END, SEPARATOR, STOP, Style, fine_tuning_line, prompt, same_text};
use ip2p_pipeline::corpus::dedup::{Rule, Seen};
use ip2p_pipeline::records::{CorpusRecord, Edit};
use ip2p_pipeline::shard_plan::even_ranges;
use serde::Deserialize;

use super::mt19937::permutation;
use super::place::file;
use super::support::json;

/// Our own order of captions is another; this pins down the generator and the division that the cases below build on.
#[test]
fn golden_caption_permutation() {
    #[derive(Deserialize)]
    struct Case {
        n: u32,
        seed: u32,
        n_partitions: u32,
        partitions: Vec<Vec<usize>>,
    }
    let Some(file) = file("selection", "caption_permutation.json") else { return };
    let cases: Vec<Case> = json(&file);
    assert!(!cases.is_empty());
    for Case { n, seed, n_partitions, partitions } in cases {
        assert_eq!(parts(seed, n, n_partitions), partitions, "{n} in {n_partitions}, seed {seed}");
    }
}

/// The rows of each of the original's partitions, by number, in the order in which it reads them.
fn parts(seed: u32, n: u32, n_partitions: u32) -> Vec<Vec<usize>> {
    let order = permutation(seed, n);
    even_ranges(n, n_partitions).map(|range| order[range.start as usize..range.end as usize].to_vec()).collect()
}

#[derive(Deserialize)]
struct Completions {
    delimiter_0: String,
    delimiter_1: String,
    stop: String,
    max_attempts: usize,
    cases: Vec<Completion>,
}

#[derive(Deserialize)]
struct Completion {
    name: String,
    caption: String,
    replies: Vec<Option<String>>,
    moderation_flags: Vec<[bool; 2]>,
    prompt_sent: String,
    result: Option<[String; 2]>,
    completion_calls: usize,
    moderation_calls: usize,
}

#[test]
fn golden_completions() {
    let Some(file) = file("selection", "completions.json") else { return };
    let golden: Completions = json(&file);
    assert_eq!([PROMPT_END, SEPARATOR, STOP], [golden.delimiter_0.as_str(), &golden.delimiter_1, &golden.stop]);
    assert!(!golden.cases.is_empty());
    for case in &golden.cases {
        assert_eq!(prompt(&case.caption), case.prompt_sent, "{}", case.name);
        let expected = (case.result.clone(), case.completion_calls, case.moderation_calls);
        assert_eq!(generate(case, golden.max_attempts), expected, "{}", case.name);
    }
}

/// The original's loop around these rules: parse, moderate, compare; the first that passes is the result.
fn generate(case: &Completion, attempts: usize) -> (Option<[String; 2]>, usize, usize) {
    let mut moderations = 0;
    for attempt in 0..attempts {
        let Some(reply) = &case.replies[attempt.min(case.replies.len() - 1)] else { continue };
        let Ok(edit) = Style::Delimited.parse(reply) else { continue };
        let flags = case.moderation_flags.get(moderations).copied().unwrap_or_default();
        moderations += 1;
        if flags == [false; 2] && !same_text(&case.caption, &edit.output) {
            return (Some([edit.edit, edit.output]), attempt + 1, moderations);
        }
    }
    (None, attempts, moderations)
}

#[test]
fn golden_fine_tuning_lines() {
    #[derive(Deserialize)]
    struct Row {
        input: String,
        #[serde(flatten)]
        edit: Edit,
    }
    #[derive(Deserialize)]
    struct Golden {
        rows: Vec<Row>,
        lines: Vec<String>,
    }
    let Some(file) = file("selection", "prepare_for_gpt.json") else { return };
    let golden: Golden = json(&file);
    let lines: Vec<String> = golden.rows.iter().map(|row| fine_tuning_line(&row.input, &row.edit).unwrap()).collect();
    assert_eq!(lines, golden.lines);
    assert!(!lines.is_empty());
}

/// A run of the original's text generator over a table of captions and urls.
#[derive(Deserialize)]
struct Resume {
    table: Vec<(String, String)>,
    existing: Vec<Line>,
    replies: HashMap<String, String>,
    num_samples: usize,
    flagged_captions: Vec<String>,
    seed: u32,
    n_partitions: u32,
    partition: usize,
    file_lines: Vec<String>,
}

#[derive(Deserialize)]
struct Line {
    caption: String,
    url: String,
}

impl Resume {
    /// The rows of the case's partition that get a usable reply: the original remembers only rows that became triplets.
    fn rows(&self) -> Vec<CorpusRecord> {
        let order = parts(self.seed, self.table.len() as u32, self.n_partitions).swap_remove(self.partition);
        let reply = |caption: &String| self.replies.get(caption).is_some_and(|reply| Style::Delimited.parse(reply).is_ok());
        let usable = |caption: &String| reply(caption) && !self.flagged_captions.contains(caption);
        order.iter().map(|&row| &self.table[row]).filter(|(caption, _)| usable(caption)).map(|(c, u)| record(c, u)).collect()
    }

    /// What the original's output file held before: it remembers captions and urls, whichever they were written with.
    fn seen(&self) -> Seen {
        let mut seen = Seen::default();
        for (n, Line { caption, url }) in self.existing.iter().enumerate() {
            let _ = seen.admit(&record(caption, &format!("\0 existing {n}")), Rule::CaptionAndUrl);
            let _ = seen.admit(&record(&format!("\0 existing {n}"), url), Rule::CaptionAndUrl);
        }
        seen
    }
}

fn record(caption: &str, url: &str) -> CorpusRecord {
    CorpusRecord { caption: caption.to_string(), url: Some(url.to_string()), edit: None }
}

#[test]
fn golden_text_resume_keeps_the_same_rows() {
    let Some(file) = file("selection", "text_resume.json") else { return };
    let cases: Vec<Resume> = json(&file);
    assert!(!cases.is_empty());
    for case in cases {
        let mut seen = case.seen();
        let kept: Vec<_> = case.rows().into_iter().filter(|row| seen.admit(row, Rule::CaptionAndUrl).is_ok()).collect();
        let lines: Vec<Line> = case.file_lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected: Vec<_> = lines[case.existing.len()..].iter().map(|line| record(&line.caption, &line.url)).collect();
        assert_eq!(kept[..expected.len()], expected, "seed {}", case.seed);
        // The original stops at its number of samples.
        if lines.len() < case.num_samples {
            assert_eq!(kept.len(), expected.len(), "seed {}", case.seed);
        }
    }
}

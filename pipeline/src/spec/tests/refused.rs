//! Refusals: the whole message of every case in `refused.txt`.
//!
//! A case is a line that says how it differs from [`SHORTEST`], whose nine lines it keeps, and the expected
//! messages, indented: `add LINES` at the end, `replace TEXT => TEXT`, `whole TEXT` in its place, or the
//! arguments of `--set`, `set A && B`. `\n`, `\t`, `\0` and `\\` are escapes.

use super::super::*;
use super::SHORTEST;

const CASES: &str = include_str!("refused.txt");

struct Case {
    edit: String,
    messages: Vec<String>,
}

fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in CASES.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match (line.strip_prefix("    "), cases.last_mut()) {
            (Some(message), Some(case)) => case.messages.push(message.to_string()),
            _ => cases.push(Case { edit: line.to_string(), messages: Vec::new() }),
        }
    }
    cases
}

fn refusal(edit: &str) -> String {
    let (verb, rest) = edit.split_once(' ').unwrap_or((edit, ""));
    let rest = unescape(rest);
    let mut arguments = Vec::new();
    let text = match verb {
        "add" => format!("{SHORTEST}{rest}\n"),
        "replace" => {
            let (from, to) = rest.split_once(" =>").unwrap();
            assert!(SHORTEST.contains(from), "{from}");
            SHORTEST.replacen(from, to.strip_prefix(' ').unwrap_or(to), 1)
        }
        "whole" => rest,
        "set" => {
            arguments = rest.split(" && ").map(str::to_string).collect();
            SHORTEST.to_string()
        }
        _ => panic!("no such edit: {edit}"),
    };
    match Spec::parse(&text, "p.yaml", &arguments, &Unchecked) {
        Ok(spec) => format!("accepted as {spec:?}"),
        Err(diagnostics) => diagnostics.to_string(),
    }
}

fn unescape(text: &str) -> String {
    let mut chars = text.chars();
    let mut out = String::new();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('0') => '\0',
                Some('\\') => '\\',
                other => panic!("no such escape: {other:?}"),
            },
            c => c,
        });
    }
    out
}

#[test]
fn every_refusal_says_what_where_and_what_to_do() {
    let cases = cases();
    let wrong: Vec<String> = cases
        .iter()
        .map(|case| (case, refusal(&case.edit)))
        .filter(|(case, found)| *found != case.messages.join("\n"))
        .map(|(case, found)| format!("{}\n    {}", case.edit, found.replace('\n', "\n    ")))
        .collect();
    assert!(wrong.is_empty(), "{} of {} cases say something else:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn no_refusal_shows_a_secret() {
    for case in cases() {
        for secret in ["abcdefgh12345678", "me:pass", "key:secret", "token=abc"] {
            assert!(!case.messages.iter().any(|message| message.contains(secret)), "{}", case.edit);
        }
    }
}

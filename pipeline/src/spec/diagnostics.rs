//! Everything wrong with a pipeline file, in one go and in the form of a compiler's messages.

use std::fmt;

/// One problem: where it is, which key it is about, what was found and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// `file:line:column`, the `--set` argument, or the file alone when it could not be read.
    pub location: String,
    /// Dotted path of the key; empty when the problem is not about one key.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.location)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Most problems that are printed; a file with more is not a pipeline file.
const MOST_PRINTED: usize = 50;

/// The problems of one file and its `--set` arguments, in the order of their lines; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Diagnostics {
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// The file could not be read at all.
    pub(super) fn unreadable(file: &str, message: String) -> Self {
        Diagnostics(vec![Diagnostic { location: file.to_string(), key: String::new(), message }])
    }

    pub(super) fn new(mut problems: Vec<Problem>, file: &str, overrides: &[String]) -> Self {
        problems.sort_by_key(|problem| problem.place);
        let locate = |problem: Problem| Diagnostic {
            location: location(problem.place, file, overrides),
            key: one_line(&problem.key),
            message: problem.message,
        };
        Diagnostics(problems.into_iter().map(locate).collect())
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, diagnostic) in self.0.iter().take(MOST_PRINTED).enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{diagnostic}")?;
        }
        match self.0.len().saturating_sub(MOST_PRINTED) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}

impl std::error::Error for Diagnostics {}

impl From<Diagnostics> for crate::Error {
    fn from(diagnostics: Diagnostics) -> Self {
        crate::Error::Invalid(diagnostics.to_string())
    }
}

/// Where a key or value was written. The order is the order of the printed messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// Both count from 1; columns are characters.
    File { line: usize, column: usize },
    /// The `--set` argument with this number.
    Set(usize),
    /// A default of this program.
    Default,
}

impl Place {
    pub(super) const START: Place = Place::File { line: 1, column: 1 };
}

/// A diagnostic before its place is put into words.
#[derive(Debug)]
pub(super) struct Problem {
    pub place: Place,
    pub key: String,
    pub message: String,
}

impl Problem {
    pub(super) fn new(place: Place, key: impl Into<String>, message: impl Into<String>) -> Self {
        Problem { place, key: key.into(), message: message.into() }
    }
}

fn location(place: Place, file: &str, overrides: &[String]) -> String {
    match place {
        Place::File { line, column } => format!("{file}:{line}:{column}"),
        Place::Set(i) => format!("--set {}", overrides.get(i).map(|argument| shown_argument(argument)).unwrap_or_default()),
        Place::Default => format!("{file} (default)"),
    }
}

/// `key=value`, or the key alone when the value must not be shown.
fn shown_argument(argument: &str) -> String {
    match argument.split_once('=') {
        Some((key, value)) if names_secret(key) || is_secret(value) => format!("{}=***", one_line(key)),
        _ => one_line(argument),
    }
}

/// Text as a message shows it: in backquotes, on one line, cut when long, and never a secret.
pub(super) fn quoted(text: &str) -> String {
    if is_secret(text) { "(not shown)".to_string() } else { format!("`{}`", one_line(text)) }
}

const MOST_SHOWN: usize = 100;

fn one_line(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars().take(MOST_SHOWN) {
        if c.is_control() { shown.extend(c.escape_debug()) } else { shown.push(c) }
    }
    if text.chars().nth(MOST_SHOWN).is_some() { format!("{shown}...") } else { shown }
}

/// Whether a key's name says that its value is a secret.
pub(super) fn names_secret(key: &str) -> bool {
    let name = key.rsplit('.').next().unwrap_or(key).to_ascii_lowercase().replace('-', "_");
    let words = ["key", "token", "secret", "password", "credentials", "authorization"];
    words.iter().any(|word| name.split('_').any(|part| part == *word) || name.ends_with(word)) && !name.ends_with("_env")
}

/// Whether a text is an API key of a known provider, a private key, or a URL with a password in it.
pub fn is_secret(text: &str) -> bool {
    let prefixes = ["sk-", "hf_", "ghp_", "github_pat_", "xoxb-", "AKIA", "AIza", "Bearer "];
    let word_is_key = |word: &str| word.len() >= 8 && prefixes.iter().any(|prefix| word.starts_with(prefix));
    text.split(|c: char| c.is_whitespace() || "=,'\"[]{}".contains(c)).any(word_is_key)
        || text.starts_with("Bearer ")
        || text.contains("PRIVATE KEY-----")
        || has_userinfo(text)
        || is_signed(text)
}

/// `scheme://host/path?sig=...`: whoever has such a link has access.
fn is_signed(text: &str) -> bool {
    let query = text.split_once("://").and_then(|(_, rest)| rest.split_once('?')).map_or("", |(_, query)| query);
    let signs =
        |name: &str| names_secret(name) || ["sig", "signature", "credential"].iter().any(|word| name.to_ascii_lowercase().ends_with(word));
    query.split('&').filter_map(|part| part.split_once('=')).any(|(name, _)| signs(name))
}

/// `scheme://user:password@host`.
fn has_userinfo(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    authority.split_once('@').is_some_and(|(user, _)| user.contains(':'))
}

/// The candidate that `word` was most likely meant to be.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    let length = word.chars().count();
    if length > LONGEST {
        return None;
    }
    let word = word.to_lowercase();
    // One letter of three is much: `jpg` is near `jpeg`, but `gpu` is not near `cpu`.
    let plausible = |candidate: &&str| length > 3 || word.chars().next() == candidate.chars().next();
    let scored = candidates.into_iter().filter(plausible).map(|candidate| (strsim::osa_distance(&word, candidate), candidate));
    scored
        .filter(|(distance, _)| *distance <= 1 + length / 4 && *distance < length.max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// "; did you mean `x`?" or nothing.
pub(super) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map(|found| format!("; did you mean `{found}`?")).unwrap_or_default()
}

/// "`a`, `b` or `c`".
pub(super) fn alternatives<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

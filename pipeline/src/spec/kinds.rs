//! The kinds of values a key can have: what is expected, in words, and how it is read.

use super::Range;
use super::diagnostics::{Place, alternatives, did_you_mean, is_secret};
use super::yaml::{Node, Value};
use std::net::SocketAddr;
use std::time::Duration;

type Read<T> = Box<dyn Fn(&Node) -> Result<T, Wrong>>;

/// A kind of value. `expected` completes "expected ..., found ...".
pub(super) struct Kind<T> {
    pub expected: String,
    read: Read<T>,
}

/// Why a value is not of its kind: `problem` completes "expected ..., ".
#[derive(Debug)]
pub(super) struct Wrong {
    pub place: Place,
    pub problem: String,
}

impl Wrong {
    fn found(node: &Node) -> Self {
        Wrong { place: node.place, problem: format!("found {}", node.value.describe()) }
    }

    fn hint(mut self, hint: impl AsRef<str>) -> Self {
        self.problem.push_str(hint.as_ref());
        self
    }
}

impl<T> Kind<T> {
    pub(super) fn new(expected: impl Into<String>, read: impl Fn(&Node) -> Result<T, Wrong> + 'static) -> Self {
        Kind { expected: expected.into(), read: Box::new(read) }
    }

    pub(super) fn read(&self, node: &Node) -> Result<T, Wrong> {
        (self.read)(node)
    }
}

/// Text of a form that `parse` knows; its error follows "found ...".
pub(super) fn text_of<T>(expected: impl Into<String>, parse: impl Fn(&str) -> Result<T, String> + 'static) -> Kind<T> {
    Kind::new(expected, move |node| match &node.value {
        Value::Text(text) => parse(text).map_err(|hint| Wrong::found(node).hint(hint)),
        value => {
            let plain = match value {
                Value::Integer(n) => Some(n.to_string()),
                Value::Float(x) => Some(x.to_string()),
                Value::Bool(b) => Some(b.to_string()),
                _ => None,
            };
            let quotable = plain.is_some_and(|plain| parse(&plain).is_ok());
            Err(Wrong::found(node).hint(if quotable { "; put it in quotes to make it text" } else { "" }))
        }
    })
}

/// Any text but the empty one.
pub(super) fn text(expected: &'static str) -> Kind<String> {
    text_of(expected, |text| if text.trim().is_empty() { Err(String::new()) } else { Ok(text.to_string()) })
}

/// A column by its name, or by its number where a file names none.
pub(super) fn column() -> Kind<String> {
    let name = text("the name of a column, or its number from 1 in a file without header");
    Kind::new(name.expected.clone(), move |node| match node.value {
        Value::Integer(number) if number >= 1 => Ok(number.to_string()),
        Value::Integer(_) => Err(Wrong::found(node)),
        _ => name.read(node),
    })
}

/// A word that can be a folder's name on every store: letters, digits, `-`, `_` and `.`.
pub(super) fn segment() -> Kind<String> {
    const LONGEST: usize = 63;
    text_of("a name of at most 63 letters, digits, `-`, `_` and `.`, starting with a letter or digit", |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let valid = text.len() <= LONGEST && text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(allowed);
        if valid { Ok(text.to_string()) } else { Err(String::new()) }
    })
}

/// The name of an environment variable.
pub(super) fn variable() -> Kind<String> {
    text_of("the name of an environment variable, such as OPENAI_API_KEY", |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let valid = !text.starts_with(|c: char| c.is_ascii_digit()) && !text.is_empty() && text.chars().all(allowed);
        match (valid, is_secret(text)) {
            (true, false) => Ok(text.to_string()),
            (_, true) => Err("; put the key into an environment variable and name that variable here".to_string()),
            (false, false) => Err(String::new()),
        }
    })
}

/// An integer within bounds that fit `T`.
pub(super) fn integer<T: TryFrom<i128>>(min: u64, max: u64) -> Kind<T> {
    Kind::new(format!("an integer from {min} to {max}"), move |node| match node.value {
        Value::Integer(n) if (i128::from(min)..=i128::from(max)).contains(&n) => T::try_from(n).map_err(|_| Wrong::found(node)),
        _ => Err(Wrong::found(node).hint(unquote_hint(&node.value))),
    })
}

/// The one number that this program knows.
pub(super) fn version(known: u32) -> Kind<u32> {
    Kind::new(format!("{known}, the version that this program reads"), move |node| match node.value {
        Value::Integer(n) if n == i128::from(known) => Ok(known),
        _ => Err(Wrong::found(node).hint(unquote_hint(&node.value))),
    })
}

/// A finite number within bounds.
pub(super) fn number(min: f64, max: f64) -> Kind<f64> {
    Kind::new(format!("a number from {min} to {max}"), move |node| number_within(node, min, max))
}

fn number_within(node: &Node, min: f64, max: f64) -> Result<f64, Wrong> {
    let number = match node.value {
        Value::Integer(n) => n as f64,
        Value::Float(x) => x,
        _ => return Err(Wrong::found(node).hint(unquote_hint(&node.value))),
    };
    // NaN is in no range.
    if (min..=max).contains(&number) { Ok(number) } else { Err(Wrong::found(node)) }
}

fn unquote_hint(value: &Value) -> &'static str {
    match value {
        Value::Text(text) if text.trim().parse::<f64>().is_ok() => "; remove the quotes",
        _ => "",
    }
}

pub(super) fn boolean() -> Kind<bool> {
    Kind::new("true or false", |node| match &node.value {
        Value::Bool(b) => Ok(*b),
        Value::Text(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "on" | "true" => Err(Wrong::found(node).hint("; write true")),
            "no" | "off" | "false" => Err(Wrong::found(node).hint("; write false")),
            _ => Err(Wrong::found(node)),
        },
        _ => Err(Wrong::found(node)),
    })
}

/// One of a few words.
pub(super) fn choice<T: Copy>(words: &'static [(&'static str, T)]) -> Kind<T> {
    Kind::new(alternatives(names(words)), move |node| chosen(node, words))
}

/// A list of different words, at least one.
pub(super) fn choices<T: Copy + PartialEq>(words: &'static [(&'static str, T)]) -> Kind<Vec<T>> {
    Kind::new(format!("a list of {}, each at most once", alternatives(names(words))), move |node| {
        let Value::List(items) = &node.value else { return Err(Wrong::found(node)) };
        if items.is_empty() {
            return Err(Wrong { place: node.place, problem: "found an empty list".to_string() });
        }
        let mut chosen_words = Vec::new();
        for item in items {
            let word = chosen(item, words)?;
            if chosen_words.contains(&word) {
                return Err(Wrong::found(item).hint(" a second time"));
            }
            chosen_words.push(word);
        }
        Ok(chosen_words)
    })
}

fn names<T>(words: &'static [(&'static str, T)]) -> impl Iterator<Item = &'static str> {
    words.iter().map(|(name, _)| *name)
}

fn chosen<T: Copy>(node: &Node, words: &'static [(&'static str, T)]) -> Result<T, Wrong> {
    let Value::Text(text) = &node.value else { return Err(Wrong::found(node)) };
    let found = words.iter().find(|(name, _)| name == text);
    found.map(|(_, value)| *value).ok_or_else(|| Wrong::found(node).hint(did_you_mean(text, names(words))))
}

/// Two numbers, the smaller first.
pub(super) fn range(min: f64, max: f64) -> Kind<Range> {
    Kind::new(format!("[least, most] within {min} and {max}"), move |node| {
        let Value::List(items) = &node.value else { return Err(Wrong::found(node)) };
        let [least, most] = items.as_slice() else {
            return Err(Wrong { place: node.place, problem: format!("found a list of {}", items.len()) });
        };
        let range = Range { min: number_within(least, min, max)?, max: number_within(most, min, max)? };
        if range.min <= range.max {
            Ok(range)
        } else {
            let problem = format!("found the least {} above the most {}; swap them", range.min, range.max);
            Err(Wrong { place: node.place, problem })
        }
    })
}

/// A share: `1%` or `0.01`.
pub(super) fn share() -> Kind<f64> {
    Kind::new("a share such as 1% or 0.01, from 0 to 1", |node| match &node.value {
        Value::Text(text) => {
            let percent = text.strip_suffix('%').and_then(|digits| decimal(digits.trim_end()));
            let share = percent.map(|percent| percent / 100.0).filter(|share| (0.0..=1.0).contains(share));
            share.ok_or_else(|| Wrong::found(node))
        }
        _ => number_within(node, 0.0, 1.0),
    })
}

/// A duration such as `30s`; the words of the bounds are part of the message.
pub(super) fn duration(min: &'static str, max: &'static str) -> Kind<Duration> {
    text_of(format!("a duration such as 30s or 5m, from {min} to {max}"), move |text| {
        let found = parse_duration(text)?;
        let bounds = parse_duration(min)?..=parse_duration(max)?;
        if bounds.contains(&found) { Ok(found) } else { Err(String::new()) }
    })
}

/// Two durations, `1s..60s`, the shorter first, at most a day.
pub(super) fn backoff() -> Kind<(Duration, Duration)> {
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
    text_of("two durations such as 1s..60s, at most 1day", |text| {
        let (min, max) = text.split_once("..").ok_or_else(String::new)?;
        let (min, max) = (parse_duration(min)?, parse_duration(max)?);
        match () {
            _ if min > max => Err(", the first above the second; swap them".to_string()),
            _ if max > LONGEST => Err(String::new()),
            _ => Ok((min, max)),
        }
    })
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text.trim()).map_err(|_| String::new())
}

/// A number of bytes: `500MB` (powers of 1000), `64MiB` (powers of 1024) or a plain integer.
pub(super) fn size(min: u64, max: u64, words: &'static str) -> Kind<u64> {
    Kind::new(format!("a size such as 500MB or 64MiB, {words}"), move |node| {
        let bytes = match &node.value {
            Value::Integer(n) => u64::try_from(*n).ok(),
            Value::Text(text) => parse_size(text),
            _ => None,
        };
        bytes.filter(|bytes| (min..=max).contains(bytes)).ok_or_else(|| Wrong::found(node))
    })
}

fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 9] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("b", 1),
    ];
    let text = text.trim().to_ascii_lowercase();
    let (digits, unit) = UNITS.iter().find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    // The cast saturates, and the caller's bounds refuse what is too large.
    Some((decimal(digits.trim_end())? * *unit as f64).round() as u64)
}

/// Digits with at most one decimal point: no sign, no exponent, no words.
fn decimal(text: &str) -> Option<f64> {
    text.chars().all(|c| c.is_ascii_digit() || c == '.').then(|| text.parse().ok())?
}

/// An address to listen on.
pub(super) fn address() -> Kind<String> {
    text_of("an IP address and port such as 127.0.0.1:0 (0 picks a free port)", |text| {
        text.parse::<SocketAddr>().map(|address| address.to_string()).map_err(|_| String::new())
    })
}

/// The path of a file of certificates or of a key, on this machine.
pub(super) fn pem_file() -> Kind<String> {
    text_of("the path of a PEM file", |text| match () {
        _ if is_secret(text) => Err("; a key does not belong in this file: give the path of the file that holds it".to_string()),
        _ if text.trim().is_empty() || text.contains("://") || text.contains('\n') => Err(String::new()),
        _ => Ok(text.to_string()),
    })
}

/// The base URL of a server.
pub(super) fn base_url() -> Kind<String> {
    text_of("a URL such as https://api.openai.com/v1", |text| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let valid = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace));
        match (valid, is_secret(text)) {
            (true, false) => Ok(text.to_string()),
            (_, true) => Err("; remove the password from the URL and name the key with `api_key_env`".to_string()),
            (false, false) => Err(String::new()),
        }
    })
}

//! YAML text into a tree in which every key and value knows its place.
//!
//! The subset is what a configuration needs: one document of maps, lists and scalars. Anchors, aliases and
//! tags are refused: the file then says what it means where it says it, and a small file cannot unfold
//! into a large one. Size and depth are bounded.

use super::diagnostics::{Place, Problem, is_secret, quoted};
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, StrInput};
use std::collections::BTreeMap;

/// Largest pipeline file; a real one has a few kilobytes.
pub(super) const MAX_BYTES: usize = 128 * 1024;
/// Deepest nesting; a real file has four levels.
const MAX_DEPTH: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub place: Place,
    pub value: Value,
}

impl Node {
    /// What an empty file holds.
    pub(super) fn empty() -> Self {
        Node { place: Place::START, value: Value::Null }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// Already reported: readers pass over it in silence.
    Broken,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_place: Place,
    pub node: Node,
}

impl Value {
    /// What a message calls this value.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Null => "nothing".to_string(),
            Value::Bool(b) => format!("`{b}`"),
            Value::Integer(n) => format!("the number {n}"),
            Value::Float(x) => format!("the number {x}"),
            Value::Text(text) if text.trim().is_empty() => "an empty text".to_string(),
            Value::Text(text) if is_secret(text) => "a secret (not shown)".to_string(),
            Value::Text(text) => format!("the text {}", quoted(text)),
            Value::List(_) => "a list".to_string(),
            Value::Map(_) | Value::Broken => "a map".to_string(),
        }
    }
}

/// Where a text comes from: the file, with places of its own, or one place for all of it.
#[derive(Clone, Copy)]
pub(super) enum Origin {
    File,
    At(Place),
}

/// Parses one document. What is wrong but local goes to `problems`; a syntax error ends the parse.
pub(super) fn parse(text: &str, origin: Origin, problems: &mut Vec<Problem>) -> Result<Node, Problem> {
    let mut builder = Builder { parser: Parser::new_from_str(text), origin, problems };
    builder.document()
}

struct Builder<'t, 'p> {
    parser: Parser<'t, StrInput<'t>>,
    origin: Origin,
    problems: &'p mut Vec<Problem>,
}

impl<'t> Builder<'t, '_> {
    fn document(&mut self) -> Result<Node, Problem> {
        let root = loop {
            match self.next()? {
                (Event::StreamStart | Event::Nothing, _) => {}
                (Event::DocumentStart(_), _) => break self.node(0)?,
                (_, place) => return Ok(Node { place, value: Value::Null }),
            }
        };
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(root),
                (Event::DocumentStart(_), place) => {
                    return Err(Problem::new(
                        place,
                        "",
                        "a second document starts here; a pipeline file holds one, so remove this line or split the file",
                    ));
                }
                _ => {}
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Place), Problem> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.place(&span.start))),
            Some(Err(error)) => {
                let hint = syntax_hint(error.info());
                Err(Problem::new(self.place(error.marker()), "", format!("not valid YAML: {}{hint}", error.info())))
            }
            None => Err(Problem::new(self.place(&Marker::default()), "", "not valid YAML: it ends too early")),
        }
    }

    fn place(&self, marker: &Marker) -> Place {
        match self.origin {
            Origin::File => Place::File { line: marker.line().max(1), column: marker.col() + 1 },
            Origin::At(place) => place,
        }
    }

    fn node(&mut self, depth: usize) -> Result<Node, Problem> {
        let (event, place) = self.next()?;
        self.build(event, place, depth)
    }

    fn build(&mut self, event: Event<'t>, place: Place, depth: usize) -> Result<Node, Problem> {
        if depth > MAX_DEPTH {
            return Err(Problem::new(place, "", format!("nested more than {MAX_DEPTH} levels deep; no key of a pipeline is")));
        }
        let value = match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_extras(place, anchor, tag.is_some());
                if style == ScalarStyle::Plain { resolve(&text) } else { Value::Text(text.into_owned()) }
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_extras(place, anchor, tag.is_some());
                Value::List(self.list(depth)?)
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_extras(place, anchor, tag.is_some());
                Value::Map(self.map(depth)?)
            }
            _ => {
                let message = "aliases are not supported: write the value out, or put a text that starts with `*` in quotes";
                self.problems.push(Problem::new(place, "", message));
                Value::Broken
            }
        };
        Ok(Node { place, value })
    }

    fn refuse_extras(&mut self, place: Place, anchor: usize, tagged: bool) {
        if anchor > 0 {
            let message = "anchors are not supported: write the value out, or put a text that starts with `&` in quotes";
            self.problems.push(Problem::new(place, "", message));
        }
        if tagged {
            let message = "tags are not supported: remove the word that starts with `!`, or put the text in quotes";
            self.problems.push(Problem::new(place, "", message));
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Problem> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, place) => items.push(self.build(event, place, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<Entry>, Problem> {
        let mut entries = Vec::new();
        let mut seen = BTreeMap::new();
        loop {
            let (event, key_place) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, ..) => text.into_owned(),
                event => {
                    self.build(event, key_place, depth + 1)?;
                    self.node(depth + 1)?;
                    self.problems.push(Problem::new(key_place, "", "a key must be a word, not a list or a map"));
                    continue;
                }
            };
            let node = self.node(depth + 1)?;
            match seen.get(&key) {
                Some(first) => self.problems.push(duplicate(&key, key_place, *first)),
                None => {
                    seen.insert(key.clone(), key_place);
                    entries.push(Entry { key, key_place, node });
                }
            }
        }
    }
}

/// What to do about a scanner's message.
fn syntax_hint(info: &str) -> &'static str {
    match info {
        _ if info.contains("anchor") => "; put a text that starts with `*` or `&` in quotes",
        _ if info.contains("mapping values") => "; keys of one map need the same indentation, and a text with `: ` in it needs quotes",
        _ if info.contains("a tab") => "; indent with spaces",
        _ => "",
    }
}

fn duplicate(key: &str, place: Place, first: Place) -> Problem {
    let first = match first {
        Place::File { line, .. } => format!(", first in line {line}"),
        _ => String::new(),
    };
    Problem::new(place, "", format!("the key {} is given twice{first}; remove one", quoted(key)))
}

/// The core schema of YAML 1.2 (section 10.3.2) for a scalar without quotes.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if matches!(digits, ".inf" | ".Inf" | ".INF") {
        return Value::Float(sign * f64::INFINITY);
    }
    let radix = [("0x", 16), ("0o", 8)].into_iter().find_map(|(prefix, radix)| Some((text.strip_prefix(prefix)?, radix)));
    let integer = match radix {
        Some((rest, radix)) if rest.starts_with(|c: char| c.is_ascii_hexdigit()) => i128::from_str_radix(rest, radix),
        _ => text.parse(),
    };
    if let Ok(integer) = integer {
        return Value::Integer(integer);
    }
    // Rust's grammar of numbers also has words (`inf`, `nan`), which YAML's has not.
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.contains(|c: char| c.is_ascii_digit());
    match text.parse() {
        Ok(number) if numeric => Value::Float(number),
        _ => Value::Text(text.to_string()),
    }
}

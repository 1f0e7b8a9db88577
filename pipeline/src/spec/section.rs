//! Reading a tree and declaring the schema are one act: a key is named once, with its kind, its default and
//! its description. Unknown keys, the nearest valid key and the reference page all follow from that.

use super::diagnostics::{Place, Problem, alternatives, names_secret, nearest};
use super::kinds::{Kind, Wrong};
use super::yaml::{Entry, Node, Origin, Value, parse};
use std::collections::BTreeMap;

/// One key of the schema, as the reference page shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDoc {
    /// Dotted path.
    pub path: String,
    /// What is expected, in words.
    pub expected: String,
    pub presence: Presence,
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Required,
    Optional,
    /// Left out, it is this YAML.
    Default(&'static str),
    /// A map of further keys.
    Section,
}

/// Collects, over all sections, the schema, the values and what is wrong with them.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub keys: Vec<KeyDoc>,
    pub values: Values,
    pub problems: Vec<Problem>,
    unknown: Vec<UnknownKey>,
}

const STORE_SECRETS: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (s3://), AZURE_STORAGE_ACCOUNT_NAME and \
                             AZURE_STORAGE_ACCOUNT_KEY (az://) or GOOGLE_APPLICATION_CREDENTIALS (gs://) in the environment";

#[derive(Debug)]
struct UnknownKey {
    section: String,
    key: String,
    place: Place,
    siblings: Vec<&'static str>,
}

impl Reader {
    /// Reads the whole tree with `read`.
    pub(super) fn read<T>(&mut self, root: &Node, read: impl FnOnce(&mut Section) -> T) -> T {
        let entries = entries(root);
        if entries.is_none() {
            self.problems.push(Problem::new(root.place, "", format!("expected a map of keys, found {}", root.value.describe())));
        }
        let muted = entries.is_none();
        let mut section = Section {
            reader: self,
            path: String::new(),
            place: Place::START,
            entries: entries.unwrap_or_default(),
            declared: Vec::new(),
            repeats: false,
            muted,
        };
        let out = read(&mut section);
        section.finish();
        self.report_unknown();
        out
    }

    /// Only now is the whole schema known, so that a key in the wrong section can be sent home.
    fn report_unknown(&mut self) {
        for unknown in std::mem::take(&mut self.unknown) {
            let message = self.unknown_message(&unknown);
            self.problems.push(Problem::new(unknown.place, join(&unknown.section, &unknown.key), message));
        }
    }

    fn unknown_message(&self, unknown: &UnknownKey) -> String {
        if let Some(sibling) = nearest(&unknown.key, unknown.siblings.iter().copied()) {
            return format!("unknown key; did you mean `{sibling}`?");
        }
        if names_secret(&unknown.key) {
            let advice = match unknown.section.as_str() {
                "store_options" => STORE_SECRETS,
                _ => "name the environment variable that holds the key with `stages.prompts.openai.api_key_env`",
            };
            return format!("secrets do not belong in this file; {advice}");
        }
        let elsewhere = self.keys.iter().find(|key| key.path.rsplit('.').next() == Some(&unknown.key));
        match elsewhere {
            Some(key) => format!("unknown key; did you mean `{}`?", key.path),
            None if unknown.siblings.is_empty() => "unknown key; this map has no keys".to_string(),
            None => format!("unknown key; expected {}", alternatives(unknown.siblings.iter().copied())),
        }
    }
}

/// Every value by path, defaults included. Values with a reported problem are there as [`Value::Broken`].
#[derive(Debug, Default)]
pub(super) struct Values(BTreeMap<String, Node>);

impl Values {
    fn insert(&mut self, path: String, node: Node) {
        self.0.insert(path, node);
    }

    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        self.0.get(path).map(|node| &node.value)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        match self.get(path)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn flag(&self, path: &str) -> Option<bool> {
        match self.get(path)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn integer(&self, path: &str) -> Option<i128> {
        match self.get(path)? {
            Value::Integer(n) => Some(*n),
            _ => None,
        }
    }

    pub(super) fn number(&self, path: &str) -> Option<f64> {
        match self.get(path)? {
            Value::Integer(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }

    /// Whether the user wrote the value, right or wrong, rather than leaving it out.
    pub(super) fn is_given(&self, path: &str) -> bool {
        let broken = |path| matches!(self.get(path), Some(Value::Broken));
        ancestors(path).any(broken) || self.0.get(path).is_some_and(|node| node.place != Place::Default)
    }

    /// Where the value was written, or else the nearest map around it.
    pub(super) fn place(&self, path: &str) -> Place {
        let mut places = ancestors(path).filter_map(|path| Some(self.0.get(path)?.place));
        places.find(|place| *place != Place::Default).unwrap_or(Place::START)
    }
}

/// `a.b.c`, `a.b`, `a`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(path), |path| Some(path.rsplit_once('.')?.0))
}

/// One map of the file, being read.
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader,
    path: String,
    place: Place,
    entries: &'t [Entry],
    declared: Vec<&'static str>,
    /// Its keys are those of another map, and stay out of the reference.
    repeats: bool,
    /// Declares its keys only: the map is absent and not needed, or its problem is already reported.
    muted: bool,
}

/// `None` stands for a value whose problem was reported.
impl<'t> Section<'_, 't> {
    /// A key that must be there.
    pub(super) fn required<T>(&mut self, name: &'static str, kind: Kind<T>, doc: &'static str) -> Option<T> {
        self.declare(name, kind.expected.clone(), Presence::Required, doc);
        match self.find(name) {
            Some(entry) => self.accept(name, &kind, &entry.node),
            None => {
                self.report(self.place, name, format!("missing key; expected {}", kind.expected));
                None
            }
        }
    }

    /// A key without a default that may be left out; `Some(None)` when it is.
    pub(super) fn optional<T>(&mut self, name: &'static str, kind: Kind<T>, doc: &'static str) -> Option<Option<T>> {
        self.declare(name, kind.expected.clone(), Presence::Optional, doc);
        match self.find(name) {
            Some(entry) => self.accept(name, &kind, &entry.node).map(Some),
            None => Some(None),
        }
    }

    /// A key that stands for `default` (YAML) when it is left out.
    pub(super) fn default<T>(&mut self, name: &'static str, default: &'static str, kind: Kind<T>, doc: &'static str) -> Option<T> {
        self.declare(name, kind.expected.clone(), Presence::Default(default), doc);
        match self.find(name) {
            Some(entry) => self.accept(name, &kind, &entry.node),
            None => match parse(default, Origin::At(Place::Default), &mut self.reader.problems) {
                Ok(node) => self.accept(name, &kind, &node),
                Err(problem) => {
                    self.reader.problems.push(problem);
                    None
                }
            },
        }
    }

    /// A map of keys, read as an empty one when it is left out.
    pub(super) fn section<T>(&mut self, name: &'static str, doc: &'static str, read: impl FnOnce(&mut Section) -> T) -> T {
        self.nested(name, doc, (true, false), read).1
    }

    /// A map with the keys of another, which the reference describes there.
    pub(super) fn repeated<T>(&mut self, name: &'static str, doc: &'static str, read: impl FnOnce(&mut Section) -> T) -> T {
        self.nested(name, doc, (true, true), read).1
    }

    /// Refuses what one of several keys has to say.
    pub(super) fn refuse(&mut self, name: &'static str, message: &str) {
        self.report(self.place, name, message.to_string());
    }

    /// A map of keys whose required keys are asked for when it is there or `needed`.
    pub(super) fn section_if<T>(
        &mut self,
        needed: bool,
        name: &'static str,
        doc: &'static str,
        read: impl FnOnce(&mut Section) -> Option<T>,
    ) -> Option<Option<T>> {
        match self.nested(name, doc, (needed, false), read) {
            (true, out) => out.map(Some),
            (false, _) => Some(None),
        }
    }

    /// Reads a map; says as well whether it counts.
    fn nested<T>(
        &mut self,
        name: &'static str,
        doc: &'static str,
        (needed, repeats): (bool, bool),
        read: impl FnOnce(&mut Section) -> T,
    ) -> (bool, T) {
        self.declare(name, "a map".to_string(), Presence::Section, doc);
        let entry = self.find(name);
        let found = entry.map(|entry| entries(&entry.node));
        if let (Some(None), Some(entry)) = (found, entry) {
            self.report(entry.node.place, name, format!("expected a map of keys, found {}", entry.node.value.describe()));
        }
        let place = entry.map_or(self.place, |entry| entry.key_place);
        let path = join(&self.path, name);
        if entry.is_some() {
            let value = if matches!(found, Some(None)) { Value::Broken } else { Value::Null };
            self.reader.values.insert(path.clone(), Node { place, value });
        }
        let muted = self.muted || matches!(found, Some(None)) || (found.is_none() && !needed);
        let mut child = Section {
            reader: self.reader,
            path,
            place,
            entries: found.flatten().unwrap_or_default(),
            declared: Vec::new(),
            repeats,
            muted,
        };
        let out = read(&mut child);
        child.finish();
        (found.is_some() || needed, out)
    }

    fn declare(&mut self, name: &'static str, expected: String, presence: Presence, doc: &'static str) {
        self.declared.push(name);
        if self.repeats {
            return;
        }
        self.reader.keys.push(KeyDoc { path: join(&self.path, name), expected, presence, doc });
    }

    /// The entry of a key; a value of nothing counts as left out.
    fn find(&self, name: &str) -> Option<&'t Entry> {
        self.entries.iter().find(|entry| entry.key == name && !matches!(entry.node.value, Value::Null))
    }

    fn accept<T>(&mut self, name: &str, kind: &Kind<T>, node: &Node) -> Option<T> {
        if self.muted {
            return None;
        }
        let path = join(&self.path, name);
        if matches!(node.value, Value::Broken) {
            self.reader.values.insert(path, node.clone());
            return None;
        }
        match kind.read(node) {
            Ok(value) => {
                self.reader.values.insert(path, node.clone());
                Some(value)
            }
            Err(Wrong { place, problem }) => {
                self.report(place, name, format!("expected {}, {problem}", kind.expected));
                self.reader.values.insert(path, Node { place: node.place, value: Value::Broken });
                None
            }
        }
    }

    fn report(&mut self, place: Place, name: &str, message: String) {
        if !self.muted {
            self.reader.problems.push(Problem::new(place, join(&self.path, name), message));
        }
    }

    /// Hands on the keys that nothing has declared.
    fn finish(self) {
        let unknown = self.entries.iter().filter(|entry| !self.declared.iter().any(|name| *name == entry.key));
        for entry in unknown {
            self.reader.unknown.push(UnknownKey {
                section: self.path.clone(),
                key: entry.key.clone(),
                place: entry.key_place,
                siblings: self.declared.clone(),
            });
        }
    }
}

/// The entries of a map; nothing counts as an empty map.
fn entries(node: &Node) -> Option<&[Entry]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        Value::Null => Some(&[]),
        _ => None,
    }
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_string() } else { format!("{section}.{key}") }
}

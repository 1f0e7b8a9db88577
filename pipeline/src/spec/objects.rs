//! Kinds of values that Kubernetes defines. Those with a shape of their own (affinity, tolerations, volumes) are kept as
//! they are written; the launcher holds them against the API's types before anything starts.

use super::diagnostics::{is_secret, names_secret, quoted};
use super::kinds::{Kind, Wrong, text_of};
use super::yaml::{Node, Value};
use serde_json::{Map, Number, Value as Json};
use std::collections::BTreeMap;

fn wrong(node: &Node, problem: impl Into<String>) -> Wrong {
    Wrong { place: node.place, problem: problem.into() }
}

fn found(node: &Node) -> Wrong {
    wrong(node, format!("found {}", node.value.describe()))
}

/// The name of an object in a cluster.
pub(super) fn object_name() -> Kind<String> {
    text_of("a name of at most 63 lower-case letters, digits, `-` and `.`", |text| {
        if is_object_name(text) { Ok(text.to_string()) } else { Err(String::new()) }
    })
}

fn is_object_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (1..=63).contains(&text.len())
        && text.starts_with(inside)
        && text.ends_with(inside)
        && text.chars().all(|c| inside(c) || "-.".contains(c))
}

pub(super) fn object_names() -> Kind<Vec<String>> {
    let one = object_name();
    Kind::new("a list of names of objects", move |node| match &node.value {
        Value::List(items) => items.iter().map(|item| one.read(item)).collect(),
        _ => Err(found(node)),
    })
}

/// An amount as Kubernetes writes it. Numbers without a unit may stand without quotes.
pub(super) fn quantity() -> Kind<String> {
    Kind::new("an amount such as 500m, 4 or 16Gi", |node| {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Integer(n) => n.to_string(),
            Value::Float(x) => x.to_string(),
            _ => return Err(found(node)),
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let units = ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"];
        if number.parse::<f64>().is_ok() && units.contains(&unit) { Ok(text) } else { Err(found(node)) }
    })
}

/// The image of a container, pinned or not.
pub(super) fn image() -> Kind<String> {
    text_of("the name of an image such as registry.example.com/ip2p-worker@sha256:...", |text| match () {
        _ if is_secret(text) || text.contains("://") => Err("; write it without a scheme or credentials".to_string()),
        _ if text.trim().is_empty() || text.contains(char::is_whitespace) => Err(String::new()),
        _ => Ok(text.to_string()),
    })
}

/// The address of the coordinator, as workers reach it.
pub(super) fn coordinator_url() -> Kind<String> {
    text_of("the coordinator's address as pods reach it, such as http://ip2p-coordinator:7070", |text| {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let valid = rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(char::is_whitespace) && !rest.contains('@'));
        if valid { Ok(text.to_string()) } else { Err(String::new()) }
    })
}

/// Words of a command line.
pub(super) fn words() -> Kind<Vec<String>> {
    Kind::new("a list of texts", |node| {
        let Value::List(items) = &node.value else { return Err(found(node)) };
        items.iter().map(|item| scalar(item).filter(|text| !is_secret(text)).ok_or_else(|| found(item))).collect()
    })
}

fn scalar(node: &Node) -> Option<String> {
    match &node.value {
        Value::Text(text) => Some(text.clone()),
        Value::Integer(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn map_of(node: &Node, read: impl Fn(&str, &Node, String) -> Result<String, Wrong>) -> Result<BTreeMap<String, String>, Wrong> {
    let Value::Map(entries) = &node.value else { return Err(found(node)) };
    let one = |entry: &super::yaml::Entry| {
        let text = scalar(&entry.node).ok_or_else(|| found(&entry.node))?;
        Ok((entry.key.clone(), read(&entry.key, &entry.node, text)?))
    };
    entries.iter().map(one).collect()
}

/// Labels, annotations and node selectors.
pub(super) fn texts() -> Kind<BTreeMap<String, String>> {
    Kind::new("a map of texts", |node| {
        map_of(node, |_, node, text| if is_secret(&text) { Err(wrong(node, "found a secret (not shown)")) } else { Ok(text) })
    })
}

/// Variables with their values; what is secret has a place of its own.
pub(super) fn variables() -> Kind<BTreeMap<String, String>> {
    Kind::new("a map of environment variables and their values", |node| {
        map_of(node, |key, node, text| {
            if names_secret(key) || is_secret(&text) {
                return Err(wrong(node, format!("found a secret in {}; name a Secret's key with `secrets` instead", quoted(key))));
            }
            Ok(text)
        })
    })
}

/// Variables with the Secret and the key in it that hold their values.
pub(super) fn secret_references() -> Kind<BTreeMap<String, String>> {
    Kind::new("a map of environment variables, each with secret-name/key", |node| {
        map_of(node, |_, node, text| {
            let valid = text.split_once('/').is_some_and(|(name, key)| is_object_name(name) && !key.is_empty() && !key.contains('/'));
            if valid && !is_secret(&text) { Ok(text) } else { Err(wrong(node, "found something else (not shown)")) }
        })
    })
}

/// A list in the API's own form.
pub(super) fn raw_list() -> Kind<Json> {
    Kind::new("a list as the Kubernetes API has it", |node| match node.value {
        Value::List(_) => raw(node),
        _ => Err(found(node)),
    })
}

/// A map in the API's own form.
pub(super) fn raw_map() -> Kind<Json> {
    Kind::new("a map as the Kubernetes API has it", |node| match node.value {
        Value::Map(_) => raw(node),
        _ => Err(found(node)),
    })
}

fn raw(node: &Node) -> Result<Json, Wrong> {
    Ok(match &node.value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Integer(n) => i64::try_from(*n).map(Json::from).map_err(|_| found(node))?,
        Value::Float(x) => Json::Number(Number::from_f64(*x).ok_or_else(|| found(node))?),
        Value::Text(text) if is_secret(text) => return Err(found(node)),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(raw).collect::<Result<_, _>>()?),
        Value::Map(entries) => {
            let one = |entry: &super::yaml::Entry| Ok((entry.key.clone(), raw(&entry.node)?));
            Json::Object(entries.iter().map(one).collect::<Result<Map<_, _>, _>>()?)
        }
        Value::Broken => return Err(found(node)),
    })
}

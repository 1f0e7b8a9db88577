//! Where things are: the store, the corpus and the weights, by path or URL.

use super::diagnostics::{alternatives, did_you_mean, is_secret};
use super::kinds::{Kind, text_of};
use crate::store;

/// The scheme of weights on the Hugging Face hub.
const HUB: &str = "hf";
/// The scheme of a store that lives in one process: for tests, not for a run of several processes.
const MEMORY: &str = "memory";

/// The object store of the run: always a URL.
pub(super) fn store_url() -> Kind<String> {
    text_of("a URL such as file://./out, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix", |text| {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("; a local folder is written file://./folder".to_string());
        };
        check_url(text, scheme, rest, stores())
    })
}

/// Where the server of a store listens.
pub(super) fn endpoint() -> Kind<String> {
    text_of("a URL such as https://minio.example.com or http://127.0.0.1:9000", |text| {
        let Some((scheme, rest)) = text.split_once("://") else { return Err(String::new()) };
        check_url(text, scheme, rest, ["https", "http"].into_iter())
    })
}

/// The corpus: a local path or glob, or the same in an object store.
pub(super) fn corpus_path() -> Kind<String> {
    text_of("a file, a glob such as captions/*.parquet, or a URL such as s3://bucket/captions.jsonl", |text| reference(text, false))
}

/// Weights: a local path, a URL of an object store or of the hub.
pub(super) fn weights() -> Kind<String> {
    text_of("a folder or file of weights, a URL such as s3://bucket/model, or hf://owner/name[@revision][/folder]", |text| {
        match text.strip_prefix("hf://") {
            Some(rest) => hub(text, rest),
            None => reference(text, true),
        }
    })
}

fn reference(text: &str, with_hub: bool) -> Result<String, String> {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let readable = stores().chain(store::READ_ONLY_SCHEMES);
            check_url(text, scheme, rest, readable.chain(with_hub.then_some(HUB)))
        }
        None if text.trim().is_empty() => Err(String::new()),
        None => Ok(text.to_string()),
    }
}

/// Schemes of stores that can hold a run of several processes.
fn stores() -> impl Iterator<Item = &'static str> {
    store::SCHEMES.into_iter().filter(|scheme| *scheme != MEMORY)
}

fn check_url(text: &str, scheme: &str, rest: &str, schemes: impl Iterator<Item = &'static str>) -> Result<String, String> {
    let schemes: Vec<&str> = schemes.collect();
    if is_secret(text) {
        return Err("; remove the credentials: they come from the environment".to_string());
    }
    if !schemes.contains(&scheme) {
        let hint = did_you_mean(scheme, schemes.iter().copied());
        return Err(format!(", whose scheme is not {}{hint}", alternatives(schemes)));
    }
    if rest.trim_matches('/').is_empty() {
        return Err(format!(", which names nothing after `{scheme}://`"));
    }
    Ok(text.to_string())
}

/// `owner/name[@revision][/path...][?variant=name]`, in the characters the hub allows; a slash in a revision is `%2F`.
fn hub(text: &str, rest: &str) -> Result<String, String> {
    let allowed = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let (rest, variant) = rest.split_once("?variant=").map_or((rest, None), |(rest, variant)| (rest, Some(variant)));
    let mut parts = rest.split('/');
    let owner = parts.next().unwrap_or_default();
    let named = parts.next().unwrap_or_default();
    let (name, revision) = named.split_once('@').unwrap_or((named, "main"));
    let valid =
        allowed(owner) && allowed(name) && allowed(&revision.replace("%2F", "")) && parts.all(allowed) && variant.is_none_or(allowed);
    if valid { Ok(text.to_string()) } else { Err(String::new()) }
}

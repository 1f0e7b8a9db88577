//! How a model is named: a local path, a store URL, or a repository of the Hugging Face hub.

use super::error::{Error, Result};
use std::path::PathBuf;

/// Schemes of object stores that can hold models.
const STORES: [&str; 6] = ["s3", "gs", "az", "abfs", "http", "https"];

/// A model reference, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reference {
    Local(PathBuf),
    Store(String),
    Hub(HubReference),
}

/// `hf://owner/name[@revision][/path/in/it][?variant=fp16]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubReference {
    /// As written, for messages.
    pub text: String,
    /// `owner/name`.
    pub repository: String,
    /// Branch, tag or commit; `main` when left out.
    pub revision: String,
    /// A file or folder inside the repository; empty for all of it.
    pub path: String,
    /// Which of several forms of the same weights, such as `fp16`.
    pub variant: Option<String>,
}

impl Reference {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let invalid = |problem: String| Error::Reference { reference: text.to_string(), problem };
        match text.split_once("://") {
            _ if text.is_empty() => Err(invalid("empty: write a path, or for example hf://owner/name".to_string())),
            None => Ok(Reference::Local(PathBuf::from(text))),
            Some(("file", path)) => Ok(Reference::Local(PathBuf::from(path))),
            Some(("hf", rest)) => HubReference::parse(text, rest).map(Reference::Hub).map_err(invalid),
            Some((scheme, _)) if STORES.contains(&scheme) => Ok(Reference::Store(text.to_string())),
            Some((scheme, _)) => {
                Err(invalid(format!("scheme `{scheme}` is not known: use a path, file://, s3://, gs://, az://, https:// or hf://")))
            }
        }
    }
}

impl HubReference {
    fn parse(text: &str, rest: &str) -> Result<Self, String> {
        const FORM: &str = "expected hf://owner/name[@revision][/path][?variant=fp16]";
        let (rest, variant) = match rest.split_once("?variant=") {
            Some((rest, variant)) => (rest, Some(variant.to_string())),
            None => (rest, None),
        };
        let mut parts = rest.trim_end_matches('/').splitn(3, '/');
        let (owner, name, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let plain = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        // A slash inside a branch's name is written %2F.
        let revision_is_plain = !revision.is_empty() && revision.chars().all(|c| c.is_ascii_alphanumeric() || "-_.%".contains(c));
        let dots = |part: &str| part == "." || part == "..";
        if !plain(owner) || !plain(name) || !revision_is_plain || [owner, name, revision].into_iter().any(dots) {
            return Err(FORM.to_string());
        }
        if path.contains(['?', '#', '\\']) || path.split('/').any(dots) || variant.as_deref().is_some_and(|v| !plain(v)) {
            return Err(FORM.to_string());
        }
        Ok(HubReference {
            text: text.to_string(),
            repository: format!("{owner}/{name}"),
            revision: revision.to_string(),
            path: path.to_string(),
            variant,
        })
    }

    /// The same reference at a commit, in the one form that names it.
    pub(super) fn at(&self, commit: &str) -> String {
        let path = if self.path.is_empty() { String::new() } else { format!("/{}", self.path) };
        let variant = self.variant.as_ref().map(|variant| format!("?variant={variant}")).unwrap_or_default();
        format!("hf://{}@{}{path}{variant}", self.repository, commit.to_ascii_lowercase())
    }

    /// True when the revision is a commit, which never moves.
    pub(super) fn is_commit(&self) -> bool {
        is_commit(&self.revision)
    }
}

/// 40 hex digits.
pub(super) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(text: &str) -> HubReference {
        match Reference::parse(text).unwrap() {
            Reference::Hub(reference) => reference,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_form() {
        assert_eq!(Reference::parse("models/tiny/clip").unwrap(), Reference::Local("models/tiny/clip".into()));
        assert_eq!(Reference::parse("file:///data/sd.ckpt").unwrap(), Reference::Local("/data/sd.ckpt".into()));
        assert_eq!(Reference::parse("s3://bucket/sd").unwrap(), Reference::Store("s3://bucket/sd".to_string()));
        let plain = hub("hf://openai/clip-vit-large-patch14");
        assert_eq!(
            (plain.repository.as_str(), plain.revision.as_str(), plain.path.as_str()),
            ("openai/clip-vit-large-patch14", "main", "")
        );
        let full = hub("hf://a.b/c_d@refs%2Fpr%2F1/sub/x.safetensors?variant=fp16");
        assert_eq!((full.repository.as_str(), full.revision.as_str()), ("a.b/c_d", "refs%2Fpr%2F1"));
        assert_eq!((full.path.as_str(), full.variant.as_deref()), ("sub/x.safetensors", Some("fp16")));
        let commit = "0f".repeat(20);
        assert!(hub(&format!("hf://a/b@{commit}")).is_commit());
        assert_eq!(plain.at(&commit), format!("hf://openai/clip-vit-large-patch14@{commit}"));
        assert_eq!(full.at(&commit), format!("hf://a.b/c_d@{commit}/sub/x.safetensors?variant=fp16"));
    }

    #[test]
    fn wrong_forms_say_what_was_expected() {
        for (text, expected) in [
            ("", "empty"),
            ("hf://openai", "hf://owner/name"),
            ("hf:///x", "hf://owner/name"),
            ("hf://a/b@", "hf://owner/name"),
            ("hf://a/b@../x", "hf://owner/name"),
            ("hf://a/../../etc", "hf://owner/name"),
            ("hf://a/b/../../x", "hf://owner/name"),
            ("hf://a/b c", "hf://owner/name"),
            ("hf://a/b?revision=x", "hf://owner/name"),
            ("ftp://a/b", "scheme `ftp`"),
        ] {
            let error = Reference::parse(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}

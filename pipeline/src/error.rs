//! What can go wrong in the domain. Every message says what, where and what to do next.

mod advice;

pub use advice::{needs_the_user, says_full};

/// Errors of reading, writing and validating; the variants say what the caller should do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The user's input is wrong; retrying cannot help.
    #[error("{0}")]
    Invalid(String),
    /// An object that a manifest names is missing, truncated or altered.
    #[error("object {key} is damaged: {problem}. Run `audit` to list every damaged object")]
    Damaged { key: String, problem: String },
    /// The object store failed; a retry may help.
    #[error("object store, {action} {key}: {source}{}", advice::of_store(.action, .key, .source))]
    Store {
        action: &'static str,
        key: String,
        #[source]
        source: object_store::Error,
    },
    /// A local file could not be read or written.
    #[error("{path}: {source}{}", advice::of_file(.source))]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// Stored bytes are not in the format this version writes.
    #[error("{what}: {problem}")]
    Format { what: String, problem: String },
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::Invalid(message.into())
    }

    /// The message without the advice at its end, for whoever gives advice that fits better.
    pub fn without_advice(&self) -> String {
        match self {
            Error::Store { action, key, source } => format!("object store, {action} {key}: {source}"),
            Error::File { path, source } => format!("{path}: {source}"),
            Error::Invalid(_) | Error::Damaged { .. } | Error::Format { .. } => self.to_string(),
        }
    }

    pub fn format(what: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Error::Format { what: what.into(), problem: problem.to_string() }
    }
}

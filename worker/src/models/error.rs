//! What can go wrong with a model, said so that the reader knows which file to change.

use std::fmt;
use std::path::{Path, PathBuf};

/// Errors of loading and running models.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing, cut short or not in a format that can be read.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String },
    /// A configuration has a value that this program does not support.
    #[error("{}: {key}: {problem}", path.display())]
    Config { path: PathBuf, key: String, problem: String },
    /// The tensors of a checkpoint are not those of the model.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// Input of the wrong size or range reached a model.
    #[error("{0}")]
    Input(String),
    /// The device or a tensor operation failed (out of memory among others).
    #[error("tensor operation: {0}")]
    Tensor(#[from] candle_core::Error),
    /// The caller's progress callback asked to stop.
    #[error("stopped after step {step} of {steps}")]
    Stopped { step: usize, steps: usize },
}

/// The result of loading or running a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A file that cannot be used, and why.
    pub fn file(path: &Path, problem: impl fmt::Display) -> Self {
        Error::File { path: path.to_path_buf(), problem: problem.to_string() }
    }

    /// A key of a configuration file that cannot be used, and why.
    pub fn config(path: &Path, key: impl Into<String>, problem: impl fmt::Display) -> Self {
        Error::Config { path: path.to_path_buf(), key: key.into(), problem: problem.to_string() }
    }
}

/// Every tensor in which a checkpoint differs from the model that its configuration describes.
#[derive(Debug, thiserror::Error)]
pub struct Mismatch {
    /// The model's part, such as `UNet`.
    pub model: String,
    pub problems: Vec<Problem>,
}

/// One tensor that does not fit; names are those in the file, shapes are as stored.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    Missing { name: String, expected: Option<Vec<usize>>, file: PathBuf },
    Extra { name: String, found: Vec<usize>, file: PathBuf },
    Shape { name: String, expected: Vec<usize>, found: Vec<usize>, file: PathBuf },
}

/// Longer lists mean that the file belongs to another model; its first lines say so well enough.
const SHOWN: usize = 50;

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} tensors do not fit the {} (is this config.json the one of these weights?):", self.problems.len(), self.model)?;
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "  {problem}")?;
        }
        match self.problems.len().checked_sub(SHOWN) {
            Some(more @ 1..) => writeln!(f, "  and {more} more"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing { name, expected: Some(shape), file } => write!(f, "missing: {name} {shape:?} in {}", file.display()),
            Problem::Missing { name, expected: None, file } => write!(f, "missing: {name} in {}", file.display()),
            Problem::Extra { name, found, file } => write!(f, "extra: {name} {found:?} in {}", file.display()),
            Problem::Shape { name, expected, found, file } => {
                write!(f, "shape: {name} is {found:?}, expected {expected:?}, in {}", file.display())
            }
        }
    }
}

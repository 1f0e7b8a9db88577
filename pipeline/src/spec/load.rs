//! From text to [`Spec`], with every problem of the file and of the `--set` arguments in one go.

use super::diagnostics::{Diagnostics, Problem};
use super::files::{Disk, Files};
use super::section::{KeyDoc, Reader};
use super::yaml::{self, MAX_BYTES, Node, Origin};
use super::{Spec, keys, overrides, rules};
use std::io::Read;
use std::path::Path;

impl Spec {
    /// Reads and validates a pipeline file; `overrides` are `key.path=value` arguments of `--set`.
    ///
    /// Relative paths in the file start at the working directory. Local files that it names must exist.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Spec, Diagnostics> {
        let file = path.display().to_string();
        let text = read_text(path).map_err(|message| Diagnostics::unreadable(&file, message))?;
        Spec::parse(&text, &file, overrides, &Disk)
    }

    /// Validates the text of a pipeline file. `file` is its name in messages.
    pub fn parse(text: &str, file: &str, overrides: &[String], files: &dyn Files) -> Result<Spec, Diagnostics> {
        let mut problems = Vec::new();
        let spec = validate(text, overrides, files, &mut problems);
        match spec {
            Some(spec) if problems.is_empty() => Ok(spec),
            _ => Err(Diagnostics::new(problems, file, overrides)),
        }
    }
}

/// Every key of the format, in the order of the reference page.
pub fn reference() -> Vec<KeyDoc> {
    let mut reader = Reader::default();
    reader.read(&Node::empty(), keys::spec);
    reader.keys
}

fn validate(text: &str, overrides: &[String], files: &dyn Files, problems: &mut Vec<Problem>) -> Option<Spec> {
    let parsed = yaml::parse(text.strip_prefix('\u{feff}').unwrap_or(text), Origin::File, problems);
    let mut root = parsed.map_err(|problem| problems.push(problem)).ok()?;
    overrides::apply(&mut root, overrides, problems);
    let mut reader = Reader::default();
    let spec = reader.read(&root, keys::spec);
    problems.append(&mut reader.problems);
    problems.extend(rules::check(&reader.values, files));
    spec
}

/// The text of a file of at most [`MAX_BYTES`].
fn read_text(path: &Path) -> Result<String, String> {
    let cannot_read =
        |error: std::io::Error| format!("cannot read it: {error}; give the path of a pipeline file such as configs/quickstart.yaml");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(cannot_read)?;
    file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(cannot_read)?;
    if bytes.len() > MAX_BYTES {
        return Err(format!("larger than {} KiB: not a pipeline file", MAX_BYTES / 1024));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8 text: save the file as UTF-8")
    })
}

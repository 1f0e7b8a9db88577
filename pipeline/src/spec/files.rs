//! What validation asks of this machine's files.

use super::diagnostics::quoted;
use std::io::Read;
use std::path::Path;

/// As much of a PEM file as is looked at; a bundle of all public authorities has 200 KiB.
const MAX_PEM_BYTES: u64 = 1 << 20;

/// The machine's files, as far as a pipeline file names them.
pub trait Files {
    /// Says that nothing is at `path`, if so.
    fn missing(&self, path: &str) -> Option<String>;
    /// Says that no file is at `pattern`, a path or a glob, if so.
    fn unmatched(&self, pattern: &str) -> Option<String>;
    /// Says why `path` is no file of PEM with a block whose label ends with `label`, if so; never what is in the file.
    fn not_pem(&self, path: &str, label: &str) -> Option<String>;
    /// A small file's text; `None` when it cannot be read.
    fn read(&self, path: &str) -> Option<String>;
}

/// The files of this machine; relative paths start at the working directory.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    fn missing(&self, path: &str) -> Option<String> {
        (!Path::new(path).exists()).then(|| format!("nothing is at {}", tried(path)))
    }

    fn unmatched(&self, pattern: &str) -> Option<String> {
        match Path::new(pattern) {
            path if path.is_file() => None,
            path if path.is_dir() => Some(format!("{} is a folder", tried(pattern))),
            _ if !pattern.contains(['*', '?', '[']) => Some(format!("no file is at {}", tried(pattern))),
            _ => match glob::glob(pattern) {
                Ok(mut paths) => {
                    let found = paths.any(|path| path.is_ok_and(|path| path.is_file()));
                    (!found).then(|| format!("no file matches {}", tried(pattern)))
                }
                Err(error) => Some(format!("{} is not a glob: {}", quoted(pattern), error.msg)),
            },
        }
    }

    fn not_pem(&self, path: &str, label: &str) -> Option<String> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(MAX_PEM_BYTES).read_to_end(&mut bytes));
        let text = String::from_utf8_lossy(&bytes);
        let begins = |line: &str| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"));
        match read {
            Err(error) => Some(format!("cannot read {}: {error}", tried(path))),
            Ok(_) if text.lines().any(begins) => None,
            Ok(_) => Some(format!("no `-----BEGIN {label}-----` is in {}", tried(path))),
        }
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(path).ok()
    }
}

/// The absolute path that was tried.
fn tried(path: &str) -> String {
    match std::path::absolute(path) {
        Ok(absolute) => quoted(&absolute.to_string_lossy()),
        Err(_) => quoted(path),
    }
}

/// Every file is there: for commands that only read a run, on machines without its inputs.
#[derive(Clone, Copy, Debug)]
pub struct Unchecked;

impl Files for Unchecked {
    fn missing(&self, _path: &str) -> Option<String> {
        None
    }

    fn unmatched(&self, _pattern: &str) -> Option<String> {
        None
    }

    fn not_pem(&self, _path: &str, _label: &str) -> Option<String> {
        None
    }

    fn read(&self, _path: &str) -> Option<String> {
        None
    }
}

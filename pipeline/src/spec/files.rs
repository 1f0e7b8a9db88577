//! What validation asks of this machine's files.

use super::diagnostics::quoted;
use std::path::Path;

/// The machine's files, as far as a pipeline file names them.
pub trait Files {
    /// Says that nothing is at `path`, if so.
    fn missing(&self, path: &str) -> Option<String>;
    /// Says that no file is at `pattern`, a path or a glob, if so.
    fn unmatched(&self, pattern: &str) -> Option<String>;
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

    fn read(&self, _path: &str) -> Option<String> {
        None
    }
}

//! Where the reference files are. An absent one is skipped by name in a folder that `IP2P_GOLDEN` names; the repository's own
//! folder lacks none.

use std::io::Write;
use std::path::{Path, PathBuf};

/// The reference folder.
pub fn root() -> PathBuf {
    // Cargo runs tests in the package's folder; a relative path is meant from where cargo was called, the workspace.
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    workspace.join(std::env::var_os("IP2P_GOLDEN").unwrap_or_else(|| "tests/golden".into()))
}

/// The folder of a case, or `None` after saying that it is skipped.
pub fn case(name: &str) -> Option<PathBuf> {
    Some(root().join(name)).filter(|folder| folder.is_dir()).or_else(|| skipped(name))
}

/// A file of a case, or `None` after saying that it is skipped.
pub fn file(case: &str, name: &str) -> Option<PathBuf> {
    Some(root().join(case).join(name)).filter(|file| file.is_file()).or_else(|| skipped(&format!("{case}/{name}")))
}

/// The `.safetensors` files of a case whose names start with `start`, each a run of its own; none after saying that the case, or
/// they, are skipped.
pub fn runs(name: &str, start: &str) -> Vec<PathBuf> {
    let found = case(name).map(|folder| files(&folder, start, ".safetensors"));
    if found.as_ref().is_some_and(Vec::is_empty) {
        skipped(&format!("{name}/{start}*.safetensors"));
    }
    found.unwrap_or_default()
}

/// The files of a folder whose names start with `start` and end with `end`, in order.
pub fn files(folder: &Path, start: &str, end: &str) -> Vec<PathBuf> {
    let fits = |name: &str| name.starts_with(start) && name.ends_with(end);
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(fits))
        .collect();
    found.sort();
    found
}

fn skipped(what: &str) -> Option<PathBuf> {
    assert!(std::env::var_os("IP2P_GOLDEN").is_some(), "{} lacks {what}", root().display());
    // Past the test harness, which keeps back what a passing test prints.
    let line = format!("skipped: no {what} in {}\n", root().display());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

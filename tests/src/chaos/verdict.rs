//! What must hold when a round is over.

use super::Reference;
use super::part::LOGS;
use super::stage::Stage;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The number of the dataset's files, or the guarantee that was broken.
pub fn verdict(stage: &Stage, reference: &Reference) -> Result<usize, String> {
    nobody_panicked(&stage.pipeline.path().join(LOGS))?;
    audit_is_clean(stage)?;
    let dataset = stage.pipeline.dataset();
    same_files(&dataset, &reference.dataset)?;
    Ok(dataset.len())
}

fn nobody_panicked(logs: &Path) -> Result<(), String> {
    for file in fs::read_dir(logs).map_err(|e| e.to_string())?.flatten() {
        let log = fs::read(file.path()).map_err(|e| e.to_string())?;
        if String::from_utf8_lossy(&log).contains("panicked at") {
            return Err(format!("a process panicked: {}", file.path().display()));
        }
    }
    Ok(())
}

fn audit_is_clean(stage: &Stage) -> Result<(), String> {
    let mut arguments = vec!["audit", "pipeline.yaml"];
    stage.overrides.iter().for_each(|setting| arguments.extend(["--set", setting]));
    let output = stage.pipeline.call(&arguments);
    if output.status.success() {
        return Ok(());
    }
    let [stdout, stderr] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    Err(format!("audit ended with {}:\n{stdout}\n{stderr}", output.status))
}

fn same_files(found: &BTreeMap<String, String>, expected: &BTreeMap<String, String>) -> Result<(), String> {
    let differs = |path: &&String| found.get(*path) != expected.get(*path);
    let mut other: Vec<&String> = found.keys().chain(expected.keys()).filter(differs).collect();
    other.sort();
    other.dedup();
    match &other[..] {
        [] => Ok(()),
        other => Err(format!("these files of the dataset are not as without faults: {other:?}")),
    }
}

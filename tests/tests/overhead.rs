//! The program that `bench/overhead.py` measures does every task once, and nothing that is done.

use std::path::Path;
use std::process::{Command, Stdio};

/// Runs seven tasks in partitions of three; says how many partitions were done before.
fn partitions_done_before(store: &Path) -> u64 {
    let mut command = Command::new(env!("CARGO_BIN_EXE_overhead"));
    command.args(["run", "--tasks", "7", "--partition", "3", "--store"]).arg(store);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (said, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{log}");
    let figures: serde_json::Value = serde_json::from_str(said.trim().strip_prefix("done ").unwrap_or_default()).unwrap();
    assert_eq!(figures["committed"], 3, "{figures}");
    figures["done_before"].as_u64().unwrap()
}

/// Files below the stage's folder of this name.
fn files(store: &Path, kind: &str) -> Vec<std::path::PathBuf> {
    let stage = std::fs::read_dir(store.join("prompts")).unwrap().next().unwrap().unwrap().path();
    let mut todo = vec![stage.join(kind)];
    let mut found = Vec::new();
    while let Some(folder) = todo.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() { todo.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

#[test]
fn every_task_has_its_object_and_its_commit() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    assert_eq!(partitions_done_before(store), 0);
    let data = files(store, "data");
    let mut written: Vec<String> = data.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    written.sort();
    let expected: Vec<String> = (0..7).map(|task| format!("{:<1000}", format!("task {task}\n"))).collect();
    assert_eq!(written, expected);
    assert_eq!((files(store, "chunks").len(), files(store, "manifests").len()), (7, 3));
    assert_eq!(partitions_done_before(store), 3);
    // The chunks of the second partition stay, so it costs one commit and no task.
    std::fs::remove_file(&files(store, "manifests")[1]).unwrap();
    assert_eq!(partitions_done_before(store), 2);
    assert_eq!(files(store, "data"), data);
}

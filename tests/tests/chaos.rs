//! Chaos on a folder and on a small disk; `tests/chaos/run.sh` does the same on a real S3 server.

use ip2p_pipeline::planted::Defect;
use ip2p_tests::chaos::schedule::Kind;
use ip2p_tests::chaos::{Broken, Reference, Round, Setting, round};
use ip2p_tests::disk;
use std::path::Path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// A round of few faults.
fn live(kind: Kind, seed: u64, planted: Option<Defect>) -> Result<Round, Box<Broken>> {
    let program = Path::new(PROGRAM);
    round(Setting { program, kind, faults: 6, reference: &Reference::make(program), planted }, seed)
}

#[track_caller]
fn expect_calm(round: Result<Round, Box<Broken>>) {
    match round {
        Ok(round) => assert!(round.faults.values().sum::<u64>() >= 3, "the test has lost its point: {round}"),
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn faults_from_a_seed_change_no_byte() {
    // `tests/chaos/run.sh` finds it beside the program.
    assert!(Path::new(env!("CARGO_BIN_EXE_chaos")).exists());
    expect_calm(live(Kind::Local, 1, None));
}

#[test]
fn a_disk_that_is_full_for_a_while_changes_no_byte() {
    if disk::enter_test("a_disk_that_is_full_for_a_while_changes_no_byte") {
        expect_calm(live(Kind::Disk, 1, None));
    }
}

#[test]
fn a_planted_defect_is_found_with_its_seed_faults_and_logs() {
    let program = Path::new(PROGRAM);
    let reference = Reference::make(program);
    let setting = Setting { program, kind: Kind::Local, faults: 12, reference: &reference, planted: Some(Defect::ChainWithGap) };
    // It shows in every partition of several chunks, whatever the faults are.
    let broken = (1..=3).find_map(|seed| round(setting, seed).err()).expect("three rounds that end well all the same");
    let said = broken.to_string();
    // Candidates are missing: the next coordinator or the audit at the end says so.
    assert!(said.starts_with("seed ") && said.contains("audit") && said.contains("objects: after "), "{said}");
    assert!(broken.folder.join("logs/coordinator.01.log").exists() && broken.folder.join("pipeline.yaml").exists(), "{said}");
    std::fs::remove_dir_all(&broken.folder).expect("the folder that was kept");
}

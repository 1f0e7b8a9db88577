//! kill -9 at many points, and a resume that must end in the same bytes.

use ip2p_tests::{Pipeline, signal};
use std::collections::BTreeMap;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// Objects in the store at which the coordinator is killed, and again after each resume.
const KILL_EVERY: usize = 9;

fn undisturbed() -> BTreeMap<String, String> {
    let reference = Pipeline::new(PROGRAM);
    reference.run_expecting(0, &[]);
    reference.dataset()
}

#[test]
fn a_coordinator_killed_again_and_again_ends_in_the_same_bytes() {
    let expected = undisturbed();
    let pipeline = Pipeline::new(PROGRAM);
    let mut kills = 0;
    loop {
        let target = pipeline.objects().len() + KILL_EVERY;
        let mut run = pipeline.start(&[]);
        if !run.wait_until(|| pipeline.objects().len() >= target) {
            assert_eq!(run.wait(), Some(0), "a run that is left alone completes");
            break;
        }
        run.kill();
        kills += 1;
    }
    assert!(kills >= 5, "only {kills} kills: the test has lost its point");
    assert_eq!(pipeline.dataset(), expected);
    assert!(pipeline.call(&["audit", "pipeline.yaml"]).status.success());
}

#[test]
fn workers_killed_at_many_points_are_replaced_and_nothing_is_lost() {
    let expected = undisturbed();
    let pipeline = Pipeline::new(PROGRAM);
    let mut run = pipeline.start(&[]);
    let mut kills = 0;
    loop {
        let target = pipeline.objects().len() + KILL_EVERY;
        if !run.wait_until(|| pipeline.objects().len() >= target) {
            break;
        }
        if let Some(worker) = run.workers().first() {
            signal(*worker, "KILL");
            kills += 1;
        }
    }
    assert_eq!(run.wait(), Some(0));
    assert!(kills >= 3, "only {kills} kills: the test has lost its point");
    assert_eq!(pipeline.dataset(), expected);
    assert!(pipeline.call(&["audit", "pipeline.yaml"]).status.success());
}

#[test]
fn an_interrupt_drains_commits_and_says_how_to_go_on() {
    let expected = undisturbed();
    let pipeline = Pipeline::new(PROGRAM);
    let mut run = pipeline.start(&[]);
    assert!(run.wait_until(|| pipeline.objects().iter().any(|key| key.starts_with("pairs/"))), "it ended before the first pair");
    signal(run.id(), "INT");
    assert_eq!(run.wait(), Some(4), "interrupted, but resumable");
    assert!(run.workers().is_empty());
    pipeline.run_expecting(0, &[]);
    assert_eq!(pipeline.dataset(), expected);
}

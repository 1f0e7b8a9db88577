//! kill -9 at many points, and a resume that must end in the same bytes.

use ip2p_tests::{Pipeline, Running, signal};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// Objects in the store at which the coordinator is killed, and again after each resume.
const KILL_EVERY: usize = 9;

/// The dataset of a run that nobody disturbs; one for all tests.
fn undisturbed() -> &'static BTreeMap<String, String> {
    static DATASET: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    DATASET.get_or_init(|| {
        let reference = Pipeline::new(PROGRAM);
        reference.run_expecting(0, &[]);
        reference.dataset()
    })
}

/// Waits until the first candidates are committed.
fn wait_for_pairs(pipeline: &Pipeline, run: &mut Running) {
    let drawn = || pipeline.objects().iter().any(|key| key.starts_with("pairs/"));
    assert!(run.wait_until(drawn), "it ended before the first pair: {}", run.log());
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
    assert_eq!(&pipeline.dataset(), expected);
    pipeline.assert_sound(&[]);
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
    assert_eq!(&pipeline.dataset(), expected);
    pipeline.assert_sound(&[]);
}

#[test]
fn an_interrupt_drains_commits_and_says_how_to_go_on() {
    let expected = undisturbed();
    let pipeline = Pipeline::new(PROGRAM);
    let mut run = pipeline.start(&["run.workers=2"]);
    wait_for_pairs(&pipeline, &mut run);
    signal(run.id(), "INT");
    assert_eq!(run.wait(), Some(4), "interrupted, but resumable");
    assert!(run.log().contains("run pipeline.yaml --set run.workers=2` to go on"), "{}", run.log());
    assert!(run.workers().is_empty());
    pipeline.run_expecting(0, &[]);
    assert_eq!(&pipeline.dataset(), expected);
}

#[test]
fn a_second_interrupt_ends_at_once_and_nothing_is_lost() {
    let pipeline = Pipeline::new(PROGRAM);
    let mut run = pipeline.start(&["run.lease=1h"]);
    wait_for_pairs(&pipeline, &mut run);
    // Workers that sleep never finish the step at hand: only the second interrupt can end this.
    let workers = run.workers();
    workers.iter().for_each(|worker| signal(*worker, "STOP"));
    signal(run.id(), "INT");
    run.wait_to_say("once more to stop at once");
    signal(run.id(), "INT");
    assert_eq!(run.wait(), Some(4), "{}", run.log());
    workers.iter().for_each(|worker| signal(*worker, "KILL"));
    pipeline.run_expecting(0, &[]);
    assert_eq!(&pipeline.dataset(), undisturbed());
    pipeline.assert_sound(&[]);
}

#[test]
fn a_second_coordinator_takes_the_run_over_and_the_first_gives_way() {
    let pipeline = Pipeline::new(PROGRAM);
    let mut first = pipeline.start(&[]);
    let started = Instant::now();
    wait_for_pairs(&pipeline, &mut first);
    // It sleeps, its workers go on: what they commit is as good as what the second's workers do.
    signal(first.id(), "STOP");
    let mut second = pipeline.start(&["run.workers=1"]);
    assert_eq!(second.wait(), Some(0), "{}", second.log());
    let finished = pipeline.dataset();
    // Every ten seconds a coordinator looks who holds the run; when it wakes up, such a look is due.
    assert!(first.wait_until(|| started.elapsed() > Duration::from_secs(11)));
    signal(first.id(), "CONT");
    assert_eq!(first.wait(), Some(4), "{}", first.log());
    assert!(first.log().contains("another coordinator has taken the run over (term 2)"), "{}", first.log());
    assert_eq!(&finished, undisturbed());
    assert_eq!(pipeline.dataset(), finished, "the first one changed the dataset when it woke up");
    pipeline.assert_sound(&[]);
    assert_eq!(pipeline.objects().iter().filter(|key| key.starts_with("terms/")).count(), 2);
}

#[test]
fn a_fused_run_goes_on_unfused_to_the_same_dataset() {
    let pipeline = Pipeline::new(PROGRAM);
    let mut run = pipeline.start(&[]);
    wait_for_pairs(&pipeline, &mut run);
    signal(run.id(), "INT");
    assert_eq!(run.wait(), Some(4), "{}", run.log());
    let unfused = ["stages.pairs.fuse=false"];
    pipeline.run_expecting(0, &unfused);
    assert_eq!(&pipeline.dataset(), undisturbed());
    pipeline.assert_sound(&unfused);
}

//! Scenarios, and random histories that must all end with every partition committed.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn policy() -> Policy {
    Policy {
        lease: Duration::from_secs(30),
        attempts: 4,
        preemptions: 20,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        max_quarantined: 0.01,
        quarantine_sample: 100,
        min_kept: 0.0,
        kept_sample: 0,
    }
}

fn fresh(partitions: u32) -> Vec<Recovered> {
    let stage = |stage, partitions| Recovered { stage, partitions, committed: Vec::new(), unblocked: stage == Stage::Prompts };
    vec![
        stage(Stage::Prompts, partitions),
        stage(Stage::Pairs, partitions),
        stage(Stage::Filter, partitions),
        stage(Stage::Index, 1),
        stage(Stage::Shards, 0),
    ]
}

fn finished(stage: Stage) -> Finished {
    let counts = Counts { expected: 10, output: 10, ..Counts::default() };
    let figures = if stage == Stage::Index { [(SHARDS_FIGURE.to_string(), 2.0)].into() } else { BTreeMap::new() };
    Finished { counts, seconds: 1.0, figures }
}

fn secs(s: u64) -> Moment {
    Duration::from_secs(s)
}

fn join(s: &mut Scheduler, worker: &str, now: Moment) -> Vec<Command> {
    let mut commands = s.step(Event::Joined { worker: worker.to_string(), device: "cpu".to_string(), scope: Scope::Any }, now);
    commands.extend(s.step(Event::WantsWork { worker: worker.to_string() }, now));
    commands
}

fn granted(commands: &[Command]) -> Option<Assignment> {
    commands.iter().find_map(|c| match c {
        Command::Grant { assignment, .. } => Some(*assignment),
        _ => None,
    })
}

fn report(s: &mut Scheduler, worker: &str, assignment: Assignment, outcome: Result<Finished, Failure>, now: Moment) -> Vec<Command> {
    s.step(Event::Reported { worker: worker.to_string(), assignment, outcome }, now)
}

fn failure(cause: Cause) -> Result<Finished, Failure> {
    Err(Failure { cause, message: "broken".to_string() })
}

#[test]
fn one_worker_goes_through_all_stages_depth_first() {
    let mut s = Scheduler::new(policy(), 1, fresh(2));
    let mut next = granted(&join(&mut s, "w", secs(0)));
    let mut order = Vec::new();
    while let Some(a) = next {
        order.push((a.stage, a.partition));
        let _ = report(&mut s, "w", a, Ok(finished(a.stage)), secs(1));
        next = granted(&s.step(Event::WantsWork { worker: "w".to_string() }, secs(1)));
    }
    use Stage::*;
    let expected = [(Prompts, 0), (Pairs, 0), (Filter, 0), (Prompts, 1), (Pairs, 1), (Filter, 1), (Index, 0), (Shards, 0), (Shards, 1)];
    assert_eq!(order, expected);
    assert!(s.complete());
}

#[test]
fn a_silent_worker_loses_its_lease_and_its_late_failure_counts_for_nothing() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let old = granted(&join(&mut s, "a", secs(0))).unwrap();
    let lost = s.step(Event::Tick, secs(31));
    assert!(lost.iter().any(|c| matches!(c, Command::Notice(Notice::LeaseLost { .. }))));
    let new = granted(&join(&mut s, "b", secs(32))).unwrap();
    assert_eq!((new.stage, new.partition), (old.stage, old.partition));
    assert!(new.epoch > old.epoch);
    let late = report(&mut s, "a", old, failure(Cause::Bug), secs(33));
    assert_eq!(late, [Command::Acknowledge { worker: "a".to_string(), accepted: false }]);
    let beat = s.step(Event::Beat { worker: "a".to_string(), progress: None }, secs(33));
    assert_eq!(beat, [Command::Continue { worker: "a".to_string(), keep_lease: false, drain: false }]);
}

#[test]
fn a_grant_that_reaches_nobody_costs_the_partition_nothing() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let mut next = granted(&join(&mut s, "w0", secs(0))).unwrap();
    for dead in 1..100 {
        let worker = format!("w{}", dead - 1);
        let _ = s.step(Event::Undelivered { worker, assignment: next }, secs(1));
        let again = granted(&join(&mut s, &format!("w{dead}"), secs(1))).unwrap();
        assert_eq!((again.partition, again.failures, again.epoch > next.epoch), (next.partition, 0, true));
        next = again;
    }
    assert_eq!(s.workers().len(), 1, "the dead are forgotten");
    let _ = report(&mut s, "w99", next, Ok(finished(next.stage)), secs(2));
    assert_eq!(s.stages()[0].committed(), 1);
}

#[test]
fn a_failure_told_under_another_name_counts() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    let _ = s.step(Event::Joined { worker: "w~2".to_string(), device: "cpu".to_string(), scope: Scope::Any }, secs(5));
    let told = report(&mut s, "w~2", a, failure(Cause::BadInput), secs(5));
    assert!(told.contains(&Command::Acknowledge { worker: "w~2".to_string(), accepted: true }), "{told:?}");
    assert!(matches!(s.stop_reason(), Some(Stop::BadInput(_))));
}

/// A worker whose connection broke registers anew, perhaps under another name, and brings the report that was lost.
#[test]
fn a_success_told_under_another_name_ends_the_lease_of_the_first() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    let _ = s.step(Event::Joined { worker: "w~2".to_string(), device: "cpu".to_string(), scope: Scope::Any }, secs(5));
    let _ = report(&mut s, "w~2", a, Ok(finished(a.stage)), secs(5));
    // The first name is silent for ever.
    let commands = s.step(Event::Tick, secs(60));
    assert!(!commands.iter().any(|c| matches!(c, Command::Notice(Notice::LeaseLost { .. }))), "{commands:?}");
    assert_eq!((s.stages()[0].committed(), s.stages()[0].counts().expected), (1, 10));
}

#[test]
fn a_late_success_is_a_fact_and_ends_the_newer_lease() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let old = granted(&join(&mut s, "a", secs(0))).unwrap();
    let _ = s.step(Event::Tick, secs(31));
    let new = granted(&join(&mut s, "b", secs(32))).unwrap();
    let _ = report(&mut s, "a", old, Ok(finished(old.stage)), secs(33));
    assert_eq!(s.stages()[0].committed(), 1);
    let progress = Some(Progress { assignment: new, done: 0, total: 1, units: 0, kept: 0 });
    let beat = s.step(Event::Beat { worker: "b".to_string(), progress }, secs(34));
    assert_eq!(beat, [Command::Continue { worker: "b".to_string(), keep_lease: false, drain: false }]);
    let _ = report(&mut s, "b", new, Ok(finished(new.stage)), secs(35));
    assert_eq!(s.stages()[0].counts().expected, 10, "counted once");
}

#[test]
fn failures_back_off_and_are_capped() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let mut now = secs(0);
    let mut next = granted(&join(&mut s, "w", now));
    for attempt in 1..=4 {
        let commands = report(&mut s, "w", next.unwrap(), failure(Cause::Transient), now);
        let gave_up = commands.iter().any(|c| matches!(c, Command::Notice(Notice::GaveUp { .. })));
        assert_eq!(gave_up, attempt == 4);
        next = granted(&s.step(Event::WantsWork { worker: "w".to_string() }, now));
        assert_eq!(next, None, "it waits for its back-off");
        now += secs(61);
        let commands = s.step(Event::Tick, now);
        next = granted(&commands);
        assert_eq!(next.is_some(), attempt < 4);
    }
    let failed = s.stages().iter().flat_map(StageState::failures).collect::<Vec<_>>();
    assert_eq!(failed, [(Stage::Prompts, 0, "broken".to_string())]);
}

#[test]
fn a_given_up_partition_ends_the_run_incomplete_after_the_rest() {
    let mut s = Scheduler::new(Policy { attempts: 1, ..policy() }, 1, fresh(2));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    let _ = report(&mut s, "w", a, failure(Cause::Bug), secs(0));
    let mut ending = None;
    while ending.is_none() {
        let mut commands = s.step(Event::WantsWork { worker: "w".to_string() }, secs(1));
        if let Some(a) = granted(&commands) {
            assert_ne!(a.partition, 0);
            commands.extend(report(&mut s, "w", a, Ok(finished(a.stage)), secs(1)));
        }
        ending = commands.into_iter().find_map(|c| match c {
            Command::Finish(ending) => Some(ending),
            _ => None,
        });
    }
    assert_eq!(ending, Some(Ending::Incomplete { failed: vec![(Stage::Prompts, 0, "broken".to_string())] }));
    assert_eq!(s.stages()[2].committed(), 1, "the sound partition went all the way");
}

#[test]
fn bad_input_stops_the_run_at_once() {
    let mut s = Scheduler::new(policy(), 1, fresh(3));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    let commands = report(&mut s, "w", a, failure(Cause::BadInput), secs(0));
    assert!(commands.contains(&Command::Finish(Ending::Stopped(Stop::BadInput("broken".to_string())))));
}

#[test]
fn a_later_attempt_knows_how_many_failed_before() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let first = granted(&join(&mut s, "w", secs(0))).unwrap();
    assert_eq!(first.failures, 0);
    let _ = report(&mut s, "w", first, failure(Cause::Preempted), secs(0));
    let second = granted(&s.step(Event::WantsWork { worker: "w".to_string() }, secs(0))).unwrap();
    assert_eq!(second.failures, 0, "a preempted attempt says nothing against the records");
    let _ = report(&mut s, "w", second, failure(Cause::Bug), secs(0));
    let _ = s.step(Event::WantsWork { worker: "w".to_string() }, secs(0));
    let third = granted(&s.step(Event::Tick, secs(9))).unwrap();
    assert_eq!(third.failures, 1);
}

#[test]
fn what_the_first_worker_lacks_stops_the_run_and_what_a_later_one_lacks_does_not() {
    let unfit = |s: &mut Scheduler, worker: &str| {
        let failure = Failure { cause: Cause::BadInput, message: "no model".to_string() };
        let _ = s.step(Event::Joined { worker: worker.to_string(), device: String::new(), scope: Scope::Any }, secs(0));
        s.step(Event::Unfit { worker: worker.to_string(), failure }, secs(0))
    };
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    assert!(unfit(&mut s, "a").contains(&Command::Finish(Ending::Stopped(Stop::BadInput("no model".to_string())))));
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let _ = join(&mut s, "sound", secs(0));
    assert_eq!(unfit(&mut s, "b"), []);
    assert_eq!(s.workers().len(), 1);
}

#[test]
fn what_some_lack_does_not_stop_the_others() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    for worker in ["a", "b", "c"] {
        let _ = s.step(Event::Joined { worker: worker.to_string(), device: String::new(), scope: Scope::Any }, secs(0));
    }
    let mut unfit = |worker: &str, cause| {
        let failure = Failure { cause, message: format!("{worker} has no model") };
        s.step(Event::Unfit { worker: worker.to_string(), failure }, secs(0))
    };
    assert_eq!(unfit("a", Cause::BadInput), [], "the others may have it");
    assert_eq!(unfit("b", Cause::Resource), []);
    let stop = Stop::BadInput("c has no model".to_string());
    assert_eq!(unfit("c", Cause::BadInput), [Command::Finish(Ending::Stopped(stop))], "nobody has it");
}

#[test]
fn an_index_that_cannot_be_stops_the_run() {
    for shards in [4e9, 1e15, -3.0, f64::NAN] {
        let mut recovered = fresh(1);
        recovered.iter_mut().take(3).for_each(|stage| stage.committed = vec![(0, finished(stage.stage))]);
        let mut s = Scheduler::new(policy(), 1, recovered);
        let index = granted(&join(&mut s, "w", secs(0))).unwrap();
        let figures = [(SHARDS_FIGURE.to_string(), shards)].into();
        let _ = report(&mut s, "w", index, Ok(Finished { figures, ..finished(Stage::Index) }), secs(1));
        assert!(matches!(s.stop_reason(), Some(Stop::BadInput(why)) if why.contains("10 kept pairs")), "{shards}");
        assert_eq!(s.stages()[4].len(), 0);
    }
}

#[test]
fn nobody_commits_what_has_no_input_yet() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let _ = join(&mut s, "w", secs(0));
    let invented = Assignment { stage: Stage::Index, partition: 0, epoch: 7, failures: 0 };
    let commands = report(&mut s, "w", invented, Ok(finished(Stage::Index)), secs(1));
    assert_eq!(commands, [Command::Acknowledge { worker: "w".to_string(), accepted: false }]);
}

#[test]
fn names_are_unique_among_the_living() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    for expected in ["w", "w~2", "w~3"] {
        let name = s.free_name("w");
        assert_eq!(name, expected);
        let _ = s.step(Event::Joined { worker: name, device: String::new(), scope: Scope::Any }, secs(0));
    }
    let _ = s.step(Event::Left { worker: "w".to_string(), why: String::new() }, secs(0));
    assert_eq!(s.free_name("w"), "w");
}

fn join_for(s: &mut Scheduler, worker: &str, scope: Scope) -> Vec<Command> {
    let _ = s.step(Event::Joined { worker: worker.to_string(), device: String::new(), scope }, secs(0));
    s.step(Event::WantsWork { worker: worker.to_string() }, secs(0))
}

#[test]
fn a_worker_gets_only_what_it_is_there_for() {
    let mut s = Scheduler::new(policy(), 1, fresh(3));
    assert_eq!(granted(&join_for(&mut s, "gpu", Scope::Stages(vec![Stage::Pairs]))), None);
    let third = granted(&join_for(&mut s, "third", Scope::Partition { stage: Stage::Prompts, partition: 2 })).unwrap();
    assert_eq!((third.stage, third.partition), (Stage::Prompts, 2));
    assert_eq!(granted(&join_for(&mut s, "its replacement", Scope::Partition { stage: Stage::Prompts, partition: 2 })), None);
    // Who waits in vain holds up nobody whose name comes later.
    let first = granted(&join_for(&mut s, "z", Scope::Any)).unwrap();
    assert_eq!((first.stage, first.partition), (Stage::Prompts, 0));
    let commands = report(&mut s, "third", third, Ok(finished(Stage::Prompts)), secs(1));
    let drawn = granted(&commands).unwrap();
    assert_eq!((drawn.stage, drawn.partition), (Stage::Pairs, 2), "{commands:?}");
    let reason = "prompts partition 2 is committed".to_string();
    assert!(commands.contains(&Command::Dismiss { worker: "its replacement".to_string(), parting: Parting::Done, reason }), "{commands:?}");
}

#[test]
fn who_waits_for_anything_holds_up_nobody_who_may_leave() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let only = Scope::Partition { stage: Stage::Prompts, partition: 0 };
    let held = granted(&join_for(&mut s, "works", only.clone())).unwrap();
    assert_eq!(granted(&join_for(&mut s, "a", Scope::Any)), None);
    assert_eq!(granted(&join_for(&mut s, "b", Scope::Any)), None);
    assert_eq!(granted(&join_for(&mut s, "c", only)), None);
    let mut commands = report(&mut s, "works", held, Ok(finished(Stage::Prompts)), secs(1));
    commands.extend(s.step(Event::Tick, secs(1)));
    let left = |c: &Command| matches!(c, Command::Dismiss { worker, .. } if worker == "c");
    assert!(commands.iter().any(left), "{commands:?}");
    assert_eq!(s.workers()["a"].holds.map(|held| held.stage), Some(Stage::Pairs), "b has nothing to do, and c is behind it");
}

#[test]
fn a_worker_for_one_partition_hears_that_it_was_given_up() {
    let mut s = Scheduler::new(Policy { attempts: 1, ..policy() }, 1, fresh(2));
    let scope = Scope::Partition { stage: Stage::Prompts, partition: 1 };
    let a = granted(&join_for(&mut s, "w", scope)).unwrap();
    let _ = report(&mut s, "w", a, failure(Cause::Bug), secs(0));
    let commands = s.step(Event::WantsWork { worker: "w".to_string() }, secs(0));
    let reason = "prompts partition 1 failed too often: broken".to_string();
    assert_eq!(commands, [Command::Dismiss { worker: "w".to_string(), parting: Parting::GivenUp, reason }]);
}

#[test]
fn a_worker_leaves_when_its_stages_are_complete() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let a = granted(&join_for(&mut s, "w", Scope::Stages(vec![Stage::Prompts]))).unwrap();
    let _ = report(&mut s, "w", a, Ok(finished(Stage::Prompts)), secs(0));
    let commands = s.step(Event::WantsWork { worker: "w".to_string() }, secs(0));
    assert_eq!(
        commands,
        [Command::Dismiss { worker: "w".to_string(), parting: Parting::Done, reason: "its stages are complete".to_string() }]
    );
}

#[test]
fn complete_stages_are_not_open() {
    let mut recovered = fresh(1);
    recovered[0].committed = vec![(0, finished(Stage::Prompts))];
    let s = Scheduler::new(policy(), 1, recovered);
    assert_eq!(s.open_stages().collect::<Vec<_>>(), [Stage::Pairs, Stage::Filter, Stage::Index, Stage::Shards]);
}

#[test]
fn a_drain_waits_for_what_is_held() {
    let mut s = Scheduler::new(policy(), 1, fresh(3));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    assert_eq!(s.step(Event::Drain { why: Stop::Interrupted }, secs(1)), []);
    let progress = Some(Progress { assignment: a, done: 0, total: 1, units: 0, kept: 0 });
    let beat = s.step(Event::Beat { worker: "w".to_string(), progress }, secs(2));
    assert_eq!(beat, [Command::Continue { worker: "w".to_string(), keep_lease: true, drain: true }]);
    let commands = report(&mut s, "w", a, failure(Cause::Preempted), secs(3));
    assert!(commands.contains(&Command::Finish(Ending::Stopped(Stop::Interrupted))));
    let commands = s.step(Event::WantsWork { worker: "w".to_string() }, secs(3));
    assert!(matches!(&commands[..], [Command::Dismiss { parting: Parting::Unfinished, .. }]));
}

#[test]
fn too_many_quarantined_records_stop_the_run() {
    let mut s = Scheduler::new(policy(), 1, fresh(3));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    let mut bad = finished(a.stage);
    bad.counts = Counts { expected: 200, output: 190, quarantined: 10, ..Counts::default() };
    let commands = report(&mut s, "w", a, Ok(bad), secs(0));
    assert!(commands.contains(&Command::Finish(Ending::Stopped(Stop::TooManyQuarantined { quarantined: 10, of: 200 }))));
}

/// Three partitions of `prompts` were done in a second each; "slow" holds the fourth, and "idle" has nothing to do.
fn with_a_straggler() -> (Scheduler, Assignment) {
    let mut recovered = fresh(4);
    for stage in &mut recovered[1..] {
        stage.partitions = 0;
    }
    let mut s = Scheduler::new(policy(), 1, recovered);
    for at in 0..3 {
        let a = granted(&join(&mut s, "idle", secs(at))).unwrap();
        let _ = report(&mut s, "idle", a, Ok(finished(a.stage)), secs(at + 1));
    }
    let slow = granted(&join(&mut s, "slow", secs(3))).unwrap();
    assert_eq!(granted(&join(&mut s, "idle", secs(4))), None);
    (s, slow)
}

fn beat(s: &mut Scheduler, worker: &str, assignment: Assignment, units: u64, now: Moment) -> bool {
    let progress = Some(Progress { assignment, done: 0, total: 1, units, kept: 0 });
    let commands = s.step(Event::Beat { worker: worker.to_string(), progress }, now);
    commands.iter().any(|c| matches!(c, Command::Continue { keep_lease: true, .. }))
}

#[test]
fn an_idle_worker_tries_what_takes_too_long_and_the_first_commit_wins() {
    for winner in ["slow", "idle"] {
        let (mut s, slow) = with_a_straggler();
        assert!(beat(&mut s, "slow", slow, 7, secs(5)));
        assert_eq!(granted(&s.step(Event::Tick, secs(6))), None, "three times the usual second is not over");
        let second = granted(&s.step(Event::Tick, secs(7))).unwrap();
        assert!((second.stage, second.partition) == (slow.stage, slow.partition) && second.epoch > slow.epoch);
        assert!(beat(&mut s, "slow", slow, 8, secs(8)) && beat(&mut s, "idle", second, 5, secs(8)), "both may go on");
        assert_eq!(granted(&join(&mut s, "third", secs(20))), None, "two are enough");
        let (wins, loser, loses, wasted) = if winner == "slow" { (slow, "idle", second, 5) } else { (second, "slow", slow, 8) };
        let commands = report(&mut s, winner, wins, Ok(finished(wins.stage)), secs(21));
        let outrun = Notice::Outrun { worker: loser.to_string(), assignment: loses, units: wasted };
        assert!(commands.contains(&Command::Notice(outrun)), "{commands:?}");
        assert!(!beat(&mut s, loser, loses, 9, secs(22)), "the loser's lease is over");
        let _ = report(&mut s, loser, loses, Ok(finished(loses.stage)), secs(23));
        assert_eq!((s.stages()[0].counts().expected, s.stages()[0].wasted_units()), (40, wasted), "counted once");
    }
}

#[test]
fn when_one_of_two_attempts_fails_the_other_goes_on() {
    let (mut s, slow) = with_a_straggler();
    let second = granted(&s.step(Event::Tick, secs(7))).unwrap();
    let commands = report(&mut s, "idle", second, failure(Cause::Bug), secs(8));
    assert!(commands.iter().any(|c| matches!(c, Command::Notice(Notice::Retrying { .. }))));
    assert!(beat(&mut s, "slow", slow, 0, secs(9)));
    assert_eq!(granted(&s.step(Event::WantsWork { worker: "idle".to_string() }, secs(9))), None, "not again at once");
    let third = granted(&s.step(Event::Tick, secs(12))).unwrap();
    let _ = s.step(Event::Left { worker: "slow".to_string(), why: "killed".to_string() }, secs(12));
    let _ = report(&mut s, "idle", third, Ok(finished(third.stage)), secs(13));
    assert!(s.stages()[0].complete());
}

#[test]
fn a_worker_that_fails_again_and_again_is_sent_away_unless_it_is_the_last() {
    let mut s = Scheduler::new(policy(), 1, fresh(9));
    let fail = |s: &mut Scheduler, worker: &str| {
        let mut commands = s.step(Event::WantsWork { worker: worker.to_string() }, secs(1));
        if let Some(held) = granted(&commands) {
            commands.extend(report(s, worker, held, failure(Cause::Resource), secs(1)));
        }
        commands
    };
    let dismissed = |commands: &[Command]| {
        commands.iter().any(|c| matches!(c, Command::Dismiss { parting: Parting::Unfinished, reason, .. } if reason.contains("sick")))
    };
    let _ = s.step(Event::Joined { worker: "sick".to_string(), device: "cuda".to_string(), scope: Scope::Any }, secs(0));
    for _ in 0..=STRIKES {
        assert!(!dismissed(&fail(&mut s, "sick")), "there is no other");
    }
    let _ = join(&mut s, "sound", secs(1));
    assert!(dismissed(&fail(&mut s, "sick")));
    assert_eq!(s.workers().keys().collect::<Vec<_>>(), ["sound"]);
    // A commit wipes the slate clean.
    let _ = s.step(Event::Joined { worker: "lucky".to_string(), device: "cuda".to_string(), scope: Scope::Any }, secs(2));
    for round in 0..3 * STRIKES {
        let held = granted(&s.step(Event::WantsWork { worker: "lucky".to_string() }, secs(100 + 100 * u64::from(round)))).unwrap();
        let outcome = if round % STRIKES == STRIKES - 1 { Ok(finished(held.stage)) } else { failure(Cause::Bug) };
        let _ = report(&mut s, "lucky", held, outcome, secs(100 + 100 * u64::from(round)));
        assert_eq!(s.workers()["lucky"].strikes, (round + 1) % STRIKES);
    }
}

/// Commits `prompts` and `pairs`, and gives out `filter`.
fn at_filter() -> (Scheduler, Assignment) {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    let mut held = granted(&join(&mut s, "w", secs(0))).unwrap();
    while held.stage != Stage::Filter {
        held = next(&mut s, held, Ok(finished(held.stage))).unwrap();
    }
    (s, held)
}

/// Reports, and asks for more.
fn next(s: &mut Scheduler, held: Assignment, outcome: Result<Finished, Failure>) -> Option<Assignment> {
    let _ = report(s, "w", held, outcome, secs(1));
    granted(&s.step(Event::WantsWork { worker: "w".to_string() }, secs(1)))
}

fn damaged(stage: Stage) -> Result<Finished, Failure> {
    failure(Cause::Damaged { stage, partition: 0 })
}

#[test]
fn what_made_a_damaged_object_makes_it_again_before_its_reader_goes_on() {
    let (mut s, filter) = at_filter();
    let counts = s.stages()[0].counts().clone();
    let pairs = next(&mut s, filter, damaged(Stage::Pairs)).unwrap();
    assert_eq!((pairs.stage, pairs.partition), (Stage::Pairs, 0));
    // Its own input is damaged too.
    let prompts = next(&mut s, pairs, damaged(Stage::Prompts)).unwrap();
    assert_eq!(prompts.stage, Stage::Prompts);
    let pairs = next(&mut s, prompts, Ok(finished(Stage::Prompts))).unwrap();
    assert_eq!(pairs.stage, Stage::Pairs);
    let mut held = next(&mut s, pairs, Ok(finished(Stage::Pairs)));
    assert_eq!(held.unwrap().stage, Stage::Filter);
    while let Some(assignment) = held {
        held = next(&mut s, assignment, Ok(finished(assignment.stage)));
    }
    assert!(s.complete());
    assert_eq!(*s.stages()[0].counts(), counts, "a second commit is not counted");
}

#[test]
fn a_late_report_does_not_make_a_damaged_object_whole() {
    let (mut s, filter) = at_filter();
    let pairs = next(&mut s, filter, damaged(Stage::Pairs)).unwrap();
    // Whoever drew the pairs first tells it once more, under its old epoch.
    let late = Assignment { epoch: 1, ..pairs };
    let commands = report(&mut s, "other", late, Ok(finished(Stage::Pairs)), secs(2));
    assert!(commands.contains(&Command::Acknowledge { worker: "other".to_string(), accepted: false }), "{commands:?}");
    assert_eq!(s.workers()["w"].holds, Some(pairs), "the mending goes on");
    assert_eq!(next(&mut s, pairs, Ok(finished(Stage::Pairs))).unwrap().stage, Stage::Filter);
}

#[test]
fn an_object_that_is_damaged_again_and_again_stops_the_run() {
    let (mut s, mut filter) = at_filter();
    for _ in 0..policy().attempts {
        let pairs = next(&mut s, filter, damaged(Stage::Pairs)).unwrap();
        filter = next(&mut s, pairs, Ok(finished(Stage::Pairs))).unwrap();
    }
    assert_eq!(next(&mut s, filter, damaged(Stage::Pairs)), None);
    assert_eq!(s.stop_reason(), Some(&Stop::BadInput("broken".to_string())));
    // No worker can blame what comes later, or what is not there.
    for blamed in [Cause::Damaged { stage: Stage::Shards, partition: 0 }, Cause::Damaged { stage: Stage::Pairs, partition: 9 }] {
        let (mut s, filter) = at_filter();
        assert_eq!(next(&mut s, filter, failure(blamed)), None);
        assert!(matches!(s.stop_reason(), Some(Stop::BadInput(_))));
    }
}

#[test]
fn a_run_without_a_worker_says_why() {
    let mut s = Scheduler::new(policy(), 1, fresh(1));
    assert_eq!(s.deserted().unwrap(), "none has registered yet");
    let _ = join(&mut s, "w", secs(0));
    assert_eq!(s.deserted(), None);
    let _ = s.step(Event::Tick, secs(31));
    assert_eq!(s.deserted().unwrap(), "the last one, w, left: no heartbeat for 30 s");
}

#[test]
fn a_run_that_keeps_next_to_nothing_stops() {
    let policy = Policy { min_kept: 0.01, kept_sample: 1000, ..policy() };
    for (output, stops) in [(9, true), (10, false)] {
        let mut recovered = fresh(2);
        for stage in &mut recovered[..2] {
            stage.committed = vec![(0, finished(stage.stage)), (1, finished(stage.stage))];
        }
        let mut s = Scheduler::new(policy.clone(), 1, recovered);
        let a = granted(&join(&mut s, "w", secs(0))).unwrap();
        assert_eq!(a.stage, Stage::Filter);
        let counts = Counts { expected: 1000, output, ..Counts::default() };
        let commands = report(&mut s, "w", a, Ok(Finished { counts, ..finished(a.stage) }), secs(1));
        let stop = Command::Finish(Ending::Stopped(Stop::TooFewKept { kept: 9, of: 1000 }));
        assert_eq!(commands.contains(&stop), stops, "{output}");
    }
}

#[test]
fn a_full_store_stops_the_run_and_gives_no_partition_up() {
    let mut s = Scheduler::new(Policy { attempts: 1, ..policy() }, 1, fresh(1));
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    let commands = report(&mut s, "w", a, failure(Cause::StoreFull), secs(0));
    assert!(commands.contains(&Command::Finish(Ending::Stopped(Stop::StoreFull("broken".to_string())))));
    assert_eq!(s.stages()[0].failures().count(), 0);
}

#[test]
fn a_recovered_run_goes_on_where_it_was() {
    let mut recovered = fresh(2);
    recovered[0].committed = vec![(0, finished(Stage::Prompts)), (1, finished(Stage::Prompts))];
    recovered[1].committed = vec![(1, finished(Stage::Pairs))];
    let mut s = Scheduler::new(policy(), 7, recovered);
    let a = granted(&join(&mut s, "w", secs(0))).unwrap();
    assert_eq!((a.stage, a.partition), (Stage::Filter, 1));
    assert_eq!(a.epoch >> 32, 7);
}

/// One thing that the outside world may do.
#[derive(Clone, Debug)]
enum Act {
    Join(u8),
    Succeed(u8),
    Fail(u8, bool),
    Silence(u8),
    Wait(u16),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u8..4).prop_map(Act::Join),
        6 => (0u8..4).prop_map(Act::Succeed),
        1 => (0u8..4, any::<bool>()).prop_map(|(w, transient)| Act::Fail(w, transient)),
        1 => (0u8..4).prop_map(Act::Silence),
        2 => (0u16..90).prop_map(Act::Wait),
    ]
}

/// A world of four workers that checks the scheduler's promises after every event.
struct World {
    s: Scheduler,
    now: Moment,
    holds: BTreeMap<u8, Assignment>,
    last_epoch: u64,
    done: BTreeSet<(Stage, u32)>,
    ended: bool,
}

impl World {
    fn apply(&mut self, event: Event) {
        for command in self.s.step(event, self.now) {
            match command {
                Command::Grant { worker, assignment } => {
                    assert!(assignment.epoch > self.last_epoch, "an epoch went back");
                    assert!(!self.done.contains(&(assignment.stage, assignment.partition)), "committed work was given out again");
                    self.last_epoch = assignment.epoch;
                    self.holds.insert(worker.parse().unwrap(), assignment);
                }
                Command::Notice(Notice::Committed { assignment, .. }) => {
                    assert!(self.done.insert((assignment.stage, assignment.partition)), "one partition was counted twice");
                }
                Command::Finish(_) => {
                    assert!(!self.ended, "the end was announced twice");
                    self.ended = true;
                }
                Command::Dismiss { .. } | Command::Continue { .. } | Command::Acknowledge { .. } | Command::Notice(_) => {}
            }
        }
        for stage in self.s.stages() {
            let states: Vec<Cell> = (0..stage.len()).map(|partition| stage.state(partition).cell()).collect();
            assert_eq!(stage.cells().0, states, "what is drawn of {} is not what it is", stage.stage());
        }
        let mut leased: BTreeMap<(Stage, u32), Vec<u64>> = BTreeMap::new();
        for a in self.s.workers().values().filter_map(|w| w.holds) {
            leased.entry((a.stage, a.partition)).or_default().push(a.epoch);
        }
        for ((stage, partition), mut epochs) in leased {
            let state = &self.s.stages()[stage_number(stage)];
            let mut held: Vec<u64> = state.leases(partition).iter().map(|lease| lease.epoch).collect();
            epochs.sort_unstable();
            held.sort_unstable();
            assert_eq!(epochs, held, "what workers hold and what the partition says differ");
            assert!(epochs.len() <= 2, "one partition is leased three times");
        }
    }

    fn report(&mut self, worker: u8, outcome: Result<Finished, Failure>) {
        if let Some(assignment) = self.holds.remove(&worker) {
            self.apply(Event::Reported { worker: worker.to_string(), assignment, outcome });
            self.apply(Event::WantsWork { worker: worker.to_string() });
        }
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Join(w) => {
                self.apply(Event::Joined { worker: w.to_string(), device: String::new(), scope: Scope::Any });
                self.apply(Event::WantsWork { worker: w.to_string() });
            }
            Act::Succeed(w) => {
                let stage = self.holds.get(&w).map_or(Stage::Prompts, |a| a.stage);
                self.report(w, Ok(finished(stage)));
            }
            Act::Fail(w, transient) => self.report(w, failure(if transient { Cause::Transient } else { Cause::Preempted })),
            Act::Silence(w) => self.apply(Event::Left { worker: w.to_string(), why: "killed".to_string() }),
            Act::Wait(s) => {
                self.now += secs(u64::from(s));
                self.apply(Event::Tick);
            }
        }
    }
}

proptest! {
    #[test]
    fn any_history_followed_by_calm_completes(acts in prop::collection::vec(act(), 0..200), partitions in 1u32..6) {
        let unlimited = Policy { attempts: u32::MAX, preemptions: u32::MAX, ..policy() };
        let s = Scheduler::new(unlimited, 1, fresh(partitions));
        let mut world = World { s, now: secs(0), holds: BTreeMap::new(), last_epoch: 0, done: BTreeSet::new(), ended: false };
        acts.into_iter().for_each(|a| world.act(a));
        for _ in 0..200 {
            [Act::Join(0), Act::Succeed(0), Act::Wait(61)].into_iter().for_each(|a| world.act(a));
        }
        prop_assert!(world.ended);
        prop_assert_eq!(world.done.len() as u32, 3 * partitions + 1 + 2);
    }
}

proptest! {
    /// One worker, no rivals: a partition is given up when, and only when, one of its two caps is reached.
    #[test]
    fn a_partition_is_given_up_at_its_cap(causes in prop::collection::vec(0usize..4, 0..40), attempts in 1u32..6, preemptions in 1u32..6) {
        let policy = Policy { attempts, preemptions, ..policy() };
        let mut recovered = fresh(1);
        recovered.truncate(1);
        let mut s = Scheduler::new(policy, 1, recovered);
        let mut held = granted(&join(&mut s, "w", secs(0)));
        let (mut failed, mut preempted, mut now) = (0, 0, secs(0));
        for cause in causes.into_iter().map(|n| [Cause::Transient, Cause::Resource, Cause::Bug, Cause::Preempted][n]) {
            let Some(assignment) = held else { break };
            prop_assert!(failed < attempts && preempted < preemptions, "given out after its cap");
            let count = if cause == Cause::Preempted { &mut preempted } else { &mut failed };
            *count += 1;
            let spent = failed == attempts || preempted == preemptions;
            let commands = report(&mut s, "w", assignment, failure(cause), now);
            let gave_up = commands.iter().any(|c| matches!(c, Command::Notice(Notice::GaveUp { .. })));
            prop_assert_eq!(gave_up, spent);
            now += secs(3600);
            held = granted(&s.step(Event::WantsWork { worker: "w".to_string() }, now));
            prop_assert_eq!(held.is_none(), spent);
        }
    }
}

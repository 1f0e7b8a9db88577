//! Histories of a cluster, and the Jobs that follow from them.

use super::machine::*;
use super::render::{Cover, Group};
use super::seen::*;
use crate::launcher::{Demand, StageDemand};
use crate::trouble::Stuck;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::spec::{Capacity, Jobs, PodTemplate};
use std::time::Duration;

fn pod_template() -> PodTemplate {
    PodTemplate {
        image: "i".to_string(),
        command: vec![],
        arguments: vec![],
        cpu: None,
        memory: None,
        gpus: 0,
        gpu_resource: String::new(),
        scratch: None,
        service_account: None,
        priority_class: None,
        queue: None,
        capacity: Capacity::Any,
        run_as_user: 1,
        deadline: None,
        image_pull_secrets: vec![],
        node_selector: Default::default(),
        labels: Default::default(),
        annotations: Default::default(),
        env: Default::default(),
        secrets: Default::default(),
        env_from_secrets: vec![],
        tolerations: None,
        affinity: None,
        volumes: None,
        mounts: None,
    }
}

type Naming = fn(&str, u32) -> String;

fn machine(jobs: Jobs, stages: &[Stage]) -> Machine<Naming> {
    let group = Group { id: "g".to_string(), stages: stages.to_vec(), jobs, workers: 2, pod: pod_template() };
    let rules = Rules { barren_jobs: 3, start_timeout: secs(600) };
    let naming: Naming = |word, number| format!("{word}-{number}");
    Machine::new(rules, vec![group], naming)
}

fn secs(s: u64) -> Moment {
    Duration::from_secs(s)
}

fn demand(stage: Stage, open: &[u32], committed: u32, settled: bool) -> Input {
    let stage = StageDemand { stage, open: open.to_vec(), committed, partitions: 10, settled };
    Input::Demand(Demand { stages: vec![stage], stopping: false })
}

fn listed(m: &mut Machine<Naming>, now: Moment) -> Vec<Effect> {
    let mut effects = m.step(Input::JobsAre(Default::default()), now);
    effects.extend(m.step(Input::PodsAre(Default::default()), now));
    effects
}

fn launches(effects: &[Effect]) -> Vec<(String, Cover)> {
    let launch = |effect: &Effect| match effect {
        Effect::Launch { job, cover, .. } => Some((job.clone(), cover.clone())),
        _ => None,
    };
    effects.iter().filter_map(launch).collect()
}

fn job(name: &str, end: Option<JobEnd>) -> Input {
    let (group, stage, partition) = ("g".to_string(), None, None);
    Input::Job(JobSeen { name: name.to_string(), group, stage, partition, suspended: false, end, expiring: false, parallelism: 2 })
}

fn pod(job: &str, name: &str, phase: Phase) -> Input {
    Input::Pod(PodSeen { name: name.to_string(), job: job.to_string(), index: Some(1), deleted: false, phase })
}

fn failed(code: i32) -> Phase {
    Phase::Failed(LastWords { exit_code: Some(code), reason: "Error".to_string(), message: "first\nno memory\n".to_string() })
}

#[test]
fn nothing_is_made_before_it_is_known_what_there_is() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    assert_eq!(m.step(demand(Stage::Prompts, &[0, 1, 2], 0, true), secs(0)), []);
    assert_eq!(m.step(Input::JobsAre(Default::default()), secs(0)), []);
    let made = launches(&m.step(Input::PodsAre(Default::default()), secs(0)));
    assert_eq!(made, [("prompts-1".to_string(), Cover::Pool { workers: 2 })]);
    assert_eq!(m.step(Input::Tick, secs(1)), [], "one pool is enough");
}

#[test]
fn a_partition_has_one_job_at_a_time_and_no_more_than_the_workers_allow() {
    let mut m = machine(Jobs::PerPartition, &[Stage::Pairs]);
    let _ = listed(&mut m, secs(0));
    let single = |partition| Cover::Partition { stage: Stage::Pairs, partition };
    let made = launches(&m.step(demand(Stage::Pairs, &[3, 5, 7], 0, true), secs(0)));
    assert_eq!(made, [("pairs-1".to_string(), single(3)), ("pairs-2".to_string(), single(5))]);
    let _ = m.step(job("pairs-1", None), secs(1));
    let made = launches(&m.step(job("pairs-1", Some(JobEnd::Complete)), secs(2)));
    assert_eq!(made, [("pairs-3".to_string(), single(7))]);
    assert_eq!(launches(&m.step(Input::Tick, secs(4))), [], "two at a time");
    // Deleted behind its back.
    let _ = (m.step(job("pairs-2", None), secs(5)), m.step(job("pairs-3", None), secs(5)));
    assert_eq!(launches(&m.step(Input::JobGone("pairs-2".to_string()), secs(5))), [], "who deletes may delete again");
    // A Job's success means nothing while the partition is not committed: it gets another one.
    let made = launches(&m.step(Input::Tick, secs(6)));
    assert_eq!(made, [("pairs-4".to_string(), single(3))]);
    let made = launches(&m.step(job("pairs-3", Some(JobEnd::Complete)), secs(7)));
    assert_eq!(made, [("pairs-5".to_string(), single(5))]);
}

#[test]
fn jobs_that_end_one_after_the_other_hold_up_no_new_ones() {
    let mut m = machine(Jobs::PerPartition, &[Stage::Pairs]);
    let _ = listed(&mut m, secs(0));
    let made = launches(&m.step(demand(Stage::Pairs, &[0, 1, 2, 3, 4], 0, true), secs(0)));
    assert_eq!(made.len(), 2);
    for (ended, open) in [(1, [1, 2, 3, 4]), (2, [1, 2, 3, 4])] {
        let name = format!("pairs-{ended}");
        let _ = m.step(job(&name, None), Duration::from_millis(400 * ended));
        let _ = m.step(demand(Stage::Pairs, &open, 1, true), Duration::from_millis(400 * ended));
        let made = launches(&m.step(job(&name, Some(JobEnd::Complete)), Duration::from_millis(400 * ended + 100)));
        let next = Cover::Partition { stage: Stage::Pairs, partition: ended as u32 + 1 };
        assert_eq!(made, [(format!("pairs-{}", ended + 2), next)], "although partition 1 has yet to be heard of");
    }
}

#[test]
fn a_wave_waits_for_enough_work_or_for_the_last_of_it() {
    let mut m = machine(Jobs::Indexed, &[Stage::Pairs]);
    let _ = listed(&mut m, secs(0));
    assert_eq!(launches(&m.step(demand(Stage::Pairs, &[0, 1, 2], 0, false), secs(0))), []);
    let eight: Vec<u32> = (0..8).collect();
    let made = launches(&m.step(demand(Stage::Pairs, &eight, 0, false), secs(0)));
    assert_eq!(made, [("pairs-1".to_string(), Cover::Wave { stage: Stage::Pairs, partitions: eight })]);
    assert_eq!(launches(&m.step(demand(Stage::Pairs, &[8, 9], 8, true), secs(1))), [], "one wave at a time");
    let _ = m.step(job("pairs-1", Some(JobEnd::Complete)), secs(2));
    let made = launches(&m.step(Input::Tick, secs(3)));
    assert_eq!(made, [("pairs-2".to_string(), Cover::Wave { stage: Stage::Pairs, partitions: vec![8, 9] })]);
}

#[test]
fn jobs_of_an_earlier_coordinator_are_adopted_and_those_of_other_settings_removed() {
    let mut m = machine(Jobs::Indexed, &[Stage::Pairs]);
    let _ = m.step(demand(Stage::Pairs, &[0, 1], 0, true), secs(0));
    assert_eq!(m.step(job("old", None), secs(0)), [Effect::ReadWave { job: "old".to_string() }]);
    let Input::Job(mut stale) = job("stale", None) else { unreachable!() };
    stale.group = "other".to_string();
    assert_eq!(m.step(Input::Job(stale), secs(0)), [Effect::Delete { job: "stale".to_string() }]);
    let _ = m.step(Input::JobsAre(["old".to_string(), "stale".to_string()].into()), secs(0));
    assert_eq!(launches(&m.step(Input::PodsAre(Default::default()), secs(0))), []);
    let _ = m.step(Input::Wave { job: "old".to_string(), partitions: vec![0, 1] }, secs(0));
    let effects = m.step(pod("old", "old-1-x", failed(137)), secs(1));
    let harvested = effects.iter().any(|effect| matches!(effect, Effect::Harvest { stage: Some(Stage::Pairs), partition: Some(1), .. }));
    assert!(harvested, "{effects:?}");
}

#[test]
fn a_pod_that_fails_is_reported_once_and_heard_before_its_job_expires() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)), m.step(job("prompts-1", None), secs(0)));
    let _ = m.step(pod("prompts-1", "p", Phase::Running), secs(1));
    let effects = m.step(pod("prompts-1", "p", failed(1)), secs(2));
    let why = "its pod failed with code 1: no memory".to_string();
    assert_eq!(effects[0], Effect::Exited { worker: "p".to_string(), why });
    assert!(matches!(&effects[1], Effect::Harvest { pod, .. } if pod == "p"));
    assert_eq!(m.step(pod("prompts-1", "p", failed(1)), secs(2)), [], "the watch began anew");
    assert_eq!(m.step(job("prompts-1", Some(JobEnd::Complete)), secs(3)), []);
    assert_eq!(m.step(Input::Harvested { job: "prompts-1".to_string() }, secs(3)), [Effect::Expire { job: "prompts-1".to_string() }]);
    // One that vanishes while it runs has ended too.
    let made = launches(&m.step(demand(Stage::Prompts, &[0], 1, true), secs(5)));
    let name = &made[0].0;
    let _ = (m.step(job(name, None), secs(5)), m.step(pod(name, "q", Phase::Running), secs(5)));
    let gone = m.step(Input::PodGone(name.clone(), "q".to_string()), secs(6));
    assert_eq!(gone, [Effect::Exited { worker: "q".to_string(), why: "its pod was deleted".to_string() }]);
}

#[test]
fn jobs_that_fail_and_fail_end_the_run_unless_something_is_committed() {
    for commits in [false, true] {
        let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
        let _ = listed(&mut m, secs(0));
        let (mut now, mut gave_up) = (0, None);
        for round in 1..=5 {
            let committed = if commits { round } else { 0 };
            let _ = m.step(demand(Stage::Prompts, &[9], committed, true), secs(now));
            now += 100;
            let made = launches(&m.step(Input::Tick, secs(now)));
            let name = made.first().map(|(name, _)| name.clone()).unwrap_or_else(|| format!("prompts-{round}"));
            let _ = (m.step(job(&name, None), secs(now)), m.step(pod(&name, "p", failed(42)), secs(now)));
            // A failed Job's other pods are ended: that is no reason.
            let Input::Pod(ended) = pod(&name, "q", failed(137)) else { unreachable!() };
            let _ = m.step(Input::Pod(PodSeen { deleted: true, ..ended }), secs(now));
            let effects = m.step(job(&name, Some(JobEnd::Failed("PodFailurePolicy: x".to_string()))), secs(now));
            let why = effects.into_iter().find_map(|effect| if let Effect::GiveUp { why } = effect { Some(why) } else { None });
            gave_up = gave_up.or(why.map(|why| (round, why)));
        }
        match gave_up {
            None => assert!(commits),
            Some((round, why)) => {
                assert_eq!((commits, round), (false, 3));
                assert!(why.contains("3 Jobs in a row failed") && why.contains("code 42: no memory"), "{why}");
            }
        }
    }
}

#[test]
fn what_does_not_start_is_asked_about_told_and_not_waited_for_for_ever() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)), m.step(job("prompts-1", None), secs(0)));
    assert_eq!(m.step(Input::Tick, secs(19)), []);
    assert_eq!(m.step(Input::Tick, secs(20)), [Effect::Diagnose { job: "prompts-1".to_string(), pod: None, since: secs(0) }]);
    let stuck = Stuck { reason: "FailedCreate".to_string(), message: "exceeded quota".to_string() };
    let quota = m.step(Input::Diagnosed { job: "prompts-1".to_string(), pod: None, stuck: Some(stuck) }, secs(21));
    assert!(matches!(&quota[..], [Effect::Trouble(troubles)] if troubles[0].to_string().contains("raise the quota")), "{quota:?}");
    let stuck = Stuck { reason: "ImagePullBackOff".to_string(), message: "no such image".to_string() };
    let effects = m.step(pod("prompts-1", "p", Phase::Pending(Some(stuck.clone()))), secs(30));
    assert!(matches!(&effects[..], [Effect::Trouble(troubles)] if troubles.iter().any(|t| t.reason == "ImagePullBackOff")), "{effects:?}");
    let asked = m.step(Input::Tick, secs(50));
    let diagnose = Effect::Diagnose { job: "prompts-1".to_string(), pod: Some("p".to_string()), since: secs(30) };
    assert!(asked.contains(&diagnose), "{asked:?}");
    assert!(
        asked.iter().any(|effect| matches!(effect, Effect::Trouble(troubles) if troubles.len() == 1)),
        "the quota is no trouble any more"
    );
    let end = m.step(Input::Tick, secs(700));
    assert!(end.iter().any(|effect| matches!(effect, Effect::GiveUp { why } if why.contains("no such image"))), "{end:?}");
    // A pod that runs after all ends the trouble.
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)), m.step(job("prompts-1", None), secs(0)));
    let _ = m.step(pod("prompts-1", "p", Phase::Pending(Some(stuck))), secs(30));
    assert_eq!(m.step(pod("prompts-1", "p", Phase::Running), secs(40)), [Effect::Trouble(vec![])]);
    assert_eq!(m.step(Input::Tick, secs(1000)), []);
}

#[test]
fn a_node_that_refuses_pods_is_a_trouble_until_one_begins() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)), m.step(job("prompts-1", None), secs(0)));
    let _ = m.step(pod("prompts-1", "p", Phase::Pending(None)), secs(1));
    let words = |code| LastWords { exit_code: code, reason: "OutOfcpu".to_string(), message: "Pod was rejected".to_string() };
    let refused = m.step(pod("prompts-1", "p", Phase::Failed(words(None))), secs(2));
    let told = |effects: &[Effect]| effects.iter().find_map(|e| if let Effect::Trouble(t) = e { Some(t.clone()) } else { None });
    let troubles = told(&refused).unwrap();
    assert!(troubles[0].to_string().contains("pod p cannot start: OutOfcpu: Pod was rejected. The node refused"), "{troubles:?}");
    assert_eq!(told(&m.step(pod("prompts-1", "q", Phase::Pending(None)), secs(12))), None, "who waits has not begun");
    assert_eq!(told(&m.step(pod("prompts-1", "q", Phase::Running), secs(13))), Some(vec![]));
    // What ran has not been refused.
    assert_eq!(told(&m.step(pod("prompts-1", "q", Phase::Failed(words(Some(1)))), secs(14))), None);
}

fn gave_up(effects: &[Effect]) -> Option<String> {
    effects.iter().find_map(|effect| if let Effect::GiveUp { why } = effect { Some(why.clone()) } else { None })
}

fn not_launched(job: &str) -> Input {
    Input::NotLaunched { job: job.to_string(), why: "quota".to_string() }
}

#[test]
fn jobs_that_fail_side_by_side_have_failed_once() {
    let mut m = machine(Jobs::PerPartition, &[Stage::Pairs]);
    let _ = listed(&mut m, secs(0));
    let mut made = launches(&m.step(demand(Stage::Pairs, &[3, 5, 7], 0, true), secs(0)));
    for round in 1..=3 {
        assert_eq!(made.len(), 2, "round {round}");
        let first = m.step(not_launched(&made[0].0), secs(100 * round));
        let second = m.step(not_launched(&made[1].0), secs(100 * round + 1));
        assert_eq!(gave_up(&first).is_some(), round == 3, "round {round}: {first:?}");
        assert_eq!(gave_up(&second), None);
        made = launches(&m.step(Input::Tick, secs(100 * round + 90)));
    }
}

#[test]
fn a_job_that_finds_no_room_is_no_failure_while_another_works() {
    let mut m = machine(Jobs::PerPartition, &[Stage::Pairs]);
    let _ = listed(&mut m, secs(0));
    let mut made = launches(&m.step(demand(Stage::Pairs, &[3, 5], 0, true), secs(0)));
    let works = made[0].0.clone();
    let _ = (m.step(job(&works, None), secs(1)), m.step(pod(&works, "p", Phase::Running), secs(1)));
    for round in 1..=5 {
        let effects = m.step(not_launched(&made.last().unwrap().0), secs(100 * round));
        assert_eq!((gave_up(&effects), launches(&effects)), (None, vec![]));
        made = launches(&m.step(Input::Tick, secs(100 * round + 90)));
    }
}

#[test]
fn jobs_that_end_well_and_bring_nothing_are_not_made_for_ever() {
    for (jobs, commits) in [(Jobs::Pool, false), (Jobs::Indexed, false), (Jobs::PerPartition, false), (Jobs::Pool, true)] {
        let mut m = machine(jobs, &[Stage::Pairs]);
        let _ = listed(&mut m, secs(0));
        let mut made = launches(&m.step(demand(Stage::Pairs, &[3], 0, true), secs(0)));
        let mut why = None;
        for round in 1..=3 {
            assert_eq!(made.len(), 1, "{jobs:?} {round}");
            let name = &made[0].0;
            let _ = (m.step(job(name, None), secs(100 * round)), m.step(job(name, Some(JobEnd::Complete)), secs(100 * round + 1)));
            if commits {
                let _ = m.step(demand(Stage::Pairs, &[3], round as u32, true), secs(100 * round + 1));
            }
            assert_eq!(why, None, "{jobs:?} {round}");
            let effects = m.step(Input::Tick, secs(100 * round + 2));
            why = gave_up(&effects);
            assert!(commits || launches(&effects).is_empty(), "not at once: {effects:?}");
            made = launches(&effects);
            made.extend(launches(&m.step(Input::Tick, secs(100 * round + 90))));
        }
        match why {
            Some(why) => assert!(!commits && why.contains("is complete, but nothing of pairs was committed"), "{why}"),
            None => assert!(commits, "{jobs:?}"),
        }
    }
}

#[test]
fn whoever_deletes_jobs_again_and_again_or_their_owner_is_heard() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = listed(&mut m, secs(0));
    let mut made = launches(&m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)));
    for round in 1..=3 {
        let name = made[0].0.clone();
        let _ = m.step(job(&name, None), secs(100 * round));
        let gone = m.step(Input::JobGone(name), secs(100 * round + 1));
        assert!(gone.contains(&Effect::CheckOwner), "{gone:?}");
        assert_eq!(gave_up(&gone).is_some(), round == 3, "{gone:?}");
        made = launches(&m.step(Input::Tick, secs(100 * round + 90)));
    }
    // What has ended goes by its time to live.
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)));
    let _ = (m.step(job("prompts-1", None), secs(1)), m.step(job("prompts-1", Some(JobEnd::Complete)), secs(2)));
    assert_eq!(m.step(Input::JobGone("prompts-1".to_string()), secs(2)), []);
    assert_eq!(m.step(Input::Disowned, secs(3)), [Effect::Cancelled]);
    assert_eq!(m.step(Input::Tick, secs(99)), [], "nothing is made for a run that nobody wants");
}

#[test]
fn a_job_waits_for_its_queue_as_long_as_it_takes() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)));
    let Input::Job(seen) = job("prompts-1", None) else { unreachable!() };
    let _ = m.step(Input::Job(JobSeen { suspended: true, ..seen }), secs(1));
    let told = m.step(Input::Tick, secs(30));
    let told = m.step(Input::Tick, secs(31)).into_iter().chain(told).collect::<Vec<_>>();
    assert!(matches!(&told[..], [Effect::Trouble(troubles)] if troubles[0].reason == "Suspended"), "{told:?}");
    assert_eq!(m.step(Input::Tick, secs(100_000)), []);
}

#[test]
fn what_held_a_pod_up_before_is_not_what_holds_it_up_now() {
    let mut m = machine(Jobs::Pool, &[Stage::Prompts]);
    let _ = (listed(&mut m, secs(0)), m.step(demand(Stage::Prompts, &[0], 0, true), secs(0)), m.step(job("prompts-1", None), secs(0)));
    let stuck = Stuck { reason: "Unschedulable".to_string(), message: "0/3 nodes".to_string() };
    let _ = m.step(pod("prompts-1", "p", Phase::Pending(Some(stuck))), secs(1));
    assert_eq!(m.step(pod("prompts-1", "p", Phase::Pending(None)), secs(100)), [Effect::Trouble(vec![])], "a node has it");
    assert_eq!(m.step(Input::Tick, secs(119)), []);
    let asked = m.step(Input::Tick, secs(120));
    assert_eq!(asked, [Effect::Diagnose { job: "prompts-1".to_string(), pod: Some("p".to_string()), since: secs(100) }]);
}

#[test]
fn a_job_for_each_of_very_many_partitions_is_refused() {
    let mut m = machine(Jobs::PerPartition, &[Stage::Shards]);
    let _ = listed(&mut m, secs(0));
    let stage = StageDemand { stage: Stage::Shards, open: vec![0], committed: 0, partitions: 1001, settled: true };
    let effects = m.step(Input::Demand(Demand { stages: vec![stage], stopping: false }), secs(0));
    assert!(matches!(&effects[..], [Effect::GiveUp { why }] if why.contains("jobs: indexed")), "{effects:?}");
}

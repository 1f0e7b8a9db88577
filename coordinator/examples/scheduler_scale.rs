//! A run of a million partitions among ten thousand workers, as the scheduler sees it: every worker beats, works and
//! reports in turn until the run is complete; then a coordinator starts again from the middle.
//!
//!     cargo run --release -p ip2p-coordinator --no-default-features --example scheduler_scale -- 1000000 10000
//!
//! Prints a Markdown table. Memory is the peak of this process, so the events of the workers are in it.

#![expect(clippy::print_stdout, reason = "the table is what the program is for")]

use ip2p_coordinator::scheduler::{Command, Ending, Event, Policy, Recovered, Scheduler};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, SHARDS_FIGURE};
use ip2p_pipeline::task::{Assignment, Finished, Progress, Scope};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Heartbeats of a worker per partition.
const BEATS: u64 = 3;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u32>());
    let partitions = arguments.next().and_then(Result::ok).unwrap_or(1_000_000);
    let workers = arguments.next().and_then(Result::ok).unwrap_or(10_000);
    let started = Instant::now();
    let scheduler = Scheduler::new(policy(), 1, recovered(partitions, 0));
    let empty = started.elapsed();
    let started = Instant::now();
    let steps = live(scheduler, workers);
    let lived = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let halfway = Scheduler::new(policy(), 2, recovered(partitions, partitions / 2));
    let recovery = started.elapsed();
    drop(halfway);
    println!("| {partitions} partitions, {workers} workers | measured |\n|---|---|");
    println!("| from nothing to the first grant | {:.2} s |", empty.as_secs_f64());
    println!("| scheduler steps | {steps}, {:.0} per second |", steps as f64 / lived);
    println!("| starting again with half of every stage committed, manifests read | {:.2} s |", recovery.as_secs_f64());
    println!("| peak memory | {} MB |", peak_memory() / 1_000_000);
}

fn policy() -> Policy {
    Policy {
        lease: Duration::from_secs(30),
        attempts: 4,
        preemptions: 50,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        max_quarantined: 0.01,
        quarantine_sample: 200,
        min_kept: 0.0,
        kept_sample: 0,
    }
}

/// The first `done` partitions of the large stages are committed.
fn recovered(partitions: u32, done: u32) -> Vec<Recovered> {
    let stage = |stage| {
        let large = matches!(stage, Stage::Prompts | Stage::Pairs | Stage::Filter);
        let committed = if large { (0..done).map(|partition| (partition, finished(stage))).collect() } else { Vec::new() };
        let partitions = match stage {
            Stage::Index => 1,
            _ if large => partitions,
            _ => 0,
        };
        Recovered { stage, partitions, committed, unblocked: stage == Stage::Prompts }
    };
    Stage::RUN.map(stage).to_vec()
}

fn finished(stage: Stage) -> Finished {
    let counts = Counts { expected: 100, output: 100, ..Counts::default() };
    let figures = if stage == Stage::Index { BTreeMap::from([(SHARDS_FIGURE.to_string(), 1000.0)]) } else { BTreeMap::new() };
    Finished { counts, seconds: 1.0, figures }
}

/// Steps until the run is complete.
fn live(mut scheduler: Scheduler, workers: u32) -> u64 {
    let (mut now, mut steps) = (Duration::ZERO, 0);
    let mut at_work: VecDeque<(String, Assignment)> = VecDeque::new();
    let mut complete = false;
    let mut step = |event: Event, now: Duration, at_work: &mut VecDeque<(String, Assignment)>| {
        steps += 1;
        for command in scheduler.step(event, now) {
            match command {
                Command::Grant { worker, assignment } => at_work.push_back((worker, assignment)),
                Command::Finish(Ending::Complete) => complete = true,
                _ => {}
            }
        }
        complete
    };
    for worker in 0..workers {
        let worker = format!("worker-{worker}");
        step(Event::Joined { worker: worker.clone(), device: "GPU".to_string(), scope: Scope::Any }, now, &mut at_work);
        step(Event::WantsWork { worker }, now, &mut at_work);
    }
    while let Some((worker, assignment)) = at_work.pop_front() {
        for done in 0..BEATS {
            let progress = Some(Progress { assignment, done, total: BEATS, units: done, kept: 0 });
            step(Event::Beat { worker: worker.clone(), progress }, now, &mut at_work);
        }
        step(Event::Reported { worker: worker.clone(), assignment, outcome: Ok(finished(assignment.stage)) }, now, &mut at_work);
        now += Duration::from_micros(100);
        if step(Event::WantsWork { worker }, now, &mut at_work) {
            return steps;
        }
    }
    panic!("the run stood still");
}

fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
}

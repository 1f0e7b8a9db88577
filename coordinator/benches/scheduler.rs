//! Scheduler steps: granting and committing partitions among many workers.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ip2p_coordinator::scheduler::{Command, Event, Policy, Recovered, Scheduler};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::task::{Assignment, Finished, Scope};
use std::hint::black_box;
use std::time::Duration;

const PARTITIONS: u32 = 10_000;
const WORKERS: u32 = 1_000;

fn scheduler() -> Scheduler {
    let policy = Policy {
        lease: Duration::from_secs(30),
        attempts: 4,
        preemptions: 50,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        max_quarantined: 0.01,
        quarantine_sample: 200,
        min_kept: 0.0,
        kept_sample: 0,
    };
    let recovered = Stage::RUN.map(|stage| {
        let partitions = match stage {
            Stage::Prompts | Stage::Pairs | Stage::Filter | Stage::Corpus => PARTITIONS,
            Stage::Index => 1,
            Stage::Shards => 0,
        };
        Recovered { stage, partitions, committed: Vec::new(), unblocked: stage == Stage::Prompts }
    });
    Scheduler::new(policy, 1, recovered.to_vec())
}

/// Every worker joins; the grants are worked off one by one until `PARTITIONS` commits are done.
fn commits(mut scheduler: Scheduler) -> Scheduler {
    let now = Duration::ZERO;
    let mut held: Vec<(String, Assignment)> = Vec::new();
    let keep = |commands: Vec<Command>, held: &mut Vec<(String, Assignment)>| {
        held.extend(commands.into_iter().filter_map(|command| match command {
            Command::Grant { worker, assignment } => Some((worker, assignment)),
            _ => None,
        }));
    };
    for worker in 0..WORKERS {
        let worker = worker.to_string();
        keep(scheduler.step(Event::Joined { worker: worker.clone(), device: String::new(), scope: Scope::Any }, now), &mut held);
        keep(scheduler.step(Event::WantsWork { worker }, now), &mut held);
    }
    for _ in 0..PARTITIONS {
        let Some((worker, assignment)) = held.pop() else { break };
        let outcome = Ok(Finished::default());
        keep(scheduler.step(Event::Reported { worker: worker.clone(), assignment, outcome }, now), &mut held);
        keep(scheduler.step(Event::WantsWork { worker }, now), &mut held);
    }
    scheduler
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    group.throughput(Throughput::Elements(u64::from(PARTITIONS))).sample_size(10);
    group.bench_function("commits among 1000 workers", |b| b.iter_batched(scheduler, |s| black_box(commits(s)), BatchSize::LargeInput));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

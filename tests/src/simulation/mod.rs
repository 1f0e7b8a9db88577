//! Deterministic simulation: the real scheduler, driver, sessions, attempts and commits, over a simulated store, network
//! and clock, in one process and from one seed.
//!
//! Nothing waits for real time. Processes are killed between any two awaits, put to sleep past their leases and woken
//! (so the clock jumps for them), coordinators are replaced while the old one lives on, requests and answers are lost,
//! writes (whole or in parts) are torn, late, or answered with an error although they landed, and objects rot. After every event the guarantees are checked against the truth
//! ([`world`]); when the faults end, the run must end, with every record accounted for once.

pub(crate) mod chance;
mod network;
mod process;
mod stages;
mod store;
mod world;

use ip2p_coordinator::digest::Digests;
use ip2p_coordinator::driver::{Driver, View};
use ip2p_coordinator::prepare;
use ip2p_coordinator::scheduler::{Ending, Policy, Scheduler, Stop};
use ip2p_coordinator::term::Term;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::plan::{ModelFingerprints, Partitioning, Plan};
use ip2p_pipeline::planted::{self, Defect};
use ip2p_pipeline::spec::Spec;
use ip2p_pipeline::store::Store;
use ip2p_worker::session;
use network::{Address, BadLink};
use process::Process;
use stages::{Fate, SHARDS, Toys, fate, rows_in};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use store::BadStore;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet, LocalSet, spawn_local};
use tokio::time::{Instant, sleep};
use world::World;

const LEASE: Duration = Duration::from_secs(30);
/// Virtual time in which faults happen.
const STORM: Duration = Duration::from_secs(900);
/// Virtual time in which a run must end. A calm one takes minutes.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
const WORKERS: u64 = 4;

/// What a simulation came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calm {
    /// Virtual time until the run was complete.
    pub took: Duration,
    pub faults: u64,
    pub coordinators: u32,
    pub objects: usize,
}

/// A guarantee that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    pub seed: u64,
    pub guarantee: String,
    /// The last events before it.
    pub trace: Vec<String>,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.trace.iter().try_for_each(|line| writeln!(f, "  {line}"))?;
        let Broken { seed, guarantee, .. } = self;
        write!(f, "seed {seed}: {guarantee}\nreplay: cargo run -p ip2p-tests --bin simulate -- --from {seed} --seeds 1")
    }
}

/// A plan of ten small partitions.
pub fn plan() -> anyhow::Result<Plan> {
    plan_of(Partitioning { records: 48, partition_records: 5 })
}

/// A plan for stages without models.
pub fn plan_of(partitioning: Partitioning) -> anyhow::Result<Plan> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("pipeline.yaml");
    std::fs::write(&file, crate::small_pipeline())?;
    let captions = crate::repository().join("models/tiny/captions.jsonl");
    let spec = Spec::load(&file, &[format!("corpus.path={}", captions.display())]).map_err(|e| anyhow::anyhow!("{e}"))?;
    let any = Fingerprint::of(&["simulated"]);
    let models = ModelFingerprints { diffusion: any, vae: None, clip: any, llm: Some(any) };
    let corpus = StageDir { stage: Stage::Corpus, fingerprint: any };
    Ok(Plan::new(spec, corpus, any, models, partitioning))
}

/// Lives one history. `plan` gives stages their folders; `defect` is planted for as long as it lasts.
pub fn simulate(seed: u64, plan: &Plan, defect: Option<Defect>) -> Result<Calm, Box<Broken>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => panic!("no runtime: {e}"),
    };
    planted::plant(defect);
    let result = LocalSet::new().block_on(&runtime, live(seed, plan.clone()));
    drop(runtime);
    planted::plant(None);
    result
}

async fn live(seed: u64, plan: Plan) -> Result<Calm, Box<Broken>> {
    let world = Arc::new(World::new(seed, plan, STORM));
    let started = Instant::now();
    let address = Address::default();
    let mut workers = JoinSet::new();
    for number in 0..WORKERS {
        workers.spawn_local(keep_working(world.clone(), address.clone(), number));
    }
    let run = keep_coordinating(&world, &address);
    let ended = tokio::select! {
        biased;
        () = world.alarm() => None,
        ended = tokio::time::timeout(PATIENCE, run) => Some(ended),
    };
    match ended {
        None => {}
        Some(Err(_)) => world.violated("the run does not end although all faults have ended".to_string()),
        Some(Ok((coordinators, scheduler))) => {
            let took = started.elapsed();
            check_end(&world, &scheduler);
            if world.verdict().is_none() {
                return Ok(Calm { took, faults: world.faults(), coordinators, objects: world.keys("").len() });
            }
        }
    }
    let (guarantee, trace) = world.verdict().unwrap_or_default();
    Err(Box::new(Broken { seed, guarantee, trace }))
}

/// A worker process that is started again whenever it ends, sometimes by force.
async fn keep_working(world: Arc<World>, address: Address, number: u64) {
    for start in 0u32.. {
        let name = format!("w{number}.{start}");
        let (process, switch) = Process::new(&world, name.clone());
        let link = BadLink { process: process.clone(), address: address.clone(), lease: LEASE };
        let chunk = world.chance.millis(0..20_000);
        let (ask_to_leave, leave) = watch::channel(false);
        let mut life = spawn_local(async move {
            let ended = session::run(&link, &name, async |_| Ok(Toys::new(&process, chunk)), leave).await;
            process.note(|| format!("ended: {ended:?}"));
        });
        loop {
            let until_fault = world.chance.millis(5_000..240_000);
            tokio::select! {
                biased;
                _ = &mut life => break,
                () = sleep(until_fault) => {}
            }
            if world.is_calm() {
                let _ = (&mut life).await;
                break;
            }
            match world.chance.below(3) {
                // kill -9
                0 => {
                    world.note(|| format!("kill -9 of w{number}.{start}"));
                    life.abort();
                }
                // SIGTERM
                1 => drop(ask_to_leave.send_replace(true)),
                // SIGSTOP, and SIGCONT much later
                _ => {
                    world.note(|| format!("w{number}.{start} sleeps"));
                    switch.stop();
                    sleep(world.chance.millis(1_000..100_000)).await;
                    switch.resume();
                }
            }
        }
        sleep(world.chance.millis(1_000..15_000)).await;
    }
}

/// Coordinators, one after the other or side by side, until one says that the run is complete.
async fn keep_coordinating(world: &Arc<World>, address: &Address) -> (u32, Scheduler) {
    let (done, mut complete) = mpsc::channel(4);
    let mut alive: Vec<JoinHandle<()>> = Vec::new();
    let start = |number: u32| {
        let (process, switch) = Process::new(world, format!("coordinator {number}"));
        let life = coordinate(process.clone(), address.clone(), done.clone());
        (spawn_local(async move { process.live(life).await }), switch)
    };
    for number in 1u32.. {
        // Now and then two are started at the same moment.
        if world.fault(4) {
            alive.push(start(number).0);
        }
        let (life, switch) = start(number);
        alive.push(life);
        let newest = alive.len() - 1;
        loop {
            let until_fault = world.chance.millis(20_000..400_000);
            // A fault that falls into the calm does not happen.
            let fault = async {
                sleep(until_fault).await;
                if world.is_calm() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                biased;
                Some(scheduler) = complete.recv() => {
                    alive.iter().for_each(JoinHandle::abort);
                    return (number, scheduler);
                }
                _ = &mut alive[newest] => break,
                () = fault => {}
            }
            match world.chance.below(3) {
                0 => {
                    world.note(|| format!("coordinator {number} is killed"));
                    address.cut();
                    alive[newest].abort();
                    break;
                }
                // It must give way to the next.
                1 => {
                    world.note(|| format!("coordinator {number} is out of sight"));
                    address.cut();
                    break;
                }
                // SIGSTOP, and SIGCONT much later: for it, no time has passed but on the clock.
                _ => {
                    world.note(|| format!("coordinator {number} sleeps"));
                    switch.stop();
                    sleep(world.chance.millis(1_000..100_000)).await;
                    world.note(|| format!("coordinator {number} wakes"));
                    switch.resume();
                }
            }
        }
        alive.retain(|life| !life.is_finished());
        sleep(world.chance.millis(500..20_000)).await;
    }
    unreachable!("coordinators without end")
}

/// One coordinator's life; errors of the store end it, as they end the program.
async fn coordinate(process: Process, address: Address, done: mpsc::Sender<Scheduler>) {
    let world = process.world.clone();
    let store = Store::over(Arc::new(BadStore(process.clone())), "memory:///");
    let Ok(term) = Term::take(&store).await else { return };
    let Ok(recovered) = prepare::recover(&store, &world.plan).await else { return };
    if term.lost().await.is_some() {
        return;
    }
    process.note(|| format!("starts with term {}", term.number));
    let (requests, inbox) = mpsc::channel(64);
    address.add(requests);
    let (view, _) = watch::channel(View::default());
    let (_interrupt, interrupts) = mpsc::channel(1);
    let scheduler = Scheduler::new(policy(&world), term.number, recovered);
    let driver = Driver::new(scheduler, inbox, None, &term, view, Digests::start(&store, &world.plan));
    let (ending, scheduler, farewell) = driver.run(interrupts).await;
    process.note(|| format!("ends: {ending:?}"));
    match ending {
        Ending::Complete => {
            // The last one to hear of it may already know.
            let _ = done.send(scheduler).await;
            let _ = farewell.await;
        }
        Ending::Stopped(Stop::BadInput(why)) if world.caps.is_none() => {
            world.violated(format!("nothing was wrong with the input, but the run stopped: {why}"));
        }
        Ending::Incomplete { failed } if world.caps.is_none() => {
            world.violated(format!("the run gave up although it was told not to: {failed:?}"));
        }
        // Whoever comes next tries again.
        Ending::Stopped(_) | Ending::Incomplete { .. } => {}
    }
}

fn policy(world: &World) -> Policy {
    let (attempts, preemptions) = world.caps.unwrap_or((u32::MAX, u32::MAX));
    Policy {
        lease: LEASE,
        attempts,
        preemptions,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(20),
        max_quarantined: 1.0,
        quarantine_sample: u64::MAX,
        min_kept: 0.0,
        kept_sample: u64::MAX,
    }
}

/// Every record of the corpus must have met its fate once, in the store and in the coordinator's figures.
fn check_end(world: &World, scheduler: &Scheduler) {
    let plan = &world.plan;
    for (number, stage) in Stage::RUN.into_iter().enumerate() {
        let mut counts = Counts::default();
        let partitions = scheduler.stages()[number].len();
        for partition in 0..partitions {
            match world.partition(stage, partition) {
                Some(manifest) => counts.add(&manifest.counts()),
                None => world.violated(format!("the run is complete without {stage} partition {partition}")),
            }
        }
        if *scheduler.stages()[number].counts() != counts {
            let told = scheduler.stages()[number].counts();
            world.violated(format!("{stage}: the coordinator counted {told:?}, the store holds {counts:?}"));
        }
    }
    let passes = |record: &u64| Stage::RUN.iter().all(|stage| fate(*stage, *record) == Fate::Output);
    let expected: Vec<u64> = (0..plan.partitioning.records).filter(passes).collect();
    let mut found = Vec::new();
    for shard in 0..SHARDS {
        let key = plan.dir(Stage::Shards).dataset(&format!("shard-{shard}.json"));
        found.extend(world.get(&key).as_deref().and_then(rows_in).unwrap_or_default());
    }
    found.sort_unstable();
    if found != expected {
        world.violated(format!("the shards hold {} records, {} were expected", found.len(), expected.len()));
    }
}

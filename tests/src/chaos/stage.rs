//! A round while it lives: parts that are played, faults that befall them, and what a process may end with.

use super::part::{self, Ended, Part};
use super::progress::Progress;
use super::schedule::{self, Blow, Fault, Kind, WORKERS};
use super::server::Server;
use super::{PLANTED, Setting, captions};
use crate::disk::Disk;
use crate::servers::{self, Described};
use crate::simulation::chance::Chance;
use crate::{Pipeline, Running};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

const STEP: Duration = Duration::from_millis(10);
/// Longest time without a new object while faults are left, and until the end when there are none.
const PATIENCE: Duration = Duration::from_secs(300);
/// A store that was away may end a run as long as its requests are tried again, and a little more.
const EXCUSE: Duration = Duration::from_secs(150);
/// Room for any run of a round, in bytes.
const DISK: u64 = 64 << 20;
/// Exit codes of a coordinator that is through, and of one whose run can go on.
const COMPLETE: i32 = 0;
const RESUMABLE: i32 = 4;
/// Exit codes of a worker: dismissed, to be tried again, asked to leave.
const WORKER: [i32; 3] = [0, 1, 4];

pub struct Stage {
    /// Where the store is, if it can be filled; unmounted before the pipeline's folder is removed.
    disk: Option<Disk>,
    /// When the full disk gets room again.
    disk_frees: Option<Instant>,
    pub pipeline: Pipeline,
    /// Settings beside the file, for every command.
    pub overrides: Vec<String>,
    coordinator: Part,
    workers: Vec<Part>,
    /// A coordinator that has taken the run over.
    rival: Option<Running>,
    server: Option<Server>,
    progress: Progress,
    schedule: VecDeque<Fault>,
    /// How often each fault fell.
    pub counted: BTreeMap<&'static str, u64>,
    /// What happened, in words.
    pub history: Vec<String>,
    pub started: Instant,
    /// Until then a run may end because of its store.
    excused: Option<Instant>,
}

impl Stage {
    pub fn set(setting: Setting, seed: u64) -> Self {
        let Setting { program, kind, faults, reference, planted } = setting;
        let chance = Chance::new(seed);
        let schedule = schedule::draw(&chance, kind, faults, reference.objects);
        let mut pipeline = pipeline(program, kind);
        if let Some(defect) = planted {
            pipeline.set(PLANTED, format!("{defect:?}"));
        }
        pipeline.write("captions.jsonl", &captions());
        let overrides = overrides(&chance);
        let address = free_address();
        let listen = format!("run.listen={address}");
        let coordinator = Part::new("coordinator", run_arguments(&overrides, &["run.launcher=external", &listen]));
        let worker = |number| {
            let name = format!("worker-{number}");
            let url = format!("http://{address}");
            let arguments = ["worker", "-v", "--coordinator", &url, "--name", &name].map(String::from);
            Part::new(name, arguments.into())
        };
        Stage {
            disk: (kind == Kind::Disk).then(|| Disk::mount(&pipeline.path().join("out"), DISK)),
            disk_frees: None,
            coordinator,
            workers: (1..=WORKERS).map(worker).collect(),
            rival: None,
            server: (kind == Kind::S3).then(Server::from_environment),
            progress: Progress::watch(&pipeline.url()),
            schedule: schedule.into(),
            counted: BTreeMap::new(),
            history: vec![format!("settings: {}", overrides.join(" "))],
            started: Instant::now(),
            excused: None,
            overrides,
            pipeline,
        }
    }

    /// Processes started beyond the first of each part.
    pub fn restarts(&self) -> u32 {
        self.coordinator.starts + self.workers.iter().map(|worker| worker.starts).sum::<u32>() - 1 - WORKERS as u32
    }

    /// Ends every process and leaves the folder with its logs.
    pub fn leave(mut self) -> PathBuf {
        self.calm();
        let Stage { disk, pipeline, .. } = self;
        if disk.is_some() {
            // What was on the disk ends with its namespace.
            let copied = Command::new("cp").arg("-a").args(["out", "out.kept"]).current_dir(pipeline.path()).status();
            assert!(copied.is_ok(), "the cp command runs");
        }
        drop(disk);
        pipeline.keep()
    }

    fn note(&mut self, text: impl fmt::Display) {
        self.history.push(format!("{:6.1} s, {} objects: {text}", self.started.elapsed().as_secs_f64(), self.progress.objects()));
    }

    /// Until a coordinator says that the run is complete.
    pub fn live(&mut self) -> Result<(), String> {
        let (mut at_last_fault, mut seen, mut since) = (0, 0, Instant::now());
        loop {
            let objects = self.progress.objects();
            // When nothing disturbs any more the run must end, not only move.
            if objects > seen && !self.schedule.is_empty() {
                (seen, since) = (objects, Instant::now());
            }
            if let Some(fault) = self.schedule.front().filter(|fault| objects >= at_last_fault + fault.after && self.can(fault.blow)) {
                let fault = fault.clone();
                self.schedule.pop_front();
                (at_last_fault, since) = (objects, Instant::now());
                self.befall(&fault);
            }
            if self.tick()? {
                self.calm();
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                return Err(format!("nothing new in the store and no end in {PATIENCE:?}"));
            }
            std::thread::sleep(STEP);
        }
    }

    /// Whether whom it befalls is there and well.
    fn can(&self, blow: Blow) -> bool {
        match blow {
            Blow::KillCoordinator | Blow::SleepCoordinator | Blow::EndCoordinator => self.coordinator.is_well(),
            Blow::Rival => self.coordinator.is_well() && self.rival.is_none(),
            Blow::KillWorker(n) | Blow::SleepWorker(n) | Blow::EndWorker(n) => self.workers[n].is_well(),
            Blow::KillServer | Blow::SleepServer | Blow::HangServer => self.server.as_ref().is_some_and(Server::is_well),
            Blow::FillDisk => self.disk_frees.is_none(),
            Blow::KillAll => true,
        }
    }

    fn befall(&mut self, fault: &Fault) {
        self.note(fault);
        *self.counted.entry(fault.blow.name()).or_default() += 1;
        match fault.blow {
            Blow::KillCoordinator => self.coordinator.kill(fault.lasts),
            Blow::KillWorker(n) => self.workers[n].kill(fault.lasts),
            Blow::SleepCoordinator => self.coordinator.sleep(fault.lasts),
            Blow::SleepWorker(n) => self.workers[n].sleep(fault.lasts),
            Blow::EndCoordinator => self.coordinator.end(),
            Blow::EndWorker(n) => self.workers[n].end(),
            Blow::Rival => {
                self.coordinator.sleep(fault.lasts);
                let arguments = run_arguments(&self.overrides, &["run.launcher=local", "run.workers=1"]);
                let log = format!("rival.{:02}", self.counted[fault.blow.name()]);
                self.rival = Some(part::start(&self.pipeline, &arguments, &log));
            }
            Blow::KillAll => {
                self.coordinator.kill(fault.lasts);
                self.workers.iter_mut().for_each(|worker| worker.kill(fault.lasts));
            }
            Blow::KillServer => self.disturb_server(|server| server.kill()),
            Blow::SleepServer | Blow::HangServer => self.disturb_server(|server| server.sleep(fault.lasts)),
            Blow::FillDisk => {
                self.disk.iter().for_each(Disk::fill);
                self.disk_frees = Some(Instant::now() + fault.lasts);
                self.excused = Some(Instant::now() + fault.lasts + EXCUSE);
            }
        }
    }

    fn disturb_server(&mut self, disturb: impl FnOnce(&mut Server)) {
        self.server.as_mut().map(disturb);
        self.excused = Some(Instant::now() + EXCUSE);
    }

    /// One look at everybody; true when the run is complete.
    fn tick(&mut self) -> Result<bool, String> {
        self.server.iter_mut().for_each(Server::tick);
        if self.disk_frees.is_some_and(|at| at <= Instant::now()) {
            self.free_disk();
        }
        let mut complete = false;
        if let Some(ended) = self.coordinator.tick(&self.pipeline)? {
            complete |= self.coordinator_ended("coordinator", ended)?;
        }
        if let Some(rival) = &mut self.rival
            && let Some(status) = rival.ended()
        {
            let ended = Ended { status, log: rival.log(), asked: false };
            self.rival = None;
            // The coordinator that it displaced finds out by itself that there is nothing left.
            self.coordinator_ended("rival", ended)?;
        }
        for n in 0..self.workers.len() {
            if let Some(ended) = self.workers[n].tick(&self.pipeline)? {
                let name = self.workers[n].name.clone();
                self.worker_ended(&name, &ended)?;
            }
        }
        Ok(complete)
    }

    /// True when the run is complete.
    fn coordinator_ended(&mut self, name: &str, ended: Ended) -> Result<bool, String> {
        let last = last_line(&ended.log);
        self.note(format_args!("{name} ended with {}: {last}", ended.status));
        let is_excused = || {
            let store_failed = self.excused.is_some_and(|until| Instant::now() < until) && last.contains("object store");
            ended.asked || store_failed || last.contains("another coordinator has taken the run over")
        };
        match ended.status.code() {
            Some(COMPLETE) => Ok(true),
            Some(RESUMABLE) if is_excused() => Ok(false),
            None if ended.too_early() => Ok(false),
            _ => Err(format!("the {name} ended with {} for no reason of ours: {last}", ended.status)),
        }
    }

    fn worker_ended(&mut self, name: &str, ended: &Ended) -> Result<(), String> {
        let last = last_line(&ended.log);
        self.note(format_args!("{name} ended with {}: {last}", ended.status));
        match ended.status.code() {
            Some(code) if WORKER.contains(&code) => Ok(()),
            None if ended.too_early() => Ok(()),
            _ => Err(format!("{name} ended with {} for no reason of ours: {last}", ended.status)),
        }
    }

    /// Nothing of ours writes any more, and the server is awake.
    fn calm(&mut self) {
        self.coordinator.kill(Duration::ZERO);
        self.workers.iter_mut().for_each(|worker| worker.kill(Duration::ZERO));
        self.rival = None;
        self.server.iter_mut().for_each(Server::wake);
        self.free_disk();
    }

    fn free_disk(&mut self) {
        if self.disk_frees.take().is_some() {
            self.disk.iter().for_each(Disk::free);
        }
    }
}

/// What the run says last, most often why it ended.
fn last_line(log: &str) -> String {
    log.trim_end().lines().last().unwrap_or_default().to_string()
}

fn pipeline(program: &Path, kind: Kind) -> Pipeline {
    let program = program.display().to_string();
    match kind {
        Kind::Local | Kind::Disk => Pipeline::new(&program),
        Kind::S3 => {
            let url = servers::urls().into_iter().find(|url| url.starts_with("s3://")).expect("a server, as tests/chaos/run.sh starts it");
            let described = Described::of(&url);
            Pipeline::on(&program, &format!("{url}/{}", servers::unique()), &described.options, described.hidden())
        }
    }
}

/// What must not change a byte of the dataset.
fn overrides(chance: &Chance) -> Vec<String> {
    let records = 1 + chance.below(4);
    let chunk = ["0s", "1s"][chance.below(2) as usize];
    let fuse = !chance.one_in(4);
    let lease = schedule::LEASE.as_secs();
    vec![
        format!("partition.records={records}"),
        format!("run.chunk={chunk}"),
        format!("stages.pairs.fuse={fuse}"),
        format!("run.lease={lease}s"),
        "run.retry.backoff=1s..4s".to_string(),
    ]
}

fn run_arguments(overrides: &[String], more: &[&str]) -> Vec<String> {
    let settings = overrides.iter().map(String::as_str).chain(more.iter().copied());
    let settings = settings.flat_map(|setting| ["--set", setting]);
    ["run", "pipeline.yaml", "-v"].into_iter().chain(settings).map(String::from).collect()
}

/// A port that no outgoing connection of this machine takes by chance, and no other round of this process while its
/// coordinator is dead: a coordinator comes back to it.
fn free_address() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 31_000 + std::process::id() as u16 % 1000;
    let next = |_| first + TAKEN.fetch_add(1, Ordering::Relaxed) % 700;
    let free = (0..700).map(next).map(|port| format!("127.0.0.1:{port}")).find(|address| TcpListener::bind(address).is_ok());
    free.expect("a free port")
}

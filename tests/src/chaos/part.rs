//! A part in a round, the coordinator's or a worker's, played by one process after another.

use crate::{Pipeline, Running, signal};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// The folder of logs in that of the run.
pub const LOGS: &str = "logs";
const TOKEN: &str = "chaos";
/// Time in which a process must end that was asked to.
const LEAVING: Duration = Duration::from_secs(200);

enum State {
    /// Nobody plays it before this moment.
    Due(Instant),
    Alive(Running),
    /// Stopped until this moment.
    Asleep(Running, Instant),
    /// Asked to end at this moment.
    Leaving(Running, Instant),
}

pub struct Part {
    pub name: String,
    /// What its processes are started with.
    arguments: Vec<String>,
    state: State,
    /// Processes that have played it.
    pub starts: u32,
}

/// A process that ended by itself.
pub struct Ended {
    pub status: ExitStatus,
    /// What it wrote to standard error.
    pub log: String,
    /// It had been asked to.
    pub asked: bool,
}

impl Ended {
    /// Asked to end before it listened, so that the signal ended it.
    pub fn too_early(&self) -> bool {
        const SIGTERM: i32 = 15;
        self.asked && self.status.signal() == Some(SIGTERM)
    }
}

impl Part {
    /// Its first process starts at the next [`Part::tick`].
    pub fn new(name: impl Into<String>, arguments: Vec<String>) -> Self {
        Part { name: name.into(), arguments, state: State::Due(Instant::now()), starts: 0 }
    }

    /// Whether a signal would meet a process that is well.
    pub fn is_well(&self) -> bool {
        matches!(self.state, State::Alive(_))
    }

    /// Starts and wakes who is due. Says how a process ended, once; the next then starts after a moment.
    pub fn tick(&mut self, pipeline: &Pipeline) -> Result<Option<Ended>, String> {
        /// Keeps a part whose processes end at once from spinning.
        const PAUSE: Duration = Duration::from_millis(500);
        let now = Instant::now();
        let state = std::mem::replace(&mut self.state, State::Due(now + PAUSE));
        let (mut running, asked) = match state {
            State::Due(at) if now < at => {
                self.state = State::Due(at);
                return Ok(None);
            }
            State::Due(_) => {
                self.starts += 1;
                (start(pipeline, &self.arguments, &format!("{}.{:02}", self.name, self.starts)), None)
            }
            State::Asleep(running, until) if now < until => {
                self.state = State::Asleep(running, until);
                return Ok(None);
            }
            State::Asleep(running, _) => {
                signal(running.id(), "CONT");
                (running, None)
            }
            State::Alive(running) => (running, None),
            State::Leaving(running, since) => (running, Some(since)),
        };
        if let Some(status) = running.ended() {
            return Ok(Some(Ended { status, log: running.log(), asked: asked.is_some() }));
        }
        self.state = match asked {
            None => State::Alive(running),
            Some(since) if since.elapsed() < LEAVING => State::Leaving(running, since),
            Some(since) => {
                self.state = State::Leaving(running, since);
                return Err(format!("{} was asked to end {LEAVING:?} ago and has not", self.name));
            }
        };
        Ok(None)
    }

    /// kill -9; the next process starts after `gone`.
    pub fn kill(&mut self, gone: Duration) {
        let next = State::Due(Instant::now() + gone);
        match std::mem::replace(&mut self.state, next) {
            State::Alive(mut running) | State::Asleep(mut running, _) | State::Leaving(mut running, _) => running.kill(),
            State::Due(_) => {}
        }
    }

    /// SIGSTOP now, SIGCONT later. Only who is well can fall asleep.
    pub fn sleep(&mut self, nap: Duration) {
        self.change(|running| {
            signal(running.id(), "STOP");
            State::Asleep(running, Instant::now() + nap)
        });
    }

    /// SIGTERM.
    pub fn end(&mut self) {
        self.change(|running| {
            signal(running.id(), "TERM");
            State::Leaving(running, Instant::now())
        });
    }

    fn change(&mut self, change: impl FnOnce(Running) -> State) {
        let state = std::mem::replace(&mut self.state, State::Due(Instant::now()));
        self.state = match state {
            State::Alive(running) => change(running),
            other => other,
        };
    }
}

/// The program in the background, with its log in the run's folder.
pub fn start(pipeline: &Pipeline, arguments: &[String], log: &str) -> Running {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command = pipeline.command(&arguments);
    command.env("IP2P_TOKEN", TOKEN).env("RAYON_NUM_THREADS", "1");
    let logs = pipeline.path().join(LOGS);
    std::fs::create_dir_all(&logs).expect("a folder for logs");
    Running::start_with_log(command, &logs.join(format!("{log}.log")))
}

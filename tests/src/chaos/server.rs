//! The S3 server that `tests/stores/serve.py` keeps: it starts a killed one again on the same data.

use crate::signal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The variable that names the file with the number of the server's process.
const PID_FILE: &str = "IP2P_TEST_S3_PID";

pub struct Server {
    pid: PathBuf,
    /// When it is woken, while it sleeps.
    wakes: Option<Instant>,
}

impl Server {
    pub fn from_environment() -> Self {
        let pid = std::env::var_os(PID_FILE).expect("the server's process, as tests/chaos/run.sh names it");
        Server { pid: pid.into(), wakes: None }
    }

    /// The process of this moment; none while it is being started again.
    fn process(&self) -> Option<u32> {
        std::fs::read_to_string(&self.pid).ok()?.trim().parse().ok()
    }

    /// Whether a signal would meet a process that is awake.
    pub fn is_well(&self) -> bool {
        self.wakes.is_none() && self.process().is_some()
    }

    /// kill -9.
    pub fn kill(&self) {
        self.signal("KILL");
    }

    /// SIGSTOP now, SIGCONT later.
    pub fn sleep(&mut self, nap: Duration) {
        self.signal("STOP");
        self.wakes = Some(Instant::now() + nap);
    }

    pub fn tick(&mut self) {
        if self.wakes.is_some_and(|at| at <= Instant::now()) {
            self.wake();
        }
    }

    pub fn wake(&mut self) {
        if self.wakes.take().is_some() {
            self.signal("CONT");
        }
    }

    fn signal(&self, name: &str) {
        if let Some(process) = self.process() {
            signal(process, name);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever comes next needs it.
        self.wake();
    }
}

//! Which faults a seed stands for: a pure function, so that a seed that found something can be tried again.

use crate::simulation::chance::Chance;
use std::fmt;
use std::time::Duration;

/// Workers of a round, beside the one coordinator.
pub const WORKERS: usize = 3;
/// Longer than any nap is short, shorter than any long one.
pub const LEASE: Duration = Duration::from_secs(2);

/// What holds the run, and what can be done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// A real S3 server, which can be killed and put to sleep.
    S3,
    /// A folder.
    Local,
    /// A small disk, which can be filled.
    Disk,
}

/// Whom or what a fault befalls. Workers are numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    KillCoordinator,
    KillWorker(usize),
    /// SIGSTOP, then SIGCONT.
    SleepCoordinator,
    SleepWorker(usize),
    /// SIGTERM.
    EndCoordinator,
    EndWorker(usize),
    /// A second coordinator takes the run over while the first sleeps; both are awake for a while.
    Rival,
    /// Every process of ours at once.
    KillAll,
    KillServer,
    SleepServer,
    /// It sleeps for longer than a request waits for an answer.
    HangServer,
    FillDisk,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// New objects in the store since the fault before.
    pub after: u64,
    pub blow: Blow,
    /// How long it lasts: a nap, or the time until what was killed is started again.
    pub lasts: Duration,
}

impl Blow {
    /// Its name in the count of a round's faults.
    pub fn name(self) -> &'static str {
        match self {
            Blow::KillCoordinator => "kill coordinator",
            Blow::KillWorker(_) => "kill worker",
            Blow::SleepCoordinator => "stop coordinator",
            Blow::SleepWorker(_) => "stop worker",
            Blow::EndCoordinator => "terminate coordinator",
            Blow::EndWorker(_) => "terminate worker",
            Blow::Rival => "rival",
            Blow::KillAll => "kill all",
            Blow::KillServer => "kill server",
            Blow::SleepServer => "stop server",
            Blow::HangServer => "hang server",
            Blow::FillDisk => "full disk",
        }
    }

    /// Shortest and longest time that it lasts, in milliseconds.
    fn lasts(self) -> (u64, u64) {
        let lease = LEASE.as_millis() as u64;
        match self {
            Blow::SleepCoordinator | Blow::SleepWorker(_) => (lease + 500, 3 * lease),
            Blow::Rival => (2 * lease, 4 * lease),
            Blow::SleepServer => (200, 4 * lease),
            Blow::HangServer => (31_000, 40_000),
            Blow::FillDisk => (500, 2 * lease),
            _ => (0, lease + 1000),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worker = match self.blow {
            Blow::KillWorker(n) | Blow::SleepWorker(n) | Blow::EndWorker(n) => format!(" {}", n + 1),
            _ => String::new(),
        };
        write!(f, "after {} objects: {}{worker} for {:.1} s", self.after, self.blow.name(), self.lasts.as_secs_f64())
    }
}

/// The faults of one seed, at most `faults`; a run that nobody disturbs makes `objects`.
pub fn draw(chance: &Chance, kind: Kind, faults: u64, objects: u64) -> Vec<Fault> {
    let longest = (objects / faults.max(1)).max(2);
    let one = |_| {
        let worker = chance.below(WORKERS as u64) as usize;
        let blow = match chance.below(if kind == Kind::Local { 12 } else { 16 }) {
            0 | 1 => Blow::KillCoordinator,
            2 | 3 => Blow::KillWorker(worker),
            4 => Blow::SleepCoordinator,
            5 | 6 => Blow::SleepWorker(worker),
            7 => Blow::EndCoordinator,
            8 | 9 => Blow::EndWorker(worker),
            10 => Blow::Rival,
            11 => Blow::KillAll,
            12 | 13 if kind == Kind::S3 => Blow::KillServer,
            14 if kind == Kind::S3 => Blow::SleepServer,
            _ if kind == Kind::S3 => Blow::HangServer,
            _ => Blow::FillDisk,
        };
        let (shortest, longest_lasting) = blow.lasts();
        // Faults that fall together are as likely as those that a run has got over.
        let after = if chance.one_in(3) { 0 } else { 1 + chance.below(longest) };
        Fault { after, blow, lasts: chance.millis(shortest..longest_lasting) }
    };
    (0..faults).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn drawn(seed: u64, kind: Kind) -> Vec<Fault> {
        draw(&Chance::new(seed), kind, 8, 100)
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(drawn(3, Kind::S3), drawn(3, Kind::S3));
        assert_ne!(drawn(3, Kind::S3), drawn(4, Kind::S3));
    }

    #[test]
    fn every_blow_is_drawn_where_it_can_fall() {
        let names = |kind| -> BTreeSet<&str> { (0..100).flat_map(|seed| drawn(seed, kind)).map(|fault| fault.blow.name()).collect() };
        let [s3, local, disk] = [Kind::S3, Kind::Local, Kind::Disk].map(names);
        assert_eq!((s3.len(), local.len(), disk.len()), (11, 8, 9));
        assert!(s3.contains("kill server") && !s3.contains("full disk") && disk.contains("full disk"));
        assert!(local.iter().all(|name| s3.contains(name) && disk.contains(name)));
    }

    #[test]
    fn who_sleeps_sleeps_past_the_lease() {
        let sleeps = |blow| matches!(blow, Blow::SleepWorker(_) | Blow::SleepCoordinator | Blow::Rival);
        for fault in (0..100).flat_map(|seed| drawn(seed, Kind::S3)).filter(|fault| sleeps(fault.blow)) {
            assert!(fault.lasts > LEASE, "{fault}");
        }
    }
}

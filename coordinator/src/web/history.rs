//! What happened since the coordinator started, as much of it as is worth keeping. Everything is bounded.

use crate::scheduler::Notice;
use crate::text::{count, duration};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::task::{Assignment, Cause, Finished};
use std::collections::{BTreeMap, VecDeque};

/// Events kept.
const EVENTS: usize = 2000;
/// Partitions whose last error is kept.
const ERRORS: usize = 10_000;
/// Workers that are gone and still shown.
const GONE: usize = 200;
/// Slowest partitions kept of each stage.
const SLOWEST: usize = 10;
/// Partitions with quarantined records kept of each stage.
const QUARANTINED: usize = 20;
/// Points of the yield over time; when there are twice as many, neighbours are merged.
const POINTS: usize = 300;
/// Characters of a message that are kept.
const LENGTH: usize = 2000;

/// What a coordinator remembers of its run.
#[derive(Debug, Default)]
pub struct History {
    events: VecDeque<Happened>,
    /// The last error of partitions that failed, with the time it was seen.
    errors: BTreeMap<(Stage, u32), Happened>,
    causes: BTreeMap<&'static str, u64>,
    gone: VecDeque<Gone>,
    slowest: BTreeMap<Stage, Vec<Slow>>,
    /// Some partitions with records in quarantine.
    quarantined: BTreeMap<Stage, Vec<u32>>,
    /// Of `filter`.
    yields: Vec<Yield>,
    totals: Totals,
}

/// Numbers since the coordinator started.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Leases granted.
    pub leases: u64,
    /// Leases that ended without a report.
    pub lost: u64,
    /// Partitions committed.
    pub commits: BTreeMap<Stage, u64>,
    /// Workers that left or were lost.
    pub gone: u64,
}

/// Something that happened to an attempt.
#[derive(Clone, Debug, PartialEq)]
pub struct Happened {
    /// Seconds since 1970.
    pub at: f64,
    pub stage: Stage,
    pub partition: u32,
    pub epoch: u64,
    pub worker: Option<String>,
    pub what: What,
    /// The error, or why.
    pub message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Committed,
    Mended,
    Failed(Cause),
    GaveUp(Cause),
    LeaseLost,
    SecondAttempt,
    Outrun,
}

impl What {
    pub fn words(self) -> String {
        match self {
            What::Committed => "committed".to_string(),
            What::Mended => "damaged objects made again".to_string(),
            What::Failed(cause) => format!("failed: {}", cause.name()),
            What::GaveUp(cause) => format!("given up: {}", cause.name()),
            What::LeaseLost => "lease lost".to_string(),
            What::SecondAttempt => "second attempt began".to_string(),
            What::Outrun => "another attempt was first".to_string(),
        }
    }

    pub fn is_failure(self) -> bool {
        matches!(self, What::Failed(_) | What::GaveUp(_) | What::LeaseLost)
    }
}

/// A worker that left or was lost.
#[derive(Clone, Debug, PartialEq)]
pub struct Gone {
    pub at: f64,
    pub worker: String,
    pub device: String,
    pub why: String,
    /// Units that it made.
    pub units: u64,
}

/// A committed partition and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slow {
    pub stage: Stage,
    pub partition: u32,
    pub seconds: f64,
    pub units: u64,
}

/// Candidates judged and kept around one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Yield {
    pub at: f64,
    pub judged: u64,
    pub kept: u64,
}

impl History {
    /// Takes in what the scheduler told, at `at` seconds since 1970.
    pub fn note(&mut self, notice: &Notice, at: f64) {
        let happened = |assignment: &Assignment, worker: Option<&String>, what, message: &str| Happened {
            at,
            stage: assignment.stage,
            partition: assignment.partition,
            epoch: assignment.epoch,
            worker: worker.cloned(),
            what,
            message: cut(message),
        };
        let event = match notice {
            Notice::Committed { assignment, finished } => {
                *self.totals.commits.entry(assignment.stage).or_default() += 1;
                self.errors.remove(&(assignment.stage, assignment.partition));
                self.took(assignment.stage, assignment.partition, finished);
                if assignment.stage == Stage::Filter {
                    self.yielded(&finished.counts, at);
                }
                happened(assignment, None, What::Committed, &made(finished))
            }
            Notice::Retrying { assignment, cause, message, .. } => {
                *self.causes.entry(cause.name()).or_default() += 1;
                happened(assignment, None, What::Failed(*cause), message)
            }
            Notice::GaveUp { assignment, cause, message } => {
                *self.causes.entry(cause.name()).or_default() += 1;
                happened(assignment, None, What::GaveUp(*cause), message)
            }
            Notice::Mending { assignment, maker: (stage, partition), message } => {
                let cause = Cause::Damaged { stage: *stage, partition: *partition };
                *self.causes.entry(cause.name()).or_default() += 1;
                happened(assignment, None, What::Failed(cause), message)
            }
            Notice::Mended { assignment } => {
                self.errors.remove(&(assignment.stage, assignment.partition));
                happened(assignment, None, What::Mended, "")
            }
            Notice::LeaseLost { worker, assignment, why } => {
                self.totals.lost += 1;
                happened(assignment, Some(worker), What::LeaseLost, why)
            }
            Notice::Straggling { slow, assignment, worker } => {
                happened(assignment, Some(worker), What::SecondAttempt, &format!("{} takes too long", slow.worker))
            }
            Notice::Outrun { worker, assignment, units } => {
                happened(assignment, Some(worker), What::Outrun, &format!("{units} units were made for nothing"))
            }
        };
        if event.what.is_failure() {
            self.errors.insert((event.stage, event.partition), event.clone());
            if self.errors.len() > ERRORS {
                let oldest = self.errors.iter().min_by(|a, b| a.1.at.total_cmp(&b.1.at)).map(|(key, _)| *key);
                oldest.map(|key| self.errors.remove(&key));
            }
        }
        push(&mut self.events, event, EVENTS);
    }

    /// Remembers how long a committed partition took, and whether it has records in quarantine.
    pub fn took(&mut self, stage: Stage, partition: u32, finished: &Finished) {
        if finished.counts.quarantined > 0 {
            let quarantined = self.quarantined.entry(stage).or_default();
            if quarantined.len() < QUARANTINED {
                quarantined.push(partition);
            }
        }
        let slowest = self.slowest.entry(stage).or_default();
        let place = slowest.partition_point(|other| other.seconds >= finished.seconds);
        if place < SLOWEST {
            slowest.insert(place, Slow { stage, partition, seconds: finished.seconds, units: finished.counts.expected });
            slowest.truncate(SLOWEST);
        }
    }

    /// Takes in what the filter kept of a partition.
    pub fn yielded(&mut self, counts: &Counts, at: f64) {
        if counts.expected > 0 {
            self.yields.push(Yield { at, judged: counts.expected, kept: counts.output });
        }
        if self.yields.len() >= 2 * POINTS {
            self.yields = merged(&self.yields, POINTS);
        }
    }

    pub fn granted(&mut self) {
        self.totals.leases += 1;
    }

    pub fn gone(&mut self, gone: Gone) {
        self.totals.gone += 1;
        push(&mut self.gone, Gone { why: cut(&gone.why), ..gone }, GONE);
    }

    /// The latest first.
    pub fn events(&self) -> impl Iterator<Item = &Happened> {
        self.events.iter().rev()
    }

    pub fn last_error(&self, stage: Stage, partition: u32) -> Option<&Happened> {
        self.errors.get(&(stage, partition))
    }

    /// Partitions that failed and were not committed since, the latest failure first.
    pub fn failing(&self) -> Vec<&Happened> {
        let mut failing: Vec<&Happened> = self.errors.values().collect();
        failing.sort_by(|a, b| b.at.total_cmp(&a.at));
        failing
    }

    /// Failed attempts by cause.
    pub fn causes(&self) -> &BTreeMap<&'static str, u64> {
        &self.causes
    }

    /// The latest first.
    pub fn gone_workers(&self) -> impl Iterator<Item = &Gone> {
        self.gone.iter().rev()
    }

    /// The slowest partitions of a stage, the slowest first.
    pub fn slowest(&self, stage: Stage) -> &[Slow] {
        self.slowest.get(&stage).map_or(&[], Vec::as_slice)
    }

    /// Some partitions with records in quarantine.
    pub fn quarantined(&self) -> &BTreeMap<Stage, Vec<u32>> {
        &self.quarantined
    }

    pub fn yields(&self) -> &[Yield] {
        &self.yields
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }
}

/// What a commit holds, in words.
fn made(finished: &Finished) -> String {
    let counts = &finished.counts;
    let quarantined = if counts.quarantined > 0 { format!(", {} in quarantine", count(counts.quarantined)) } else { String::new() };
    format!("{} of {}{quarantined}, {} of work", count(counts.output), count(counts.expected), duration(finished.seconds))
}

/// Neighbours summed up until at most `most` are left.
pub fn merged(yields: &[Yield], most: usize) -> Vec<Yield> {
    let each = yields.len().div_ceil(most.max(1)).max(1);
    let sum = |some: &[Yield]| {
        let at = some.last().map_or(0.0, |last| last.at);
        Yield { at, judged: some.iter().map(|y| y.judged).sum(), kept: some.iter().map(|y| y.kept).sum() }
    };
    yields.chunks(each).map(sum).collect()
}

fn push<T>(queue: &mut VecDeque<T>, item: T, most: usize) {
    queue.push_back(item);
    if queue.len() > most {
        queue.pop_front();
    }
}

fn cut(text: &str) -> String {
    text.chars().take(LENGTH).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(partition: u32) -> Assignment {
        Assignment { stage: Stage::Filter, partition, epoch: 7, failures: 0 }
    }

    fn committed(partition: u32, seconds: f64) -> Notice {
        let counts = Counts { expected: 10, output: 3, ..Counts::default() };
        Notice::Committed { assignment: assignment(partition), finished: Finished { counts, seconds, figures: BTreeMap::new() } }
    }

    fn retrying(partition: u32, message: &str) -> Notice {
        let message = message.to_string();
        Notice::Retrying { assignment: assignment(partition), cause: Cause::Transient, message, delay: std::time::Duration::ZERO }
    }

    #[test]
    fn a_commit_forgives_an_earlier_failure() {
        let mut history = History::default();
        history.note(&retrying(3, "no route"), 1.0);
        assert_eq!(history.last_error(Stage::Filter, 3).unwrap().message, "no route");
        history.note(&committed(3, 2.0), 2.0);
        assert_eq!(history.last_error(Stage::Filter, 3), None);
        assert_eq!(history.causes()["transient"], 1, "it stays counted");
        assert_eq!(history.events().map(|event| event.what).collect::<Vec<_>>(), [What::Committed, What::Failed(Cause::Transient)]);
    }

    #[test]
    fn memory_is_bounded_and_no_candidate_is_lost_from_the_yield() {
        let mut history = History::default();
        for partition in 0..20_000 {
            history.note(&retrying(partition, &"x".repeat(5000)), f64::from(partition));
            history.note(&committed(partition + 50_000, f64::from(partition)), f64::from(partition));
            history.gone(Gone { at: 0.0, worker: "w".to_string(), device: String::new(), why: String::new(), units: 0 });
        }
        assert_eq!((history.events.len(), history.errors.len(), history.gone.len()), (EVENTS, ERRORS, GONE));
        assert!(history.yields().len() < 2 * POINTS);
        assert_eq!(history.yields().iter().map(|y| y.judged).sum::<u64>(), 200_000);
        let slowest: Vec<f64> = history.slowest(Stage::Filter).iter().map(|slow| slow.seconds).collect();
        assert_eq!((slowest[0], slowest.len()), (19_999.0, SLOWEST));
        assert_eq!(history.failing()[0].partition, 19_999);
        assert_eq!(history.events().next().unwrap().message, "3 of 10, 5 h 33 m of work");
        assert_eq!(history.failing()[0].message.len(), LENGTH);
    }
}

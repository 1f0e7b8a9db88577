//! The partitions of one stage, and which of them can be given out.

use super::pace::Pace;
use super::partition::{Cell, Lease, PartitionState, Tries, backoff};
use super::{Moment, Notice, Policy};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished};
use std::collections::{BTreeMap, BTreeSet};

/// What the store already holds of one stage when a coordinator starts.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub stage: Stage,
    /// Number of partitions; 0 for `shards` until the index says it.
    pub partitions: u32,
    pub committed: Vec<(u32, Finished)>,
    /// The input of all partitions is there from the start (true for `prompts`).
    pub unblocked: bool,
}

/// One stage: a state per partition and indexes over them.
#[derive(Debug)]
pub struct StageState {
    stage: Stage,
    partitions: Vec<PartitionState>,
    /// The same states as they are drawn.
    cells: Vec<Cell>,
    /// How often `cells` has changed.
    changes: u64,
    /// Exactly the partitions in state `Ready`.
    ready: BTreeSet<u32>,
    /// Exactly the partitions in state `Waiting`, by time.
    waiting: BTreeSet<(Moment, u32)>,
    /// Committed partitions that are given out once more, because an object of theirs is damaged: they are counted already.
    reopened: BTreeSet<u32>,
    /// Exactly the partitions that one attempt alone works on, by the time it began.
    alone: BTreeSet<(Moment, u32)>,
    pace: Pace,
    /// Units that attempts made for nothing, because another was first.
    wasted_units: u64,
    committed: u32,
    sized: bool,
    counts: Counts,
    seconds: f64,
    figures: BTreeMap<String, f64>,
}

impl StageState {
    pub(super) fn recover(from: Recovered) -> Self {
        let mut stage = StageState {
            stage: from.stage,
            partitions: vec![PartitionState::Blocked; from.partitions as usize],
            cells: vec![Cell::Blocked; from.partitions as usize],
            changes: 0,
            ready: BTreeSet::new(),
            waiting: BTreeSet::new(),
            reopened: BTreeSet::new(),
            alone: BTreeSet::new(),
            pace: Pace::default(),
            wasted_units: 0,
            committed: 0,
            sized: from.stage != Stage::Shards,
            counts: Counts::default(),
            seconds: 0.0,
            figures: BTreeMap::new(),
        };
        for (partition, finished) in &from.committed {
            // How many shards there are, the index says when it is counted: shards of another index come to nothing.
            if stage.knows(*partition) {
                stage.commit(*partition, finished);
            }
        }
        if from.unblocked {
            (0..from.partitions).for_each(|partition| stage.unblock(partition));
        }
        stage
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Number of partitions known so far.
    pub fn len(&self) -> u32 {
        self.partitions.len() as u32
    }

    pub fn is_empty(&self) -> bool {
        self.partitions.is_empty()
    }

    pub fn committed(&self) -> u32 {
        self.committed
    }

    /// Where the records of the committed partitions went.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Seconds of work in the committed partitions.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    pub fn figures(&self) -> &BTreeMap<String, f64> {
        &self.figures
    }

    /// Units that attempts made for nothing, because another was first.
    pub fn wasted_units(&self) -> u64 {
        self.wasted_units
    }

    pub(super) fn waste(&mut self, units: u64) {
        self.wasted_units += units;
    }

    pub fn state(&self, partition: u32) -> &PartitionState {
        self.partitions.get(partition as usize).unwrap_or(&PartitionState::Blocked)
    }

    /// A byte per partition, and how often they have changed.
    pub fn cells(&self) -> (&[Cell], u64) {
        (&self.cells, self.changes)
    }

    pub(super) fn knows(&self, partition: u32) -> bool {
        (partition as usize) < self.partitions.len()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn complete(&self) -> bool {
        self.sized && self.committed == self.len()
    }

    /// Whether something is ready or will be, without any further commit.
    pub(super) fn can_progress(&self) -> bool {
        !self.ready.is_empty() || !self.waiting.is_empty()
    }

    pub(super) fn committed_partitions(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.partitions).filter(|(_, state)| **state == PartitionState::Committed).map(|(partition, _)| partition)
    }

    /// Partitions that can be worked on now, or are: everything before them is committed, and they are not given up.
    pub fn open_partitions(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.partitions).filter_map(|(partition, state)| match state {
            PartitionState::Ready { .. } | PartitionState::Waiting { .. } | PartitionState::Leased { .. } => Some(partition),
            PartitionState::Blocked | PartitionState::Committed | PartitionState::Failed { .. } => None,
        })
    }

    pub(super) fn failures(&self) -> impl Iterator<Item = (Stage, u32, String)> + '_ {
        (0u32..).zip(&self.partitions).filter_map(|(partition, state)| match state {
            PartitionState::Failed { message } => Some((self.stage, partition, message.to_string())),
            PartitionState::Blocked
            | PartitionState::Ready { .. }
            | PartitionState::Waiting { .. }
            | PartitionState::Leased { .. }
            | PartitionState::Committed => None,
        })
    }

    /// Moves a partition to `state`; the only place that touches the indexes.
    fn set(&mut self, partition: u32, state: PartitionState) {
        let Some(slot) = self.partitions.get_mut(partition as usize) else { return };
        match slot {
            PartitionState::Ready { .. } => drop(self.ready.remove(&partition)),
            PartitionState::Waiting { until, .. } => drop(self.waiting.remove(&(*until, partition))),
            PartitionState::Leased { lease, rival: None, .. } => drop(self.alone.remove(&(lease.since, partition))),
            PartitionState::Committed => self.committed -= 1,
            PartitionState::Blocked | PartitionState::Leased { rival: Some(_), .. } | PartitionState::Failed { .. } => {}
        }
        match &state {
            PartitionState::Ready { .. } => drop(self.ready.insert(partition)),
            PartitionState::Waiting { until, .. } => drop(self.waiting.insert((*until, partition))),
            PartitionState::Leased { lease, rival: None, .. } => drop(self.alone.insert((lease.since, partition))),
            PartitionState::Committed => self.committed += 1,
            PartitionState::Blocked | PartitionState::Leased { rival: Some(_), .. } | PartitionState::Failed { .. } => {}
        }
        self.cells[partition as usize] = state.cell();
        self.changes += 1;
        *slot = state;
    }

    pub(super) fn unblock(&mut self, partition: u32) {
        if *self.state(partition) == PartitionState::Blocked {
            self.set(partition, PartitionState::Ready { tries: Tries::default() });
        }
    }

    /// Sets the number of partitions, all of them ready.
    pub(super) fn resize(&mut self, partitions: u32) {
        self.resize_to(partitions);
        self.sized = true;
        (0..partitions).for_each(|partition| self.unblock(partition));
    }

    fn resize_to(&mut self, partitions: u32) {
        if partitions > self.len() {
            self.partitions.resize(partitions as usize, PartitionState::Blocked);
            self.cells.resize(partitions as usize, Cell::Blocked);
            self.changes += 1;
        }
    }

    /// Makes partitions ready whose back-off has ended.
    pub(super) fn wake(&mut self, now: Moment) {
        while let Some(&(until, partition)) = self.waiting.first() {
            if until > now {
                return;
            }
            let PartitionState::Waiting { tries, .. } = *self.state(partition) else { return };
            self.set(partition, PartitionState::Ready { tries });
        }
    }

    /// Gives a committed partition out once more. False when it is not committed, so somebody is at it already.
    pub(super) fn reopen(&mut self, partition: u32) -> bool {
        let committed = *self.state(partition) == PartitionState::Committed;
        if committed {
            self.reopened.insert(partition);
            self.set(partition, PartitionState::Ready { tries: Tries::default() });
        }
        committed
    }

    /// Whether a success that nobody here holds a lease for can be a fact. Not while the input is missing; and of one that
    /// was reopened, which is committed already, it says nothing about the damaged objects.
    pub(super) fn may_be_done(&self, partition: u32) -> bool {
        self.knows(partition) && *self.state(partition) != PartitionState::Blocked && !self.reopened.contains(&partition)
    }

    /// Ends an attempt that cannot go on before its input is mended. False when another attempt is still at work.
    pub(super) fn set_aside(&mut self, partition: u32, epoch: u64) -> bool {
        let PartitionState::Leased { tries, lease, rival } = self.state(partition).clone() else { return true };
        match std::iter::once(lease).chain(rival).find(|lease| lease.epoch != epoch) {
            Some(lease) => self.set(partition, PartitionState::Leased { tries, lease, rival: None }),
            None => self.set(partition, PartitionState::Blocked),
        }
        *self.state(partition) == PartitionState::Blocked
    }

    /// Takes an attempt back that never began.
    pub(super) fn take_back(&mut self, partition: u32, epoch: u64) {
        let PartitionState::Leased { tries, lease, rival } = self.state(partition).clone() else { return };
        match std::iter::once(lease).chain(rival).find(|lease| lease.epoch != epoch) {
            Some(lease) => self.set(partition, PartitionState::Leased { tries, lease, rival: None }),
            None => self.set(partition, PartitionState::Ready { tries }),
        }
    }

    /// Leases the first ready partition.
    pub(super) fn lease_next(&mut self, lease: Lease) -> Option<Assignment> {
        self.lease(*self.ready.first()?, lease)
    }

    /// Leases this partition if it is ready.
    pub(super) fn lease(&mut self, partition: u32, lease: Lease) -> Option<Assignment> {
        let PartitionState::Ready { tries } = *self.state(partition) else { return None };
        let assignment = Assignment { stage: self.stage, partition, epoch: lease.epoch, failures: tries.failures };
        self.set(partition, PartitionState::Leased { tries, lease: Box::new(lease), rival: None });
        Some(assignment)
    }

    /// The partition whose only attempt has been at work for longest, when that is far longer than others took.
    pub(super) fn straggler(&self, now: Moment) -> Option<u32> {
        let &(since, partition) = self.alone.first()?;
        self.pace.slow().is_some_and(|slow| now.saturating_sub(since) > slow).then_some(partition)
    }

    /// Lets a second attempt begin beside the first.
    pub(super) fn lease_beside(&mut self, partition: u32, second: Lease) -> Option<Assignment> {
        let PartitionState::Leased { tries, lease, rival: None } = self.state(partition).clone() else { return None };
        let assignment = Assignment { stage: self.stage, partition, epoch: second.epoch, failures: tries.failures };
        self.set(partition, PartitionState::Leased { tries, lease, rival: Some(Box::new(second)) });
        Some(assignment)
    }

    /// The attempts at work on a partition.
    pub(super) fn leases(&self, partition: u32) -> Vec<Lease> {
        match self.state(partition) {
            PartitionState::Leased { lease, rival, .. } => std::iter::once(lease).chain(rival).map(|lease| (**lease).clone()).collect(),
            PartitionState::Blocked
            | PartitionState::Ready { .. }
            | PartitionState::Waiting { .. }
            | PartitionState::Committed
            | PartitionState::Failed { .. } => Vec::new(),
        }
    }

    /// Remembers how long the attempt of `epoch` took until now.
    pub(super) fn record_pace(&mut self, partition: u32, epoch: u64, now: Moment) {
        if let Some(lease) = self.leases(partition).into_iter().find(|lease| lease.epoch == epoch) {
            self.pace.record(now.saturating_sub(lease.since));
        }
    }

    /// False when it was committed before and only mended since: then it is counted already.
    pub(super) fn commit(&mut self, partition: u32, finished: &Finished) -> bool {
        self.set(partition, PartitionState::Committed);
        if self.reopened.remove(&partition) {
            return false;
        }
        self.counts.add(&finished.counts);
        self.seconds += finished.seconds;
        for (name, value) in &finished.figures {
            *self.figures.entry(name.clone()).or_default() += value;
        }
        true
    }

    /// Ends an attempt without a commit: retry later, or give the partition up.
    pub(super) fn fail(&mut self, assignment: Assignment, failure: Failure, now: Moment, policy: &Policy) -> Notice {
        let Assignment { partition, epoch, .. } = assignment;
        let (mut tries, other) = match self.state(partition).clone() {
            PartitionState::Leased { tries, lease, rival } => {
                let other = std::iter::once(lease).chain(rival).find(|lease| lease.epoch != epoch);
                (tries, other)
            }
            PartitionState::Ready { tries } | PartitionState::Waiting { tries, .. } => (tries, None),
            PartitionState::Blocked | PartitionState::Committed | PartitionState::Failed { .. } => (Tries::default(), None),
        };
        let Failure { cause, message } = failure;
        // A store without room, like a preemption, says nothing against the partition.
        let sound = matches!(cause, Cause::Preempted | Cause::StoreFull);
        let (count, cap) = if sound { (&mut tries.preemptions, policy.preemptions) } else { (&mut tries.failures, policy.attempts) };
        *count += 1;
        let spent = *count >= cap;
        let retrying = |delay| Notice::Retrying { assignment, cause, message: message.clone(), delay };
        // Whatever happened to this attempt, the other may still commit.
        if let Some(mut lease) = other {
            // Its clock starts anew, or rivals that fail at once would follow each other without a pause.
            lease.since = now;
            self.set(partition, PartitionState::Leased { tries, lease, rival: None });
            return retrying(Moment::ZERO);
        }
        if spent || cause == Cause::BadInput {
            self.set(partition, PartitionState::Failed { message: message.as_str().into() });
            return Notice::GaveUp { assignment, cause, message };
        }
        // Another worker may take a sound partition at once.
        if sound {
            self.set(partition, PartitionState::Ready { tries });
            return retrying(Moment::ZERO);
        }
        let delay = backoff(tries.failures, partition, epoch, policy.backoff_min, policy.backoff_max);
        self.set(partition, PartitionState::Waiting { tries, until: now + delay });
        retrying(delay)
    }
}

//! The driver's side of the page: a picture each second, and what happened as it happens.

use super::history::{Gone, History};
use super::snapshot::{Cells, Remaining, Snapshot, StageNow, WorkerNow, states};
use super::unix_now;
use crate::driver::{View, WorkerView};
use crate::progress::rate::Meter;
use crate::progress::words::{partitions_done, units_done};
use crate::scheduler::{Cell, Event, Notice, Recovered, Scheduler, StageState, UNDELIVERED};
use ip2p_pipeline::task::Progress;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Time between two pictures.
const EVERY: Duration = Duration::from_secs(1);

/// Draws the run for those who look at its page. It never waits.
pub struct Screen {
    snapshots: watch::Sender<Arc<Snapshot>>,
    history: Arc<Mutex<History>>,
    due: Duration,
    meters: Vec<Meter>,
    cells: Vec<(Cells, [u32; 7])>,
    workers: BTreeMap<String, Known>,
    /// Why workers leave, until they are seen to be gone.
    leaving: BTreeMap<String, String>,
}

/// A worker as it was at the last picture.
#[derive(Default)]
struct Known {
    device: String,
    meter: Meter,
    /// Units of attempts that ended.
    before: u64,
    last: Option<Progress>,
}

/// A screen, and what it shows.
pub fn screen() -> (Screen, watch::Receiver<Arc<Snapshot>>, Arc<Mutex<History>>) {
    let (snapshots, receiver) = watch::channel(Arc::new(Snapshot { live: true, ..Snapshot::default() }));
    let history = Arc::new(Mutex::new(History::default()));
    let screen = Screen {
        snapshots,
        history: history.clone(),
        due: Duration::ZERO,
        meters: Vec::new(),
        cells: Vec::new(),
        workers: BTreeMap::new(),
        leaving: BTreeMap::new(),
    };
    (screen, receiver, history)
}

/// Whoever panicked while writing left at worst a torn note.
pub(super) fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Screen {
    /// Before the scheduler hears of it.
    pub fn event(&mut self, event: &Event) {
        match event {
            Event::Left { worker, why } => drop(self.leaving.insert(worker.clone(), why.clone())),
            Event::Unfit { worker, failure } => drop(self.leaving.insert(worker.clone(), failure.message.clone())),
            Event::Undelivered { worker, .. } => drop(self.leaving.insert(worker.clone(), UNDELIVERED.to_string())),
            Event::Joined { .. }
            | Event::WantsWork { .. }
            | Event::Beat { .. }
            | Event::Reported { .. }
            | Event::Drain { .. }
            | Event::Tick => {}
        }
    }

    pub fn granted(&mut self) {
        lock(&self.history).granted();
    }

    pub fn notice(&mut self, notice: &Notice) {
        if let Notice::LeaseLost { worker, why, .. } = notice {
            self.leaving.entry(worker.clone()).or_insert_with(|| why.clone());
        }
        lock(&self.history).note(notice, unix_now());
    }

    /// Publishes a picture, when the last one is old or `must` says so. `now` is the driver's clock.
    pub fn paint(&mut self, scheduler: &Scheduler, view: &View, now: Duration, must: bool) {
        if now < self.due && !must {
            return;
        }
        self.due = now + EVERY;
        self.gone(&view.workers);
        let stages = scheduler.stages();
        self.meters.resize_with(stages.len(), Meter::default);
        self.cells.resize_with(stages.len(), Default::default);
        let stages: Vec<StageNow> = (0..stages.len()).filter_map(|number| self.stage(number, &stages[number], view, now)).collect();
        let workers = view.workers.iter().map(|worker| self.worker(worker, now)).collect();
        let complete = stages.iter().all(StageNow::complete);
        self.snapshots.send_replace(Arc::new(Snapshot { live: true, complete, stopping: view.stopping.clone(), stages, workers }));
    }

    fn stage(&mut self, number: usize, state: &StageState, view: &View, now: Duration) -> Option<StageNow> {
        let view = view.stages.get(number)?.clone();
        let meter = &mut self.meters[number];
        meter.record(now, units_done(&view), partitions_done(&view));
        let (cells, version) = state.cells();
        let drawn = &mut self.cells[number];
        if drawn.0.version != version || drawn.0.digits.is_empty() {
            *drawn = (Cells::of(cells, version), states(cells));
        }
        let remaining = meter.remaining(view.partitions).map(|likely| Remaining { likely, between: meter.interval(view.partitions) });
        Some(StageNow {
            sized: view.partitions > 0,
            rate: meter.rate().filter(|_| view.committed < view.partitions),
            remaining,
            seconds: state.seconds(),
            figures: state.figures().clone(),
            wasted: state.wasted_units(),
            cells: drawn.0.clone(),
            states: drawn.1,
            view,
        })
    }

    fn worker(&mut self, worker: &WorkerView, now: Duration) -> WorkerNow {
        let known = self.workers.entry(worker.name.clone()).or_default();
        known.device.clone_from(&worker.device);
        if known.last.map(|last| last.assignment) != worker.progress.map(|progress| progress.assignment) {
            known.before += known.last.map_or(0, |last| last.units);
        }
        known.last = worker.progress;
        known.meter.record(now, known.units(), 0.0);
        WorkerNow { view: worker.clone(), rate: known.meter.rate() }
    }

    /// Workers that were there at the last picture and are not now.
    fn gone(&mut self, workers: &[WorkerView]) {
        // They come by name.
        let here = |name: &str| workers.binary_search_by(|worker| worker.name.as_str().cmp(name)).is_ok();
        let gone: Vec<(String, Known)> = self.workers.extract_if(.., |name, _| !here(name)).collect();
        for (worker, known) in gone {
            let why = self.leaving.remove(&worker).unwrap_or_else(|| "it left".to_string());
            let units = known.units();
            lock(&self.history).gone(Gone { at: unix_now(), worker, device: known.device, why, units });
        }
        self.leaving.retain(|name, _| here(name));
    }

    /// What was committed before this coordinator started counts among the slowest.
    pub fn recovered(&self, recovered: &[Recovered]) {
        let mut history = lock(&self.history);
        for stage in recovered {
            for (partition, finished) in &stage.committed {
                history.took(stage.stage, *partition, finished);
            }
        }
    }
}

impl Known {
    fn units(&self) -> u64 {
        self.before + self.last.map_or(0, |last| last.units)
    }
}

/// The state of one partition as `cells` draws it.
pub(super) fn state_of(stage: &StageNow, partition: u32) -> Option<Cell> {
    let digit = stage.cells.digits.as_bytes().get((partition / stage.cells.each.max(1)) as usize)?;
    super::snapshot::STATES.iter().find(|(cell, _)| b'0' + *cell as u8 == *digit).map(|(cell, _)| *cell)
}

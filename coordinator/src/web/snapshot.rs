//! A run as it stands at one moment: the view model of all pages that change.

use crate::driver::{StageView, WorkerView};
use crate::figures::StageFigures;
use crate::progress::words::{partitions_done, units_done};
use crate::scheduler::Cell;
use ip2p_pipeline::layout::Stage;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most cells that a stage is drawn with; more partitions share them.
pub const CELLS: usize = 10_000;

/// The run at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// A coordinator is at work and this is its picture; else the store's alone.
    pub live: bool,
    pub complete: bool,
    /// Why the run is stopping, if it is.
    pub stopping: Option<String>,
    pub stages: Vec<StageNow>,
    pub workers: Vec<WorkerNow>,
}

/// One stage.
#[derive(Clone, Debug)]
pub struct StageNow {
    pub view: StageView,
    /// The number of partitions is known.
    pub sized: bool,
    /// Units per second.
    pub rate: Option<f64>,
    pub remaining: Option<Remaining>,
    /// Seconds of work in committed partitions.
    pub seconds: f64,
    /// Further figures, such as token counts.
    pub figures: BTreeMap<String, f64>,
    /// Units that were made for nothing.
    pub wasted: u64,
    pub cells: Cells,
    /// Partitions in each state, by [`Cell`].
    pub states: [u32; 7],
}

/// Seconds until a stage is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Remaining {
    pub likely: f64,
    /// Least and most; the most can be infinite.
    pub between: Option<(f64, f64)>,
}

/// The states of a stage's partitions, ready to be drawn.
#[derive(Clone, Debug, Default)]
pub struct Cells {
    /// One digit a cell, as [`Cell`] numbers them.
    pub digits: Arc<str>,
    /// Partitions in each cell; the last may have fewer.
    pub each: u32,
    /// Another number, other cells.
    pub version: u64,
}

/// A worker at work.
#[derive(Clone, Debug)]
pub struct WorkerNow {
    pub view: WorkerView,
    /// Units per second over the last minute.
    pub rate: Option<f64>,
}

impl StageNow {
    /// A stage of which only the committed partitions are known.
    pub fn of_figures(figures: &StageFigures, committed: &[u32], version: u64) -> Self {
        let partitions = figures.partitions.unwrap_or(0);
        let mut cells = vec![Cell::Blocked; partitions as usize];
        for &partition in committed {
            if let Some(cell) = cells.get_mut(partition as usize) {
                *cell = Cell::Committed;
            }
        }
        let view = StageView {
            stage: figures.stage,
            partitions,
            committed: figures.committed,
            counts: figures.counts.clone(),
            in_progress: 0.0,
            units_in_progress: 0,
            kept_in_progress: 0,
        };
        StageNow {
            view,
            sized: figures.partitions.is_some(),
            rate: None,
            remaining: None,
            seconds: figures.seconds,
            figures: figures.figures.clone(),
            wasted: 0,
            states: states(&cells),
            cells: Cells::of(&cells, version),
        }
    }

    pub fn stage(&self) -> Stage {
        self.view.stage
    }

    pub fn complete(&self) -> bool {
        self.sized && self.view.committed == self.view.partitions
    }

    /// Units accounted for or being made.
    pub fn units(&self) -> u64 {
        units_done(&self.view)
    }

    /// Share of the partitions that is done, in percent.
    pub fn percent(&self) -> f64 {
        if self.complete() { 100.0 } else { 100.0 * partitions_done(&self.view) / f64::from(self.view.partitions.max(1)) }
    }

    pub fn in_state(&self, cell: Cell) -> u32 {
        self.states[cell as usize]
    }
}

/// Partitions in each state.
pub fn states(cells: &[Cell]) -> [u32; 7] {
    let mut states = [0; 7];
    cells.iter().for_each(|cell| states[*cell as usize] += 1);
    states
}

impl Cells {
    /// At most [`CELLS`] of them; where several partitions share one, the state most worth a look is drawn.
    pub fn of(cells: &[Cell], version: u64) -> Self {
        let each = cells.len().div_ceil(CELLS).max(1);
        let digit = |cells: &[Cell]| char::from(b'0' + cells.iter().max().map_or(0, |cell| *cell as u8));
        let digits: String = cells.chunks(each).map(digit).collect();
        Cells { digits: digits.into(), each: each as u32, version }
    }
}

/// Words for the states, in the order of [`Cell`].
pub const STATES: [(Cell, &str); 7] = [
    (Cell::Committed, "committed"),
    (Cell::Blocked, "waits for its input"),
    (Cell::Ready, "ready"),
    (Cell::Waiting, "failed, waits to be tried again"),
    (Cell::Leased, "at work"),
    (Cell::Raced, "two attempts at work"),
    (Cell::Failed, "given up"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_partitions_fit_ten_thousand_cells_and_no_failure_is_lost() {
        let mut cells = vec![Cell::Committed; 1_000_001];
        cells[123_456] = Cell::Failed;
        cells[777_777] = Cell::Leased;
        let drawn = Cells::of(&cells, 1);
        assert!(drawn.digits.len() <= CELLS && drawn.digits.len() > CELLS / 2, "{}", drawn.digits.len());
        let at = |partition: u32| drawn.digits.as_bytes()[(partition / drawn.each) as usize];
        assert_eq!((at(123_456), at(777_777), at(0)), (b'6', b'4', b'0'));
        assert_eq!(states(&cells)[Cell::Committed as usize], 999_999);
    }

    #[test]
    fn a_small_stage_has_a_cell_a_partition() {
        let drawn = Cells::of(&[Cell::Ready, Cell::Blocked, Cell::Raced], 1);
        assert_eq!((&*drawn.digits, drawn.each), ("215", 1));
        assert_eq!(&*Cells::of(&[], 1).digits, "");
    }

    #[test]
    fn every_state_has_its_words() {
        for (number, (cell, _)) in STATES.iter().enumerate() {
            assert_eq!(*cell as usize, number);
        }
    }
}

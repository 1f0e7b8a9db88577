//! The progress display: bars on a terminal, a line now and then elsewhere, and log lines above both.

pub(crate) mod rate;
pub(crate) mod words;

use crate::driver::View;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rate::Meter;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tracing_subscriber::fmt::MakeWriter;

/// Time between lines where there is no terminal.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Steps of a bar per partition.
const STEPS: f64 = 1000.0;

/// Shows a run on standard error until it is finished or dropped.
pub struct Progress {
    lines: Lines,
    painter: Arc<Mutex<Painter>>,
    task: tokio::task::JoinHandle<()>,
}

/// How a run is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Bars on a terminal.
    Bars,
    /// A line now and then.
    Lines,
    /// The same lines as records of a JSON log.
    Json,
}

/// Writes whole lines to standard error, above the bars if there are any. A handle: cheap to clone.
#[derive(Clone, Debug)]
pub struct Lines {
    bars: MultiProgress,
    look: Look,
}

impl Progress {
    /// Shows every new picture in `view`. Must be called within a tokio runtime.
    pub fn start(mut view: watch::Receiver<View>, look: Look) -> Self {
        let target = if look == Look::Bars { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let lines = Lines { bars: MultiProgress::with_draw_target(target), look };
        let painter = Arc::new(Mutex::new(Painter::new(lines.clone())));
        let shared = painter.clone();
        let task = tokio::spawn(async move {
            while view.changed().await.is_ok() {
                let picture = view.borrow_and_update().clone();
                lock(&shared).paint(&picture);
            }
        });
        Progress { lines, painter, task }
    }

    /// Tells the user something.
    pub fn say(&self, text: &str) {
        self.lines.say(text);
    }

    /// A handle for whoever writes lines while the display is up.
    pub fn lines(&self) -> Lines {
        self.lines.clone()
    }

    /// Where the log goes.
    pub fn writer(&self) -> Lines {
        self.lines.clone()
    }

    /// Takes the bars away, or writes the last plain line. Handles can still write lines.
    pub fn finish(self) {
        lock(&self.painter).finish();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        lock(&self.painter).close();
    }
}

/// A painter that panicked leaves at worst a torn picture.
fn lock(painter: &Mutex<Painter>) -> MutexGuard<'_, Painter> {
    painter.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lines {
    /// Tells the user something, as a line or as a record of the log.
    pub fn say(&self, text: &str) {
        match self.look {
            Look::Bars | Look::Lines => self.line(text),
            Look::Json => tracing::info!(target: crate::logging::PROGRESS, "{text}"),
        }
    }

    /// Passes on a line that a worker has written.
    pub fn line(&self, text: &str) {
        // A closed standard error must not end the run.
        let _ = self.clone().write_all(format!("{text}\n").as_bytes());
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.bars.suspend(|| io::stderr().write(text))
    }

    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        self.bars.suspend(|| io::stderr().write_all(text))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Lines;

    fn make_writer(&self) -> Lines {
        self.clone()
    }
}

/// Turns pictures into bars or lines, and remembers what it needs for rates.
struct Painter {
    lines: Lines,
    started: Instant,
    meters: Vec<Meter>,
    stages: Vec<ProgressBar>,
    workers: BTreeMap<String, ProgressBar>,
    /// Why the run stops or waits, below the workers.
    trouble: Option<ProgressBar>,
    plain: Plain,
    closed: bool,
}

/// What the last plain line said, and when.
#[derive(Default)]
struct Plain {
    due: Duration,
    shown: (Vec<(u32, u64)>, Option<String>),
    pending: Option<String>,
}

impl Painter {
    #[expect(clippy::disallowed_methods, reason = "rates on the display need the real time")]
    fn new(lines: Lines) -> Self {
        Painter {
            lines,
            started: Instant::now(),
            meters: Vec::new(),
            stages: Vec::new(),
            workers: BTreeMap::new(),
            trouble: None,
            plain: Plain::default(),
            closed: false,
        }
    }

    fn paint(&mut self, view: &View) {
        if self.closed {
            return;
        }
        let now = self.started.elapsed();
        self.meters.resize_with(view.stages.len(), Meter::default);
        for (stage, meter) in view.stages.iter().zip(&mut self.meters) {
            meter.record(now, words::units_done(stage), words::partitions_done(stage));
        }
        if self.lines.look == Look::Bars {
            self.paint_bars(view);
        } else if let Some(line) = self.plain.next(view, &self.meters, now) {
            self.lines.say(&line);
        }
    }

    fn paint_bars(&mut self, view: &View) {
        while self.stages.len() < view.stages.len() {
            let bar = ProgressBar::new(0).with_style(style("{prefix:<8} {bar:30.cyan/dim} {msg}"));
            self.stages.push(self.lines.bars.insert(self.stages.len(), bar));
        }
        for ((stage, meter), bar) in view.stages.iter().zip(&self.meters).zip(&self.stages) {
            bar.set_prefix(stage.stage.name());
            // A stage of unknown size is not done: its bar is empty.
            bar.set_length((f64::from(stage.partitions.max(1)) * STEPS) as u64);
            bar.set_position((words::partitions_done(stage) * STEPS) as u64);
            bar.set_message(words::stage_line(stage, meter));
        }
        let gone = |name: &str| !view.workers.iter().any(|worker| worker.name == name);
        for (_, bar) in self.workers.extract_if(.., |name, _| gone(name)) {
            self.lines.bars.remove(&bar);
        }
        for worker in &view.workers {
            let bar = self.workers.entry(worker.name.clone()).or_insert_with(|| self.lines.bars.add(text_bar()));
            bar.set_message(words::worker_line(worker));
        }
        match words::trouble(view) {
            Some(text) => self.trouble.get_or_insert_with(|| self.lines.bars.add(text_bar())).set_message(text),
            None => self.trouble.take().iter().for_each(|bar| self.lines.bars.remove(bar)),
        }
    }

    fn finish(&mut self) {
        if let Some(line) = self.plain.pending.take() {
            self.lines.say(&line);
        }
        self.close();
    }

    fn close(&mut self) {
        self.closed = true;
        let workers = std::mem::take(&mut self.workers);
        for bar in self.stages.drain(..).chain(workers.into_values()).chain(self.trouble.take()) {
            bar.finish_and_clear();
            self.lines.bars.remove(&bar);
        }
    }
}

impl Plain {
    /// The line to write now, if something changed since the last one and that was long enough ago.
    fn next(&mut self, view: &View, meters: &[Meter], now: Duration) -> Option<String> {
        let done = view.stages.iter().map(|stage| (stage.committed, words::units_done(stage)));
        let picture = (done.collect(), words::trouble(view));
        if picture != self.shown {
            self.shown = picture;
            self.pending = Some(words::plain_line(view, meters));
        }
        if now < self.due {
            return None;
        }
        let line = self.pending.take()?;
        self.due = now + PLAIN_EVERY;
        Some(line)
    }
}

fn text_bar() -> ProgressBar {
    ProgressBar::new(0).with_style(style("  {wide_msg:.dim}"))
}

/// The templates are constants; one that is wrong would show indicatif's default instead.
fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━━─")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::StageView;
    use ip2p_pipeline::layout::Stage;

    fn view(committed: u32) -> View {
        let stage = StageView {
            stage: Stage::Pairs,
            partitions: 9,
            committed,
            counts: Default::default(),
            in_progress: 0.0,
            units_in_progress: 0,
            kept_in_progress: 0,
        };
        View { stages: vec![stage], ..View::default() }
    }

    #[test]
    fn templates_are_valid() {
        for template in ["{prefix:<8} {bar:30.cyan/dim} {msg}", "  {wide_msg:.dim}"] {
            ProgressStyle::with_template(template).unwrap();
        }
    }

    #[test]
    fn plain_lines_come_seldom_and_only_when_something_changed() {
        let mut plain = Plain::default();
        let mut at = |committed, seconds| plain.next(&view(committed), &[Meter::default()], Duration::from_secs(seconds)).is_some();
        assert!(at(1, 0));
        assert!(!at(1, 60));
        assert!(at(2, 61));
        assert!(!at(3, 62));
        assert!(at(3, 67), "the change at 62 s was held back, not forgotten");
        assert!(!at(3, 80));
        let deserted = View { deserted: Some("w left: no heartbeat for 30 s".to_string()), ..view(3) };
        let line = plain.next(&deserted, &[Meter::default()], Duration::from_secs(90)).unwrap();
        assert!(line.ends_with("| waiting for workers: w left: no heartbeat for 30 s"), "{line}");
    }

    #[tokio::test]
    async fn the_display_ends_with_or_without_its_source() {
        for look in [Look::Bars, Look::Lines, Look::Json] {
            let (send, receive) = watch::channel(View::default());
            let progress = Progress::start(receive, look);
            send.send_replace(view(1));
            progress.say("a line");
            let painter = progress.painter.clone();
            progress.finish();
            lock(&painter).paint(&view(2));
            assert!(lock(&painter).stages.is_empty(), "nothing is painted after the end");
        }
    }
}

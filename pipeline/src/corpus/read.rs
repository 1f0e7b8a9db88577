//! Reads a whole corpus, file by file, on a thread that may block.

use super::columns::Columns;
use super::format::{self, Format, Input};
use super::intake::Intake;
use super::report::CorpusReport;
use super::source::{self, Source};
use super::{coco, csv, jsonl, parquet};
use crate::error::{Error, Result};
use crate::records::CorpusRecord;
use crate::spec::Corpus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Handle;

/// Reads the corpus without keeping it: what `import` would find.
///
/// `with_edits` reads a corpus of triplets, for the `file` backend of `prompts`. Fails as [`super::import`] does.
pub async fn scan(spec: &Corpus, with_edits: bool) -> Result<CorpusReport> {
    let sources = source::find(&spec.path).await?;
    let spec = spec.clone();
    on_blocking_thread(move |thread| read(&sources, &spec, with_edits, thread, &mut |_| Ok(()))).await
}

/// A thread that may block. It learns when nobody waits for it any more.
pub(crate) struct Blocking {
    runtime: Handle,
    abandoned: Arc<AtomicBool>,
}

impl Blocking {
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn check(&self) -> Result<()> {
        match self.abandoned.load(Ordering::Relaxed) {
            true => Err(Error::invalid("reading the corpus was interrupted. Run again")),
            false => Ok(()),
        }
    }
}

/// Sets its flag when it is dropped, so that an interrupted program need not wait for millions of rows.
struct AbandonOnDrop(Arc<AtomicBool>);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) async fn on_blocking_thread<T: Send + 'static>(work: impl FnOnce(&Blocking) -> Result<T> + Send + 'static) -> Result<T> {
    let abandoned = Arc::new(AtomicBool::new(false));
    let _guard = AbandonOnDrop(abandoned.clone());
    let thread = Blocking { runtime: Handle::current(), abandoned };
    match tokio::task::spawn_blocking(move || work(&thread)).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::invalid("reading the corpus was interrupted. Run again")),
    }
}

/// Hands every usable record of `sources` to `sink`, in order. A corpus without one is refused.
pub(crate) fn read(
    sources: &[Source],
    spec: &Corpus,
    with_edits: bool,
    thread: &Blocking,
    sink: &mut dyn FnMut(CorpusRecord) -> Result<()>,
) -> Result<CorpusReport> {
    let columns = Columns::new(spec, with_edits);
    let mut checked = |record: CorpusRecord| thread.check().and_then(|()| sink(record));
    let mut intake = Intake::new(&columns, spec.limit, &mut checked);
    for source in sources {
        let (name, file) = (source.name(), thread.wait(source.open())?);
        match format::open(&name, file, &columns)? {
            Input::Parquet(file) => {
                intake.begin_file(name.clone(), Format::Parquet);
                parquet::read(file, &name, &columns, &mut intake)?;
            }
            Input::Text(format, text) => {
                intake.begin_file(name.clone(), format);
                match format {
                    Format::Coco => coco::read(text, &name, &columns, &mut intake)?,
                    Format::Csv | Format::Tsv => csv::read(text, format, &name, &columns, &mut intake)?,
                    Format::Jsonl | Format::Parquet => jsonl::read(text, &name, &columns, &mut intake)?,
                }
            }
        }
        if intake.is_full() {
            break;
        }
    }
    let report = intake.finish();
    if report.usable == 0 {
        return Err(nothing_usable(&spec.path, &report));
    }
    Ok(report)
}

fn nothing_usable(path: &str, report: &CorpusReport) -> Error {
    let reasons: Vec<String> = report
        .skipped
        .iter()
        .map(|(reason, skipped)| format!("{reason} {} (first {}:{})", skipped.rows, skipped.first.file, skipped.first.row))
        .collect();
    let why = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
    Error::invalid(format!("corpus {path} has no usable row among {}{why}. Check corpus.path and corpus.caption_column", report.rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reader_that_nobody_waits_for_stops() {
        let (started, running) = tokio::sync::oneshot::channel();
        let (stopped, end) = tokio::sync::oneshot::channel();
        let work = on_blocking_thread(move |thread| {
            started.send(()).unwrap();
            while thread.check().is_ok() {
                std::thread::yield_now();
            }
            stopped.send(()).unwrap();
            Ok(())
        });
        tokio::select! {
            _ = work => panic!("the work never ends by itself"),
            started = running => started.unwrap(),
        }
        end.await.unwrap();
    }
}

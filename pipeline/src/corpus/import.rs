//! Freezes a corpus into the run's store, so that partitions cannot move when the files change.

use super::read::{Blocking, on_blocking_thread, read};
use super::report::CorpusReport;
use super::source::{self, Source};
use crate::commit::{self, Committed};
use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::layout::StageDir;
use crate::manifest::{Attempt, DataObject};
use crate::records::CorpusRecord;
use crate::spec::Corpus;
use crate::store::Store;
use crate::tables::Table;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// An object is full at this many records or bytes of text, whichever comes first. It is the unit of reading:
/// small enough to be read whole, with its checksum, for one short partition.
const OBJECT_RECORDS: usize = 16_384;
const OBJECT_TEXT: usize = 8 << 20;

/// The commit of a frozen corpus.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusManifest {
    pub attempt: Attempt,
    pub records: u64,
    /// Of the records in their order, and of nothing else: not of names, formats or compression of files.
    pub fingerprint: Fingerprint,
    /// In the order of their records.
    pub objects: Vec<CorpusObject>,
    pub report: CorpusReport,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorpusObject {
    pub records: u64,
    pub data: DataObject,
}

/// Reads the corpus of `spec` and commits it as partition 0 of `dir`; `attempt` names this import.
///
/// `with_edits` reads a corpus of triplets, for the `file` backend of `prompts`. When another import was
/// first, its manifest is the answer. Rows without a usable caption, and duplicates, are counted in the
/// report; a corpus without a usable row, a file that cannot be read to its end and a needed column that is
/// not there are [`Error::Invalid`].
pub async fn import(spec: &Corpus, with_edits: bool, store: &Store, dir: &StageDir, attempt: &Attempt) -> Result<CorpusManifest> {
    let sources = source::find(&spec.path).await?;
    freeze(sources, spec, with_edits, store, dir, attempt).await
}

/// The manifest of an earlier import.
pub async fn load(store: &Store, dir: &StageDir) -> Result<Option<CorpusManifest>> {
    commit::read(store, &dir.manifest(0)).await
}

/// Records `range` of the corpus. Reads the objects that overlap it, each whole and against its checksum.
pub async fn read_range(store: &Store, corpus: &CorpusManifest, range: Range<u64>) -> Result<Vec<CorpusRecord>> {
    if range.start > range.end || range.end > corpus.records {
        return Err(Error::invalid(format!("records {}..{} lie outside a corpus of {}", range.start, range.end, corpus.records)));
    }
    let mut records = Vec::new();
    let mut start = 0;
    for object in &corpus.objects {
        let end = start + object.records;
        let within = range.start.max(start)..range.end.min(end);
        if within.start < within.end {
            let all = read_object(store, object).await?;
            records.extend(all.into_iter().skip((within.start - start) as usize).take((within.end - within.start) as usize));
        }
        start = end;
    }
    Ok(records)
}

async fn read_object(store: &Store, object: &CorpusObject) -> Result<Vec<CorpusRecord>> {
    let url = store.url_of(&object.data.key);
    let records = CorpusRecord::decode(&url, commit::read_data(store, &object.data).await?)?;
    if records.len() as u64 != object.records {
        return Err(Error::Damaged {
            key: url,
            problem: format!("it has {} records, its manifest says {}", records.len(), object.records),
        });
    }
    Ok(records)
}

pub(crate) async fn freeze(
    sources: Vec<Source>,
    spec: &Corpus,
    with_edits: bool,
    store: &Store,
    dir: &StageDir,
    attempt: &Attempt,
) -> Result<CorpusManifest> {
    let (spec, to, dir_of, epoch) = (spec.clone(), store.clone(), *dir, attempt.epoch);
    let (report, frozen) = on_blocking_thread(move |thread| {
        let mut freezer = Freezer::new(thread, &to, &dir_of, epoch);
        let report = read(&sources, &spec, with_edits, thread, &mut |record| freezer.push(record))?;
        Ok((report, freezer.finish()?))
    })
    .await?;
    let Frozen { records, fingerprint, objects } = frozen;
    let manifest = CorpusManifest { attempt: attempt.clone(), records, fingerprint, objects, report };
    match commit::create(store, &dir.manifest(0), &manifest, |m| &m.attempt).await? {
        Committed::Ours => Ok(manifest),
        Committed::Theirs(first) => Ok(first),
    }
}

/// What a [`Freezer`] wrote.
struct Frozen {
    records: u64,
    fingerprint: Fingerprint,
    objects: Vec<CorpusObject>,
}

/// Gathers records into objects and writes each when it is full.
struct Freezer<'a> {
    thread: &'a Blocking,
    store: &'a Store,
    dir: &'a StageDir,
    epoch: u64,
    waiting: Vec<CorpusRecord>,
    waiting_text: usize,
    hasher: blake3::Hasher,
    written: u64,
    objects: Vec<CorpusObject>,
}

impl<'a> Freezer<'a> {
    fn new(thread: &'a Blocking, store: &'a Store, dir: &'a StageDir, epoch: u64) -> Self {
        Freezer {
            thread,
            store,
            dir,
            epoch,
            waiting: Vec::new(),
            waiting_text: 0,
            hasher: blake3::Hasher::new(),
            written: 0,
            objects: Vec::new(),
        }
    }

    fn push(&mut self, record: CorpusRecord) -> Result<()> {
        self.waiting_text += hash(&mut self.hasher, &record);
        self.waiting.push(record);
        if self.waiting.len() >= OBJECT_RECORDS || self.waiting_text >= OBJECT_TEXT { self.write() } else { Ok(()) }
    }

    fn write(&mut self) -> Result<()> {
        let key = self.dir.data(0, self.epoch, self.written, "captions.parquet");
        let bytes = CorpusRecord::encode(&self.waiting)?;
        let data = self.thread.wait(commit::write_data(self.store, "captions", key, bytes))?;
        let records = self.waiting.len() as u64;
        self.objects.push(CorpusObject { records, data });
        self.written += records;
        self.waiting.clear();
        self.waiting_text = 0;
        Ok(())
    }

    fn finish(mut self) -> Result<Frozen> {
        if !self.waiting.is_empty() {
            self.write()?;
        }
        let fingerprint = Fingerprint::of(&["corpus", self.hasher.finalize().to_hex().as_str()]);
        Ok(Frozen { records: self.written, fingerprint, objects: self.objects })
    }
}

/// Adds a record to the hash of all, each text behind its length; returns the bytes of its texts.
fn hash(hasher: &mut blake3::Hasher, record: &CorpusRecord) -> usize {
    let edit = record.edit.as_ref();
    let texts = [Some(&record.caption), record.url.as_ref(), edit.map(|e| &e.edit), edit.map(|e| &e.output)];
    for text in texts {
        // No text is as long as the mark of one that is not there.
        hasher.update(&text.map_or(u64::MAX, |text| text.len() as u64).to_le_bytes());
        hasher.update(text.map_or(&[], |text| text.as_bytes()));
    }
    texts.iter().flatten().map(|text| text.len()).sum()
}

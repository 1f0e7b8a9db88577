//! Readers of files: corpora, tables, shards, pictures and weights. Errors are fine: they are words.

use ip2p_pipeline::corpus;
use ip2p_pipeline::formats::count;
use ip2p_pipeline::records::{CorpusRecord, IndexRow, Quarantined, RejectedCompletion, ScoredCandidate, Triplet};
use ip2p_pipeline::spec::Corpus;
use ip2p_pipeline::tables::{Table, TableReader};
use ip2p_worker::images::Rgb8;
use ip2p_worker::models::Weights;
use ip2p_worker::models::llm::Llm;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Runs `read` with the path of a file of this name that holds `data`.
fn with_file(name: &str, data: &[u8], read: impl FnOnce(&Path)) {
    static FOLDER: OnceLock<(tempfile::TempDir, Mutex<()>)> = OnceLock::new();
    let (folder, lock) = FOLDER.get_or_init(|| (tempfile::tempdir().expect("a temporary folder"), Mutex::new(())));
    let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let path: PathBuf = folder.path().join(name);
    overwrite(&path, data);
    read(&path);
}

/// Without a truncation to nothing, after which some file systems wait for the disk.
pub fn overwrite(path: &Path, data: &[u8]) {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(path).expect("a file to write");
    file.write_all(data).and_then(|()| file.set_len(data.len() as u64)).expect("room for a file");
}

fn scan(name: &str, data: &[u8]) {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_current_thread().build().expect("a runtime"));
    with_file(name, data, |path| {
        for with_edits in [false, true] {
            let spec = Corpus { path: path.display().to_string(), caption_column: None, url_column: None, limit: None };
            if let Ok(report) = runtime.block_on(corpus::scan(&spec, with_edits)) {
                assert_eq!(report.rows, report.usable + report.skipped_total());
            }
        }
    });
}

pub fn jsonl(data: &[u8]) {
    scan("c.jsonl", data);
}

pub fn csv(data: &[u8]) {
    scan(if data.contains(&b'\t') { "c.tsv" } else { "c.csv" }, data);
}

pub fn coco(data: &[u8]) {
    scan("c.json", data);
}

pub fn parquet(data: &[u8]) {
    scan("c.parquet", data);
}

/// A file whose name says nothing: compressed ones among them.
pub fn any(data: &[u8]) {
    scan("corpus", data);
}

pub fn tables(data: &[u8]) {
    let bytes = bytes::Bytes::copy_from_slice(data);
    fn decode<T: Table>(bytes: &bytes::Bytes) {
        let _ = T::decode("table", bytes.clone());
    }
    let _ = [decode::<CorpusRecord>, decode::<Triplet>, decode::<RejectedCompletion>, decode::<ScoredCandidate>, decode::<Quarantined>]
        .map(|decode| decode(&bytes));
    if let Ok(rows) = IndexRow::decode("table", bytes.clone()) {
        rows.iter().flat_map(|row| &row.images).flatten().for_each(|image| assert!(image.range().start <= image.range().end));
    }
    if let Ok(reader) = TableReader::<IndexRow>::open_where("table", bytes, "verdict", "kept") {
        reader.for_each(drop);
    }
}

pub fn shard_tar(data: &[u8]) {
    let _ = count::samples_in_tar("shard", data, drop);
}

pub fn shard_parquet(data: &[u8]) {
    let _ = count::rows_in_parquet("shard", bytes::Bytes::copy_from_slice(data), drop);
}

pub fn picture(data: &[u8]) {
    if let Ok(picture) = Rgb8::decode(data) {
        assert_eq!(picture.bytes.len(), picture.width as usize * picture.height as usize * 3);
    }
}

fn weights(name: &str, data: &[u8]) {
    with_file(name, data, |path| {
        if let Ok(weights) = Weights::open(path) {
            weights.names().for_each(|name| drop(weights.read(name)));
        }
    });
}

pub fn safetensors(data: &[u8]) {
    weights("w.safetensors", data);
}

pub fn checkpoint(data: &[u8]) {
    weights("w.ckpt", data);
}

pub fn gguf(data: &[u8]) {
    with_file("w.gguf", data, |path| drop(Llm::open(path, candle_core::DType::F32, &candle_core::Device::Cpu)));
}

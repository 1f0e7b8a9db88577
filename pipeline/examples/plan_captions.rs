//! Time and memory of planning a large corpus: reading it, leaving out duplicates, freezing it into a store.
//! `cargo run --release -p ip2p-pipeline --example plan_captions -- 10000000 [FOLDER]`
//!
//! Ten million captions take 1.3 GB in FOLDER (a temporary folder when left out) and about as much for the frozen copy.

#![expect(clippy::print_stdout, reason = "the figures are what it is for")]

use ip2p_pipeline::corpus;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::Attempt;
use ip2p_pipeline::plan::Partitioning;
use ip2p_pipeline::spec::Corpus;
use ip2p_pipeline::store::Store;
use std::path::Path;
use std::time::Instant;

#[path = "../benches/support/captions.rs"]
mod captions;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Captions per partition of the plan that is printed.
const PARTITION: u32 = 32;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let n: u64 = arguments.next().ok_or("usage: plan_captions COUNT [FOLDER]")?.parse()?;
    let parent = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let folder = tempfile::tempdir_in(parent)?;
    let path = folder.path().join("captions.jsonl");
    let bytes = captions::write(&path, n)?;
    println!("{n} captions, {:.0} MB{}", bytes as f64 / 1e6, if cfg!(debug_assertions) { ", dev profile" } else { "" });
    let spec = Corpus { path: path.display().to_string(), caption_column: None, url_column: None, limit: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().build()?;
    measure("read only (plan)", n, || Ok(runtime.block_on(corpus::scan(&spec, false))?.usable))?;
    let records = measure("read and freeze (run)", n, || runtime.block_on(freeze(&spec, folder.path())))?;
    let cut = Partitioning { records, partition_records: PARTITION };
    println!("{} partitions of {PARTITION}", cut.partitions()?);
    Ok(())
}

async fn freeze(spec: &Corpus, folder: &Path) -> Result<u64> {
    let store = Store::open(&format!("file://{}/out", folder.display()))?;
    let dir = StageDir { stage: Stage::Corpus, fingerprint: Fingerprint::of(&["example"]) };
    let attempt = Attempt { epoch: 0, worker: "example".to_string() };
    Ok(corpus::import(spec, false, &store, &dir, &attempt).await?.records)
}

/// Runs `work`, which returns the usable captions, and prints what it took.
fn measure(what: &str, n: u64, work: impl FnOnce() -> Result<u64>) -> Result<u64> {
    captions::forget_peak();
    let started = Instant::now();
    let usable = work()?;
    let seconds = started.elapsed().as_secs_f64();
    let peak = captions::peak_memory().unwrap_or_else(|| "unknown".to_string());
    println!("{what}: {seconds:.1} s, {:.0} captions/s, {usable} usable, peak memory {peak}", n as f64 / seconds);
    if usable != captions::usable(n) {
        return Err(format!("{} captions should be usable", captions::usable(n)).into());
    }
    Ok(usable)
}

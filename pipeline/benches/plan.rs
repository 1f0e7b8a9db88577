//! Planning a corpus of a million captions: reading, leaving out duplicates, freezing into a local store.
//!
//! The figure to reach on 2 cores is 5 s and 300 MB; the peak memory of the process is printed at the end.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ip2p_pipeline::corpus;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::manifest::Attempt;
use ip2p_pipeline::spec::Corpus;
use ip2p_pipeline::store::Store;
use std::io::{BufWriter, Write};
use std::path::Path;

const CAPTIONS: u64 = 1_000_000;

/// The `i`-th caption: about 60 bytes, one in 50 a duplicate of the one before.
fn caption(i: u64) -> String {
    const THINGS: [&str; 8] =
        ["red circle", "wooden house", "sleeping cat", "sailing boat", "old bicycle", "snowy hill", "glass vase", "street lamp"];
    const PLACES: [&str; 8] =
        ["by the sea", "in a field", "on a table", "at night", "under a bridge", "in the fog", "near a river", "in a garden"];
    let i = if i % 50 == 49 { i - 1 } else { i };
    let pick = |words: [&'static str; 8], shift: u64| words[(i >> shift) as usize % words.len()];
    format!("a photograph of a {} {}, number {i} of a long series", pick(THINGS, 0), pick(PLACES, 3))
}

fn write_corpus(path: &Path) -> std::io::Result<u64> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for i in 0..CAPTIONS {
        writeln!(file, "{{\"caption\":\"{}\",\"url\":\"https://images.example.org/{:08}.jpg\"}}", caption(i), i)?;
    }
    file.flush()?;
    file.get_ref().metadata().map(|meta| meta.len())
}

fn plan(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("captions.jsonl");
    let bytes = write_corpus(&path).expect("the corpus is written");
    let spec = Corpus { path: path.display().to_string(), caption_column: None, url_column: None, limit: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
    let mut group = c.benchmark_group("plan of 1M captions");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function("scan", |b| {
        b.iter(|| {
            let report = runtime.block_on(corpus::scan(&spec, false)).expect("the corpus is read");
            assert_eq!(report.usable, CAPTIONS - CAPTIONS / 50);
        });
    });
    let mut run = 0;
    group.bench_function("import", |b| {
        b.iter(|| {
            run += 1;
            let dir = StageDir { stage: Stage::Corpus, fingerprint: Fingerprint::of(&["bench", &run.to_string()]) };
            let store = Store::open(&format!("file://{}/out", folder.path().display())).expect("the store opens");
            let attempt = Attempt { epoch: 1, worker: "bench".to_string() };
            let import = corpus::import(&spec, false, &store, &dir, &attempt);
            assert_eq!(runtime.block_on(import).expect("the corpus is imported").records, CAPTIONS - CAPTIONS / 50);
        });
    });
    group.finish();
    if let Some(peak) = peak_memory() {
        eprintln!("peak memory of the process: {peak}");
    }
}

/// Linux only.
fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(|peak| peak.trim().to_string())
}

criterion_group!(benches, plan);
criterion_main!(benches);

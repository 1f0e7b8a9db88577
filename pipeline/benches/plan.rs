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

#[path = "support/captions.rs"]
mod captions;

const CAPTIONS: u64 = 1_000_000;

fn plan(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("captions.jsonl");
    let bytes = captions::write(&path, CAPTIONS).expect("the corpus is written");
    let spec = Corpus { path: path.display().to_string(), caption_column: None, url_column: None, limit: None };
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
    let mut group = c.benchmark_group("plan of 1M captions");
    group.sample_size(10).throughput(Throughput::Bytes(bytes));
    group.bench_function("scan", |b| {
        b.iter(|| {
            let report = runtime.block_on(corpus::scan(&spec, false)).expect("the corpus is read");
            assert_eq!(report.usable, captions::usable(CAPTIONS));
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
            assert_eq!(runtime.block_on(import).expect("the corpus is imported").records, captions::usable(CAPTIONS));
        });
    });
    group.finish();
    if let Some(peak) = captions::peak_memory() {
        eprintln!("peak memory of the process: {peak}");
    }
}

criterion_group!(benches, plan);
criterion_main!(benches);

//! Speed of the shard writers (MB/s), the index tables (rows/s) and the shard plan (pairs/s):
//! `cargo bench -p ip2p-pipeline --bench shards`.

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ip2p_pipeline::formats::{Sample, ShardWriter, original};
use ip2p_pipeline::ids::{PairId, TripletId};
use ip2p_pipeline::records::{Candidate, ImageRef, IndexRow, Scores, Verdict};
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan};
use ip2p_pipeline::spec::{ColumnProfile, ShardFormat, Shards, Split};
use ip2p_pipeline::tables::Table;
use std::hint::black_box;

/// Bytes of one 512 x 512 JPEG of quality 100.
const IMAGE_BYTES: usize = 250_000;

fn row(n: u64) -> IndexRow {
    let (caption, edit, output) = (format!("a photo of cat number {n}"), "make it a dog".to_string(), format!("a photo of dog number {n}"));
    let candidate = Candidate {
        triplet: TripletId::of(&caption, &edit, &output),
        sample: 0,
        seed: n,
        p2p_threshold: 0.1 + n as f64 * 1e-6,
        cfg_scale: 7.5,
    };
    let image = |which| ImageRef {
        object: "pairs/0123456789ab/data/p00000012-e0000000100000001-r00000000-images.bin".to_string(),
        offset: 2 * n + which,
        length: 250_000,
        checksum: n,
    };
    IndexRow {
        pair: candidate.pair_id(),
        caption,
        edit,
        output,
        url: None,
        candidate,
        scores: Some(Scores { clip_sim_0: 0.3, clip_sim_1: 0.31, clip_sim_dir: 0.2 + n as f64 * 1e-7, clip_sim_image: 0.8 }),
        verdict: Verdict::Kept,
        images: Some([image(0), image(1)]),
    }
}

fn samples(n: u64) -> Vec<Sample> {
    let image = Bytes::from([vec![0xff, 0xd8, 0xff], vec![7; IMAGE_BYTES]].concat());
    (0..n).map(|i| Sample::new(i, row(i), [image.clone(), image.clone()]).expect("a JPEG")).collect()
}

fn writers(c: &mut Criterion) {
    let samples = samples(40);
    let mut group = c.benchmark_group("shard writers");
    group.sample_size(10).throughput(Throughput::Bytes((samples.len() * 2 * IMAGE_BYTES) as u64));
    for format in [ShardFormat::Webdataset, ShardFormat::Parquet] {
        group.bench_function(format.name(), |b| {
            b.iter(|| {
                let mut writer = ShardWriter::new(format, ColumnProfile::Timbrooks, "bench", std::io::sink()).expect("a file format");
                samples.iter().for_each(|sample| writer.add(sample).expect("a sink takes all"));
                writer.finish("train").expect("a sink takes all")
            });
        });
    }
    group.bench_function("original", |b| b.iter(|| original::folder("0000000", black_box(&samples))));
    group.finish();
}

fn tables(c: &mut Criterion) {
    let rows: Vec<IndexRow> = (0..50_000).map(row).collect();
    let bytes = IndexRow::encode(&rows).expect("rows encode");
    let mut group = c.benchmark_group("index table");
    group.sample_size(10).throughput(Throughput::Elements(rows.len() as u64));
    group.bench_function("encode", |b| b.iter(|| IndexRow::encode(&rows)));
    group.bench_function("decode", |b| b.iter(|| IndexRow::decode("bench", bytes.clone())));
    group.finish();
}

/// The released data set's size: 1.2 million pairs of 313,010 triplets.
fn plan(c: &mut Criterion) {
    let pair = |row: u32| {
        let triplet = TripletId::of(&(row / 4).to_string(), "e", "o");
        KeptPair { pair: PairId::of(triplet, row % 4), triplet, seed: u64::from(row), row, bytes: 500_000 }
    };
    let pairs: Vec<KeptPair> = (0..1_252_040).map(pair).collect();
    let formats = vec![ShardFormat::Webdataset, ShardFormat::Parquet, ShardFormat::Original];
    let split = Split { train: 0.9, val: 0.05, test: 0.05 };
    let spec = Shards { formats, split, shard_bytes: 500_000_000, columns: ColumnProfile::Timbrooks };
    let mut group = c.benchmark_group("shard plan");
    group.sample_size(10).throughput(Throughput::Elements(pairs.len() as u64));
    group.bench_function("1.25M pairs", |b| {
        b.iter_batched(|| pairs.clone(), |pairs| ShardPlan::new(pairs, 42, &spec), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, writers, tables, plan);
criterion_main!(benches);

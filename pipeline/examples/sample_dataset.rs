//! Writes a small data set in every format, with drawn squares for pictures:
//! `cargo run -p ip2p-pipeline --example sample_dataset -- OUT [timbrooks|diffusers]`.
//! `tests/compat/check.py OUT` reads it with the real readers.

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use ip2p_pipeline::formats::card::{DatasetCard, Drawing, Funnel, Lineage, README_PATH, STATS_PATH};
use ip2p_pipeline::formats::{Measured, Sample, ShardStats, ShardWriter, original};
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::plan::ModelFingerprints;
use ip2p_pipeline::records::{Candidate, ImageRef, IndexRow, Scores, Triplet, Verdict};
use ip2p_pipeline::shard_plan::{KeptPair, ShardPlan, ShardTask};
use ip2p_pipeline::spec::{ColumnProfile, Filter, ImageFormat, Range, Sampler, ShardFormat, Shards, Split};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const RUN_SEED: u64 = 42;
const TRIPLETS: u64 = 60;
const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [200, 30, 30]), ("green", [30, 160, 60]), ("blue", [40, 60, 200]), ("yellow", [230, 210, 40])];

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().ok_or("usage: sample_dataset OUT [timbrooks|diffusers]")?;
    let columns = match arguments.next().as_deref() {
        None | Some("timbrooks") => ColumnProfile::Timbrooks,
        Some("diffusers") => ColumnProfile::Diffusers,
        Some(other) => return Err(format!("`{other}` is not a column profile: timbrooks or diffusers").into()),
    };
    write_dataset(Path::new(&out), columns)
}

fn write_dataset(root: &Path, columns: ColumnProfile) -> Result<()> {
    let pairs = (0..TRIPLETS).flat_map(|n| (0..1 + n as u32 % 4).map(move |sample| (n, sample)));
    let pairs: Vec<(IndexRow, [Bytes; 2])> = pairs.map(|(n, sample)| pair(n, sample)).collect::<Result<_>>()?;
    let mut kept = Vec::new();
    for (position, (row, _)) in (0..).zip(&pairs) {
        kept.extend(KeptPair::of(position, row)?);
    }
    let formats = vec![ShardFormat::Webdataset, ShardFormat::Parquet, ShardFormat::Original];
    let shards = Shards { formats, split: Split { train: 0.8, val: 0.1, test: 0.1 }, shard_bytes: 250_000, columns };
    let plan = ShardPlan::new(kept, RUN_SEED, &shards)?;
    let sample = |number: u64, row: u32| {
        let (row, images) = pairs[row as usize].clone();
        Sample::new(number, row, images)
    };
    let files = plan.tasks().iter().map(|task| write_task(root, &plan, task, columns, &sample)).collect::<Result<_>>()?;
    let card = card(&plan, shards, pairs.len() as u64, files);
    fs::write(root.join(README_PATH), card.readme())?;
    Ok(fs::write(root.join(STATS_PATH), card.stats_json()?)?)
}

fn write_task(
    root: &Path,
    plan: &ShardPlan,
    task: &ShardTask,
    columns: ColumnProfile,
    sample: &impl Fn(u64, u32) -> ip2p_pipeline::Result<Sample>,
) -> Result<ShardStats> {
    match task {
        ShardTask::File { format, split, path, pairs } => {
            let mut writer = ShardWriter::new(*format, columns, path, create(root, path)?)?;
            for (number, row) in plan.samples(pairs) {
                writer.add(&sample(number, row)?)?;
            }
            let (mut out, stats) = writer.finish(split.name())?;
            out.flush()?;
            Ok(stats)
        }
        ShardTask::Folders { pairs } => {
            let mut measured = Measured::new(std::io::sink());
            let mut first = String::new();
            for folder in plan.folders(pairs) {
                let samples: Vec<Sample> = folder.rows.iter().map(|&row| sample(0, row)).collect::<ip2p_pipeline::Result<_>>()?;
                for (path, bytes) in original::folder(&folder.name, &samples)? {
                    create(root, &path)?.write_all(&bytes)?;
                    measured.write_all(&bytes)?;
                }
                first = if first.is_empty() { folder.name } else { first };
            }
            Ok(measured.finish(&format!("original/{first}"), None, task.len() as u64).1)
        }
        ShardTask::Seeds => {
            let text = plan.seeds_json();
            create(root, original::SEEDS_PATH)?.write_all(text.as_bytes())?;
            let mut measured = Measured::new(std::io::sink());
            measured.write_all(text.as_bytes())?;
            Ok(measured.finish(original::SEEDS_PATH, None, 0).1)
        }
    }
}

fn create(root: &Path, path: &str) -> Result<BufWriter<File>> {
    let path = root.join(path);
    fs::create_dir_all(path.parent().ok_or("no folder")?)?;
    Ok(BufWriter::new(File::create(path)?))
}

/// Pair `sample` of triplet `n`: a square of one colour, and the same square in another.
fn pair(n: u64, sample: u32) -> Result<(IndexRow, [Bytes; 2])> {
    let [(before, first), (after, second)] = [0, 1].map(|step| COLOURS[(n as usize + step) % COLOURS.len()]);
    let caption = |colour| format!("a {colour} square, “number” {n}");
    let url = n.is_multiple_of(2).then(|| format!("https://example.com/{n}.jpg"));
    let triplet = Triplet::new(caption(before), format!("make it {after}"), caption(after), url);
    let images = [picture(n, sample, first)?, picture(n, sample, second)?];
    let place = |image: &Bytes| ImageRef::describe("", 0, image);
    let candidate = Candidate { triplet: triplet.id, sample, seed: 1000 * n + u64::from(sample), p2p_threshold: 0.5, cfg_scale: 8.0 };
    let row = IndexRow {
        pair: candidate.pair_id(),
        caption: triplet.caption,
        edit: triplet.edit,
        output: triplet.output,
        url: triplet.url,
        candidate,
        // The first samples have whole numbers, so that a reader that infers integers would show.
        scores: Some(Scores { clip_sim_0: 1.0, clip_sim_1: 1.0, clip_sim_dir: 0.25 + 1e-6 * n as f64, clip_sim_image: 1.0 }),
        verdict: Verdict::Kept,
        images: Some([place(&images[0]), place(&images[1])]),
    };
    Ok((row, images))
}

fn picture(n: u64, sample: u32, colour: [u8; 3]) -> Result<Bytes> {
    let (left, top) = (4 + 6 * sample, (4 + n % 20) as u32);
    let pixel = |x: u32, y: u32| {
        let inside = (left..left + 16).contains(&x) && (top..top + 16).contains(&y);
        Rgb(if inside { colour } else { [(x * 4) as u8, (y * 4) as u8, 128] })
    };
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 100).encode_image(&RgbImage::from_fn(48, 48, pixel))?;
    Ok(bytes.into())
}

fn card(plan: &ShardPlan, shards: Shards, pairs: u64, files: Vec<ShardStats>) -> DatasetCard {
    let all = |n| Counts { expected: n, output: n, ..Default::default() };
    let fingerprint = |name: &str| Fingerprint::of(&[name]);
    DatasetCard {
        name: "sample".to_string(),
        funnel: Funnel { captions: TRIPLETS, prompts: all(TRIPLETS), pairs: all(pairs) },
        splits: plan.splits().to_vec(),
        shares: shards.split,
        drawing: Drawing {
            samples: 4,
            steps: 1,
            sampler: Sampler::EulerAncestral,
            p2p: Range { min: 0.5, max: 0.5 },
            guidance: Range { min: 8.0, max: 8.0 },
            resolution: 48,
            image: ImageFormat::Jpeg { quality: 100 },
        },
        filter: Filter { clip_text: 0.2, clip_direction: 0.2, clip_image: 0.7, keep: 4 },
        formats: shards.formats,
        columns: shards.columns,
        lineage: Lineage {
            fingerprint: fingerprint("sample"),
            corpus: fingerprint("squares"),
            models: ModelFingerprints { diffusion: fingerprint("none"), vae: None, clip: fingerprint("none"), llm: None },
            run_seed: RUN_SEED,
            software: "sample_dataset".to_string(),
        },
        files,
    }
}

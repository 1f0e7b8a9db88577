//! What reads bytes from outside, as functions of any bytes: none may panic, or use memory out of proportion.
//!
//! `tests/tests/fuzz.rs` runs them on mutations of the files in `tests/fuzz/<target>/`; `fuzz/` hands them to cargo-fuzz.

mod files;
pub mod mutate;
pub mod seeds;
mod text;
mod wire;

pub use files::overwrite;

use std::path::PathBuf;

/// One reader under test.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Memory in bytes that it may use besides 64 for each byte of its input: buffers of a fixed size.
    pub memory: usize,
    /// Inputs in a run of the test.
    pub inputs: u64,
}

const MIB: usize = 1 << 20;

/// What is said of [`Target::memory`]: a row of a corpus has up to 16 MiB and is held twice or thrice, a page of a
/// Parquet file up to 256 MiB unpacked, a picture 48 MiB of pixels, and a language model a table of its context.
pub const TARGETS: &[Target] = &[
    Target { name: "spec", run: text::spec, memory: 16 * MIB, inputs: 6_000 },
    Target { name: "completion", run: text::completion, memory: 16 * MIB, inputs: 3_000 },
    Target { name: "caption_tokens", run: text::caption_tokens, memory: 64 * MIB, inputs: 10_000 },
    Target { name: "manifest", run: text::manifest, memory: 16 * MIB, inputs: 20_000 },
    Target { name: "wire", run: wire::messages, memory: 16 * MIB, inputs: 60_000 },
    Target { name: "corpus_jsonl", run: files::jsonl, memory: 128 * MIB, inputs: 10_000 },
    Target { name: "corpus_csv", run: files::csv, memory: 128 * MIB, inputs: 8_000 },
    Target { name: "corpus_coco", run: files::coco, memory: 128 * MIB, inputs: 8_000 },
    Target { name: "corpus_parquet", run: files::parquet, memory: 640 * MIB, inputs: 20_000 },
    Target { name: "corpus_any", run: files::any, memory: 128 * MIB, inputs: 6_000 },
    Target { name: "tables", run: files::tables, memory: 640 * MIB, inputs: 20_000 },
    Target { name: "shard_tar", run: files::shard_tar, memory: 16 * MIB, inputs: 30_000 },
    Target { name: "shard_parquet", run: files::shard_parquet, memory: 16 * MIB, inputs: 20_000 },
    Target { name: "picture", run: files::picture, memory: 256 * MIB, inputs: 20_000 },
    Target { name: "safetensors", run: files::safetensors, memory: 16 * MIB, inputs: 20_000 },
    Target { name: "checkpoint", run: files::checkpoint, memory: 16 * MIB, inputs: 30_000 },
    Target { name: "gguf", run: files::gguf, memory: 256 * MIB, inputs: 4_000 },
];

/// The target of this name.
pub fn target(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a name of the list")
}

/// The files to start from, and what once failed: in the order of their names. Of those called `once-...` no mutations are made.
pub fn corpus(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = crate::repository().join("tests/fuzz").join(name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(&path).expect("a file of the corpus"))).collect()
}

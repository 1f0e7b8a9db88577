//! The files of a checkpoint: which ones a folder means, and how one tensor is read from each format.
//!
//! Tensors are read one at a time with plain file reads, so that opening costs only the header, memory never holds
//! the file beside the model, and a file that shrinks under a running worker is an error instead of a crash.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use candle_core::pickle::PthTensors;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorInfo;

use super::error::{Error, Result};
use super::pickle;

/// The largest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

/// One file of named tensors.
pub(super) struct TensorFile {
    pub(super) path: PathBuf,
    pub(super) tensors: BTreeMap<String, Vec<usize>>,
    format: Format,
}

enum Format {
    Safetensors { infos: BTreeMap<String, TensorInfo>, data_start: u64 },
    Pickle(PthTensors),
}

impl TensorFile {
    /// Reads the header of a `.safetensors` file, or the index of a zip pickle (`.ckpt`, `.pt`, `.pth`, `.bin`).
    pub(super) fn open(path: &Path) -> Result<Self> {
        let mut start = [0u8; 8];
        let mut file = File::open(path).map_err(|e| Error::file(path, e))?;
        file.read_exact(&mut start).map_err(|_| Error::file(path, "too short to hold tensors"))?;
        if start.starts_with(b"PK\x03\x04") {
            Self::open_pickle(path)
        } else if start.first() == Some(&0x80) && path.extension().is_none_or(|e| e != "safetensors") {
            Err(Error::file(
                path,
                "a pickle of PyTorch before 1.6, which is not read; save it again as safetensors: python -c \
                 'import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], map_location=\"cpu\"); \
                 save_file({k: v.contiguous() for k, v in d.get(\"state_dict\", d).items() if torch.is_tensor(v)}, sys.argv[2])' IN OUT",
            ))
        } else {
            Self::open_safetensors(path, file, u64::from_le_bytes(start))
        }
    }

    fn open_safetensors(path: &Path, mut file: File, header: u64) -> Result<Self> {
        let size = file.metadata().map_err(|e| Error::file(path, e))?.len();
        if header > MAX_HEADER || header + 8 > size {
            return Err(Error::file(path, "neither a safetensors file nor a zip checkpoint, or cut short; fetch it again"));
        }
        let mut text = vec![0; header as usize];
        file.read_exact(&mut text).map_err(|e| Error::file(path, e))?;
        let bad = |e: &dyn std::fmt::Display| Error::file(path, format!("damaged safetensors header: {e}; fetch the file again"));
        let entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&text).map_err(|e| bad(&e))?;
        let mut infos = BTreeMap::new();
        for (name, entry) in entries.into_iter().filter(|(name, _)| name != "__metadata__") {
            let info: TensorInfo = serde_json::from_value(entry).map_err(|e| bad(&format!("{name}: {e}")))?;
            let bytes = info.shape.iter().try_fold(info.dtype.bitsize(), |n, &d| n.checked_mul(d)).map(|bits| bits / 8);
            let (from, to) = info.data_offsets;
            if to.checked_sub(from) != bytes || (to as u64) > size - 8 - header {
                return Err(bad(&format!("{name}: bytes {from}..{to} do not hold {:?} {:?}", info.dtype, info.shape)));
            }
            infos.insert(name, info);
        }
        let tensors = infos.iter().map(|(name, info)| (name.clone(), info.shape.clone())).collect();
        Ok(TensorFile { path: path.to_path_buf(), tensors, format: Format::Safetensors { infos, data_start: 8 + header } })
    }

    /// Pickles are a program for a stack machine. The reader used here interprets its data operations only: a
    /// reference to a Python class becomes a name, a call becomes a record of its arguments, and of those only
    /// tensors are looked at. Nothing is imported or executed.
    fn open_pickle(path: &Path) -> Result<Self> {
        let entries = pickle::check(path)?;
        // Training checkpoints keep the weights under `state_dict`; plain ones are the dictionary itself.
        let pickle =
            guarded(path, || PthTensors::new(path, Some("state_dict"))).or_else(|_| guarded(path, || PthTensors::new(path, None)))?;
        for (name, info) in pickle.tensor_infos() {
            let elements = info.layout.dims().iter().try_fold(1usize, |n, &d| n.checked_mul(d));
            let bytes = elements.and_then(|n| n.checked_mul(info.dtype.size_in_bytes())).map(|n| n as u64);
            if bytes.is_none_or(|bytes| entries.get(&info.path).is_none_or(|entry| bytes > *entry)) {
                let problem = format!("damaged checkpoint: {name} {:?} is not in it; fetch the file again", info.layout.dims());
                return Err(Error::file(path, problem));
            }
        }
        let tensors: BTreeMap<_, _> =
            pickle.tensor_infos().iter().map(|(name, info)| (name.clone(), info.layout.dims().to_vec())).collect();
        if tensors.is_empty() {
            return Err(Error::file(path, "no tensors in this pickle; expected a state_dict"));
        }
        Ok(TensorFile { path: path.to_path_buf(), tensors, format: Format::Pickle(pickle) })
    }

    /// Reads one tensor to the CPU in its stored type.
    pub(super) fn read(&self, name: &str) -> Result<Tensor> {
        let absent = || Error::file(&self.path, format!("no tensor {name}"));
        match &self.format {
            Format::Pickle(pickle) => guarded(&self.path, || pickle.get(name))?.ok_or_else(absent),
            Format::Safetensors { infos, data_start } => {
                let info = infos.get(name).ok_or_else(absent)?;
                let cut = |e| Error::file(&self.path, format!("tensor {name}: {e}; fetch the file again"));
                let mut file = File::open(&self.path).map_err(cut)?;
                file.seek(SeekFrom::Start(data_start + info.data_offsets.0 as u64)).map_err(cut)?;
                let mut bytes = vec![0; info.data_offsets.1 - info.data_offsets.0];
                file.read_exact(&mut bytes).map_err(cut)?;
                let dtype = DType::try_from(info.dtype)?;
                Ok(Tensor::from_raw_buffer(&bytes, dtype, &info.shape, &Device::Cpu)?)
            }
        }
    }
}

/// Runs the pickle reader; it indexes into what it reads without checks, so a damaged file can make it panic.
fn guarded<T>(path: &Path, read: impl FnOnce() -> candle_core::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => Err(Error::file(path, format!("pickle cannot be read: {e}"))),
        Err(_) => Err(Error::file(path, "damaged pickle; fetch the file again, or use a safetensors file")),
    }
}

/// File names of a Hugging Face folder, in order of preference.
const NAMES: [&str; 8] = [
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
];

/// The weight files that a path means: itself, or those of a diffusers or HF model folder (sharded ones by their index).
pub(super) fn weight_files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    for name in NAMES {
        let index = path.join(index_name(name));
        if index.is_file() {
            return indexed_files(&index);
        }
        let file = path.join(name);
        if file.is_file() {
            return Ok(vec![file]);
        }
    }
    Err(Error::file(path, format!("no weights in this folder; expected one of {}", NAMES.join(", "))))
}

/// `model.fp16.safetensors` -> `model.safetensors.index.fp16.json`, as Hugging Face names them.
fn index_name(name: &str) -> String {
    match name.split_once(".fp16.") {
        Some((stem, extension)) => format!("{stem}.{extension}.index.fp16.json"),
        None => format!("{name}.index.json"),
    }
}

fn indexed_files(index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read(index).map_err(|e| Error::file(index, e))?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|e| Error::file(index, e))?;
    let names: std::collections::BTreeSet<&String> = parsed.weight_map.values().collect();
    let folder = index.parent().unwrap_or(Path::new("."));
    names
        .into_iter()
        .map(|name| match Path::new(name).file_name() {
            Some(plain) if plain == name.as_str() => Ok(folder.join(name)),
            _ => Err(Error::file(index, format!("weight_map names {name:?}, which is not a file of this folder"))),
        })
        .collect()
}

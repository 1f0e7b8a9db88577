//! The named tensors of one checkpoint, handed to a model with strict accounting.
//!
//! A model is built over a `VarBuilder` that writes down what it is asked for. Whatever is then missing, misshapen
//! or left over is reported in one go, by the names in the file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;

use super::checkpoint::{TensorFile, weight_files};
use super::error::{Error, Mismatch, Problem, Result};

/// Buffers that older library versions saved and no model reads.
const NEVER_READ: [&str; 2] = ["position_ids", "num_batches_tracked"];

/// The tensors of a checkpoint, by name; they are read when a model asks for them.
pub struct Weights {
    files: Vec<TensorFile>,
    /// Tensor name -> index into `files`.
    names: BTreeMap<String, usize>,
}

/// Where a model's tensor lies in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    name: String,
    part: Option<(usize, usize)>,
    transposed: bool,
}

impl Place {
    /// The whole tensor `name`.
    pub fn named(name: impl Into<String>) -> Self {
        Place { name: name.into(), part: None, transposed: false }
    }

    /// The `index`-th of `count` equal parts along the first dimension (fused q, k, v).
    pub fn part(self, index: usize, count: usize) -> Self {
        Place { part: Some((index, count)), ..self }
    }

    /// The transpose: the file stores [in, out] where the model wants [out, in].
    pub fn transposed(self) -> Self {
        Place { transposed: true, ..self }
    }

    /// The shape that the file must have for the model to get `wanted`.
    fn stored_shape(&self, wanted: &[usize]) -> Vec<usize> {
        let mut shape = wanted.to_vec();
        if self.transposed {
            shape.reverse();
        }
        if let (Some((_, count)), Some(first)) = (self.part, shape.first_mut()) {
            *first *= count;
        }
        shape
    }

    fn take(&self, stored: Tensor) -> candle_core::Result<Tensor> {
        let part = match self.part {
            Some((index, count)) => {
                let rows = stored.dim(0)? / count;
                stored.narrow(0, index * rows, rows)?
            }
            None => stored,
        };
        if self.transposed { part.t()?.contiguous() } else { part.contiguous() }
    }
}

impl Weights {
    /// Opens a `.safetensors` file, a zip pickle (`.ckpt`, `.pt`, `.bin`; never executed), or a diffusers or HF model
    /// folder, sharded or not. Only headers are read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_files(&weight_files(path)?)
    }

    /// Opens several files as one checkpoint; a tensor in two of them is an error.
    pub fn open_files(paths: &[PathBuf]) -> Result<Self> {
        let files = paths.iter().map(|path| TensorFile::open(path)).collect::<Result<Vec<_>>>()?;
        let mut names = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
                if names.insert(name.clone(), i).is_some() {
                    return Err(Error::file(&file.path, format!("tensor {name} is also in another file of this checkpoint")));
                }
            }
        }
        Ok(Weights { files, names })
    }

    /// All tensor names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The stored shape of a tensor.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        let file = self.files.get(*self.names.get(name)?)?;
        file.tensors.get(name).map(Vec::as_slice)
    }

    /// True when a tensor's name starts with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.names.range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// The file that holds the tensor, or the first one, for messages.
    pub fn file(&self, name: &str) -> PathBuf {
        let file = self.names.get(name).and_then(|&i| self.files.get(i)).or(self.files.first());
        file.map(|f| f.path.clone()).unwrap_or_default()
    }

    /// Reads one tensor to the CPU in its stored type.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        match self.names.get(name).and_then(|&i| self.files.get(i)) {
            Some(file) => file.read(name),
            None => Err(Error::file(&self.file(name), format!("no tensor {name}"))),
        }
    }

    /// The tensors under `prefix` (such as `first_stage_model.`; empty for all), as one model named `model` in messages.
    pub fn select<'a>(&'a self, model: &str, prefix: &str) -> Selection<'a> {
        Selection {
            weights: self,
            model: model.to_string(),
            prefix: prefix.to_string(),
            place: Box::new(|name| Place::named(name)),
            ignored: NEVER_READ.to_vec(),
        }
    }
}

type Renamer<'a> = Box<dyn Fn(&str) -> Place + Send + Sync + 'a>;

/// The tensors of one model within a checkpoint, and how the model's names map to the file's.
pub struct Selection<'a> {
    weights: &'a Weights,
    model: String,
    prefix: String,
    place: Renamer<'a>,
    ignored: Vec<&'a str>,
}

impl<'a> Selection<'a> {
    /// Maps each name that the model asks for to its place in the file (below the prefix).
    pub fn placed(self, place: impl Fn(&str) -> Place + Send + Sync + 'a) -> Self {
        Selection { place: Box::new(place), ..self }
    }

    /// Tensors that may be left over. `loss.` means all below it; `logvar` means the tensor of that name at any depth.
    pub fn ignoring(mut self, names: &[&'a str]) -> Self {
        self.ignored.extend(names);
        self
    }

    /// Builds a model from these tensors, cast to `dtype` on `device`.
    ///
    /// A stored shape that differs only in trailing ones (a 1x1 convolution for a linear layer and the other way round)
    /// is reshaped. Errors: [`Error::Mismatch`] with every missing, extra and misshapen tensor; what `build` itself fails with.
    pub fn build<M>(self, dtype: DType, device: &Device, build: impl FnOnce(VarBuilder) -> candle_core::Result<M>) -> Result<M> {
        let ledger = Arc::new(Mutex::new(Ledger::default()));
        let model = self.model.clone();
        let built = {
            let backend = Recorder { selection: &self, ledger: ledger.clone() };
            build(VarBuilder::new_with_args(Box::new(backend), dtype, device))
        };
        let mut ledger = std::mem::take(&mut *ledger.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(failure) = ledger.failure {
            return Err(failure);
        }
        if built.is_ok() {
            ledger.problems.extend(self.left_over(&ledger.used));
        }
        if ledger.problems.is_empty() { Ok(built?) } else { Err(Mismatch { model, problems: ledger.problems }.into()) }
    }

    fn stored_place(&self, name: &str) -> Place {
        let place = (self.place)(name);
        Place { name: format!("{}{}", self.prefix, place.name), ..place }
    }

    fn left_over(&self, used: &BTreeSet<String>) -> Vec<Problem> {
        self.weights
            .names()
            .filter_map(|name| Some((name, name.strip_prefix(&self.prefix)?)))
            .filter(|(name, short)| !used.contains(*name) && !self.is_ignored(short))
            .map(|(name, _)| Problem::Extra {
                name: name.to_string(),
                found: self.weights.shape(name).unwrap_or_default().to_vec(),
                file: self.weights.file(name),
            })
            .collect()
    }

    fn is_ignored(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| match ignored.strip_suffix('.') {
            Some(_) => name.starts_with(ignored),
            None => name.strip_suffix(ignored).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')),
        })
    }
}

/// What a model asked for while it was built.
#[derive(Default)]
struct Ledger {
    used: BTreeSet<String>,
    problems: Vec<Problem>,
    /// The first error of reading a file; it outranks all others.
    failure: Option<Error>,
}

struct Recorder<'a> {
    selection: &'a Selection<'a>,
    ledger: Arc<Mutex<Ledger>>,
}

impl Recorder<'_> {
    /// Looks the tensor up and notes the request; `None` after noting a problem.
    fn find(&self, name: &str, expected: Option<&[usize]>) -> candle_core::Result<Option<Tensor>> {
        let place = self.selection.stored_place(name);
        let weights = self.selection.weights;
        let expected = expected.map(|shape| place.stored_shape(shape));
        let mut ledger = self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        ledger.used.insert(place.name.clone());
        let file = weights.file(&place.name);
        let problem = match (weights.shape(&place.name), expected) {
            (None, expected) => Problem::Missing { name: place.name.clone(), expected, file },
            (Some(found), Some(expected)) if without_ones(found) != without_ones(&expected) => {
                Problem::Shape { name: place.name.clone(), expected, found: found.to_vec(), file }
            }
            (Some(_), expected) => match weights.read(&place.name) {
                Ok(stored) => {
                    let stored = expected.map_or(Ok(stored.clone()), |shape| stored.reshape(shape))?;
                    return place.take(stored).map(Some);
                }
                Err(failure) => {
                    let message = failure.to_string();
                    ledger.failure.get_or_insert(failure);
                    candle_core::bail!("{message}")
                }
            },
        };
        ledger.problems.push(problem);
        Ok(None)
    }
}

/// A shape without its trailing ones.
fn without_ones(shape: &[usize]) -> &[usize] {
    let kept = shape.iter().rposition(|&d| d != 1).map_or(0, |last| last + 1);
    shape.get(..kept).unwrap_or(shape)
}

impl SimpleBackend for Recorder<'_> {
    fn get(&self, shape: Shape, name: &str, _: candle_nn::Init, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.find(name, Some(shape.dims()))? {
            Some(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            // A stand-in of one number, so that building goes on and finds the other problems.
            None => Tensor::zeros((), dtype, device)?.broadcast_as(shape),
        }
    }

    fn get_unchecked(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        match self.find(name, None)? {
            Some(tensor) => tensor.to_device(device)?.to_dtype(dtype),
            None => Tensor::zeros((), dtype, device),
        }
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.selection.weights.shape(&self.selection.stored_place(name).name).is_some()
    }
}

#[cfg(test)]
mod tests;

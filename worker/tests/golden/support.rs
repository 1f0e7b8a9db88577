//! Reading files of cases, comparing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;

pub fn json<T: DeserializeOwned>(path: &Path) -> T {
    let text = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The tensors of one reference file.
pub struct Reference {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Reference {
    pub fn open(path: &Path) -> Self {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Reference { path: path.to_path_buf(), tensors: tensors.into_iter().collect() }
    }

    pub fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    pub fn get(&self, name: &str) -> &Tensor {
        self.find(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.path.display()))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn f32s(&self, name: &str) -> Vec<f32> {
        self.get(name).to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        self.get(name).flatten_all().unwrap().to_vec1().unwrap()
    }

    /// Asserts that `actual` has the shape of tensor `name` and differs from it by at most `tolerance` anywhere.
    pub fn assert_close(&self, name: &str, actual: &Tensor, tolerance: f32) {
        let expected = self.get(name);
        let what = format!("{}: {name}", self.path.display());
        assert_eq!(actual.dims(), expected.dims(), "{what}: shape");
        let difference = max_difference(actual, expected);
        println!("{what}: max abs difference {difference:.2e}, tolerance {tolerance:.0e}");
        assert!(difference <= tolerance, "{what}: max abs difference {difference:e} > {tolerance:e}");
    }
}

pub fn max_difference(a: &Tensor, b: &Tensor) -> f32 {
    let flat = |t: &Tensor| t.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    max_abs(&flat(a), &flat(b))
}

/// The largest difference; NaN anywhere is infinite.
pub fn max_abs(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |most, d| if d.is_nan() { f32::INFINITY } else { most.max(d) })
}

/// Asserts that bytes differ by at most 1, and at most the fraction `share` of them at all.
pub fn assert_bytes(what: &str, actual: &[u8], expected: &[u8], share: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: size");
    let differing = actual.iter().zip(expected).filter(|(a, e)| a != e).count();
    let largest = actual.iter().zip(expected).map(|(a, e)| a.abs_diff(*e)).max().unwrap_or(0);
    assert!(largest <= 1, "{what}: bytes differ by up to {largest}");
    assert!(differing as f64 <= share * expected.len() as f64, "{what}: {differing} of {} bytes differ", expected.len());
}

/// Asserts that a JSON text has this number at this key somewhere. Both sides write the shortest decimals that give the
/// same fp64 number, so this is exact where parsing the text would round.
pub fn assert_written(json: &str, key: &str, value: f64) {
    let written = format!("\"{key}\": {value:?}");
    assert!(json.contains(&written), "{written} is not in the reference");
}

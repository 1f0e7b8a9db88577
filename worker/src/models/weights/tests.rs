use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::*;

fn tensor(shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>() as f32;
    Tensor::arange(0f32, n, &Device::Cpu).unwrap().reshape(shape).unwrap()
}

fn save(path: &Path, tensors: &[(&str, &[usize])]) {
    let map: HashMap<String, Tensor> = tensors.iter().map(|(name, shape)| (name.to_string(), tensor(shape))).collect();
    candle_core::safetensors::save(&map, path).unwrap();
}

fn linear_and_norm(vb: VarBuilder) -> candle_core::Result<(Tensor, Tensor, Tensor)> {
    let linear = vb.pp("linear");
    Ok((linear.get((2, 3), "weight")?, linear.get(2, "bias")?, vb.get(4, "norm.weight")?))
}

#[test]
fn exact_tensors_are_loaded_and_cast() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    save(&path, &[("m.linear.weight", &[2, 3, 1, 1]), ("m.linear.bias", &[2]), ("m.norm.weight", &[4]), ("other.x", &[1])]);
    let weights = Weights::open(&path).unwrap();
    let (weight, bias, norm) = weights.select("test", "m.").build(DType::F64, &Device::Cpu, linear_and_norm).unwrap();
    assert_eq!(weight.dims(), [2, 3], "a 1x1 convolution serves as a linear layer");
    assert_eq!(weight.dtype(), DType::F64);
    assert_eq!(bias.to_vec1::<f64>().unwrap(), [0.0, 1.0]);
    assert_eq!(norm.dims(), [4]);
}

#[test]
fn every_problem_is_listed_by_the_name_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    save(
        &path,
        &[("m.linear.weight", &[2, 5]), ("m.linear.bias", &[2]), ("m.surplus", &[7]), ("m.loss.logvar", &[]), ("m.a.position_ids", &[3])],
    );
    let weights = Weights::open(&path).unwrap();
    let selection = weights.select("test", "m.").ignoring(&["loss."]);
    let error = selection.build(DType::F32, &Device::Cpu, linear_and_norm).unwrap_err();
    let Error::Mismatch(mismatch) = &error else { panic!("{error}") };
    let file = path.clone();
    assert_eq!(
        mismatch.problems,
        [
            Problem::Shape { name: "m.linear.weight".into(), expected: vec![2, 3], found: vec![2, 5], file: file.clone() },
            Problem::Missing { name: "m.norm.weight".into(), expected: Some(vec![4]), file: file.clone() },
            Problem::Extra { name: "m.surplus".into(), found: vec![7], file },
        ]
    );
    let text = error.to_string();
    for part in
        ["3 tensors", "m.linear.weight is [2, 5], expected [2, 3]", "missing: m.norm.weight [4]", "extra: m.surplus [7]", "w.safetensors"]
    {
        assert!(text.contains(part), "{part:?} not in {text}");
    }
}

#[test]
fn fused_and_transposed_tensors_are_taken_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    save(&path, &[("qkv", &[6, 2]), ("proj", &[3, 2])]);
    let weights = Weights::open(&path).unwrap();
    let place = |name: &str| match name {
        "q" => Place::named("qkv").part(0, 3),
        "v" => Place::named("qkv").part(2, 3),
        name => Place::named(name).transposed(),
    };
    let build = |vb: VarBuilder| Ok((vb.get((2, 2), "q")?, vb.get((2, 2), "v")?, vb.get((2, 3), "proj")?));
    let (q, v, proj) = weights.select("test", "").placed(place).build(DType::F32, &Device::Cpu, build).unwrap();
    assert_eq!(q.to_vec2::<f32>().unwrap(), [[0.0, 1.0], [2.0, 3.0]]);
    assert_eq!(v.to_vec2::<f32>().unwrap(), [[8.0, 9.0], [10.0, 11.0]]);
    assert_eq!(proj.to_vec2::<f32>().unwrap(), [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]);
}

#[test]
fn a_folder_is_read_through_its_index_or_its_only_file() {
    let dir = tempfile::tempdir().unwrap();
    save(&dir.path().join("a.safetensors"), &[("x", &[1])]);
    save(&dir.path().join("b.safetensors"), &[("y", &[2])]);
    assert!(matches!(Weights::open(dir.path()), Err(Error::File { problem, .. }) if problem.contains("model.safetensors")));
    let index = dir.path().join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"metadata":{},"weight_map":{"x":"a.safetensors","y":"b.safetensors"}}"#).unwrap();
    let weights = Weights::open(dir.path()).unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["x", "y"]);
    assert!(weights.has_prefix("y") && !weights.has_prefix("z"));
    std::fs::write(&index, r#"{"weight_map":{"x":"../a.safetensors"}}"#).unwrap();
    assert!(matches!(Weights::open(dir.path()), Err(Error::File { problem, .. }) if problem.contains("../a.safetensors")));
    std::fs::remove_file(&index).unwrap();
    save(&dir.path().join("diffusion_pytorch_model.fp16.safetensors"), &[("z", &[2])]);
    assert_eq!(Weights::open(dir.path()).unwrap().names().collect::<Vec<_>>(), ["z"]);
}

#[test]
fn damaged_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    save(&path, &[("x", &[100])]);
    let whole = std::fs::read(&path).unwrap();
    let refusal = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Weights::open(&path).err().map(|e| e.to_string()).unwrap_or_default()
    };
    assert!(refusal("cut.safetensors", &whole[..whole.len() - 1]).contains("cut.safetensors: damaged safetensors header: x: bytes"));
    assert!(refusal("head.safetensors", &whole[..20]).contains("cut short"));
    assert!(refusal("empty.ckpt", b"").contains("too short"));
    assert!(refusal("old.ckpt", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.").contains("save it again as safetensors"));
    assert!(refusal("zip.ckpt", b"PK\x03\x04 and nothing like a zip").contains("zip.ckpt: damaged checkpoint"));
}

//! The autoencoder from every file format and naming, and the conversion to bytes.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use ip2p_worker::images::Rgb8;
use ip2p_worker::models::Weights;
use ip2p_worker::models::vae::{Vae, VaeConfig, each_image, to_unit};

use super::place::{case, file, files, runs};
use super::support::{Reference, assert_bytes};

const TOLERANCE: f32 = 3e-5;

/// The autoencoder of a case folder, from `file` of it.
pub fn load(folder: &Path, file: &Path) -> Vae {
    let config = VaeConfig::read(&folder.join("config.json")).unwrap();
    Vae::load(config, &Weights::open(file).unwrap(), DType::F32, &Device::Cpu).unwrap()
}

fn all(folder: &Path) -> Vec<(PathBuf, Vae)> {
    let mut found = files(folder, "vae", ".safetensors");
    found.extend(files(folder, "vae", ".ckpt"));
    assert!(!found.is_empty(), "no vae*.safetensors in {}", folder.display());
    found.into_iter().map(|file| (file.clone(), load(folder, &file))).collect()
}

#[test]
fn golden_vae() {
    let Some(folder) = case("vae") else { return };
    let runs = runs("vae", "io");
    if runs.is_empty() {
        return;
    }
    for (_, vae) in all(&folder) {
        for run in &runs {
            let io = Reference::open(run);
            let sets: Vec<String> = io.names().filter_map(|name| name.strip_suffix(".z")).map(String::from).collect();
            assert!(!sets.is_empty(), "{}: no set of tensors", run.display());
            sets.iter().for_each(|set| check(&vae, &io, set));
        }
    }
}

fn check(vae: &Vae, io: &Reference, set: &str) {
    let name = |tensor: &str| format!("{set}.{tensor}");
    let image = io.get(&name("image"));
    let moments = vae.moments(image).unwrap();
    io.assert_close(&name("moments"), &moments, TOLERANCE);
    // The pipeline takes the mode of the distribution and never draws from it; these say which half of the moments is which.
    let logvar = moments.chunk(2, 1).unwrap()[1].clamp(-30.0, 20.0).unwrap();
    io.assert_close(&name("logvar"), &logvar, TOLERANCE);
    io.assert_close(&name("std"), &(logvar * 0.5).unwrap().exp().unwrap(), TOLERANCE);
    let mode = vae.encode_mode(image).unwrap();
    io.assert_close(&name("mode"), &mode, TOLERANCE);
    io.assert_close(&name("mode_scaled"), &(mode * vae.config().scaling_factor).unwrap(), TOLERANCE);
    let decoded = vae.decode(io.get(&name("z"))).unwrap();
    io.assert_close(&name("decoded"), &decoded, TOLERANCE);
    let unit = to_unit(&decoded).unwrap();
    io.assert_close(&name("clamped"), &unit, TOLERANCE);
    let bytes: Vec<u8> = each_image(&unit).unwrap().iter().flat_map(|image| Rgb8::from_tensor(image).unwrap().bytes).collect();
    assert_bytes(&name("u8"), &bytes, &io.bytes(&name("u8")), 0.001);
}

#[test]
fn golden_vae_bytes() {
    let Some(file) = file("vae", "to_u8.safetensors") else { return };
    let io = Reference::open(&file);
    assert_eq!(Rgb8::from_tensor(io.get("image")).unwrap().bytes, io.bytes("u8"));
    assert_eq!(Rgb8::from_tensor(io.get("image_f16")).unwrap().bytes, io.bytes("u8_from_f16"));
}

/// The sizes that a single file in the original naming shows are those of the configuration.
#[test]
fn golden_vae_sizes_from_shapes() {
    let (Some(folder), Some(config)) = (case("vae"), file("vae", "config.json")) else { return };
    let config = VaeConfig::read(&config).unwrap();
    for file in ["vae_ldm.safetensors", "vae_unprefixed.ckpt"].map(|file| folder.join(file)).into_iter().filter(|file| file.is_file()) {
        let vae = Vae::open(&file, DType::F32, &Device::Cpu).unwrap();
        // No tensor shows the scaling factor.
        let mut inferred = vae.config().clone();
        inferred.scaling_factor = config.scaling_factor;
        assert_eq!(inferred, config, "{}", file.display());
    }
}

/// Folders published by diffusers before 0.17 name the attention's layers differently.
#[test]
fn golden_vae_with_early_names() {
    let (Some(folder), Some(weights)) = (case("vae"), file("vae", "vae_diffusers.safetensors")) else { return };
    let Some(run) = runs("vae", "io").into_iter().next() else { return };
    let tensors = candle_core::safetensors::load(weights, &Device::Cpu).unwrap();
    let early = |name: &str| name.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value").replace("to_out.0", "proj_attn");
    let renamed = tensors.into_iter().map(|(name, tensor)| (early(&name), tensor)).collect();
    let dir = tempfile::tempdir().unwrap();
    candle_core::safetensors::save(&renamed, dir.path().join("diffusion_pytorch_model.safetensors")).unwrap();
    std::fs::copy(folder.join("config.json"), dir.path().join("config.json")).unwrap();
    let vae = Vae::open(dir.path(), DType::F32, &Device::Cpu).unwrap();
    let io = Reference::open(&run);
    let set = io.names().find_map(|name| name.strip_suffix(".z")).unwrap().to_string();
    io.assert_close(&format!("{set}.mode"), &vae.encode_mode(io.get(&format!("{set}.image"))).unwrap(), TOLERANCE);
    io.assert_close(&format!("{set}.decoded"), &vae.decode(io.get(&format!("{set}.z"))).unwrap(), TOLERANCE);
}

//! One call of the UNet, Prompt-to-Prompt off and on, from both namings.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use ip2p_worker::models::unet::{Part, Rows, UNet, UNetConfig};
use ip2p_worker::models::{Weights, error::Error};

use super::place::{case, file, files, runs};
use super::support::{Reference, json, max_difference};

const TOLERANCE: f32 = 5e-5;

/// A UNet of a case folder: `config.json` gives the sizes, `file` the tensors.
pub fn load(folder: &Path, file: &Path) -> UNet {
    let config = UNetConfig::read(&folder.join("config.json")).unwrap();
    UNet::load(config, &Weights::open(file).unwrap(), false, DType::F32, &Device::Cpu).unwrap()
}

/// All UNets of a case folder, one for each naming.
pub fn all(folder: &Path) -> Vec<(PathBuf, UNet)> {
    let found = files(folder, "unet_", ".safetensors");
    assert!(!found.is_empty(), "no unet_*.safetensors in {}", folder.display());
    found.into_iter().map(|file| (file.clone(), load(folder, &file))).collect()
}

fn first_run() -> Option<Reference> {
    runs("unet_p2p", "io").first().map(|run| Reference::open(run))
}

/// Rows of a reference batch of one pair, each with a context of its own: the second half of each half follows the first.
fn rows(b: usize, p2p: bool) -> Rows {
    let half = b / 2;
    let pairs = [0, half].into_iter().flat_map(|start| (0..half / 2).map(move |i| (start + i, start + half / 2 + i)));
    Rows { texts: (0..b).map(|text| (text, 1)).collect(), shared: if p2p { pairs.collect() } else { vec![] } }
}

#[test]
fn golden_unet() {
    let Some(folder) = case("unet_p2p") else { return };
    let runs = runs("unet_p2p", "io");
    for (_, unet) in all(&folder) {
        for run in &runs {
            let io = Reference::open(run);
            let x = io.get("x");
            let b = x.dim(0).unwrap();
            let text = unet.text_context(io.get("context")).unwrap();
            for (t, out) in [("timesteps", "out"), ("timesteps_b", "out_b")] {
                let Some(t) = io.find(t) else { continue };
                let off = unet.forward(x, t, &text, &rows(b, false)).unwrap();
                let on = unet.forward(x, t, &text, &rows(b, true)).unwrap();
                io.assert_close(&format!("{out}_p2p_off"), &off, TOLERANCE);
                io.assert_close(&format!("{out}_p2p_on"), &on, TOLERANCE);
            }
        }
    }
}

/// Values inside the network, where the reference has them, so that a wrong output names the part that is wrong.
#[test]
fn golden_unet_inside() {
    let Some(folder) = case("unet_p2p") else { return };
    let mut compared = 0;
    for (_, unet) in all(&folder) {
        for run in runs("unet_p2p", "io") {
            let io = Reference::open(&run);
            let text = unet.text_context(io.get("context")).unwrap();
            for (p2p, ending) in [(false, "p2p_off"), (true, "p2p_on")] {
                let mut see = |part: Part, found: &Tensor| {
                    let name = format!("dbg_{}.{ending}", original_name(part));
                    let Some(expected) = io.find(&name) else { return };
                    // The outputs' tolerance, which is for values of order 1.
                    let largest = max_difference(expected, &expected.zeros_like().unwrap());
                    io.assert_close(&name, found, TOLERANCE * largest.max(1.0));
                    compared += 1;
                };
                let x = io.get("x");
                unet.forward_seen(x, io.get("timesteps"), &text, &rows(x.dim(0).unwrap(), p2p), &mut see).unwrap();
            }
            let known = io.names().filter(|name| name.starts_with("dbg_")).count();
            assert_eq!(std::mem::take(&mut compared), known, "{}: a dbg_ tensor was not compared", run.display());
        }
    }
}

fn original_name(part: Part) -> String {
    match part {
        Part::Sinusoids => "timestep_embedding".to_string(),
        Part::Time => "time_embed".to_string(),
        Part::Down(i) => format!("input_blocks.{i}"),
        Part::Middle => "middle_block".to_string(),
        Part::Up(i) => format!("output_blocks.{i}"),
    }
}

/// A pair that shares beside one that does not, in one batch: as each alone.
#[test]
fn golden_unet_mixed_rows() {
    let Some(folder) = case("unet_p2p") else { return };
    let (_, unet) = all(&folder).swap_remove(0);
    let Some(io) = first_run() else { return };
    let text = unet.text_context(io.get("context")).unwrap();
    let mut mixed = rows(4, true);
    mixed.shared.remove(0);
    let out = unet.forward(io.get("x"), io.get("timesteps"), &text, &mixed).unwrap();
    for (row, name) in [(0, "out_p2p_off"), (1, "out_p2p_off"), (2, "out_p2p_on"), (3, "out_p2p_on")] {
        let difference = max_difference(&out.get(row).unwrap(), &io.get(name).get(row).unwrap());
        assert!(difference <= TOLERANCE, "row {row}: {difference:e}");
    }
}

/// Sizes read from the shapes of the original naming are those of the configuration, except for the number of heads.
#[test]
fn golden_unet_sizes_from_shapes() {
    let (Some(folder), Some(ldm), Some(params)) =
        (case("unet_p2p"), file("unet_p2p", "unet_ldm.safetensors"), file("unet_p2p", "ldm_unet_params.json"))
    else {
        return;
    };
    let weights = Weights::open(&ldm).unwrap();
    let mut inferred = UNetConfig::infer(&weights, "model.diffusion_model.").unwrap();
    let config = UNetConfig::read(&folder.join("config.json")).unwrap();
    let params: serde_json::Value = json(&params);
    assert_eq!(params["model_channels"], config.levels[0].channels);
    inferred.levels.iter_mut().zip(&config.levels).for_each(|(inferred, level)| inferred.heads = level.heads);
    assert_eq!(inferred, config);
}

/// A configuration of other sizes is refused with the names and shapes that do not fit.
#[test]
fn golden_unet_of_other_sizes_is_refused() {
    let (Some(folder), Some(file)) = (case("unet_p2p"), file("unet_p2p", "unet_diffusers.safetensors")) else { return };
    let mut config = UNetConfig::read(&folder.join("config.json")).unwrap();
    let missing = format!("missing: down_blocks.0.resnets.{}.conv1.weight", config.layers_per_block);
    config.layers_per_block += 1;
    config.context_width += 8;
    let weights = Weights::open(&file).unwrap();
    let error = UNet::load(config, &weights, false, DType::F32, &Device::Cpu).err().unwrap();
    let Error::Mismatch(mismatch) = error else { panic!("{error}") };
    let text = mismatch.to_string();
    assert!(text.contains("attn2.to_k.weight is ["), "{text}");
    assert!(mismatch.problems.iter().any(|p| p.to_string().starts_with(&missing)), "{text}");
}

/// Moving averages of a training checkpoint: their names have lost all dots but the first.
#[test]
fn golden_unet_from_averages() {
    let (Some(folder), Some(ldm)) = (case("unet_p2p"), file("unet_p2p", "unet_ldm.safetensors")) else { return };
    let tensors = candle_core::safetensors::load(ldm, &Device::Cpu).unwrap();
    let averaged = |name: &str| format!("model_ema.{}", name.strip_prefix("model.").unwrap().replace('.', ""));
    let mut file: HashMap<String, Tensor> = tensors.iter().map(|(name, tensor)| (averaged(name), tensor.clone())).collect();
    file.insert("model_ema.num_updates".into(), Tensor::zeros((), DType::U8, &Device::Cpu).unwrap());
    // The plain weights differ, so that taking them would show.
    file.extend(tensors.into_iter().map(|(name, tensor)| (name, tensor.zeros_like().unwrap())));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("checkpoint.safetensors");
    candle_core::safetensors::save(&file, &path).unwrap();
    let config = UNetConfig::read(&folder.join("config.json")).unwrap();
    let Some(io) = first_run() else { return };
    for (averages, zero) in [(true, false), (false, true)] {
        let unet = UNet::load(config.clone(), &Weights::open(&path).unwrap(), averages, DType::F32, &Device::Cpu).unwrap();
        let text = unet.text_context(io.get("context")).unwrap();
        let out = unet.forward(io.get("x"), io.get("timesteps"), &text, &rows(4, false)).unwrap();
        if zero {
            assert_eq!(max_difference(&out, &out.zeros_like().unwrap()), 0.0);
        } else {
            io.assert_close("out_p2p_off", &out, TOLERANCE);
        }
    }
}

/// Rows that do not describe the batch, and text states of another model, are refused before any computation.
#[test]
fn golden_unet_refuses_wrong_rows() {
    let Some(folder) = case("unet_p2p") else { return };
    let (_, unet) = all(&folder).swap_remove(0);
    let Some(io) = first_run() else { return };
    let text = unet.text_context(io.get("context")).unwrap();
    let wrong = [
        Rows { texts: vec![(0, 3)], shared: vec![] },
        Rows { texts: vec![(4, 4)], shared: vec![] },
        Rows { texts: vec![(0, 4)], shared: vec![(0, 4)] },
        Rows { texts: vec![(0, 4)], shared: vec![(0, 1), (1, 2)] },
    ];
    for rows in wrong {
        let error = unet.forward(io.get("x"), io.get("timesteps"), &text, &rows).unwrap_err();
        assert!(matches!(error, Error::Input(_)), "{rows:?}: {error}");
    }
    let narrow = io.get("context").narrow(2, 0, 8).unwrap();
    assert!(matches!(unet.text_context(&narrow), Err(Error::Input(_))));
}

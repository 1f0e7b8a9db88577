//! The sizes of an autoencoder, and its names in the other two namings.

use std::path::Path;

use serde::Deserialize;

use super::super::error::{Error, Result};
use super::super::weights::Weights;

/// The sizes of an AutoencoderKL.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VaeConfig {
    pub in_channels: usize,
    pub out_channels: usize,
    /// Channels of each level, from the image to the latents.
    pub block_out_channels: Vec<usize>,
    pub layers_per_block: usize,
    pub latent_channels: usize,
    #[serde(default = "default_groups")]
    pub norm_num_groups: usize,
    /// Latents are multiplied by this for the UNet.
    #[serde(default = "default_scaling")]
    pub scaling_factor: f64,
    shift_factor: Option<f64>,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
}

fn default_groups() -> usize {
    32
}

/// The factor of Stable Diffusion 1.x; its early config files leave it out.
fn default_scaling() -> f64 {
    0.18215
}

fn yes() -> bool {
    true
}

impl VaeConfig {
    /// Reads a diffusers `config.json`.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::file(path, e))?;
        let config: VaeConfig = serde_json::from_slice(&text).map_err(|e| Error::file(path, e))?;
        let refuse = |key: &str, problem: &str| Err(Error::config(path, key, problem));
        if config.shift_factor.is_some_and(|shift| shift != 0.0) {
            return refuse("shift_factor", "not supported: not an autoencoder of Stable Diffusion 1.x");
        }
        if !(config.use_quant_conv && config.use_post_quant_conv && config.mid_block_add_attention) {
            return refuse("use_quant_conv", "false is not supported, nor is mid_block_add_attention: false");
        }
        if config.block_out_channels.is_empty() || config.layers_per_block == 0 {
            return refuse("block_out_channels", "at least one level with at least one layer is needed");
        }
        if config.norm_num_groups == 0 || config.block_out_channels.iter().any(|c| c % config.norm_num_groups != 0) {
            return refuse("block_out_channels", "every entry must be a multiple of norm_num_groups");
        }
        if !(config.scaling_factor.is_finite() && config.scaling_factor > 0.0) {
            return refuse("scaling_factor", "must be positive");
        }
        Ok(config)
    }

    /// Infers the sizes of an autoencoder in the original naming below `prefix`; 32 norm groups and the scaling factor of
    /// Stable Diffusion 1.x. Errors when `weights` has no such autoencoder.
    pub fn infer(weights: &Weights, prefix: &str) -> Result<Self> {
        let dim = |name: &str, axis: usize| weights.shape(&format!("{prefix}{name}")).and_then(|shape| shape.get(axis).copied());
        let known = |name: &str, axis| {
            dim(name, axis).ok_or_else(|| Error::file(&weights.file(""), format!("no tensor {prefix}{name}: no autoencoder in this file")))
        };
        let level = |i: usize, j: usize| dim(&format!("encoder.down.{i}.block.{j}.conv1.weight"), 0);
        known("encoder.down.0.block.0.conv1.weight", 0)?;
        Ok(VaeConfig {
            in_channels: known("encoder.conv_in.weight", 1)?,
            out_channels: known("decoder.conv_out.weight", 0)?,
            block_out_channels: (0..).map_while(|i| level(i, 0)).collect(),
            layers_per_block: (0..).take_while(|&j| level(0, j).is_some()).count(),
            latent_channels: known("post_quant_conv.weight", 1)?,
            norm_num_groups: default_groups(),
            scaling_factor: default_scaling(),
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        })
    }
}

/// The original name of a tensor of the diffusers naming; the original numbers the way up from the image.
pub(super) fn original(levels: usize, name: &str) -> String {
    translate(levels, name).unwrap_or_else(|| name.to_string())
}

fn translate(levels: usize, name: &str) -> Option<String> {
    let (side, rest) = name.split_once('.')?;
    if let Some(rest) = rest.strip_prefix("conv_norm_out.") {
        return Some(format!("{side}.norm_out.{rest}"));
    }
    let parts: Vec<&str> = rest.splitn(5, '.').collect();
    match parts.as_slice() {
        ["mid_block", "resnets", index, rest @ ..] => {
            Some(format!("{side}.mid.block_{}.{}", index.parse::<usize>().ok()? + 1, rest.join(".")))
        }
        ["mid_block", "attentions", "0", rest @ ..] => {
            let rest = rest.join(".").replace("group_norm.", "norm.").replace("to_out.0.", "proj_out.").replace("to_", "");
            Some(format!("{side}.mid.attn_1.{rest}"))
        }
        ["down_blocks", level, "resnets", index, rest] => {
            Some(format!("{side}.down.{level}.block.{index}.{}", rest.replace("conv_shortcut", "nin_shortcut")))
        }
        ["down_blocks", level, "downsamplers", "0", rest] => Some(format!("{side}.down.{level}.downsample.{rest}")),
        ["up_blocks", level, kind, index, rest] => {
            let level = levels.checked_sub(level.parse::<usize>().ok()? + 1)?;
            match *kind {
                "resnets" => Some(format!("{side}.up.{level}.block.{index}.{}", rest.replace("conv_shortcut", "nin_shortcut"))),
                _ => Some(format!("{side}.up.{level}.upsample.{rest}")),
            }
        }
        _ => None,
    }
}

/// The name that diffusers before 0.17 gave a tensor; Stable Diffusion's published folders still have it.
pub(super) fn early(name: &str) -> String {
    if !name.contains(".attentions.") {
        return name.to_string();
    }
    let renames = [("to_q.", "query."), ("to_k.", "key."), ("to_v.", "value."), ("to_out.0.", "proj_attn.")];
    renames.iter().fold(name.to_string(), |name, (from, to)| name.replace(from, to))
}

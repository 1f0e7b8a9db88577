//! The sizes of a UNet, from a diffusers `config.json` or from the tensor shapes of a file in the original naming.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::super::error::{Error, Result};
use super::super::weights::Weights;

/// The sizes of a Stable Diffusion 1.x UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UNetConfig {
    /// 4 for text to image, 8 for InstructPix2Pix (latents and image latents).
    pub in_channels: usize,
    pub out_channels: usize,
    /// Resnet blocks of a level on the way down; the way up has one more.
    pub layers_per_block: usize,
    pub norm_groups: usize,
    pub norm_eps: f64,
    /// Width of the text states.
    pub context_width: usize,
    /// From the finest level to the coarsest.
    pub levels: Vec<Level>,
}

/// One resolution of a UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    pub channels: usize,
    /// Attention heads.
    pub heads: usize,
    /// Transformer blocks of each attention layer.
    pub depth: usize,
    /// Attention on the way down, on the way up.
    pub attention: (bool, bool),
}

/// A number for all levels, or one for each.
#[derive(Deserialize)]
#[serde(untagged)]
enum PerLevel {
    Same(usize),
    Each(Vec<usize>),
}

#[derive(Deserialize)]
struct Diffusers {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    cross_attention_dim: usize,
    attention_head_dim: PerLevel,
    num_attention_heads: Option<PerLevel>,
    transformer_layers_per_block: Option<PerLevel>,
    #[serde(default = "default_groups")]
    norm_num_groups: usize,
    #[serde(default = "default_eps")]
    norm_eps: f64,
}

fn default_groups() -> usize {
    32
}

fn default_eps() -> f64 {
    1e-5
}

/// Switches of later models; only the Stable Diffusion 1.x setting of each is implemented (absent and null mean it too).
fn fixed_settings() -> Vec<(&'static str, Value)> {
    vec![
        ("act_fn", "silu".into()),
        ("addition_embed_type", Value::Null),
        ("attention_type", "default".into()),
        ("center_input_sample", false.into()),
        ("class_embed_type", Value::Null),
        ("conv_in_kernel", 3.into()),
        ("conv_out_kernel", 3.into()),
        ("cross_attention_norm", Value::Null),
        ("downsample_padding", 1.into()),
        ("dual_cross_attention", false.into()),
        ("encoder_hid_dim", Value::Null),
        ("flip_sin_to_cos", true.into()),
        ("freq_shift", 0.into()),
        ("mid_block_only_cross_attention", Value::Null),
        ("mid_block_scale_factor", 1.into()),
        ("mid_block_type", "UNetMidBlock2DCrossAttn".into()),
        ("num_class_embeds", Value::Null),
        ("only_cross_attention", false.into()),
        ("resnet_out_scale_factor", 1.0.into()),
        ("resnet_skip_time_act", false.into()),
        ("resnet_time_scale_shift", "default".into()),
        ("reverse_transformer_layers_per_block", Value::Null),
        ("time_cond_proj_dim", Value::Null),
        ("time_embedding_act_fn", Value::Null),
        ("time_embedding_dim", Value::Null),
        ("time_embedding_type", "positional".into()),
        ("timestep_post_act", Value::Null),
    ]
}

/// Equal settings; 1 and 1.0 are.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.as_f64().is_some_and(|a| Some(a) == b.as_f64())
}

impl UNetConfig {
    /// Reads a diffusers `config.json`. `attention_head_dim` is the number of heads, as diffusers reads it for this model
    /// (its own name for it is a known mistake, huggingface/diffusers#2011).
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(|e| Error::file(path, e))?;
        let json: Value = serde_json::from_slice(&text).map_err(|e| Error::file(path, e))?;
        for (key, allowed) in fixed_settings() {
            match json.get(key) {
                None | Some(Value::Null) => {}
                Some(found) if same(found, &allowed) => {}
                Some(found) => return Err(Error::config(path, key, format!("{found} is not supported, only {allowed}"))),
            }
        }
        let config: Diffusers = serde_json::from_value(json).map_err(|e| Error::file(path, e))?;
        config.sizes(path)
    }

    /// Infers the sizes of a Stable Diffusion 1.x UNet in the original naming below `prefix`.
    ///
    /// Shapes do not show the number of heads; 1.x has 8 on every level. Errors when `weights` has no such UNet.
    pub fn infer(weights: &Weights, prefix: &str) -> Result<Self> {
        let shape = |name: &str| weights.shape(&format!("{prefix}{name}"));
        let missing =
            |name: &str| Error::file(&weights.file(""), format!("no tensor {prefix}{name}: not a Stable Diffusion 1.x checkpoint"));
        let dim = |name: &str, axis: usize| shape(name).and_then(|s| s.get(axis).copied()).ok_or_else(|| missing(name));
        // The original has one depth for all levels; the middle always has attention.
        let depth = (0..).take_while(|i| shape(&format!("middle_block.1.transformer_blocks.{i}.norm1.weight")).is_some()).count();
        let mut levels = vec![];
        let mut blocks = 0;
        for index in 1.. {
            let block = format!("input_blocks.{index}");
            if shape(&format!("{block}.0.op.weight")).is_some() {
                blocks = 0;
                continue;
            }
            let Some(channels) = shape(&format!("{block}.0.in_layers.2.weight")).and_then(|s| s.first()) else { break };
            let attention = shape(&format!("{block}.1.norm.weight")).is_some();
            blocks += 1;
            if blocks == 1 {
                levels.push(Level { channels: *channels, heads: 8, depth, attention: (attention, attention) });
            }
        }
        Ok(UNetConfig {
            in_channels: dim("input_blocks.0.0.weight", 1)?,
            out_channels: dim("out.2.weight", 0)?,
            layers_per_block: blocks,
            norm_groups: 32,
            norm_eps: default_eps(),
            context_width: dim("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)?,
            levels,
        })
    }

    /// Width of the time embedding after its first linear layer.
    pub(super) fn time_width(&self) -> usize {
        4 * self.first_channels()
    }

    pub(super) fn first_channels(&self) -> usize {
        self.levels.first().map_or(0, |level| level.channels)
    }
}

impl Diffusers {
    fn sizes(self, path: &Path) -> Result<UNetConfig> {
        let n = self.block_out_channels.len();
        let per_level = |key: &str, value: PerLevel| match value {
            PerLevel::Same(value) => Ok(vec![value; n]),
            PerLevel::Each(values) if values.len() == n => Ok(values),
            PerLevel::Each(values) => Err(Error::config(path, key, format!("{} values for {n} blocks", values.len()))),
        };
        let heads = per_level("attention_head_dim", self.num_attention_heads.unwrap_or(self.attention_head_dim))?;
        let depths = per_level("transformer_layers_per_block", self.transformer_layers_per_block.unwrap_or(PerLevel::Same(1)))?;
        let down = attention(path, "down_block_types", &self.down_block_types, ["CrossAttnDownBlock2D", "DownBlock2D"], n)?;
        let mut up = attention(path, "up_block_types", &self.up_block_types, ["CrossAttnUpBlock2D", "UpBlock2D"], n)?;
        up.reverse();
        if self.layers_per_block == 0 || n == 0 {
            return Err(Error::config(path, "layers_per_block", "must be at least 1, with at least one block"));
        }
        let levels: Vec<Level> = (self.block_out_channels.into_iter().zip(heads).zip(depths).zip(down.into_iter().zip(up)))
            .map(|(((channels, heads), depth), attention)| Level { channels, heads, depth, attention })
            .collect();
        for level in &levels {
            if level.heads == 0
                || level.channels % level.heads != 0
                || self.norm_num_groups == 0
                || level.channels % self.norm_num_groups != 0
            {
                let groups = self.norm_num_groups;
                let problem = format!("{} is not a multiple of {} heads and {groups} norm groups", level.channels, level.heads);
                return Err(Error::config(path, "block_out_channels", problem));
            }
        }
        Ok(UNetConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            layers_per_block: self.layers_per_block,
            norm_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            context_width: self.cross_attention_dim,
            levels,
        })
    }
}

/// Which blocks have attention, by their type names.
fn attention(path: &Path, key: &str, types: &[String], [with, without]: [&str; 2], n: usize) -> Result<Vec<bool>> {
    if types.len() != n {
        return Err(Error::config(path, key, format!("{} types for {n} blocks", types.len())));
    }
    let one = |name: &String| match name.as_str() {
        name if name == with => Ok(true),
        name if name == without => Ok(false),
        other => Err(Error::config(path, key, format!("{other:?} is not supported, only {with} and {without}"))),
    };
    types.iter().map(one).collect()
}

//! Where a tensor of the diffusers naming lies in a file of the original (ldm) naming.
//!
//! The original numbers the blocks of all levels in one row: with L resnet blocks a level, `input_blocks` has the first
//! convolution, then L blocks and a downsampling for each level; `output_blocks` has L + 1 blocks for each level, the
//! last of which ends with the upsampling.

use super::config::UNetConfig;

/// The original name of `name`, which is relative to the UNet.
pub(super) fn original(config: &UNetConfig, name: &str) -> String {
    translate(config, name).unwrap_or_else(|| name.to_string())
}

fn translate(config: &UNetConfig, name: &str) -> Option<String> {
    const ENDS: [(&str, &str); 5] = [
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
    ];
    if let Some((rest, to)) = ENDS.iter().find_map(|(from, to)| Some((name.strip_prefix(from)?, to))) {
        return Some(format!("{to}{rest}"));
    }
    if let Some(rest) = name.strip_prefix("mid_block.") {
        let (kind, index, rest) = indexed(rest)?;
        return match kind {
            "resnets" => Some(format!("middle_block.{}.{}", 2 * index, resnet(rest)?)),
            _ => Some(format!("middle_block.1.{rest}")),
        };
    }
    let layers = config.layers_per_block;
    let (side, level, rest) = indexed(name)?;
    let (kind, index, rest) = indexed(rest)?;
    match (side, kind) {
        ("down_blocks", "resnets") => Some(format!("input_blocks.{}.0.{}", 1 + level * (layers + 1) + index, resnet(rest)?)),
        ("down_blocks", "attentions") => Some(format!("input_blocks.{}.1.{rest}", 1 + level * (layers + 1) + index)),
        ("down_blocks", "downsamplers") => {
            Some(format!("input_blocks.{}.0.op.{}", (level + 1) * (layers + 1), rest.strip_prefix("conv.")?))
        }
        ("up_blocks", "resnets") => Some(format!("output_blocks.{}.0.{}", level * (layers + 1) + index, resnet(rest)?)),
        ("up_blocks", "attentions") => Some(format!("output_blocks.{}.1.{rest}", level * (layers + 1) + index)),
        ("up_blocks", "upsamplers") => {
            let from_below = config.levels.len().checked_sub(level + 1)?;
            let place = if config.levels.get(from_below)?.attention.1 { 2 } else { 1 };
            Some(format!("output_blocks.{}.{place}.{rest}", level * (layers + 1) + layers))
        }
        _ => None,
    }
}

/// `resnets.1.conv1.weight` -> (`resnets`, 1, `conv1.weight`).
fn indexed(name: &str) -> Option<(&str, usize, &str)> {
    let (kind, rest) = name.split_once('.')?;
    let (index, rest) = rest.split_once('.')?;
    Some((kind, index.parse().ok()?, rest))
}

fn resnet(name: &str) -> Option<String> {
    const PARTS: [(&str, &str); 6] = [
        ("norm1.", "in_layers.0."),
        ("conv1.", "in_layers.2."),
        ("time_emb_proj.", "emb_layers.1."),
        ("norm2.", "out_layers.0."),
        ("conv2.", "out_layers.3."),
        ("conv_shortcut.", "skip_connection."),
    ];
    PARTS.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)))
}

//! The levels of the UNet: down, middle and up.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::super::layers::{Conv2d, ResnetBlock, ResnetConfig, Upsample};
use super::attention::{Context, SpatialTransformer, TextKv};
use super::config::{Level, UNetConfig};

/// A resnet block and the attention after it, where the level has attention.
struct Layer {
    resnet: ResnetBlock,
    attention: Option<SpatialTransformer>,
}

impl Layer {
    fn forward<'k>(&self, x: &Tensor, time: &Tensor, context: &Context, kv: &mut impl Iterator<Item = &'k TextKv>) -> Result<Tensor> {
        let x = self.resnet.forward(x, Some(time))?;
        match &self.attention {
            Some(attention) => attention.forward(&x, context, kv),
            None => Ok(x),
        }
    }
}

fn text_kv(layers: &[Layer], states: &Tensor, into: &mut Vec<TextKv>) -> Result<()> {
    layers.iter().filter_map(|layer| layer.attention.as_ref()).try_for_each(|attention| attention.text_kv(states, into))
}

fn resnet_config(config: &UNetConfig) -> ResnetConfig {
    ResnetConfig { groups: config.norm_groups, eps: config.norm_eps, time: Some(config.time_width()) }
}

fn transformer(config: &UNetConfig, level: &Level, vb: VarBuilder) -> Result<SpatialTransformer> {
    SpatialTransformer::load(level.channels, level.heads, level.depth, config.context_width, config.norm_groups, vb)
}

fn level(config: &UNetConfig, index: usize) -> Result<&Level> {
    config.levels.get(index).ok_or_else(|| candle_core::Error::Msg(format!("no level {index}")))
}

/// One level on the way down; every output is kept for the way up.
pub(super) struct DownBlock {
    layers: Vec<Layer>,
    downsample: Option<Conv2d>,
}

impl DownBlock {
    pub(super) fn load(config: &UNetConfig, index: usize, vb: VarBuilder) -> Result<Self> {
        let this = level(config, index)?;
        let before = level(config, index.saturating_sub(1))?.channels;
        let layer = |i: usize| {
            let input = if i == 0 { before } else { this.channels };
            Ok(Layer {
                resnet: ResnetBlock::load(input, this.channels, resnet_config(config), vb.pp(format!("resnets.{i}")))?,
                attention: this.attention.0.then(|| transformer(config, this, vb.pp(format!("attentions.{i}")))).transpose()?,
            })
        };
        let last = index + 1 == config.levels.len();
        Ok(DownBlock {
            layers: (0..config.layers_per_block).map(layer).collect::<Result<_>>()?,
            downsample: if last { None } else { Some(Conv2d::halving(this.channels, 1, vb.pp("downsamplers.0.conv"))?) },
        })
    }

    pub(super) fn text_kv(&self, states: &Tensor, into: &mut Vec<TextKv>) -> Result<()> {
        text_kv(&self.layers, states, into)
    }

    pub(super) fn forward<'k>(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &Context,
        kv: &mut impl Iterator<Item = &'k TextKv>,
        skips: &mut Vec<Tensor>,
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for layer in &self.layers {
            x = layer.forward(&x, time, context, kv)?;
            skips.push(x.clone());
        }
        if let Some(downsample) = &self.downsample {
            x = downsample.forward(&x)?;
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The coarsest level's resnet, attention, resnet.
pub(super) struct MidBlock {
    first: Layer,
    second: ResnetBlock,
}

impl MidBlock {
    pub(super) fn load(config: &UNetConfig, vb: VarBuilder) -> Result<Self> {
        let this = level(config, config.levels.len().saturating_sub(1))?;
        let resnet = |i: usize| ResnetBlock::load(this.channels, this.channels, resnet_config(config), vb.pp(format!("resnets.{i}")));
        let attention = Some(transformer(config, this, vb.pp("attentions.0"))?);
        Ok(MidBlock { first: Layer { resnet: resnet(0)?, attention }, second: resnet(1)? })
    }

    pub(super) fn text_kv(&self, states: &Tensor, into: &mut Vec<TextKv>) -> Result<()> {
        text_kv(std::slice::from_ref(&self.first), states, into)
    }

    pub(super) fn forward<'k>(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &Context,
        kv: &mut impl Iterator<Item = &'k TextKv>,
    ) -> Result<Tensor> {
        self.second.forward(&self.first.forward(x, time, context, kv)?, Some(time))
    }
}

/// One level on the way up; each layer takes one kept output of the way down beside its input.
pub(super) struct UpBlock {
    layers: Vec<Layer>,
    upsample: Option<Upsample>,
}

impl UpBlock {
    /// `index` counts from the coarsest level.
    pub(super) fn load(config: &UNetConfig, index: usize, vb: VarBuilder) -> Result<Self> {
        let at = config.levels.len().saturating_sub(index + 1);
        let this = level(config, at)?;
        let below = level(config, (at + 1).min(config.levels.len().saturating_sub(1)))?.channels;
        let above = level(config, at.saturating_sub(1))?.channels;
        let layer = |i: usize| {
            let skip = if i == config.layers_per_block { above } else { this.channels };
            let input = if i == 0 { below } else { this.channels };
            Ok(Layer {
                resnet: ResnetBlock::load(input + skip, this.channels, resnet_config(config), vb.pp(format!("resnets.{i}")))?,
                attention: this.attention.1.then(|| transformer(config, this, vb.pp(format!("attentions.{i}")))).transpose()?,
            })
        };
        Ok(UpBlock {
            layers: (0..=config.layers_per_block).map(layer).collect::<Result<_>>()?,
            upsample: if at == 0 { None } else { Some(Upsample::load(this.channels, vb.pp("upsamplers.0"))?) },
        })
    }

    pub(super) fn text_kv(&self, states: &Tensor, into: &mut Vec<TextKv>) -> Result<()> {
        text_kv(&self.layers, states, into)
    }

    /// `see` gets what each layer puts out; the last one with the upsampling after it, as the original numbers them.
    pub(super) fn forward<'k>(
        &self,
        x: &Tensor,
        time: &Tensor,
        context: &Context,
        kv: &mut impl Iterator<Item = &'k TextKv>,
        skips: &mut Vec<Tensor>,
        see: &mut dyn FnMut(&Tensor),
    ) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            let Some(skip) = skips.pop() else { candle_core::bail!("more layers up than down") };
            x = layer.forward(&Tensor::cat(&[&x, &skip], 1)?, time, context, kv)?;
            if let (Some(upsample), Some(above), true) = (&self.upsample, skips.last(), i + 1 == self.layers.len()) {
                // The size of the level above; with odd sizes it is not exactly twice this one.
                x = upsample.forward(&x, (above.dim(2)?, above.dim(3)?))?;
            }
            see(&x);
        }
        Ok(x)
    }
}

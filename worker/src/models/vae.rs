//! The image autoencoder of Stable Diffusion 1.x (AutoencoderKL): images to latents and back.
//!
//! candle-transformers has this network, but hides the moments that encoding needs.

mod config;

use std::path::Path;

use candle_core::{DType, Device, IndexOp, Module, Result as Computed, Tensor};
use candle_nn::{Linear, VarBuilder};

use super::error::{Error, Result};
use super::layers::{Conv2d, GroupNorm, NORM_EPS, ResnetBlock, ResnetConfig, Upsample, attend, linear, transposed};
use super::weights::{Place, Weights};
pub use config::VaeConfig;

/// The prefix of the autoencoder in a checkpoint of the original format; files of the autoencoder alone have none.
const ORIGINAL_PREFIX: &str = "first_stage_model.";

/// An autoencoder.
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    quant: Conv2d,
    post_quant: Conv2d,
    decoder: Decoder,
    dtype: DType,
    device: Device,
}

impl Vae {
    /// Loads a diffusers model folder with `vae/config.json`, the `vae` folder itself, or a single file in the original
    /// naming: a whole checkpoint, or the autoencoder alone. Sizes of a single file are inferred.
    pub fn open(path: &Path, dtype: DType, device: &Device) -> Result<Self> {
        if path.is_dir() {
            let folder = if path.join("vae").is_dir() { path.join("vae") } else { path.to_path_buf() };
            let config = VaeConfig::read(&folder.join("config.json"))?;
            return Self::load(config, &Weights::open(&folder)?, dtype, device);
        }
        let weights = Weights::open(path)?;
        let prefix = if weights.has_prefix(ORIGINAL_PREFIX) { ORIGINAL_PREFIX } else { "" };
        Self::load(VaeConfig::infer(&weights, prefix)?, &weights, dtype, device)
    }

    /// Loads an autoencoder of known sizes from tensors in the diffusers or the original naming.
    pub fn load(config: VaeConfig, weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let levels = config.block_out_channels.len();
        let original = move |name: &str| Place::named(config::original(levels, name));
        let selection = if weights.has_prefix(ORIGINAL_PREFIX) {
            weights.select("autoencoder", ORIGINAL_PREFIX).placed(original)
        } else if weights.has_prefix("encoder.mid.") {
            weights.select("autoencoder", "").placed(original)
        } else if weights.has_prefix("encoder.mid_block.attentions.0.query.") {
            weights.select("autoencoder", "").placed(|name| Place::named(config::early(name)))
        } else {
            weights.select("autoencoder", "")
        };
        // Training checkpoints carry the networks of the loss, and moving averages of the autoencoder itself.
        selection.ignoring(&["loss.", "model_ema."]).build(dtype, device, |vb| Self::build(config, vb))
    }

    fn build(config: VaeConfig, vb: VarBuilder) -> Computed<Self> {
        let latent = config.latent_channels;
        Ok(Vae {
            encoder: Encoder::load(&config, vb.pp("encoder"))?,
            quant: Conv2d::same(2 * latent, 2 * latent, 1, vb.pp("quant_conv"))?,
            post_quant: Conv2d::same(latent, latent, 1, vb.pp("post_quant_conv"))?,
            decoder: Decoder::load(&config, vb.pp("decoder"))?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            config,
        })
    }

    /// The sizes of this autoencoder.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// Image pixels for each latent, along one side: 8 for Stable Diffusion.
    pub fn factor(&self) -> usize {
        1 << (self.config.block_out_channels.len() - 1)
    }

    /// Mean and log variance of the latents of images [b, 3, h, w] in [-1, 1]: fp32 [b, 2 latent channels, h / f, w / f].
    pub fn moments(&self, images: &Tensor) -> Result<Tensor> {
        let (_, channels, height, width) = images.dims4()?;
        let factor = self.factor();
        if channels != self.config.in_channels || height % factor != 0 || width % factor != 0 {
            let expected = self.config.in_channels;
            return Err(Error::Input(format!(
                "image of {channels} channels, {width}x{height}: need {expected} channels and sides that {factor} divides"
            )));
        }
        let images = images.to_device(&self.device)?.to_dtype(self.dtype)?;
        Ok(self.quant.forward(&self.encoder.forward(&images)?)?.to_dtype(DType::F32)?)
    }

    /// The most likely latents of images, not scaled: the mean half of [`Vae::moments`].
    pub fn encode_mode(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self.moments(images)?.narrow(1, 0, self.config.latent_channels)?.contiguous()?)
    }

    /// Decodes latents as the sampler returns them (scaled): [b, c, h, w] -> fp32 [b, 3, f h, f w], about [-1, 1].
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        let scaled = (latents.to_dtype(DType::F32)? / self.config.scaling_factor)?;
        let z = scaled.to_device(&self.device)?.to_dtype(self.dtype)?;
        Ok(self.decoder.forward(&self.post_quant.forward(&z)?)?.to_dtype(DType::F32)?)
    }
}

/// Decoder output to [0, 1]: clamp((x + 1) / 2).
pub fn to_unit(decoded: &Tensor) -> Result<Tensor> {
    Ok(((decoded + 1.0)? / 2.0)?.clamp(0.0, 1.0)?)
}

/// The images [b, 3, h, w] of a batch as tensors [3, h, w].
pub fn each_image(images: &Tensor) -> Result<Vec<Tensor>> {
    Ok((0..images.dim(0)?).map(|i| images.i(i)).collect::<Computed<_>>()?)
}

fn resnet_config(config: &VaeConfig) -> ResnetConfig {
    ResnetConfig { groups: config.norm_num_groups, eps: NORM_EPS, time: None }
}

fn run(blocks: &[ResnetBlock], x: Tensor) -> Computed<Tensor> {
    blocks.iter().try_fold(x, |x, block| block.forward(&x, None))
}

struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Vec<ResnetBlock>, Option<Conv2d>)>,
    mid: Mid,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn load(config: &VaeConfig, vb: VarBuilder) -> Computed<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = ends(channels)?;
        let mut levels = vec![];
        let mut input = first;
        for (i, &output) in channels.iter().enumerate() {
            let vb = vb.pp(format!("down_blocks.{i}"));
            let resnet = |j: usize| {
                let input = if j == 0 { input } else { output };
                ResnetBlock::load(input, output, resnet_config(config), vb.pp(format!("resnets.{j}")))
            };
            let resnets = (0..config.layers_per_block).map(resnet).collect::<Computed<_>>()?;
            let is_last = i + 1 == channels.len();
            let down = if is_last { None } else { Some(Conv2d::halving(output, 0, vb.pp("downsamplers.0.conv"))?) };
            levels.push((resnets, down));
            input = output;
        }
        Ok(Encoder {
            conv_in: Conv2d::same(config.in_channels, first, 3, vb.pp("conv_in"))?,
            levels,
            mid: Mid::load(last, config, vb.pp("mid_block"))?,
            norm_out: GroupNorm::load(config.norm_num_groups, last, NORM_EPS, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same(last, 2 * config.latent_channels, 3, vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, images: &Tensor) -> Computed<Tensor> {
        let mut x = self.conv_in.forward(images)?;
        for (resnets, down) in &self.levels {
            x = run(resnets, x)?;
            if let Some(down) = down {
                // The original pads on the right and at the bottom only.
                x = down.forward(&x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?)?;
            }
        }
        self.conv_out.forward(&self.norm_out.then_silu(&self.mid.forward(&x)?)?)
    }
}

struct Decoder {
    conv_in: Conv2d,
    mid: Mid,
    levels: Vec<(Vec<ResnetBlock>, Option<Upsample>)>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn load(config: &VaeConfig, vb: VarBuilder) -> Computed<Self> {
        let channels = &config.block_out_channels;
        let (first, last) = ends(channels)?;
        let mut levels = vec![];
        let mut input = last;
        for (i, &output) in channels.iter().rev().enumerate() {
            let vb = vb.pp(format!("up_blocks.{i}"));
            let resnet = |j: usize| {
                let input = if j == 0 { input } else { output };
                ResnetBlock::load(input, output, resnet_config(config), vb.pp(format!("resnets.{j}")))
            };
            let resnets = (0..=config.layers_per_block).map(resnet).collect::<Computed<_>>()?;
            let is_last = i + 1 == channels.len();
            levels.push((resnets, if is_last { None } else { Some(Upsample::load(output, vb.pp("upsamplers.0"))?) }));
            input = output;
        }
        Ok(Decoder {
            conv_in: Conv2d::same(config.latent_channels, last, 3, vb.pp("conv_in"))?,
            mid: Mid::load(last, config, vb.pp("mid_block"))?,
            levels,
            norm_out: GroupNorm::load(config.norm_num_groups, first, NORM_EPS, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same(first, config.out_channels, 3, vb.pp("conv_out"))?,
        })
    }

    fn forward(&self, z: &Tensor) -> Computed<Tensor> {
        let mut x = self.mid.forward(&self.conv_in.forward(z)?)?;
        for (resnets, up) in &self.levels {
            x = run(resnets, x)?;
            if let Some(up) = up {
                let (_, _, height, width) = x.dims4()?;
                x = up.forward(&x, (2 * height, 2 * width))?;
            }
        }
        self.conv_out.forward(&self.norm_out.then_silu(&x)?)
    }
}

fn ends(channels: &[usize]) -> Computed<(usize, usize)> {
    match (channels.first(), channels.last()) {
        (Some(&first), Some(&last)) => Ok((first, last)),
        _ => candle_core::bail!("an autoencoder needs at least one level"),
    }
}

/// Resnet, attention with one head over all positions, resnet.
struct Mid {
    first: ResnetBlock,
    norm: GroupNorm,
    qkv: [Linear; 3],
    out: Linear,
    second: ResnetBlock,
}

impl Mid {
    fn load(channels: usize, config: &VaeConfig, vb: VarBuilder) -> Computed<Self> {
        let resnet = |i: usize| ResnetBlock::load(channels, channels, resnet_config(config), vb.pp(format!("resnets.{i}")));
        let attention = vb.pp("attentions.0");
        let projection = |name: &str| linear(channels, channels, attention.pp(name));
        Ok(Mid {
            first: resnet(0)?,
            norm: GroupNorm::load(config.norm_num_groups, channels, NORM_EPS, attention.pp("group_norm"))?,
            qkv: [projection("to_q")?, projection("to_k")?, projection("to_v")?],
            out: projection("to_out.0")?,
            second: resnet(1)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Computed<Tensor> {
        let x = self.first.forward(x, None)?;
        let (b, c, height, width) = x.dims4()?;
        let tokens = transposed(&self.norm.forward(&x)?.reshape((b, c, height * width))?)?;
        let [q, k, v] = &self.qkv;
        let q = (q.forward(&tokens)? * (c as f64).powf(-0.5))?;
        let mixed = attend(&q, &k.forward(&tokens)?.t()?, &v.forward(&tokens)?)?;
        let out = transposed(&self.out.forward(&mixed)?)?.reshape((b, c, height, width))?;
        self.second.forward(&(x + out)?, None)
    }
}

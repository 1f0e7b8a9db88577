//! The UNet of Stable Diffusion 1.x and InstructPix2Pix, with rows that can share self-attention maps.
//!
//! Architecture: Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022; sharing: Hertz et al.,
//! "Prompt-to-Prompt image editing with cross-attention control", 2022, as InstructPix2Pix uses it (self-attention only).

mod attention;
mod blocks;
mod config;
mod names;

use std::path::Path;

use candle_core::{DType, Device, Module, Tensor};
use candle_nn::{Linear, VarBuilder};

use super::error::{Error, Result};
use super::layers::{Conv2d, GroupNorm, linear};
use super::weights::{Place, Weights};
use attention::{Context, SharedRows, TextKv};
use blocks::{DownBlock, MidBlock, UpBlock};
pub use config::{Level, UNetConfig};

/// The prefix of the UNet in a checkpoint of the original format.
const ORIGINAL_PREFIX: &str = "model.diffusion_model.";
/// The prefix of its moving averages there; the rest of the name has lost its dots.
const AVERAGED_PREFIX: &str = "model_ema.";

/// A noise predictor: eps(x, t, text).
pub struct UNet {
    config: UNetConfig,
    time: [Linear; 2],
    conv_in: Conv2d,
    down: Vec<DownBlock>,
    mid: MidBlock,
    up: Vec<UpBlock>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    dtype: DType,
    device: Device,
}

/// Keys and values of some texts for every cross-attention layer of one UNet; computed once, used by every step.
pub struct TextContext {
    layers: Vec<TextKv>,
    texts: usize,
}

/// The rows of a batch: what each is conditioned on, and which share their self-attention maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// (text, how many rows): consecutive rows of the batch with that text of the [`TextContext`].
    pub texts: Vec<(usize, usize)>,
    /// (source, target): the target row uses the source row's self-attention maps in every layer. A row may occur once.
    pub shared: Vec<(usize, usize)>,
}

/// What goes from one part of the network to the next, in the original's numbering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The times as sinusoids.
    Sinusoids,
    /// The time embedding.
    Time,
    /// Output of this input block.
    Down(usize),
    Middle,
    /// Output of this output block.
    Up(usize),
}

impl UNet {
    /// Loads a diffusers model folder with `unet/config.json`, the `unet` folder itself, or a single checkpoint file in the
    /// original naming, whose sizes are inferred. With `averaged`, the moving averages of a training checkpoint are used
    /// where it has them (the original's editing command does so, its generation command does not).
    pub fn open(path: &Path, averaged: bool, dtype: DType, device: &Device) -> Result<Self> {
        if path.is_dir() {
            let folder = if path.join("unet").is_dir() { path.join("unet") } else { path.to_path_buf() };
            let config = UNetConfig::read(&folder.join("config.json"))?;
            return Self::load(config, &Weights::open(&folder)?, averaged, dtype, device);
        }
        let weights = Weights::open(path)?;
        let config = UNetConfig::infer(&weights, ORIGINAL_PREFIX)?;
        Self::load(config, &weights, averaged, dtype, device)
    }

    /// Loads a UNet of known sizes from tensors in the diffusers or the original naming.
    pub fn load(config: UNetConfig, weights: &Weights, averaged: bool, dtype: DType, device: &Device) -> Result<Self> {
        let has_plain = weights.has_prefix(ORIGINAL_PREFIX);
        let has_average = weights.has_prefix(AVERAGED_PREFIX);
        let for_names = config.clone();
        let selection = if has_average && (averaged || !has_plain) {
            weights
                .select("averaged UNet", AVERAGED_PREFIX)
                .placed(move |name| Place::named(format!("diffusion_model{}", names::original(&for_names, name).replace('.', ""))))
                .ignoring(&["decay", "num_updates"])
        } else if has_plain {
            weights.select("UNet", ORIGINAL_PREFIX).placed(move |name| Place::named(names::original(&for_names, name)))
        } else if weights.has_prefix("input_blocks.") {
            weights.select("UNet", "").placed(move |name| Place::named(names::original(&for_names, name)))
        } else {
            weights.select("UNet", "")
        };
        selection.build(dtype, device, |vb| Self::build(config, vb))
    }

    fn build(config: UNetConfig, vb: VarBuilder) -> candle_core::Result<Self> {
        let first = config.first_channels();
        let time = vb.pp("time_embedding");
        let n = config.levels.len();
        let down = (0..n).map(|i| DownBlock::load(&config, i, vb.pp(format!("down_blocks.{i}"))));
        let up = (0..n).map(|i| UpBlock::load(&config, i, vb.pp(format!("up_blocks.{i}"))));
        Ok(UNet {
            time: [
                linear(first, config.time_width(), time.pp("linear_1"))?,
                linear(config.time_width(), config.time_width(), time.pp("linear_2"))?,
            ],
            conv_in: Conv2d::same(config.in_channels, first, 3, vb.pp("conv_in"))?,
            down: down.collect::<candle_core::Result<_>>()?,
            mid: MidBlock::load(&config, vb.pp("mid_block"))?,
            up: up.collect::<candle_core::Result<_>>()?,
            norm_out: GroupNorm::load(config.norm_groups, first, config.norm_eps, vb.pp("conv_norm_out"))?,
            conv_out: Conv2d::same(first, config.out_channels, 3, vb.pp("conv_out"))?,
            dtype: vb.dtype(),
            device: vb.device().clone(),
            config,
        })
    }

    /// The sizes of this UNet.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The type in which it computes.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The device on which it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Keys and values of texts whose encoder states are `states`: [texts, tokens, context width].
    pub fn text_context(&self, states: &Tensor) -> Result<TextContext> {
        let (texts, _, width) = states.dims3()?;
        if width != self.config.context_width {
            let expected = self.config.context_width;
            return Err(Error::Input(format!(
                "text states are {width} wide, the UNet's cross_attention_dim is {expected}: not its text encoder"
            )));
        }
        let states = states.to_device(&self.device)?.to_dtype(self.dtype)?;
        let mut layers = vec![];
        self.down.iter().try_for_each(|block| block.text_kv(&states, &mut layers))?;
        self.mid.text_kv(&states, &mut layers)?;
        self.up.iter().try_for_each(|block| block.text_kv(&states, &mut layers))?;
        Ok(TextContext { layers, texts })
    }

    /// Predicts the noise in `x`.
    ///
    /// `x`: [b, in_channels, h, w], already scaled to unit variance; h and w as large as the number of levels allows.
    /// `t`: [b] or [1], the time of each row in 0..1000, possibly fractional. Returns [b, out_channels, h, w] in `x`'s type.
    pub fn forward(&self, x: &Tensor, t: &Tensor, text: &TextContext, rows: &Rows) -> Result<Tensor> {
        self.forward_seen(x, t, text, rows, &mut |_, _| ())
    }

    /// The same; `see` gets what goes from part to part, to find the first that differs from a reference.
    pub fn forward_seen(
        &self,
        x: &Tensor,
        t: &Tensor,
        text: &TextContext,
        rows: &Rows,
        see: &mut dyn FnMut(Part, &Tensor),
    ) -> Result<Tensor> {
        let b = x.dim(0)?;
        let sharing = rows.check(b, text.texts)?.then(|| rows.shared_rows(b, &self.device)).transpose()?;
        let context = Context { texts: &rows.texts, sharing: sharing.as_ref() };
        let mut kv = text.layers.iter();
        let sinusoids = sinusoids(t, self.config.first_channels())?;
        see(Part::Sinusoids, &sinusoids);
        let time = self.embed_time(&sinusoids)?;
        see(Part::Time, &time);
        let time = time.silu()?;
        let mut h = self.conv_in.forward(&x.to_dtype(self.dtype)?)?;
        let mut skips = vec![h.clone()];
        for block in &self.down {
            h = block.forward(&h, &time, &context, &mut kv, &mut skips)?;
        }
        skips.iter().enumerate().for_each(|(i, skip)| see(Part::Down(i), skip));
        h = self.mid.forward(&h, &time, &context, &mut kv)?;
        see(Part::Middle, &h);
        let mut up = 0;
        let mut see_up = |h: &Tensor| {
            see(Part::Up(up), h);
            up += 1;
        };
        for block in &self.up {
            h = block.forward(&h, &time, &context, &mut kv, &mut skips, &mut see_up)?;
        }
        let h = self.norm_out.then_silu(&h)?;
        Ok(self.conv_out.forward(&h)?.to_dtype(x.dtype())?)
    }

    /// The time embedding before its last SiLU: sinusoids (Vaswani et al., 2017; cosines first), linear, SiLU, linear.
    fn embed_time(&self, sinusoids: &Tensor) -> candle_core::Result<Tensor> {
        let [first, second] = &self.time;
        second.forward(&first.forward(&sinusoids.to_dtype(self.dtype)?)?.silu()?)
    }
}

/// [n] times -> [n, width]: cos(t f_i), then sin(t f_i), with f_i = 10000^(-i / (width / 2)), in fp32.
fn sinusoids(t: &Tensor, width: usize) -> candle_core::Result<Tensor> {
    let half = width / 2;
    let frequencies: Vec<f32> = (0..half).map(|i| (-(10000f64.ln() * i as f64 / half as f64)).exp() as f32).collect();
    let frequencies = Tensor::from_vec(frequencies, (1, half), t.device())?;
    let angles = t.to_dtype(DType::F32)?.unsqueeze(1)?.broadcast_mul(&frequencies)?;
    Tensor::cat(&[angles.cos()?, angles.sin()?], 1)
}

impl Rows {
    /// True when rows share; errors when the rows do not describe a batch of `b` rows over `texts` texts.
    fn check(&self, b: usize, texts: usize) -> Result<bool> {
        let total: usize = self.texts.iter().map(|&(_, rows)| rows).sum();
        if total != b || self.texts.iter().any(|&(text, rows)| text >= texts || rows == 0) {
            return Err(Error::Input(format!("rows {:?} (text, rows) do not describe a batch of {b} over {texts} texts", self.texts)));
        }
        let mut seen = vec![false; b];
        for row in self.shared.iter().flat_map(|&(source, target)| [source, target]) {
            match seen.get_mut(row) {
                Some(seen @ false) => *seen = true,
                _ => return Err(Error::Input(format!("shared rows {:?}: row {row} is out of {b} or named twice", self.shared))),
            }
        }
        Ok(!self.shared.is_empty())
    }

    fn shared_rows(&self, b: usize, device: &Device) -> candle_core::Result<SharedRows> {
        let sources = self.shared.iter().map(|&(source, _)| source);
        let targets = self.shared.iter().map(|&(_, target)| target);
        let mut order: Vec<usize> = sources.chain(targets).collect();
        let mut shares = vec![false; b];
        order.iter().for_each(|&row| shares[row] = true);
        order.extend((0..b).filter(|&row| !shares[row]));
        let mut places = vec![0; b];
        order.iter().enumerate().for_each(|(place, &row)| places[row] = place);
        let index = |rows: &[usize]| Tensor::from_iter(rows.iter().map(|&row| row as u32), device);
        let n = self.shared.len();
        Ok(SharedRows {
            sources: index(&order[..n])?,
            targets: index(&order[n..2 * n])?,
            alone: if 2 * n < b { Some(index(&order[2 * n..])?) } else { None },
            places: index(&places)?,
        })
    }
}

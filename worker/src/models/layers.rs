//! Layers that the UNet and the autoencoder share. Names and shapes are those of the diffusers format.

use candle_core::{Module, Result, Tensor};
use candle_nn::{Conv2d, Conv2dConfig, GroupNorm, Linear, VarBuilder};

/// Epsilon of the group norms that ldm writes without naming one: all of the autoencoder and those before attention.
pub(super) const NORM_EPS: f64 = 1e-6;

/// Attention logits held at once. 64x64 latents need 4096 x 4096 of them for each row and head.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Group normalisation over [b, c, h, w].
pub(super) fn group_norm(groups: usize, channels: usize, eps: f64, vb: VarBuilder) -> Result<GroupNorm> {
    GroupNorm::new(vb.get(channels, "weight")?, vb.get(channels, "bias")?, channels, groups, eps)
}

/// A square convolution with `kernel / 2` zeros around its input.
pub(super) fn conv(input: usize, output: usize, kernel: usize, stride: usize, vb: VarBuilder) -> Result<Conv2d> {
    let config = Conv2dConfig { padding: kernel / 2, stride, ..Default::default() };
    conv_with(input, output, kernel, config, vb)
}

/// A square convolution with any padding and stride.
pub(super) fn conv_with(input: usize, output: usize, kernel: usize, config: Conv2dConfig, vb: VarBuilder) -> Result<Conv2d> {
    Ok(Conv2d::new(vb.get((output, input, kernel, kernel), "weight")?, Some(vb.get(output, "bias")?), config))
}

/// A linear layer with bias.
pub(super) fn linear(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    Ok(Linear::new(vb.get((output, input), "weight")?, Some(vb.get(output, "bias")?)))
}

/// A linear layer without bias.
pub(super) fn linear_no_bias(input: usize, output: usize, vb: VarBuilder) -> Result<Linear> {
    Ok(Linear::new(vb.get((output, input), "weight")?, None))
}

/// Two convolutions with group norm and SiLU before each, beside a shortcut.
pub(super) struct ResnetBlock {
    norm1: GroupNorm,
    conv1: Conv2d,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

/// The numbers that all resnet blocks of a model have in common.
#[derive(Clone, Copy)]
pub(super) struct ResnetConfig {
    pub(super) groups: usize,
    pub(super) eps: f64,
    /// Width of the time embedding; the autoencoder has none.
    pub(super) time: Option<usize>,
}

impl ResnetBlock {
    pub(super) fn load(input: usize, output: usize, config: ResnetConfig, vb: VarBuilder) -> Result<Self> {
        let shortcut = if input == output { None } else { Some(conv(input, output, 1, 1, vb.pp("conv_shortcut"))?) };
        Ok(ResnetBlock {
            norm1: group_norm(config.groups, input, config.eps, vb.pp("norm1"))?,
            conv1: conv(input, output, 3, 1, vb.pp("conv1"))?,
            time: config.time.map(|width| linear(width, output, vb.pp("time_emb_proj"))).transpose()?,
            norm2: group_norm(config.groups, output, config.eps, vb.pp("norm2"))?,
            conv2: conv(output, output, 3, 1, vb.pp("conv2"))?,
            shortcut,
        })
    }

    /// `x` is [b, input, h, w]; `time`, after its SiLU, [b or 1, width]. Returns [b, output, h, w].
    pub(super) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let mut h = self.conv1.forward(&self.norm1.forward(x)?.silu()?)?;
        if let (Some(linear), Some(time)) = (&self.time, time) {
            h = h.broadcast_add(&linear.forward(time)?.unsqueeze(2)?.unsqueeze(3)?)?;
        }
        let h = self.conv2.forward(&self.norm2.forward(&h)?.silu()?)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(x)? + h,
            None => x + h,
        }
    }
}

/// Doubles height and width by repetition, or grows to a given size, then convolves.
pub(super) struct Upsample(Conv2d);

impl Upsample {
    pub(super) fn load(channels: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Upsample(conv(channels, channels, 3, 1, vb.pp("conv"))?))
    }

    pub(super) fn forward(&self, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        self.0.forward(&x.upsample_nearest2d(height, width)?)
    }
}

/// softmax(q k) v for q [n, t, d] (already scaled), k [n, d, s], v [n, s, e], a bounded number of logits at a time.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (n, t, _) = q.dims3()?;
    let s = k.dim(2)?;
    let queries = (LOGITS_AT_ONCE / s.max(1)).clamp(1, t.max(1));
    let batch = (LOGITS_AT_ONCE / (queries * s).max(1)).clamp(1, n.max(1));
    let block = |q: &Tensor, k: &Tensor, v: &Tensor| candle_nn::ops::softmax_last_dim(&q.matmul(k)?)?.matmul(v);
    if batch >= n && queries >= t {
        return block(q, k, v);
    }
    let mut parts = vec![];
    for start in (0..n).step_by(batch) {
        let len = batch.min(n - start);
        let (q, k, v) = (q.narrow(0, start, len)?, k.narrow(0, start, len)?, v.narrow(0, start, len)?);
        let mut rows = vec![];
        for first in (0..t).step_by(queries) {
            rows.push(block(&q.narrow(1, first, queries.min(t - first))?, &k, &v)?);
        }
        parts.push(Tensor::cat(&rows, 1)?);
    }
    Tensor::cat(&parts, 0)
}

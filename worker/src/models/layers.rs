//! Layers that the UNet and the autoencoder share. Names and shapes are those of the diffusers format.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{Linear, VarBuilder};
use rayon::prelude::*;

use ip2p_kernels::{self as cpu, Geometry};

/// Epsilon of the group norms that ldm writes without naming one: all of the autoencoder and those before attention.
pub(super) const NORM_EPS: f64 = 1e-6;

/// Attention logits held at once. 64x64 latents need 4096 x 4096 of them for each row and head.
const LOGITS_AT_ONCE: usize = 1 << 25;

/// Group normalisation over [b, c, ..], with SiLU after it where a network has that.
pub(super) struct GroupNorm {
    inner: candle_nn::GroupNorm,
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    pub(super) fn load(groups: usize, channels: usize, eps: f64, vb: VarBuilder) -> Result<Self> {
        let (weight, bias) = (vb.get(channels, "weight")?, vb.get(channels, "bias")?);
        let inner = candle_nn::GroupNorm::new(weight.clone(), bias.clone(), channels, groups, eps)?;
        Ok(GroupNorm { inner, weight, bias, groups, eps })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, false)
    }

    pub(super) fn then_silu(&self, x: &Tensor) -> Result<Tensor> {
        self.run(x, true)
    }

    fn run(&self, x: &Tensor, activate: bool) -> Result<Tensor> {
        if cpu::can_take(x) {
            return cpu::group_norm(x, self.groups, &self.weight, &self.bias, self.eps, activate);
        }
        let normed = self.inner.forward(x)?;
        if activate { normed.silu() } else { Ok(normed) }
    }
}

/// A square convolution with bias.
pub(super) struct Conv2d {
    /// [out, in, kernel, kernel]
    weight: Tensor,
    /// [1, out]
    bias: Tensor,
    geometry: Geometry,
}

impl Conv2d {
    /// Stride 1 and `kernel / 2` zeros around the input: as large outside as inside.
    pub(super) fn same(input: usize, output: usize, kernel: usize, vb: VarBuilder) -> Result<Self> {
        Self::load(input, output, Geometry { kernel, stride: 1, padding: kernel / 2 }, vb)
    }

    /// Halves height and width, with `padding` zeros around the input.
    pub(super) fn halving(channels: usize, padding: usize, vb: VarBuilder) -> Result<Self> {
        Self::load(channels, channels, Geometry { kernel: 3, stride: 2, padding }, vb)
    }

    fn load(input: usize, output: usize, geometry: Geometry, vb: VarBuilder) -> Result<Self> {
        let weight = vb.get((output, input, geometry.kernel, geometry.kernel), "weight")?;
        Ok(Conv2d { weight, bias: vb.get(output, "bias")?.unsqueeze(0)?, geometry })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.convolve(x, &self.bias)
    }

    /// Adds `more` [1 or b, out] to the bias.
    pub(super) fn forward_adding(&self, x: &Tensor, more: &Tensor) -> Result<Tensor> {
        self.convolve(x, &self.bias.broadcast_add(more)?)
    }

    fn convolve(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        if cpu::can_take(x) {
            return cpu::convolution(x, &self.weight.flatten_from(1)?, bias, self.geometry);
        }
        let Geometry { stride, padding, .. } = self.geometry;
        x.conv2d(&self.weight, padding, stride, 1, 1)?.broadcast_add(&bias.unsqueeze(2)?.unsqueeze(3)?)
    }
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
        let shortcut = if input == output { None } else { Some(Conv2d::same(input, output, 1, vb.pp("conv_shortcut"))?) };
        Ok(ResnetBlock {
            norm1: GroupNorm::load(config.groups, input, config.eps, vb.pp("norm1"))?,
            conv1: Conv2d::same(input, output, 3, vb.pp("conv1"))?,
            time: config.time.map(|width| linear(width, output, vb.pp("time_emb_proj"))).transpose()?,
            norm2: GroupNorm::load(config.groups, output, config.eps, vb.pp("norm2"))?,
            conv2: Conv2d::same(output, output, 3, vb.pp("conv2"))?,
            shortcut,
        })
    }

    /// `x` is [b, input, h, w]; `time`, after its SiLU, [b or 1, width]. Returns [b, output, h, w].
    pub(super) fn forward(&self, x: &Tensor, time: Option<&Tensor>) -> Result<Tensor> {
        let h = self.norm1.then_silu(x)?;
        let h = match (&self.time, time) {
            (Some(linear), Some(time)) => self.conv1.forward_adding(&h, &linear.forward(time)?)?,
            _ => self.conv1.forward(&h)?,
        };
        let h = self.conv2.forward(&self.norm2.then_silu(&h)?)?;
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
        Ok(Upsample(Conv2d::same(channels, channels, 3, vb.pp("conv"))?))
    }

    pub(super) fn forward(&self, x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
        self.0.forward(&x.upsample_nearest2d(height, width)?)
    }
}

/// [b, m, n] -> [b, n, m], in memory too.
pub(super) fn transposed(x: &Tensor) -> Result<Tensor> {
    if cpu::can_take(x) { cpu::transpose(x) } else { x.transpose(1, 2)?.contiguous() }
}

/// softmax(q k) v for q [n, t, d] (already scaled), k [n, d, s], v [n, s, e], a bounded number of logits at a time.
pub(super) fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let (n, t, _) = q.dims3()?;
    let s = k.dim(2)?;
    let queries = (LOGITS_AT_ONCE / s.max(1)).clamp(1, t.max(1));
    let part = |(start, len): (usize, usize)| {
        attend_part(&q.narrow(0, start, len)?, &k.narrow(0, start, len)?, &v.narrow(0, start, len)?, queries)
    };
    let parts = if q.device().is_cpu() {
        // One map at a time on each core stays in its cache, and small products do not wait for each other.
        (0..n).into_par_iter().map(|i| part((i, 1))).collect::<Result<Vec<_>>>()?
    } else {
        let batch = (LOGITS_AT_ONCE / (queries * s).max(1)).clamp(1, n.max(1));
        (0..n).step_by(batch).map(|start| part((start, batch.min(n - start)))).collect::<Result<Vec<_>>>()?
    };
    Tensor::cat(&parts, 0)
}

/// The same for `queries` queries at a time.
fn attend_part(q: &Tensor, k: &Tensor, v: &Tensor, queries: usize) -> Result<Tensor> {
    let t = q.dim(1)?;
    let block = |first: usize| {
        let logits = q.narrow(1, first, queries.min(t - first))?.matmul(k)?;
        softmax(&logits)?.matmul(v)
    };
    let parts: Vec<Tensor> = (0..t).step_by(queries).map(block).collect::<Result<_>>()?;
    Tensor::cat(&parts, 1)
}

fn softmax(logits: &Tensor) -> Result<Tensor> {
    if cpu::can_take(logits) { cpu::softmax(logits) } else { candle_nn::ops::softmax_last_dim(logits) }
}

/// a gelu(b) for the halves a, b of the last dimension (GEGLU: Shazeer, "GLU variants improve transformer", 2020), with the
/// exact GELU.
pub(super) fn geglu(x: &Tensor) -> Result<Tensor> {
    if cpu::can_take(x) {
        return cpu::geglu(x);
    }
    let width = x.dim(D::Minus1)? / 2;
    x.narrow(D::Minus1, 0, width)? * x.narrow(D::Minus1, width, width)?.gelu_erf()?
}

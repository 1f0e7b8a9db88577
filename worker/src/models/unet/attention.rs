//! Attention of the UNet, with Prompt-to-Prompt's sharing of self-attention maps.
//!
//! To copy an attention map is to use its query and key with other values. A row that shares therefore never computes a
//! map of its own: the source's map is computed once and applied to the values of both.

use candle_core::{D, Module, Result, Tensor};
use candle_nn::{LayerNorm, Linear, VarBuilder};

use super::super::layers::{GroupNorm, NORM_EPS, attend, geglu, linear, linear_no_bias, transposed};

/// Epsilon of the transformer's layer norms: PyTorch's default.
const LAYER_NORM_EPS: f64 = 1e-5;

/// Keys and values of each text for one cross-attention layer.
pub(super) struct TextKv {
    /// [texts, heads, head width, tokens]
    keys: Tensor,
    /// [texts, heads, tokens, head width]
    values: Tensor,
}

/// What one forward pass needs beside the hidden states.
pub(super) struct Context<'a> {
    /// (text, number of rows), in the order of the rows.
    pub(super) texts: &'a [(usize, usize)],
    pub(super) sharing: Option<&'a SharedRows>,
}

/// The rows of a batch by how they get their self-attention map.
pub(super) struct SharedRows {
    /// Rows whose map the row at the same place of `targets` uses too.
    pub(super) sources: Tensor,
    pub(super) targets: Tensor,
    /// Rows with a map of their own that nobody shares; `None` when there are none.
    pub(super) alone: Option<Tensor>,
    /// For each row of the batch, its place in [sources, targets, alone].
    pub(super) places: Tensor,
}

/// Group norm, projection, transformer blocks, projection, shortcut: one attention layer over [b, c, h, w].
pub(super) struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Linear,
    blocks: Vec<TransformerBlock>,
    proj_out: Linear,
}

impl SpatialTransformer {
    /// `proj_in` and `proj_out` are stored as linear layers or as 1x1 convolutions; both are the same product.
    pub(super) fn load(channels: usize, heads: usize, depth: usize, context: usize, groups: usize, vb: VarBuilder) -> Result<Self> {
        let block = |i: usize| TransformerBlock::load(channels, heads, context, vb.pp(format!("transformer_blocks.{i}")));
        Ok(SpatialTransformer {
            norm: GroupNorm::load(groups, channels, NORM_EPS, vb.pp("norm"))?,
            proj_in: linear(channels, channels, vb.pp("proj_in"))?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            proj_out: linear(channels, channels, vb.pp("proj_out"))?,
        })
    }

    /// Appends the keys and values of `states` [texts, tokens, context width] for each block.
    pub(super) fn text_kv(&self, states: &Tensor, into: &mut Vec<TextKv>) -> Result<()> {
        self.blocks.iter().try_for_each(|block| {
            into.push(block.cross.text_kv(states)?);
            Ok(())
        })
    }

    /// `text` yields the keys and values of this layer's blocks in order.
    pub(super) fn forward<'k>(&self, x: &Tensor, context: &Context, text: &mut impl Iterator<Item = &'k TextKv>) -> Result<Tensor> {
        let (b, c, height, width) = x.dims4()?;
        let tokens = transposed(&self.norm.forward(x)?.reshape((b, c, height * width))?)?;
        let mut tokens = self.proj_in.forward(&tokens)?;
        for block in &self.blocks {
            let Some(kv) = text.next() else { candle_core::bail!("the text context belongs to another UNet") };
            tokens = block.forward(&tokens, context, kv)?;
        }
        let out = transposed(&self.proj_out.forward(&tokens)?)?.reshape((b, c, height, width))?;
        x + out
    }
}

struct TransformerBlock {
    norm1: LayerNorm,
    own: Attention,
    norm2: LayerNorm,
    cross: Attention,
    norm3: LayerNorm,
    ff_in: Linear,
    ff_out: Linear,
}

impl TransformerBlock {
    fn load(channels: usize, heads: usize, context: usize, vb: VarBuilder) -> Result<Self> {
        let norm = |name: &str| {
            let vb = vb.pp(name);
            Ok::<_, candle_core::Error>(LayerNorm::new(vb.get(channels, "weight")?, vb.get(channels, "bias")?, LAYER_NORM_EPS))
        };
        Ok(TransformerBlock {
            norm1: norm("norm1")?,
            own: Attention::load(channels, channels, heads, vb.pp("attn1"))?,
            norm2: norm("norm2")?,
            cross: Attention::load(channels, context, heads, vb.pp("attn2"))?,
            norm3: norm("norm3")?,
            ff_in: linear(channels, 8 * channels, vb.pp("ff.net.0.proj"))?,
            ff_out: linear(4 * channels, channels, vb.pp("ff.net.2"))?,
        })
    }

    fn forward(&self, x: &Tensor, context: &Context, text: &TextKv) -> Result<Tensor> {
        let x = (x + self.own.to_itself(&self.norm1.forward(x)?, context.sharing)?)?;
        let x = (&x + self.cross.to_text(&self.norm2.forward(&x)?, text, context.texts)?)?;
        let h = geglu(&self.ff_in.forward(&self.norm3.forward(&x)?)?)?;
        x + self.ff_out.forward(&h)?
    }
}

struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    scale: f64,
}

impl Attention {
    fn load(channels: usize, context: usize, heads: usize, vb: VarBuilder) -> Result<Self> {
        Ok(Attention {
            q: linear_no_bias(channels, channels, vb.pp("to_q"))?,
            k: linear_no_bias(context, channels, vb.pp("to_k"))?,
            v: linear_no_bias(context, channels, vb.pp("to_v"))?,
            out: linear(channels, channels, vb.pp("to_out.0"))?,
            heads,
            scale: ((channels / heads) as f64).powf(-0.5),
        })
    }

    /// [rows, tokens, channels] -> [rows, heads, tokens, head width], as a view.
    fn split(&self, x: &Tensor) -> Result<Tensor> {
        let (rows, tokens, channels) = x.dims3()?;
        x.reshape((rows, tokens, self.heads, channels / self.heads))?.transpose(1, 2)
    }

    /// Self-attention of [b, tokens, channels], with maps shared between rows as `sharing` says.
    fn to_itself(&self, x: &Tensor, sharing: Option<&SharedRows>) -> Result<Tensor> {
        let v = self.v.forward(x)?;
        let mixed = match sharing {
            None => self.attend_own(x, &v)?,
            Some(rows) => {
                let both = [v.index_select(&rows.sources, 0)?, v.index_select(&rows.targets, 0)?];
                let mut parts = self.attend_shared(&x.index_select(&rows.sources, 0)?, both)?.to_vec();
                if let Some(alone) = &rows.alone {
                    parts.push(self.attend_own(&x.index_select(alone, 0)?, &v.index_select(alone, 0)?)?);
                }
                Tensor::cat(&parts, 0)?.index_select(&rows.places, 0)?
            }
        };
        self.out.forward(&mixed)
    }

    /// Each row's map applied to its own values.
    fn attend_own(&self, x: &Tensor, v: &Tensor) -> Result<Tensor> {
        join(&self.attend_rows(x, &self.split(v)?)?)
    }

    /// Each row's map applied to the values of the row and of its partner.
    fn attend_shared(&self, x: &Tensor, [v, partner]: [Tensor; 2]) -> Result<[Tensor; 2]> {
        let both = Tensor::cat(&[self.split(&v)?, self.split(&partner)?], D::Minus1)?;
        let out = self.attend_rows(x, &both)?;
        let width = out.dim(D::Minus1)? / 2;
        Ok([join(&out.narrow(D::Minus1, 0, width)?)?, join(&out.narrow(D::Minus1, width, width)?)?])
    }

    /// Maps of [rows, tokens, channels] on values [rows, heads, tokens, any width].
    fn attend_rows(&self, x: &Tensor, v: &Tensor) -> Result<Tensor> {
        let q = (self.split(&self.q.forward(x)?)?.contiguous()? * self.scale)?;
        let k = self.split(&self.k.forward(x)?)?.contiguous()?;
        let (rows, heads, tokens, width) = v.dims4()?;
        let flat = |t: &Tensor| t.contiguous()?.flatten(0, 1);
        attend(&flat(&q)?, &flat(&k)?.t()?, &flat(v)?)?.reshape((rows, heads, tokens, width))
    }

    fn text_kv(&self, states: &Tensor) -> Result<TextKv> {
        let keys = self.split(&self.k.forward(states)?)?.transpose(2, 3)?.contiguous()?;
        Ok(TextKv { keys, values: self.split(&self.v.forward(states)?)?.contiguous()? })
    }

    /// Cross-attention of [b, tokens, channels]; rows of one text are one product with that text's keys and values.
    fn to_text(&self, x: &Tensor, text: &TextKv, texts: &[(usize, usize)]) -> Result<Tensor> {
        let (_, tokens, channels) = x.dims3()?;
        let q = (self.q.forward(x)? * self.scale)?;
        let mut parts = Vec::with_capacity(texts.len());
        let mut row = 0;
        for &(index, rows) in texts {
            let q = q.narrow(0, row, rows)?.reshape((rows * tokens, self.heads, channels / self.heads))?;
            let out = attend(&q.transpose(0, 1)?.contiguous()?, &text.keys.get(index)?, &text.values.get(index)?)?;
            parts.push(out.transpose(0, 1)?.reshape((rows, tokens, channels))?);
            row += rows;
        }
        self.out.forward(&Tensor::cat(&parts, 0)?)
    }
}

/// [rows, heads, tokens, head width] -> [rows, tokens, channels].
fn join(x: &Tensor) -> Result<Tensor> {
    x.transpose(1, 2)?.flatten_from(2)
}

//! CLIP: images and captions as unit vectors, and the four similarities that the filter judges by.

use super::clip_config::{ClipConfig, Heads};
use super::error::{Error, Result};
use super::preprocess;
use super::text_encoder::check_vocabulary;
use super::tokenizer::{ClipTokenizer, Dialect, Tokens};
use super::weights::{Place, Weights};
use candle_core::{D, DType, Device, IndexOp, Tensor};
use candle_nn::{Linear, Module, VarBuilder, linear_no_bias};
use candle_transformers::models::clip::text_model::ClipTextTransformer;
use candle_transformers::models::clip::vision_model::ClipVisionTransformer;
use ip2p_pipeline::records::Scores;
use std::path::Path;

/// A tensor that only OpenAI's naming has.
const OPENAI_MARK: &str = "visual.conv1.weight";
/// The temperature of training, and three numbers that OpenAI's archives carry as tensors.
const UNUSED: [&str; 4] = ["logit_scale", "input_resolution", "context_length", "vocab_size"];

/// Both towers with their tokenizer and preprocessing.
pub struct Clip {
    towers: Towers,
    tokenizer: ClipTokenizer,
    /// Tokens of a text.
    length: usize,
    /// Side of the square that the image tower sees.
    image_size: usize,
    dtype: DType,
    device: Device,
}

/// Unit vectors of a triplet's two captions; made once, used for all its candidates.
#[derive(Clone, Debug)]
pub struct TextPair {
    caption: Vec<f32>,
    output: Vec<f32>,
}

struct Towers {
    text: ClipTextTransformer,
    vision: ClipVisionTransformer,
    text_projection: Linear,
    visual_projection: Linear,
}

impl Clip {
    /// Opens a HF folder (`config.json` and weights), or one file or folder in OpenAI's naming.
    pub fn open(model: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let weights = Weights::open(model)?;
        let tokenizer = ClipTokenizer::for_model(model)?;
        if weights.shape(OPENAI_MARK).is_some() {
            return Self::from_openai(&weights, None, tokenizer, dtype, device);
        }
        let folder = if model.is_dir() { model } else { model.parent().unwrap_or(Path::new("")) };
        Self::from_hf(&weights, &ClipConfig::from_json(&folder.join("config.json"))?, tokenizer, dtype, device)
    }

    /// From transformers' `CLIPModel` naming.
    pub fn from_hf(weights: &Weights, config: &ClipConfig, tokenizer: ClipTokenizer, dtype: DType, device: &Device) -> Result<Self> {
        Self::new(weights, config, |name| Place::named(name), tokenizer, dtype, device)
    }

    /// From OpenAI's naming; sizes come from the shapes, see [`ClipConfig::from_openai`] for `heads`.
    pub fn from_openai(weights: &Weights, heads: Option<Heads>, tokenizer: ClipTokenizer, dtype: DType, device: &Device) -> Result<Self> {
        Self::new(weights, &ClipConfig::from_openai(weights, heads)?, openai_place, tokenizer, dtype, device)
    }

    fn new(
        weights: &Weights,
        config: &ClipConfig,
        place: impl Fn(&str) -> Place + Send + Sync,
        tokenizer: ClipTokenizer,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        check_vocabulary(&tokenizer, &config.text, &weights.file(""))?;
        let selection = weights.select("CLIP", "").placed(place).ignoring(&UNUSED);
        let towers = selection.build(dtype, device, |vb| Towers::new(vb, config))?;
        Ok(Clip {
            towers,
            tokenizer,
            length: config.text.max_position_embeddings,
            image_size: config.vision.image_size,
            dtype,
            device: device.clone(),
        })
    }

    /// Unit vectors of images [n, 3, h, w] with values in [0, 1], any size: f32 [n, d].
    pub fn image_features(&self, images: &Tensor) -> Result<Tensor> {
        unit_length(&self.raw_image_features(images)?)
    }

    /// The same before division by the length.
    pub fn raw_image_features(&self, images: &Tensor) -> Result<Tensor> {
        let input = preprocess::clip_input(&images.to_device(&self.device)?, self.image_size)?.to_dtype(self.dtype)?;
        let pooled = self.towers.vision.forward(&input)?;
        Ok(self.towers.visual_projection.forward(&pooled)?.to_dtype(DType::F32)?)
    }

    /// Unit vectors of captions: f32 [n, d]. A caption beyond the model's length keeps its beginning.
    pub fn text_features(&self, texts: &[&str]) -> Result<Tensor> {
        unit_length(&self.raw_text_features(texts)?)
    }

    /// The same before division by the length.
    pub fn raw_text_features(&self, texts: &[&str]) -> Result<Tensor> {
        let rows: Vec<Vec<u32>> = texts.iter().map(|text| Ok(self.tokens(text)?.ids)).collect::<Result<_>>()?;
        let input = Tensor::from_vec(rows.concat(), (rows.len(), self.length), &self.device)?;
        let states = self.towers.text.forward_with_mask(&input, usize::MAX)?;
        let pooled = rows.iter().enumerate().map(|(row, ids)| states.i((row, end_position(ids))));
        let pooled = Tensor::stack(&pooled.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
        Ok(self.towers.text_projection.forward(&pooled)?.to_dtype(DType::F32)?)
    }

    /// Ids of a caption in OpenAI's dialect, and its length before truncation.
    pub fn tokens(&self, text: &str) -> Result<Tokens> {
        self.tokenizer.encode(text, Dialect::OpenAi, self.length)
    }

    /// The vectors of a triplet's caption and edited caption.
    pub fn text_pair(&self, caption: &str, output: &str) -> Result<TextPair> {
        let features = self.text_features(&[caption, output])?;
        Ok(TextPair { caption: features.get(0)?.to_vec1()?, output: features.get(1)?.to_vec1()? })
    }

    /// The four similarities of each candidate of one triplet.
    ///
    /// `before` and `after` are the decoded float images [n, 3, h, w] in [0, 1], not yet rounded to bytes.
    pub fn quartet(&self, before: &Tensor, after: &Tensor, texts: &TextPair) -> Result<Vec<Scores>> {
        if before.dims() != after.dims() {
            return Err(Error::Input(format!("before {:?} and after {:?} differ in shape", before.dims(), after.dims())));
        }
        let features: Vec<Vec<f32>> = self.image_features(&Tensor::cat(&[before, after], 0)?)?.to_vec2()?;
        let (before, after) = features.split_at(features.len() / 2);
        Ok(before.iter().zip(after).map(|(before, after)| scores(before, after, texts)).collect())
    }
}

impl Towers {
    fn new(vb: VarBuilder, config: &ClipConfig) -> candle_core::Result<Self> {
        let (text, vision) = (&config.text, &config.vision);
        Ok(Towers {
            text: ClipTextTransformer::new(vb.pp("text_model"), text)?,
            vision: ClipVisionTransformer::new(vb.pp("vision_model"), vision)?,
            text_projection: linear_no_bias(text.embed_dim, text.projection_dim, vb.pp("text_projection"))?,
            visual_projection: linear_no_bias(vision.embed_dim, vision.projection_dim, vb.pp("visual_projection"))?,
        })
    }
}

/// Where OpenAI's files keep the tensor that transformers calls `name`.
fn openai_place(name: &str) -> Place {
    let (tower, rest) = match (name.strip_prefix("text_model."), name.strip_prefix("vision_model.")) {
        (Some(rest), _) => ("", rest),
        (_, Some(rest)) => ("visual.", rest),
        _ if name == "text_projection.weight" => return Place::named("text_projection").transposed(),
        _ => return Place::named("visual.proj").transposed(),
    };
    if let Some((layer, part)) = rest.strip_prefix("encoder.layers.").and_then(|rest| rest.split_once('.')) {
        return layer_place(&format!("{tower}transformer.resblocks.{layer}."), part);
    }
    let (module, kind) = rest.rsplit_once('.').unwrap_or((rest, "weight"));
    let original = match module {
        "embeddings" => "class_embedding".to_string(),
        "embeddings.token_embedding" => format!("token_embedding.{kind}"),
        "embeddings.position_embedding" => "positional_embedding".to_string(),
        "embeddings.patch_embedding" => format!("conv1.{kind}"),
        "pre_layrnorm" => format!("ln_pre.{kind}"),
        "post_layernorm" => format!("ln_post.{kind}"),
        _ => format!("ln_final.{kind}"),
    };
    Place::named(format!("{tower}{original}"))
}

/// The same inside a transformer layer, where OpenAI keeps q, k and v in one tensor.
fn layer_place(layer: &str, part: &str) -> Place {
    let (module, kind) = part.rsplit_once('.').unwrap_or((part, "weight"));
    let fused = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].iter().position(|name| *name == module);
    if let Some(index) = fused {
        return Place::named(format!("{layer}attn.in_proj_{kind}")).part(index, 3);
    }
    let original = match module {
        "self_attn.out_proj" => "attn.out_proj",
        "layer_norm1" => "ln_1",
        "layer_norm2" => "ln_2",
        "mlp.fc1" => "mlp.c_fc",
        _ => "mlp.c_proj",
    };
    Place::named(format!("{layer}{original}.{kind}"))
}

/// The first position of the largest id: the end token, whose state stands for the text.
fn end_position(ids: &[u32]) -> usize {
    let largest = ids.iter().max();
    ids.iter().position(|id| Some(id) == largest).unwrap_or(0)
}

fn unit_length(features: &Tensor) -> Result<Tensor> {
    Ok(features.broadcast_div(&features.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)?)
}

/// `clip_similarity.py` of the original on unit vectors.
fn scores(before: &[f32], after: &[f32], texts: &TextPair) -> Scores {
    let change = |from: &[f32], to: &[f32]| -> Vec<f32> { to.iter().zip(from).map(|(to, from)| to - from).collect() };
    Scores {
        clip_sim_0: cosine(before, &texts.caption),
        clip_sim_1: cosine(after, &texts.output),
        clip_sim_dir: cosine(&change(before, after), &change(&texts.caption, &texts.output)),
        clip_sim_image: cosine(before, after),
    }
}

/// Cosine with PyTorch's guard: lengths below 1e-8 count as 1e-8, so that equal images have direction 0.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a).sqrt().max(1e-8) * dot(b, b).sqrt().max(1e-8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_end_token_stands_for_the_text() {
        assert_eq!(end_position(&[7, 1, 2, 8, 8, 8]), 3);
        assert_eq!(end_position(&[7, 1, 2, 8, 0, 0]), 3);
    }

    #[test]
    fn unchanged_image_has_direction_zero() {
        let texts = TextPair { caption: vec![1.0, 0.0], output: vec![0.0, 1.0] };
        let same = scores(&[0.6, 0.8], &[0.6, 0.8], &texts);
        assert_eq!(same.clip_sim_dir, 0.0);
        assert!((same.clip_sim_image - 1.0).abs() < 1e-12 && (same.clip_sim_0 - 0.6).abs() < 1e-7);
        let moved = scores(&[1.0, 0.0], &[0.0, 1.0], &texts);
        assert!((moved.clip_sim_dir - 1.0).abs() < 1e-12);
    }
}

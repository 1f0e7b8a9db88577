//! The text encoder of Stable Diffusion: captions to the states that cross-attention reads.

use super::clip_config::{text_config_from_json, text_config_from_shapes};
use super::error::{Error, Result};
use super::tokenizer::{ClipTokenizer, Dialect};
use super::weights::Weights;
use candle_core::{DType, Device, Tensor};
use candle_transformers::models::clip::text_model::{ClipTextConfig, ClipTextTransformer};
use std::path::Path;

/// Where an original checkpoint keeps the text encoder.
const CHECKPOINT_PREFIX: &str = "cond_stage_model.transformer.text_model.";
/// Where `CLIPTextModel` and `CLIPModel` keep it.
const FOLDER_PREFIX: &str = "text_model.";

/// CLIP's text tower with its tokenizer.
pub struct TextEncoder {
    tower: ClipTextTransformer,
    tokenizer: ClipTokenizer,
    length: usize,
    width: usize,
    device: Device,
}

impl TextEncoder {
    /// From a diffusers folder (`text_encoder/`, `tokenizer/`) or a HF folder with a `config.json` of its own.
    pub fn from_folder(folder: &Path, dtype: DType, device: &Device) -> Result<Self> {
        let inner = folder.join("text_encoder");
        let home = if inner.is_dir() { inner } else { folder.to_path_buf() };
        let config = text_config_from_json(&home.join("config.json"))?;
        let weights = Weights::open(&home)?;
        Self::new(&weights, FOLDER_PREFIX, &config, ClipTokenizer::for_model(folder)?, dtype, device)
    }

    /// From an original checkpoint, which says no more than its tensors' shapes; the vocabulary is the built-in one.
    pub fn from_checkpoint(weights: &Weights, dtype: DType, device: &Device) -> Result<Self> {
        let config = text_config_from_shapes(weights, CHECKPOINT_PREFIX)?;
        Self::new(weights, CHECKPOINT_PREFIX, &config, ClipTokenizer::built_in()?, dtype, device)
    }

    /// From the tensors of `weights` below `prefix` (which ends in `text_model.`).
    pub fn new(
        weights: &Weights,
        prefix: &str,
        config: &ClipTextConfig,
        tokenizer: ClipTokenizer,
        dtype: DType,
        device: &Device,
    ) -> Result<Self> {
        check_vocabulary(&tokenizer, config, &weights.file(prefix))?;
        let tower = weights.select("text encoder", prefix).build(dtype, device, |vb| ClipTextTransformer::new(vb, config))?;
        let (length, width) = (config.max_position_embeddings, config.embed_dim);
        Ok(TextEncoder { tower, tokenizer, length, width, device: device.clone() })
    }

    /// Width of the states.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Tokens that the model sees of a caption, start and end included (77 for every Stable Diffusion 1.x).
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many tokens a caption has; beyond [`Self::length`] its end is cut off.
    pub fn count(&self, text: &str) -> Result<usize> {
        Ok(self.tokenizer.encode(text, Dialect::StableDiffusion, self.length)?.count)
    }

    /// States of all positions after the final layer norm: [texts, length, width] in the model's dtype.
    pub fn encode(&self, texts: &[&str]) -> Result<Tensor> {
        let mut ids = Vec::with_capacity(texts.len() * self.length);
        for text in texts {
            ids.extend(self.tokenizer.encode(text, Dialect::StableDiffusion, self.length)?.ids);
        }
        self.forward(&Tensor::from_vec(ids, (texts.len(), self.length), &self.device)?)
    }

    /// The same for token ids: u32 [n, length].
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        Ok(self.tower.forward_with_mask(ids, usize::MAX)?)
    }
}

/// Every id of the tokenizer must have a row in the embedding.
pub(super) fn check_vocabulary(tokenizer: &ClipTokenizer, config: &ClipTextConfig, file: &Path) -> Result<()> {
    let (tokens, rows) = (tokenizer.vocabulary_size(), config.vocab_size);
    if tokens > rows {
        let problem =
            format!("the tokenizer has {tokens} tokens, the embedding {rows} rows: put the model's own tokenizer files beside it");
        return Err(Error::file(file, problem));
    }
    Ok(())
}

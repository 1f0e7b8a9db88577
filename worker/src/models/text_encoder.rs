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

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// One layer with one head of 64; values depend on nothing but their place.
    fn tensors(prefix: &str) -> HashMap<String, Tensor> {
        let layer = "encoder.layers.0";
        let shapes: Vec<(String, Vec<usize>)> = [
            ("embeddings.token_embedding.weight".to_string(), vec![49408, 64]),
            ("embeddings.position_embedding.weight".to_string(), vec![77, 64]),
            (format!("{layer}.mlp.fc1.weight"), vec![128, 64]),
            (format!("{layer}.mlp.fc1.bias"), vec![128]),
            (format!("{layer}.mlp.fc2.weight"), vec![64, 128]),
            (format!("{layer}.mlp.fc2.bias"), vec![64]),
        ]
        .into_iter()
        .chain(["q_proj", "k_proj", "v_proj", "out_proj"].iter().flat_map(|name| {
            let name = format!("{layer}.self_attn.{name}");
            [(format!("{name}.weight"), vec![64, 64]), (format!("{name}.bias"), vec![64])]
        }))
        .chain(
            [format!("{layer}.layer_norm1"), format!("{layer}.layer_norm2"), "final_layer_norm".to_string()]
                .into_iter()
                .flat_map(|name| [(format!("{name}.weight"), vec![64]), (format!("{name}.bias"), vec![64])]),
        )
        .collect();
        let filled = |(name, shape): (String, Vec<usize>)| {
            let (count, seed) = (shape.iter().product::<usize>(), name.len() as f32);
            let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 0.37).sin() * 0.3).collect();
            (format!("{prefix}{name}"), Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
        };
        shapes.into_iter().map(filled).collect()
    }

    const CONFIG: &str = r#"{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 1,
        "vocab_size": 49408, "max_position_embeddings": 77, "hidden_act": "quick_gelu"}"#;

    #[test]
    fn an_original_checkpoint_equals_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("text_encoder");
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(inner.join("config.json"), CONFIG).unwrap();
        candle_core::safetensors::save(&tensors(FOLDER_PREFIX), inner.join("model.safetensors")).unwrap();
        let checkpoint = folder.path().join("sd.safetensors");
        candle_core::safetensors::save(&tensors(CHECKPOINT_PREFIX), &checkpoint).unwrap();

        let from_folder = TextEncoder::from_folder(folder.path(), DType::F32, &Device::Cpu).unwrap();
        let weights = Weights::open(&checkpoint).unwrap();
        let from_checkpoint = TextEncoder::from_checkpoint(&weights, DType::F32, &Device::Cpu).unwrap();
        let states = |encoder: &TextEncoder| encoder.encode(&["a cat", ""]).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(states(&from_folder), states(&from_checkpoint));
        assert_eq!((from_checkpoint.length(), from_checkpoint.width(), from_checkpoint.count("a cat").unwrap()), (77, 64, 4));

        std::fs::write(inner.join("config.json"), CONFIG.replace("quick_gelu", "gelu")).unwrap();
        let error = TextEncoder::from_folder(folder.path(), DType::F32, &Device::Cpu).map(drop).unwrap_err().to_string();
        assert!(error.contains("hidden_act: `gelu` is not supported"), "{error}");
    }
}

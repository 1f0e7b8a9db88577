//! Sizes of CLIP's towers: from a `config.json` of the HF form, or from the shapes of the tensors.

use super::error::{Error, Result};
use super::weights::Weights;
use candle_transformers::models::clip::text_model::{Activation, ClipTextConfig};
use candle_transformers::models::clip::vision_model::ClipVisionConfig;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Width of an attention head in every CLIP that OpenAI published; its files do not say it.
const HEAD_WIDTH: usize = 64;

/// The sizes of a full CLIP.
#[derive(Clone, Debug)]
pub struct ClipConfig {
    pub text: ClipTextConfig,
    pub vision: ClipVisionConfig,
}

/// Numbers of attention heads, which shapes do not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    pub text: usize,
    pub vision: usize,
}

/// A `config.json`; keys that are left out have the defaults of transformers' `CLIPConfig`.
#[derive(Deserialize)]
struct Json {
    #[serde(default = "default_projection")]
    projection_dim: usize,
    text_config: Option<TowerJson>,
    vision_config: Option<TowerJson>,
}

/// One tower; `CLIPTextModel` has it at the top of the file.
#[derive(Deserialize)]
struct TowerJson {
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f64>,
    vocab_size: Option<usize>,
    max_position_embeddings: Option<usize>,
    image_size: Option<usize>,
    patch_size: Option<usize>,
    num_channels: Option<usize>,
}

fn default_projection() -> usize {
    512
}

impl ClipConfig {
    /// Reads the `config.json` of a `CLIPModel`.
    pub fn from_json(path: &Path) -> Result<Self> {
        let json: Json = read_json(path)?;
        let missing = |key| Error::config(path, key, "missing; is this the config.json of a CLIPModel?");
        let text = json.text_config.ok_or_else(|| missing("text_config"))?;
        let vision = json.vision_config.ok_or_else(|| missing("vision_config"))?;
        let config = ClipConfig {
            text: text.text(path, "text_config.", json.projection_dim)?,
            vision: vision.vision(path, "vision_config.", json.projection_dim)?,
        };
        Ok(config)
    }

    /// Sizes of a checkpoint in OpenAI's naming; heads are 64 wide unless `heads` says how many there are.
    pub fn from_openai(weights: &Weights, heads: Option<Heads>) -> Result<Self> {
        let shapes = Shapes { weights, prefix: "" };
        let [vision_width, channels, patch_size, _] = shapes.of("visual.conv1.weight")?;
        let [positions, _] = shapes.of("visual.positional_embedding")?;
        let [_, projection_dim] = shapes.of("visual.proj")?;
        let [vision_inner, _] = shapes.of("visual.transformer.resblocks.0.mlp.c_fc.weight")?;
        let [vocab_size, text_width] = shapes.of("token_embedding.weight")?;
        let [context, _] = shapes.of("positional_embedding")?;
        let [text_inner, _] = shapes.of("transformer.resblocks.0.mlp.c_fc.weight")?;
        let heads = heads.unwrap_or(Heads { text: text_width / HEAD_WIDTH, vision: vision_width / HEAD_WIDTH });
        let text = ClipTextConfig {
            vocab_size,
            embed_dim: text_width,
            activation: Activation::QuickGelu,
            intermediate_size: text_inner,
            max_position_embeddings: context,
            pad_with: None,
            num_hidden_layers: shapes.layers("transformer.resblocks."),
            num_attention_heads: heads.text,
            projection_dim,
        };
        let vision = ClipVisionConfig {
            embed_dim: vision_width,
            activation: Activation::QuickGelu,
            intermediate_size: vision_inner,
            num_hidden_layers: shapes.layers("visual.transformer.resblocks."),
            num_attention_heads: heads.vision,
            projection_dim,
            num_channels: channels,
            image_size: positions.saturating_sub(1).isqrt() * patch_size,
            patch_size,
        };
        check_heads(&shapes.file(), "visual.conv1.weight", vision.embed_dim, vision.num_attention_heads)?;
        check_heads(&shapes.file(), "token_embedding.weight", text.embed_dim, text.num_attention_heads)?;
        Ok(ClipConfig { text, vision })
    }
}

/// Reads the text tower's sizes from the `config.json` of a `CLIPTextModel` or of a full `CLIPModel`.
pub fn text_config_from_json(path: &Path) -> Result<ClipTextConfig> {
    let json: Json = read_json(path)?;
    match json.text_config {
        Some(text) => text.text(path, "text_config.", json.projection_dim),
        None => read_json::<TowerJson>(path)?.text(path, "", json.projection_dim),
    }
}

/// Sizes of a text tower in HF naming below `prefix`, from its tensors; heads are 64 wide.
pub fn text_config_from_shapes(weights: &Weights, prefix: &str) -> Result<ClipTextConfig> {
    let shapes = Shapes { weights, prefix };
    let [vocab_size, width] = shapes.of("embeddings.token_embedding.weight")?;
    let [context, _] = shapes.of("embeddings.position_embedding.weight")?;
    let [inner, _] = shapes.of("encoder.layers.0.mlp.fc1.weight")?;
    check_heads(&shapes.file(), "embeddings.token_embedding.weight", width, width / HEAD_WIDTH)?;
    Ok(ClipTextConfig {
        vocab_size,
        embed_dim: width,
        activation: Activation::QuickGelu,
        intermediate_size: inner,
        max_position_embeddings: context,
        pad_with: None,
        num_hidden_layers: shapes.layers("encoder.layers."),
        num_attention_heads: width / HEAD_WIDTH,
        projection_dim: width,
    })
}

impl TowerJson {
    fn text(self, path: &Path, prefix: &str, projection_dim: usize) -> Result<ClipTextConfig> {
        let config = ClipTextConfig {
            vocab_size: self.vocab_size.unwrap_or(49408),
            embed_dim: self.hidden_size.unwrap_or(512),
            activation: self.activation(path, prefix)?,
            intermediate_size: self.intermediate_size.unwrap_or(2048),
            max_position_embeddings: self.max_position_embeddings.unwrap_or(77),
            pad_with: None,
            num_hidden_layers: self.num_hidden_layers.unwrap_or(12),
            num_attention_heads: self.num_attention_heads.unwrap_or(8),
            projection_dim,
        };
        check_heads(path, &format!("{prefix}num_attention_heads"), config.embed_dim, config.num_attention_heads)?;
        Ok(config)
    }

    fn vision(self, path: &Path, prefix: &str, projection_dim: usize) -> Result<ClipVisionConfig> {
        let config = ClipVisionConfig {
            embed_dim: self.hidden_size.unwrap_or(768),
            activation: self.activation(path, prefix)?,
            intermediate_size: self.intermediate_size.unwrap_or(3072),
            num_hidden_layers: self.num_hidden_layers.unwrap_or(12),
            num_attention_heads: self.num_attention_heads.unwrap_or(12),
            projection_dim,
            num_channels: self.num_channels.unwrap_or(3),
            image_size: self.image_size.unwrap_or(224),
            patch_size: self.patch_size.unwrap_or(32),
        };
        check_heads(path, &format!("{prefix}num_attention_heads"), config.embed_dim, config.num_attention_heads)?;
        if config.patch_size == 0 || !config.image_size.is_multiple_of(config.patch_size) {
            let problem = format!("{} does not divide image_size {}", config.patch_size, config.image_size);
            return Err(Error::config(path, format!("{prefix}patch_size"), problem));
        }
        Ok(config)
    }

    /// candle's towers have OpenAI's activation and epsilon built in.
    fn activation(&self, path: &Path, prefix: &str) -> Result<Activation> {
        let name = self.hidden_act.as_deref().unwrap_or("quick_gelu");
        if name != "quick_gelu" {
            let problem = format!("`{name}` is not supported: use a CLIP with quick_gelu, such as openai/clip-vit-large-patch14");
            return Err(Error::config(path, format!("{prefix}hidden_act"), problem));
        }
        match self.layer_norm_eps {
            Some(epsilon) if (epsilon - 1e-5).abs() > 1e-9 => {
                Err(Error::config(path, format!("{prefix}layer_norm_eps"), format!("{epsilon} is not supported: only 1e-5 is")))
            }
            _ => Ok(Activation::QuickGelu),
        }
    }
}

fn check_heads(path: &Path, key: &str, width: usize, heads: usize) -> Result<()> {
    if heads == 0 || !width.is_multiple_of(heads) {
        return Err(Error::config(path, key, format!("width {width} cannot be split into {heads} attention heads")));
    }
    Ok(())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::file(path, e))?;
    serde_json::from_str(&text).map_err(|e| Error::file(path, e))
}

/// Shapes of tensors below a prefix.
struct Shapes<'a> {
    weights: &'a Weights,
    prefix: &'a str,
}

impl Shapes<'_> {
    fn file(&self) -> PathBuf {
        self.weights.file(self.prefix)
    }

    /// The shape of a tensor that must be there with `N` dimensions.
    fn of<const N: usize>(&self, name: &str) -> Result<[usize; N]> {
        let name = format!("{}{name}", self.prefix);
        let shape = self.weights.shape(&name).ok_or_else(|| Error::file(&self.file(), format!("no tensor {name}")))?;
        shape.try_into().map_err(|_| Error::file(&self.file(), format!("{name} has shape {shape:?}, expected {N} dimensions")))
    }

    /// How many numbered layers follow `stem`.
    fn layers(&self, stem: &str) -> usize {
        (0..).take_while(|i| self.weights.has_prefix(&format!("{}{stem}{i}.", self.prefix))).count()
    }
}

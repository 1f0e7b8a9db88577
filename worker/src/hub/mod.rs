//! Where models come from: a name in the pipeline file becomes a path on this machine.
//!
//! A name is a local path, a folder or file of an object store (`s3://`, `gs://`, `az://`; `https://` for one file), or a
//! repository of the Hugging Face hub (`hf://owner/name[@revision][/path][?variant=fp16]`). What is fetched lies in one
//! cache that all workers of a node share. `HF_TOKEN`, `HF_ENDPOINT` and `IP2P_CACHE` are honoured.

mod cache;
mod client;
mod error;
mod reference;
mod repository;
mod selection;
mod store;

pub use cache::Cache;
pub use error::{Error, Result};

use reference::Reference;
use repository::Hub;
use std::path::PathBuf;

/// What a model is for: it decides which files are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// UNet, VAE, text encoder and tokenizer: a diffusers folder, or one checkpoint named by its path.
    Diffusion,
    /// An image autoencoder, also out of a whole pipeline.
    Vae,
    /// A full CLIP with its tokenizer.
    Clip,
    /// A language model with its tokenizer, or one GGUF file.
    Llm,
}

impl Needs {
    /// What to put in place by hand, for messages.
    fn description(self) -> &'static str {
        match self {
            Needs::Diffusion => {
                "a diffusers folder (model_index.json, text_encoder/, tokenizer/, unet/, vae/) or a .safetensors or .ckpt file"
            }
            Needs::Vae => "a folder with config.json and its weights, or a .safetensors or .ckpt file",
            Needs::Clip => "a folder with config.json, model.safetensors and the tokenizer's files",
            Needs::Llm => "a folder with config.json, model.safetensors and tokenizer.json, or a .gguf file",
        }
    }
}

/// Finds the files of a model, fetching those that are not here yet.
///
/// A branch of the hub may move: a commit after `@` does not. When the hub cannot be reached, what the cache holds of
/// the revision is used. Errors say what to change or to put where.
pub async fn resolve(reference: &str, needs: Needs) -> Result<PathBuf> {
    match Reference::parse(reference)? {
        Reference::Local(path) if path.exists() => Ok(path),
        Reference::Local(_) => {
            let problem = format!("no such file or folder; put there {}, or name one as hf://owner/name", needs.description());
            Err(Error::Missing { reference: reference.to_string(), problem })
        }
        Reference::Store(url) => store::fetch(&url, needs, &Cache::from_env()).await,
        Reference::Hub(reference) => Hub::from_env()?.fetch(&reference, needs).await,
    }
}

/// The reference under which these weights can be had for ever: names of the hub get their commit.
pub async fn pin(reference: &str, needs: Needs) -> Result<String> {
    match Reference::parse(reference)? {
        Reference::Hub(reference) => Hub::from_env()?.pin(&reference, needs).await,
        Reference::Local(_) | Reference::Store(_) => Ok(reference.to_string()),
    }
}

#[cfg(test)]
mod tests;

//! The neural networks: weights and their files, the diffusion UNet, the image autoencoder, CLIP and its tokenizer,
//! the language model.

mod checkpoint;
pub mod clip;
pub mod clip_config;
pub mod error;
mod layers;
pub mod llm;
mod pickle;
pub mod preprocess;
pub mod text_encoder;
pub mod tokenizer;
pub mod unet;
pub mod vae;
pub mod weights;

pub use error::{Error, Result};
pub use unet::UNet;
pub use vae::Vae;
pub use weights::Weights;

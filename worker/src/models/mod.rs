//! The neural networks: weights and their files, the diffusion UNet, the image autoencoder.

mod checkpoint;
pub mod error;
mod layers;
pub mod unet;
pub mod vae;
pub mod weights;

pub use error::{Error, Result};
pub use unet::UNet;
pub use vae::Vae;
pub use weights::Weights;

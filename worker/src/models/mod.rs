//! The neural networks: weights and their files, the diffusion UNet, the image autoencoder.

mod checkpoint;
pub mod error;
pub mod weights;

pub use error::{Error, Result};
pub use weights::Weights;

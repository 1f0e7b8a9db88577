//! Drawing: from text states and noise to latents.
//!
//! [`draw`] makes candidate pairs with Prompt-to-Prompt, [`edit`] applies InstructPix2Pix to a picture; both are the
//! same sampler ([`sampler`]) over the same noise schedule ([`schedule`]) with another denoiser.

pub mod draw;
pub mod edit;
pub mod fit;
pub mod p2p;
pub mod sampler;
pub mod schedule;

pub use draw::{Draw, Drawn, Settings, Texts, draw};
pub use schedule::Schedule;

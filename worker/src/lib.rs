//! Runs one partition of a stage from start to end.

pub mod diffusion;
pub mod hub;
pub mod images;
pub mod models;
pub mod prompts;
pub mod tls;

//! Runs one partition of a stage from start to end.

pub mod hub;
pub mod models;
pub mod prompts;
pub mod tls;

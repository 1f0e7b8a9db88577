//! The worker: one partition of one stage at a time, from its input in the store to its commit.

mod blocking;
pub mod cli;
pub mod control;
pub mod device;
pub mod diffusion;
pub mod draw;
pub mod failure;
pub mod grpc;
pub mod hub;
pub mod images;
pub mod link;
pub mod loaded;
pub mod logging;
pub mod mend;
pub mod models;
pub mod prompts;
pub mod ready;
pub mod run_partition;
pub mod session;
pub mod stages;
#[cfg(test)]
mod testing;
pub mod tls;

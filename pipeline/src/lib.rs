//! The domain of ip2p: what a run is, what it reads and writes, and under which names.
//!
//! No machine learning, no network service and no spawned task lives here.
//! Everything random comes from [`rng`], every object key from [`layout`].

#![deny(clippy::disallowed_methods)]

pub mod batches;
pub mod commit;
pub mod completion;
pub mod corpus;
pub mod error;
pub mod fetch;
pub mod file_hashes;
pub mod formats;
pub mod ids;
pub mod layout;
pub mod manifest;
pub mod model_id;
mod pages;
pub mod plan;
pub mod planted;
pub mod python_json;
pub mod records;
pub mod rng;
pub mod selection;
pub mod shard_plan;
pub mod spec;
pub mod store;
pub mod tables;
pub mod task;

pub use error::{Error, Result};

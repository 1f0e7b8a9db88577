//! The coordinator: partitions a corpus, schedules the stages onto workers, and never holds what the store does not.

pub mod audit;
mod charts;
pub mod cli;
mod dataset;
pub mod digest;
pub mod door;
pub mod driver;
pub mod explain;
mod fetch;
pub mod figures;
pub mod finish;
#[cfg(test)]
mod fixture;
pub mod forecast;
pub mod found;
pub mod gc;
pub mod grpc;
mod html;
pub mod launcher;
pub mod listing;
pub mod logging;
mod nothing;
pub mod pin;
mod place;
pub mod pods;
pub mod prepare;
pub mod progress;
pub mod quarantine;
#[cfg(feature = "worker")]
mod redraw;
pub mod report;
mod sample;
pub mod scheduler;
pub mod status;
pub mod summary;
pub mod term;
mod text;
mod thumbnail;
pub mod tls;
pub mod trouble;
pub mod waves;
pub mod web;

//! The coordinator: partitions a corpus, schedules the stages onto workers, and never holds what the store does not.

pub mod driver;
pub mod forecast;
pub mod grpc;
pub mod launcher;
pub mod logging;
pub mod prepare;
pub mod scheduler;
pub mod term;
pub mod tls;

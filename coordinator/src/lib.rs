//! The coordinator: partitions a corpus, schedules the stages onto workers, and never holds what the store does not.

pub mod driver;
pub mod grpc;
pub mod launcher;
pub mod scheduler;
pub mod term;

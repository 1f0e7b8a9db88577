//! What an error means for the attempt it ended: who should try again, if anyone.

use crate::models;
use ip2p_pipeline::Error;
use ip2p_pipeline::task::{Cause, Failure};
use std::io::ErrorKind;

/// The result of anything an attempt does.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// Builds a failure where no error type says the cause.
pub fn failure(cause: Cause, message: impl Into<String>) -> Failure {
    Failure { cause, message: message.into() }
}

/// Maps an error of the domain to its cause.
pub fn domain(error: Error) -> Failure {
    let cause = match &error {
        Error::Invalid(_) | Error::Damaged { .. } => Cause::BadInput,
        Error::Store { source, .. } => store_cause(source),
        Error::File { source, .. } => file_cause(source.kind()),
        Error::Format { .. } => Cause::Bug,
    };
    failure(cause, error.to_string())
}

fn store_cause(error: &object_store::Error) -> Cause {
    match error {
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Cause::BadInput,
        _ => Cause::Transient,
    }
}

fn file_cause(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory => Cause::Resource,
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::InvalidInput => Cause::BadInput,
        _ => Cause::Transient,
    }
}

/// Maps an error of a model to its cause.
pub fn model(error: models::Error) -> Failure {
    let message = error.to_string();
    let cause = match error {
        models::Error::File { .. } | models::Error::Config { .. } | models::Error::Mismatch(_) => Cause::BadInput,
        models::Error::Stopped { .. } => Cause::Preempted,
        models::Error::Tensor(_) if out_of_memory(&message) => Cause::Resource,
        models::Error::Input(_) | models::Error::Tensor(_) => Cause::Bug,
    };
    failure(cause, message)
}

fn out_of_memory(message: &str) -> bool {
    ["out of memory", "OUT_OF_MEMORY", "memory allocation"].iter().any(|text| message.contains(text))
}

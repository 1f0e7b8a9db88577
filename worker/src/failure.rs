//! What an error means for the attempt it ended: who should try again, if anyone.

use crate::models;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::task::{Cause, Failure};
use ip2p_pipeline::{Error, error};
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
        Error::Invalid(_) => Cause::BadInput,
        Error::Damaged { key, .. } => match StageDir::maker_of(key) {
            Some((stage, partition)) if Stage::RUN.contains(&stage) => Cause::Damaged { stage, partition },
            // A manifest, or the corpus: nothing in the run can make it again.
            Some(_) | None => Cause::BadInput,
        },
        Error::Store { source, .. } => store_cause(source),
        Error::File { source, .. } => file_cause(source.kind()),
        Error::Format { .. } => Cause::Bug,
    };
    match cause {
        // The run stops, and says what to do.
        Cause::StoreFull => failure(cause, error.without_advice()),
        cause => failure(cause, error.to_string()),
    }
}

/// A store refuses credentials, which all workers share; a folder of a local store is this worker's affair.
fn store_cause(error: &object_store::Error) -> Cause {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |&error| error.source());
    let file = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).next();
    match (error, file) {
        _ if error::says_full(error) => Cause::StoreFull,
        (_, Some(file)) => file_cause(file.kind()),
        (object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }, None) => Cause::BadInput,
        (_, None) => Cause::Transient,
    }
}

/// Files are those of the worker's own machine: another worker may have more luck.
fn file_cause(kind: ErrorKind) -> Cause {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::OutOfMemory => Cause::Resource,
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidInput => Cause::Resource,
        _ => Cause::Transient,
    }
}

/// Maps an error of a model to its cause.
pub fn model(error: models::Error) -> Failure {
    let message = error.to_string();
    let cause = match error {
        // Also while weights are loaded, where it comes as an error of their file.
        models::Error::Tensor(_) | models::Error::File { .. } if out_of_memory(&message) => Cause::Resource,
        models::Error::File { .. } | models::Error::Config { .. } | models::Error::Mismatch(_) => Cause::BadInput,
        models::Error::Stopped { .. } => Cause::Preempted,
        models::Error::Input(_) | models::Error::Tensor(_) => Cause::Bug,
    };
    failure(cause, message)
}

/// By the words of the CUDA driver, cuBLAS and cuDNN, which candle passes on.
fn out_of_memory(message: &str) -> bool {
    ["out of memory", "OUT_OF_MEMORY", "memory allocation", "STATUS_ALLOC_FAILED"].iter().any(|text| message.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workers_own_disk_is_its_own_trouble() {
        let disk =
            |kind: ErrorKind| object_store::Error::Generic { store: "LocalFileSystem", source: Box::new(std::io::Error::from(kind)) };
        let stored = |source| domain(Error::Store { action: "create", key: "file:///x".to_string(), source }).cause;
        let file = |kind: ErrorKind| domain(Error::File { path: "/tmp/x".to_string(), source: kind.into() }).cause;
        for kind in [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem] {
            assert_eq!((stored(disk(kind)), file(kind)), (Cause::Resource, Cause::Resource), "{kind:?}");
        }
        assert_eq!((stored(disk(ErrorKind::StorageFull)), file(ErrorKind::StorageFull)), (Cause::StoreFull, Cause::Resource));
        assert_eq!(stored(disk(ErrorKind::ConnectionReset)), Cause::Transient);
        let full = domain(Error::Store { action: "create", key: "file:///x".to_string(), source: disk(ErrorKind::StorageFull) });
        assert!(full.message.contains("file:///x") && !full.message.contains("ake room"), "the run says it: {}", full.message);
        let refused = object_store::Error::PermissionDenied { path: "x".to_string(), source: "403".into() };
        assert_eq!(stored(refused), Cause::BadInput);
    }

    #[test]
    fn a_damaged_object_is_blamed_on_the_partition_that_made_it() {
        let cause = |key: &str| domain(Error::Damaged { key: key.to_string(), problem: "it is missing".to_string() }).cause;
        let made = Cause::Damaged { stage: Stage::Pairs, partition: 12 };
        assert_eq!(cause("s3://bucket/run/pairs/0123456789ab/data/p00000012-e0000000100000001-r00000000-images.tar"), made);
        assert_eq!(cause("s3://bucket/run/corpus/0123456789ab/data/p00000012-e0-r00000000-records.parquet"), Cause::BadInput);
        assert_eq!(cause("s3://bucket/run/pairs/0123456789ab/manifests/p00000012.json"), Cause::BadInput);
    }

    #[test]
    fn a_full_gpu_is_no_defect() {
        for text in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CudnnError(CUDNN_STATUS_ALLOC_FAILED)",
        ] {
            let wrapped = candle_core::Error::Msg(text.to_string()).bt().context("loading unet");
            assert_eq!(model(wrapped.into()).cause, Cause::Resource, "{text}");
            assert_eq!(model(models::Error::file(std::path::Path::new("unet.safetensors"), text)).cause, Cause::Resource, "{text}");
        }
        let defect = candle_core::Error::Msg("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access\")".to_string());
        assert_eq!(model(defect.into()).cause, Cause::Bug);
    }
}

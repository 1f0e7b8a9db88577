//! What to do about a failure of a store or of a file, by its kind: the end of the message, or nothing.

use object_store::client::HttpError;
use std::error::Error;
use std::io::{self, ErrorKind};

/// Paths of the clouds' own metadata servers: they are asked only when the environment has no credentials.
const METADATA: [&str; 4] = ["latest/api/token", "latest/meta-data", "computeMetadata", "metadata/identity"];

/// How stores say that the bucket or container itself is not there.
const NO_BUCKET: [&str; 4] = ["NoSuchBucket", "bucket does not exist", "ContainerNotFound", "container does not exist"];

/// About a local file.
pub(super) fn of_file(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => ". Choose another folder or mend its permissions",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => ". A file is where a folder should be: choose another folder",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ". Make room there, then run again",
        _ => "",
    }
}

/// About the object or store at the URL `key`.
pub(super) fn of_store(action: &str, key: &str, error: &object_store::Error) -> String {
    let Cloud { credentials, endpoint } = Cloud::of(key);
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if !credentials.is_empty() && (action == "open" || says(&METADATA)) {
        return format!(". Credentials or settings are missing: set {credentials}");
    }
    if says(&NO_BUCKET) {
        return ". Create the bucket first, or mend its name".to_string();
    }
    match error {
        object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. } if !credentials.is_empty() => {
            format!(". Check {credentials}, and that they allow listing, reading and writing there")
        }
        _ if says_full(error) => ". Make room there (`gc` removes what no manifest names), then run again".to_string(),
        _ if causes(error).any(|cause| cause.is::<HttpError>()) => {
            let why = causes(error).last().map(ToString::to_string).unwrap_or_default();
            format!(" ({why}). Check the network, {endpoint}, and that the server is up")
        }
        _ => {
            let files = causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>());
            files.map(of_file).find(|advice| !advice.is_empty()).unwrap_or_default().to_string()
        }
    }
}

/// How the environment describes a cloud.
struct Cloud {
    /// Empty where none are needed.
    credentials: &'static str,
    endpoint: &'static str,
}

impl Cloud {
    fn of(url: &str) -> Self {
        let (credentials, endpoint) = match url.split_once("://").map_or("", |(scheme, _)| scheme) {
            "s3" => (
                "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
                "store_options or AWS_ENDPOINT (and AWS_ALLOW_HTTP=true for http)",
            ),
            "gs" => ("GOOGLE_APPLICATION_CREDENTIALS", "the name of the bucket"),
            "az" | "abfs" => ("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", "store_options or AZURE_STORAGE_ENDPOINT"),
            _ => ("", "the address"),
        };
        Cloud { credentials, endpoint }
    }
}

/// Words of stores that have no room: S3 compatibles and Azure; the local file system says it by the error's kind.
const FULL: [&str; 5] = ["QuotaExceeded", "InsufficientStorage", "507 Insufficient", "StorageFull", "No space left"];

/// True when the store refuses data because a disk or a quota is full.
pub fn says_full(error: &object_store::Error) -> bool {
    let text = error.to_string();
    let full = |kind: ErrorKind| matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
    FULL.iter().any(|words| text.contains(words))
        || causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|file| full(file.kind()))
}

/// True when no retry can help before the user changes something: credentials, permissions, the bucket's name.
pub fn needs_the_user(error: &object_store::Error) -> bool {
    let text = error.to_string();
    let denied = |kind: ErrorKind| matches!(kind, ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory);
    matches!(error, object_store::Error::Unauthenticated { .. } | object_store::Error::PermissionDenied { .. })
        || METADATA.iter().chain(&NO_BUCKET).any(|words| text.contains(words))
        || causes(error).filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|file| denied(file.kind()))
}

/// An error and what caused it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

#[cfg(test)]
mod tests;

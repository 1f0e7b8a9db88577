//! How to reach a store, apart from its URL: what the spec says and what the environment says.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// `store_options` of the spec. Holds no secret: credentials come from the environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreOptions {
    /// Address of the server, e.g. `http://127.0.0.1:9000`; the cloud's own when `None`.
    pub endpoint: Option<String>,
    /// Region of an `s3://` bucket.
    pub region: Option<String>,
    /// Whether an `s3://` bucket is named in the path or in the host.
    pub path_style: Option<bool>,
    /// Connections without TLS are allowed.
    pub allow_http: bool,
    /// After this long a request is not tried again.
    #[serde(with = "crate::spec::seconds")]
    pub deadline: Duration,
}

/// The value of `store_options.deadline` when it is left out.
pub const DEADLINE: Duration = Duration::from_secs(120);

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { endpoint: None, region: None, path_style: None, allow_http: false, deadline: DEADLINE }
    }
}

impl StoreOptions {
    /// The same in the words of object_store, each beside those of the environment that it takes the place of.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let mut settings = Vec::new();
        let mut set = |names: &[&str], value: &str| settings.extend(names.iter().map(|name| (name.to_string(), value.to_string())));
        if let Some(endpoint) = &self.endpoint {
            set(&["aws_endpoint", "aws_endpoint_url_s3", "azure_storage_endpoint", "google_base_url"], endpoint);
            // The emulator has an address of its own, which would win.
            set(&["azure_storage_use_emulator"], "false");
        }
        if let Some(region) = &self.region {
            set(&["aws_region"], region);
        }
        if let Some(path_style) = self.path_style {
            set(&["aws_virtual_hosted_style_request"], if path_style { "false" } else { "true" });
        }
        if self.allow_http {
            set(&["allow_http"], "true");
        }
        settings
    }
}

/// The clouds' own environment variables, and nothing else of the environment.
pub(super) fn environment() -> Vec<(String, String)> {
    let text = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?.to_ascii_lowercase(), value.into_string().ok()?))
    };
    let of_a_cloud = |key: &str| ["aws_", "google_", "azure_"].iter().any(|cloud| key.starts_with(cloud));
    std::env::vars_os().filter_map(text).filter(|(key, _)| of_a_cloud(key)).collect()
}

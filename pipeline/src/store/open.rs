//! From a URL to a client of the store behind it, with every wait bounded.

use super::options::StoreOptions;
use crate::error::{Error, Result};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, ObjectStoreScheme, RetryConfig};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest silence within a request. There is no limit for a whole one: weights are large and networks slow.
const SILENCE: Duration = Duration::from_secs(30);
/// Waits between tries grow from the first to the second.
const BACKOFF: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(10)];

/// Folds the settings into a builder; what the store does not know is about another one.
macro_rules! build {
    ($builder:ty, $url:expr, $options:expr, $settings:expr) => {{
        let builder = <$builder>::new().with_url($url).with_retry(retry($options)).with_client_options(client($options));
        let builder = $settings.into_iter().fold(builder, |builder, (key, value)| match key.parse() {
            Ok(key) => builder.with_config(key, value),
            Err(_) => builder,
        });
        Arc::new(builder.build()?) as Arc<dyn ObjectStore>
    }};
}

/// A client of the remote store at `url` and the prefix in it. `environment` holds variables in lower case;
/// `options` take precedence.
pub(super) fn remote(url: &str, options: &StoreOptions, environment: Vec<(String, String)>) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let parsed = url.parse().map_err(|e| Error::invalid(format!("store `{url}`: {e}")))?;
    let settings = environment.into_iter().chain(options.settings());
    // Who writes http:// means it.
    let plain = url.starts_with("http://").then(|| ("allow_http".to_string(), "true".to_string()));
    let opened = move || -> object_store::Result<_> {
        let (scheme, prefix) = ObjectStoreScheme::parse(&parsed)?;
        let settings = settings.chain(plain);
        let store = match scheme {
            ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder, url, options, settings),
            ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder, url, options, settings),
            ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder, url, options, settings),
            ObjectStoreScheme::Http => build!(HttpBuilder, origin(url), options, settings),
            ObjectStoreScheme::Memory => Arc::new(object_store::memory::InMemory::new()),
            other => return Err(object_store::Error::NotSupported { source: format!("{other:?} is no remote store").into() }),
        };
        Ok((store, prefix))
    };
    opened().map_err(|source| Error::Store { action: "open", key: url.to_string(), source })
}

/// `scheme://authority` of a URL.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |i| i + 3);
    url[authority..].find(['/', '?', '#']).map_or(url, |end| &url[..authority + end])
}

/// Tries again until the deadline, then fails with the last error.
fn retry(options: &StoreOptions) -> RetryConfig {
    let [init_backoff, max_backoff] = BACKOFF;
    let backoff = BackoffConfig { init_backoff, max_backoff: max_backoff.min(options.deadline), base: 2.0 };
    RetryConfig { backoff, max_retries: 1_000, retry_timeout: options.deadline }
}

fn client(options: &StoreOptions) -> ClientOptions {
    let limit = |time: Duration| time.min(options.deadline);
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(limit(CONNECT)).with_read_timeout(limit(SILENCE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, install_tls};

    fn shown(url: &str, options: &StoreOptions, environment: &[(&str, &str)]) -> String {
        install_tls();
        let environment = environment.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        format!("{:?}", remote(url, options, environment).unwrap().0)
    }

    fn at(endpoint: &str) -> StoreOptions {
        StoreOptions { endpoint: Some(endpoint.to_string()), allow_http: true, ..StoreOptions::default() }
    }

    const AWS: [(&str, &str); 4] =
        [("aws_access_key_id", "id"), ("aws_secret_access_key", "secret"), ("aws_endpoint_url_s3", "http://env:1"), ("aws_region", "env")];
    const AZURE: [(&str, &str); 2] = [("azure_storage_account_name", "account"), ("azure_storage_account_key", "c2VjcmV0")];

    #[test]
    fn s3_takes_its_options_before_the_environment() {
        let options = StoreOptions { region: Some("here".to_string()), path_style: Some(true), ..at("http://127.0.0.1:9000") };
        let found = shown("s3://bucket/a/b", &options, &AWS);
        assert!(found.contains("http://127.0.0.1:9000/bucket") && found.contains("here") && !found.contains("env"), "{found}");
        let found = shown("s3://bucket/a/b", &StoreOptions::default(), &AWS);
        assert!(found.contains("http://env:1/bucket"), "{found}");
        let found = shown("s3://bucket", &StoreOptions { path_style: Some(false), ..StoreOptions::default() }, &AWS[..2]);
        assert!(found.contains("https://bucket.s3."), "{found}");
    }

    #[test]
    fn azure_and_gcs_take_an_endpoint() {
        let found = shown("az://container/a", &at("http://127.0.0.1:10000/account"), &AZURE);
        assert!(found.contains("10000") && found.contains("container"), "{found}");
        let emulator = [&AZURE[..], &[("azure_storage_use_emulator", "true")]].concat();
        let found = shown("az://container/a", &at("http://127.0.0.1:9/account"), &emulator);
        assert!(found.contains("is_emulator: false"), "{found}");
        let anonymous = [("google_skip_signature", "true")];
        let found = shown("gs://bucket/a", &at("http://127.0.0.1:4443"), &anonymous);
        assert!(found.contains("http://127.0.0.1:4443") && found.contains("bucket"), "{found}");
    }

    #[test]
    fn a_key_file_of_google_that_is_not_there_is_named() {
        install_tls();
        let environment = vec![("google_application_credentials".to_string(), "/nowhere/key.json".to_string())];
        let message = remote("gs://bucket/a", &StoreOptions::default(), environment).unwrap_err().to_string();
        assert!(message.contains("gs://bucket/a") && message.contains("/nowhere/key.json"), "{message}");
        assert!(message.ends_with("set GOOGLE_APPLICATION_CREDENTIALS"), "{message}");
    }

    #[test]
    fn no_request_is_tried_for_ever() {
        let found = shown("s3://bucket", &StoreOptions { deadline: Duration::from_secs(77), ..StoreOptions::default() }, &AWS);
        assert!(found.contains("retry_timeout: 77s"), "{found}");
        assert!(found.contains("timeout: None") && found.contains("read_timeout: Some(Parsed(30s))"), "{found}");
    }

    /// Takes connections and never says a word.
    #[tokio::test]
    async fn a_silent_server_is_given_up_at_the_deadline() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = StoreOptions { deadline: Duration::from_millis(300), ..at(&format!("http://{}", listener.local_addr().unwrap())) };
        let silent = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.push(stream);
            }
        });
        install_tls();
        let environment = AWS.map(|(key, value)| (key.to_string(), value.to_string())).to_vec();
        let (inner, _) = remote("s3://bucket", &options, environment).unwrap();
        let store = Store::over(inner, "s3://bucket");
        let limit = Duration::from_secs(20);
        let message = tokio::time::timeout(limit, store.get("key")).await.expect("an end").unwrap_err().to_string();
        assert!(message.contains("s3://bucket/key") && message.contains("timed out"), "{message}");
        let create = store.create("key", bytes::Bytes::from_static(b"x"));
        assert!(tokio::time::timeout(limit, create).await.expect("an end").is_err());
        silent.abort();
    }
}

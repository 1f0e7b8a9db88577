//! Failures as the stores really report them, provoked on this machine.

use crate::error::Error;
use crate::store::{Store, install_tls};
use bytes::Bytes;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// An address where nobody listens.
async fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// A server with one answer for everything.
async fn answering(status: &'static str, body: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

fn s3() -> AmazonS3Builder {
    install_tls();
    let client = ClientOptions::new().with_allow_http(true);
    AmazonS3Builder::new().with_bucket_name("bucket").with_region("r").with_client_options(client).with_retry(once())
}

fn with_key(s3: AmazonS3Builder) -> AmazonS3Builder {
    s3.with_access_key_id("id").with_secret_access_key("secret")
}

/// The message of a write that fails.
async fn message(url: &str, store: impl ObjectStore) -> String {
    let source = store.put(&"key".into(), PutPayload::from_static(b"x")).await.unwrap_err();
    let message = Error::Store { action: "write", key: format!("{url}/key"), source }.to_string();
    assert!(message.starts_with(&format!("object store, write {url}/key: ")), "{message}");
    message
}

#[tokio::test]
async fn a_server_that_does_not_answer() {
    let message = message("s3://bucket", with_key(s3()).with_endpoint(closed().await).build().unwrap()).await;
    assert!(message.contains("refused") && message.ends_with("and that the server is up"), "{message}");
    assert!(message.contains("AWS_ENDPOINT"), "{message}");
}

#[tokio::test]
async fn no_credentials() {
    let address = closed().await;
    let s3 = s3().with_endpoint(&address).with_metadata_endpoint(&address).build().unwrap();
    let advice = ". Credentials or settings are missing: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION";
    let found = message("s3://bucket", s3).await;
    assert!(found.ends_with(advice), "{found}");

    let azure = MicrosoftAzureBuilder::new().with_account("account").with_container_name("container").with_retry(once());
    let azure = azure.with_msi_endpoint(format!("{address}/metadata/identity/oauth2/token")).with_allow_http(true).build().unwrap();
    let found = message("az://container", azure).await;
    assert!(found.ends_with("set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"), "{found}");
}

#[tokio::test]
async fn refused_credentials_and_missing_buckets() {
    let denied = answering("403 Forbidden", "<Error><Code>InvalidAccessKeyId</Code></Error>").await;
    let found = message("s3://bucket", with_key(s3()).with_endpoint(denied).build().unwrap()).await;
    assert!(found.contains(". Check AWS_ACCESS_KEY_ID") && found.contains("InvalidAccessKeyId"), "{found}");
    let missing = answering("404 Not Found", "<Error><Code>NoSuchBucket</Code></Error>").await;
    let found = message("s3://bucket", with_key(s3()).with_endpoint(missing).build().unwrap()).await;
    assert!(found.ends_with(". Create the bucket first, or mend its name"), "{found}");
}

#[tokio::test]
async fn no_room() {
    let full = answering("507 Insufficient Storage", "<Error><Code>InsufficientStorage</Code></Error>").await;
    let found = message("s3://bucket", with_key(s3()).with_endpoint(full).build().unwrap()).await;
    assert!(found.ends_with(". Make room there (`gc` removes what no manifest names), then run again"), "{found}");
}

#[tokio::test]
async fn a_folder_that_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let url = |name: &str| format!("file://{}", dir.path().join(name).display());
    std::fs::write(dir.path().join("file"), "x").unwrap();
    for name in ["file", "file/below"] {
        let found = Store::open(&url(name)).unwrap_err().to_string();
        assert!(found.contains(name) && found.ends_with(". A file is where a folder should be: choose another folder"), "{found}");
    }
    let store = Store::open(&url("")).unwrap();
    let found = store.put("file/key", Bytes::from_static(b"x")).await.unwrap_err().to_string();
    assert!(found.ends_with(". A file is where a folder should be: choose another folder"), "{found}");
    let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let found = Error::File { path: "/data/out".to_string(), source: refused }.to_string();
    assert_eq!(found, "/data/out: permission denied. Choose another folder or mend its permissions");
}

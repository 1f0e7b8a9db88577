//! Against a local server that speaks the hub's interface.

use super::*;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use backon::ExponentialBuilder;
use bytes::Bytes;
use ip2p_pipeline::file_hashes::FileHashes;
use ip2p_pipeline::model_id;
use reference::HubReference;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Where the branch is after it moved.
const LATER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const TOKEN: &str = "hf_secret";

/// What the server holds, how it misbehaves, and what it was asked.
#[derive(Default)]
struct FakeHub {
    files: BTreeMap<String, Vec<u8>>,
    /// Answer to every request, instead of what was asked for.
    refuse: Option<StatusCode>,
    /// So many answers to come are cut in the middle.
    cuts: AtomicUsize,
    wrong_sha256: bool,
    /// The branch is at [`LATER`].
    moved: AtomicBool,
    /// Another host that large files are redirected to.
    content_host: Option<String>,
    requests: Mutex<Vec<Asked>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Asked {
    path: String,
    token: Option<String>,
    range: Option<String>,
}

impl FakeHub {
    fn with(files: &[(&str, &[u8])]) -> Self {
        FakeHub { files: files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect(), ..FakeHub::default() }
    }

    fn clip() -> Self {
        let weights: Vec<u8> = (0..200_000u32).map(|i| (i * 7) as u8).collect();
        Self::with(&[("config.json", b"{}"), ("README.md", b"hello"), ("model.safetensors", &weights), ("pytorch_model.bin", b"old")])
    }

    fn sha256(&self, bytes: &[u8]) -> String {
        let right = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if self.wrong_sha256 { "0".repeat(64) } else { right }
    }

    fn listing(&self, revision: &str) -> String {
        let branch = if self.moved.load(Ordering::SeqCst) { LATER } else { COMMIT };
        let sha = if revision == "main" { branch } else { revision };
        let sibling = |(name, bytes): (&String, &Vec<u8>)| {
            let lfs = serde_json::json!({"sha256": self.sha256(bytes), "size": bytes.len(), "pointerSize": 130});
            let lfs = if name.ends_with(".json") { serde_json::Value::Null } else { lfs };
            serde_json::json!({"rfilename": name, "size": bytes.len(), "blobId": "x", "lfs": lfs})
        };
        serde_json::json!({"id": "a/b", "sha": sha, "siblings": self.files.iter().map(sibling).collect::<Vec<_>>()}).to_string()
    }

    fn asked(&self) -> Vec<Asked> {
        self.requests.lock().unwrap().clone()
    }

    /// Requests for files, by name.
    fn fetched(&self) -> Vec<String> {
        let name = |asked: &Asked| asked.path.strip_prefix(&format!("/a/b/resolve/{COMMIT}/")).map(str::to_string);
        self.asked().iter().filter_map(name).collect()
    }
}

async fn answer(State(hub): State<Arc<FakeHub>>, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let header = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_string());
    let asked = Asked { path: uri.path().to_string(), token: header("authorization"), range: header("range") };
    hub.requests.lock().unwrap().push(asked.clone());
    if let Some(status) = hub.refuse {
        return Response::builder().status(status).body(Body::empty()).unwrap();
    }
    if let Some(revision @ ("main" | COMMIT | LATER)) = uri.path().strip_prefix("/api/models/a/b/revision/") {
        return Response::new(hub.listing(revision).into());
    }
    let Some((name, bytes)) = hub.files.iter().find(|(name, _)| uri.path().ends_with(&format!("/{name}"))) else {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    };
    let mut reply = Response::builder();
    if name.ends_with(".safetensors") {
        reply = reply.header("x-linked-etag", format!("\"{}\"", hub.sha256(bytes)));
        if let Some(host) = &hub.content_host {
            return reply.status(302).header("location", format!("{host}/content/{name}?signature=x")).body(Body::empty()).unwrap();
        }
    }
    let from = asked.range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let rest = bytes[from.unwrap_or(0)..].to_vec();
    let reply = reply.status(if from.is_some() { 206 } else { 200 });
    let cut = name.ends_with(".safetensors") && hub.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
    if !cut {
        return reply.body(rest.into()).unwrap();
    }
    let half = Bytes::from(rest[..rest.len() / 2].to_vec());
    let parts = futures::stream::unfold(0, move |step| {
        let half = half.clone();
        async move {
            match step {
                0 => Some((Ok(half), 1)),
                // The first part has to reach the client before the connection breaks.
                1 => {
                    tokio::task::yield_now().await;
                    Some((Ok(Bytes::new()), 2))
                }
                _ => Some((Err(std::io::Error::other("cut")), 3)),
            }
        }
    });
    reply.body(Body::from_stream(parts)).unwrap()
}

/// Serves on a free port; the URL, and a handle that stops it when aborted.
async fn serve(hub: Arc<FakeHub>) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(hub);
    (url, tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }))
}

fn hub_at(url: &str, cache: &Path) -> Hub {
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_millis(1)).with_max_times(3);
    Hub::new(url, Some(TOKEN), Cache::at(cache), pauses).unwrap()
}

fn reference(text: &str) -> HubReference {
    match Reference::parse(text).unwrap() {
        Reference::Hub(reference) => reference,
        other => panic!("{other:?}"),
    }
}

/// Runs one fetch of `hf://a/b` against the server.
async fn fetch(hub: &Arc<FakeHub>, cache: &Path) -> Result<PathBuf> {
    let (url, server) = serve(hub.clone()).await;
    let result = hub_at(&url, cache).fetch(&reference("hf://a/b"), Needs::Clip).await;
    server.abort();
    result
}

#[tokio::test]
async fn what_is_needed_is_fetched_once() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let path = fetch(&hub, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), hub.files["model.safetensors"]);
    assert_eq!(hub.fetched(), ["config.json", "model.safetensors"]);
    assert_eq!(fetch(&hub, cache.path()).await.unwrap(), path);
    assert_eq!(hub.fetched().len(), 2);
    assert!(hub.asked().iter().all(|asked| asked.token.as_deref() == Some("Bearer hf_secret")));
}

#[tokio::test]
async fn one_file_by_its_path() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let (url, _server) = serve(hub.clone()).await;
    let client = hub_at(&url, cache.path());
    let path = client.fetch(&reference("hf://a/b/pytorch_model.bin"), Needs::Clip).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"old");
    let error = client.fetch(&reference("hf://a/b/none"), Needs::Clip).await.unwrap_err();
    assert!(error.to_string().contains("a/b has no `none`"), "{error}");
}

#[tokio::test]
async fn a_cut_transfer_goes_on_where_it_ended() {
    let (hub, cache) = (Arc::new(FakeHub { cuts: AtomicUsize::new(5), ..FakeHub::clip() }), tempfile::tempdir().unwrap());
    let path = fetch(&hub, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), hub.files["model.safetensors"]);
    let ranges: Vec<_> =
        hub.asked().into_iter().filter(|asked| asked.path.ends_with("model.safetensors")).map(|asked| asked.range).collect();
    // Five cuts are more than the three tries of a transfer that does not get ahead.
    assert_eq!(ranges.len(), 6);
    assert_eq!((&ranges[0], ranges[1].as_deref()), (&None, Some("bytes=100000-")));
}

#[tokio::test]
async fn a_damaged_part_is_fetched_anew() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let folder = cache.path().join("hub/a--b").join(COMMIT);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.safetensors.partial"), vec![9; 1000]).unwrap();
    let path = fetch(&hub, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), hub.files["model.safetensors"]);
}

#[tokio::test]
async fn a_wrong_checksum_leaves_nothing_behind() {
    let (hub, cache) = (Arc::new(FakeHub { wrong_sha256: true, ..FakeHub::clip() }), tempfile::tempdir().unwrap());
    let error = fetch(&hub, cache.path()).await.unwrap_err();
    assert!(matches!(error, Error::Checksum { .. }), "{error}");
    assert!(error.to_string().contains("model.safetensors"), "{error}");
    let left: Vec<_> = std::fs::read_dir(cache.path().join("hub/a--b").join(COMMIT)).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["config.json"]);
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (status, expected) in [
        (401, "does not accept the token"),
        (403, "accept its conditions"),
        (404, "check owner, name, revision `main`"),
        (503, "503 Service Unavailable"),
    ] {
        let refuse = Some(StatusCode::from_u16(status).unwrap());
        let (hub, cache) = (Arc::new(FakeHub { refuse, ..FakeHub::clip() }), tempfile::tempdir().unwrap());
        let error = fetch(&hub, cache.path()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{status}: {error}");
        assert!(!format!("{error} {error:?}").contains(TOKEN));
        assert_eq!(error.is_transient(), status == 503);
        assert_eq!(hub.asked().len(), if status == 503 { 3 } else { 1 });
    }
}

#[tokio::test]
async fn the_token_stays_with_the_hub() {
    let content = Arc::new(FakeHub::clip());
    let (content_url, _content_server) = serve(content.clone()).await;
    let (hub, cache) = (Arc::new(FakeHub { content_host: Some(content_url), ..FakeHub::clip() }), tempfile::tempdir().unwrap());
    let path = fetch(&hub, cache.path()).await.unwrap();
    assert_eq!(std::fs::read(path.join("model.safetensors")).unwrap(), hub.files["model.safetensors"]);
    assert_eq!(content.asked(), [Asked { path: "/content/model.safetensors".to_string(), token: None, range: None }]);
}

#[tokio::test]
async fn two_workers_fetch_once() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let (url, _server) = serve(hub.clone()).await;
    let (one, other) = (hub_at(&url, cache.path()), hub_at(&url, cache.path()));
    let model = reference("hf://a/b");
    let (one, other) = tokio::join!(one.fetch(&model, Needs::Clip), other.fetch(&model, Needs::Clip));
    assert_eq!(one.unwrap(), other.unwrap());
    assert_eq!(hub.fetched(), ["config.json", "model.safetensors"]);
}

#[tokio::test]
async fn without_a_network_the_cache_serves() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let path = fetch(&hub, cache.path()).await.unwrap();
    // A port that was just given back: nobody listens there.
    let (url, server) = serve(hub).await;
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    let offline = hub_at(&url, cache.path());
    assert_eq!(offline.fetch(&reference("hf://a/b"), Needs::Clip).await.unwrap(), path);
    let error = offline.fetch(&reference("hf://a/other"), Needs::Clip).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot reach {url}")) && error.contains("copy the model to this machine"), "{error}");
}

#[tokio::test]
async fn a_moved_branch_is_another_model_and_the_old_commit_can_still_be_had() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let (url, _server) = serve(hub.clone()).await;
    let client = hub_at(&url, cache.path());
    let branch = reference("hf://a/b");
    let pinned = client.pin(&branch, Needs::Clip).await.unwrap();
    assert_eq!(pinned, format!("hf://a/b@{COMMIT}"));
    assert!(hub.fetched().is_empty(), "planning fetches no weights");
    hub.moved.store(true, Ordering::SeqCst);
    let later = client.pin(&branch, Needs::Clip).await.unwrap();
    assert_eq!(later, format!("hf://a/b@{LATER}"));
    let hashes = FileHashes::at(cache.path());
    let of = async |text: &str| model_id::of_reference(text, &hashes).await.unwrap();
    assert_ne!(of(&pinned).await, of(&later).await);
    // A worker on another machine, with a cache of its own, gets what the plan says.
    let elsewhere = tempfile::tempdir().unwrap();
    let path = hub_at(&url, elsewhere.path()).fetch(&reference(&pinned), Needs::Clip).await.unwrap();
    assert!(path.ends_with(COMMIT), "{}", path.display());
    assert!(hub.asked().iter().any(|asked| asked.path == format!("/a/b/resolve/{COMMIT}/model.safetensors")));
}

#[tokio::test]
async fn offline_a_branch_is_where_it_was_last_seen() {
    let (hub, cache) = (Arc::new(FakeHub::clip()), tempfile::tempdir().unwrap());
    let (url, server) = serve(hub.clone()).await;
    let client = hub_at(&url, cache.path());
    let (branch, asked) = (reference("hf://a/b?variant=x"), hub.asked().len());
    assert!(client.pin(&branch, Needs::Clip).await.unwrap_err().to_string().contains("no `x` weights"), "checked before any plan");
    assert_eq!(hub.asked().len(), asked + 1);
    let branch = reference("hf://a/b");
    let pinned = client.pin(&branch, Needs::Clip).await.unwrap();
    client.fetch(&reference(&pinned), Needs::Clip).await.unwrap();
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    assert_eq!(client.pin(&branch, Needs::Clip).await.unwrap(), pinned);
    client.fetch(&reference(&pinned), Needs::Clip).await.unwrap();
    let commit = reference(&format!("hf://a/unseen@{COMMIT}/clip"));
    assert_eq!(client.pin(&commit, Needs::Clip).await.unwrap(), commit.text, "a commit needs no hub");
    assert!(client.pin(&reference("hf://a/unseen"), Needs::Clip).await.unwrap_err().to_string().contains("cannot reach"));
}

#[tokio::test]
async fn a_listing_cannot_write_outside_the_cache() {
    let (hub, cache) = (Arc::new(FakeHub::with(&[("config.json", b"{}"), ("../../evil.json", b"x")])), tempfile::tempdir().unwrap());
    let error = fetch(&hub, cache.path()).await.unwrap_err();
    assert!(error.to_string().contains("impossible name `../../evil.json`"), "{error}");
}

#[tokio::test]
async fn local_paths_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(resolve(path, Needs::Clip).await.unwrap(), folder.path());
    assert_eq!(resolve(&format!("file://{path}"), Needs::Clip).await.unwrap(), folder.path());
    let error = resolve("/nowhere/clip", Needs::Clip).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/clip") && error.contains("model.safetensors"), "{error}");
}

#[tokio::test]
async fn models_in_an_object_store() {
    let cache = tempfile::tempdir().unwrap();
    let bucket = tempfile::tempdir().unwrap();
    for (name, text) in [("clip/config.json", "{}"), ("clip/model.safetensors", "abc"), ("clip/notes.md", "x"), ("sd.ckpt", "def")] {
        std::fs::create_dir_all(bucket.path().join("clip")).unwrap();
        std::fs::write(bucket.path().join(name), text).unwrap();
    }
    let url = |name: &str| format!("file://{}/{name}", bucket.path().display());
    let cache = Cache::at(cache.path());
    let fetch = |name: &str| {
        let (url, cache) = (url(name), cache.clone());
        async move { store::fetch(&url, Needs::Clip, &cache).await }
    };
    let folder = fetch("clip").await.unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["config.json", "model.safetensors"]);
    assert_eq!(fetch("clip").await.unwrap(), folder);
    std::fs::write(bucket.path().join("clip/model.safetensors"), "changed").unwrap();
    let changed = fetch("clip").await.unwrap();
    assert_eq!(std::fs::read_to_string(changed.join("model.safetensors")).unwrap(), "changed");
    assert_ne!(changed, folder);
}

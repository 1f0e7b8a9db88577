//! Where the bytes of a corpus come from: local files or an object store, one file or a pattern of many.

use crate::error::{Error, Result};
use crate::ids::Fingerprint;
use crate::spec::Corpus;
use crate::store::Store;
use futures::TryStreamExt;
use glob::{MatchOptions, Pattern};
use object_store::ObjectStoreExt;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};

/// `*` stays within a folder; `**` crosses folders.
const MATCH: MatchOptions = MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

/// Raised when the same files would give other records than before.
const READERS: u32 = 1;

/// One file of the corpus.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Local(PathBuf),
    Object { store: Store, key: String },
}

impl Source {
    /// Path or URL, for messages and the report.
    pub(crate) fn name(&self) -> String {
        match self {
            Source::Local(path) => path.display().to_string(),
            Source::Object { store, key } => store.url_of(key),
        }
    }

    /// Changes when the file does, as far as can be seen from outside.
    async fn version(&self) -> Result<String> {
        match self {
            Source::Local(path) => {
                let file = |source| Error::File { path: self.name(), source };
                let meta = path.metadata().map_err(file)?;
                Ok(format!("{} bytes, {:?}", meta.len(), meta.modified().map_err(file)?))
            }
            Source::Object { store, key } => {
                let (inner, path) = store.raw(key);
                let meta = inner.head(&path).await.map_err(|source| Error::Store { action: "look up", key: self.name(), source })?;
                Ok(format!("{} bytes, {}, {}", meta.size, meta.last_modified, meta.e_tag.unwrap_or_default()))
            }
        }
    }

    /// The bytes, seekable: an object is copied to an unnamed temporary file first, which every format can be
    /// read from with bounded memory and which is gone when it is closed.
    pub(crate) async fn open(&self) -> Result<File> {
        match self {
            Source::Local(path) => File::open(path).map_err(|source| Error::File { path: self.name(), source }),
            Source::Object { store, key } => copy_to_disk(store, key).await,
        }
    }
}

/// A hash of what decides the records without reading them: `spec`, and name, size and time of change of every file.
///
/// It names the folder of the frozen corpus, so that a changed file is read again. Fails when a file is missing.
pub async fn source_fingerprint(spec: &Corpus, with_edits: bool) -> Result<Fingerprint> {
    let spec_text = serde_json::to_string(spec).map_err(|e| Error::format("corpus", e))?;
    let mut parts = vec![READERS.to_string(), spec_text, with_edits.to_string()];
    for source in find(&spec.path).await? {
        parts.extend([source.name(), source.version().await?]);
    }
    Ok(Fingerprint::of(&parts.iter().map(String::as_str).collect::<Vec<_>>()))
}

async fn copy_to_disk(store: &Store, key: &str) -> Result<File> {
    let read = |source| Error::Store { action: "read", key: store.url_of(key), source };
    let write = |source| Error::File { path: format!("a temporary copy of {}", store.url_of(key)), source };
    let (inner, path) = store.raw(key);
    let mut chunks = inner.get(&path).await.map_err(read)?.into_stream();
    let mut file = tempfile::tempfile().map_err(write)?;
    while let Some(chunk) = chunks.try_next().await.map_err(read)? {
        file.write_all(&chunk).map_err(write)?;
    }
    file.rewind().map_err(write)?;
    Ok(file)
}

/// The files of `path`: a local path or `file://` URL, a store URL, or a pattern (`*`, `?`, `[..]`, `**`) of
/// either, sorted by name so that the order of records does not depend on the store.
pub(crate) async fn find(path: &str) -> Result<Vec<Source>> {
    match path.split_once("://") {
        None => find_local(path),
        Some(("file", local)) => find_local(local),
        Some(_) => {
            let (base, pattern) = split_url(path)?;
            find_in_store(&Store::open(base)?, pattern).await
        }
    }
}

fn find_local(path: &str) -> Result<Vec<Source>> {
    // A file may well have a bracket in its name: what exists is meant literally.
    if Path::new(path).is_file() {
        return Ok(vec![Source::Local(path.into())]);
    }
    if Path::new(path).is_dir() {
        return Err(Error::invalid(format!(
            "corpus {path} is a folder. Name its files, for example {}/*.jsonl",
            path.trim_end_matches('/')
        )));
    }
    let found = glob::glob_with(path, MATCH).map_err(|e| bad_pattern(path, &e))?;
    let mut files = Vec::new();
    for entry in found {
        let entry = entry.map_err(|e| Error::File { path: e.path().display().to_string(), source: e.into() })?;
        if entry.is_file() {
            files.push(entry);
        }
    }
    files.sort();
    some(path, files.into_iter().map(Source::Local).collect())
}

/// Files of `pattern` in `store`.
pub(crate) async fn find_in_store(store: &Store, pattern: &str) -> Result<Vec<Source>> {
    let Some(first) = pattern.find(['*', '?', '[']) else {
        return Ok(vec![Source::Object { store: store.clone(), key: pattern.to_string() }]);
    };
    let folder = pattern[..first].rsplit_once('/').map_or("", |(folder, _)| folder);
    let matcher = Pattern::new(pattern).map_err(|e| bad_pattern(pattern, &e))?;
    let keys = store.list(folder).await?.into_iter().map(|(key, _)| key).filter(|key| matcher.matches_with(key, MATCH));
    some(&store.url_of(pattern), keys.map(|key| Source::Object { store: store.clone(), key }).collect())
}

/// The folder before the first special character, and the rest: patterns may hold what a URL may not.
fn split_url(url: &str) -> Result<(&str, &str)> {
    let authority = url.find("://").map_or(0, |i| i + 3);
    let first = url[authority..].find(['*', '?', '[']).map_or(url.len(), |i| authority + i);
    match url[..first].rfind('/') {
        Some(slash) if slash >= authority && slash + 1 < url.len() => Ok((&url[..slash], &url[slash + 1..])),
        _ => Err(Error::invalid(format!("corpus `{url}` names no file: write for example s3://bucket/folder/*.parquet"))),
    }
}

fn some(path: &str, files: Vec<Source>) -> Result<Vec<Source>> {
    if files.is_empty() {
        return Err(Error::invalid(format!(
            "corpus {path} matches no file. Check corpus.path; a relative path starts at the working directory"
        )));
    }
    Ok(files)
}

fn bad_pattern(path: &str, problem: &glob::PatternError) -> Error {
    Error::invalid(format!("corpus {path} is not a valid pattern: {problem}. Special characters are *, ?, [..] and **"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn names(sources: &[Source]) -> Vec<String> {
        sources.iter().map(Source::name).collect()
    }

    #[test]
    fn urls_split_before_the_pattern() {
        assert_eq!(split_url("s3://bucket/a/b.csv").unwrap(), ("s3://bucket/a", "b.csv"));
        assert_eq!(split_url("s3://bucket/b*.csv").unwrap(), ("s3://bucket", "b*.csv"));
        assert_eq!(split_url("s3://bucket/a/x?/**/*.csv").unwrap(), ("s3://bucket/a", "x?/**/*.csv"));
        for bad in ["s3://bucket", "s3://bucket/", "s3://*"] {
            assert!(split_url(bad).unwrap_err().to_string().contains("names no file"), "{bad}");
        }
    }

    #[tokio::test]
    async fn local_patterns_are_sorted_and_literal_names_win() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        for name in ["b.csv", "a.csv", "c[1].csv", "notes.md"] {
            std::fs::write(at(name), "x").unwrap();
        }
        std::fs::create_dir(at("folder.csv")).unwrap();
        assert_eq!(names(&find(&at("*.csv")).await.unwrap()), [at("a.csv"), at("b.csv"), at("c[1].csv")]);
        assert_eq!(names(&find(&at("c[1].csv")).await.unwrap()), [at("c[1].csv")]);
        assert_eq!(names(&find(&format!("file://{}", at("a.csv"))).await.unwrap()), [at("a.csv")]);
        for (path, problem) in [("nothing*.csv", "matches no file"), ("folder.csv", "is a folder"), ("[", "not a valid pattern")] {
            let message = find(&at(path)).await.unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
    }

    #[tokio::test]
    async fn patterns_in_a_store_stay_within_their_folder() {
        let store = Store::memory().child("data");
        for key in ["p/2.csv", "p/10.csv", "p/deep/3.csv", "q/4.csv"] {
            store.put(key, Bytes::from_static(b"x")).await.unwrap();
        }
        let found = |pattern| {
            let store = store.clone();
            async move { find_in_store(&store, pattern).await.map(|sources| names(&sources)) }
        };
        assert_eq!(found("p/*.csv").await.unwrap(), [store.url_of("p/10.csv"), store.url_of("p/2.csv")]);
        assert_eq!(found("p/**/*.csv").await.unwrap().len(), 3);
        assert!(found("r/*").await.unwrap_err().to_string().contains("matches no file"));
        let missing = find_in_store(&store, "p/9.csv").await.unwrap();
        assert!(missing[0].open().await.unwrap_err().to_string().contains(&store.url_of("p/9.csv")));
    }

    #[tokio::test]
    async fn a_file_on_a_web_server_is_read() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        crate::store::install_tls();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/a/b.jsonl", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).await.unwrap();
                let get = request.starts_with(b"GET /a/b.jsonl ");
                assert!(get || request.starts_with(b"HEAD /a/b.jsonl "), "{}", String::from_utf8_lossy(&request[..read]));
                let body = if get { "hello" } else { "" };
                let date = "Tue, 15 Nov 1994 12:45:26 GMT";
                let answer = format!("HTTP/1.1 200 OK\r\nLast-Modified: {date}\r\nContent-Length: 5\r\nConnection: close\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let sources = find(&url).await.unwrap();
        assert_eq!(names(&sources), [url]);
        assert!(sources[0].version().await.unwrap().starts_with("5 bytes, 1994-11-15"));
        assert_eq!(std::io::read_to_string(sources[0].open().await.unwrap()).unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_changed_file_or_column_changes_the_source() {
        let store = Store::memory();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.csv");
        std::fs::write(&file, "caption\na\n").unwrap();
        let spec = Corpus { path: file.display().to_string(), caption_column: None, url_column: None, limit: None };
        let first = source_fingerprint(&spec, false).await.unwrap();
        assert_eq!(source_fingerprint(&spec, false).await.unwrap(), first);
        assert_ne!(source_fingerprint(&spec, true).await.unwrap(), first);
        assert_ne!(source_fingerprint(&Corpus { limit: Some(1), ..spec.clone() }, false).await.unwrap(), first);
        std::fs::write(&file, "caption\na\nb\n").unwrap();
        assert_ne!(source_fingerprint(&spec, false).await.unwrap(), first);
        let object = Source::Object { store: store.clone(), key: "a.csv".to_string() };
        store.put("a.csv", Bytes::from_static(b"x")).await.unwrap();
        let before = object.version().await.unwrap();
        store.put("a.csv", Bytes::from_static(b"y")).await.unwrap();
        assert_ne!(object.version().await.unwrap(), before);
    }
}

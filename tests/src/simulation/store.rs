//! An object store on a bad day: slow, lossy, sometimes torn, and forgetful about what it has answered.

use super::process::Process;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// A client gives up here; its request may still arrive.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(40);

/// The store as one process sees it.
#[derive(Clone)]
pub struct BadStore(pub Process);

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
struct Fate {
    before: Duration,
    after: Duration,
    arrives: bool,
    answered: bool,
}

impl BadStore {
    fn fate(&self) -> Fate {
        let world = &self.0.world;
        // A packet that wakes up long after its sender's lease.
        let late = if world.fault(300) { world.chance.millis(20_000..120_000) } else { Duration::ZERO };
        Fate {
            before: world.chance.millis(1..60) + late,
            after: world.chance.millis(1..40),
            arrives: !world.fault(25),
            answered: !world.fault(25),
        }
    }

    /// A request that only reads.
    async fn read(&self, what: &str) -> Result<()> {
        self.0.awake().await;
        let fate = self.fate();
        tokio::time::sleep(fate.before + fate.after).await;
        if fate.arrives && fate.answered { Ok(()) } else { Err(unavailable(what)) }
    }

    fn put(&self, key: String, bytes: Bytes, once: bool) -> impl Future<Output = Result<bool>> + use<> {
        let (world, fate) = (self.0.world.clone(), self.fate());
        let torn = !once && !bytes.is_empty() && world.fault(40);
        async move {
            tokio::time::sleep(fate.before).await;
            if !fate.arrives {
                return Err(unavailable(&key));
            }
            // Stores replace an object whole or not at all.
            let torn = torn && world.get(&key).is_none() && !world.names(&key);
            let bytes = if torn { bytes.slice(..bytes.len() / 2) } else { bytes };
            let written = world.put(&key, bytes, once);
            tokio::time::sleep(fate.after).await;
            if torn || !fate.answered { Err(unavailable(&key)) } else { Ok(written) }
        }
    }
}

/// An upload in parts: the object appears whole, when the upload is completed.
#[derive(Debug)]
struct BadUpload {
    store: BadStore,
    key: String,
    /// `None`: on its way, or lost.
    parts: Arc<Mutex<Vec<Option<Bytes>>>>,
}

fn locked(parts: &Mutex<Vec<Option<Bytes>>>) -> MutexGuard<'_, Vec<Option<Bytes>>> {
    parts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl MultipartUpload for BadUpload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let (store, parts, key, fate) = (self.store.clone(), self.parts.clone(), self.key.clone(), self.store.fate());
        let number = {
            let mut parts = locked(&parts);
            parts.push(None);
            parts.len() - 1
        };
        Box::pin(async move {
            store.0.awake().await;
            tokio::time::sleep(fate.before).await;
            if fate.arrives {
                locked(&parts)[number] = Some(part.into());
            }
            tokio::time::sleep(fate.after).await;
            if fate.arrives && fate.answered { Ok(()) } else { Err(unavailable(&key)) }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.0.awake().await;
        let (world, fate, key, parts) = (self.store.0.world.clone(), self.store.fate(), self.key.clone(), self.parts.clone());
        // On its way: killing the sender does not call it back.
        let request = tokio::spawn(async move {
            tokio::time::sleep(fate.before).await;
            let whole: Option<Vec<Bytes>> = locked(&parts).iter().cloned().collect();
            let Some(whole) = whole.filter(|_| fate.arrives) else { return Err(unavailable(&key)) };
            world.put(&key, whole.concat().into(), false);
            tokio::time::sleep(fate.after).await;
            if fate.answered { Ok(()) } else { Err(unavailable(&key)) }
        });
        let answer = tokio::time::timeout(CLIENT_TIMEOUT, request).await.map_err(|_| unavailable(&self.key))?;
        answer.unwrap_or_else(|e| Err(unavailable(&e.to_string())))?;
        self.store.0.note(|| format!("wrote {} in {} parts", self.key, locked(&self.parts).len()));
        Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
    }

    async fn abort(&mut self) -> Result<()> {
        Ok(())
    }
}

fn unavailable(key: &str) -> Error {
    Error::Generic { store: "simulated", source: format!("503 for {key}").into() }
}

fn meta(location: Path, size: u64) -> ObjectMeta {
    ObjectMeta { location, last_modified: UNIX_EPOCH.into(), size, e_tag: None, version: None }
}

impl fmt::Debug for BadStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for BadStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store as {} sees it", self.0.name)
    }
}

#[async_trait]
impl ObjectStore for BadStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.0.awake().await;
        let (key, once) = (location.to_string(), matches!(opts.mode, PutMode::Create));
        let world = self.0.world.clone();
        let exists = || Error::AlreadyExists { path: key.clone(), source: "412".into() };
        // Two creates at the same moment: some stores turn both away.
        if once && world.fault(40) {
            self.0.note(|| format!("conflict of nothing: {key}"));
            return Err(exists());
        }
        // On its way: killing the sender does not call it back.
        let request = tokio::spawn(self.put(key.clone(), payload.into(), once));
        let answer = tokio::time::timeout(CLIENT_TIMEOUT, request).await.map_err(|_| unavailable(&key))?;
        let mut written = answer.unwrap_or_else(|e| Err(unavailable(&e.to_string())))?;
        // Clients ask again by themselves, and then meet what they have created.
        if once && written && world.fault(20) {
            written = false;
        }
        self.0.note(|| format!("{} {key}", if written { "wrote" } else { "found" }));
        match written {
            true => Ok(PutResult { e_tag: None, version: None, extensions: Default::default() }),
            false => Err(exists()),
        }
    }

    async fn put_multipart_opts(&self, location: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let key = location.to_string();
        self.read(&key).await?;
        Ok(Box::new(BadUpload { store: self.clone(), key, parts: Arc::default() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.to_string();
        self.read(&key).await?;
        if self.0.world.fault(400) {
            self.0.world.rot(&key);
        }
        let not_found = || Error::NotFound { path: key.clone(), source: "404".into() };
        let bytes = self.0.world.get(&key).ok_or_else(not_found)?;
        let size = bytes.len() as u64;
        let range = match options.range {
            None => 0..size,
            Some(GetRange::Bounded(range)) => range.start.min(size)..range.end.min(size),
            Some(GetRange::Offset(start)) => start.min(size)..size,
            Some(GetRange::Suffix(length)) => size.saturating_sub(length)..size,
        };
        let part = bytes.slice(range.start as usize..range.end as usize);
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(part) }).boxed());
        Ok(GetResult { payload, meta: meta(location.clone(), size), range, attributes: Attributes::new(), extensions: Default::default() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let world = self.0.world.clone();
        locations.inspect_ok(move |location| world.delete(location.as_ref())).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, prefix) = (self.clone(), prefix.map(ToString::to_string).unwrap_or_default());
        let found = async move {
            store.read(&prefix).await?;
            let found = store.0.world.keys(&prefix).into_iter().map(|(key, size)| Ok(meta(Path::from(key), size)));
            Ok::<_, Error>(stream::iter(found.collect::<Vec<_>>()))
        };
        stream::once(found).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented { operation: "list_with_delimiter".to_string(), implementer: self.to_string() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(Error::NotImplemented { operation: "copy".to_string(), implementer: self.to_string() })
    }
}

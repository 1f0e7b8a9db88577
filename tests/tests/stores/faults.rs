//! Stores that break their promises in one way each.

use async_trait::async_trait;
use futures::stream::BoxStream;
use ip2p_pipeline::store::Store;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Semaphore;

/// What a conditional create does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// The first one lands, but the answer is lost.
    LostReply,
    /// The first one lands, the answer is lost, and the client's next try meets its own object.
    LostReplyRetried,
    /// The first `n` answer that the object exists although nothing landed, as S3 may while another write is under way.
    Conflict(u32),
    /// Always answers that the object exists.
    AlwaysExists,
    /// Replaces what is there.
    Overwrites,
    /// Refuses the second one, but replaces what is there.
    LoserReplaces,
    /// Knows no conditions.
    Unsupported,
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn ObjectStore>,
    fault: Fault,
    creates: AtomicU32,
    /// One permit as soon as the first create is over.
    first: Semaphore,
}

/// `store` with a fault; the keys of the fresh store lie below a name of its own.
pub fn faulty(store: &Store, fault: Fault) -> Store {
    let (inner, _) = store.raw("");
    Store::over(Arc::new(Faulty { inner, fault, creates: AtomicU32::new(0), first: Semaphore::new(0) }), store.url())
        .child(&ip2p_tests::servers::unique())
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {:?}", self.inner, self.fault)
    }
}

fn exists(location: &Path) -> Error {
    Error::AlreadyExists { path: location.to_string(), source: "the fault says so".into() }
}

impl Faulty {
    async fn create(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let number = self.creates.fetch_add(1, Ordering::Relaxed);
        let overwrite = PutOptions { mode: PutMode::Overwrite, ..opts.clone() };
        match self.fault {
            Fault::LostReply if number == 0 => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(Error::Generic { store: "test", source: "the reply was lost".into() })
            }
            Fault::LostReplyRetried if number == 0 => {
                self.inner.put_opts(location, payload, opts).await?;
                Err(exists(location))
            }
            Fault::Conflict(n) if number < n => Err(exists(location)),
            Fault::AlwaysExists => Err(exists(location)),
            Fault::Overwrites => self.inner.put_opts(location, payload, overwrite).await,
            Fault::LoserReplaces if number == 0 => {
                let answer = self.inner.put_opts(location, payload, opts).await;
                self.first.add_permits(1);
                answer
            }
            Fault::LoserReplaces => {
                let _first_is_over = self.first.acquire().await;
                self.inner.put_opts(location, payload, overwrite).await?;
                Err(exists(location))
            }
            Fault::Unsupported => Err(Error::NotImplemented { operation: "PutMode::Create".to_string(), implementer: self.to_string() }),
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match opts.mode {
            PutMode::Create => self.create(location, payload, opts).await,
            _ => self.inner.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// Cuts or changes the object at `key`, whatever wrote it.
pub async fn damage(store: &Store, key: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let (inner, path) = store.raw(key);
    let mut bytes = store.require(key).await.expect("an object to damage").to_vec();
    change(&mut bytes);
    inner.put(&path, bytes.into()).await.expect("a damaged object");
}

//! Images of pairs: read by ranges, checked, made small, kept for a while.

use super::cache::Cache;
use crate::thumbnail::thumbnail;
use bytes::Bytes;
use ip2p_pipeline::records::ImageRef;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result, commit};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes kept in memory.
const ROOM: usize = 64 << 20;
/// Images read and made small at the same time.
const READERS: usize = 8;
/// Largest image that is read, in bytes.
const MOST: u64 = 64 << 20;
/// Images of more bytes are shown as JPEGs of this side in pixels.
const SIDE: u32 = 512;
const SMALL: usize = 200_000;

pub struct Images {
    store: Store,
    cache: Cache<(String, u64), Image>,
    readers: Semaphore,
}

/// An image as the browser gets it.
#[derive(Debug)]
pub struct Image {
    pub kind: &'static str,
    pub bytes: Bytes,
}

impl Images {
    pub fn new(store: &Store) -> Self {
        Images { store: store.clone(), cache: Cache::new(ROOM), readers: Semaphore::new(READERS) }
    }

    pub async fn read(&self, image: &ImageRef) -> Result<Arc<Image>> {
        let key = (image.object.clone(), image.offset);
        if let Some(found) = self.cache.get(&key) {
            return Ok(found);
        }
        if image.length > MOST {
            return Err(Error::format(&image.object, "an image in it is too large to be shown"));
        }
        // Nobody closes the semaphore.
        let _reader = self.readers.acquire().await;
        let bytes = commit::read_image(&self.store, image).await?;
        let what = format!("image at {} of {}", image.offset, self.store.url_of(&image.object));
        let small = tokio::task::spawn_blocking(move || thumbnail(&bytes, SIDE, SMALL)).await;
        let (kind, bytes) = small.map_err(|e| Error::format(&what, e))?.map_err(|e| Error::format(&what, e))?;
        let weight = bytes.len();
        Ok(self.cache.put(key, Image { kind, bytes: bytes.into() }, weight))
    }
}

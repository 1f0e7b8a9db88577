//! Writing objects: small ones in one request, large ones in parts, with bounded memory.

use bytes::Bytes;
use futures::stream::{self, Stream, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use std::io;
use std::pin::pin;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of one part; larger objects go up in several. At most [`IN_FLIGHT`] parts and one more are in memory.
pub const PART: u64 = 8 << 20;
/// Parts on their way at the same time.
const IN_FLIGHT: usize = 4;
/// S3 takes 10,000 parts of an object.
const MOST_PARTS: u64 = 9_000;

/// Writes `bytes` at `path`, replacing what was there; in parts of `part` bytes when they are more.
pub(super) async fn bytes(store: &dyn ObjectStore, path: &Path, part: u64, bytes: Bytes) -> object_store::Result<()> {
    if bytes.len() as u64 <= part {
        return store.put(path, PutPayload::from_bytes(bytes)).await.map(drop);
    }
    let part = part_size(part, bytes.len() as u64);
    let starts = (0..bytes.len()).step_by(part);
    let parts = starts.map(|start| Ok(bytes.slice(start..bytes.len().min(start + part))));
    in_parts(store, path, part, stream::iter(parts)).await
}

/// Writes the `size` bytes of `source` at `path` in the same way.
pub(super) async fn stream(
    store: &dyn ObjectStore,
    path: &Path,
    part: u64,
    size: u64,
    mut source: impl AsyncRead + Unpin,
) -> object_store::Result<()> {
    if size <= part {
        let whole = read_part(&mut source, part as usize).await.map_err(unreadable)?;
        return bytes(store, path, part, whole).await;
    }
    let part = part_size(part, size);
    let parts = stream::try_unfold(source, |mut source| async move {
        let read = read_part(&mut source, part).await?;
        Ok((!read.is_empty()).then_some((read, source)))
    });
    in_parts(store, path, part, parts).await
}

/// The next `part` bytes, fewer at the end.
async fn read_part(source: &mut (impl AsyncRead + Unpin), part: usize) -> io::Result<Bytes> {
    let mut buffer = Vec::new();
    source.take(part as u64).read_to_end(&mut buffer).await?;
    Ok(buffer.into())
}

fn part_size(part: u64, size: u64) -> usize {
    usize::try_from(size.div_ceil(MOST_PARTS).max(part)).unwrap_or(usize::MAX)
}

/// The object appears when its last part is there; parts of an upload that fails are given up, because they cost money.
async fn in_parts(
    store: &dyn ObjectStore,
    path: &Path,
    part: usize,
    parts: impl Stream<Item = io::Result<Bytes>>,
) -> object_store::Result<()> {
    let mut upload = WriteMultipart::new_with_chunk_size(store.put_multipart(path).await?, part);
    match send(&mut upload, parts).await {
        Ok(()) => upload.finish().await.map(drop),
        Err(first) => {
            // The first error is what matters.
            let _ = upload.abort().await;
            Err(first)
        }
    }
}

async fn send(upload: &mut WriteMultipart, parts: impl Stream<Item = io::Result<Bytes>>) -> object_store::Result<()> {
    let mut parts = pin!(parts);
    while let Some(part) = parts.try_next().await.map_err(unreadable)? {
        upload.wait_for_capacity(IN_FLIGHT).await?;
        upload.put(part);
    }
    Ok(())
}

fn unreadable(source: io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "upload", source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::{MultipartUpload, PutResult, UploadPart};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts parts, and refuses one.
    #[derive(Debug, Default)]
    struct Counting {
        done: AtomicUsize,
        in_flight: AtomicUsize,
        most: AtomicUsize,
        fails_at: Option<usize>,
    }

    #[derive(Debug)]
    struct Upload(Arc<Counting>);

    #[async_trait::async_trait]
    impl MultipartUpload for Upload {
        fn put_part(&mut self, _part: PutPayload) -> UploadPart {
            let counting = self.0.clone();
            let now = counting.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
            counting.most.fetch_max(now, Ordering::SeqCst);
            Box::pin(async move {
                tokio::task::yield_now().await;
                counting.in_flight.fetch_sub(1, Ordering::SeqCst);
                let number = counting.done.fetch_add(1, Ordering::SeqCst);
                if counting.fails_at == Some(number) { Err(unreadable(io::Error::other("part refused"))) } else { Ok(()) }
            })
        }

        async fn complete(&mut self) -> object_store::Result<PutResult> {
            Err(unreadable(io::Error::other("nothing here is completed")))
        }

        async fn abort(&mut self) -> object_store::Result<()> {
            Ok(())
        }
    }

    /// Sends `parts` parts of one byte.
    async fn sent(parts: usize, counting: Counting) -> (object_store::Result<()>, Arc<Counting>) {
        let counting = Arc::new(counting);
        let mut upload = WriteMultipart::new_with_chunk_size(Box::new(Upload(counting.clone())), 1);
        let parts = stream::iter((0..parts).map(|_| Ok(Bytes::from_static(b"x"))));
        (send(&mut upload, parts).await, counting)
    }

    #[tokio::test]
    async fn few_parts_are_in_memory_at_the_same_time() {
        let (result, counting) = sent(50, Counting::default()).await;
        result.unwrap();
        assert_eq!(counting.most.load(Ordering::SeqCst), IN_FLIGHT);
    }

    #[tokio::test]
    async fn a_part_that_is_refused_ends_the_upload() {
        let (result, counting) = sent(50, Counting { fails_at: Some(3), ..Counting::default() }).await;
        assert!(result.unwrap_err().to_string().contains("part refused"));
        assert!(counting.done.load(Ordering::SeqCst) < 10);
    }

    #[test]
    fn the_largest_shard_fits_into_the_parts_of_an_object() {
        for size in [PART + 1, 100_000_000_000, 5_000_000_000_000] {
            assert!(size.div_ceil(part_size(PART, size) as u64) <= MOST_PARTS, "{size}");
        }
        assert_eq!(part_size(PART, PART + 1) as u64, PART);
    }
}

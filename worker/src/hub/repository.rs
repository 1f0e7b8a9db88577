//! Fetching what a model needs from a repository of the hub into the cache.

use super::cache::{self, Cache};
use super::client::{Client, Listing, Sibling};
use super::error::{Error, Result};
use super::reference::{HubReference, is_commit};
use super::{Needs, selection};
use backon::{BackoffBuilder, ExponentialBuilder, Retryable, Sleeper, TokioSleeper};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// Where `HF_ENDPOINT` does not say otherwise.
const ENDPOINT: &str = "https://huggingface.co";
/// Files from this size on report their progress.
const LARGE: u64 = 64 << 20;

/// One hub and the cache that its files go to.
pub(super) struct Hub {
    client: Client,
    cache: Cache,
    /// Pauses between tries; a transfer that gets ahead starts over with them.
    pauses: ExponentialBuilder,
}

impl Hub {
    pub(super) fn from_env() -> Result<Self> {
        let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
        let token = std::env::var("HF_TOKEN").ok();
        let pauses = ExponentialBuilder::default().with_max_times(6).with_jitter();
        Self::new(endpoint.as_deref().unwrap_or(ENDPOINT), token.as_deref(), Cache::from_env(), pauses)
    }

    pub(super) fn new(endpoint: &str, token: Option<&str>, cache: Cache, pauses: ExponentialBuilder) -> Result<Self> {
        Ok(Hub { client: Client::new(endpoint, token)?, cache, pauses })
    }

    /// The local path of what the reference names, complete and verified.
    pub(super) async fn fetch(&self, reference: &HubReference, needs: Needs) -> Result<PathBuf> {
        let home = self.cache.repository(&reference.repository);
        let listing = self.listing(reference, &home, needs).await?;
        let files = chosen(reference, &listing, needs)?;
        let state = reference.variant.as_ref().map_or(listing.sha.clone(), |variant| format!("{}-{variant}", listing.sha));
        let folder = home.join(state);
        let missing = |file: &Sibling| !folder.join(&file.rfilename).is_file();
        if files.iter().any(&missing) {
            let _lock = cache::lock(&folder).await?;
            // Another worker may have fetched them while this one waited.
            for file in files.iter().filter(|file| missing(file)) {
                self.download(reference, &listing.sha, file, &folder.join(&file.rfilename)).await?;
            }
        }
        Ok(if reference.path.is_empty() { folder } else { folder.join(&reference.path) })
    }

    /// The reference with the commit that its revision stands for now, or stood for when the hub was last reached.
    pub(super) async fn pin(&self, reference: &HubReference, needs: Needs) -> Result<String> {
        if reference.is_commit() {
            return Ok(reference.at(&reference.revision));
        }
        let home = self.cache.repository(&reference.repository);
        let listing = self.listing(reference, &home, needs).await?;
        chosen(reference, &listing, needs)?;
        if !is_commit(&listing.sha) {
            let problem = format!("its listing has `{}` for a commit: is HF_ENDPOINT a hub?", listing.sha);
            return Err(Error::Missing { reference: reference.text.clone(), problem });
        }
        // Workers ask for the commit, also without a network.
        remember(&seen_at(&home, &listing.sha.to_ascii_lowercase()), &listing).await?;
        Ok(reference.at(&listing.sha))
    }

    /// The files of the revision: from the hub, or when it cannot be reached, as it was last seen.
    async fn listing(&self, reference: &HubReference, home: &Path, needs: Needs) -> Result<Listing> {
        let path = seen_at(home, &reference.revision);
        let seen = || std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Listing>(&bytes).ok());
        if let Some(listing) = seen().filter(|_| reference.is_commit()) {
            return Ok(listing);
        }
        // Few tries: someone who is offline should learn it soon.
        let asked = (|| self.client.list(reference)).retry(self.pauses.with_max_times(2)).when(Error::is_transient);
        match asked.notify(|error, pause| tracing::warn!(%error, ?pause, "the hub does not answer, trying again")).await {
            Ok(listing) => {
                check_names(reference, &listing)?;
                remember(&path, &listing).await?;
                Ok(listing)
            }
            Err(Error::Unreachable { reference: text, problem }) => match seen() {
                Some(listing) => {
                    tracing::warn!(model = text, problem, commit = listing.sha, "the hub cannot be reached, using what was seen last");
                    Ok(listing)
                }
                None => {
                    let advice =
                        format!("Without a network, copy the model to this machine ({}) and name its path instead", needs.description());
                    Err(Error::Unreachable { reference: text, problem: format!("{problem}. {advice}") })
                }
            },
            Err(error) => Err(error),
        }
    }

    /// Fetches one file, going on after cuts for as long as each try brings something.
    async fn download(&self, reference: &HubReference, commit: &str, file: &Sibling, path: &Path) -> Result<()> {
        cache::make_room(path).await?;
        let mut pauses = self.pauses.build();
        loop {
            let before = length(path).await;
            let error = match self.attempt(reference, commit, file, path).await {
                Ok(()) => return cache::finish(path).await,
                // A resumed file may be wrong because of its old part; one that came whole will not get better.
                Err(error @ Error::Checksum { .. }) if before == 0 => return Err(error),
                Err(error) if error.is_transient() => error,
                Err(error) => return Err(error),
            };
            if length(path).await > before {
                pauses = self.pauses.build();
            }
            let Some(pause) = pauses.next() else { return Err(error) };
            tracing::warn!(%error, ?pause, file = file.rfilename, "the transfer was cut, going on");
            TokioSleeper.sleep(pause).await;
        }
    }

    /// One try: the rest of the file, then its check.
    async fn attempt(&self, reference: &HubReference, commit: &str, file: &Sibling, path: &Path) -> Result<()> {
        let have = length(path).await;
        let mut sha256 = file.lfs.as_ref().map(|lfs| lfs.sha256.to_ascii_lowercase());
        if file.size != Some(have) {
            // Without a known size, the end of a partial file could not be told from a cut.
            let from = if file.size.is_some_and(|size| have < size) { have } else { 0 };
            sha256 = sha256.or(self.transfer(reference, commit, file, path, from).await?);
        }
        let found = sha256_of(&cache::partial(path)).await?;
        match sha256.filter(|announced| *announced != found) {
            None => Ok(()),
            Some(announced) => {
                let partial = cache::partial(path);
                tokio::fs::remove_file(&partial).await.map_err(Error::file(&partial))?;
                let url = format!("{}{}/resolve/{commit}/{}", self.client.endpoint(), reference.repository, file.rfilename);
                Err(Error::Checksum { url, problem: format!("SHA-256 is {found}, expected {announced}") })
            }
        }
    }

    /// Writes the file from byte `from` on into its partial form; the checksum that came with it.
    async fn transfer(&self, reference: &HubReference, commit: &str, file: &Sibling, path: &Path, from: u64) -> Result<Option<String>> {
        let mut transfer = self.client.file(reference, commit, &file.rfilename, from).await?;
        let mut done = if transfer.resumed { from } else { 0 };
        let partial = cache::partial(path);
        let open = File::options().create(true).write(true).append(transfer.resumed).truncate(!transfer.resumed).open(&partial).await;
        let mut out = open.map_err(Error::file(&partial))?;
        let cut = |done: u64, reason: String| {
            let problem = format!("{} was cut after {done} of {} bytes{reason}", file.rfilename, file.size.unwrap_or(0));
            Error::Unreachable { reference: reference.text.clone(), problem }
        };
        let result = loop {
            match transfer.body.chunk().await {
                Ok(Some(bytes)) => {
                    out.write_all(&bytes).await.map_err(Error::file(&partial))?;
                    report(file, done, done + bytes.len() as u64);
                    done += bytes.len() as u64;
                }
                Ok(None) if file.size.is_some_and(|size| done < size) => break Err(cut(done, String::new())),
                Ok(None) => break Ok(transfer.sha256),
                Err(error) => break Err(cut(done, format!(": {}", error.without_url()))),
            }
        };
        // What arrived is kept whatever happened, for the next try.
        out.flush().await.map_err(Error::file(&partial))?;
        out.sync_all().await.map_err(Error::file(&partial))?;
        result
    }
}

/// The files that the reference names and the model needs.
fn chosen(reference: &HubReference, listing: &Listing, needs: Needs) -> Result<Vec<Sibling>> {
    let find = |name: &str| listing.siblings.iter().find(|file| file.rfilename == name).cloned();
    if let Some(file) = find(&reference.path) {
        return Ok(vec![file]);
    }
    let folder = if reference.path.is_empty() { String::new() } else { format!("{}/", reference.path) };
    let inside: Vec<&str> = listing.siblings.iter().filter_map(|file| file.rfilename.strip_prefix(&folder)).collect();
    let missing = |problem: String| Error::Missing { reference: reference.text.clone(), problem };
    if inside.is_empty() {
        return Err(missing(format!("{} has no `{}`", reference.repository, reference.path)));
    }
    let names = selection::select(&inside, needs, reference.variant.as_deref()).map_err(missing)?;
    Ok(names.iter().filter_map(|name| find(&format!("{folder}{name}"))).collect())
}

/// Where the last listing of a revision is kept.
fn seen_at(home: &Path, revision: &str) -> PathBuf {
    home.join("revisions").join(format!("{revision}.json"))
}

/// Names become paths in the cache: whatever the server says, they stay inside it.
fn check_names(reference: &HubReference, listing: &Listing) -> Result<()> {
    let part_is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':']);
    let impossible = |name: &&String| !name.split('/').all(part_is_plain);
    let name = listing.siblings.iter().map(|file| &file.rfilename).chain([&listing.sha]).find(impossible);
    if let Some(name) = name {
        let problem = format!("its listing has the impossible name `{name}`: is HF_ENDPOINT a hub?");
        return Err(Error::Missing { reference: reference.text.clone(), problem });
    }
    Ok(())
}

/// Keeps a listing for times without a network.
async fn remember(path: &Path, listing: &Listing) -> Result<()> {
    cache::make_room(path).await?;
    let bytes = serde_json::to_vec(listing).map_err(|e| Error::file(path)(e.into()))?;
    let _lock = cache::lock(path).await?;
    let partial = cache::partial(path);
    tokio::fs::write(&partial, bytes).await.map_err(Error::file(&partial))?;
    cache::finish(path).await
}

/// Bytes of the unfinished file.
async fn length(path: &Path) -> u64 {
    tokio::fs::metadata(cache::partial(path)).await.map_or(0, |meta| meta.len())
}

/// Logs each further tenth of a large file.
fn report(file: &Sibling, before: u64, after: u64) {
    let Some(size) = file.size.filter(|&size| size >= LARGE) else { return };
    if before * 10 / size != after * 10 / size {
        tracing::info!(file = file.rfilename, megabytes = size >> 20, percent = after * 100 / size, "fetching");
    }
}

async fn sha256_of(path: &Path) -> Result<String> {
    let failed = Error::file(path);
    let path = path.to_path_buf();
    let hash = tokio::task::spawn_blocking(move || {
        let mut hasher = Sha256::new();
        std::fs::File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hasher))?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    });
    hash.await.unwrap_or_else(|e| Err(std::io::Error::other(e))).map_err(failed)
}

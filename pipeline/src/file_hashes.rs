//! Hashes of large local files, remembered between starts.
//!
//! A remembered hash counts while size, times, device and inode of the file are what they were. Whatever is wrong with
//! the memory, the file is read again: it saves time and is never needed.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file that changed so shortly before its hash was stored may change again without a new time stamp.
const COARSEST_STAMP: Duration = Duration::from_secs(2);

/// The cache folder of this machine: `IP2P_CACHE`, else `ip2p` in `XDG_CACHE_HOME`, else `~/.cache/ip2p`, else a folder
/// for temporary files.
pub fn cache_root() -> PathBuf {
    let set = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").map(|home| home.join(".cache"));
    let default = || set("XDG_CACHE_HOME").or_else(home).unwrap_or_else(std::env::temp_dir).join("ip2p");
    set("IP2P_CACHE").unwrap_or_else(default)
}

/// Hashes of files, kept in one folder.
#[derive(Clone, Debug)]
pub struct FileHashes {
    folder: PathBuf,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    device: u64,
    inode: u64,
}

#[derive(Serialize, Deserialize)]
struct Remembered {
    path: PathBuf,
    stamp: Stamp,
    blake3: String,
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Stamp {
            size: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            device: meta.dev(),
            inode: meta.ino(),
        }
    }
}

impl FileHashes {
    /// Below the cache folder `root`.
    pub fn at(root: &Path) -> Self {
        FileHashes { folder: root.join("hashes") }
    }

    pub fn from_env() -> Self {
        Self::at(&cache_root())
    }

    /// BLAKE3 of the file's content in hex digits.
    pub fn blake3(&self, path: &Path) -> Result<String> {
        let failed = |source| Error::File { path: path.display().to_string(), source };
        let mut file = File::open(path).map_err(failed)?;
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        let place = self.place(path);
        if let Some(hash) = place.as_deref().and_then(|place| recall(place, path, &stamp)) {
            return Ok(hash);
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&mut file).map_err(failed)?;
        let hash = hasher.finalize().to_hex().to_string();
        let unchanged = Stamp::of(&file.metadata().map_err(failed)?) == stamp;
        if let Some(place) = place.filter(|_| unchanged) {
            let remembered = Remembered { path: path.to_path_buf(), stamp, blake3: hash.clone() };
            if let Err(problem) = self.remember(&place, &remembered) {
                tracing::debug!("{}: {problem}; the file will be read again next time", place.display());
            }
        }
        Ok(hash)
    }

    /// Where the hash of a file is kept; `None` when the working directory is gone.
    fn place(&self, path: &Path) -> Option<PathBuf> {
        let absolute = std::path::absolute(path).ok()?;
        let name = blake3::hash(absolute.as_os_str().as_encoded_bytes()).to_hex();
        Some(self.folder.join(format!("{}.json", &name[..32])))
    }

    /// A crash or a second process never leaves half an entry.
    fn remember(&self, place: &Path, remembered: &Remembered) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&serde_json::to_vec(remembered)?)?;
        file.persist(place)?;
        Ok(())
    }
}

/// The stored hash, if the file is what it was when it was hashed.
fn recall(place: &Path, path: &Path, stamp: &Stamp) -> Option<String> {
    let stored = std::fs::metadata(place).and_then(|meta| meta.modified()).ok()?;
    let changed = std::fs::metadata(path).and_then(|meta| meta.modified()).ok()?;
    if changed + COARSEST_STAMP > stored {
        return None;
    }
    let remembered: Remembered = serde_json::from_slice(&std::fs::read(place).ok()?).ok()?;
    (remembered.stamp == *stamp).then_some(remembered.blake3)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        dir: tempfile::TempDir,
        hashes: FileHashes,
        file: PathBuf,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let (hashes, file) = (FileHashes::at(&dir.path().join("cache")), dir.path().join("weights"));
        std::fs::write(&file, "one").unwrap();
        Bench { dir, hashes, file }
    }

    impl Bench {
        fn hash(&self) -> String {
            self.hashes.blake3(&self.file).unwrap()
        }

        /// Replaces the stored hash, so that its use shows, and makes it so much younger than the file.
        fn falsify(&self, younger: Duration) {
            let place = self.hashes.place(&self.file).unwrap();
            let mut stored: Remembered = serde_json::from_slice(&std::fs::read(&place).unwrap()).unwrap();
            stored.blake3 = "from memory".to_string();
            std::fs::write(&place, serde_json::to_vec(&stored).unwrap()).unwrap();
            let changed = std::fs::metadata(&self.file).unwrap().modified().unwrap();
            File::options().write(true).open(&place).unwrap().set_modified(changed + younger).unwrap();
        }
    }

    #[test]
    fn an_unchanged_file_is_not_read_again() {
        let bench = bench();
        assert_eq!(bench.hash(), blake3::hash(b"one").to_hex().to_string());
        bench.falsify(Duration::from_secs(60));
        assert_eq!(bench.hash(), "from memory");
    }

    #[test]
    fn a_changed_file_is_read_again_even_with_its_old_size_and_time() {
        let bench = bench();
        bench.hash();
        bench.falsify(Duration::from_secs(60));
        let modified = std::fs::metadata(&bench.file).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        std::fs::write(&bench.file, "two").unwrap();
        File::options().write(true).open(&bench.file).unwrap().set_modified(modified).unwrap();
        assert_eq!(bench.hash(), blake3::hash(b"two").to_hex().to_string());
    }

    #[test]
    fn a_hash_taken_right_after_a_change_is_not_trusted() {
        let bench = bench();
        bench.hash();
        bench.falsify(Duration::from_millis(500));
        assert_ne!(bench.hash(), "from memory");
    }

    #[test]
    fn a_broken_or_missing_memory_does_no_harm() {
        let bench = bench();
        let expected = bench.hash();
        std::fs::write(bench.hashes.place(&bench.file).unwrap(), "{").unwrap();
        assert_eq!(bench.hash(), expected);
        let nowhere = FileHashes::at(&bench.file);
        assert_eq!(nowhere.blake3(&bench.file).unwrap(), expected, "the cache folder cannot be made");
        let message = bench.hashes.blake3(&bench.dir.path().join("none")).unwrap_err().to_string();
        assert!(message.contains("none"), "{message}");
    }
}

//! The training shards in three formats, each as its readers expect it.
//!
//! Images arrive encoded and are copied, never encoded again. Every byte is a pure function of the samples and
//! their order: no time, user, host or path of this machine enters.

pub mod card;
pub mod count;
pub mod hf_parquet;
pub mod original;
pub mod webdataset;

use crate::error::{Error, Result};
use crate::records::{IndexRow, Scores};
use crate::spec::{ColumnProfile, ShardFormat};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};

/// A kept pair with its two encoded images.
#[derive(Clone, Debug)]
pub struct Sample {
    number: u64,
    row: IndexRow,
    scores: Scores,
    images: [Bytes; 2],
    extensions: [&'static str; 2],
}

impl Sample {
    /// `number` is the sample's place in the data set ([`crate::shard_plan::ShardPlan::samples`]); `images` are the
    /// JPEG, PNG or WebP files before and after the edit. Fails when there are no scores or an image is none of these.
    pub fn new(number: u64, row: IndexRow, images: [Bytes; 2]) -> Result<Self> {
        let what = format!("pair {}", row.pair);
        let scores = row.scores.ok_or_else(|| Error::format(&what, "it was kept, but has no scores"))?;
        let unknown = || Error::format(&what, "the bytes of an image are neither JPEG, PNG nor WebP");
        let extensions = [extension(&images[0]).ok_or_else(unknown)?, extension(&images[1]).ok_or_else(unknown)?];
        Ok(Sample { number, row, scores, images, extensions })
    }

    /// Length of both images in bytes.
    fn image_bytes(&self) -> usize {
        self.images.iter().map(Bytes::len).sum()
    }
}

/// The file name extension of an encoded image, by its first bytes.
fn extension(image: &[u8]) -> Option<&'static str> {
    match image {
        [0xff, 0xd8, 0xff, ..] => Some("jpg"),
        [0x89, b'P', b'N', b'G', ..] => Some("png"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("webp"),
        _ => None,
    }
}

/// Facts of one finished file, or of all files of a range of folders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStats {
    /// Relative to the root of the data set.
    pub path: String,
    /// `train`, `validation` or `test`; `None` for the original layout, whose reader splits by itself.
    pub split: Option<String>,
    /// Pairs.
    pub samples: u64,
    pub bytes: u64,
    /// BLAKE3 of the bytes, 64 hex digits; of all files one after the other for a range of folders.
    pub blake3: String,
}

/// Counts and hashes what passes on to `inner`.
pub struct Measured<W> {
    inner: W,
    bytes: u64,
    // Boxed: its state takes 2 KB.
    hasher: Box<blake3::Hasher>,
}

impl<W: Write> Measured<W> {
    pub fn new(inner: W) -> Self {
        Measured { inner, bytes: 0, hasher: Box::default() }
    }

    /// The sink and the stats of everything written to it.
    pub fn finish(self, path: &str, split: Option<&str>, samples: u64) -> (W, ShardStats) {
        let blake3 = self.hasher.finalize().to_hex().to_string();
        let stats = ShardStats { path: path.to_string(), split: split.map(str::to_string), samples, bytes: self.bytes, blake3 };
        (self.inner, stats)
    }
}

impl<W: Write> Write for Measured<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(data)?;
        self.hasher.update(&data[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes one WebDataset or Parquet file into a sink, such as a local file; memory is bounded by one sample
/// for WebDataset and by one row group, about 100 MB, for Parquet.
pub struct ShardWriter<W: Write + Send> {
    path: String,
    samples: u64,
    format: Writer<W>,
}

enum Writer<W: Write + Send> {
    Webdataset(webdataset::Writer<Measured<W>>),
    Parquet(Box<hf_parquet::Writer<Measured<W>>>),
}

impl<W: Write + Send> ShardWriter<W> {
    /// `path` names the file in messages and stats. Fails for the original layout, which is not one file.
    pub fn new(format: ShardFormat, columns: ColumnProfile, path: &str, out: W) -> Result<Self> {
        let out = Measured::new(out);
        let format = match format {
            ShardFormat::Webdataset => Writer::Webdataset(webdataset::Writer::new(out)),
            ShardFormat::Parquet => Writer::Parquet(Box::new(hf_parquet::Writer::new(columns, out).map_err(|e| Error::format(path, e))?)),
            ShardFormat::Original => return Err(Error::format(path, "the original layout is written by folder, not as one file")),
        };
        Ok(ShardWriter { path: path.to_string(), samples: 0, format })
    }

    pub fn add(&mut self, sample: &Sample) -> Result<()> {
        self.samples += 1;
        match &mut self.format {
            Writer::Webdataset(writer) => writer.add(sample).map_err(|source| Error::File { path: self.path.clone(), source }),
            Writer::Parquet(writer) => writer.add(sample).map_err(|e| Error::format(&self.path, e)),
        }
    }

    /// Ends the file and gives the sink back. `split` is the name of its split.
    pub fn finish(self, split: &str) -> Result<(W, ShardStats)> {
        let out = match self.format {
            Writer::Webdataset(writer) => writer.finish().map_err(|source| Error::File { path: self.path.clone(), source })?,
            Writer::Parquet(writer) => writer.finish().map_err(|e| Error::format(&self.path, e))?,
        };
        Ok(out.finish(&self.path, Some(split), self.samples))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::records::{Candidate, Triplet, Verdict};

    /// Bytes that begin like a JPEG.
    pub fn jpeg(filler: u8, length: usize) -> Bytes {
        [vec![0xff, 0xd8, 0xff], vec![filler; length]].concat().into()
    }

    /// Sample number `n`, with a score that is a whole number.
    pub fn sample(n: u64) -> Sample {
        let triplet = Triplet::new(format!("a cat {n}"), "make it “black”".to_string(), "a black cat".to_string(), None);
        let candidate = Candidate { triplet: triplet.id, sample: 0, seed: 1000 + n, p2p_threshold: 0.5, cfg_scale: 8.0 };
        let row = IndexRow {
            pair: candidate.pair_id(),
            caption: triplet.caption,
            edit: triplet.edit,
            output: triplet.output,
            url: None,
            candidate,
            scores: Some(Scores { clip_sim_0: 0.25, clip_sim_1: 0.3, clip_sim_dir: 0.21, clip_sim_image: 1.0 }),
            verdict: Verdict::Kept,
            images: None,
        };
        Sample::new(n, row, [jpeg(1, 700 + n as usize), jpeg(2, 300)]).unwrap()
    }

    pub fn write(format: ShardFormat, columns: ColumnProfile, samples: impl Iterator<Item = Sample>) -> (Bytes, ShardStats) {
        let mut writer = ShardWriter::new(format, columns, "train-000000", Vec::new()).unwrap();
        samples.for_each(|sample| writer.add(&sample).unwrap());
        let (bytes, stats) = writer.finish("train").unwrap();
        (bytes.into(), stats)
    }

    #[test]
    fn stats_describe_the_bytes_and_the_bytes_repeat() {
        for format in [ShardFormat::Webdataset, ShardFormat::Parquet] {
            let (bytes, stats) = write(format, ColumnProfile::Timbrooks, (0..5).map(sample));
            assert_eq!((stats.samples, stats.bytes), (5, bytes.len() as u64));
            assert_eq!(stats.blake3, blake3::hash(&bytes).to_hex().as_str());
            assert_eq!(write(format, ColumnProfile::Timbrooks, (0..5).map(sample)), (bytes, stats));
        }
    }

    #[test]
    fn what_is_not_an_image_is_refused() {
        let good = sample(0);
        let message = Sample::new(0, good.row.clone(), [jpeg(1, 5), Bytes::from_static(b"GIF89a")]).unwrap_err().to_string();
        assert_eq!(message, format!("pair {}: the bytes of an image are neither JPEG, PNG nor WebP", good.row.pair));
        let unscored = IndexRow { scores: None, ..good.row.clone() };
        assert!(Sample::new(0, unscored, good.images).is_err());
    }
}

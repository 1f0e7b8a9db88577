//! WebDataset: tar files in which the members of a sample lie together and share the name before the first dot.
//!
//! Per sample `000012345.original_image.jpg`, `.edited_image.jpg`, `.edit_prompt.txt` and `.json` with a fixed set
//! of keys, because Hugging Face `datasets` infers the columns from the first samples.

use super::Sample;
use crate::python_json;
use serde::Serialize;
use std::io::{self, Write};
use tar::{EntryType, Header};

/// The sample's `.json`: the order and set of keys never change, and none is null.
#[derive(Serialize)]
struct Facts<'a> {
    pair_id: String,
    triplet_id: String,
    original_prompt: &'a str,
    edit_prompt: &'a str,
    edited_prompt: &'a str,
    /// Empty when the corpus has none.
    url: &'a str,
    seed: u64,
    p2p_threshold: f64,
    cfg_scale: f64,
    clip_sim_0: f64,
    clip_sim_1: f64,
    clip_sim_dir: f64,
    clip_sim_image: f64,
}

impl<'a> Facts<'a> {
    fn of(Sample { row, scores, .. }: &'a Sample) -> Self {
        Facts {
            pair_id: row.pair.to_string(),
            triplet_id: row.candidate.triplet.to_string(),
            original_prompt: &row.caption,
            edit_prompt: &row.edit,
            edited_prompt: &row.output,
            url: row.url.as_deref().unwrap_or_default(),
            seed: row.candidate.seed,
            p2p_threshold: row.candidate.p2p_threshold,
            cfg_scale: row.candidate.cfg_scale,
            clip_sim_0: scores.clip_sim_0,
            clip_sim_1: scores.clip_sim_1,
            clip_sim_dir: scores.clip_sim_dir,
            clip_sim_image: scores.clip_sim_image,
        }
    }
}

pub(super) struct Writer<W: Write> {
    tar: tar::Builder<W>,
}

impl<W: Write> Writer<W> {
    pub fn new(out: W) -> Self {
        Writer { tar: tar::Builder::new(out) }
    }

    pub fn add(&mut self, sample: &Sample) -> io::Result<()> {
        let key = format!("{:09}", sample.number);
        let [before, after] = sample.extensions;
        let facts = python_json::to_string(&Facts::of(sample)).map_err(io::Error::other)?;
        self.member(&format!("{key}.original_image.{before}"), &sample.images[0])?;
        self.member(&format!("{key}.edited_image.{after}"), &sample.images[1])?;
        self.member(&format!("{key}.edit_prompt.txt"), sample.row.edit.as_bytes())?;
        self.member(&format!("{key}.json"), facts.as_bytes())
    }

    fn member(&mut self, name: &str, data: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_path(name)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        self.tar.append(&header, data)
    }

    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{sample, write};
    use crate::spec::{ColumnProfile, ShardFormat};
    use std::io::Read;

    #[test]
    fn members_of_a_sample_lie_together_with_plain_headers() {
        let (bytes, _) = write(ShardFormat::Webdataset, ColumnProfile::Timbrooks, (0..2).map(sample));
        let mut names = Vec::new();
        let mut archive = tar::Archive::new(&bytes[..]);
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header().clone();
            let facts = (header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap());
            assert_eq!(facts, (0, 0, 0, 0o644));
            assert!(header.as_ustar().is_some());
            let name = entry.path().unwrap().to_str().unwrap().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            match name.as_str() {
                "000000001.original_image.jpg" => assert_eq!(content, sample(1).images[0]),
                "000000001.edited_image.jpg" => assert_eq!(content, sample(1).images[1]),
                "000000001.edit_prompt.txt" => assert_eq!(content, sample(1).row.edit.as_bytes()),
                _ => {}
            }
            names.push(name);
        }
        let members = ["original_image.jpg", "edited_image.jpg", "edit_prompt.txt", "json"];
        let expected: Vec<String> = (0..2).flat_map(|n| members.map(|member| format!("{n:09}.{member}"))).collect();
        assert_eq!(names, expected);
    }

    #[test]
    fn the_json_has_fixed_keys_no_nulls_and_floats_with_points() {
        let facts = super::python_json::to_string(&super::Facts::of(&sample(3))).unwrap();
        let (pair, triplet) = (sample(3).row.pair, sample(3).row.candidate.triplet);
        let expected = format!(
            r#"{{"pair_id": "{pair}", "triplet_id": "{triplet}", "original_prompt": "a cat 3", "edit_prompt": "make it \u201cblack\u201d", "edited_prompt": "a black cat", "url": "", "seed": 1003, "p2p_threshold": 0.5, "cfg_scale": 8.0, "clip_sim_0": 0.25, "clip_sim_1": 0.3, "clip_sim_dir": 0.21, "clip_sim_image": 1.0}}"#
        );
        assert_eq!(facts, expected);
    }
}

//! The images of one chunk in one tar file: readable with any tar, and each image by a range read.

use crate::failure::{Result, failure};
use bytes::Bytes;
use ip2p_pipeline::records::ImageRef;
use ip2p_pipeline::task::Cause;

/// Collects images under the key that the finished tar will have.
pub(super) struct ImageBundle {
    key: String,
    tar: tar::Builder<Vec<u8>>,
    images: usize,
}

impl ImageBundle {
    pub fn new(key: String) -> Self {
        ImageBundle { key, tar: tar::Builder::new(Vec::new()), images: 0 }
    }

    /// Adds before and after; returns where their bytes will lie.
    pub fn add(&mut self, name: &str, extension: &str, images: &[Vec<u8>; 2]) -> Result<[ImageRef; 2]> {
        Ok([self.add_one(&format!("{name}_0.{extension}"), &images[0])?, self.add_one(&format!("{name}_1.{extension}"), &images[1])?])
    }

    fn add_one(&mut self, name: &str, image: &[u8]) -> Result<ImageRef> {
        let mut header = tar::Header::new_ustar();
        header.set_size(image.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        self.tar.append_data(&mut header, name, image).map_err(|e| failure(Cause::Bug, format!("tar of images: {e}")))?;
        self.images += 1;
        // Entries are padded to blocks of 512 bytes.
        let end = self.tar.get_ref().len() as u64;
        let offset = end - (image.len() as u64).next_multiple_of(512);
        Ok(ImageRef::describe(&self.key, offset, image))
    }

    /// The key and bytes of the tar; `None` when it holds no image.
    pub fn finish(self) -> Result<Option<(String, Bytes)>> {
        if self.images == 0 {
            return Ok(None);
        }
        let bytes = self.tar.into_inner().map_err(|e| failure(Cause::Bug, format!("tar of images: {e}")))?;
        Ok(Some((self.key, bytes.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn ranges_and_tar_readers_agree() {
        let mut bundle = ImageBundle::new("k".to_string());
        let sizes = [(0, 1), (511, 512), (513, 100_000)];
        let images: Vec<[Vec<u8>; 2]> = sizes.iter().map(|&(a, b)| [vec![7; a], vec![9; b]]).collect();
        let refs: Vec<_> = images.iter().enumerate().map(|(i, pair)| bundle.add(&i.to_string(), "png", pair).unwrap()).collect();
        let (_, bytes) = bundle.finish().unwrap().unwrap();
        for (pair, places) in images.iter().zip(&refs) {
            for (image, place) in pair.iter().zip(places) {
                assert_eq!(&bytes[place.offset as usize..(place.offset + place.length) as usize], &image[..]);
                assert!(place.describes(image));
            }
        }
        let mut archive = tar::Archive::new(&bytes[..]);
        let read: Vec<Vec<u8>> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut data = Vec::new();
                entry.unwrap().read_to_end(&mut data).unwrap();
                data
            })
            .collect();
        assert_eq!(read, images.concat());
    }
}

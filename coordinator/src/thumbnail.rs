//! Small pictures of large ones.

use image::codecs::jpeg::JpegEncoder;

const JPEG_QUALITY: u8 = 82;

/// An image of at most `most` bytes as it is, a longer one as a JPEG of at most `side` pixels a side; and its type.
pub(crate) fn thumbnail(bytes: &[u8], side: u32, most: usize) -> image::ImageResult<(&'static str, Vec<u8>)> {
    let format = image::guess_format(bytes)?;
    if bytes.len() <= most {
        return Ok((format.to_mime_type(), bytes.to_vec()));
    }
    let small = image::load_from_memory_with_format(bytes, format)?.thumbnail(side, side).to_rgb8();
    let mut jpeg = Vec::new();
    small.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, JPEG_QUALITY))?;
    Ok((image::ImageFormat::Jpeg.to_mime_type(), jpeg))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_images_become_small_ones_and_small_ones_stay() {
        let encode = |side: u32| {
            let noise =
                image::RgbImage::from_fn(side, side, |x, y| image::Rgb([x.wrapping_mul(31) as u8 ^ y as u8, (x * y) as u8, y as u8]));
            let mut bytes = std::io::Cursor::new(Vec::new());
            noise.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
            bytes.into_inner()
        };
        let tiny = encode(16);
        assert_eq!(thumbnail(&tiny, 192, 12_000).unwrap(), ("image/png", tiny));
        let (kind, bytes) = thumbnail(&encode(512), 192, 12_000).unwrap();
        let small = image::load_from_memory(&bytes).unwrap();
        assert_eq!((kind, small.width(), small.height()), ("image/jpeg", 192, 192));
        assert!(thumbnail(b"no image", 192, 12_000).is_err());
    }
}

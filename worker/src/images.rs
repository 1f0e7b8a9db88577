//! Pictures as RGB bytes, and as JPEG, PNG or lossless WebP files.

use std::io::Cursor;

use candle_core::{DType, Tensor};
use image::codecs::{png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageReader, Limits};
use ip2p_pipeline::spec::ImageFormat;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use crate::models;

/// Errors of writing and reading pictures.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{found} bytes are not an RGB picture of {width}x{height}")]
    Size { width: u32, height: u32, found: usize },
    #[error("a side of {0} pixels is more than a JPEG can have (65535)")]
    TooLarge(u32),
    #[error("writing JPEG: {0}")]
    Jpeg(#[from] jpeg_encoder::EncodingError),
    #[error("picture: {0}")]
    Codec(#[from] image::ImageError),
}

/// An RGB picture: 3 bytes a pixel, in rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    pub width: u32,
    pub height: u32,
    pub bytes: Vec<u8>,
}

/// Sides as large as `stages.pairs.resolution` can be, with 16 bits a channel.
fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.max_image_width = Some(4096);
    limits.max_image_height = Some(4096);
    limits.max_alloc = Some(160 << 20);
    limits
}

impl Rgb8 {
    /// From [3, h, w] with values in [0, 1], by truncation of 255 x in the tensor's own precision, as the original writes.
    pub fn from_tensor(image: &Tensor) -> models::Result<Self> {
        let (channels, height, width) = image.dims3()?;
        if channels != 3 {
            return Err(models::Error::Input(format!("a picture of {channels} channels; need 3")));
        }
        let scaled = (image * 255.0)?.to_dtype(DType::F32)?.permute((1, 2, 0))?.flatten_all()?;
        let bytes = scaled.to_vec1::<f32>()?.into_iter().map(|x| x as u8).collect();
        Ok(Rgb8 { width: width as u32, height: height as u32, bytes })
    }

    /// Encodes the picture. JPEG is baseline with 4:2:0 chroma and the standard's tables scaled as libjpeg does, like the
    /// original's Pillow.
    pub fn encode(&self, format: ImageFormat) -> Result<Vec<u8>, ImageError> {
        let &Rgb8 { width, height, ref bytes } = self;
        if width == 0 || height == 0 || bytes.len() as u64 != u64::from(width) * u64::from(height) * 3 {
            return Err(ImageError::Size { width, height, found: bytes.len() });
        }
        let mut out = vec![];
        match format {
            ImageFormat::Jpeg { quality } => {
                let side = |side: u32| u16::try_from(side).map_err(|_| ImageError::TooLarge(side));
                let mut encoder = Encoder::new(&mut out, quality);
                encoder.set_sampling_factor(SamplingFactor::F_2_2);
                encoder.encode(bytes, side(width)?, side(height)?, ColorType::Rgb)?;
            }
            ImageFormat::Png => PngEncoder::new(&mut out).write_image(bytes, width, height, ExtendedColorType::Rgb8)?,
            ImageFormat::Webp => WebPEncoder::new_lossless(&mut out).write_image(bytes, width, height, ExtendedColorType::Rgb8)?,
        }
        Ok(out)
    }

    /// Decodes a JPEG, PNG or WebP file of at most 4096 x 4096 pixels; the format is read from its bytes.
    pub fn decode(file: &[u8]) -> Result<Self, ImageError> {
        let mut reader = ImageReader::new(Cursor::new(file)).with_guessed_format().map_err(image::ImageError::IoError)?;
        reader.limits(limits());
        let rgb = reader.decode()?.into_rgb8();
        let (width, height) = rgb.dimensions();
        Ok(Rgb8 { width, height, bytes: rgb.into_raw() })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn gradient(width: u32, height: u32) -> Rgb8 {
        let pixel = |i: u32| [(i % width * 255 / width) as u8, (i / width * 255 / height) as u8, 90];
        Rgb8 { width, height, bytes: (0..width * height).flat_map(pixel).collect() }
    }

    #[test]
    fn lossless_formats_return_the_same_pixels() {
        let picture = gradient(33, 20);
        for format in [ImageFormat::Png, ImageFormat::Webp] {
            let file = picture.encode(format).unwrap();
            assert_eq!(Rgb8::decode(&file).unwrap(), picture, "{format:?}");
            assert_eq!(file, picture.encode(format).unwrap());
        }
    }

    #[test]
    fn jpeg_is_near_and_nearer_with_quality() {
        let picture = gradient(48, 32);
        let error = |quality| {
            let back = Rgb8::decode(&picture.encode(ImageFormat::Jpeg { quality }).unwrap()).unwrap();
            assert_eq!((back.width, back.height), (48, 32));
            back.bytes.iter().zip(&picture.bytes).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / back.bytes.len() as f64
        };
        assert!(error(100) < 3.0, "{}", error(100));
        assert!(error(30) > error(100));
    }

    #[test]
    fn bytes_are_truncated() {
        let image = Tensor::new(&[0.0f32, 0.999, 1.0, 0.5, 1.0 / 255.0, 0.2], &Device::Cpu).unwrap().reshape((3, 1, 2)).unwrap();
        let picture = Rgb8::from_tensor(&image).unwrap();
        assert_eq!(picture, Rgb8 { width: 2, height: 1, bytes: vec![0, 255, 1, 254, 127, 51] });
    }

    #[test]
    fn wrong_sizes_are_refused() {
        let refuse = |width, height, size, format| Rgb8 { width, height, bytes: vec![0; size] }.encode(format).unwrap_err();
        assert!(matches!(refuse(2, 2, 11, ImageFormat::Png), ImageError::Size { found: 11, .. }));
        assert!(matches!(refuse(0, 0, 0, ImageFormat::Png), ImageError::Size { .. }));
        assert!(matches!(refuse(70_000, 1, 210_000, ImageFormat::Jpeg { quality: 90 }), ImageError::TooLarge(70_000)));
        assert!(Rgb8::decode(b"not a picture").is_err());
    }
}

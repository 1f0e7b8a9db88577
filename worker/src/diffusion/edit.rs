//! InstructPix2Pix: editing a picture by an instruction (Brooks et al., "InstructPix2Pix: learning to follow image editing
//! instructions", 2023). What a data set of this program trains can be tried with it.

use candle_core::{Device, Tensor};
use ip2p_pipeline::spec::Sampler;

use super::draw::predict;
use super::fit::fit;
use super::sampler::{Process, sample};
use super::schedule::Schedule;
use crate::images::Rgb8;
use crate::models::unet::{Rows, TextContext, UNet};
use crate::models::{Error, Result};

/// Blocks of pixels in which the original counts sizes.
const BLOCK: f64 = 64.0;

/// How strongly to follow the instruction and the picture.
#[derive(Clone, Copy, Debug)]
pub struct Guidance {
    pub text: f64,
    pub image: f64,
}

/// What to edit and how.
pub struct Edit<'a> {
    pub unet: &'a UNet,
    /// Unscaled latents of the picture: [1, c, h, w], from [`Vae::encode_mode`](crate::models::Vae::encode_mode).
    pub image_latent: &'a Tensor,
    /// The instruction (text 0) and the empty text (text 1).
    pub text: &'a TextContext,
    pub guidance: Guidance,
    pub steps: usize,
    /// Fills one draw of standard normal noise, as in [`super::draw::Noise`].
    pub noise: &'a dyn Fn(u64, &mut [f32]),
}

/// The size to which the original brings a picture: the longer side near `resolution`, both multiples of 64.
///
/// Its floating-point steps are kept, since their rounding makes some sizes a block smaller; very long pictures get a
/// side of 0, which [`load`] refuses.
pub fn size(width: u32, height: u32, resolution: u32) -> (u32, u32) {
    let (w, h) = (f64::from(width), f64::from(height));
    let shorter = w.min(h);
    let factor = f64::from(resolution) / w.max(h);
    let factor = (shorter * factor / BLOCK).ceil() * BLOCK / shorter;
    let blocks = |side: f64| (side * factor / BLOCK).floor() as u32 * BLOCK as u32;
    (blocks(w), blocks(h))
}

/// A picture brought to its size for `resolution`, and as the autoencoder wants it: fp32 [1, 3, h, w] in [-1, 1].
pub fn load(picture: &Rgb8, resolution: u32) -> Result<(Rgb8, Tensor)> {
    let (width, height) = size(picture.width, picture.height, resolution);
    if width == 0 || height == 0 {
        let Rgb8 { width, height, .. } = picture;
        return Err(Error::Input(format!(
            "a picture of {width}x{height} has no size in blocks of {BLOCK} pixels near {resolution}; crop it"
        )));
    }
    let fitted = fit(picture, width, height);
    let values: Vec<f32> = fitted.bytes.iter().map(|&byte| 2.0 * (f32::from(byte) / 255.0) - 1.0).collect();
    let image = Tensor::from_vec(values, (1, height as usize, width as usize, 3), &Device::Cpu)?.permute((0, 3, 1, 2))?.contiguous()?;
    Ok((fitted, image))
}

impl Edit<'_> {
    /// Runs Euler ancestral from pure noise; returns latents [1, c, h, w] for [`Vae::decode`](crate::models::Vae::decode). `after` sees `x` after every
    /// step.
    pub fn run(&self, after: &mut dyn FnMut(usize, &Tensor)) -> Result<Tensor> {
        let config = self.unet.config();
        let (_, channels, _, _) = self.image_latent.dims4()?;
        if config.in_channels != config.out_channels + channels {
            let found = config.in_channels;
            return Err(Error::Input(format!(
                "editing needs a UNet of {} input channels, this one has {found}",
                config.out_channels + channels
            )));
        }
        let schedule = Schedule::default();
        let sigmas = schedule.sigmas(self.steps);
        let image = self.image_latent.to_device(self.unet.device())?;
        let zeros = image.zeros_like()?;
        let images = Tensor::cat(&[&image, &image, &zeros], 0)?;
        let mut process = Editing { edit: self, schedule, images, after };
        let x = (process.noise(0, &image)? * sigmas.first().copied().unwrap_or_default())?;
        sample(Sampler::EulerAncestral, &sigmas, x, &mut process)
    }
}

struct Editing<'a> {
    edit: &'a Edit<'a>,
    schedule: Schedule,
    /// Rows: (instruction, picture), (no text, picture), (no text, no picture).
    images: Tensor,
    after: &'a mut dyn FnMut(usize, &Tensor),
}

impl Process for Editing<'_> {
    /// D = D_none + text (D_both - D_image) + image (D_image - D_none), the paper's equation 3 as its code has it.
    fn denoise(&mut self, _: usize, x: &Tensor, sigma: f64) -> Result<Tensor> {
        let rows = Rows { texts: vec![(0, 1), (1, 2)], shared: vec![] };
        let eps = predict(self.edit.unet, &self.schedule, (self.edit.text, &rows), &[x, x, x], Some(&self.images), sigma)?;
        let row = |i: usize| eps.narrow(0, i, 1);
        let (both, image, none) = (row(0)?, row(1)?, row(2)?);
        let Guidance { text, image: picture } = self.edit.guidance;
        let guided = ((&none + ((both - &image)? * text)?)? + ((image - &none)? * picture)?)?;
        Ok((x - (guided * sigma)?)?)
    }

    fn noise(&mut self, draw: u64, x: &Tensor) -> Result<Tensor> {
        let mut noise = vec![0f32; x.elem_count()];
        (self.edit.noise)(draw, &mut noise);
        Ok(Tensor::from_vec(noise, x.shape(), &Device::Cpu)?.to_device(self.edit.unet.device())?)
    }

    fn after(&mut self, step: usize, x: &Tensor) -> Result<()> {
        (self.after)(step, x);
        Ok(())
    }
}

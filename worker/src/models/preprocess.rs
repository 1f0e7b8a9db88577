//! What the original does to an image before CLIP's image tower sees it.
//!
//! Bicubic resize of the float image to the tower's square size (a = -0.75, half-pixel centres, no antialiasing, no
//! clamping), then normalisation: PyTorch's `F.interpolate(mode="bicubic", align_corners=False)` in
//! `clip_similarity.py` of timothybrooks/instruct-pix2pix.

use super::error::{Error, Result};
use candle_core::{DType, Device, Tensor};

/// Mean and standard deviation of the channels in CLIP's training data (openai/CLIP, `clip.py`).
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// Resizes [n, 3, h, w] to [n, 3, size, size] with Keys' cubic kernel at a = -0.75.
pub fn resize_bicubic(images: &Tensor, size: usize) -> Result<Tensor> {
    let (_, _, height, width) = images.dims4()?;
    if (height, width) == (size, size) {
        return Ok(images.clone());
    }
    let rows = cubic_weights(height, size, images.device())?;
    let columns = cubic_weights(width, size, images.device())?.t()?;
    Ok(rows.broadcast_matmul(&images.contiguous()?.broadcast_matmul(&columns)?)?)
}

/// Subtracts CLIP's mean and divides by its standard deviation; [n, 3, h, w] with values in [0, 1].
pub fn normalise(images: &Tensor) -> Result<Tensor> {
    let channels = |values: &[f32; 3]| Tensor::from_slice(values, (1, 3, 1, 1), images.device());
    Ok(images.broadcast_sub(&channels(&MEAN)?)?.broadcast_div(&channels(&STD)?)?)
}

/// The input of CLIP's image tower: f32 [n, 3, size, size] from images [n, 3, h, w] with values in [0, 1].
pub fn clip_input(images: &Tensor, size: usize) -> Result<Tensor> {
    match images.dims() {
        [_, 3, height, width] if height * width > 0 => normalise(&resize_bicubic(&images.to_dtype(DType::F32)?, size)?),
        other => Err(Error::Input(format!("images for CLIP must be [n, 3, height, width], got {other:?}"))),
    }
}

/// The [to, from] matrix that resamples one axis; samples beyond the border repeat it.
fn cubic_weights(from: usize, to: usize, device: &Device) -> Result<Tensor> {
    let mut weights = vec![0f32; from * to];
    let scale = from as f32 / to as f32;
    for (i, row) in weights.chunks_exact_mut(from).enumerate() {
        let source = scale * (i as f32 + 0.5) - 0.5;
        let first = source.floor();
        for (offset, weight) in (-1..=2).zip(cubic_taps(source - first)) {
            let at = (first as i64 + offset).clamp(0, from as i64 - 1) as usize;
            row[at] += weight;
        }
    }
    Ok(Tensor::from_vec(weights, (to, from), device)?)
}

/// Weights of the four neighbours of a point `t` in [0, 1) after the second of them (Keys 1981).
fn cubic_taps(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A constant picture stays constant: each row of weights sums to one.
        #[test]
        fn weights_sum_to_one(from in 1usize..600, to in 1usize..300) {
            let sums = cubic_weights(from, to, &Device::Cpu).unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
            prop_assert!(sums.iter().all(|s| (s - 1.0).abs() < 1e-5));
        }
    }

    #[test]
    fn linear_ramp_is_kept_inside_the_border() {
        let ramp = Tensor::arange(0f32, 64.0, &Device::Cpu).unwrap().reshape((1, 1, 1, 64)).unwrap();
        let ramp = ramp.broadcast_as((1, 3, 64, 64)).unwrap();
        let half = resize_bicubic(&ramp, 32).unwrap().get_on_dim(2, 7).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (i, value) in half[..32].iter().enumerate().skip(1).take(30) {
            assert!((value - (2.0 * i as f32 + 0.5)).abs() < 1e-4, "{i}: {value}");
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        let gray = Tensor::zeros((1, 1, 8, 8), DType::F32, &Device::Cpu).unwrap();
        assert!(clip_input(&gray, 4).unwrap_err().to_string().contains("[1, 1, 8, 8]"));
    }
}

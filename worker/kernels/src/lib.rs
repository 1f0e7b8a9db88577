//! Fused fp32 kernels for the CPU: convolution, group norm with SiLU, GEGLU and softmax.
//!
//! candle's own convolution lays out its kernel anew in each call and runs one product for each image, and its norms and
//! activations make a pass over memory for every operation. These make one pass, on all cores, and their exponential is
//! plain arithmetic that the compiler turns into vector code: the same bits on every machine.

use candle_core::{CpuStorage, Result, Storage, Tensor};
use rayon::prelude::*;

/// Unfolded input held at once by a convolution: 32 MiB.
const UNFOLDED_AT_ONCE: usize = 1 << 23;

/// True when these kernels can take `x`.
pub fn can_take(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == candle_core::DType::F32
}

/// Runs `f` over the numbers of a CPU fp32 tensor, in order.
fn read<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    let (Storage::Cpu(CpuStorage::F32(numbers)), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        candle_core::bail!("not an fp32 tensor on the CPU")
    };
    match numbers.get(start..end) {
        Some(numbers) => f(numbers),
        None => candle_core::bail!("tensor layout {layout:?} is outside its {} numbers", numbers.len()),
    }
}

/// e^x to 2e-7 relative, for x cut to where the result is a normal number: Cephes' polynomial (Moshier, `expf`).
fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    /// Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.3, 88.3);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    (p * r * r + r + 1.0) * power
}

fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// x Phi(x) with the normal distribution function to 1e-7: Abramowitz and Stegun, formula 7.1.26.
fn gelu(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let mut p = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6] {
        p = p * t + c;
    }
    let tail = 0.5 * p * t * exp(-z * z);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// [b, m, n] -> [b, n, m], in tiles of a few cache lines.
pub fn transpose(x: &Tensor) -> Result<Tensor> {
    const TILE: usize = 16;
    let (b, m, n) = x.dims3()?;
    read(x, |numbers| {
        let mut out = vec![0f32; numbers.len()];
        let size = (m * n).max(1);
        out.par_chunks_mut(size).zip(numbers.par_chunks(size)).for_each(|(out, x)| {
            for (row, column) in (0..m).step_by(TILE).flat_map(|i| (0..n).step_by(TILE).map(move |j| (i, j))) {
                for j in column..(column + TILE).min(n) {
                    for i in row..(row + TILE).min(m) {
                        out[j * m + i] = x[i * n + j];
                    }
                }
            }
        });
        Tensor::from_vec(out, (b, n, m), x.device())
    })
}

/// softmax over the last dimension.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(candle_core::D::Minus1)?.max(1);
    read(x, |numbers| {
        let mut out = vec![0f32; numbers.len()];
        out.par_chunks_mut(width).zip(numbers.par_chunks(width)).with_min_len(64).for_each(|(out, row)| {
            let most = row.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            out.iter_mut().zip(row).for_each(|(out, &x)| *out = exp(x - most));
            let scale = 1.0 / sum(out);
            out.iter_mut().for_each(|x| *x *= scale);
        });
        Tensor::from_vec(out, x.shape(), x.device())
    })
}

/// a gelu(b) for the halves a, b of the last dimension: [.., 2 w] -> [.., w].
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let width = dims.last().map_or(0, |last| last / 2);
    dims.iter_mut().last().into_iter().for_each(|last| *last = width);
    read(x, |numbers| {
        let mut out = vec![0f32; numbers.len() / 2];
        out.par_chunks_mut(width.max(1)).zip(numbers.par_chunks(2 * width.max(1))).with_min_len(16).for_each(|(out, row)| {
            let (a, b) = row.split_at(width);
            out.iter_mut().zip(a).zip(b).for_each(|((out, a), &b)| *out = a * gelu(b));
        });
        Tensor::from_vec(out, dims, x.device())
    })
}

/// Sums in eight lanes for the vector units, and blocks in fp64 for large groups.
fn sum(numbers: &[f32]) -> f32 {
    sum_of(numbers, |x| x) as f32
}

fn sum_of(numbers: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let block = |block: &[f32]| {
        let mut lanes = [0f32; 8];
        let (eights, rest) = block.as_chunks::<8>();
        eights.iter().for_each(|eight| lanes.iter_mut().zip(eight).for_each(|(lane, &x)| *lane += f(x)));
        f64::from(lanes.iter().sum::<f32>() + rest.iter().map(|&x| f(x)).sum::<f32>())
    };
    numbers.chunks(4096).map(block).sum()
}

/// Group norm of [b, c, ..], then SiLU when `activate`.
pub fn group_norm(x: &Tensor, groups: usize, weight: &Tensor, bias: &Tensor, eps: f64, activate: bool) -> Result<Tensor> {
    let channels = x.dim(1)?;
    let area = x.dims().iter().skip(2).product::<usize>().max(1);
    let members = (channels / groups.max(1)).max(1);
    let (weight, bias) = (weight.to_vec1::<f32>()?, bias.to_vec1::<f32>()?);
    read(x, |numbers| {
        let mut out = vec![0f32; numbers.len()];
        let size = members * area;
        out.par_chunks_mut(size).zip(numbers.par_chunks(size)).enumerate().for_each(|(i, (out, group))| {
            let mean = (sum_of(group, |x| x) / size as f64) as f32;
            let variance = sum_of(group, |x| (x - mean) * (x - mean)) / size as f64;
            let deviation = 1.0 / (variance + eps).sqrt();
            let first = i % groups * members;
            let affine = weight.iter().zip(&bias).skip(first);
            for ((out, values), (&w, &b)) in out.chunks_mut(area).zip(group.chunks(area)).zip(affine) {
                let scale = (f64::from(w) * deviation) as f32;
                let apply = |x: f32| (x - mean) * scale + b;
                if activate {
                    out.iter_mut().zip(values).for_each(|(out, &x)| *out = silu(apply(x)));
                } else {
                    out.iter_mut().zip(values).for_each(|(out, &x)| *out = apply(x));
                }
            }
        });
        Tensor::from_vec(out, x.shape(), x.device())
    })
}

/// The geometry of a square convolution.
#[derive(Clone, Copy)]
pub struct Geometry {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Geometry {
    fn output(&self, side: usize) -> usize {
        (side + 2 * self.padding).saturating_sub(self.kernel) / self.stride + 1
    }
}

/// Convolution of [b, c, h, w] with `weight` [out, c kernel kernel], adding `bias`: [1 or b, out].
///
/// The input is unfolded for some rows of output at a time, over all images, so that each product is large.
pub fn convolution(x: &Tensor, weight: &Tensor, bias: &Tensor, geometry: Geometry) -> Result<Tensor> {
    let (b, c, h, w) = x.dims4()?;
    let (out_channels, taps) = weight.dims2()?;
    let (height, width) = (geometry.output(h), geometry.output(w));
    let per_image = bias.dim(0)? == b && b > 1;
    let bias = bias.flatten_all()?.to_vec1::<f32>()?;
    let mut out = vec![0f32; b * out_channels * height * width];
    let rows_at_once = (UNFOLDED_AT_ONCE / (taps * width).max(1)).clamp(1, (b * height).max(1));
    read(x, |numbers| {
        for first in (0..b * height).step_by(rows_at_once) {
            let rows = first..(first + rows_at_once).min(b * height);
            let n = rows.len() * width;
            let unfolded = unfold(numbers, (c, h, w), (height, width), geometry, rows.clone());
            let product = weight.matmul(&Tensor::from_vec(unfolded, (taps, n), x.device())?)?;
            read(&product, |product| {
                out.par_chunks_mut(height * width).enumerate().for_each(|(plane, out)| {
                    let (image, channel) = (plane / out_channels, plane % out_channels);
                    let here = rows.start.max(image * height)..rows.end.min((image + 1) * height);
                    if here.is_empty() {
                        return;
                    }
                    let add = bias.get(if per_image { plane } else { channel }).copied().unwrap_or_default();
                    let from = &product[channel * n + (here.start - rows.start) * width..][..here.len() * width];
                    let to = &mut out[(here.start - image * height) * width..][..here.len() * width];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = from + add);
                });
                Ok(())
            })?;
        }
        Ok(())
    })?;
    Tensor::from_vec(out, (b, out_channels, height, width), x.device())
}

/// The inputs that each tap of the kernel meets: [c kernel kernel, rows width], where row `image * height + y` is one row
/// of output.
fn unfold(
    x: &[f32],
    (c, h, w): (usize, usize, usize),
    (height, width): (usize, usize),
    geometry: Geometry,
    rows: std::ops::Range<usize>,
) -> Vec<f32> {
    let Geometry { kernel, stride, padding } = geometry;
    let n = rows.len() * width;
    let mut out = vec![0f32; c * kernel * kernel * n];
    out.par_chunks_mut(n).enumerate().for_each(|(tap, out)| {
        let (channel, ky, kx) = (tap / (kernel * kernel), tap / kernel % kernel, tap % kernel);
        // Output columns whose input lies inside the picture.
        let first = padding.saturating_sub(kx).div_ceil(stride);
        let end = (w + padding).saturating_sub(kx).div_ceil(stride).min(width);
        for (row, out) in rows.clone().zip(out.chunks_mut(width)) {
            let (image, y) = (row / height, row % height * stride + ky);
            if y < padding || y - padding >= h || first >= end {
                continue;
            }
            let line = &x[((image * c + channel) * h + y - padding) * w..][..w];
            let line = &line[first * stride + kx - padding..];
            if stride == 1 {
                out[first..end].copy_from_slice(&line[..end - first]);
            } else {
                out[first..end].iter_mut().zip(line.iter().step_by(stride)).for_each(|(out, &x)| *out = x);
            }
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Module};
    use candle_nn::{Conv2d, Conv2dConfig, GroupNorm};
    use proptest::prelude::*;

    use super::*;

    fn numbers(shape: &[usize], seed: u32) -> Tensor {
        let n: usize = shape.iter().product();
        let hash = |i: u32| (i.wrapping_add(seed << 20).wrapping_mul(2_654_435_761) ^ seed).wrapping_mul(2_246_822_519) >> 8;
        let values = (0..n as u32).map(|i| f64::from(hash(i)) / f64::from(1u32 << 24) * 4.0 - 2.0);
        Tensor::from_iter(values.map(|x| x as f32), &Device::Cpu).unwrap().reshape(shape).unwrap()
    }

    fn close(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn exp_is_accurate_to_a_few_units_in_the_last_place() {
        for i in -87_000..=88_000 {
            let x = i as f32 / 1000.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "{x}");
        }
        assert!(exp(-1e30) < 2e-38 && exp(1e30).is_finite());
    }

    #[test]
    fn gelu_is_exact_to_fp32() {
        let x = numbers(&[1000], 1).affine(3.0, 0.0).unwrap();
        let exact = x.to_dtype(DType::F64).unwrap().gelu_erf().unwrap().to_dtype(DType::F32).unwrap();
        let values: Vec<f32> = x.to_vec1::<f32>().unwrap().into_iter().map(gelu).collect();
        assert!(close(&Tensor::new(values, &Device::Cpu).unwrap(), &exact) < 1e-6);
    }

    #[test]
    fn softmax_and_geglu_are_candles() {
        let x = numbers(&[3, 130, 70], 2).affine(8.0, 0.0).unwrap();
        assert!(close(&softmax(&x).unwrap(), &candle_nn::ops::softmax_last_dim(&x).unwrap()) < 1e-6);
        let (a, b) = (x.narrow(2, 0, 35).unwrap(), x.narrow(2, 35, 35).unwrap());
        assert!(close(&geglu(&x).unwrap(), &(a * b.gelu_erf().unwrap()).unwrap()) < 2e-4);
    }

    #[test]
    fn transpose_is_candles() {
        for shape in [[2, 64, 49], [1, 3, 200], [3, 17, 1]] {
            let x = numbers(&shape, 9);
            assert_eq!(close(&transpose(&x).unwrap(), &x.transpose(1, 2).unwrap().contiguous().unwrap()), 0.0);
        }
    }

    #[test]
    fn group_norm_is_candles() {
        let x = (numbers(&[3, 12, 5, 7], 3) + 1.5).unwrap();
        let (weight, bias) = (numbers(&[12], 4), numbers(&[12], 5));
        let plain = GroupNorm::new(weight.clone(), bias.clone(), 12, 4, 1e-5).unwrap().forward(&x).unwrap();
        assert!(close(&group_norm(&x, 4, &weight, &bias, 1e-5, false).unwrap(), &plain) < 1e-5);
        assert!(close(&group_norm(&x, 4, &weight, &bias, 1e-5, true).unwrap(), &plain.silu().unwrap()) < 1e-5);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn convolution_is_candles(
            b in 1usize..4, c in 1usize..5, o in 1usize..5, h in 3usize..9, w in 3usize..9,
            kernel in prop::sample::select(vec![1usize, 3]), stride in 1usize..3, padding in 0usize..2,
        ) {
            let x = numbers(&[b, c, h, w], 6);
            let (weight, bias) = (numbers(&[o, c, kernel, kernel], 7), numbers(&[o], 8));
            let config = Conv2dConfig { stride, padding, ..Default::default() };
            let expected = Conv2d::new(weight.clone(), Some(bias.clone()), config).forward(&x).unwrap();
            let flat = weight.reshape((o, ())).unwrap();
            let geometry = Geometry { kernel, stride, padding };
            let out = convolution(&x, &flat, &bias.unsqueeze(0).unwrap(), geometry).unwrap();
            prop_assert!(close(&out, &expected) < 1e-4);
        }
    }
}

//! Pillow's `ImageOps.fit` with Lanczos, to the bit: cropped to the wanted proportions, then resized.
//!
//! Pillow resamples rows, then columns, each with weights in fixed point of 22 bits and rounding to bytes in between.

use crate::images::Rgb8;

/// Bits of a weight after the point: 32 minus 8 of the pixel and 2 for sums above 1.
const PRECISION: u32 = 22;
/// Reach of the Lanczos filter, in pixels of the coarser side.
const LOBES: f64 = 3.0;

/// Fills `width` x `height` with the centre of the picture, without distortion.
pub fn fit(picture: &Rgb8, width: u32, height: u32) -> Rgb8 {
    let (from_width, from_height) = (f64::from(picture.width), f64::from(picture.height));
    let wanted = f64::from(width) / f64::from(height);
    let given = from_width / from_height;
    let (crop_width, crop_height) = if given == wanted {
        (from_width, from_height)
    } else if given >= wanted {
        (wanted * from_height, from_height)
    } else {
        (from_width, from_width / wanted)
    };
    let (left, top) = ((from_width - crop_width) * 0.5, (from_height - crop_height) * 0.5);
    let columns = weights(picture.width, left, left + crop_width, width);
    let rows = weights(picture.height, top, top + crop_height, height);
    let bytes = along_columns(&along_rows(&picture.bytes, picture.width as usize, &columns), width as usize, &rows);
    Rgb8 { width, height, bytes }
}

/// The source pixels of one output pixel, and their fixed-point weights.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

fn lanczos(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) };
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

/// Weights for `out` pixels over the span `from..to` of `size` pixels.
fn weights(size: u32, from: f64, to: f64, out: u32) -> Vec<Taps> {
    let scale = (to - from) / f64::from(out);
    let stretch = scale.max(1.0);
    let reach = LOBES * stretch;
    let taps = |i: u32| {
        let centre = from + (f64::from(i) + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5).max(0.0) as usize).min(size as usize);
        let raw: Vec<f64> = (first..end).map(|x| lanczos((x as f64 - centre + 0.5) / stretch)).collect();
        let total: f64 = raw.iter().sum();
        let fixed = |w: &f64| (w / total * f64::from(1u32 << PRECISION)).round() as i32;
        Taps { first, weights: raw.iter().map(fixed).collect() }
    };
    (0..out).map(taps).collect()
}

/// The weighted sum of bytes `at(x)`, rounded and clipped.
fn mix(taps: &Taps, at: impl Fn(usize) -> u8) -> u8 {
    let half = 1i64 << (PRECISION - 1);
    let sum: i64 = taps.weights.iter().zip(taps.first..).map(|(&w, x)| i64::from(w) * i64::from(at(x))).sum();
    ((sum + half) >> PRECISION).clamp(0, 255) as u8
}

/// Resamples the rows of a picture of `width` pixels.
fn along_rows(rgb: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rgb.len() / width.max(1) * taps.len());
    for row in rgb.chunks_exact(3 * width.max(1)) {
        for taps in taps {
            out.extend((0..3).map(|c| mix(taps, |x| row.get(3 * x + c).copied().unwrap_or_default())));
        }
    }
    out
}

/// Resamples the columns of a picture of `width` pixels.
fn along_columns(rgb: &[u8], width: usize, taps: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 * width * taps.len());
    for taps in taps {
        out.extend((0..3 * width).map(|i| mix(taps, |y| rgb.get(3 * width * y + i).copied().unwrap_or_default())));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(width: u32, height: u32) -> Rgb8 {
        Rgb8 { width, height, bytes: (0..width * height * 3).map(|i| (i * 7 % 251) as u8).collect() }
    }

    #[test]
    fn the_same_size_changes_nothing() {
        let picture = picture(13, 7);
        assert_eq!(fit(&picture, 13, 7), picture);
    }

    #[test]
    fn one_colour_stays_that_colour() {
        let grey = Rgb8 { width: 50, height: 31, bytes: vec![77; 50 * 31 * 3] };
        for (width, height) in [(64u32, 64u32), (10, 20), (1, 1)] {
            let bytes = vec![77; (width * height * 3) as usize];
            assert_eq!(fit(&grey, width, height), Rgb8 { width, height, bytes });
        }
    }

    #[test]
    fn a_wide_picture_loses_its_sides() {
        let mut wide = Rgb8 { width: 30, height: 10, bytes: vec![0; 900] };
        for row in wide.bytes.chunks_mut(90) {
            row[15..75].fill(255);
        }
        assert_eq!(fit(&wide, 10, 10).bytes, vec![255; 300]);
    }
}

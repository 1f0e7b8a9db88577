//! From a picture to what it shows.

use super::mask::{Bounds, only_object};
use super::{Gradient, Kind, Mask, Named, Scene, World};
use anyhow::ensure;
use ip2p_worker::images::Rgb8;

type Rgb = [f64; 3];

/// Pixels whose mean contrast is the object's.
const PEAK_PIXELS: usize = 60;
/// Pixels of at least this share of the object's contrast show its colour unmixed.
const UNMIXED: f64 = 0.8;
/// Rows at the top and at the bottom that show the background alone.
const EDGE_ROWS: usize = 2;

/// What is seen in a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading<'w> {
    /// Only what could be recognised.
    pub scene: Scene<'w>,
    /// The object; empty when there is none.
    pub mask: Mask,
}

/// The pixels of a picture beside its background.
struct Contrast {
    pixels: Vec<Rgb>,
    /// RGB distance of each pixel to the background of its row.
    distance: Vec<f64>,
    /// The object's distance: the mean of the largest ones.
    peak: f64,
}

impl World {
    /// Reads a picture of the world's size.
    ///
    /// 1. Top and bottom are the median colours, by channel, of the first and last two rows; the background lies on the
    ///    straight line between them. Its name is that of the gradient with the least mean distance.
    /// 2. Contrast is a pixel's RGB distance to the background of its row; there is an object if the 60 largest have a
    ///    mean of at least `peak_min`.
    /// 3. The object is the largest connected part with more than half of that contrast, if no other is a quarter of it.
    ///    What fills more than half of the picture is no object: without this rule, which is the oracle's own, noise is often
    ///    read as a square (the largest object of the world fills a fifth).
    /// 4. Its colour is the median of its pixels with more than 0.8 of the contrast: the nearest of the palette.
    /// 5. Its shape is the one that best fills its bounding box, by intersection over union.
    /// 6. Its size follows from the radius that the shape needs for the object's area.
    /// 7. Its position is the offset nearest to the shape's centre, from bounding box and radius.
    ///
    /// What lies beyond its limit in `world.json` is not recognised.
    pub fn read(&self, picture: &Rgb8) -> anyhow::Result<Reading<'_>> {
        let (side, Rgb8 { width, height, bytes }) = (self.side, picture);
        let fits = *width as usize == side && *height as usize == side && bytes.len() == 3 * side * side;
        ensure!(fits, "a picture of {width}x{height}: the pictures of this world have {side}x{side} pixels");
        let pixels: Vec<Rgb> = bytes.chunks_exact(3).map(|p| [f64::from(p[0]), f64::from(p[1]), f64::from(p[2])]).collect();
        let edge = EDGE_ROWS * side;
        let background = Gradient { top: median(&pixels[..edge]), bottom: median(&pixels[pixels.len() - edge..]) };
        let contrast = Contrast::new(pixels, &background, side);
        let mut scene = Scene::new();
        let near = |look: &Gradient| (distance(&background.top, &look.top) + distance(&background.bottom, &look.bottom)) / 2.0;
        note(&mut scene, Kind::Background, nearest(&self.backgrounds, self.limits.background_max, near));
        let mask = match self.object(&contrast) {
            Some((mask, bounds)) => {
                self.describe(&contrast, &mask, &bounds, &mut scene);
                mask
            }
            None => Mask::empty(side),
        };
        Ok(Reading { scene, mask })
    }

    fn object(&self, contrast: &Contrast) -> Option<(Mask, Bounds)> {
        if contrast.peak < self.limits.peak_min {
            return None;
        }
        let inside = contrast.distance.iter().map(|distance| *distance > contrast.peak / 2.0).collect();
        let mask = only_object(inside, self.side, self.limits.area_min).filter(|mask| 2 * mask.area() <= contrast.pixels.len())?;
        let bounds = mask.bounds()?;
        Some((mask, bounds))
    }

    fn describe<'w>(&'w self, contrast: &Contrast, mask: &Mask, bounds: &Bounds, scene: &mut Scene<'w>) {
        let limits = &self.limits;
        let unmixed = contrast.within(mask);
        if !unmixed.is_empty() {
            let rgb = median(&unmixed);
            note(scene, Kind::Colour, nearest(&self.colours, limits.colour_max, |look| distance(&rgb, &look.rgb)));
        }
        let (width, height) = (bounds.right - bounds.left, bounds.bottom - bounds.top);
        let fits = self.shapes.iter().map(|shape| (shape, mask.fit(bounds, &shape.look.filled(width, height))));
        // The first of equals, as in the original.
        let Some((shape, fit)) = fits.min_by(|a, b| b.1.total_cmp(&a.1)) else { return };
        let even = width.max(height) as f64 <= limits.aspect_max * width.min(height) as f64;
        note(scene, Kind::Shape, (fit >= limits.shape_min && even).then_some(shape.name.as_str()));
        let radius = (mask.area() as f64 / shape.look.area).sqrt();
        scene.insert(Kind::Size, if radius > limits.size_cut { "big" } else { "small" });
        let [left, top, right, bottom] = shape.look.bbox;
        let offset =
            |from: usize, to: usize, low: f64, high: f64| (from + to) as f64 / 2.0 - self.side as f64 / 2.0 - radius * (low + high) / 2.0;
        let (x, y) = (offset(bounds.left, bounds.right, left, right), offset(bounds.top, bounds.bottom, top, bottom));
        let near = |[ox, oy]: [f64; 2]| (x - ox).hypot(y - oy);
        note(scene, Kind::Position, nearest(&self.positions, limits.position_max, |look| near(look.offset)));
    }
}

impl Contrast {
    fn new(pixels: Vec<Rgb>, background: &Gradient, side: usize) -> Self {
        let last = (side - 1) as f64;
        let at_row =
            |y: usize, channel: usize| background.top[channel] + (background.bottom[channel] - background.top[channel]) * (y as f64 / last);
        let expected = |i: usize| [0, 1, 2].map(|channel| at_row(i / side, channel));
        let distances: Vec<f64> = pixels.iter().enumerate().map(|(i, rgb)| distance(rgb, &expected(i))).collect();
        let mut sorted = distances.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        sorted.truncate(PEAK_PIXELS);
        let peak = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Contrast { pixels, distance: distances, peak }
    }

    /// The pixels of the mask that show the object's colour unmixed.
    fn within(&self, mask: &Mask) -> Vec<Rgb> {
        let unmixed = |&i: &usize| mask.contains(i) && self.distance[i] > UNMIXED * self.peak;
        (0..self.pixels.len()).filter(unmixed).map(|i| self.pixels[i]).collect()
    }
}

fn note<'w>(scene: &mut Scene<'w>, kind: Kind, value: Option<&'w str>) {
    if let Some(value) = value {
        scene.insert(kind, value);
    }
}

/// The name of the first value at the least distance, unless that is more than `limit`.
fn nearest<T>(table: &[Named<T>], limit: f64, distance: impl Fn(&T) -> f64) -> Option<&str> {
    let near = table.iter().map(|value| (value, distance(&value.look))).min_by(|a, b| a.1.total_cmp(&b.1));
    near.filter(|(_, distance)| *distance <= limit).map(|(value, _)| value.name.as_str())
}

fn distance(a: &Rgb, b: &Rgb) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}

/// The median of each channel by itself: of an even number, the mean of the two in the middle. Needs a pixel.
fn median(pixels: &[Rgb]) -> Rgb {
    [0, 1, 2].map(|channel| {
        let mut values: Vec<f64> = pixels.iter().map(|rgb| rgb[channel]).collect();
        values.sort_by(f64::total_cmp);
        (values[(values.len() - 1) / 2] + values[values.len() / 2]) / 2.0
    })
}

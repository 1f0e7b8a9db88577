//! Which pixels of a square picture belong to the object.

/// One truth value a pixel, in rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    side: usize,
    pixels: Vec<bool>,
}

/// The smallest box around a mask: `left..right`, `top..bottom` in pixels.
pub(super) struct Bounds {
    pub left: usize,
    pub right: usize,
    pub top: usize,
    pub bottom: usize,
}

impl Mask {
    pub(super) fn empty(side: usize) -> Self {
        Mask { side, pixels: vec![false; side * side] }
    }

    fn of(side: usize, part: &[usize]) -> Self {
        let mut mask = Self::empty(side);
        part.iter().for_each(|&at| mask.pixels[at] = true);
        mask
    }

    pub(super) fn contains(&self, at: usize) -> bool {
        self.pixels[at]
    }

    /// Pixels in the mask.
    pub fn area(&self) -> usize {
        self.pixels.iter().filter(|inside| **inside).count()
    }

    /// Pixels in both masks as a share of the pixels in either; 0 when both are empty.
    pub fn overlap(&self, other: &Mask) -> f64 {
        share_of_union(&self.pixels, &other.pixels)
    }

    /// The box around the mask; `None` when it is empty.
    pub(super) fn bounds(&self) -> Option<Bounds> {
        let inside = || (0..self.pixels.len()).filter(|&at| self.pixels[at]);
        let (x, y) = (|at: usize| at % self.side, |at: usize| at / self.side);
        Some(Bounds {
            left: inside().map(x).min()?,
            right: inside().map(x).max()? + 1,
            top: inside().map(y).min()?,
            bottom: inside().map(y).max()? + 1,
        })
    }

    /// How well a template of the size of the box fits what is in the box.
    pub(super) fn fit(&self, bounds: &Bounds, template: &[bool]) -> f64 {
        let row = |y: usize| &self.pixels[y * self.side + bounds.left..y * self.side + bounds.right];
        let inside: Vec<bool> = (bounds.top..bounds.bottom).flat_map(row).copied().collect();
        share_of_union(&inside, template)
    }
}

fn share_of_union(a: &[bool], b: &[bool]) -> f64 {
    let both = a.iter().zip(b).filter(|(a, b)| **a && **b).count();
    let either = a.iter().zip(b).filter(|(a, b)| **a || **b).count();
    both as f64 / either.max(1) as f64
}

/// The largest part of `pixels` that hangs together by sides, if it is clearly an object: at least `least` pixels, and
/// no other part has more than a quarter as many.
pub(super) fn only_object(pixels: Vec<bool>, side: usize, least: usize) -> Option<Mask> {
    let mut parts = parts(pixels, side);
    parts.sort_by_key(|part| std::cmp::Reverse(part.len()));
    let largest = parts.first().filter(|part| part.len() >= least)?;
    let alone = parts.get(1).is_none_or(|second| 4 * second.len() <= largest.len());
    alone.then(|| Mask::of(side, largest))
}

/// The parts of `pixels` that hang together by sides, in the order of their first pixels.
fn parts(mut pixels: Vec<bool>, side: usize) -> Vec<Vec<usize>> {
    let mut parts = Vec::new();
    for start in 0..pixels.len() {
        if !std::mem::take(&mut pixels[start]) {
            continue;
        }
        // The part is its own list of pixels whose neighbours are still to be seen.
        let mut part = vec![start];
        let mut seen = 0;
        while let Some(&at) = part.get(seen) {
            part.extend(neighbours(at, side).filter(|&next| std::mem::take(&mut pixels[next])));
            seen += 1;
        }
        parts.push(part);
    }
    parts
}

fn neighbours(at: usize, side: usize) -> impl Iterator<Item = usize> {
    let (x, y) = (at % side, at / side);
    let above = (y > 0).then(|| at - side);
    let below = (y + 1 < side).then_some(at + side);
    let left = (x > 0).then(|| at - 1);
    let right = (x + 1 < side).then_some(at + 1);
    [above, below, left, right].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(rows: &[&str]) -> Vec<bool> {
        rows.iter().flat_map(|row| row.chars().map(|c| c == '#')).collect()
    }

    #[test]
    fn corners_do_not_connect() {
        let pixels = mask(&["##..", "##..", "..#.", "...."]);
        assert_eq!(parts(pixels.clone(), 4).iter().map(Vec::len).collect::<Vec<_>>(), [4, 1]);
        assert_eq!(only_object(pixels, 4, 4).unwrap(), Mask::of(4, &[0, 1, 4, 5]));
    }

    #[test]
    fn an_object_is_large_and_alone() {
        assert_eq!(only_object(mask(&["##..", "##..", "....", "...."]), 4, 5), None);
        assert_eq!(only_object(mask(&["##..", "##..", "...#", "...#"]), 4, 1), None);
        assert_eq!(only_object(vec![false; 16], 4, 0), None);
    }

    #[test]
    fn overlap_is_intersection_over_union() {
        let (a, b) = (Mask::of(4, &[0, 1, 2]), Mask::of(4, &[1, 2, 3]));
        assert_eq!((a.overlap(&b), a.overlap(&a), Mask::empty(4).overlap(&Mask::empty(4))), (0.5, 1.0, 0.0));
    }
}

//! The five shapes as signed distances, with which the world draws them.

use anyhow::bail;

/// Points along each side of the grid on which the area of a shape is counted.
const AREA_GRID: usize = 400;

#[derive(Clone, Copy)]
enum Outline {
    Circle,
    Square,
    Triangle,
    Cross,
    Heart,
}

impl Outline {
    /// Distance to the outline, negative inside; (u, v) is right and down of the centre, all in units of the radius.
    ///
    /// The formulas are those of `distance` in `models/tiny/train/world.py`.
    fn distance(self, u: f64, v: f64) -> f64 {
        let (a, b) = (u.abs(), v.abs());
        match self {
            Outline::Circle => u.hypot(v) - 0.95,
            Outline::Square => a.max(b) - 0.84,
            // Corners (0, -1), (-1, 0.8), (1, 0.8).
            Outline::Triangle => ((1.8 * a - (v + 1.0)) / (1.0f64 + 1.8 * 1.8).sqrt()).max(v - 0.8),
            Outline::Cross => (a - 0.34).max(b - 1.0).min((a - 1.0).max(b - 0.34)),
            // Two discs and the convex piece below them.
            Outline::Heart => {
                let disc = (a - 0.45).hypot(v + 0.35) - 0.5;
                let slope = 0.761 * a + 0.648 * (v - 0.95);
                let side = 0.649 * (a - 0.45) - 0.761 * (v + 0.35);
                disc.min(slope.max(side).max(-(v + 0.35)))
            }
        }
    }
}

/// A shape of radius 1.
pub(super) struct Template {
    outline: Outline,
    /// The box around it: [left, top, right, bottom].
    pub bbox: [f64; 4],
    pub area: f64,
}

impl Template {
    pub fn new(name: &str, bbox: [f64; 4]) -> anyhow::Result<Self> {
        let outline = match name {
            "circle" => Outline::Circle,
            "square" => Outline::Square,
            "triangle" => Outline::Triangle,
            "cross" => Outline::Cross,
            "heart" => Outline::Heart,
            _ => bail!("shapes: the oracle does not know `{name}`"),
        };
        let mut template = Template { outline, bbox, area: 0.0 };
        let [left, top, right, bottom] = bbox;
        let filled = template.filled(AREA_GRID, AREA_GRID).into_iter().filter(|inside| *inside).count();
        template.area = filled as f64 / (AREA_GRID * AREA_GRID) as f64 * (right - left) * (bottom - top);
        Ok(template)
    }

    /// The shape fitted into a box of `width` x `height` pixels, in rows: true for the pixels whose centre is inside.
    pub fn filled(&self, width: usize, height: usize) -> Vec<bool> {
        let [left, top, right, bottom] = self.bbox;
        let along = |from: f64, to: f64, i: usize, n: usize| from + (to - from) * (i as f64 + 0.5) / n as f64;
        let row = |y: usize| {
            let v = along(top, bottom, y, height);
            (0..width).map(move |x| self.outline.distance(along(left, right, x, width), v) < 0.0)
        };
        (0..height).flat_map(row).collect()
    }
}

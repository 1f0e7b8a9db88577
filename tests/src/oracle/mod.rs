//! The oracle of the tiny models' world: reads from the pixels what a picture shows, and from the words what a
//! caption says, without any network.
//!
//! It follows `models/tiny/train/world.py`, which drew the pictures that the models were trained on, rule by rule;
//! the constants of both are in `models/tiny/world.json`.
//!
//! | module | |
//! |---|---|
//! | `outline` | the five shapes as signed distances |
//! | `mask` | which pixels belong to the object |
//! | `picture` | a picture -> what it shows |
//! | `caption` | a caption -> what it says; whether an edit is right |
//! | `measure` | the figures of the model card, and their table |

mod caption;
mod mask;
mod measure;
mod outline;
mod picture;
#[cfg(test)]
mod tests;

pub use mask::Mask;
pub use measure::{Drawn, Quality, Share};
pub use picture::Reading;

use anyhow::{Context, ensure};
use outline::Template;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::Path;

/// What can be said about a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Colour,
    Shape,
    Size,
    Position,
    Background,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Colour, Kind::Shape, Kind::Size, Kind::Position, Kind::Background];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Colour => "colour",
            Kind::Shape => "shape",
            Kind::Size => "size",
            Kind::Position => "position",
            Kind::Background => "background",
        }
    }
}

/// The value of each kind that is seen or said, by its name in `world.json`; the others are absent.
pub type Scene<'w> = BTreeMap<Kind, &'w str>;

/// Everything that can be drawn, and how it is recognised.
pub struct World {
    /// Side of the square pictures in pixels.
    side: usize,
    shapes: Vec<Named<Template>>,
    colours: Table<Palette>,
    positions: Table<Place>,
    backgrounds: Table<Gradient>,
    limits: Limits,
    /// Every phrase of every value, longest first.
    phrases: Vec<Phrase>,
}

/// Values of one kind in the order of the file, which decides between equals.
type Table<T> = Vec<Named<T>>;

struct Named<T> {
    name: String,
    look: T,
}

#[derive(Deserialize)]
struct Palette {
    rgb: [f64; 3],
}

/// Centre of the object in pixels, right and down of the picture's centre.
#[derive(Deserialize)]
struct Place {
    offset: [f64; 2],
}

/// Colours of the first and the last row; those between lie on a straight line.
#[derive(Deserialize)]
struct Gradient {
    top: [f64; 3],
    bottom: [f64; 3],
}

struct Phrase {
    words: String,
    kind: Kind,
    value: String,
}

/// Where recognition ends; see [`World::read`].
#[derive(Deserialize)]
struct Limits {
    background_max: f64,
    peak_min: f64,
    area_min: usize,
    colour_max: f64,
    shape_min: f64,
    aspect_max: f64,
    size_cut: f64,
    position_max: f64,
}

/// `world.json`, as far as the oracle needs it.
#[derive(Deserialize)]
struct File {
    format: u32,
    image_size: usize,
    #[serde(deserialize_with = "in_order")]
    shapes: Vec<(String, Entry<Extent>)>,
    #[serde(deserialize_with = "in_order")]
    colours: Vec<(String, Entry<Palette>)>,
    #[serde(deserialize_with = "in_order")]
    sizes: Vec<(String, Entry<Radius>)>,
    #[serde(deserialize_with = "in_order")]
    positions: Vec<(String, Entry<Place>)>,
    #[serde(deserialize_with = "in_order")]
    backgrounds: Vec<(String, Entry<Gradient>)>,
    oracle: Limits,
}

#[derive(Deserialize)]
struct Entry<T> {
    words: Vec<String>,
    #[serde(flatten)]
    look: T,
}

/// The box [left, top, right, bottom] around a shape of radius 1.
#[derive(Deserialize)]
struct Extent {
    bbox: [f64; 4],
}

/// Sizes are told apart by [`Limits::size_cut`], so their radius is not needed.
#[derive(Deserialize)]
struct Radius {}

/// A JSON object as a list, in its order.
fn in_order<'de, D: Deserializer<'de>, T: DeserializeOwned>(input: D) -> Result<Vec<(String, T)>, D::Error> {
    let map = serde_json::Map::deserialize(input)?;
    map.into_iter().map(|(name, value)| Ok((name, serde_json::from_value(value).map_err(D::Error::custom)?))).collect()
}

impl World {
    /// Reads `world.json`.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let read = || Self::parse_file(&std::fs::read_to_string(path)?);
        read().with_context(|| format!("{}: it should be models/tiny/world.json", path.display()))
    }

    fn parse_file(text: &str) -> anyhow::Result<Self> {
        let file: File = serde_json::from_str(text)?;
        ensure!(file.format == 1, "format {}, expected 1", file.format);
        ensure!((8..=1024).contains(&file.image_size), "image_size {}, expected 8..=1024", file.image_size);
        let mut phrases = Vec::new();
        let shapes = take(file.shapes, Kind::Shape, &mut phrases);
        let templates = shapes.into_iter().map(|Named { name, look }| {
            let look = Template::new(&name, look.bbox)?;
            Ok(Named { name, look })
        });
        take(file.sizes, Kind::Size, &mut phrases);
        let mut world = World {
            side: file.image_size,
            shapes: templates.collect::<anyhow::Result<_>>()?,
            colours: take(file.colours, Kind::Colour, &mut phrases),
            positions: take(file.positions, Kind::Position, &mut phrases),
            backgrounds: take(file.backgrounds, Kind::Background, &mut phrases),
            limits: file.oracle,
            phrases,
        };
        // Stable, so that phrases of one length stay in the order of kinds.
        world.phrases.sort_by_key(|phrase| (std::cmp::Reverse(phrase.words.len()), phrase.kind));
        Ok(world)
    }
}

/// A table of the file; its phrases go to `phrases`.
fn take<T>(entries: Vec<(String, Entry<T>)>, kind: Kind, phrases: &mut Vec<Phrase>) -> Table<T> {
    let one = |(name, Entry { words, look }): (String, Entry<T>)| {
        phrases.extend(words.into_iter().map(|words| Phrase { words, kind, value: name.clone() }));
        Named { name, look }
    };
    entries.into_iter().map(one).collect()
}

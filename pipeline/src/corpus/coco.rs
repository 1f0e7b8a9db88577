//! COCO captions: one JSON object with `images` and `annotations`, read element by element.

use super::columns::Columns;
use super::format::{after, broken};
use super::intake::Intake;
use super::jsonl::Picker;
use super::meter::Meter;
use super::object::{Object, Scalar};
use super::row::{Cell, Field, MAX_TEXT};
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashMap;
use std::fmt;
use std::io::{BufReader, Read};

/// Names of an image's address, the best first.
const IMAGE_URL: [&str; 3] = ["coco_url", "flickr_url", "url"];

/// Reads the annotations. Those that come after `images`, as in COCO's own files, get the url of their image;
/// memory holds the urls of the images.
pub(crate) fn read(input: impl Read, file: &str, columns: &Columns, intake: &mut Intake) -> Result<()> {
    let meter = Meter::new();
    let mut json = serde_json::Deserializer::from_reader(BufReader::new(meter.measure(input)));
    let mut walk = Walk { picker: Picker::new(columns), intake, meter, urls: HashMap::new(), annotations: None, end: None };
    let read = Root(&mut walk).deserialize(&mut json).and_then(|()| json.end());
    match (read, walk.end.take()) {
        (_, Some(End::Failed(error))) => return Err(error),
        (_, Some(End::Enough)) | (Ok(()), None) => {}
        (Err(e), None) => {
            let last = walk.annotations.filter(|n| *n > 0).map(|n| format!("annotation {n}"));
            return Err(broken(after(file, last), format!("not valid COCO JSON: {e}")));
        }
    }
    if walk.annotations.is_none() {
        return Err(broken(file, "it is a JSON object without `annotations`, so it is not COCO"));
    }
    let Walk { picker, intake, .. } = walk;
    picker.finish(file, intake)
}

/// Why reading ended before the text did.
enum End {
    Enough,
    Failed(Error),
}

struct Walk<'a, 'b> {
    picker: Picker<'a>,
    intake: &'a mut Intake<'b>,
    meter: Meter,
    urls: HashMap<u64, String>,
    /// Annotations read, once there are any to read.
    annotations: Option<u64>,
    end: Option<End>,
}

impl Walk<'_, '_> {
    fn image(&mut self, image: Object) {
        let url = IMAGE_URL.iter().find_map(|name| match image.get(name) {
            Some(Scalar::Text(url)) if !url.is_empty() && url.len() <= MAX_TEXT => Some(url.clone()),
            _ => None,
        });
        if let (Some(id), Some(url)) = (image.number("id"), url) {
            self.urls.insert(id, url);
        }
    }

    /// `false` ends the reading.
    fn annotation(&mut self, annotation: Object) -> bool {
        let number = self.annotations.map_or(1, |n| n + 1);
        self.annotations = Some(number);
        let image = annotation.number("image_id");
        let mut row = self.picker.pick(annotation);
        if let (Cell::Missing, Some(url)) = (&row[Field::Url], image.and_then(|id| self.urls.get(&id))) {
            row[Field::Url] = Cell::Text(url.clone());
        }
        self.end = match self.intake.row(number, row) {
            Ok(flow) if flow.is_continue() => return true,
            Ok(_) => Some(End::Enough),
            Err(error) => Some(End::Failed(error)),
        };
        false
    }
}

struct Root<'w, 'a, 'b>(&'w mut Walk<'a, 'b>);

impl<'de> DeserializeSeed<'de> for Root<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Root<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with `images` and `annotations`")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "images" => map.next_value_seed(Elements { walk: self.0, part: Part::Images })?,
                "annotations" => map.next_value_seed(Elements { walk: self.0, part: Part::Annotations })?,
                _ => {
                    self.0.meter.allow_all();
                    map.next_value::<IgnoredAny>()?;
                    self.0.meter.allow_row();
                }
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Part {
    Images,
    Annotations,
}

struct Elements<'w, 'a, 'b> {
    walk: &'w mut Walk<'a, 'b>,
    part: Part,
}

impl<'de> DeserializeSeed<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<(), S::Error> {
        let Elements { walk, part } = self;
        if let Part::Annotations = part {
            walk.annotations.get_or_insert(0);
        }
        while let Some(object) = list.next_element()? {
            walk.meter.allow_row();
            match part {
                Part::Images => walk.image(object),
                Part::Annotations if walk.annotation(object) => {}
                Part::Annotations => return Err(S::Error::custom("the reader has enough")),
            }
        }
        Ok(())
    }
}

//! One JSON object of a row, as much of it as a row can need: texts and numbers at its top.
//!
//! A row of 16 MiB of brackets takes a gigabyte as a tree of values; here what is nested is passed over.

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// Most keys of a row.
const MAX_KEYS: usize = 1_000;

/// The keys in the order of their first appearance; of a key that is given twice, the last value.
#[derive(Debug, Default)]
pub(crate) struct Object(pub Vec<(String, Scalar)>);

#[derive(Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Text(String),
    Number(u64),
    /// Anything else.
    Other,
}

impl Object {
    pub(crate) fn get(&self, key: &str) -> Option<&Scalar> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// A whole number of 0 or more under `key`.
    pub(crate) fn number(&self, key: &str) -> Option<u64> {
        match self.get(key) {
            Some(Scalar::Number(n)) => Some(*n),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object, M::Error> {
        let mut object = Object::default();
        while let Some(key) = map.next_key::<String>()? {
            let value = map.next_value()?;
            match object.0.iter().position(|(name, _)| *name == key) {
                Some(at) => object.0[at].1 = value,
                None if object.0.len() == MAX_KEYS => return Err(M::Error::custom(format!("more than {MAX_KEYS} keys"))),
                None => object.0.push((key, value)),
            }
        }
        Ok(object)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        json.deserialize_any(OneValue)
    }
}

struct OneValue;

impl<'de> Visitor<'de> for OneValue {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_u64<E>(self, n: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(n))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        Ok(Scalar::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_string()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Scalar, S::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Scalar, M::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_numbers_are_kept_and_the_rest_passed_over() {
        let text =
            r#"{"caption": "a\u00e9", "id": 7, "n": -1, "x": [[1], {"y": 2}], "z": {"a": "b"}, "url": null, "id": 8, "b": true, "f": 1.5}"#;
        let object: Object = serde_json::from_str(text).unwrap();
        let names: Vec<&str> = object.0.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["caption", "id", "n", "x", "z", "url", "b", "f"]);
        assert_eq!(object.get("caption"), Some(&Scalar::Text("aé".to_string())));
        assert_eq!((object.number("id"), object.number("n"), object.get("url")), (Some(8), None, Some(&Scalar::Null)));
        assert_eq!(object.get("z"), Some(&Scalar::Other));
    }

    #[test]
    fn a_row_of_very_many_keys_is_refused() {
        let keys: Vec<String> = (0..=MAX_KEYS).map(|n| format!("\"{n}\":0")).collect();
        let problem = serde_json::from_str::<Object>(&format!("{{{}}}", keys.join(","))).unwrap_err().to_string();
        assert!(problem.contains("more than 1000 keys"), "{problem}");
    }
}

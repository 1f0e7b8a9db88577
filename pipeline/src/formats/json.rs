//! JSON as Python's `json.dumps` writes it: the released data sets' exact form.
//!
//! `", "` and `": "` between elements, ASCII only, and floats that always show a decimal point: Hugging Face
//! `datasets` infers a column's type from its first rows, and an integer there would cut later floats.

use crate::error::{Error, Result};
use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use std::io::{self, Write};

/// `value` on one line, without a line feed at the end.
pub fn to_string(value: &impl Serialize) -> Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Python)).map_err(|e| Error::format("JSON", e))?;
    String::from_utf8(out).map_err(|e| Error::format("JSON", e))
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        separate(out, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        separate(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, value: f64) -> io::Result<()> {
        out.write_all(float(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        for c in fragment.chars() {
            match c {
                // DEL is ASCII and stays as it is, in Python too.
                '\0'..='\x7f' => out.write_all(&[c as u8])?,
                _ => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        serde_json::ser::CompactFormatter.write_char_escape(out, escape)
    }
}

fn separate<W: ?Sized + Write>(out: &mut W, first: bool) -> io::Result<()> {
    if first { Ok(()) } else { out.write_all(b", ") }
}

/// The shortest digits that read back as `value`, in Python's form (`1.0`, `1e+16`, `1e-05`) but with a decimal
/// point also before an exponent. Rust's `Debug` changes to exponents at the same limits as Python's `repr`.
fn float(value: f64) -> String {
    let digits = format!("{value:?}");
    let Some((mantissa, exponent)) = digits.split_once('e') else { return digits };
    let point = if mantissa.contains('.') { "" } else { ".0" };
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |positive| ('-', positive));
    format!("{mantissa}{point}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn as_python_writes_it() {
        let value = json!({"a": [1, 2.0, 0.0001], "b": "x\"y\n", "c": null, "d": "né 😀\u{7f}"});
        // The output of json.dumps in CPython 3.13.
        assert_eq!(
            to_string(&value).unwrap(),
            r#"{"a": [1, 2.0, 0.0001], "b": "x\"y\n", "c": null, "d": "n\u00e9 \ud83d\ude00"#.to_string() + "\u{7f}\"}"
        );
    }

    #[test]
    fn floats_have_a_point() {
        let found = [1.0, -0.0, 1e-5, 2.5e-7, 1e16, 1.5e300].map(float);
        assert_eq!(found, ["1.0", "-0.0", "1.0e-05", "2.5e-07", "1.0e+16", "1.5e+300"]);
    }

    proptest! {
        #[test]
        fn values_read_back(x in any::<f64>().prop_filter("finite", |x| x.is_finite()), text in any::<String>()) {
            let value = json!([x, text]);
            let written = to_string(&value).unwrap();
            prop_assert!(written.is_ascii());
            let (number, _) = written[1..].split_once(", ").unwrap();
            // Not by serde_json, whose fast parser can be off by one bit.
            prop_assert_eq!(number.parse::<f64>().unwrap().to_bits(), x.to_bits());
            let read: Value = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(&read[1], &value[1]);
        }
    }
}

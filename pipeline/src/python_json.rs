//! JSON exactly as Python's `json.dumps` writes it with its defaults: `", "` and `": "` between items,
//! and every character outside printable ASCII as `\uXXXX`. One difference: a float shows a decimal point also
//! before an exponent (`1.0e-05`).
//!
//! The original's prompt, metadata and fine-tuning files are such lines; readers compare them byte for byte.

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// One value on one line, without a newline at the end.
///
/// # Errors
/// Only when `value` itself refuses to be serialised (a map whose keys are not strings).
pub fn to_string<T: Serialize + ?Sized>(value: &T) -> serde_json::Result<String> {
    let mut out = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut out, Python))?;
    // The formatter emits ASCII only, so the lossy conversion loses nothing.
    Ok(String::from_utf8_lossy(&out).into_owned())
}

struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(float(value).as_bytes())
    }

    /// serde_json hands over the runs between the characters that it escapes itself.
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        fragment.chars().try_for_each(|c| match c {
            ' '..='~' => writer.write_all(&[c as u8]),
            _ => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(writer, "\\u{unit:04x}")),
        })
    }
}

fn separate<W: ?Sized + Write>(writer: &mut W, first: bool) -> io::Result<()> {
    if first { Ok(()) } else { writer.write_all(b", ") }
}

/// The shortest digits that read back as `value`. Rust's `Debug` changes to exponents at the same limits as Python's
/// `repr`. The point is for readers that infer types: an integer in the first rows would cut later floats.
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

    /// Expected texts are the output of CPython 3.11.
    #[test]
    fn as_python_writes_it() {
        let cases = [
            (json!({"a": 1, "b": [true, null, "x"]}), r#"{"a": 1, "b": [true, null, "x"]}"#),
            (json!({}), "{}"),
            (json!([]), "[]"),
            (json!("é\u{7f}\u{1f}\u{8}\u{c}\n\r\t\"\\/"), r#""\u00e9\u007f\u001f\b\f\n\r\t\"\\/""#),
            (json!("日本 🐶\u{2028}"), r#""\u65e5\u672c \ud83d\udc36\u2028""#),
        ];
        for (value, expected) in cases {
            assert_eq!(to_string(&value).unwrap(), expected);
        }
    }

    #[test]
    fn floats_have_a_point() {
        let found = [1.0, -0.0, 0.0001, 1e-5, 2.5e-7, 1e16, 1.5e300].map(float);
        assert_eq!(found, ["1.0", "-0.0", "0.0001", "1.0e-05", "2.5e-07", "1.0e+16", "1.5e+300"]);
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

//! JSON exactly as Python's `json.dumps` writes it with its defaults: `", "` and `": "` between items,
//! and every character outside printable ASCII as `\uXXXX`.
//!
//! The original's prompt files and fine-tuning files are such lines; readers compare them byte for byte.

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
}

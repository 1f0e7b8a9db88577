//! HTML character references, decoded as the two originals do.
//!
//! Python's `html.unescape` follows browsers (no semicolon needed, longest known prefix); ftfy decodes only the
//! unambiguous form with a semicolon, and also knows names that were put in capitals, such as `&EACUTE;`.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Names as written, `&amp;` and for the older ones also `&amp`.
static NAMED: LazyLock<HashMap<&str, &str>> = LazyLock::new(|| entities::ENTITIES.iter().map(|e| (e.entity, e.characters)).collect());

/// Names with a semicolon, and the capital forms that mean nothing else.
static UNAMBIGUOUS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
    let exact = NAMED.iter().filter(|(name, _)| name.ends_with(';'));
    let mut table: HashMap<String, String> = exact.clone().map(|(name, text)| (name.to_string(), text.to_string())).collect();
    for (name, text) in exact.filter(|(name, _)| **name == name.to_lowercase()) {
        let capital = name.to_uppercase();
        if unescape(&capital) == capital {
            table.insert(capital, text.to_uppercase());
        }
    }
    table
});

/// Bytes 0x80 to 0x9F of Windows-1252; unassigned ones stay control characters.
pub(super) const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’', '“', '”', '•', '–',
    '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Decodes every character reference as Python's `html.unescape` does.
pub(super) fn unescape(text: &str) -> Cow<'_, str> {
    replace_references(text, |reference| {
        if let Some((decoded, length)) = numeric(reference) {
            return Some((Cow::Owned(decoded), length));
        }
        named(reference)
    })
}

/// Decodes references that end in a semicolon and cannot mean anything else, as ftfy does.
pub(super) fn unescape_unambiguous(text: &str) -> Cow<'_, str> {
    replace_references(text, |reference| {
        let end = reference.find(';')?;
        let body = reference.get(1..end)?;
        let name = body.strip_prefix('#').unwrap_or(body);
        if !(1..=24).contains(&name.len()) || !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return None;
        }
        if body.starts_with('#') {
            let (decoded, length) = numeric(reference)?;
            return (length == end + 1).then_some((Cow::Owned(decoded), length));
        }
        let decoded = UNAMBIGUOUS.get(&reference[..=end])?;
        Some((Cow::Borrowed(decoded.as_str()), end + 1))
    })
}

/// Calls `decode` at every `&`; it answers with the replacement and the number of bytes that it replaces.
fn replace_references<'a>(text: &'a str, decode: impl Fn(&'a str) -> Option<(Cow<'a, str>, usize)>) -> Cow<'a, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let (decoded, length) = decode(rest).unwrap_or((Cow::Borrowed("&"), 1));
        out.push_str(&decoded);
        rest = &rest[length..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// `&#123;` or `&#x7B;` at the start of `reference`, the semicolon being optional.
fn numeric(reference: &str) -> Option<(String, usize)> {
    let digits = reference.strip_prefix("&#")?;
    let (digits, radix, prefix) = match digits.strip_prefix(['x', 'X']) {
        Some(hexadecimal) => (hexadecimal, 16, 3),
        None => (digits, 10, 2),
    };
    let count = digits.bytes().take_while(|b| char::from(*b).is_digit(radix)).count();
    if count == 0 {
        return None;
    }
    let semicolon = usize::from(digits[count..].starts_with(';'));
    let number = u32::from_str_radix(&digits[..count], radix).unwrap_or(u32::MAX);
    Some((code_point(number), prefix + count + semicolon))
}

/// The HTML standard's corrections of code points that are not characters.
fn code_point(number: u32) -> String {
    match number {
        0 => '\u{FFFD}'.to_string(),
        0x80..=0x9F => WINDOWS_1252[number as usize - 0x80].to_string(),
        0x01..=0x08 | 0x0B | 0x0E..=0x1F | 0x7F | 0xFDD0..=0xFDEF => String::new(),
        _ if number <= 0x10_FFFF && number & 0xFFFE == 0xFFFE => String::new(),
        _ => char::from_u32(number).unwrap_or('\u{FFFD}').to_string(),
    }
}

/// `&name;`, `&name`, or the longest known beginning of `&name...`.
fn named(reference: &str) -> Option<(Cow<'_, str>, usize)> {
    let body = &reference[1..];
    let stop = |c: char| matches!(c, '\t' | '\n' | '\u{0C}' | ' ' | '<' | '&' | '#' | ';');
    let end = body.char_indices().enumerate().find(|(count, (_, c))| *count == 32 || stop(*c)).map_or(body.len(), |(_, (at, _))| at);
    let end = 1 + end + usize::from(body[end..].starts_with(';'));
    let whole = &reference[..end];
    // Shortest name in the standard: two letters after the ampersand.
    (3..=end).rev().filter_map(|length| reference.get(..length)).find_map(|name| {
        let decoded = *NAMED.get(name)?;
        let decoded = if name.len() == end { Cow::Borrowed(decoded) } else { Cow::Owned(format!("{decoded}{}", &whole[name.len()..])) };
        Some((decoded, end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair was checked with Python 3.11.
    #[test]
    fn decodes_as_python_does() {
        for (text, expected) in [
            ("tom &amp; jerry &lt;3", "tom & jerry <3"),
            ("&ampx &notit; &notin; a&b & &#; &;", "&x ¬it; ∉ a&b & &#; &;"),
            ("&#65;&#x42&#67 &#128; &#0; &#xD800; &#99999999999;", "ABC € \u{FFFD} \u{FFFD} \u{FFFD}"),
            ("&#1;&#xFFFF;&eacute&EACUTE;", "é&EACUTE;"),
            ("&é; &CounterClockwiseContourIntegral;", "&é; ∳"),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn unambiguous_form_needs_the_semicolon() {
        for (text, expected) in [
            ("&amp &amp; &EACUTE; &NTILDE; &hellip;", "&amp & É Ñ …"),
            ("&#65; &#65 &#65x; &nTILDE; &scedil;&SZLIG;", "A &#65 &#65x; &nTILDE; şSS"),
        ] {
            assert_eq!(unescape_unambiguous(text), expected, "{text}");
        }
    }
}

//! Cleaning of captions before tokenization, as the originals do it.
//!
//! Both run ftfy's `fix_text` first: character references, wrong encodings, Windows-1252 control codes, ligatures,
//! full-width forms, curly quotes, line breaks, terminal escapes, control characters, and composition (NFC).

use super::html::{self, WINDOWS_1252};
use super::mojibake;
use std::borrow::Cow;
use tokenizers::NormalizedString;

/// Which original's tokenizer is meant: they clean and pad differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's CLIP: character references are decoded twice more; padding is 0.
    OpenAi,
    /// The tokenizer of Stable Diffusion's text encoder: padding is the vocabulary's padding token.
    StableDiffusion,
}

/// The text that is split into tokens: repaired, in lower case, with single spaces.
pub(super) fn clean(text: &str, dialect: Dialect) -> String {
    let fixed = fix_text(text);
    let fixed = match dialect {
        Dialect::OpenAi => html::unescape(&html::unescape(&fixed)).into_owned(),
        Dialect::StableDiffusion => fixed,
    };
    fixed.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// ftfy's `fix_text`, line by line; after the first `<`, text is taken for markup and references stay.
fn fix_text(text: &str) -> String {
    let mut unescape = true;
    text.split_inclusive('\n')
        .map(|line| {
            unescape &= !line.contains('<');
            fix_line(line, unescape)
        })
        .collect()
}

/// Applies the repairs until nothing changes.
fn fix_line(line: &str, unescape: bool) -> String {
    let mut current = line.to_string();
    loop {
        let decoded = if unescape { html::unescape_unambiguous(&current) } else { Cow::Borrowed(current.as_str()) };
        let breaks = mojibake::fix_encoding(&decoded).replace("\r\n", "\n");
        let plain = without_terminal_escapes(&breaks);
        let next = nfc(&plain.chars().map(repair).collect::<String>());
        if next == current {
            return next;
        }
        current = next;
    }
}

/// What replaces one character.
fn repair(c: char) -> Cow<'static, str> {
    let known = match c {
        '\u{80}'..='\u{9F}' => return Cow::Owned(WINDOWS_1252[c as usize - 0x80].to_string()),
        '\u{FF01}'..='\u{FFEF}' => return Cow::Owned(nfkc(c)),
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "'n",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        '\u{3000}' => " ",
        '\u{2BC}' | '\u{2018}'..='\u{201B}' => "'",
        '\u{201C}'..='\u{201F}' => "\"",
        '\r' | '\u{2028}' | '\u{2029}' => "\n",
        '\0'..='\u{8}' | '\u{B}' | '\u{E}'..='\u{1F}' | '\u{7F}' => "",
        '\u{206A}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFC}' => "",
        _ => return Cow::Owned(c.to_string()),
    };
    Cow::Borrowed(known)
}

/// Removes colour codes such as `ESC [ 3 6 ; 4 4 m`.
fn without_terminal_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\u{1B}[") {
        out.push_str(&rest[..start]);
        let body = rest[start + 2..].trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = match body.chars().next() {
            Some(c) if c.is_ascii_alphabetic() => &body[1..],
            _ => {
                out.push('[');
                &rest[start + 2..]
            }
        };
    }
    out.push_str(rest);
    out
}

fn nfc(text: &str) -> String {
    let mut text = NormalizedString::from(text);
    text.nfc();
    text.get().to_string()
}

fn nfkc(c: char) -> String {
    let mut text = NormalizedString::from(c.to_string());
    text.nfkc();
    text.get().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair was checked with ftfy 6.3.1.
    #[test]
    fn repairs_as_ftfy_does() {
        for (text, expected) in [
            ("Broken text&hellip; it&#x2019;s ﬂubberiﬁc!", "Broken text… it's flubberific!"),
            ("ＬＯＵＤ　ＮＯＩＳＥＳ ﾊﾝｶｸ", "LOUD NOISES ハンカク"),
            ("a <b>tag</b> &amp; b", "a <b>tag</b> &amp; b"),
            ("a &amp; b\nthen <i>\nand &amp; c", "a & b\nthen <i>\nand &amp; c"),
            ("\u{1B}[36;44mblue\u{1B}[0m \u{1B}[x\u{7}", "blue "),
            ("ŉ \u{2BC}n e\u{301} \u{FEFF}x\r\ny\rz", "'n 'n é x\ny\nz"),
            ("&amp;amp;amp;lt;", "<"),
            ("", ""),
        ] {
            assert_eq!(fix_text(text), expected, "{text:?}");
        }
    }

    #[test]
    fn references_after_a_tag_are_decoded_by_clip_only() {
        let text = "A <b>bold</b>  tag &amp;amp; more";
        assert_eq!(clean(text, Dialect::OpenAi), "a <b>bold</b> tag & more");
        assert_eq!(clean(text, Dialect::StableDiffusion), "a <b>bold</b> tag &amp;amp; more");
    }
}

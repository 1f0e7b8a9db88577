//! Text that was decoded in a wrong encoding (`cafÃ©`), recognised and repaired as ftfy 6.3 does.
//!
//! The classes of characters and the suspicious sequences are those of ftfy's `badness.py` and `chardata.py`
//! (Robyn Speer, Apache-2.0). Not done: UTF-8 with surrogates (CESU-8), which it decodes too.

use super::code_pages::{self, CodePage};
use regex::{Regex, bytes};
use std::borrow::Cow;
use std::sync::LazyLock;

/// Classes of characters by the part that they play in damaged text.
#[rustfmt::skip]
const CLASSES: [(&str, &str); 14] = [
    ("{common}", "\u{a0}\u{ad}·´–—―…’"),
    ("{c1}", "\u{80}-\u{9f}"),
    ("{bad}", "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº"),
    ("{law}", "¶§"),
    ("{currency}", "¢£¥₧€"),
    ("{start}", "¡«¿©΄΅‘‚“„•‹\u{f8ff}"),
    ("{end}", "®»˝”›™"),
    ("{numeric}", "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№"),
    ("{kaomoji}", "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°"),
    ("{upper}", "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ"),
    ("{lower}", "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ"),
    ("{upper_common}", "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я"),
    ("{lower_common}", "α-ωάέήίΰа-џ"),
    ("{box}", "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓"),
];

/// Sequences that hardly occur in sound text.
const SUSPICIOUS: [&str; 35] = [
    r"[{c1}]",
    r"[{bad}{lower}{upper}{box}{start}{end}{currency}{numeric}{law}][{bad}]",
    r"[a-zA-Z][{lower_common}{upper_common}][{bad}]",
    r"[{bad}][{lower}{upper}{box}{start}{end}{currency}{numeric}{law}]",
    r"[{lower}{lower_common}{box}{end}{currency}{numeric}][{upper}]",
    r"[{box}{end}{currency}{numeric}][{lower}]",
    r"[{lower}{box}{end}][{currency}]",
    r"\s[{upper}][{currency}]",
    r"[{upper}{box}][{numeric}{law}]",
    r"[{lower}{upper}{box}{currency}{end}][{start}][{numeric}]",
    r"[{lower}{upper}{currency}{numeric}{box}{law}][{end}][{start}]",
    r"[{currency}{numeric}{box}][{start}]",
    r"[a-z][{upper}][{start}{currency}]",
    r"[{box}][{kaomoji}]",
    r"[{lower}{upper}{currency}{numeric}{start}{end}{law}][{box}]",
    r"[{box}][{end}]",
    r"[{lower}{upper}][{start}{end}]\w",
    // œ before anything but a plain letter; degree signs after capitals.
    r"[Œœ][^A-Za-z]",
    r"[{upper}]°",
    // Pairs that Windows-1252 makes of UTF-8.
    r"[ÂÃÎÐ][€œŠš¢£Ÿž\xa0\xad®©°·»{start}{end}–—´]",
    r"×[²³]",
    r"[ØÙ][{common}{currency}{bad}{numeric}{start}ŸŠ®°µ»][ØÙ][{common}{currency}{bad}{numeric}{start}ŸŠ®°µ»]",
    r"à[²µ¹¼½¾]",
    // Mac OS Roman.
    r"√[±∂†≠®™´≤≥¥µø]",
    r"≈[°¢]",
    r"‚Ä[ìîïòôúùû†°¢π]",
    r"‚[âó][àä°ê]",
    // Windows-1251.
    r"вЂ|[ВГРС][{c1}{bad}{start}{end}{currency}°µ][ВГРС]",
    r"ГўВЂВ.[A-Za-z\x20]",
    // à, á and the no-break space.
    r"Ã[\xa0¡]",
    r"[a-z]\s?[ÃÂ]\x20",
    r"^[ÃÂ]\x20",
    r"[a-z.,?!{end}]Â[\x20{start}{end}]",
    // Windows-1253 and 1257.
    r"β€[™\xa0Ά\xad®°]|[ΒΓΞΟ][{c1}{bad}{start}{end}{currency}°][ΒΓΞΟ]",
    r"ā€",
];

/// What the bytes of UTF-8 look like in the code pages: first of two, three and four bytes, and those that follow.
const FIRST_OF_2: &str =
    "ĂÂÄĀÅÃÆĆČÇĎĐÉĚÊËĖÈĒĘÐĞĢÍÎÏİÌĪĶĹĻŁŃŇŅÑÓÔÖŐÒŌØÕŘŚŠŞŢÞÚÛÜŰÙŪŲŮÝŹŽŻß×ΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩΪΫάέήίВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ";
const FIRST_OF_3: &str = "áăâäàāąåãæćčçďéěêëėèēęęģíîïìīįķĺļŕźΰαβγδεζηθικλμνξοабвгдежзийклмноп";
const FIRST_OF_4: &str = "đðğóšπσру";
/// Without those that often stand beside sound text.
const FOLLOWING_STRICT: &str = "\u{80}-¿ĄÆĽŁØŖŚŠŞŤŸŹŽŻŒąæƒľłøŗśšşťźžżœˆˇ˘˛˜˝΄΅ΆΈΉΊΌΎΏЁЂЃЄЅІЇЈЉЊЋЌЎЏёђѓєѕіїјљњћќўџҐґ†‡‰‹›€№™";
const FOLLOWING_LOOSE: &str = "\u{20}–—―‘’‚“”„•…";

static BAD: LazyLock<Regex> = LazyLock::new(|| {
    let pattern = SUSPICIOUS.join("|");
    compile(&CLASSES.iter().fold(pattern, |pattern, (name, class)| pattern.replace(name, class)))
});

/// Characters in a row that look like UTF-8 read in a code page.
static DAMAGED: LazyLock<Regex> = LazyLock::new(|| {
    let following = format!("[{FOLLOWING_STRICT}{FOLLOWING_LOOSE}]");
    compile(&format!("(?:[{FIRST_OF_2}]{following}|[{FIRST_OF_3}]{following}{{2}}|[{FIRST_OF_4}]{following}{{3}})+"))
});

/// What must not stand before them.
static INSIDE: LazyLock<Regex> = LazyLock::new(|| compile(&format!("[{FOLLOWING_STRICT}]$")));

/// UTF-8 in which a no-break space became a space.
static ALTERED: LazyLock<bytes::Regex> = LazyLock::new(|| {
    compile_bytes(
        r"[\xC2\xC3\xC5\xCE\xD0\xD9]\x20|[\xE2\xE3]\x20[\x80-\x84\x86-\x9F\xA1-\xBF]|[\xE0-\xE3][\x80-\x84\x86-\x9F\xA1-\xBF]\x20|\xF0\x20[\x80-\xBF][\x80-\xBF]|\xF0[\x80-\xBF]\x20[\x80-\xBF]|\xF0[\x80-\xBF][\x80-\xBF]\x20",
    )
});

/// `Ã` before a space, which was the word `à`, unless a Portuguese word goes on.
static A_GRAVE: LazyLock<bytes::Regex> = LazyLock::new(|| compile_bytes(r"\xC3\x20(?:\x20|quele|quela|quilo|s\x20)?"));

/// UTF-8 that lost a byte.
static LOSSY: LazyLock<bytes::Regex> = LazyLock::new(|| {
    compile_bytes(
        r"[\xC2-\xDF]\x1A|[\xC2-\xC3]\?|[\xE0-\xEF][\x1A?][\x1A\x80-\xBF]|[\xE0-\xEF][\x1A\x80-\xBF][\x1A?]|[\xF0-\xF4][\x1A?][\x1A\x80-\xBF][\x1A\x80-\xBF]|[\xF0-\xF4][\x1A\x80-\xBF][\x1A?][\x1A\x80-\xBF]|[\xF0-\xF4][\x1A\x80-\xBF][\x1A\x80-\xBF][\x1A?]|\x1A",
    )
});

/// The patterns are constants, and a test compiles each.
fn compile(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a constant pattern")
}

fn compile_bytes(pattern: &str) -> bytes::Regex {
    bytes::Regex::new(&format!("(?-u){pattern}")).expect("a constant pattern")
}

/// Repairs the encoding until nothing suspicious is left that can be repaired.
pub(super) fn fix_encoding(text: &str) -> Cow<'_, str> {
    let mut current = Cow::Borrowed(text);
    while let Some(better) = one_step(&current).filter(|better| *better != current) {
        current = Cow::Owned(better);
    }
    current
}

fn one_step(text: &str) -> Option<String> {
    if text.is_ascii() || !BAD.is_match(text) {
        return None;
    }
    let whole = code_pages::CODE_PAGES.iter().find_map(|page| decoded_from(text, page));
    whole.or_else(|| decode_parts(text)).or_else(|| Some(windows_controls(text)))
}

/// The text as UTF-8, if it is UTF-8 that was read in `page`.
fn decoded_from(text: &str, page: &CodePage) -> Option<String> {
    let mut bytes = page.encode(text)?;
    // In Mac OS Roman the same bytes are a dash and a space.
    if page.name != "macroman" && ALTERED.is_match(&bytes) {
        bytes = restore_no_break_spaces(&bytes);
    }
    if page.sloppy {
        bytes = LOSSY.replace_all(&bytes, "\u{FFFD}".as_bytes()).into_owned();
    }
    String::from_utf8(bytes).ok()
}

fn restore_no_break_spaces(bytes: &[u8]) -> Vec<u8> {
    let words = A_GRAVE.replace_all(bytes, |found: &bytes::Captures<'_>| match &found[0] {
        b"\xC3 " => b"\xC3\xA0 ".to_vec(),
        longer => longer.to_vec(),
    });
    let restored = ALTERED.replace_all(&words, |found: &bytes::Captures<'_>| -> Vec<u8> {
        found[0].iter().map(|&byte| if byte == b' ' { 0xA0 } else { byte }).collect()
    });
    restored.into_owned()
}

/// Repairs damaged stretches in a text that is otherwise sound.
fn decode_parts(text: &str) -> Option<String> {
    let (mut out, mut done, mut at) = (String::new(), 0, 0);
    while let Some(found) = DAMAGED.find_at(text, at) {
        if INSIDE.is_match(&text[..found.start()]) {
            at = found.start() + text[found.start()..].chars().next().map_or(1, char::len_utf8);
            continue;
        }
        // Shorter than the whole, so that this ends.
        if found.len() < text.len() && BAD.is_match(found.as_str()) {
            out.push_str(&text[done..found.start()]);
            out.push_str(&fix_encoding(found.as_str()));
            done = found.end();
        }
        at = found.end();
    }
    out.push_str(&text[done..]);
    (out != text).then_some(out)
}

/// Control characters as the letters that Windows-1252 has in their place.
fn windows_controls(text: &str) -> String {
    text.chars().map(|c| if ('\u{80}'..='\u{9F}').contains(&c) { super::html::WINDOWS_1252[c as usize - 0x80] } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each pair was checked with ftfy 6.3.1.
    #[test]
    fn repairs_as_ftfy_does() {
        for (text, expected) in [
            ("cafÃ© crÃ¨me", "café crème"),
            ("âœ” No problems", "✔ No problems"),
            ("Ã la mode, voilÃ le travail", "à la mode, voilà le travail"),
            ("â€œquotedâ€\u{9d} textâ€¦ itâ€™s", "“quoted” text… it’s"),
            ("â€œ like this â€\u{FFFD}", "“ like this �"),
            ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
            ("æ—¥æœ¬èªž", "日本語"),
            ("ðŸ˜€ smile", "😀 smile"),
            ("The MÃ¤rz 日本 was fine", "The März 日本 was fine"),
            ("РїСЂРёРІРµС‚", "привет"),
            ("naïve café Ångström ÅÄÖ über straße", "naïve café Ångström ÅÄÖ über straße"),
            ("\u{85}dots\u{99}", "…dots™"),
        ] {
            assert_eq!(fix_encoding(text), expected, "{text}");
        }
    }

    #[test]
    fn every_pattern_compiles() {
        assert!(!BAD.is_match("sound") && !DAMAGED.is_match("sound") && !INSIDE.is_match("sound"));
        assert!(!ALTERED.is_match(b"sound") && !A_GRAVE.is_match(b"sound") && !LOSSY.is_match(b"sound"));
    }
}

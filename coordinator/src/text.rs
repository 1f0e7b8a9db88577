//! Numbers as people read them.

/// `1234567` as `1,234,567`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A share of a whole as percent; a dash when the whole is nothing.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_string();
    }
    let percent = 100.0 * part as f64 / whole as f64;
    if percent == 0.0 || percent >= 10.0 { format!("{percent:.0}%") } else { format!("{percent:.1}%") }
}

/// Seconds with the two units that matter, e.g. `0.4 s`, `2 m 05 s`, `3 h 12 m`, `4 d 06 h`.
pub(crate) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_string();
    }
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} m {:02} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {:02} m", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {:02} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Units per second; per minute or hour when there are few.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 99.5 => format!("{}/s", count(r.round() as u64)),
        r if r >= 1.0 => format!("{r:.1}/s"),
        r if r * 60.0 >= 1.0 => format!("{:.1}/min", r * 60.0),
        r => format!("{:.1}/h", r * 3600.0),
    }
}

/// Text from outside on one terminal line: control characters, which could move the cursor or recolour the
/// terminal, become spaces.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Words as one line that a POSIX shell takes apart into the same words.
pub(crate) fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let words: Vec<String> = words.into_iter().map(quoted).collect();
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@%+=,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_string() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([(0, 0), (0, 5), (1, 200), (1, 3), (5, 5)].map(|(a, b)| share(a, b)), ["-", "0%", "0.5%", "33%", "100%"]);
        let durations = [0.04, 9.96, 59.4, 125.0, 3599.6, 11_520.0, 367_200.0, f64::INFINITY, -1.0];
        assert_eq!(durations.map(duration), ["0.0 s", "10 s", "59 s", "2 m 05 s", "1 h 00 m", "3 h 12 m", "4 d 06 h", "-", "-"]);
        assert_eq!([1234.4, 3.25, 0.5, 0.001].map(rate), ["1,234/s", "3.2/s", "30.0/min", "3.6/h"]);
    }

    #[test]
    fn no_escape_sequence_passes() {
        assert_eq!(printable("a\x1b[31mb\r\nc"), "a [31mb  c");
    }

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(command(["run", "a/b.yaml", "it's", "$(x)", ""]), r"run a/b.yaml 'it'\''s' '$(x)' ''");
    }
}

//! A corpus of any size, the same each time, and what reading it took.

use std::io::{BufWriter, Write};
use std::path::Path;

/// The `i`-th caption: about 60 bytes, one in 50 a duplicate of the one before.
fn caption(i: u64) -> String {
    const THINGS: [&str; 8] =
        ["red circle", "wooden house", "sleeping cat", "sailing boat", "old bicycle", "snowy hill", "glass vase", "street lamp"];
    const PLACES: [&str; 8] =
        ["by the sea", "in a field", "on a table", "at night", "under a bridge", "in the fog", "near a river", "in a garden"];
    let i = if i % 50 == 49 { i - 1 } else { i };
    let pick = |words: [&'static str; 8], shift: u64| words[(i >> shift) as usize % words.len()];
    format!("a photograph of a {} {}, number {i} of a long series", pick(THINGS, 0), pick(PLACES, 3))
}

/// Writes `n` captions one by one; returns the bytes of the file.
pub fn write(path: &Path, n: u64) -> std::io::Result<u64> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for i in 0..n {
        writeln!(file, "{{\"caption\":\"{}\",\"url\":\"https://images.example.org/{:08}.jpg\"}}", caption(i), i)?;
    }
    file.flush()?;
    file.get_ref().metadata().map(|meta| meta.len())
}

/// Captions that are no duplicates.
pub fn usable(n: u64) -> u64 {
    n - n / 50
}

/// The largest resident size of this process so far, in kB. Linux only.
pub fn peak_memory() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(|peak| peak.trim().to_string())
}

/// Starts the measure of [`peak_memory`] anew, where the system allows it.
#[allow(dead_code, reason = "the bench has no use for it")]
pub fn forget_peak() {
    // Without it the peak is that of everything so far.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

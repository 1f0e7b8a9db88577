//! What a pickle would cost, found out before candle reads it.
//!
//! candle builds every object of a pickle, copies what is remembered and fetched again, and trusts each length. A few
//! hundred bytes can so ask for terabytes, or nest objects deeper than the stack. This walk keeps sizes only.

use super::error::{Error, Result};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use zip::ZipArchive;

/// Largest pickle inside a checkpoint, in bytes; that of Stable Diffusion with its optimizer has two megabytes.
const MAX_PICKLE: u64 = 64 << 20;
/// Deepest nesting; a training checkpoint has a dozen levels.
const MAX_DEPTH: u32 = 100;
/// Objects built for each byte of a pickle, copies included; real ones stay below one.
const MAX_GROWTH: u64 = 16;

/// Refuses a zip checkpoint whose pickle would not stay in proportion to its length; the lengths of its entries by name.
pub(super) fn check(path: &Path) -> Result<HashMap<String, u64>> {
    let damaged = |problem: String| Error::file(path, format!("damaged checkpoint: {problem}; fetch the file again"));
    let file = File::open(path).map_err(|e| Error::file(path, e))?;
    let length = file.metadata().map_err(|e| Error::file(path, e))?.len();
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| damaged(e.to_string()))?;
    let mut entries = HashMap::new();
    let mut pickles = 0;
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| damaged(e.to_string()))?;
        let name = entry.name().map_err(|e| damaged(e.to_string()))?.into_owned();
        // Entries are stored, so none is longer than the file.
        let size = entry.size().min(length);
        drop(entry);
        if name.ends_with("data.pkl") {
            pickles += 1;
            if pickles > 1 || size > MAX_PICKLE {
                return Err(damaged(format!("{name} is too large, or there are several")));
            }
            let mut bytes = Vec::new();
            let entry = archive.by_index(index).map_err(|e| damaged(format!("{name}: {e}")))?;
            entry.take(MAX_PICKLE).read_to_end(&mut bytes).map_err(|e| damaged(format!("{name}: {e}")))?;
            Walk::new(&bytes).run().map_err(|problem| damaged(format!("{name}: {problem}")))?;
        }
        entries.insert(name, size);
    }
    Ok(entries)
}

/// What stands for an object: how many it consists of, and how deep they nest.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    objects: u64,
    depth: u32,
}

impl Size {
    const ONE: Size = Size { objects: 1, depth: 1 };

    fn with(self, other: Size) -> Size {
        Size { objects: self.objects.saturating_add(other.objects), depth: self.depth.max(other.depth) }
    }

    /// An object that holds these.
    fn around(self) -> Size {
        Size { objects: self.objects.saturating_add(1), depth: self.depth.saturating_add(1) }
    }
}

struct Walk<'a> {
    rest: &'a [u8],
    /// `None` is a mark.
    stack: Vec<Option<Size>>,
    memo: HashMap<u32, Size>,
    built: u64,
    most: u64,
}

/// Why a walk ends.
#[derive(Debug)]
enum End {
    /// The pickle ends, or is refused by candle too.
    Over,
    Refused(&'static str),
}

impl<'a> Walk<'a> {
    fn new(pickle: &'a [u8]) -> Self {
        let most = (pickle.len() as u64).saturating_mul(MAX_GROWTH).saturating_add(10_000);
        Walk { rest: pickle, stack: Vec::new(), memo: HashMap::new(), built: 0, most }
    }

    fn run(mut self) -> Result<(), String> {
        loop {
            match self.step() {
                Ok(()) if self.built > self.most => return Err("its objects multiply beyond its length".to_string()),
                Ok(()) if self.stack.iter().rev().take(1).flatten().any(|top| top.depth > MAX_DEPTH) => {
                    return Err(format!("its objects nest deeper than {MAX_DEPTH}"));
                }
                Ok(()) => {}
                Err(End::Over) => return Ok(()),
                Err(End::Refused(why)) => return Err(why.to_string()),
            }
        }
    }

    /// One operation, as candle understands it.
    fn step(&mut self) -> Result<(), End> {
        match self.bytes(1)?[0] {
            0x80 => drop(self.bytes(1)?),
            b'c' => {
                self.line()?;
                self.line()?;
                self.push(Size::ONE);
            }
            b'K' => self.skip_and_push(1)?,
            b'M' => self.skip_and_push(2)?,
            b'J' => self.skip_and_push(4)?,
            b'G' => self.skip_and_push(8)?,
            b'X' => {
                let length = self.number()? as usize;
                if length > self.rest.len() {
                    return Err(End::Refused("a text is longer than the file"));
                }
                self.skip_and_push(length)?;
            }
            0x8a => {
                let length = self.bytes(1)?[0];
                self.skip_and_push(usize::from(length))?;
            }
            b')' | b']' | b'}' | b'd' | b'N' | 0x88 | 0x89 => self.push(Size::ONE),
            b'(' => self.stack.push(None),
            b't' => {
                let inside = self.pop_to_mark()?;
                self.push(inside.around());
            }
            0x85 | b'Q' => self.combine(1)?,
            0x86 | b'R' | b'b' | 0x81 => self.combine(2)?,
            0x87 => self.combine(3)?,
            b'a' => self.extend_last(1)?,
            b's' => self.extend_last(2)?,
            b'e' | b'u' => {
                let inside = self.pop_to_mark()?;
                let holder = self.pop()?;
                self.stack.push(Some(holder.with(inside.around())));
            }
            b'q' => {
                let id = u32::from(self.bytes(1)?[0]);
                self.remember(id)?;
            }
            b'r' => {
                let id = self.number()?;
                self.remember(id)?;
            }
            b'h' => {
                let id = u32::from(self.bytes(1)?[0]);
                self.fetch(id)?;
            }
            b'j' => {
                let id = self.number()?;
                self.fetch(id)?;
            }
            _ => return Err(End::Over),
        }
        Ok(())
    }

    fn bytes(&mut self, n: usize) -> Result<&'a [u8], End> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(End::Over)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u32, End> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| End::Over)?))
    }

    fn line(&mut self) -> Result<(), End> {
        let end = self.rest.iter().position(|byte| *byte == b'\n').ok_or(End::Over)?;
        self.bytes(end + 1).map(drop)
    }

    fn skip_and_push(&mut self, n: usize) -> Result<(), End> {
        self.bytes(n)?;
        self.push(Size::ONE);
        Ok(())
    }

    fn push(&mut self, size: Size) {
        self.built = self.built.saturating_add(1);
        self.stack.push(Some(size));
    }

    fn pop(&mut self) -> Result<Size, End> {
        // candle takes a mark for an object.
        self.stack.pop().map(|size| size.unwrap_or(Size::ONE)).ok_or(End::Over)
    }

    fn combine(&mut self, n: usize) -> Result<(), End> {
        let mut inside = Size::default();
        for _ in 0..n {
            inside = inside.with(self.pop()?);
        }
        self.push(inside.around());
        Ok(())
    }

    /// Appends to a list or sets an item of a dictionary.
    fn extend_last(&mut self, n: usize) -> Result<(), End> {
        let mut inside = Size::default();
        for _ in 0..n {
            inside = inside.with(self.pop()?);
        }
        let holder = self.pop()?;
        self.stack.push(Some(holder.with(inside.around())));
        Ok(())
    }

    fn pop_to_mark(&mut self) -> Result<Size, End> {
        let mut inside = Size::default();
        loop {
            match self.stack.pop() {
                Some(Some(size)) => inside = inside.with(size),
                Some(None) => return Ok(inside),
                None => return Err(End::Over),
            }
        }
    }

    /// candle copies what it remembers,
    fn remember(&mut self, id: u32) -> Result<(), End> {
        let last = self.stack.last().ok_or(End::Over)?.unwrap_or(Size::ONE);
        self.built = self.built.saturating_add(last.objects);
        self.memo.insert(id, last);
        Ok(())
    }

    /// and copies it again.
    fn fetch(&mut self, id: u32) -> Result<(), End> {
        let size = *self.memo.get(&id).ok_or(End::Over)?;
        self.built = self.built.saturating_add(size.objects);
        self.stack.push(Some(size));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(pickle: &[u8]) -> Result<(), String> {
        Walk::new(pickle).run()
    }

    #[test]
    fn a_state_dict_passes() {
        let mut pickle = b"\x80\x02}q\x00(".to_vec();
        for n in 0..500u32 {
            pickle.extend(b"X\x04\x00\x00\x00name(X\x03\x00\x00\x00cpuK\x01tQ");
            pickle.extend([b'r'].iter().chain(&n.to_le_bytes()));
        }
        pickle.extend(b"u.");
        walk(&pickle).unwrap();
    }

    #[test]
    fn copies_of_copies_and_deep_nests_are_refused() {
        // t = (); t = (t, t); t = (t, t) ...
        let doubling = [b")".to_vec(), b"q\x00h\x00\x86".repeat(60), b".".to_vec()].concat();
        assert!(walk(&doubling).unwrap_err().contains("multiply"));
        let nest = [b")".to_vec(), b"\x85".repeat(100_000), b".".to_vec()].concat();
        assert!(walk(&nest).unwrap_err().contains("nest deeper"));
        let lists = [b"]".repeat(200), b"a".repeat(199), b".".to_vec()].concat();
        assert!(walk(&lists).unwrap_err().contains("nest deeper"));
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert!(walk(b"X\xff\xff\xff\xffname").unwrap_err().contains("longer than the file"));
    }
}

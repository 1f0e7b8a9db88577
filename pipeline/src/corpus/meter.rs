//! A bound on how much of a file one row may take.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Most bytes of one row, after decompression.
pub(crate) const MAX_ROW: u64 = 16 << 20;

/// Bytes that may still be read before the next [`Meter::allow`].
#[derive(Clone)]
pub(crate) struct Meter(Rc<Cell<u64>>);

impl Meter {
    pub(crate) fn new() -> Self {
        Meter(Rc::new(Cell::new(MAX_ROW)))
    }

    /// A new row begins.
    pub(crate) fn allow_row(&self) {
        self.0.set(MAX_ROW);
    }

    /// Something is skipped over that is not held in memory.
    pub(crate) fn allow_all(&self) {
        self.0.set(u64::MAX);
    }

    /// Counts what is read from `inner`, and fails once a row takes too much.
    pub(crate) fn measure<R: Read>(&self, inner: R) -> Metered<R> {
        Metered { inner, meter: self.clone() }
    }
}

pub(crate) struct Metered<R> {
    inner: R,
    meter: Meter,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let left = self.meter.0.get().checked_sub(n as u64);
        self.meter.0.set(left.ok_or_else(too_long)?);
        Ok(n)
    }
}

/// The error of a row that takes more than [`MAX_ROW`].
pub(crate) fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("one row takes more than {} MiB: is a quote or a line end missing?", MAX_ROW >> 20))
}

//! Rows of any number in a local file. The memory holds where each ends: eight bytes a row.

use crate::failure::{Result, domain, failure};
use ip2p_pipeline::Error;
use ip2p_pipeline::task::{Cause, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// Rows under construction.
pub(super) struct RowWriter<T> {
    file: BufWriter<File>,
    ends: Vec<u64>,
    rows: PhantomData<T>,
}

impl<T: Serialize> RowWriter<T> {
    /// The file has no name, so it is gone when the process is, however that ends.
    pub fn new() -> Result<Self> {
        Ok(RowWriter { file: BufWriter::new(tempfile::tempfile().map_err(unusable)?), ends: Vec::new(), rows: PhantomData })
    }

    pub fn push(&mut self, row: &T) -> Result<()> {
        let line = serde_json::to_vec(row).map_err(|e| failure(Cause::Bug, format!("a row cannot be written: {e}")))?;
        self.file.write_all(&line).map_err(unusable)?;
        self.ends.push(self.ends.last().copied().unwrap_or(0) + line.len() as u64);
        Ok(())
    }

    pub fn finish(self) -> Result<RowFile<T>> {
        let file = self.file.into_inner().map_err(|e| unusable(e.into_error()))?;
        Ok(RowFile { file: Mutex::new(file), ends: self.ends, rows: PhantomData })
    }
}

/// Rows that are read one at a time, by position.
pub(super) struct RowFile<T> {
    file: Mutex<File>,
    ends: Vec<u64>,
    rows: PhantomData<T>,
}

impl<T: DeserializeOwned> RowFile<T> {
    /// The row at `position`; `None` when there are fewer.
    pub fn get(&self, position: usize) -> Result<Option<T>> {
        let Some(&end) = self.ends.get(position) else { return Ok(None) };
        let start = position.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut line = vec![0; (end - start) as usize];
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut line)).map_err(unusable)?;
        serde_json::from_slice(&line).map(Some).map_err(|e| failure(Cause::Bug, format!("row {position} cannot be read back: {e}")))
    }
}

fn unusable(source: io::Error) -> Failure {
    domain(Error::File { path: std::env::temp_dir().display().to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_by_position() {
        let rows = ["", "a", "an umlaut: ü\n", "last"].map(str::to_string);
        let mut writer = RowWriter::new().unwrap();
        rows.iter().for_each(|row| writer.push(row).unwrap());
        let file = writer.finish().unwrap();
        for position in [2, 0, 3, 1, 3] {
            assert_eq!(file.get(position).unwrap().as_ref(), Some(&rows[position]));
        }
        assert_eq!(file.get(4).unwrap(), None);
    }
}

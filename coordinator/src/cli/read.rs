//! Commands that read a run from its store alone.

use super::{Exit, RunRef};
use std::path::PathBuf;
pub(super) async fn status(_run: RunRef, _json: bool) -> Result<(), Exit> { Ok(()) }
pub(super) async fn audit(_run: RunRef, _quick: bool) -> Result<(), Exit> { Ok(()) }
pub(super) async fn explain(_run: RunRef, _pair: &str, _draw: Option<PathBuf>) -> Result<(), Exit> { Ok(()) }
pub(super) async fn gc(_run: RunRef, _dry_run: bool, _grace: &str) -> Result<(), Exit> { Ok(()) }

//! The coordinator's log. Its lines go through the progress display, so that bars and lines never mix.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Target of the lines that tell how far a run is, where they are records of the log.
pub const PROGRESS: &str = "progress";

/// Installs the logger: warnings by default, `-v` info, `-vv` debug; one JSON object per line with `json`.
pub fn init<W>(verbose: u8, json: bool, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match verbose {
        0 => "warn",
        1 => "warn,ip2p_coordinator=info,ip2p_pipeline=info",
        _ => "info,ip2p_coordinator=debug,ip2p_pipeline=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{level},{PROGRESS}=info")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // Told on standard error, which may be what has gone away.
    let builder = builder.log_internal_errors(false);
    if json { builder.json().init() } else { builder.with_ansi(false).init() }
}

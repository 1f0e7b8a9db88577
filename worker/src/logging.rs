//! Logs go to standard error; `RUST_LOG` overrides the level that `-v` sets.

use tracing_subscriber::EnvFilter;

/// Installs the logger: warnings by default, `-v` info, `-vv` debug; one JSON object per line with `json`.
pub fn init(verbose: u8, json: bool) {
    let level = match verbose {
        0 => "warn",
        1 => "warn,ip2p_worker=info,ip2p_coordinator=info,ip2p_pipeline=info",
        _ => "info,ip2p_worker=debug,ip2p_coordinator=debug,ip2p_pipeline=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        // They would be told on standard error, which may be what has gone away.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if json { builder.json().init() } else { builder.init() }
}

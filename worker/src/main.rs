//! `ip2p-worker`: a worker on its own, for clusters and external launchers.

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ip2p-worker", version, about)]
struct Cli {
    #[command(flatten)]
    args: ip2p_worker::cli::WorkerArgs,
    /// More log lines: -v info, -vv debug (RUST_LOG overrides)
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Log as JSON lines
    #[arg(long)]
    log_json: bool,
}

fn main() -> ExitCode {
    let Cli { args, verbose, log_json } = Cli::parse();
    ip2p_worker::logging::init(verbose, log_json);
    ip2p_worker::cli::main(args)
}

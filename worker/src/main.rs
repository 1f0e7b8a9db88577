//! `ip2p-worker`: a worker on its own, for clusters and external launchers.

use clap::Parser;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "ip2p-worker", version, about)]
struct Cli {
    #[command(flatten)]
    args: ip2p_worker::cli::WorkerArgs,
}

fn main() -> ExitCode {
    let Cli { args } = Cli::parse();
    ip2p_worker::logging::init(args.verbose, args.log_json);
    ip2p_worker::cli::main(args)
}

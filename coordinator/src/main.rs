//! `ip2p-coordinator`: one program for everything a person does with a run.

use std::process::ExitCode;

fn main() -> ExitCode {
    ip2p_coordinator::cli::main()
}

//! The coordinator, worker included, as a binary of this package, so that the tests always run what was just built.

use std::process::ExitCode;

fn main() -> ExitCode {
    ip2p_coordinator::cli::main()
}

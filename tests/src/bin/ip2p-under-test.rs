//! The coordinator, worker included, as a binary of this package, so that the tests always run what was just built.

use ip2p_pipeline::planted::{self, Defect};
use std::process::ExitCode;

fn main() -> ExitCode {
    // Chaos shows that it finds some of the defects.
    let name = std::env::var(ip2p_tests::chaos::PLANTED).unwrap_or_default();
    Defect::ALL.into_iter().filter(|defect| format!("{defect:?}") == name).for_each(planted::plant_everywhere);
    ip2p_coordinator::cli::main()
}

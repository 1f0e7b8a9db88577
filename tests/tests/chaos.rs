//! Chaos on a folder and on a small disk; `tests/chaos/run.sh` does the same on a real S3 server.

use ip2p_tests::chaos::schedule::Kind;
use ip2p_tests::chaos::{Reference, round};
use std::path::Path;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

#[test]
fn faults_from_a_seed_change_no_byte() {
    // Built for `tests/chaos/run.sh`, which finds it beside the program.
    assert!(Path::new(env!("CARGO_BIN_EXE_chaos")).exists());
    let program = Path::new(PROGRAM);
    let reference = Reference::make(program);
    match round(program, Kind::Local, 1, 6, &reference) {
        Ok(round) => assert!(round.faults.values().sum::<u64>() >= 3, "the test has lost its point: {round}"),
        Err(broken) => panic!("{broken}"),
    }
}

//! A disk that is too small for the run.

use ip2p_tests::Pipeline;
use ip2p_tests::disk::{self, Disk};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");
/// What a file of one byte takes.
const PAGE: u64 = 4096;

/// What a run takes of a disk that gives whole pages.
fn needed(pipeline: &Pipeline) -> u64 {
    pipeline.objects().iter().map(|key| (pipeline.object(key).len() as u64).div_ceil(PAGE) * PAGE).sum()
}

#[test]
fn a_full_disk_stops_the_run_and_with_more_room_it_ends_in_the_same_bytes() {
    if !disk::enter_test("a_full_disk_stops_the_run_and_with_more_room_it_ends_in_the_same_bytes") {
        return;
    }
    let reference = Pipeline::new(PROGRAM);
    reference.run_expecting(0, &[]);
    let needed = needed(&reference);
    let pipeline = Pipeline::new(PROGRAM);
    let disk = Disk::mount(&pipeline.path().join("out"), PAGE);
    // From no room for the frozen corpus to too little for the last shards.
    for part in [0, 1, 5, 9, 13, 15] {
        disk.resize((needed * part / 16).max(PAGE));
        let stopped = pipeline.run_expecting(4, &[]);
        let said = String::from_utf8_lossy(&stopped.stderr);
        let last = said.trim_end().lines().last().unwrap_or_default();
        assert!(last.contains("No space left") && last.matches("ake room").count() == 1, "{part} of 16 parts of {needed} bytes: {said}");
        // At both ends the coordinator itself is the first to meet it.
        assert!(!(5..15).contains(&part) || last.contains("the store has no room"), "{part} of 16 parts of {needed} bytes: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
    disk.resize(4 * needed);
    pipeline.run_expecting(0, &[]);
    assert_eq!(pipeline.dataset(), reference.dataset());
    pipeline.assert_sound(&[]);
}

//! The simulation over many seeds, and over planted defects that it must find.

use ip2p_pipeline::planted::Defect;
use ip2p_tests::simulation::{self, simulate};

/// `simulate` runs more.
const SEEDS: u64 = 2_000;
/// A planted defect must show within so many seeds.
const SEEDS_FOR_DEFECTS: u64 = 1_500;

#[test]
fn every_guarantee_holds_on_every_seed() {
    let plan = simulation::plan().unwrap();
    let mut faults = 0;
    for seed in 0..SEEDS {
        match simulate(seed, &plan, None) {
            Ok(calm) => faults += calm.faults,
            Err(broken) => panic!("{broken}"),
        }
    }
    assert!(faults > 10 * SEEDS, "only {faults} faults: the simulation is too kind");
}

#[test]
fn a_seed_replays_exactly() {
    let plan = simulation::plan().unwrap();
    for seed in 0..20 {
        assert_eq!(simulate(seed, &plan, None), simulate(seed, &plan, None));
    }
    let broken = (0..SEEDS_FOR_DEFECTS).find_map(|seed| simulate(seed, &plan, Some(Defect::KeysWithoutEpoch)).err()).unwrap();
    let again = simulate(broken.seed, &plan, Some(Defect::KeysWithoutEpoch)).unwrap_err();
    assert_eq!(broken, again, "the same events, to the last line of the trace");
}

#[test]
fn every_planted_defect_is_found() {
    let plan = simulation::plan().unwrap();
    let found = |defect| (0..SEEDS_FOR_DEFECTS).find_map(|seed| simulate(seed, &plan, Some(defect)).err());
    let mut missed = Vec::new();
    for defect in Defect::ALL {
        match found(defect) {
            Some(broken) => eprintln!("{defect:?}: seed {}: {}", broken.seed, broken.guarantee),
            None => missed.push(defect),
        }
    }
    assert!(missed.is_empty(), "the simulation does not notice {missed:?}");
}

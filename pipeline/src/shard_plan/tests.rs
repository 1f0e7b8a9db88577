use super::*;
use crate::spec::ColumnProfile;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn spec(shard_bytes: u64) -> Shards {
    Shards {
        formats: vec![ShardFormat::Webdataset, ShardFormat::Parquet, ShardFormat::Original],
        split: Split { train: 0.9, val: 0.05, test: 0.05 },
        shard_bytes,
        columns: ColumnProfile::Timbrooks,
    }
}

/// `sizes[i]` pairs of triplet `i`.
fn kept(sizes: &[u32]) -> Vec<KeptPair> {
    let triplets = sizes.iter().enumerate().map(|(i, &size)| (TripletId::of(&i.to_string(), "e", "o"), size));
    let pairs = triplets.flat_map(|(triplet, size)| (0..size).map(move |sample| (triplet, sample)));
    let pair = |(row, (triplet, sample)): (usize, (TripletId, u32))| KeptPair {
        pair: PairId::of(triplet, sample),
        triplet,
        seed: row as u64 * 7919,
        row: row as u32,
        bytes: 1000 * u64::from(sample),
    };
    pairs.enumerate().map(pair).collect()
}

/// Everything that the bytes of the data set depend on, with rows replaced by what they stand for.
fn meaning(plan: &ShardPlan, pairs: &[KeptPair]) -> Vec<String> {
    let by_row: BTreeMap<u32, PairId> = pairs.iter().map(|pair| (pair.row, pair.pair)).collect();
    let describe = |task: &ShardTask| match task {
        ShardTask::File { path, pairs, .. } => {
            format!("{path} {:?}", plan.samples(pairs).map(|(n, row)| (n, by_row[&row])).collect::<Vec<_>>())
        }
        ShardTask::Folders { pairs } => {
            plan.folders(pairs).map(|f| format!("{} {:?}", f.name, f.rows.iter().map(|row| by_row[row]).collect::<Vec<_>>())).collect()
        }
        ShardTask::Seeds => plan.seeds_json(),
    };
    plan.tasks().iter().map(describe).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_pair_is_in_every_format_once(sizes in proptest::collection::vec(0u32..5, 0..60), shard_bytes in 1u64..100_000) {
        let pairs = kept(&sizes);
        let plan = ShardPlan::new(pairs.clone(), 42, &spec(shard_bytes)).unwrap();
        let all: Vec<u32> = (0..pairs.len() as u32).collect();
        for wanted in [ShardFormat::Webdataset, ShardFormat::Parquet] {
            let of_format = |task: &&ShardTask| matches!(task, ShardTask::File { format, .. } if *format == wanted);
            let ranges: Vec<_> = plan.tasks().iter().filter(of_format).map(|task| match task {
                ShardTask::File { pairs, .. } => pairs.clone(),
                _ => unreachable!(),
            }).collect();
            prop_assert!(ranges.iter().all(|range| !range.is_empty()));
            let mut rows: Vec<u32> = ranges.iter().flat_map(|range| plan.samples(range).map(|(_, row)| row)).collect();
            rows.sort_unstable();
            prop_assert_eq!(&rows, &all);
        }
        let mut rows: Vec<u32> = plan.tasks().iter().filter_map(|task| match task {
            ShardTask::Folders { pairs } => Some(pairs),
            _ => None,
        }).flat_map(|range| plan.folders(range).flat_map(|folder| folder.rows)).collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, all);
    }

    #[test]
    fn splits_share_no_triplet_and_files_are_bounded(sizes in proptest::collection::vec(1u32..5, 1..60), shard_bytes in 1u64..100_000) {
        let pairs = kept(&sizes);
        let plan = ShardPlan::new(pairs.clone(), 42, &spec(shard_bytes)).unwrap();
        let mut triplets: BTreeMap<SplitName, BTreeSet<TripletId>> = BTreeMap::new();
        for task in plan.tasks() {
            let ShardTask::File { split, pairs: range, .. } = task else { continue };
            let rows: Vec<u32> = plan.samples(range).map(|(_, row)| row).collect();
            let bytes: u64 = rows.iter().map(|&row| pairs[row as usize].bytes + PAIR_OVERHEAD).sum();
            prop_assert!(bytes <= shard_bytes || rows.len() == 1);
            triplets.entry(*split).or_default().extend(rows.iter().map(|&row| pairs[row as usize].triplet));
        }
        let total: usize = triplets.values().map(BTreeSet::len).sum();
        prop_assert_eq!(total, sizes.len());
        prop_assert_eq!(plan.splits().iter().map(|count| count.triplets as usize).sum::<usize>(), total);
        prop_assert_eq!(plan.splits().iter().map(|count| count.pairs as usize).sum::<usize>(), pairs.len());
    }

    #[test]
    fn the_order_of_the_index_does_not_matter(sizes in proptest::collection::vec(0u32..5, 0..40), rotate in 0usize..100) {
        let pairs = kept(&sizes);
        let mut other = pairs.clone();
        other.reverse();
        let by = rotate % other.len().max(1);
        other.rotate_left(by);
        other.iter_mut().zip(0..).for_each(|(pair, row)| pair.row = row);
        let plan = |pairs: &Vec<KeptPair>| meaning(&ShardPlan::new(pairs.clone(), 42, &spec(20_000)).unwrap(), pairs);
        prop_assert_eq!(plan(&pairs), plan(&other));
    }
}

#[test]
fn another_run_seed_gives_another_order() {
    let pairs = kept(&[2; 50]);
    let plan = |seed| meaning(&ShardPlan::new(pairs.clone(), seed, &spec(20_000)).unwrap(), &pairs);
    assert_ne!(plan(1), plan(2));
}

#[test]
fn names_follow_the_readers() {
    let plan = ShardPlan::new(kept(&[1; 40]), 42, &spec(20 * PAIR_OVERHEAD)).unwrap();
    let paths: Vec<&str> = plan
        .tasks()
        .iter()
        .filter_map(|task| match task {
            ShardTask::File { path, .. } => Some(path.as_str()),
            _ => None,
        })
        .collect();
    let expected = [
        "webdataset/train-000000.tar",
        "webdataset/train-000001.tar",
        "webdataset/validation-000000.tar",
        "webdataset/test-000000.tar",
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
        "data/validation-00000-of-00001.parquet",
        "data/test-00000-of-00001.parquet",
    ];
    assert_eq!(paths, expected);
    assert!(plan.seeds_json().starts_with("[[\"0000000\", [\""));
}

#[test]
fn a_pair_that_comes_twice_is_refused() {
    let mut pairs = kept(&[3, 3]);
    pairs.push(pairs[1].clone());
    let message = ShardPlan::new(pairs.clone(), 42, &spec(1000)).unwrap_err().to_string();
    assert_eq!(message, format!("index: pair {} is there twice", pairs[1].pair));
}

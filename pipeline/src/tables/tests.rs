use super::*;
use crate::ids::{CaptionId, TripletId};
use crate::records::{
    Candidate, ImageRef, IndexRow, Quarantined, RejectReason, RejectedCompletion, ScoredCandidate, Scores, Triplet, Verdict,
};
use proptest::prelude::*;
use std::fmt::Debug;

fn round_trip<T: Table + PartialEq + Debug>(rows: &[T]) {
    assert_eq!(T::decode("a test", T::encode(rows).unwrap()).unwrap(), rows);
}

fn triplet() -> impl Strategy<Value = Triplet> {
    (".{0,20}", ".{0,20}", ".{0,20}", proptest::option::of(".{0,20}"))
        .prop_map(|(caption, edit, output, url)| Triplet::new(caption, edit, output, url))
}

fn candidate() -> impl Strategy<Value = Candidate> {
    (triplet(), any::<u32>(), any::<u64>(), 0.0..1.0, 0.0..30.0).prop_map(|(triplet, sample, seed, p2p_threshold, cfg_scale)| Candidate {
        triplet: triplet.id,
        sample,
        seed,
        p2p_threshold,
        cfg_scale,
    })
}

fn scores() -> impl Strategy<Value = Option<Scores>> {
    let some = (-1.0..1.0, -1.0..1.0, -1.0..1.0, -1.0..1.0).prop_map(|(clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image)| Scores {
        clip_sim_0,
        clip_sim_1,
        clip_sim_dir,
        clip_sim_image,
    });
    proptest::option::of(some)
}

fn images() -> impl Strategy<Value = Option<[ImageRef; 2]>> {
    let image = (".{0,20}", any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(object, offset, length, checksum)| ImageRef {
        object,
        offset,
        length,
        checksum,
    });
    proptest::option::of((image.clone(), image).prop_map(|(before, after)| [before, after]))
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        Just(Verdict::Kept),
        proptest::sample::select(RejectReason::ALL.to_vec()).prop_map(Verdict::Rejected),
        ".{0,20}".prop_map(Verdict::Quarantined),
    ]
}

fn index_row() -> impl Strategy<Value = IndexRow> {
    (triplet(), candidate(), scores(), verdict(), images()).prop_map(|(t, candidate, scores, verdict, images)| IndexRow {
        pair: candidate.pair_id(),
        caption: t.caption,
        edit: t.edit,
        output: t.output,
        url: t.url,
        candidate,
        scores,
        verdict,
        images,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn triplets_round_trip(rows in proptest::collection::vec(triplet(), 0..20)) {
        round_trip(&rows);
    }

    #[test]
    fn scored_candidates_round_trip(
        rows in proptest::collection::vec((candidate(), scores(), proptest::option::of(".{0,20}"), images()), 0..20)
    ) {
        let row = |(candidate, scores, error, images)| ScoredCandidate { candidate, scores, error, images };
        round_trip(&rows.into_iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn index_rows_round_trip(rows in proptest::collection::vec(index_row(), 0..20)) {
        round_trip(&rows);
    }

    #[test]
    fn truncated_files_are_refused(rows in proptest::collection::vec(index_row(), 1..5), cut in 1usize..200) {
        let whole = IndexRow::encode(&rows).unwrap();
        let error = IndexRow::decode("index.parquet", whole.slice(..whole.len() - cut)).unwrap_err();
        prop_assert!(error.to_string().starts_with("index.parquet: "), "{error}");
    }
}

#[test]
fn rejections_and_quarantine_round_trip() {
    round_trip(&[RejectedCompletion {
        caption_id: CaptionId::of("a"),
        caption: "a".to_string(),
        number: 2,
        reason: "unparsed".to_string(),
        completion: "\n##\n".to_string(),
    }]);
    round_trip(&[Quarantined { record: TripletId::of("a", "b", "c").to_string(), error: "out of memory".to_string() }]);
    round_trip::<Quarantined>(&[]);
}

#[test]
fn another_table_is_refused_by_the_missing_column() {
    let bytes = Quarantined::encode(&[Quarantined { record: "r".to_string(), error: "e".to_string() }]).unwrap();
    let message = Triplet::decode("triplets.parquet", bytes).unwrap_err().to_string();
    assert_eq!(message, "triplets.parquet: there is no column `triplet_id`");
}

fn rows(n: u32) -> Vec<IndexRow> {
    let triplet = Triplet::new("a cat".to_string(), "make it a dog".to_string(), "a dog".to_string(), None);
    let row = |sample| {
        let candidate = Candidate { triplet: triplet.id, sample, seed: u64::from(sample), p2p_threshold: 0.5, cfg_scale: 7.5 };
        let verdict = if sample % 100 == 7 { Verdict::Kept } else { Verdict::Rejected(RejectReason::ImageSimilarity) };
        IndexRow {
            pair: candidate.pair_id(),
            caption: triplet.caption.clone(),
            edit: triplet.edit.clone(),
            output: triplet.output.clone(),
            url: None,
            candidate,
            scores: Some(Scores { clip_sim_0: 0.1, clip_sim_1: 0.2, clip_sim_dir: f64::NAN, clip_sim_image: 0.4 }),
            verdict,
            images: None,
        }
    };
    (0..n).map(row).collect()
}

#[test]
fn long_tables_stream_through_a_file_with_metadata_and_a_condition() {
    let n = GROUP_ROWS as u32 + 3 * BATCH_ROWS as u32 / 2;
    let all = rows(n);
    let mut writer = TableWriter::new(tempfile::tempfile().unwrap(), &[("lineage", "{}".to_string())]).unwrap();
    all.chunks(1000).for_each(|rows| writer.write(rows).unwrap());
    let file = writer.finish().unwrap();

    let reader = TableReader::<IndexRow>::open("index", file.try_clone().unwrap()).unwrap();
    assert_eq!(reader.metadata("lineage"), Some("{}"));
    assert_eq!(reader.metadata("nothing"), None);
    let batches: Vec<Vec<IndexRow>> = reader.map(Result::unwrap).collect();
    assert!(batches.iter().all(|batch| batch.len() <= BATCH_ROWS));
    let samples: Vec<u32> = batches.iter().flatten().map(|row| row.candidate.sample).collect();
    assert_eq!(samples, (0..n).collect::<Vec<_>>());
    assert!(batches[0][0].scores.unwrap().clip_sim_dir.is_nan());

    let kept = TableReader::<IndexRow>::open_where("index", file, "status", "kept").unwrap();
    let kept: Vec<u32> = kept.flat_map(Result::unwrap).map(|row| row.candidate.sample).collect();
    assert_eq!(kept, (0..n).filter(|sample| sample % 100 == 7).collect::<Vec<_>>());
}

#[test]
fn the_same_rows_give_the_same_bytes() {
    assert_eq!(IndexRow::encode(&rows(100)).unwrap(), IndexRow::encode(&rows(100)).unwrap());
}

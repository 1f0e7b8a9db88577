//! The filter: which candidates of one triplet become pairs of the data set.

use crate::records::{RejectReason, ScoredCandidate, Scores, Verdict};
use crate::spec::Filter;
use std::cmp::Ordering;

/// One verdict per candidate of a triplet, in the order of `candidates`.
///
/// The original's rule (`generate_img_dataset.py` of timothybrooks/instruct-pix2pix): a candidate passes when
/// every score is at least its threshold, compared in f64; those that pass are ranked by (clip_sim_dir, seed),
/// largest first, and the first `keep` are kept. A candidate without scores, or with a score that is not a
/// number, is quarantined.
pub fn judge(candidates: &[ScoredCandidate], filter: &Filter) -> Vec<Verdict> {
    let mut verdicts: Vec<Verdict> = candidates.iter().map(|candidate| judge_alone(candidate, filter)).collect();
    let mut passing: Vec<(usize, f64, u64)> = candidates
        .iter()
        .zip(&verdicts)
        .enumerate()
        .filter(|(_, (_, verdict))| **verdict == Verdict::Kept)
        .filter_map(|(i, (candidate, _))| Some((i, candidate.scores?.clip_sim_dir, candidate.candidate.seed)))
        .collect();
    passing.sort_by(|a, b| best_first((a.1, a.2), (b.1, b.2)));
    for (i, _, _) in passing.into_iter().skip(filter.keep as usize) {
        verdicts[i] = Verdict::Rejected(RejectReason::NotAmongBest);
    }
    verdicts
}

/// The rank of two candidates that pass, as (clip_sim_dir, seed). Neither score may be NaN.
pub(crate) fn best_first(a: (f64, u64), b: (f64, u64)) -> Ordering {
    b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(b.1.cmp(&a.1))
}

/// The verdict without regard to other candidates.
fn judge_alone(candidate: &ScoredCandidate, filter: &Filter) -> Verdict {
    if let Some(error) = &candidate.error {
        return Verdict::Quarantined(error.clone());
    }
    let Some(scores) = candidate.scores else {
        return Verdict::Quarantined("the candidate has no scores".to_string());
    };
    let Scores { clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image } = scores;
    if [clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image].iter().any(|score| score.is_nan()) {
        return Verdict::Quarantined("a CLIP similarity is not a number".to_string());
    }
    if clip_sim_0 < filter.clip_text || clip_sim_1 < filter.clip_text {
        Verdict::Rejected(RejectReason::TextSimilarity)
    } else if clip_sim_dir < filter.clip_direction {
        Verdict::Rejected(RejectReason::DirectionSimilarity)
    } else if clip_sim_image < filter.clip_image {
        Verdict::Rejected(RejectReason::ImageSimilarity)
    } else {
        Verdict::Kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TripletId;
    use crate::records::Candidate;
    use proptest::prelude::*;

    const FILTER: Filter = Filter { clip_text: 0.2, clip_direction: 0.2, clip_image: 0.7, keep: 2 };

    fn scored(seed: u64, scores: Option<[f64; 4]>) -> ScoredCandidate {
        let triplet = TripletId::of("a", "b", "c");
        ScoredCandidate {
            candidate: Candidate { triplet, sample: 0, seed, p2p_threshold: 0.5, cfg_scale: 7.5 },
            scores: scores.map(|[clip_sim_0, clip_sim_1, clip_sim_dir, clip_sim_image]| Scores {
                clip_sim_0,
                clip_sim_1,
                clip_sim_dir,
                clip_sim_image,
            }),
            error: None,
            images: None,
        }
    }

    #[test]
    fn the_first_rule_that_fails_is_the_reason() {
        let verdict = |scores| judge(&[scored(1, Some(scores))], &FILTER).remove(0);
        assert_eq!(verdict([0.2, 0.2, 0.2, 0.7]), Verdict::Kept);
        assert_eq!(verdict([0.1, 0.3, 0.0, 0.0]), Verdict::Rejected(RejectReason::TextSimilarity));
        assert_eq!(verdict([0.3, 0.1, 0.3, 0.9]), Verdict::Rejected(RejectReason::TextSimilarity));
        assert_eq!(verdict([0.3, 0.3, 0.1, 0.0]), Verdict::Rejected(RejectReason::DirectionSimilarity));
        assert_eq!(verdict([0.3, 0.3, 0.3, 0.6]), Verdict::Rejected(RejectReason::ImageSimilarity));
    }

    #[test]
    fn what_cannot_be_judged_is_quarantined() {
        let mut failed = scored(1, None);
        failed.error = Some("out of memory".to_string());
        let verdicts = judge(&[failed, scored(2, None), scored(3, Some([0.3, 0.3, f64::NAN, 0.9]))], &FILTER);
        assert_eq!(verdicts[0], Verdict::Quarantined("out of memory".to_string()));
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Quarantined(_))));
    }

    proptest! {
        /// Each candidate has one verdict; the kept are the best of those that pass alone, at most `keep`.
        #[test]
        fn kept_are_the_best(scores in proptest::collection::vec([0.1..0.4, 0.1..0.4, 0.1..0.4, 0.5..1.0], 0..40), keep in 0u32..6) {
            let filter = Filter { keep, ..FILTER };
            let candidates: Vec<_> = scores.iter().enumerate().map(|(seed, s)| scored(seed as u64, Some(*s))).collect();
            let verdicts = judge(&candidates, &filter);
            prop_assert_eq!(verdicts.len(), candidates.len());
            let of = |wanted: Verdict| candidates.iter().zip(&verdicts).filter(move |(_, v)| **v == wanted)
                .map(|(c, _)| c.scores.unwrap().clip_sim_dir).collect::<Vec<_>>();
            let (kept, surplus) = (of(Verdict::Kept), of(Verdict::Rejected(RejectReason::NotAmongBest)));
            prop_assert!(kept.len() <= keep as usize);
            prop_assert!(surplus.is_empty() || kept.len() == keep as usize);
            prop_assert!(surplus.iter().all(|worse| kept.iter().all(|better| better >= worse)));
        }
    }
}

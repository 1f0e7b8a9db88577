//! `prompts`, `pairs` and `filter` of one partition: each must follow from the one before it.

use super::Verdicts;
use super::inspect::{Inspector, Present};
use ip2p_pipeline::Result;
use ip2p_pipeline::ids::TripletId;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{ChunkManifest, Counts, PartitionManifest, role};
use ip2p_pipeline::records::{Candidate, ImageRef, IndexRow, RejectedCompletion, ScoredCandidate, Scores, Triplet, Verdict};
use ip2p_pipeline::selection;
use ip2p_pipeline::spec::PromptBackend;
use std::collections::HashMap;

/// What one partition contributes to the checks over all of them.
pub(super) struct Checked<'a> {
    pub partition: u32,
    pub inspector: Inspector<'a>,
    pub triplets: Vec<TripletId>,
    pub verdicts: Verdicts,
}

pub(super) async fn check<'a>(inspector: Inspector<'a>, partition: u32, present: &Present) -> Result<Checked<'a>> {
    let mut check = Check { inspector, partition, verdicts: Verdicts::default() };
    let manifest = |stage| (stage, partition, present.needed(stage, partition));
    let [(s0, p0, n0), (s1, p1, n1), (s2, p2, n2)] = [Stage::Prompts, Stage::Pairs, Stage::Filter].map(manifest);
    let prompts = check.inspector.manifest(s0, p0, n0).await?;
    let pairs = check.inspector.manifest(s1, p1, n1).await?;
    let filter = check.inspector.manifest(s2, p2, n2).await?;

    let triplets = match &prompts {
        Some(prompts) => check.prompts(prompts).await?,
        None => None,
    };
    if let (Some(prompts), Some(pairs)) = (&prompts, &pairs) {
        check.same_triplets(prompts, pairs);
        let candidates = check.pairs(pairs, triplets.as_deref()).await?;
        if let Some(filter) = &filter {
            check.same_triplets(prompts, filter);
            let images = stored_objects(&[pairs, filter]);
            check.filter(filter, triplets.as_deref(), candidates.as_deref(), &images).await?;
        }
    }
    let triplets = triplets.unwrap_or_default().iter().map(|triplet| triplet.id).collect();
    Ok(Checked { partition, inspector: check.inspector, triplets, verdicts: check.verdicts })
}

/// Lengths of the objects that images may lie in, by key.
fn stored_objects(manifests: &[&PartitionManifest]) -> HashMap<String, u64> {
    let objects = manifests.iter().flat_map(|manifest| manifest.chunks.iter().flat_map(|chunk| &chunk.objects));
    objects.map(|object| (object.key.clone(), object.bytes)).collect()
}

struct Check<'a> {
    inspector: Inspector<'a>,
    partition: u32,
    verdicts: Verdicts,
}

impl Check<'_> {
    fn report(&mut self, stage: Stage, problem: String) {
        let key = self.inspector.plan.dir(stage).manifest(self.partition);
        self.inspector.report(stage, Some(self.partition), Some(&key), problem);
    }

    /// Reports `what` when two numbers differ.
    fn equal(&mut self, stage: Stage, what: &str, found: u64, expected: u64) {
        if found != expected {
            self.report(stage, format!("{what}: {found}, but {expected} expected"));
        }
    }

    /// Returns the triplets in order, when all of them could be read.
    async fn prompts(&mut self, manifest: &PartitionManifest) -> Result<Option<Vec<Triplet>>> {
        let plan = self.inspector.plan;
        let range = plan.partitioning.range(self.partition);
        let per_caption = match plan.spec.stages.prompts.backend {
            PromptBackend::File => 1,
            PromptBackend::Local | PromptBackend::OpenAi(_) => u64::from(plan.spec.stages.prompts.per_caption),
        };
        self.equal(Stage::Prompts, "captions of the partition", manifest.records, range.end - range.start);
        self.equal(Stage::Prompts, "completions accounted for", manifest.counts().expected, manifest.records * per_caption);
        let mut all = Some(Vec::new());
        for chunk in &manifest.chunks {
            self.inspector.check_objects(chunk, &[role::TRIPLETS, role::REJECTED]).await?;
            let rejected = self.inspector.table::<RejectedCompletion>(chunk, role::REJECTED).await?;
            if let Some(rejected) = rejected {
                self.equal(Stage::Prompts, &rows_of(chunk, role::REJECTED), rejected.len() as u64, chunk.counts.rejected_total());
            }
            let triplets = self.inspector.table::<Triplet>(chunk, role::TRIPLETS).await?;
            if let Some(triplets) = &triplets {
                self.equal(Stage::Prompts, &rows_of(chunk, role::TRIPLETS), triplets.len() as u64, chunk.counts.output);
                self.triplet_ids(triplets);
            }
            all = all.zip(triplets).map(|(mut all, mut triplets)| {
                all.append(&mut triplets);
                all
            });
        }
        Ok(all)
    }

    /// Ids are hashes of the texts.
    fn triplet_ids(&mut self, triplets: &[Triplet]) {
        let wrong = triplets.iter().find(|t| t.id != TripletId::of(&t.caption, &t.edit, &t.output));
        if let Some(triplet) = wrong {
            self.report(Stage::Prompts, format!("the texts of triplet {} do not have this id", triplet.id));
        }
    }

    /// A later stage's records are the triplets, or their batches.
    fn same_triplets(&mut self, prompts: &PartitionManifest, later: &PartitionManifest) {
        let pairs = &self.inspector.plan.spec.stages.pairs;
        let (samples, batches) = (u64::from(pairs.samples), u64::from(pairs.batches()));
        let triplets = prompts.counts().output;
        match later.stage {
            Stage::Pairs => self.equal(later.stage, "batches of the partition", later.records, triplets * batches),
            _ => self.equal(later.stage, "triplets of the partition", later.records, triplets),
        }
        self.equal(later.stage, "candidates accounted for", later.counts().expected, triplets * samples);
    }

    /// Returns the candidates in order, when all of them could be read.
    async fn pairs(&mut self, manifest: &PartitionManifest, triplets: Option<&[Triplet]>) -> Result<Option<Vec<ScoredCandidate>>> {
        let mut all = Some(Vec::new());
        for chunk in &manifest.chunks {
            self.inspector.check_objects(chunk, &[role::CANDIDATES]).await?;
            let candidates = self.inspector.table::<ScoredCandidate>(chunk, role::CANDIDATES).await?;
            if let Some(candidates) = &candidates {
                let failed = candidates.iter().filter(|candidate| candidate.error.is_some()).count() as u64;
                self.equal(Stage::Pairs, &rows_of(chunk, role::CANDIDATES), candidates.len() as u64, chunk.counts.expected);
                self.equal(Stage::Pairs, &rows_of(chunk, "candidates with an error"), failed, chunk.counts.quarantined);
                if let Some(triplets) = triplets {
                    self.draws(triplets, chunk, candidates);
                }
            }
            all = all.zip(candidates).map(|(mut all, mut candidates)| {
                all.append(&mut candidates);
                all
            });
        }
        Ok(all)
    }

    /// Every candidate is the plan's draw: each sample of each triplet once, in order, with its seed, threshold and
    /// guidance.
    fn draws(&mut self, triplets: &[Triplet], chunk: &ChunkManifest, candidates: &[ScoredCandidate]) {
        let spec = &self.inspector.plan.spec;
        let pairs = &spec.stages.pairs;
        let (first, after) = (pairs.candidates_before(chunk.start), pairs.candidates_before(chunk.end));
        self.equal(Stage::Pairs, &rows_of(chunk, "planned candidates"), candidates.len() as u64, after.saturating_sub(first));
        let planned = triplets.iter().flat_map(|triplet| (0..pairs.samples).map(|sample| (triplet.id, sample)));
        let mut pairs = planned.skip(first as usize).zip(candidates);
        let wrong = pairs.find(|((id, sample), found)| Candidate::draw(spec.seed, *id, *sample, &spec.stages.pairs) != found.candidate);
        if let Some(((id, sample), found)) = wrong {
            let found = &found.candidate;
            let problem = format!(
                "where sample {sample} of triplet {id} belongs, there is sample {} of triplet {} with seed {}, which the plan does not draw",
                found.sample, found.triplet, found.seed
            );
            self.report(Stage::Pairs, problem);
        }
    }

    async fn filter(
        &mut self,
        manifest: &PartitionManifest,
        triplets: Option<&[Triplet]>,
        candidates: Option<&[ScoredCandidate]>,
        images: &HashMap<String, u64>,
    ) -> Result<()> {
        let samples = self.inspector.plan.spec.stages.pairs.samples as usize;
        for chunk in &manifest.chunks {
            self.inspector.check_objects(chunk, &[role::SELECTION]).await?;
            let Some(rows) = self.inspector.table::<IndexRow>(chunk, role::SELECTION).await? else { continue };
            rows.iter().for_each(|row| self.verdicts.add(row));
            self.counts(chunk, &rows);
            self.images(&rows, images);
            self.verdicts_follow(&rows, samples);
            let (start, end) = (chunk.start as usize, chunk.end as usize);
            if let Some(candidates) = candidates.and_then(|all| all.get(start * samples..end * samples)) {
                self.candidates_stay(&rows, candidates);
            }
            if let Some(triplets) = triplets.and_then(|all| all.get(start..end)) {
                self.texts_stay(&rows, triplets, samples);
            }
        }
        Ok(())
    }

    fn counts(&mut self, chunk: &ChunkManifest, rows: &[IndexRow]) {
        let mut counts = Counts { expected: rows.len() as u64, ..Counts::default() };
        for row in rows {
            match &row.verdict {
                Verdict::Kept => counts.output += 1,
                Verdict::Rejected(reason) => counts.reject(reason.name()),
                Verdict::Quarantined(_) => counts.quarantined += 1,
            }
        }
        if counts != chunk.counts {
            let range = format!("{}..{}", chunk.start, chunk.end);
            self.report(Stage::Filter, format!("the selection of chunk {range} has {counts:?}, its manifest says {:?}", chunk.counts));
        }
    }

    /// A kept pair has both images, inside objects that belong to the run.
    fn images(&mut self, rows: &[IndexRow], objects: &HashMap<String, u64>) {
        let inside = |image: &ImageRef| {
            let end = image.offset.checked_add(image.length);
            image.length > 0 && objects.get(&image.object).is_some_and(|bytes| end.is_some_and(|end| end <= *bytes))
        };
        let sound = |row: &&IndexRow| match &row.images {
            Some(images) => images.iter().all(inside),
            None => row.verdict != Verdict::Kept,
        };
        if let Some(row) = rows.iter().find(|row| !sound(row)) {
            self.report(Stage::Filter, format!("the images of pair {} are not in any object of the run", row.pair));
        }
    }

    /// Verdicts are what the scores and the plan's thresholds give.
    fn verdicts_follow(&mut self, rows: &[IndexRow], samples: usize) {
        let filter = &self.inspector.plan.spec.stages.filter;
        let scored = |row: &IndexRow| ScoredCandidate {
            candidate: row.candidate.clone(),
            scores: row.scores,
            error: match &row.verdict {
                Verdict::Quarantined(error) if row.scores.is_none() => Some(error.clone()),
                Verdict::Quarantined(_) | Verdict::Kept | Verdict::Rejected(_) => None,
            },
            images: None,
        };
        let wrong = rows.chunks(samples.max(1)).find_map(|rows| {
            let verdicts = selection::judge(&rows.iter().map(scored).collect::<Vec<_>>(), filter);
            rows.iter().zip(verdicts).find(|(row, verdict)| row.verdict != *verdict)
        });
        if let Some((row, verdict)) = wrong {
            let problem = format!("pair {} is {:?}, but its scores and the plan's thresholds make it {verdict:?}", row.pair, row.verdict);
            self.report(Stage::Filter, problem);
        }
    }

    /// The selection has the candidates of `pairs`, in order, with their scores.
    fn candidates_stay(&mut self, rows: &[IndexRow], candidates: &[ScoredCandidate]) {
        let same = |(row, c): &(&IndexRow, &ScoredCandidate)| {
            row.pair == c.candidate.pair_id() && row.candidate == c.candidate && (c.scores.is_none() || bits(c.scores) == bits(row.scores))
        };
        if let Some((row, candidate)) = rows.iter().zip(candidates).find(|pair| !same(pair)) {
            let expected = candidate.candidate.pair_id();
            self.report(Stage::Filter, format!("pair {} does not agree with its candidate {expected} of the pairs stage", row.pair));
        }
    }

    fn texts_stay(&mut self, rows: &[IndexRow], triplets: &[Triplet], samples: usize) {
        let same =
            |row: &IndexRow, t: &Triplet| (&row.caption, &row.edit, &row.output, &row.url) == (&t.caption, &t.edit, &t.output, &t.url);
        let mut pairs = rows.chunks(samples.max(1)).zip(triplets).flat_map(|(rows, triplet)| rows.iter().map(move |row| (row, triplet)));
        if let Some((row, triplet)) = pairs.find(|(row, triplet)| !same(row, triplet)) {
            self.report(Stage::Filter, format!("pair {} has other texts than its triplet {}", row.pair, triplet.id));
        }
    }
}

/// Scores by their bits: one that is not a number equals itself.
fn bits(scores: Option<Scores>) -> Option<[u64; 4]> {
    scores.map(|s| [s.clip_sim_0, s.clip_sim_1, s.clip_sim_dir, s.clip_sim_image].map(f64::to_bits))
}

fn rows_of(chunk: &ChunkManifest, what: &str) -> String {
    format!("{what} in the table of chunk {}..{}", chunk.start, chunk.end)
}

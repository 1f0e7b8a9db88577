use super::*;
use crate::fixture::{CANDIDATES, Fixture, KEPT, file_of};
use bytes::Bytes;
use ip2p_pipeline::commit;
use ip2p_pipeline::manifest::{Counts, SHARDS_FIGURE};
use ip2p_pipeline::records::{IndexRow, RejectReason, RejectedCompletion, ScoredCandidate, Scores, Triplet};
use ip2p_pipeline::spec::ShardFormat;
use ip2p_pipeline::tables::Table;

async fn findings(fixture: &Fixture) -> Vec<Finding> {
    audit(&fixture.store, &fixture.plan, false).await.unwrap().findings
}

/// The damage is found at its place, and the message says what it is.
async fn expect(fixture: &Fixture, stage: Stage, partition: Option<u32>, words: &str) {
    let found = findings(fixture).await;
    let hit = found.iter().any(|f| f.stage == Some(stage) && f.partition == partition && f.problem.contains(words) && !f.advice.is_empty());
    assert!(hit, "no finding of {stage} {partition:?} says `{words}`: {found:#?}");
}

/// The damage to the run as a whole is found at the object, and the message says what it is.
async fn expect_at(fixture: &Fixture, key: &str, words: &str) {
    let found = findings(fixture).await;
    let hit = found.iter().any(|f| f.object.as_deref() == Some(key) && f.problem.contains(words) && !f.advice.is_empty());
    assert!(hit, "no finding at {key} says `{words}`: {found:#?}");
}

/// Key of the first object of a role.
async fn object(fixture: &Fixture, stage: Stage, partition: u32, role: &str) -> String {
    fixture.manifest(stage, partition).await.objects(role).next().unwrap().key.clone()
}

#[tokio::test]
async fn a_finished_run_is_sound() {
    let fixture = Fixture::closed().await;
    let full = audit(&fixture.store, &fixture.plan, false).await.unwrap();
    assert_eq!(full.findings, []);
    assert_eq!(full.unfinished, []);
    // Corpus, 3 x 2 partitions, index, 4 shards.
    assert_eq!(full.checked.manifests, 12);
    // 4 triplets and 1 rejected completion, candidates, selection, index, kept.
    assert_eq!(full.checked.rows, 5 + 3 * CANDIDATES + KEPT);
    let quick = audit(&fixture.store, &fixture.plan, true).await.unwrap();
    assert!(quick.is_sound(), "{quick}");
    assert_eq!((quick.checked.objects, quick.checked.bytes), (full.checked.objects, full.checked.bytes));
    assert_eq!(quick.checked.rows, 0);
}

/// A committed index names the images of every pair: were it left, no later run could write the shards.
#[tokio::test]
async fn the_advice_names_all_that_was_made_from_what_is_lost() {
    let fixture = Fixture::closed().await;
    fixture.store.delete(&object(&fixture, Stage::Pairs, 0, "images").await).await.unwrap();
    let advice = findings(&fixture).await.remove(0).advice;
    let dir = |stage| fixture.plan.dir(stage);
    for path in [dir(Stage::Pairs).manifest(0), dir(Stage::Filter).chunks_of(0), dir(Stage::Index).root(), dir(Stage::Shards).root()] {
        assert!(advice.contains(&path), "{path} is not in: {advice}");
    }
    assert!(!advice.contains("prompts/"), "{advice}");
}

#[tokio::test]
async fn what_is_not_done_yet_is_no_damage() {
    let fixture = Fixture::closed().await;
    for shard in 0..4 {
        fixture.store.delete(&fixture.plan.dir(Stage::Shards).manifest(shard)).await.unwrap();
    }
    fixture.store.delete(&fixture.plan.dir(Stage::Index).manifest(0)).await.unwrap();
    fixture.store.delete(&fixture.plan.dir(Stage::Filter).manifest(1)).await.unwrap();
    let audit = audit(&fixture.store, &fixture.plan, false).await.unwrap();
    assert!(audit.is_sound(), "{audit}");
    assert!(audit.to_string().contains("sound so far: the run is not finished"), "{audit}");
    let unfinished: Vec<_> = audit.unfinished.iter().map(|u| (u.stage, u.committed, u.of)).collect();
    assert_eq!(unfinished, [(Stage::Filter, 1, Some(2)), (Stage::Index, 0, Some(1)), (Stage::Shards, 0, None)]);
}

#[tokio::test]
async fn committed_chunks_of_a_partition_at_work_are_read_too() {
    let fixture = Fixture::closed().await;
    let candidates = object(&fixture, Stage::Pairs, 0, "candidates").await;
    for dir in [Stage::Pairs, Stage::Filter].map(|stage| fixture.plan.dir(stage)) {
        fixture.store.delete(&dir.manifest(0)).await.unwrap();
    }
    for stage in [Stage::Index, Stage::Shards] {
        for manifest in fixture.store.list(&fixture.plan.dir(stage).manifests()).await.unwrap() {
            fixture.store.delete(&manifest.0).await.unwrap();
        }
    }
    assert_eq!(findings(&fixture).await, []);
    fixture.store.put(&candidates, Bytes::from_static(b"short")).await.unwrap();
    expect(&fixture, Stage::Pairs, Some(0), "it has 5 bytes").await;
}

#[tokio::test]
async fn objects_missing_short_or_altered_are_named() {
    let fixture = Fixture::closed().await;
    let store = &fixture.store;
    let images = object(&fixture, Stage::Pairs, 0, "images").await;
    let candidates = object(&fixture, Stage::Pairs, 1, "candidates").await;
    let shard = fixture.plan.dir(Stage::Shards).dataset("data/train-00000-of-00001.parquet");
    store.delete(&images).await.unwrap();
    store.put(&candidates, Bytes::from_static(b"short")).await.unwrap();
    let mut bytes = store.require(&shard).await.unwrap().to_vec();
    bytes[40] ^= 1;
    store.put(&shard, bytes.into()).await.unwrap();
    expect(&fixture, Stage::Pairs, Some(0), "missing").await;
    expect(&fixture, Stage::Pairs, Some(1), "it has 5 bytes").await;
    expect(&fixture, Stage::Shards, Some(1), "checksum").await;
    let full = audit(store, &fixture.plan, false).await.unwrap();
    let named: Vec<_> = full.findings.iter().filter_map(|finding| finding.object.clone()).collect();
    assert_eq!(named, [images, candidates, shard]);
    assert_eq!(full.mendable(), [(Stage::Pairs, 0), (Stage::Pairs, 1), (Stage::Shards, 1)].into());
    let quick = audit(store, &fixture.plan, true).await.unwrap();
    assert_eq!(quick.findings.len(), 2, "quick does not read bytes: {quick}");
}

#[tokio::test]
async fn missing_and_unreadable_manifests_are_found() {
    let fixture = Fixture::closed().await;
    fixture.store.delete(&fixture.plan.dir(Stage::Prompts).manifest(0)).await.unwrap();
    fixture.store.put(&fixture.plan.dir(Stage::Filter).manifest(1), Bytes::from_static(b"{")).await.unwrap();
    expect(&fixture, Stage::Prompts, Some(0), "missing, but later stages").await;
    assert!(audit(&fixture.store, &fixture.plan, false).await.unwrap().mendable().is_empty(), "nothing can make a manifest again");
    expect(&fixture, Stage::Filter, Some(1), "not a manifest").await;
}

#[tokio::test]
async fn a_manifest_in_the_wrong_place_is_found() {
    let fixture = Fixture::closed().await;
    fixture.damage_manifest(Stage::Filter, 1, |m| m.partition = 0).await;
    expect(&fixture, Stage::Filter, Some(1), "it describes filter partition 0").await;
    let stray = commit_key(&fixture, Stage::Pairs, 9).await;
    expect(&fixture, Stage::Pairs, Some(9), "2 partitions").await;
    fixture.store.delete(&stray).await.unwrap();
    fixture.store.put(&fixture.plan.dir(Stage::Shards).manifest(4), Bytes::from_static(b"{}")).await.unwrap();
    expect(&fixture, Stage::Shards, Some(4), "4 shards").await;
}

async fn commit_key(fixture: &Fixture, stage: Stage, partition: u32) -> String {
    let key = fixture.plan.dir(stage).manifest(partition);
    fixture.store.put(&key, Bytes::from_static(b"{}")).await.unwrap();
    key
}

#[tokio::test]
async fn gaps_overlaps_and_short_chains_are_found() {
    let fixture = Fixture::closed().await;
    fixture.damage_manifest(Stage::Pairs, 0, |m| m.chunks[1].start = 0).await;
    expect(&fixture, Stage::Pairs, Some(0), "records 0..1 are in two chunks").await;
    fixture.damage_manifest(Stage::Pairs, 0, |m| drop(m.chunks.remove(0))).await;
    fixture.damage_manifest(Stage::Pairs, 0, |m| m.chunks[0].start = 1).await;
    expect(&fixture, Stage::Pairs, Some(0), "no chunk holds the records 0..1").await;
    fixture.damage_manifest(Stage::Pairs, 1, |m| drop(m.chunks.pop())).await;
    expect(&fixture, Stage::Pairs, Some(1), "end at record 1 of 2").await;
}

#[tokio::test]
async fn counts_that_do_not_add_up_are_found() {
    let fixture = Fixture::closed().await;
    fixture.damage_manifest(Stage::Filter, 0, |m| m.chunks[0].counts.output += 1).await;
    expect(&fixture, Stage::Filter, Some(0), "expected 6 is not output 3").await;
    expect(&fixture, Stage::Filter, Some(0), "its manifest says").await;
    fixture.damage_manifest(Stage::Prompts, 1, |m| m.chunks[0].counts = Counts { expected: 1, output: 1, ..Counts::default() }).await;
    expect(&fixture, Stage::Prompts, Some(1), "completions accounted for: 1, but 2 expected").await;
    expect(&fixture, Stage::Prompts, Some(1), "triplets in the table of chunk 0..2: 2, but 1 expected").await;
    expect(&fixture, Stage::Pairs, Some(1), "candidates accounted for: 6, but 3 expected").await;
}

#[tokio::test]
async fn lost_rows_are_found() {
    let fixture = Fixture::closed().await;
    fixture.damage_rows::<RejectedCompletion>(Stage::Prompts, 0, "rejected", Vec::clear).await;
    fixture.damage_rows::<ScoredCandidate>(Stage::Pairs, 0, "candidates", |rows| drop(rows.pop())).await;
    fixture.damage_rows::<IndexRow>(Stage::Filter, 1, "selection", |rows| drop(rows.pop())).await;
    expect(&fixture, Stage::Prompts, Some(0), "rejected in the table of chunk 0..3: 0, but 1 expected").await;
    expect(&fixture, Stage::Pairs, Some(0), "candidates in the table of chunk 0..1: 2, but 3 expected").await;
    expect(&fixture, Stage::Filter, Some(1), "the selection of chunk 0..2").await;
}

#[tokio::test]
async fn altered_texts_draws_and_scores_are_found() {
    let fixture = Fixture::closed().await;
    fixture.damage_rows::<ScoredCandidate>(Stage::Pairs, 0, "candidates", |rows| rows[1].candidate.seed ^= 1).await;
    expect(&fixture, Stage::Pairs, Some(0), "the plan does not draw").await;
    fixture.damage_rows::<IndexRow>(Stage::Filter, 1, "selection", |rows| rows[0].caption.push('!')).await;
    expect(&fixture, Stage::Filter, Some(1), "other texts").await;
    fixture.damage_rows::<IndexRow>(Stage::Filter, 1, "selection", |rows| rows[1].scores = rows[0].scores).await;
    expect(&fixture, Stage::Filter, Some(1), "does not agree with its candidate").await;
    fixture.damage_rows::<Triplet>(Stage::Prompts, 1, "triplets", |rows| rows[0].edit.push('!')).await;
    expect(&fixture, Stage::Prompts, Some(1), "do not have this id").await;
}

#[tokio::test]
async fn verdicts_against_the_thresholds_are_found() {
    let fixture = Fixture::closed().await;
    let swap = |rows: &mut Vec<IndexRow>| rows[1].verdict = Verdict::Rejected(RejectReason::TextSimilarity);
    fixture.damage_rows::<IndexRow>(Stage::Filter, 0, "selection", swap).await;
    expect(&fixture, Stage::Filter, Some(0), "thresholds make it Rejected(DirectionSimilarity)").await;
}

#[tokio::test]
async fn a_score_that_is_no_number_is_quarantine_and_no_damage() {
    let fixture = Fixture::closed().await;
    let scores = Scores { clip_sim_0: f64::NAN, clip_sim_1: 0.3, clip_sim_dir: 0.3, clip_sim_image: 0.9 };
    fixture.damage_rows::<ScoredCandidate>(Stage::Pairs, 0, "candidates", |rows| rows[1].scores = Some(scores)).await;
    fixture
        .damage_rows::<IndexRow>(Stage::Filter, 0, "selection", |rows| {
            rows[1].scores = Some(scores);
            rows[1].verdict = Verdict::Quarantined("a CLIP similarity is not a number".to_string());
        })
        .await;
    let counts = |m: &mut ip2p_pipeline::manifest::PartitionManifest| {
        m.chunks[0].counts.quarantined = 1;
        m.chunks[0].counts.rejected.insert("direction_similarity".to_string(), 1);
    };
    fixture.damage_manifest(Stage::Filter, 0, counts).await;
    let found = findings(&fixture).await;
    assert!(found.iter().all(|finding| finding.stage == Some(Stage::Index)), "only the index has the old verdict: {found:#?}");
}

#[tokio::test]
async fn images_outside_the_run_are_found() {
    let fixture = Fixture::closed().await;
    let beyond = |rows: &mut Vec<IndexRow>| rows[0].images.as_mut().unwrap()[1].length += 1;
    fixture.damage_rows::<IndexRow>(Stage::Filter, 0, "selection", beyond).await;
    expect(&fixture, Stage::Filter, Some(0), "not in any object").await;
    fixture.damage_rows::<IndexRow>(Stage::Filter, 1, "selection", |rows| rows[0].images = None).await;
    expect(&fixture, Stage::Filter, Some(1), "not in any object").await;
}

#[tokio::test]
async fn one_triplet_in_two_partitions_is_found() {
    let fixture = Fixture::closed().await;
    let first = fixture.manifest(Stage::Prompts, 0).await.objects("triplets").next().unwrap().clone();
    let stolen = Triplet::decode("", fixture.store.require(&first.key).await.unwrap()).unwrap().remove(0);
    fixture.damage_rows::<Triplet>(Stage::Prompts, 1, "triplets", |rows| rows[0] = stolen).await;
    expect(&fixture, Stage::Prompts, Some(1), "is in partition 0 as well").await;
}

#[tokio::test]
async fn objects_named_twice_or_outside_the_stage_are_found() {
    let fixture = Fixture::closed().await;
    fixture
        .damage_manifest(Stage::Filter, 0, |m| {
            let twice = m.chunks[0].objects[0].clone();
            m.chunks[0].objects.push(twice);
        })
        .await;
    expect(&fixture, Stage::Filter, Some(0), "names it twice").await;
    fixture.damage_manifest(Stage::Filter, 1, |m| m.chunks[0].objects[0].key = "elsewhere".to_string()).await;
    expect(&fixture, Stage::Filter, Some(1), "outside the stage's folder").await;
}

#[tokio::test]
async fn an_index_that_differs_from_the_verdicts_is_found() {
    let fixture = Fixture::closed().await;
    fixture.damage_rows::<IndexRow>(Stage::Index, 0, "kept", |rows| drop(rows.pop())).await;
    expect(&fixture, Stage::Index, Some(0), "the table of kept pairs has 3 rows").await;
    fixture.damage_rows::<IndexRow>(Stage::Index, 0, "index", |rows| rows.swap(0, 1)).await;
    let before = findings(&fixture).await.len();
    fixture.damage_rows::<IndexRow>(Stage::Index, 0, "index", |rows| rows[0] = rows[1].clone()).await;
    assert_eq!(findings(&fixture).await.len(), before + 1, "the order of rows is free, their content is not");
    expect(&fixture, Stage::Index, Some(0), "the index has 12 rows with 5 kept, the filter's partitions have 12 with 4").await;
}

#[tokio::test]
async fn an_index_of_impossibly_many_shards_is_found() {
    let fixture = Fixture::closed().await;
    let figures = [(SHARDS_FIGURE.to_string(), 4e9)];
    fixture.damage_manifest(Stage::Index, 0, |m| m.chunks[0].figures.extend(figures)).await;
    expect(&fixture, Stage::Index, Some(0), "it cannot have so many shards").await;
}

/// Damage of the table of kept pairs or of the whole index; what the finding says.
async fn expect_in_index(role: &str, damage: fn(&mut Vec<IndexRow>), words: &str) {
    let fixture = Fixture::closed().await;
    fixture.damage_rows(Stage::Index, 0, role, damage).await;
    expect(&fixture, Stage::Index, Some(0), words).await;
}

#[tokio::test]
async fn every_field_of_the_index_must_be_the_filters() {
    let kept = "the table of kept pairs has 4 rows, the filter kept 4; or some rows differ";
    expect_in_index("kept", |rows| rows[0] = rows[1].clone(), kept).await;
    expect_in_index("kept", |rows| rows[2].edit.push('!'), kept).await;
    let index = "the index has 12 rows with 4 kept, the filter's partitions have 12 with 4; or some rows differ";
    expect_in_index("index", |rows| rows[3].caption.push('!'), index).await;
    expect_in_index("index", |rows| rows[3].scores.as_mut().unwrap().clip_sim_0 += f64::EPSILON, index).await;
    expect_in_index("index", |rows| rows[0].images.as_mut().unwrap().swap(0, 1), index).await;
}

/// Replaces a shard and describes it correctly. Returns the kept rows.
async fn damage_shard(fixture: &Fixture, partition: u32, format: ShardFormat, damage: impl FnOnce(&mut Vec<IndexRow>)) {
    let kept = fixture.store.require(&object(fixture, Stage::Index, 0, "kept").await).await.unwrap();
    let mut rows = IndexRow::decode("", kept).unwrap();
    damage(&mut rows);
    let key = object(fixture, Stage::Shards, partition, "shard").await;
    let object = commit::write_data(&fixture.store, "shard", key, file_of(format, &rows)).await.unwrap();
    fixture.damage_manifest(Stage::Shards, partition, |m| m.chunks[0].objects[0] = object).await;
}

#[tokio::test]
async fn shards_that_lack_pairs_are_found() {
    let fixture = Fixture::closed().await;
    damage_shard(&fixture, 1, ShardFormat::Parquet, |rows| drop(rows.pop())).await;
    expect(&fixture, Stage::Shards, None, "the parquet shards hold 3 pairs, 4 were kept").await;
    fixture.damage_manifest(Stage::Shards, 0, |m| m.chunks[0].counts = Counts { expected: 3, output: 3, ..Counts::default() }).await;
    expect(&fixture, Stage::Shards, None, "account for 11 samples").await;
}

#[tokio::test]
async fn shards_with_a_pair_twice_or_altered_are_found() {
    for (partition, format) in [(0, ShardFormat::Webdataset), (1, ShardFormat::Parquet)] {
        let words = format!("the {} shards hold 4 pairs, but not those that were kept", format.name());
        let fixture = Fixture::closed().await;
        damage_shard(&fixture, partition, format, |rows| rows.swap(0, 3)).await;
        assert!(!findings(&fixture).await.iter().any(|f| f.stage == Some(Stage::Shards)), "pairs are shuffled");
        damage_shard(&fixture, partition, format, |rows| rows[0] = rows[1].clone()).await;
        expect(&fixture, Stage::Shards, None, &words).await;
        damage_shard(&fixture, partition, format, |rows| rows[0].output.push('!')).await;
        expect(&fixture, Stage::Shards, None, &words).await;
    }
}

#[tokio::test]
async fn a_folder_with_an_image_of_another_seed_is_found() {
    for (number, words) in [(0, "the original shards hold 4 pairs, but"), (1, "the original shards hold second images of 4 pairs, but")] {
        let fixture = Fixture::closed().await;
        let manifest = fixture.manifest(Stage::Shards, 2).await;
        let [key, other] = [number, number + 2].map(|i| manifest.chunks[0].objects[i].key.clone());
        let seed = other.rsplit('/').next().unwrap();
        let renamed = format!("{}/{seed}", key.rsplit_once('/').unwrap().0);
        fixture.store.put(&renamed, fixture.store.require(&key).await.unwrap()).await.unwrap();
        fixture.damage_manifest(Stage::Shards, 2, |m| m.chunks[0].objects[number].key = renamed).await;
        expect(&fixture, Stage::Shards, None, words).await;
    }
}

#[tokio::test]
async fn a_changed_corpus_is_found() {
    let fixture = Fixture::closed().await;
    let key = fixture.plan.corpus_dir.manifest(0);
    let text = String::from_utf8(fixture.store.require(&key).await.unwrap().to_vec()).unwrap();
    fixture.store.put(&key, text.replace("\"records\": 5", "\"records\": 6").into()).await.unwrap();
    expect(&fixture, Stage::Corpus, None, "its objects hold 6 records, it says 6, the plan says 5").await;
    fixture.store.delete(&key).await.unwrap();
    expect(&fixture, Stage::Corpus, None, "missing").await;
    fixture.store.put(&ip2p_pipeline::layout::partitioning(&fixture.plan.dir(Stage::Prompts)), "{}".into()).await.unwrap();
    expect(&fixture, Stage::Prompts, None, "not a manifest").await;
}

#[tokio::test]
async fn the_text_names_stage_partition_object_and_remedy() {
    let fixture = Fixture::closed().await;
    let images = object(&fixture, Stage::Pairs, 0, "images").await;
    fixture.store.delete(&images).await.unwrap();
    let text = audit(&fixture.store, &fixture.plan, false).await.unwrap().to_string();
    assert!(text.contains(&format!("problem  pairs partition 0, object {images}: it is missing\n  to do  `run --repair` makes")), "{text}");
    assert!(text.contains("1 problem found"), "{text}");
}

#[tokio::test]
async fn files_beside_the_shards_are_found() {
    let fixture = Fixture::closed().await;
    let dir = fixture.plan.dir(Stage::Shards);
    let copy = dir.dataset("webdataset/train-000000 (copy).tar");
    let shard = fixture.store.require(&dir.dataset("webdataset/train-000000.tar")).await.unwrap();
    fixture.store.put(&copy, shard).await.unwrap();
    expect_at(&fixture, &copy, "no manifest names it").await;
    let quick = audit(&fixture.store, &fixture.plan, true).await.unwrap();
    assert_eq!(quick.findings.len(), 1, "{quick}");
    // Before all shards are committed, a worker may be about to commit it.
    fixture.store.delete(&dir.manifest(3)).await.unwrap();
    assert_eq!(findings(&fixture).await, []);
}

#[tokio::test]
async fn half_written_files_beside_the_shards_are_found() {
    let fixture = Fixture::closed().await;
    let folder = tempfile::tempdir().unwrap();
    let local = ip2p_pipeline::store::Store::open(&format!("file://{}", folder.path().display())).unwrap();
    for (key, _) in fixture.store.list("").await.unwrap() {
        local.put(&key, fixture.store.require(&key).await.unwrap()).await.unwrap();
    }
    let fixture = Fixture { store: local, plan: fixture.plan };
    assert_eq!(findings(&fixture).await, []);
    let staged = fixture.plan.dir(Stage::Shards).dataset("webdataset/train-000000.tar#1");
    std::fs::write(folder.path().join(&staged), "half").unwrap();
    expect_at(&fixture, &staged, "half-written").await;
    crate::finish::tidy(&fixture.store, &fixture.plan).unwrap();
    assert_eq!(findings(&fixture).await, []);
}

#[tokio::test]
async fn a_lost_or_altered_card_report_or_summary_is_found() {
    let fixture = Fixture::closed().await;
    let (store, dir) = (&fixture.store, fixture.plan.dir(Stage::Shards));
    for key in [dir.dataset("README.md"), dir.dataset("stats.json"), "report.html".to_string()] {
        let whole = store.require(&key).await.unwrap();
        store.delete(&key).await.unwrap();
        expect_at(&fixture, &key, "missing").await;
        let mut altered = whole.to_vec();
        altered[20] ^= 1;
        store.put(&key, altered.into()).await.unwrap();
        expect_at(&fixture, &key, "checksum").await;
        store.put(&key, whole).await.unwrap();
    }
    let whole = store.require("summary.json").await.unwrap();
    store.delete("summary.json").await.unwrap();
    expect_at(&fixture, "summary.json", "missing").await;
    store.delete(&dir.dataset("README.md")).await.unwrap();
    expect_at(&fixture, &dir.dataset("README.md"), "missing").await;
    store.put("summary.json", whole.slice(1..)).await.unwrap();
    expect_at(&fixture, "summary.json", "not a manifest").await;
}

#[tokio::test]
async fn a_summary_that_says_other_numbers_is_found() {
    let fixture = Fixture::closed().await;
    let damage = async |damage: fn(&mut crate::summary::Summary), words: &str| {
        let whole = fixture.store.require("summary.json").await.unwrap();
        let mut summary = serde_json::from_slice(&whole).unwrap();
        damage(&mut summary);
        fixture.store.put("summary.json", ip2p_pipeline::commit::encode(&summary).unwrap()).await.unwrap();
        expect_at(&fixture, "summary.json", words).await;
        fixture.store.put("summary.json", whole).await.unwrap();
    };
    damage(|s| s.stages[2].counts.output += 1, "its figures of filter are not the sums").await;
    damage(|s| s.stages[3].figures.clear(), "its figures of index").await;
    damage(|s| s.stages[1].seconds *= 2.0, "its figures of pairs").await;
    damage(|s| drop(s.stages.pop()), "figures of 4 stages").await;
    damage(|s| s.captions -= 1, "not those of the corpus").await;
    damage(|s| s.splits[0].pairs += 1, "not those of the index").await;
    damage(|s| s.complete = false, "not complete").await;
    damage(|s| s.plan = ip2p_pipeline::ids::Fingerprint::of(&["another"]), "never had").await;
    assert_eq!(findings(&fixture).await, []);
}

/// There is one summary, of the run that ended last.
#[tokio::test]
async fn the_summary_of_another_plan_is_no_damage_and_the_card_must_be_there() {
    let fixture = Fixture::closed().await;
    let mut spec = fixture.plan.spec.clone();
    spec.stages.filter.keep = 1;
    let first = &fixture.plan;
    let other = Plan::new(spec, first.corpus_dir, first.corpus, first.models.clone(), first.partitioning);
    fixture.store.put(&ip2p_pipeline::layout::plan(other.fingerprint()), ip2p_pipeline::commit::encode(&other).unwrap()).await.unwrap();
    let mut summary: crate::summary::Summary = serde_json::from_slice(&fixture.store.require("summary.json").await.unwrap()).unwrap();
    summary.plan = other.fingerprint();
    fixture.store.put("summary.json", ip2p_pipeline::commit::encode(&summary).unwrap()).await.unwrap();
    assert_eq!(findings(&fixture).await, []);
    let readme = fixture.plan.dir(Stage::Shards).dataset("README.md");
    fixture.store.delete(&readme).await.unwrap();
    expect_at(&fixture, &readme, "missing").await;
}

#[tokio::test]
async fn a_broken_chain_of_chunks_is_found_and_chunks_of_what_is_committed_are_not_needed() {
    let fixture = Fixture::closed().await;
    let dir = fixture.plan.dir(Stage::Pairs);
    let first = dir.chunk(1, 0);
    fixture.store.delete(&first).await.unwrap();
    assert_eq!(findings(&fixture).await, [], "the partition's manifest says all that they say");
    fixture.store.delete(&dir.manifest(1)).await.unwrap();
    fixture.store.delete(&fixture.plan.dir(Stage::Filter).manifest(1)).await.unwrap();
    for stage in [Stage::Index, Stage::Shards] {
        for (manifest, _) in fixture.store.list(&fixture.plan.dir(stage).manifests()).await.unwrap() {
            fixture.store.delete(&manifest).await.unwrap();
        }
    }
    expect(&fixture, Stage::Pairs, Some(1), &format!("{} was committed after it", dir.chunk(1, 1))).await;
    expect_at(&fixture, &first, "missing").await;
}

#[tokio::test]
async fn lost_and_altered_terms_are_found() {
    let fixture = Fixture::closed().await;
    let term = ip2p_pipeline::layout::term;
    fixture.store.delete(&term(1)).await.unwrap();
    expect_at(&fixture, &term(1), "missing").await;
    // As the advice says: the name alone counts.
    fixture.store.put(&term(1), "{}".into()).await.unwrap();
    assert_eq!(findings(&fixture).await, []);
    assert_eq!(crate::term::Term::take(&fixture.store).await.unwrap().number, 2);
    fixture.store.put(&term(4), "{}".into()).await.unwrap();
    expect_at(&fixture, &term(3), "missing").await;
    fixture.store.put(&term(3), "{}".into()).await.unwrap();
    fixture.store.put(&term(2), "{\"process\": 7".into()).await.unwrap();
    expect_at(&fixture, &term(2), "not what a coordinator writes").await;
}

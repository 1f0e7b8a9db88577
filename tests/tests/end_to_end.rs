//! A whole run, from captions to shards, with real processes.

use ip2p_tests::Pipeline;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

fn stdout(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn captions_become_shards_and_every_record_is_accounted_for() {
    let pipeline = Pipeline::new(PROGRAM);
    let first = stdout(&pipeline.run_expecting(0, &[]));
    let dataset = pipeline.dataset();
    for file in ["README.md", "original/seeds.json"] {
        assert!(dataset.contains_key(file), "{file} is missing: {:?}", dataset.keys());
    }
    let has = |start: &str, end: &str| dataset.keys().any(|path| path.starts_with(start) && path.ends_with(end));
    assert!(has("webdataset/train-", ".tar") && has("data/train-", ".parquet") && has("original/", "_0.jpg"));
    assert!(pipeline.objects().contains(&"report.html".to_string()));
    assert!(first.contains("captions") && first.contains("load_dataset"), "{first}");

    let audit = pipeline.call(&["audit", "pipeline.yaml"]);
    assert!(audit.status.success(), "{}{}", stdout(&audit), String::from_utf8_lossy(&audit.stderr));
    let status = stdout(&pipeline.call(&["status", "pipeline.yaml"]));
    assert!(status.contains("shards"), "{status}");
    let plan = stdout(&pipeline.call(&["plan", "pipeline.yaml"]));
    assert!(plan.contains("read as     JSONL, caption in `caption`, no url (1 file)"), "{plan}");
    assert!(plan.contains("\nkept pairs ") && !plan.contains("at most"), "what a finished run made is known: {plan}");

    let before = pipeline.objects();
    pipeline.run_expecting(0, &[]);
    assert_eq!(pipeline.objects(), before, "a finished run writes nothing");
}

#[test]
fn the_dataset_does_not_depend_on_workers_partitions_or_fusing() {
    let dataset = |overrides: &[&str]| {
        let pipeline = Pipeline::new(PROGRAM);
        // Each of the many runs is smaller than those of other tests.
        pipeline.run_expecting(0, &[&["corpus.limit=5", "stages.pairs.steps=2"][..], overrides].concat());
        pipeline.dataset()
    };
    // Two workers, partitions of three captions, fused.
    let expected = dataset(&[]);
    assert!(expected.keys().any(|path| path.ends_with(".tar")), "{:?}", expected.keys());
    let variants: [&[&str]; 7] = [
        &["run.workers=1"],
        &["run.workers=3"],
        &["partition.records=1"],
        &["partition.records=100"],
        &["stages.pairs.fuse=false"],
        &["run.workers=3", "partition.records=1", "stages.pairs.fuse=false", "run.threads=2", "run.chunk=60s"],
        &["stages.pairs.keep_rejected=true", "run.workers=1", "partition.records=100", "run.chunk=60s"],
    ];
    for overrides in variants {
        let found = dataset(overrides);
        // Only these two say how the pairs were stored, in the dataset's fingerprint.
        let described =
            |path: &&String| overrides[0] == "stages.pairs.keep_rejected=true" && ["README.md", "stats.json"].contains(&path.as_str());
        let differs = |path: &&String| found.get(*path) != expected.get(*path) && !described(path);
        let differing: Vec<&String> = expected.keys().chain(found.keys()).filter(differs).collect();
        assert!(differing.is_empty(), "{overrides:?}: {differing:?} differ");
    }
}

#[test]
fn new_thresholds_select_again_and_redo_nothing_else() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    let prompts_and_pairs = |p: &Pipeline| {
        let ours = |name: &String| name.starts_with("prompts/") || name.starts_with("pairs/");
        p.objects().into_iter().filter(ours).collect::<Vec<_>>()
    };
    let before = prompts_and_pairs(&pipeline);
    let looser = ["stages.filter.clip_direction=-1.0", "stages.filter.clip_image=-1.0", "stages.filter.keep=3"];
    pipeline.run_expecting(0, &looser);
    assert_eq!(prompts_and_pairs(&pipeline), before);

    let fresh = Pipeline::new(PROGRAM);
    fresh.run_expecting(0, &looser);
    assert_eq!(pipeline.dataset(), fresh.dataset());
}

#[test]
fn a_damaged_dataset_is_written_again_byte_for_byte() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    let (expected, objects) = (pipeline.dataset(), pipeline.objects());
    let root = pipeline.dataset_folder();
    let first = |start: &str, end: &str| expected.keys().find(|path| path.starts_with(start) && path.ends_with(end)).unwrap().clone();
    let image = first("original/", "_1.jpg");
    for file in [first("webdataset/", ".tar"), first("data/", ".parquet"), image.clone(), "README.md".to_string()] {
        std::fs::remove_file(root.join(file)).unwrap();
    }
    // And one of another length.
    std::fs::write(root.join(first("webdataset/test-", ".tar")), "half").unwrap();
    let status = stdout(&pipeline.call(&["status", "pipeline.yaml", "--json"]));
    assert!(status.contains("\"complete\": false"), "{status}");
    pipeline.run_expecting(0, &[]);
    assert_eq!(pipeline.dataset(), expected);
    let audit = pipeline.call(&["audit", "pipeline.yaml"]);
    assert!(audit.status.success(), "{}", stdout(&audit));
    let new = |name: &String| !objects.contains(name) && !name.starts_with("terms/");
    assert_eq!(pipeline.objects().into_iter().filter(new).collect::<Vec<_>>(), Vec::<String>::new());

    // Damage that no length shows: the audit says to delete the file, and that is enough.
    let mut bytes = std::fs::read(root.join(&image)).unwrap();
    bytes[100] ^= 1;
    std::fs::write(root.join(&image), bytes).unwrap();
    let audit = pipeline.call(&["audit", "pipeline.yaml"]);
    assert!(!audit.status.success() && stdout(&audit).contains(&image) && stdout(&audit).contains("delete it"), "{}", stdout(&audit));
    std::fs::remove_file(root.join(&image)).unwrap();
    pipeline.run_expecting(0, &[]);
    assert_eq!(pipeline.dataset(), expected);
}

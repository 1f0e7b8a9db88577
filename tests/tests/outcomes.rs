//! What a run leaves for people: images, quarantine, an honest end without pairs, and pairs drawn again.

use ip2p_pipeline::records::{IndexRow, RejectReason, Verdict};
use ip2p_tests::chat_server::ChatServer;
use ip2p_tests::{Pipeline, small_pipeline};
use std::collections::BTreeMap;
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// Triplets instead of captions, so that no language model is needed.
const FILE: &str = "stages.prompts.backend=file";

fn with_triplets() -> Pipeline {
    let pipeline = Pipeline::new(PROGRAM);
    let triplet = |from: &str, to: &str| {
        let caption = |colour: &str| format!("a large {colour} circle on a white background");
        let (caption, output) = (caption(from), caption(to));
        format!("{{\"caption\": \"{caption}\", \"edit\": \"make it {to}\", \"output\": \"{output}\"}}\n")
    };
    pipeline.write("captions.jsonl", &(triplet("red", "blue") + &triplet("green", "yellow")));
    pipeline
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Red, green and blue of every image of the original layout, by place without its file's ending.
fn pictures(pipeline: &Pipeline, extension: &str) -> BTreeMap<String, Vec<u8>> {
    let decode = |path: &String| {
        let place = path.split_once("/dataset/")?.1.strip_suffix(extension)?.to_string();
        let image = image::load_from_memory(&pipeline.object(path)).expect("an image");
        assert_eq!((image.width(), image.height()), (64, 64));
        Some((place, image.to_rgb8().into_raw()))
    };
    pipeline.objects().iter().filter(|path| path.contains("/original/")).filter_map(decode).collect()
}

#[test]
fn images_of_every_format_decode_and_rejected_ones_are_kept_on_demand() {
    let run = |overrides: &[&str]| {
        let pipeline = with_triplets();
        pipeline.run_expecting(0, &[&[FILE, "stages.filter.keep=1"][..], overrides].concat());
        pipeline
    };
    let (png, webp) = (run(&["stages.pairs.image=png"]), run(&["stages.pairs.image=webp"]));
    let pixels = pictures(&png, ".png");
    assert!(!pixels.is_empty());
    assert_eq!(pixels, pictures(&webp, ".webp"), "both are lossless");

    let (usual, all) = (run(&[]), run(&["stages.pairs.keep_rejected=true"]));
    assert_eq!(pictures(&usual, ".jpg").keys().collect::<Vec<_>>(), pixels.keys().collect::<Vec<_>>());
    let rejected = |pipeline: &Pipeline| {
        let mut rows = pipeline.verdicts();
        rows.retain(|row| matches!(row.verdict, Verdict::Rejected(_)));
        rows
    };
    // What was among the best of its chunk has its images, too.
    let best_for_a_while = |row: &&IndexRow| row.verdict == Verdict::Rejected(RejectReason::NotAmongBest);
    assert!(!rejected(&all).is_empty());
    assert!(rejected(&usual).iter().filter(|row| !best_for_a_while(row)).all(|row| row.images.is_none()));
    for row in rejected(&all) {
        for image in row.images.as_ref().expect("a rejected pair with its images") {
            image::load_from_memory(&all.image(image)).expect("an image");
        }
    }
    let shards = |pipeline: &Pipeline| {
        let mut files = pipeline.dataset();
        // They name the dataset's fingerprint, which says how the pairs were drawn and stored.
        files.retain(|path, _| path != "README.md" && path != "stats.json");
        files
    };
    assert_eq!(shards(&all), shards(&usual));
    all.assert_sound(&[FILE, "stages.filter.keep=1", "stages.pairs.keep_rejected=true"]);
}

#[test]
fn a_run_that_keeps_nothing_says_why_and_what_would_keep_some() {
    let pipeline = with_triplets();
    let strict = [FILE, "stages.filter.clip_direction=1.0"];
    let said = text(&pipeline.run_expecting(0, &strict));
    assert!(said.contains("0 of 6 candidates kept: 6 fail clip_direction 1"), "{said}");
    assert!(!said.contains("load_dataset"), "{said}");
    pipeline.assert_sound(&strict);
    let dataset = pipeline.dataset();
    assert!(dataset.keys().all(|path| !path.ends_with(".tar") && !path.ends_with(".parquet")), "{:?}", dataset.keys());
    let page = |name: &str| {
        let key = pipeline.objects().into_iter().find(|key| key.ends_with(name)).expect("a page");
        String::from_utf8(pipeline.object(&key)).expect("text")
    };
    assert!(page("dataset/README.md").contains("This data set is empty"));
    assert!(page("report.html").contains("0 of 6 candidates kept: 6 fail clip_direction"));
    // Asked again, it says the same.
    assert!(text(&pipeline.run_expecting(0, &strict)).contains("0 of 6 candidates kept"));

    let advice = said.split_once("would pass with ").and_then(|(_, rest)| rest.split_once(';')).expect("an advice").0;
    let advised: Vec<&str> = [FILE].into_iter().chain(advice.split(" and ")).collect();
    let said = text(&pipeline.run_expecting(0, &advised));
    assert!(said.contains("kept pairs") && !said.contains("candidates kept:"), "{advice}: {said}");
    pipeline.assert_sound(&advised);
}

#[test]
fn a_run_without_a_triplet_ends_and_shows_what_the_model_wrote() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.write("captions.jsonl", r#"{"caption": "a red circle", "edit": "keep it", "output": "A red circle."}"#);
    let said = text(&pipeline.run_expecting(0, &[FILE]));
    assert!(said.contains("0 triplets of 1 completions: 1 same_as_caption. For example `a red circle` gave `keep it"), "{said}");
    pipeline.assert_sound(&[FILE]);
    assert!(pipeline.dataset().contains_key("README.md"));
}

#[test]
fn records_that_a_server_refuses_go_to_quarantine_and_too_many_are_an_error() {
    let server = ChatServer::start(|caption: &str| match caption.contains("unwelcome") {
        true => (400, "this caption is against the rules".to_string()),
        false => (200, r#"{"edit": "make it blue", "output": "a large blue circle on a white background"}"#.to_string()),
    });
    let pipeline = Pipeline::new(PROGRAM);
    let captions = ["a large red circle on a white background", "an unwelcome circle", "a large green circle on a white background"];
    pipeline.write("captions.jsonl", &captions.map(|caption| format!("{{\"caption\": \"{caption}\"}}\n")).concat());
    let openai = format!("  prompts: {{ backend: openai, openai: {{ base_url: \"{}\", model: m, api: chat, retries: 0 }} }}", server.url());
    pipeline.write("pipeline.yaml", &small_pipeline().replace("  prompts: { backend: local }", &openai));

    // The last limit that is passed and the first that is not: 1 of 3.
    let over = text(&pipeline.run_expecting(3, &["run.max_quarantined=30%"]));
    assert!(over.contains("1 of 3 records of prompts are in quarantine"), "{over}");
    let dataset = pipeline.dataset();
    let under = text(&pipeline.run_expecting(0, &["run.max_quarantined=40%"]));
    assert_eq!(pipeline.dataset(), dataset);
    assert_eq!(pipeline.verdicts().len(), 6, "the other captions were drawn");
    pipeline.assert_sound(&[]);
    let status = text(&pipeline.call(&["status", "pipeline.yaml"]));
    let report = String::from_utf8(pipeline.object("report.html")).expect("text");
    for said in [over, under, status, report] {
        assert!(said.contains("this caption is against the rules"), "{said}");
    }
}

#[test]
fn the_command_that_explain_prints_draws_the_stored_bytes_from_anywhere() {
    let pipeline = with_triplets();
    let models = ip2p_tests::repository().join("models/tiny");
    std::os::unix::fs::symlink(&models, pipeline.path().join("tiny models")).expect("a link");
    let relative = small_pipeline().replace(&models.display().to_string(), "tiny models");
    pipeline.write("my pipeline.yaml", &relative);
    // With the file's own values this would be another run, of other images.
    let overrides = ["--set", FILE, "--set", "stages.pairs.image=png", "--set", "stages.pairs.steps=2"];
    let run = pipeline.call(&[&["run", "my pipeline.yaml"][..], &overrides[..]].concat());
    assert!(run.status.success(), "{}", text(&run));
    let row = pipeline.verdicts().into_iter().find(|row| row.verdict == Verdict::Kept).expect("a kept pair");
    let stored = row.images.as_ref().expect("its images").each_ref().map(|image| pipeline.image(image));
    let id = row.pair.to_string();
    let drawn = |folder: &std::path::Path| {
        [0, 1].map(|n| std::fs::read(folder.join(format!("{}_{n}.png", row.candidate.seed))).expect("a drawn image"))
    };

    let explained = text(&pipeline.call(&[&["explain", "my pipeline.yaml", &id][..], &overrides[..]].concat()));
    let command = explained.lines().find_map(|line| line.strip_prefix("draw again ")).expect("a command").trim();
    let done = Command::new("sh").args(["-c", command]).current_dir(pipeline.path()).output().expect("a shell");
    assert!(done.status.success(), "{command}: {}", text(&done));
    assert!(drawn(&pipeline.path().join(format!("pair-{}", &id[..12]))) == stored, "other bytes: {command}");

    // By its URL the run is found from anywhere, and so are the models, which its pipeline names by relative paths.
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    let url = format!("file://{}/out/small", pipeline.path().display());
    let draw = || pipeline.command(&["explain", &url, &id, "--draw", "again"]).current_dir(elsewhere.path()).output().expect("a process");
    let done = draw();
    assert!(done.status.success(), "{}", text(&done));
    assert!(drawn(&elsewhere.path().join("again")) == stored, "other bytes by URL");

    std::fs::remove_file(pipeline.path().join("tiny models")).expect("the link is removed");
    let refused = draw();
    let message = text(&refused);
    assert_eq!(refused.status.code(), Some(2), "{message}");
    assert!(
        message.contains("models.diffusion") && message.contains("tiny models/diffusion") && message.contains("in the folder that"),
        "{message}"
    );
}

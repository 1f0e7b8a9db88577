//! Wrong input of every kind: one clear message, the right exit status, and nothing written.
//! (The messages of `pipeline.yaml` itself are tested, whole, in `pipeline::spec`.)

use std::process::Stdio;

use ip2p_tests::{Pipeline, small_pipeline};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// Runs with `arguments`; returns exit status and messages.
fn refused(pipeline: &Pipeline, arguments: &[&str]) -> (Option<i32>, String) {
    let output = pipeline.call(arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn expect(pipeline: &Pipeline, arguments: &[&str], parts: &[&str]) {
    let (code, message) = refused(pipeline, arguments);
    assert_eq!(code, Some(2), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[test]
fn a_wrong_command_line() {
    let pipeline = Pipeline::new(PROGRAM);
    expect(&pipeline, &["rum", "pipeline.yaml"], &["rum"]);
    expect(&pipeline, &["run"], &["PIPELINE"]);
    expect(&pipeline, &["run", "missing.yaml"], &["missing.yaml"]);
    expect(&pipeline, &["run", "pipeline.yaml", "--set", "stages.pairs.step=3"], &["stages.pairs.step", "steps"]);
    expect(&pipeline, &["gc", "pipeline.yaml", "--grace", "soon"], &["--grace", "24h"]);
    expect(&pipeline, &["status", "file://./out/small", "--set", "seed=1"], &["--set"]);
    assert!(pipeline.objects().is_empty());
}

#[test]
fn a_run_that_does_not_exist() {
    let pipeline = Pipeline::new(PROGRAM);
    for command in ["status", "audit", "gc"] {
        expect(&pipeline, &[command, "pipeline.yaml"], &["no run at"]);
    }
    expect(&pipeline, &["explain", "pipeline.yaml", "abc"], &["no run at"]);
}

#[test]
fn a_secret_in_the_address_of_a_run_is_not_repeated() {
    let pipeline = Pipeline::new(PROGRAM);
    for command in ["status", "audit", "gc", "explain"] {
        let pair = if command == "explain" { &["abc"][..] } else { &[] };
        let arguments = [&[command, "s3://key:hunter2@bucket/run"], pair].concat();
        expect(&pipeline, &arguments, &["holds a secret", "environment"]);
        assert!(!refused(&pipeline, &arguments).1.contains("hunter2"));
    }
}

#[test]
fn what_a_newcomer_mixes_up() {
    let pipeline = Pipeline::new(PROGRAM);
    // Who only looks makes no folder.
    expect(&pipeline, &["status", "file://./typo"], &["no run at", "/typo"]);
    expect(&pipeline, &["status", "pipeline.yaml"], &["no run at", "/out/small"]);
    assert!(pipeline.call(&["plan", "pipeline.yaml"]).status.success());
    assert!(!pipeline.path().join("typo").exists() && !pipeline.path().join("out").exists());
    std::fs::create_dir_all(pipeline.path().join("out/small")).unwrap();
    expect(&pipeline, &["status", "out/small/"], &["out/small is a folder", "file://out/small"]);
    expect(&pipeline, &["run", "file://./out/small"], &["needs its pipeline file"]);
    expect(&pipeline, &["run", "pipeline.yaml", "--set", "store=file://./pipeline.yaml"], &["store: the folder", "choose another place"]);
    for token in ["", "two words", "caf\u{e9}"] {
        let output = pipeline.command(&["run", "pipeline.yaml"]).env("IP2P_TOKEN", token).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && message.contains("IP2P_TOKEN must be"), "{message}");
    }
}

#[test]
fn every_error_of_a_pipeline_file_in_one_go() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.write("pipeline.yaml", &small_pipeline().replace("samples: 3", "sample: 3").replace("seed: 7", "seed: many"));
    expect(&pipeline, &["run", "pipeline.yaml"], &["pipeline.yaml:3:", "seed", "stages.pairs.sample", "did you mean `samples`"]);
    assert!(pipeline.objects().is_empty());
}

#[test]
fn a_broken_corpus_names_file_and_line() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.write("captions.jsonl", "{\"caption\": \"a red circle\"}\n{\"caption\": \n");
    expect(&pipeline, &["run", "pipeline.yaml"], &["captions.jsonl", "2"]);
    pipeline.write("captions.jsonl", "{\"title\": \"a red circle\"}\n");
    expect(&pipeline, &["run", "pipeline.yaml"], &["caption"]);
    pipeline.write("captions.jsonl", "");
    expect(&pipeline, &["run", "pipeline.yaml"], &["captions.jsonl"]);
}

#[test]
fn a_model_that_is_not_one_stops_the_run_with_its_file() {
    let pipeline = Pipeline::new(PROGRAM);
    std::fs::create_dir_all(pipeline.path().join("broken")).unwrap();
    pipeline.write("broken/config.json", "{}");
    expect(&pipeline, &["run", "pipeline.yaml", "--set", "models.clip=broken"], &["models.clip: ", "broken"]);
}

#[test]
fn a_misshapen_tensor_stops_the_run_before_anything_is_spent() {
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.copy_model("diffusion", "damaged");
    let weights = pipeline.path().join("damaged/unet/diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&weights).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let mut header: serde_json::Value = serde_json::from_slice(header).unwrap();
    let shape = &mut header["conv_in.weight"]["shape"];
    let elements: u64 = shape.as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product();
    *shape = serde_json::json!([elements]);
    let header = header.to_string();
    std::fs::write(&weights, [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()).unwrap();
    let wrong = ["conv_in.weight", "expected", "diffusion_pytorch_model.safetensors"];
    expect(&pipeline, &["run", "pipeline.yaml", "--set", "models.diffusion=damaged"], &wrong);
    let spent: Vec<String> = pipeline.objects().into_iter().filter(|key| key.starts_with("prompts/") && key.contains("/data/")).collect();
    assert!(spent.is_empty(), "{spent:?}");
}

#[test]
fn a_language_model_server_that_is_not_there_stops_the_run_at_once() {
    let pipeline = Pipeline::new(PROGRAM);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let backend = "stages.prompts.backend=openai";
    let server = format!("stages.prompts.openai={{base_url: '{address}', model: any}}");
    expect(&pipeline, &["run", "pipeline.yaml", "--set", backend, "--set", &server], &[&address, "base_url", "cannot connect"]);
}

#[test]
fn a_pair_that_does_not_exist() {
    let pipeline = Pipeline::new(PROGRAM);
    let overrides = ["corpus.limit=1", "stages.pairs.steps=2"];
    pipeline.run_expecting(0, &overrides);
    let url = pipeline.url();
    expect(&pipeline, &["explain", &url, "ffffffffffff"], &["ffffffffffff"]);
    expect(&pipeline, &["explain", &url, "what?"], &["what?"]);
    // Without its overrides the file is another pipeline.
    for command in ["status", "audit"] {
        expect(&pipeline, &[command, "pipeline.yaml"], &["was never run at", &url]);
    }
}

#[test]
fn a_place_that_cannot_be_used_comes_with_an_advice() {
    let pipeline = Pipeline::new(PROGRAM);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let listen = format!("run.listen={}", taken.local_addr().expect("its address"));
    expect(&pipeline, &["run", "pipeline.yaml", "--set", &listen], &["run.listen", "another program listens there", "0 picks a free one"]);
    expect(&pipeline, &["run", "pipeline.yaml", "--set", "run.listen=192.0.2.1:7070"], &["run.listen", "no such address"]);
}

#[test]
fn a_report_that_cannot_be_written_loses_no_work() {
    let pipeline = Pipeline::new(PROGRAM);
    // A folder of that name is in the way.
    std::fs::create_dir_all(pipeline.path().join("out/small/report.html/x")).unwrap();
    let small = ["corpus.limit=1", "stages.pairs.steps=2"];
    let output = pipeline.run_expecting(4, &small);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    for part in ["report.html", "All work is committed", "run pipeline.yaml --set corpus.limit=1 --set stages.pairs.steps=2`"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    std::fs::remove_dir_all(pipeline.path().join("out/small/report.html")).unwrap();
    pipeline.run_expecting(0, &small);
    pipeline.dataset();
}

/// As `head` does when it has seen enough.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let pipeline = Pipeline::new(PROGRAM);
    let mut command = pipeline.command(&["plan", "pipeline.yaml"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

//! Whole runs with real processes on real servers: the same bytes as on a local store, whatever is killed.

use ip2p_tests::Pipeline;
use ip2p_tests::servers::{self, Described};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, OnceLock};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// The dataset of a run on a local store; one for all tests.
fn local() -> &'static BTreeMap<String, String> {
    static DATASET: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    DATASET.get_or_init(|| {
        let reference = Pipeline::new(PROGRAM);
        reference.run_expecting(0, &[]);
        reference.dataset()
    })
}

fn pipelines() -> Vec<(Pipeline, Described)> {
    ip2p_worker::tls::install();
    let pipeline = |url: String| {
        let described = Described::of(&url);
        (Pipeline::on(PROGRAM, &format!("{url}/{}", servers::unique()), &described.options, described.hidden()), described)
    };
    servers::urls().into_iter().map(pipeline).collect()
}

#[test]
fn a_run_on_a_server_makes_the_bytes_of_a_local_one() {
    for (pipeline, described) in pipelines() {
        pipeline.run_expecting(0, &[]);
        assert_eq!(&pipeline.dataset(), local());
        pipeline.assert_sound(&[]);
        let before = pipeline.objects();
        assert!(!before.iter().any(|key| key.starts_with("probes/")), "{before:?}");
        pipeline.run_expecting(0, &[]);
        assert_eq!(pipeline.objects(), before, "a finished run leaves nothing new");
        // Whoever has only the URL has the rest from the environment.
        let mut audit = pipeline.command(&["audit", &pipeline.url()]);
        let output = audit.envs(described.moved).output().expect("the program's output");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn a_coordinator_killed_on_a_server_is_followed_by_one_that_ends_in_the_same_bytes() {
    /// Objects between two kills.
    const KILL_EVERY: usize = 12;
    for (pipeline, _) in pipelines() {
        let mut kills = 0;
        loop {
            let target = pipeline.objects().len() + KILL_EVERY;
            let mut run = pipeline.start(&[]);
            // Two are enough; then it may end.
            if kills == 2 || !run.wait_until(|| pipeline.objects().len() >= target) {
                assert_eq!(run.wait(), Some(0), "{}", run.log());
                break;
            }
            run.kill();
            kills += 1;
        }
        assert_eq!(kills, 2, "the test has lost its point");
        assert_eq!(&pipeline.dataset(), local());
        pipeline.assert_sound(&[]);
    }
}

/// An S3 server that says yes to every PUT, whatever its condition. Returns its address and the paths that were put.
fn overwriting_server() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let written = Arc::new(Mutex::new(Vec::new()));
    let log = written.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(&stream);
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                match reader.read_line(&mut line) {
                    Ok(n) if n > 2 => lines.push(line),
                    _ => break,
                }
            }
            let length = lines.iter().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            // A body that is cut is no test of anything.
            let _ = reader.read_exact(&mut vec![0; length.unwrap_or(0)]);
            let mut words = lines.first().map_or("", String::as_str).split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            if method == "PUT" {
                log.lock().expect("the log").push(path.to_string());
            }
            let date = "Last-Modified: Tue, 15 Nov 1994 12:45:26 GMT";
            let answer = format!("HTTP/1.1 200 OK\r\nETag: \"e\"\r\n{date}\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx");
            // The client may be gone.
            let _ = (&stream).write_all(answer.as_bytes());
        }
    });
    (address, written)
}

#[test]
fn a_server_that_overwrites_is_refused_before_anything_is_frozen() {
    ip2p_worker::tls::install();
    let (address, written) = overwriting_server();
    let hidden = vec!["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ALLOW_HTTP"];
    let pipeline = Pipeline::on(PROGRAM, "s3://bucket/prefix", &format!("{{ endpoint: \"{address}\", allow_http: true }}"), hidden);
    let mut run = pipeline.command(&["run", "pipeline.yaml"]);
    let keys = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "kept-secret")];
    let output = run.envs(keys).output().expect("the program's output");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("store s3://bucket/prefix/small cannot hold a run") && said.contains("both succeeded"), "{said}");
    assert!(!said.contains("kept-secret"), "{said}");
    let written = written.lock().expect("the log");
    assert!(written.len() == 2 && written.iter().all(|path| path.starts_with("/bucket/prefix/small/probes/")), "{written:?}");
}

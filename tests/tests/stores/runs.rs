//! Whole runs with real processes on real servers: the same bytes as on a local store, whatever is killed.

use ip2p_tests::Pipeline;
use std::collections::BTreeMap;
use std::sync::OnceLock;

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

/// Where the environment says that the server is: moved into `store_options`, so that a run works only if its
/// workers have them from the plan.
struct Described {
    options: String,
    moved: Vec<(&'static str, String)>,
}

fn described(url: &str) -> Described {
    let [endpoint, more] = match url.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" => ["AWS_ENDPOINT", "AWS_ALLOW_HTTP"],
        "az" => ["AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP"],
        _ => panic!("no options are known for {url}"),
    };
    let moved: Vec<_> = [endpoint, more].map(|name| (name, std::env::var(name).expect("the server's address"))).into();
    Described { options: format!("{{ endpoint: \"{}\", allow_http: true }}", moved[0].1), moved }
}

fn pipelines() -> Vec<(Pipeline, Described)> {
    ip2p_worker::tls::install();
    let pipeline = |url: String| {
        let described = described(&url);
        let hidden = described.moved.iter().map(|(name, _)| *name).collect();
        (Pipeline::on(PROGRAM, &format!("{url}/{}", super::unique()), &described.options, hidden), described)
    };
    super::servers().into_iter().map(pipeline).collect()
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

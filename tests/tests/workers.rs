//! Workers that sleep too long, and workers that connect by themselves.

use ip2p_tests::{Pipeline, Running, command_line, signal, small_pipeline};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

#[test]
fn a_worker_that_sleeps_past_its_lease_does_no_harm() {
    let reference = Pipeline::new(PROGRAM);
    reference.run_expecting(0, &[]);
    let pipeline = Pipeline::new(PROGRAM);
    let mut run = pipeline.start(&["run.lease=2s"]);
    assert!(run.wait_until(|| pipeline.objects().iter().any(|key| key.starts_with("pairs/"))), "{}", run.log());
    // Work goes to the first name first, so this one holds some or is the next to get some.
    let sleeper = run.workers().into_iter().find(|worker| command_line(*worker).contains("local-0.")).expect("the first worker");
    signal(sleeper, "STOP");
    run.wait_to_say("no heartbeat for 2 s");
    signal(sleeper, "CONT");
    assert_eq!(run.wait(), Some(0), "{}", run.log());
    assert_eq!(pipeline.dataset(), reference.dataset());
    pipeline.assert_sound(&[]);
}

const TOKEN: &str = "correct-horse-7";
const WRONG: &str = "battery-staple-9";

/// A worker as its own process, as another machine would start it.
fn worker(pipeline: &Pipeline, coordinator: &str, token: Option<&str>, name: &str) -> Running {
    let mut command = pipeline.command(&["worker", "--coordinator", coordinator, "--name", name]);
    command.envs(token.map(|token| ("IP2P_TOKEN", token)));
    Running::start(command)
}

#[track_caller]
fn expect(mut worker: Running, code: i32, parts: &[&str]) {
    assert_eq!(worker.wait(), Some(code), "{}", worker.log());
    for part in parts {
        assert!(worker.log().contains(part), "`{part}` is not in: {}", worker.log());
    }
}

/// A coordinator on an address that is known before, so that another can take its place.
fn coordinator(pipeline: &Pipeline, address: &str) -> Running {
    let listen = format!("run.listen={address}");
    let mut command = pipeline.command(&["run", "pipeline.yaml", "--set", "run.launcher=external", "--set", &listen]);
    command.env("IP2P_TOKEN", TOKEN);
    Running::start(command)
}

#[test]
fn workers_outlive_their_coordinator_and_work_for_the_next() {
    let pipeline = Pipeline::new(PROGRAM);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut first = coordinator(&pipeline, &free);
    let url = format!("http://{free}");
    let workers = ["first", "second"].map(|name| worker(&pipeline, &url, Some(TOKEN), name));
    assert!(first.wait_until(|| pipeline.objects().iter().any(|key| key.starts_with("pairs/"))), "{}", first.log());
    first.kill();
    let mut second = coordinator(&pipeline, &free);
    assert_eq!(second.wait(), Some(0), "{}", second.log());
    workers.into_iter().for_each(|worker| expect(worker, 0, &[]));
    pipeline.assert_sound(&[]);
}

#[test]
fn a_worker_whose_coordinator_was_interrupted_does_not_end_as_if_its_work_were_done() {
    let pipeline = Pipeline::new(PROGRAM);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut run = coordinator(&pipeline, &free);
    let only = worker(&pipeline, &format!("http://{free}"), Some(TOKEN), "only");
    assert!(run.wait_until(|| pipeline.objects().iter().any(|key| key.starts_with("pairs/"))), "{}", run.log());
    signal(run.id(), "INT");
    assert_eq!(run.wait(), Some(4), "{}", run.log());
    expect(only, 4, &[]);
}

#[test]
fn a_worker_starts_anew_when_the_next_coordinator_has_another_plan() {
    let pipeline = Pipeline::new(PROGRAM);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut first = coordinator(&pipeline, &free);
    let only = worker(&pipeline, &format!("http://{free}"), Some(TOKEN), "only");
    assert!(first.wait_until(|| pipeline.objects().iter().any(|key| key.starts_with("pairs/"))), "{}", first.log());
    first.kill();
    let other = small_pipeline().replace("seed: 7", "seed: 8");
    pipeline.write("pipeline.yaml", &other);
    let mut second = coordinator(&pipeline, &free);
    assert_eq!(second.wait(), Some(0), "{}", second.log());
    expect(only, 0, &[]);
    pipeline.assert_sound(&[]);
}

#[test]
fn workers_connect_with_the_token_and_leave_when_the_run_is_over() {
    let external = ["run.launcher=external", "run.listen=127.0.0.1:0"];
    let pipeline = Pipeline::new(PROGRAM);
    let refused = pipeline.run_expecting(2, &external);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("needs IP2P_TOKEN"), "{refused:?}");

    // It asks for half a minute before it gives up, so it starts first and is judged last.
    let lonely = worker(&pipeline, "http://127.0.0.1:1", Some(TOKEN), "lonely");
    let mut command = pipeline.command(&["run", "pipeline.yaml", "--set", external[0], "--set", external[1]]);
    command.env("IP2P_TOKEN", TOKEN);
    let mut run = Running::start(command);
    run.wait_to_say("waiting for workers: ");
    run.wait_to_say("--coordinator http://127.0.0.1:");
    let address = run.log().split_once("--coordinator ").and_then(|(_, rest)| rest.split_whitespace().next().map(String::from));
    let address = address.expect("the coordinator's address");

    expect(worker(&pipeline, &address, Some(WRONG), "a"), 42, &["wrong or missing token", &address]);
    expect(worker(&pipeline, &address, None, "b"), 42, &["IP2P_TOKEN is not set"]);
    expect(worker(&pipeline, "127.0.0.1", Some(TOKEN), "c"), 42, &["127.0.0.1", "write for example http://"]);
    let workers = ["first", "second"].map(|name| worker(&pipeline, &address, Some(TOKEN), name));
    assert_eq!(run.wait(), Some(0), "{}", run.log());
    workers.into_iter().for_each(|worker| expect(worker, 0, &[]));
    for secret in [TOKEN, WRONG] {
        assert!(!run.log().contains(secret), "a token in the log: {}", run.log());
    }

    let reference = Pipeline::new(PROGRAM);
    reference.run_expecting(0, &[]);
    assert_eq!(pipeline.dataset(), reference.dataset());
    pipeline.assert_sound(&external);
    expect(lonely, 1, &["no coordinator at http://127.0.0.1:1"]);
}

/// `ca.pem`, and what it signed: `cert.pem` for 127.0.0.1 and `worker.pem`, each with its `-key.pem`.
fn write_certificates(pipeline: &Pipeline) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    pipeline.write("ca.pem", &ca.pem());
    for (name, host) in [("cert", "127.0.0.1"), ("worker", "worker")] {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(vec![host.to_string()]).unwrap().signed_by(&key, &ca).unwrap();
        pipeline.write(&format!("{name}.pem"), &cert.pem());
        pipeline.write(&format!("{name}-key.pem"), &key.serialize_pem());
    }
}

#[test]
fn a_run_behind_tls_makes_the_same_dataset_and_keeps_its_keys_to_itself() {
    let tls = "run.tls={cert: cert.pem, key: cert-key.pem, client_ca: ca.pem}";
    let pipeline = Pipeline::new(PROGRAM);
    write_certificates(&pipeline);
    let unreadable = pipeline.run_expecting(2, &["run.tls={cert: cert.pem, key: worker-key.pem}"]);
    assert!(String::from_utf8_lossy(&unreadable.stderr).contains("do not go together"), "{unreadable:?}");
    assert!(!pipeline.path().join("out").exists(), "nothing was begun");

    let mut command = pipeline.command(&["run", "pipeline.yaml", "--set", tls, "--set", "run.launcher=external"]);
    command.env("IP2P_TOKEN", TOKEN);
    let mut run = Running::start(command);
    run.wait_to_say("--coordinator https://127.0.0.1:");
    let address = run.log().split_once("--coordinator ").and_then(|(_, rest)| rest.split_whitespace().next().map(String::from));
    let address = address.expect("the coordinator's address");
    let worker = |name: &str, flags: &[&str]| {
        let mut command = pipeline.command(&["worker", "--coordinator", &address, "--name", name]);
        command.args(flags).env("IP2P_TOKEN", TOKEN);
        Running::start(command)
    };
    expect(worker("stranger", &["--ca", "ca.pem"]), 42, &["wants a certificate of this worker"]);
    let only = worker("only", &["--ca", "ca.pem", "--cert", "worker.pem", "--key", "worker-key.pem"]);
    assert_eq!(run.wait(), Some(0), "{}", run.log());
    expect(only, 0, &[]);
    for key in pipeline.objects() {
        assert!(!String::from_utf8_lossy(&pipeline.object(&key)).contains("PRIVATE KEY"), "a private key in {key}");
    }

    // Workers of the coordinator's own need no certificate.
    let local = Pipeline::new(PROGRAM);
    write_certificates(&local);
    local.run_expecting(0, &[tls]);
    assert_eq!(local.dataset(), pipeline.dataset());
}

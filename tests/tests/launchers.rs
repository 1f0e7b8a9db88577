//! What every launcher does, whatever it starts workers on: one suite, for local processes and for a cluster.

use ip2p_tests::kube_server::{KubeServer, Nodes};
use ip2p_tests::{Pipeline, Running, command_line, signal};
use std::process::Command;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");
const TOKEN: &str = "correct-horse-7";

/// A pipeline and where its workers run.
trait Site {
    fn pipeline(&self) -> &Pipeline;
    fn command(&self, verb: &str) -> Command;
    /// Processes of workers that live.
    fn workers(&self, run: &Running) -> Vec<u32>;
    /// How the log says that a worker's process ended.
    fn ended(&self) -> &'static str;
    /// Removes what an interrupted or dead coordinator may have left.
    fn cancel(&self);
}

struct Local(Pipeline);

impl Local {
    fn new() -> Self {
        Local(Pipeline::new(PROGRAM))
    }
}

impl Site for Local {
    fn pipeline(&self) -> &Pipeline {
        &self.0
    }

    fn command(&self, verb: &str) -> Command {
        self.0.command(&[verb, "pipeline.yaml", "-v"])
    }

    fn workers(&self, run: &Running) -> Vec<u32> {
        run.workers()
    }

    fn ended(&self) -> &'static str {
        "its process ended"
    }

    /// Local workers end with their coordinator.
    fn cancel(&self) {}
}

struct Cluster {
    pipeline: Pipeline,
    server: KubeServer,
    overrides: [String; 3],
}

impl Cluster {
    fn new() -> Self {
        let pipeline = Pipeline::new(PROGRAM);
        let server = KubeServer::start(Nodes::Processes { program: PROGRAM.into(), folder: pipeline.path().to_path_buf() });
        server.secret("ip2p-token", "token", TOKEN);
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let overrides = [
            "run.launcher=kubernetes".to_string(),
            format!("run.listen={address}"),
            format!("run.kubernetes={{ coordinator: 'http://{address}', image: ip2p-worker, env: {{ RAYON_NUM_THREADS: 1 }} }}"),
        ];
        Cluster { pipeline, server, overrides }
    }
}

impl Site for Cluster {
    fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.pipeline.command(&[verb, "pipeline.yaml", "-v"]);
        for o in &self.overrides {
            command.args(["--set", o]);
        }
        command.env("KUBECONFIG", self.server.kubeconfig()).env("IP2P_TOKEN", TOKEN);
        command
    }

    fn workers(&self, _: &Running) -> Vec<u32> {
        self.server.world().processes.values().copied().collect()
    }

    fn ended(&self) -> &'static str {
        "its pod failed"
    }

    fn cancel(&self) {
        let output = self.command("cancel").output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

fn start(site: &dyn Site) -> Running {
    let mut run = Running::start(site.command("run"));
    let working = || site.pipeline().objects().iter().any(|key| key.starts_with("pairs/"));
    assert!(run.wait_until(working), "{}", run.log());
    run
}

fn expect(run: &mut Running, code: i32) {
    assert_eq!(run.wait(), Some(code), "{}", run.log());
}

/// Waits until no worker of the run lives.
fn assert_gone(site: &dyn Site, run: &Running, before: &[u32]) {
    let started = Instant::now();
    let alive = || before.iter().chain(&site.workers(run)).any(|worker| !command_line(*worker).is_empty());
    while alive() {
        assert!(started.elapsed() < Duration::from_secs(30), "workers are left: {:?}", site.workers(run));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Starts workers, no more than are asked for, and ends when the work does.
fn starts_and_ends(site: &dyn Site) {
    let mut run = start(site);
    let workers = site.workers(&run);
    assert!((1..=2).contains(&workers.len()), "{workers:?}");
    expect(&mut run, 0);
    site.pipeline().assert_sound(&[]);
    assert_gone(site, &run, &workers);
}

/// A worker that dies is seen at once, long before its lease ends, and replaced.
fn observes(site: &dyn Site) {
    let mut command = site.command("run");
    command.args(["--set", "run.lease=1h", "--set", "run.workers=1"]);
    let mut run = Running::start(command);
    let working = || site.pipeline().objects().iter().any(|key| key.starts_with("pairs/"));
    assert!(run.wait_until(working), "{}", run.log());
    let worker = site.workers(&run).first().copied().expect("a worker");
    signal(worker, "KILL");
    expect(&mut run, 0);
    assert!(run.log().contains(site.ended()), "{}", run.log());
    site.pipeline().assert_sound(&[]);
}

/// A worker that is there and says nothing loses its lease.
fn loses(site: &dyn Site) {
    let mut command = site.command("run");
    command.args(["--set", "run.lease=2s"]);
    let mut run = Running::start(command);
    let working = || site.pipeline().objects().iter().any(|key| key.starts_with("pairs/"));
    assert!(run.wait_until(working), "{}", run.log());
    let sleepers = site.workers(&run);
    sleepers.iter().for_each(|worker| signal(*worker, "STOP"));
    run.wait_to_say("no heartbeat for 2 s");
    sleepers.iter().for_each(|worker| signal(*worker, "CONT"));
    expect(&mut run, 0);
    site.pipeline().assert_sound(&[]);
}

/// An interrupt leaves no worker behind, and nothing committed is lost.
fn stops(site: &dyn Site) {
    let mut run = start(site);
    let workers = site.workers(&run);
    signal(run.id(), "INT");
    expect(&mut run, 4);
    assert_gone(site, &run, &workers);
    let mut again = Running::start(site.command("run"));
    expect(&mut again, 0);
    site.pipeline().assert_sound(&[]);
}

/// Whatever is left of a coordinator that was killed serves the next one, or does not disturb it.
fn is_adopted(site: &dyn Site) {
    let mut first = start(site);
    first.kill();
    let mut second = Running::start(site.command("run"));
    expect(&mut second, 0);
    site.pipeline().assert_sound(&[]);
    assert_gone(site, &second, &[]);
}

/// After a cancel no worker is left, also when the coordinator cannot help any more.
fn is_cancelled(site: &dyn Site) {
    let mut run = start(site);
    let workers = site.workers(&run);
    run.kill();
    site.cancel();
    assert_gone(site, &run, &workers);
    let mut again = Running::start(site.command("run"));
    expect(&mut again, 0);
}

macro_rules! suite {
    ($($what:ident),*) => {
        mod local {
            use super::*;
            $(#[test] fn $what() { super::$what(&Local::new()) })*
        }
        mod cluster {
            use super::*;
            $(#[test] fn $what() { super::$what(&Cluster::new()) })*
        }
    };
}

suite!(starts_and_ends, observes, loses, stops, is_adopted, is_cancelled);

#[test]
fn a_worker_leaves_within_ten_seconds_of_a_sigterm_and_not_as_if_it_had_done_its_work() {
    let pipeline = Pipeline::new(PROGRAM);
    let mut command = pipeline.command(&["run", "pipeline.yaml", "--set", "run.launcher=external", "--set", "run.chunk=1h"]);
    command.env("IP2P_TOKEN", TOKEN);
    let mut run = Running::start(command);
    run.wait_to_say("--coordinator http://127.0.0.1:");
    let address = run.log().split_once("--coordinator ").and_then(|(_, rest)| rest.split_whitespace().next().map(String::from)).unwrap();
    let worker = || {
        let mut command = pipeline.command(&["worker", "--coordinator", &address, "-v"]);
        command.env("IP2P_TOKEN", TOKEN).env("RAYON_NUM_THREADS", "1");
        Running::start(command)
    };
    let mut first = worker();
    let drawing = || pipeline.objects().iter().any(|key| key.starts_with("prompts/") && key.contains("/manifests/"));
    assert!(run.wait_until(drawing), "{}", run.log());
    let asked = Instant::now();
    signal(first.id(), "TERM");
    // Zero would mark an index of a Job as done.
    assert_eq!(first.wait(), Some(4), "{}", first.log());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let mut second = worker();
    expect(&mut run, 0);
    assert_eq!(second.wait(), Some(0), "{}", second.log());
    pipeline.assert_sound(&[]);
}

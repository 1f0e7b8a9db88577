//! `launcher: kubernetes` against a stand-in of a cluster whose pods are real worker processes.

use ip2p_tests::chat_server::ChatServer;
use ip2p_tests::kube_server::{KubeServer, Nodes};
use ip2p_tests::{Pipeline, Running, repository, small_pipeline};
use k8s_openapi::api::rbac::v1::Role;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");
const TOKEN: &str = "correct-horse-7";

/// The dataset of a run of local processes.
fn reference() -> &'static BTreeMap<String, String> {
    static DATASET: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    DATASET.get_or_init(|| {
        let pipeline = Pipeline::new(PROGRAM);
        pipeline.run_expecting(0, &[]);
        pipeline.dataset()
    })
}

/// A pipeline and the cluster that it runs in.
struct Site {
    cluster: KubeServer,
    pipeline: Pipeline,
    /// Where coordinators of the run listen.
    address: SocketAddr,
    overrides: Vec<String>,
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port")
}

impl Site {
    /// `keys` are keys of `run.kubernetes`.
    fn new(keys: &str) -> Self {
        let pipeline = Pipeline::new(PROGRAM);
        let nodes = Nodes::Processes { program: PROGRAM.into(), folder: pipeline.path().to_path_buf() };
        let cluster = KubeServer::start(nodes);
        cluster.secret("ip2p-token", "token", TOKEN);
        let address = free_address();
        let overrides = vec![
            "run.launcher=kubernetes".to_string(),
            format!("run.listen={address}"),
            format!("run.kubernetes={{ coordinator: 'http://{address}', image: ip2p-worker, env: {{ RAYON_NUM_THREADS: 1 }}, {keys} }}"),
        ];
        Site { cluster, pipeline, address, overrides }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = self.pipeline.command(&[verb, "pipeline.yaml", "-v"]);
        for o in &self.overrides {
            command.args(["--set", o]);
        }
        command.env("KUBECONFIG", self.cluster.kubeconfig()).env("IP2P_TOKEN", TOKEN);
        command
    }

    /// Another coordinator of the same run, at another address.
    fn command_elsewhere(&self) -> Command {
        let (old, new) = (self.address.to_string(), free_address().to_string());
        let mut command = self.command("run");
        for o in &self.overrides {
            command.args(["--set", &o.replace(&old, &new)]);
        }
        command
    }

    fn start(&self) -> Running {
        Running::start(self.command("run"))
    }

    #[track_caller]
    fn run_to_the_end(&self) -> Running {
        let mut run = self.start();
        self.expect(&mut run, 0);
        run
    }

    #[track_caller]
    fn expect(&self, run: &mut Running, code: i32) {
        let ended = run.wait();
        assert_eq!(ended, Some(code), "{}\npods: {:#?}", run.log(), self.cluster.world().logs);
    }

    /// A run that ended well has made the one dataset, and left nothing at work.
    #[track_caller]
    fn assert_done(&self) {
        assert_eq!(&self.pipeline.dataset(), reference());
        self.pipeline.assert_sound(&[]);
        let unfinished: Vec<String> =
            self.cluster.objects("jobs").into_iter().filter(|(_, job)| end(job).is_none()).map(|(name, _)| name).collect();
        assert_eq!(unfinished, Vec::<String>::new());
    }

    /// A coordinator that gave up has removed its Jobs, and keeps nobody from beginning at once.
    #[track_caller]
    fn assert_left(&self) {
        let unfinished = self.cluster.objects("jobs").into_iter().filter(|(_, job)| end(job).is_none()).map(|(name, _)| name);
        assert_eq!(unfinished.collect::<Vec<_>>(), Vec::<String>::new());
        for lease in self.cluster.objects("leases").values() {
            assert!(lease.pointer("/spec/holderIdentity").is_none_or(Value::is_null), "{lease}");
        }
    }

    fn jobs_of(&self, stage: &str) -> Vec<Value> {
        let jobs = self.cluster.objects("jobs").into_values();
        jobs.filter(|job| job.pointer("/metadata/labels/ip2p~1stage") == Some(&json!(stage))).collect()
    }

    /// What the store keeps of pods that failed.
    fn evidence(&self) -> Vec<Value> {
        let kept = self.pipeline.objects().into_iter().filter(|key| key.starts_with("pods/"));
        kept.map(|key| serde_json::from_slice(&self.pipeline.object(&key)).expect("evidence in JSON")).collect()
    }

    fn committed(&self, stage: &str) -> usize {
        self.committed_partitions(stage).len()
    }

    fn committed_partitions(&self, stage: &str) -> Vec<u64> {
        let prefix = format!("{stage}/");
        let manifests = self.pipeline.objects().into_iter().filter(|key| key.starts_with(&prefix) && key.contains("/manifests/"));
        manifests.filter_map(|key| key.rsplit_once("/p")?.1.strip_suffix(".json")?.parse().ok()).collect()
    }

    /// The partitions of each wave of a stage, by Job.
    fn waves(&self, stage: &str) -> BTreeMap<String, Vec<u64>> {
        let kept = self.pipeline.objects().into_iter().filter(|key| key.starts_with("waves/"));
        let waves = kept.map(|key| (serde_json::from_slice::<Value>(&self.pipeline.object(&key)).expect("a wave in JSON"), key));
        let of_stage = waves.filter(|(wave, _)| wave["stage"] == json!(stage));
        of_stage.map(|(wave, key)| (key, wave["partitions"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect())).collect()
    }
}

/// How a Job ended.
fn end(job: &Value) -> Option<String> {
    let conditions = job.pointer("/status/conditions")?.as_array()?;
    conditions.iter().find_map(|c| c["type"].as_str()).map(str::to_string)
}

#[test]
fn a_pool_makes_the_same_dataset() {
    let site = Site::new("");
    site.run_to_the_end();
    site.assert_done();
    let jobs = site.cluster.objects("jobs");
    assert_eq!(jobs.len(), 1, "one pool for all stages: {:?}", jobs.keys());
}

#[test]
fn a_job_for_each_partition_makes_the_same_dataset() {
    let site = Site::new("jobs: per-partition");
    site.run_to_the_end();
    site.assert_done();
    // Eight captions in partitions of three.
    for stage in ["prompts", "pairs", "filter"] {
        let mut partitions: Vec<Value> =
            site.jobs_of(stage).iter().filter_map(|job| job.pointer("/metadata/labels/ip2p~1partition").cloned()).collect();
        partitions.sort_by_key(ToString::to_string);
        assert_eq!(partitions, ["0", "1", "2"].map(|partition| json!(partition)), "{stage}");
    }
}

#[test]
fn waves_of_indexed_jobs_make_the_same_dataset() {
    let site = Site::new("jobs: indexed, stages: { index: { jobs: pool }, shards: { jobs: per-partition } }");
    site.run_to_the_end();
    site.assert_done();
    let waves = site.jobs_of("pairs");
    assert_eq!(waves.len(), 1, "all partitions of prompts were settled before");
    assert_eq!(waves[0].pointer("/spec/completions"), Some(&json!(3)));
    let kept = site.pipeline.objects().into_iter().filter(|key| key.starts_with("waves/")).count();
    assert_eq!(kept, 3);
    let calls = site.cluster.world().calls.clone();
    for resource in ["jobs", "pods"] {
        assert_eq!(calls.get(&("list".to_string(), resource.to_string())), Some(&1), "one list of {resource}, and a watch from there on");
    }
}

#[test]
fn a_coordinator_that_was_killed_is_followed_by_one_that_adopts_its_jobs() {
    for jobs in ["pool", "indexed"] {
        let site = Site::new(&format!("jobs: {jobs}"));
        let mut first = site.start();
        assert!(first.wait_until(|| site.committed("prompts") > 0), "{}", first.log());
        first.kill();
        let before = site.cluster.objects("jobs");
        // The dead one's Lease has to run out first.
        let mut second = site.start();
        site.expect(&mut second, 0);
        site.assert_done();
        let after = site.cluster.objects("jobs");
        assert!(before.keys().all(|job| after.contains_key(job)), "a Job that was there was not adopted, but removed");
        if jobs == "pool" {
            assert_eq!(after.len(), 1, "the pool was adopted: {:?}", after.keys());
        }
    }
}

#[test]
fn a_second_coordinator_is_refused_while_the_first_is_at_work() {
    let site = Site::new("");
    // No node has room: the first cannot end before the second has begun.
    let room = std::mem::take(&mut site.cluster.world().capacity);
    let mut first = site.start();
    site.cluster.wait_until("a pod waits", |cluster| !cluster.pods("Pending").is_empty());
    // It listens elsewhere, or the port would be the reason.
    let mut second = Running::start(site.command_elsewhere());
    site.expect(&mut second, 4);
    assert!(second.log().contains("is at work on this run (Lease ip2p-small-"), "{}", second.log());
    site.cluster.world().capacity = room;
    site.expect(&mut first, 0);
    site.assert_done();
}

#[test]
fn of_two_coordinators_that_start_together_one_is_refused() {
    let site = Site::new("");
    let mut both = [site.command("run"), site.command_elsewhere()].map(Running::start);
    let mut codes = both.each_mut().map(Running::wait);
    codes.sort_unstable();
    assert_eq!(codes, [Some(0), Some(4)], "{}\n{}", both[0].log(), both[1].log());
    assert!(both.iter().any(|run| run.log().contains("is at work on this run")), "{}\n{}", both[0].log(), both[1].log());
    site.assert_done();
}

#[test]
fn pods_that_are_evicted_or_deleted_cost_nothing_but_time() {
    let site = Site::new("jobs: indexed, workers: 2");
    let mut run = site.start();
    let mut disturbed = 0;
    let stages = ["prompts", "pairs", "filter"];
    for stage in stages {
        let running = |cluster: &KubeServer| cluster.pods("Running").into_iter().find(|pod| pod.contains(&format!("-{stage}-")));
        let mut pod = None;
        if run.wait_until(|| {
            pod = running(&site.cluster);
            pod.is_some() || site.committed("shards") > 0
        }) && let Some(pod) = pod
        {
            if stage == "pairs" {
                site.cluster.delete("pods", &pod)
            } else {
                site.cluster.evict(&pod)
            }
            disturbed += 1;
        }
    }
    site.expect(&mut run, 0);
    assert!(disturbed >= 2, "only {disturbed} pods were disturbed: the test has lost its point");
    site.assert_done();
}

#[test]
fn a_job_deleted_behind_the_coordinators_back_is_made_again() {
    let site = Site::new("");
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    let job = site.cluster.objects("jobs").into_keys().next().unwrap();
    site.cluster.delete("jobs", &job);
    site.expect(&mut run, 0);
    site.assert_done();
}

#[test]
fn a_run_whose_owner_is_deleted_was_cancelled() {
    let site = Site::new("");
    // No node has room: the run cannot end before its Jobs do.
    site.cluster.world().capacity = 0;
    let mut run = site.start();
    site.cluster.wait_until("a pod waits", |cluster| !cluster.pods("Pending").is_empty());
    let owner = site.cluster.objects("configmaps").into_keys().next().unwrap();
    site.cluster.delete("configmaps", &owner);
    site.expect(&mut run, 5);
    assert!(run.log().contains(&format!("the run was cancelled in the cluster: its ConfigMap {owner} is gone")), "{}", run.log());
}

#[test]
fn a_watch_that_is_refused_for_a_moment_ends_no_run() {
    let site = Site::new("");
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    for denied in [true, false] {
        for resource in ["jobs", "pods"] {
            let refusal = ("watch".to_string(), resource.to_string());
            let mut world = site.cluster.world();
            if denied {
                world.denied.insert(refusal)
            } else {
                world.denied.remove(&refusal)
            };
            world.disconnect();
        }
        if denied {
            run.wait_to_say("in case that it is allowed again");
        }
    }
    site.expect(&mut run, 0);
    site.assert_done();
}

#[test]
fn watches_that_end_or_expire_and_a_server_that_is_busy_do_no_harm() {
    let site = Site::new("jobs: indexed");
    let mut run = site.start();
    let mut cuts = 0;
    while run.wait_until(|| site.committed("prompts") + site.committed("pairs") + site.committed("filter") > 3 * cuts) && cuts < 3 {
        let mut world = site.cluster.world();
        world.throttled = 3;
        if cuts == 1 {
            world.expire()
        } else {
            world.disconnect()
        }
        cuts += 1;
    }
    site.expect(&mut run, 0);
    assert_eq!(cuts, 3);
    site.assert_done();
}

#[test]
fn a_missing_permission_is_named() {
    for (verb, resource) in [("patch", "jobs"), ("watch", "pods"), ("list", "jobs"), ("get", "leases")] {
        let site = Site::new("");
        site.cluster.world().denied.insert((verb.to_string(), resource.to_string()));
        let mut run = site.start();
        let code = run.wait();
        assert!(matches!(code, Some(2 | 4)), "{code:?}: {}", run.log());
        let told = format!("(verb `{verb}` on `{resource}`)");
        assert!(run.log().contains(&told) && run.log().contains("k8s/base/rbac.yaml"), "{told}: {}", run.log());
    }
}

#[test]
fn a_permission_that_is_taken_away_is_named_and_the_run_goes_on_when_it_is_back() {
    let site = Site::new("jobs: indexed");
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    site.cluster.world().denied.insert(("patch".to_string(), "jobs".to_string()));
    site.expect(&mut run, 4);
    for part in ["4 Jobs in a row failed without a commit", "was not accepted", "(verb `patch` on `jobs`)", "k8s/base/rbac.yaml"] {
        assert!(run.log().contains(part), "{part}: {}", run.log());
    }
    site.cluster.world().denied.clear();
    site.run_to_the_end();
    site.assert_done();
}

/// A run in which no pod starts ends soon; its log has these `parts`, and its status the cluster's words and what to do.
#[track_caller]
fn assert_told(site: &Site, parts: &[&str]) {
    let started = Instant::now();
    let mut run = site.start();
    site.expect(&mut run, 4);
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let status = String::from_utf8(site.pipeline.call(&["status", "pipeline.yaml"]).stdout).unwrap();
    assert!(status.contains("the cluster\n"), "{status}");
    for part in parts {
        assert!(run.log().contains(part) && status.contains(part), "{part}: {}\n{status}", run.log());
    }
    site.assert_left();
}

#[test]
fn why_pods_do_not_start_is_in_the_status_within_a_minute() {
    let slow = "start_timeout: 10s";
    std::thread::scope(|all| {
        all.spawn(|| {
            let mut site = Site::new(slow);
            site.overrides[2] = site.overrides[2].replace("image: ip2p-worker", "image: missing");
            assert_told(&site, &["ImagePullBackOff", "Back-off pulling image \"missing\": not found", "image_pull_secrets"]);
        });
        all.spawn(|| {
            let site = Site::new(&format!("{slow}, token_secret: absent"));
            assert_told(&site, &["CreateContainerConfigError", "secret \"absent\" not found", "create it (docs/kubernetes.md)"]);
        });
        all.spawn(|| {
            let site = Site::new(slow);
            site.cluster.world().capacity = 0;
            assert_told(&site, &["Unschedulable", "1 Insufficient cpu", "wait for the autoscaler"]);
        });
        all.spawn(|| {
            // A quota is an event of the Job, not of a pod.
            let site = Site::new(slow);
            site.cluster.world().quota = Some("pods \"x\" is forbidden: exceeded quota: gpus".to_string());
            assert_told(&site, &["exceeded quota: gpus", "raise the quota"]);
            // With the cause mended, the run goes on, and the trouble is gone.
            site.cluster.world().quota = None;
            site.run_to_the_end();
            site.assert_done();
            let status = String::from_utf8(site.pipeline.call(&["status", "pipeline.yaml"]).stdout).unwrap();
            assert!(!status.contains("the cluster"), "{status}");
        });
    });
}

#[test]
fn a_server_that_does_not_answer_holds_up_no_end() {
    let hang = |site: &Site, verb: &str, resource: &str| site.cluster.world().hung.insert((verb.to_string(), resource.to_string()));
    let site = Site::new("");
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    hang(&site, "get", "leases");
    let asked = Instant::now();
    ip2p_tests::signal(run.id(), "INT");
    site.expect(&mut run, 4);
    assert!(asked.elapsed() < Duration::from_secs(40), "{:?}", asked.elapsed());
    assert!(run.log().contains("the next coordinator has to wait 15 s: the cluster does not answer"), "{}", run.log());
    // Logs that cannot be had keep no evidence from the store, and no Job from being made.
    let site = Site::new("");
    site.cluster.secret("ip2p-token", "token", "battery-staple-9");
    hang(&site, "get", "pods/log");
    let mut run = site.start();
    site.expect(&mut run, 4);
    let evidence = site.evidence();
    let line = evidence.first().map(|evidence| evidence["log"][0].to_string()).unwrap_or_default();
    assert!(line.contains("(no log: cannot get pods/log") && line.contains("no answer in 5 s"), "{line}: {}", run.log());
}

#[test]
fn a_lease_that_may_not_be_renewed_is_told() {
    let site = Site::new("");
    site.cluster.world().denied.insert(("update".to_string(), "leases".to_string()));
    let run = site.run_to_the_end();
    for part in ["so that another coordinator can take the run over", "(verb `update` on `leases`)", "k8s/base/rbac.yaml"] {
        assert!(run.log().contains(part), "{part}: {}", run.log());
    }
}

#[test]
fn a_node_that_refuses_pods_is_named() {
    let mut site = Site::new("");
    site.overrides[2] = site.overrides[2].replace("image: ip2p-worker", "image: unwelcome");
    let mut run = site.start();
    site.expect(&mut run, 4);
    for part in
        ["cannot start: UnexpectedAdmissionError: Allocate failed: no healthy devices", "The node refused the pod", "4 Jobs in a row"]
    {
        assert!(run.log().contains(part), "{part}: {}", run.log());
    }
    let evidence = site.evidence();
    assert_eq!((&evidence[0]["exit_code"], &evidence[0]["reason"]), (&Value::Null, &json!("UnexpectedAdmissionError")));
}

#[test]
fn jobs_of_a_queue_wait_until_it_admits_them() {
    let site = Site::new("queue: gpus, start_timeout: 30s");
    let mut run = site.start();
    site.cluster.wait_until("a Job waits", |cluster| !cluster.objects("jobs").is_empty());
    run.wait_to_say("Suspended: the Job waits to be admitted. Kueue has not admitted the Job");
    assert_eq!(site.cluster.objects("pods").len(), 0);
    // As Kueue does it.
    for (name, job) in site.cluster.objects("jobs") {
        assert_eq!(job.pointer("/metadata/labels/kueue.x-k8s.io~1queue-name"), Some(&json!("gpus")));
        site.cluster.world().update("jobs", &name, |job| job["spec"]["suspend"] = json!(false));
    }
    site.expect(&mut run, 0);
    site.assert_done();
}

#[test]
fn the_last_words_of_a_pod_are_kept_and_end_a_run_that_gets_nowhere() {
    let site = Site::new("");
    site.cluster.secret("ip2p-token", "token", "battery-staple-9");
    let mut run = site.start();
    site.expect(&mut run, 4);
    assert!(run.log().contains("4 Jobs in a row failed without a commit"), "{}", run.log());
    assert!(run.log().contains("wrong or missing token"), "{}", run.log());
    // The other pod of a Job that failed may have been ended by the cluster, and is evidence too.
    let evidence = site.evidence().into_iter().find(|evidence| evidence["exit_code"] == 42).expect("evidence");
    assert!(evidence["message"].as_str().unwrap().contains("wrong or missing token"), "{evidence}");
    for job in site.cluster.objects("jobs").values() {
        assert_eq!(job.pointer("/status/conditions/0/reason"), Some(&json!("PodFailurePolicy")), "no pod was made again");
    }
    assert!(evidence["log"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains("wrong or missing token")), "{evidence}");
    let status = String::from_utf8(site.pipeline.call(&["status", "pipeline.yaml"]).stdout).unwrap();
    assert!(status.contains("\npods\n") && status.contains(", with code ") && status.contains("in pods/ip2p-small-"), "{status}");
    for key in site.pipeline.objects() {
        let text = String::from_utf8_lossy(&site.pipeline.object(&key)).into_owned();
        assert!(!text.contains(TOKEN) && !text.contains("battery-staple-9"), "a token in {key}");
    }
}

#[test]
fn a_partition_that_fails_too_often_fails_its_own_index_and_no_other() {
    let server = ChatServer::start(|caption: &str| match caption.contains("unlucky") {
        true => (503, "the model is not to be had".to_string()),
        false => (200, r#"{"edit": "make it blue", "output": "a large blue circle on a white background"}"#.to_string()),
    });
    let mut site = Site::new("jobs: indexed");
    let captions = ["a large red circle on a white background", "an unlucky circle", "a large green circle on a white background"];
    site.pipeline.write("captions.jsonl", &captions.map(|caption| format!("{{\"caption\": \"{caption}\"}}\n")).concat());
    let openai = format!("  prompts: {{ backend: openai, openai: {{ base_url: \"{}\", model: m, api: chat, retries: 0 }} }}", server.url());
    site.pipeline.write("pipeline.yaml", &small_pipeline().replace("  prompts: { backend: local }", &openai));
    site.overrides.extend(["partition.records=1".to_string(), "run.retry={ attempts: 2, backoff: 100ms..200ms }".to_string()]);
    let mut run = site.start();
    site.expect(&mut run, 4);
    assert!(run.log().contains("1 partitions failed too often"), "{}", run.log());
    let jobs = site.jobs_of("prompts");
    assert_eq!(jobs.iter().filter_map(end).collect::<Vec<_>>(), ["Failed"], "{}", run.log());
    assert_eq!(jobs[0].pointer("/status/conditions/0/message"), Some(&json!("Job has 1 failed indexes")));
    let pods = site.cluster.objects("pods");
    let of_prompts = pods.iter().filter(|(name, _)| name.contains("-prompts-"));
    let codes: Vec<_> = of_prompts.filter_map(|(_, pod)| pod.pointer("/status/containerStatuses/0/state/terminated/exitCode")).collect();
    assert_eq!(codes, [0, 43, 0], "a poisoned index gets no second pod");
    let kept: Vec<Value> = site.evidence();
    assert_eq!((&kept[0]["exit_code"], &kept[0]["stage"], &kept[0]["partition"]), (&json!(43), &json!("prompts"), &json!(1)));
    assert_eq!(site.committed("filter"), 2, "the other partitions went on");
}

#[test]
fn cancel_removes_what_the_run_owns_and_nothing_else() {
    let site = Site::new("");
    let strangers = json!({ "metadata": { "labels": { "app": "other" } }, "spec": { "suspend": true }, "status": {} });
    site.cluster.world().put("jobs", "strangers", strangers);
    site.cluster.world().put("configmaps", "strangers", json!({ "metadata": {} }));
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    let output = site.command("cancel").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // A Job that starts coordinators again knows this code.
    site.expect(&mut run, 5);
    assert!(run.log().contains("the run was cancelled in the cluster"), "{}", run.log());
    site.cluster.wait_until("nothing of the run is left", |cluster| cluster.objects("pods").is_empty());
    let left = |resource: &str| site.cluster.objects(resource).into_keys().collect::<Vec<_>>();
    assert_eq!((left("jobs"), left("configmaps"), left("leases")), (vec!["strangers".to_string()], vec!["strangers".to_string()], vec![]));
    site.run_to_the_end();
    assert_eq!(&site.pipeline.dataset(), reference());
}

#[test]
fn an_old_server_and_a_template_that_it_does_not_know_are_refused_before_anything_is_made() {
    let site = Site::new("");
    site.cluster.world().minor = 20;
    let mut run = site.start();
    site.expect(&mut run, 2);
    assert!(run.log().contains("runs Kubernetes 1.20; its Jobs need 1.29"), "{}", run.log());
    let site = Site::new("tolerations: [{ key: gpu, efect: NoSchedule }]");
    let mut run = site.start();
    site.expect(&mut run, 2);
    assert!(run.log().contains("tolerations.0.efect"), "{}", run.log());
    assert_nothing_was_made(&site);
    // What the server alone knows is asked by a dry run.
    let site = Site::new("");
    site.cluster.world().policy = Some("images must come from our registry".to_string());
    let mut run = site.start();
    site.expect(&mut run, 2);
    assert!(run.log().contains("cannot patch jobs") && run.log().contains("images must come from our registry"), "{}", run.log());
    assert_eq!(site.cluster.objects("jobs").len(), 0);
    let mut site = Site::new("jobs: per-partition");
    site.pipeline.write("captions.jsonl", &(0..1001).map(|n| format!("{{\"caption\": \"circle {n}\"}}\n")).collect::<String>());
    site.overrides.push("partition.records=1".to_string());
    let mut run = site.start();
    site.expect(&mut run, 2);
    for part in ["prompts has 1001 partitions, and more than 1000 Jobs stall a control plane", "use `jobs: indexed`"] {
        assert!(run.log().contains(part), "{part}: {}", run.log());
    }
    assert_nothing_was_made(&site);
}

#[track_caller]
fn assert_nothing_was_made(site: &Site) {
    assert_eq!(site.cluster.objects("jobs").len() + site.cluster.objects("configmaps").len(), 0);
    assert!(!site.pipeline.objects().iter().any(|key| key.starts_with("terms/")), "an older coordinator would have given way");
}

#[test]
fn an_interrupted_run_leaves_no_pods_and_goes_on() {
    let site = Site::new("jobs: indexed");
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    ip2p_tests::signal(run.id(), "INT");
    site.expect(&mut run, 4);
    site.cluster.wait_until("no pod is left at work", |cluster| cluster.pods("Running").is_empty() && cluster.pods("Pending").is_empty());
    let (committed, before) = (site.committed_partitions("prompts"), site.waves("prompts"));
    site.run_to_the_end();
    site.assert_done();
    // Jobs are made for what is not committed, and for nothing else.
    let again: Vec<u64> = site.waves("prompts").into_iter().filter(|(job, _)| !before.contains_key(job)).flat_map(|(_, of)| of).collect();
    let missing: Vec<u64> = (0..3).filter(|partition| !committed.contains(partition)).collect();
    assert_eq!(again, missing);
}

/// The rules of the coordinator's Role, as (verb, resource).
fn allowed() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(repository().join("k8s/base/rbac.yaml")).unwrap();
    let role: Role = serde_saphyr::from_str(text.split("\n---\n").next().unwrap()).unwrap();
    let mut allowed = BTreeSet::new();
    for rule in role.rules.unwrap_or_default() {
        for resource in rule.resources.unwrap_or_default() {
            allowed.extend(rule.verbs.iter().map(|verb| (verb.clone(), resource.clone())));
        }
    }
    allowed
}

#[test]
fn the_role_allows_what_a_run_calls_and_nothing_else() {
    let mut called = BTreeSet::new();
    // One that is followed by another, one whose pods do not start, and one that fails and is interrupted.
    let site = Site::new("jobs: indexed");
    site.cluster.world().lost_answers = 1;
    let mut run = site.start();
    assert!(run.wait_until(|| site.committed("prompts") > 0), "{}", run.log());
    assert!(!run.log().contains("was not accepted"), "{}", run.log());
    ip2p_tests::signal(run.id(), "INT");
    site.expect(&mut run, 4);
    let mut run = site.start();
    assert!(run.wait_until(|| site.cluster.objects("jobs").values().any(|job| end(job).is_none())), "{}", run.log());
    let unfinished = site.cluster.objects("jobs").into_iter().find(|(_, job)| end(job).is_none()).expect("a Job at work");
    site.cluster.delete("jobs", &unfinished.0);
    site.expect(&mut run, 0);
    called.extend(site.cluster.world().calls.keys().cloned());
    let site = Site::new("start_timeout: 10s");
    site.cluster.world().quota = Some("exceeded quota".to_string());
    let mut run = site.start();
    site.expect(&mut run, 4);
    called.extend(site.cluster.world().calls.keys().cloned());
    let site = Site::new("");
    site.cluster.secret("ip2p-token", "token", "battery-staple-9");
    let mut run = site.start();
    site.expect(&mut run, 4);
    called.extend(site.cluster.world().calls.keys().cloned());
    // A server-side apply of what is not there yet needs both verbs.
    let applied: Vec<_> =
        called.iter().filter(|(verb, _)| verb == "patch").map(|(_, resource)| ("create".to_string(), resource.clone())).collect();
    called.extend(applied);
    assert_eq!(called, allowed());
}

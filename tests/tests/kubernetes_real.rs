//! Against a real API server and controller-manager:
//!
//!     KUBECONFIG=... cargo test --workspace --test kubernetes_real -- --ignored
//!
//! Nothing else is needed: this test plays the nodes itself, through the API alone. It takes every pod of its own namespace that no
//! node has taken, starts the worker as a process here, and reports its state as a kubelet does. On a cluster with nodes the
//! coordinator's pods would need images; there the guide in docs/kubernetes.md is the test.

use futures::{StreamExt, TryStreamExt};
use ip2p_tests::{Pipeline, Running, signal};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");
const TOKEN: &str = "correct-horse-7";

/// Processes of pods by name.
type Processes = Arc<Mutex<BTreeMap<String, u32>>>;

struct Real {
    runtime: tokio::runtime::Runtime,
    client: Client,
    namespace: String,
    processes: Processes,
    pipeline: Pipeline,
    /// Where each coordinator of the run listens.
    address: std::net::SocketAddr,
}

impl Real {
    fn new(name: &str) -> Self {
        ip2p_coordinator::tls::install();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let client = runtime.block_on(Client::try_default()).expect("KUBECONFIG names a cluster");
        let namespace = format!("ip2p-test-{name}-{}", std::process::id());
        let pipeline = Pipeline::new(PROGRAM);
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let real = Real { runtime, client, namespace, processes: Arc::default(), pipeline, address };
        real.runtime.block_on(real.prepare());
        let (client, namespace, processes) = (real.client.clone(), real.namespace.clone(), real.processes.clone());
        real.runtime.spawn(nodes(client, namespace, processes, real.pipeline.path().to_path_buf()));
        real
    }

    async fn prepare(&self) {
        let namespace =
            Namespace { metadata: ObjectMeta { name: Some(self.namespace.clone()), ..ObjectMeta::default() }, ..Namespace::default() };
        Api::all(self.client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        let secret = Secret {
            metadata: ObjectMeta { name: Some("ip2p-token".to_string()), ..ObjectMeta::default() },
            string_data: Some([("token".to_string(), TOKEN.to_string())].into()),
            ..Secret::default()
        };
        Api::namespaced(self.client.clone(), &self.namespace).create(&PostParams::default(), &secret).await.expect("a Secret");
    }

    fn start(&self, keys: &str) -> Running {
        let address = self.address;
        let section = format!(
            "run.kubernetes={{ namespace: {}, coordinator: 'http://{address}', image: ip2p-worker, env: {{ RAYON_NUM_THREADS: 1 }}, {keys} }}",
            self.namespace
        );
        let listen = format!("run.listen={address}");
        let mut command =
            self.pipeline.command(&["run", "pipeline.yaml", "-v", "--set", "run.launcher=kubernetes", "--set", &listen, "--set", &section]);
        command.env("IP2P_TOKEN", TOKEN);
        Running::start(command)
    }

    fn jobs(&self) -> Vec<Job> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &self.namespace);
        self.runtime.block_on(jobs.list(&ListParams::default())).expect("a list of Jobs").items
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let processes = std::mem::take(&mut *self.processes.lock().unwrap_or_else(PoisonError::into_inner));
        processes.into_values().for_each(|process| signal(process, "KILL"));
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        // Whoever runs the test sees what is left.
        let _ = self.runtime.block_on(namespaces.delete(&self.namespace, &DeleteParams::default()));
    }
}

/// Plays the nodes of one namespace.
async fn nodes(client: Client, namespace: String, processes: Processes, folder: PathBuf) {
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let mut seen = watcher(pods.clone(), watcher::Config::default()).default_backoff().applied_objects().boxed();
    let mut started = BTreeMap::new();
    loop {
        let Ok(Some(pod)) = seen.try_next().await else { continue };
        let name = pod.metadata.name.clone().unwrap_or_default();
        if pod.metadata.deletion_timestamp.is_some() {
            let process = processes.lock().unwrap_or_else(PoisonError::into_inner).get(&name).copied();
            process.into_iter().for_each(|process| signal(process, "TERM"));
        } else if started.insert(name.clone(), ()).is_none() && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) {
            tokio::spawn(live(pods.clone(), name, pod, processes.clone(), folder.clone()));
        }
    }
}

async fn report(pods: &Api<Pod>, name: &str, phase: &str, state: serde_json::Value) {
    let status = json!({ "status": { "phase": phase, "containerStatuses": [
        { "name": "worker", "image": "ip2p-worker", "imageID": "", "ready": phase == "Running", "restartCount": 0, "state": state } ] } });
    // The pod may be gone.
    let _ = pods.patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
}

async fn live(pods: Api<Pod>, name: String, pod: Pod, processes: Processes, folder: PathBuf) {
    let mut command = command(&name, &pod, &folder);
    let mut child = command.spawn().expect("the worker starts");
    processes.lock().unwrap_or_else(PoisonError::into_inner).extend(child.id().map(|process| (name.clone(), process)));
    report(&pods, &name, "Running", json!({ "running": {} })).await;
    let code = child.wait().await.ok().and_then(|status| status.code()).unwrap_or(137);
    processes.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    report(&pods, &name, phase, json!({ "terminated": { "exitCode": code } })).await;
    if pods.get_opt(&name).await.ok().flatten().is_some_and(|pod| pod.metadata.deletion_timestamp.is_some()) {
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let _ = pods.delete(&name, &now).await;
    }
}

fn command(name: &str, pod: &Pod, folder: &Path) -> tokio::process::Command {
    let container = &pod.spec.as_ref().expect("a spec").containers[0];
    let arguments = container.args.iter().flatten().map(|argument| argument.replace("$(POD_NAME)", name));
    let mut command = tokio::process::Command::new(PROGRAM);
    command.arg("worker").args(arguments).current_dir(folder).env("IP2P_TOKEN", TOKEN);
    command.envs(container.env.iter().flatten().filter_map(|variable| Some((variable.name.clone(), variable.value.clone()?))));
    for variable in ["HOME", "TMPDIR", "IP2P_CACHE"] {
        command.env(variable, folder);
    }
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    command.envs(labels.get("batch.kubernetes.io/job-completion-index").map(|index| ("JOB_COMPLETION_INDEX", index.clone())));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command
}

#[test]
#[ignore = "needs KUBECONFIG"]
fn runs_end_in_the_same_dataset_whatever_the_jobs_are() {
    let local = Pipeline::new(PROGRAM);
    local.run_expecting(0, &[]);
    for jobs in ["pool", "indexed", "per-partition"] {
        let real = Real::new(jobs);
        let mut run = real.start(&format!("jobs: {jobs}"));
        assert_eq!(run.wait(), Some(0), "{jobs}: {}", run.log());
        assert_eq!(real.pipeline.dataset(), local.dataset(), "{jobs}");
    }
}

#[test]
#[ignore = "needs KUBECONFIG"]
fn a_coordinator_that_was_killed_is_followed_by_one_that_adopts_its_jobs() {
    let real = Real::new("adopt");
    let mut first = real.start("");
    let drawing = || real.pipeline.objects().iter().any(|key| key.starts_with("pairs/"));
    assert!(first.wait_until(drawing), "{}", first.log());
    first.kill();
    let before = real.jobs();
    let mut second = real.start("");
    assert_eq!(second.wait(), Some(0), "{}", second.log());
    let names = |jobs: &[Job]| jobs.iter().filter_map(|job| job.metadata.uid.clone()).collect::<Vec<_>>();
    assert!(names(&before).iter().all(|uid| names(&real.jobs()).contains(uid)), "a Job was not adopted");
    real.pipeline.assert_sound(&[]);
}

//! A stand-in for a Kubernetes cluster: the API over real HTTP, a controller for Jobs, and a kubelet that starts a real
//! worker process for each pod. It knows what this project uses of the API, in one namespace.

mod api;
mod jobs;
mod kubelet;
mod world;

pub use world::World;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The one namespace.
pub const NAMESPACE: &str = "ip2p";

/// What nodes do with pods.
#[derive(Clone)]
pub enum Nodes {
    /// Each pod is a process of this program, called as `worker`.
    Processes { program: PathBuf, folder: PathBuf },
    /// Each pod is a task in this process, which ends with the exit code that the function returns.
    Tasks(Arc<dyn Fn(kubelet::Start) -> futures::future::BoxFuture<'static, i32> + Send + Sync>),
}

pub use kubelet::Start;

/// A running cluster; it and all its pods end when it is dropped.
pub struct KubeServer {
    world: Arc<Mutex<World>>,
    runtime: Option<tokio::runtime::Runtime>,
    port: u16,
    folder: tempfile::TempDir,
}

impl KubeServer {
    pub fn start(nodes: Nodes) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let world = Arc::new(Mutex::new(World::new()));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        runtime.spawn(api::serve(listener, world.clone()));
        runtime.spawn(jobs::control(world.clone()));
        runtime.spawn(kubelet::run(world.clone(), nodes));
        let server = KubeServer { world, runtime: Some(runtime), port, folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(server.kubeconfig(), server.config()).expect("a kubeconfig");
        server
    }

    /// A file for KUBECONFIG.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    fn config(&self) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "stand-in",
            "contexts": [{ "name": "stand-in", "context": { "cluster": "stand-in", "user": "nobody", "namespace": NAMESPACE } }],
            "clusters": [{ "name": "stand-in", "cluster": { "server": format!("http://127.0.0.1:{}", self.port) } }],
            "users": [{ "name": "nobody", "user": {} }],
        });
        config.to_string()
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    /// A Secret with one key.
    pub fn secret(&self, name: &str, key: &str, value: &str) {
        self.world().secrets.insert((name.to_string(), key.to_string()), value.to_string());
    }

    /// Objects of a resource, by name.
    pub fn objects(&self, resource: &str) -> BTreeMap<String, Value> {
        self.world().list(resource)
    }

    /// Names of pods in this phase.
    pub fn pods(&self, phase: &str) -> Vec<String> {
        let pods = self.objects("pods");
        pods.into_iter().filter(|(_, pod)| pod.pointer("/status/phase") == Some(&json!(phase))).map(|(name, _)| name).collect()
    }

    /// As a node that is drained does it: SIGTERM, and the pod is marked as disrupted.
    pub fn evict(&self, pod: &str) {
        self.world().disrupt(pod);
    }

    /// As `kubectl delete` does it.
    pub fn delete(&self, resource: &str, name: &str) {
        self.world().delete(resource, name);
    }

    /// Waits until `done` says so of the cluster.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut(&KubeServer) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < Duration::from_secs(120), "the cluster does not get to this: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A folder for the pods' files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for KubeServer {
    fn drop(&mut self) {
        // Dropping the processes' handles kills them.
        self.runtime.take().into_iter().for_each(tokio::runtime::Runtime::shutdown_background);
        let pids: Vec<u32> = self.world().processes.values().copied().collect();
        pids.into_iter().for_each(|process| crate::signal(process, "KILL"));
    }
}

pub(crate) fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

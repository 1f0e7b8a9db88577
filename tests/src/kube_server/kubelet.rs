//! Scheduler and kubelet: gives pods to a node, and starts what they say.

use super::world::World;
use super::{Nodes, lock};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::process::Command;

const STEP: Duration = Duration::from_millis(20);
/// Lines of the log that become the termination message.
const MESSAGE_LINES: usize = 80;

/// What a container is started with.
#[derive(Clone, Debug)]
pub struct Start {
    pub pod: String,
    pub arguments: Vec<String>,
    pub env: BTreeMap<String, String>,
}

pub(super) async fn run(world: Arc<Mutex<World>>, nodes: Nodes) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let mut ending: BTreeSet<String> = BTreeSet::new();
    let mut at = 0;
    loop {
        let starts = {
            let mut world = lock(&world);
            if world.version() == at {
                Vec::new()
            } else {
                at = world.version();
                terminate(&world, &mut ending);
                let starts = schedule(&mut world, &mut seen);
                at = at.min(world.version());
                starts
            }
        };
        for start in starts {
            tokio::spawn(live(world.clone(), nodes.clone(), start));
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Sends SIGTERM to pods that were deleted, once.
fn terminate(world: &World, ending: &mut BTreeSet<String>) {
    for (name, process) in &world.processes {
        let deleted = world.get("pods", name).is_none_or(|pod| pod.pointer("/metadata/deletionTimestamp").is_some());
        if deleted && ending.insert(name.clone()) {
            crate::signal(*process, "TERM");
        }
    }
}

fn schedule(world: &mut World, seen: &mut BTreeSet<String>) -> Vec<Start> {
    let pending: Vec<(String, Value)> = world
        .iter("pods")
        .filter(|(name, pod)| !seen.contains(*name) && pod.pointer("/status/phase") == Some(&json!("Pending")))
        .map(|(name, pod)| (name.to_string(), pod.clone()))
        .collect();
    let mut starts = Vec::new();
    let mut running = world.iter("pods").filter(|(_, pod)| pod.pointer("/status/phase") == Some(&json!("Running"))).count();
    for (name, pod) in pending {
        if running >= world.capacity {
            if pod.pointer("/status/conditions").is_none() {
                let condition = json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu." }]);
                world.update("pods", &name, |pod| pod["status"]["conditions"] = condition);
            }
            continue;
        }
        if pod.pointer("/spec/containers/0/image").and_then(Value::as_str) == Some("unwelcome") {
            let status =
                json!({ "phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed: no healthy devices" });
            world.update("pods", &name, |pod| pod["status"] = status);
            continue;
        }
        match start_of(world, &name, &pod) {
            Ok(start) => {
                seen.insert(name.clone());
                running += 1;
                let status = json!({ "phase": "Running", "containerStatuses": [{ "name": "worker", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": { "running": {} } }] });
                world.update("pods", &name, |pod| pod["status"] = status);
                starts.push(start);
            }
            Err((reason, message)) => {
                if pod.pointer("/status/containerStatuses").is_none() {
                    let status = json!([{ "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "waiting": { "reason": reason, "message": message } } }]);
                    world.update("pods", &name, |pod| pod["status"]["containerStatuses"] = status);
                    world.event("Pod", &name, reason, &message);
                }
            }
        }
    }
    starts
}

/// What the container is started with, or why it cannot be.
fn start_of(world: &World, name: &str, pod: &Value) -> Result<Start, (&'static str, String)> {
    let container = &pod["spec"]["containers"][0];
    let image = container["image"].as_str().unwrap_or_default();
    if image.contains("missing") {
        return Err(("ImagePullBackOff", format!("Back-off pulling image \"{image}\": not found")));
    }
    let mut env = BTreeMap::new();
    for entry in container["env"].as_array().into_iter().flatten() {
        let variable = entry["name"].as_str().unwrap_or_default().to_string();
        let reference = &entry["valueFrom"]["secretKeyRef"];
        let value = match (entry["value"].as_str(), reference["name"].as_str()) {
            (Some(value), _) => value.to_string(),
            (None, Some(secret)) => {
                let key = (secret.to_string(), reference["key"].as_str().unwrap_or_default().to_string());
                let missing = || ("CreateContainerConfigError", format!("secret \"{secret}\" not found"));
                world.secrets.get(&key).cloned().ok_or_else(missing)?
            }
            (None, None) => name.to_string(),
        };
        env.insert(variable, value);
    }
    let expand = |argument: &Value| argument.as_str().unwrap_or_default().replace("$(POD_NAME)", name);
    let arguments = container["args"].as_array().into_iter().flatten().map(expand).collect();
    Ok(Start { pod: name.to_string(), arguments, env })
}

/// A container's life.
async fn live(world: Arc<Mutex<World>>, nodes: Nodes, start: Start) {
    let name = start.pod.clone();
    let (code, log) = match nodes {
        Nodes::Tasks(task) => (Some(task(start).await), String::new()),
        Nodes::Processes { program, folder } => process(&world, &program, &folder, start).await,
    };
    let mut world = lock(&world);
    world.processes.remove(&name);
    world.logs.insert(name.clone(), log.clone());
    let deleted = world.get("pods", &name).is_none_or(|pod| pod.pointer("/metadata/deletionTimestamp").is_some());
    let phase = if code == Some(0) { "Succeeded" } else { "Failed" };
    let lines: Vec<&str> = log.lines().collect();
    let message = lines[lines.len().saturating_sub(MESSAGE_LINES)..].join("\n");
    let exit = code.unwrap_or(137);
    let terminated = json!({ "exitCode": exit, "reason": if exit == 0 { "Completed" } else { "Error" }, "message": message });
    world.update("pods", &name, |pod| {
        pod["status"]["phase"] = json!(phase);
        pod["status"]["containerStatuses"] = json!([{ "name": "worker", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": { "terminated": terminated } }]);
    });
    if deleted {
        world.remove("pods", &name);
    }
}

async fn process(world: &Mutex<World>, program: &Path, folder: &Path, start: Start) -> (Option<i32>, String) {
    let path = folder.join(format!("{}.log", start.pod));
    let log = File::create(&path).expect("a log file");
    let mut command = Command::new(program);
    command.arg("worker").args(&start.arguments).current_dir(folder).env_remove("RUST_LOG").envs(&start.env);
    // The scratch volume is a folder here.
    for variable in ["HOME", "TMPDIR", "IP2P_CACHE"] {
        command.env(variable, folder);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
    let mut child = command.spawn().expect("the program starts");
    let deleted = {
        let mut world = lock(world);
        world.processes.extend(child.id().map(|process| (start.pod.clone(), process)));
        world.get("pods", &start.pod).is_none_or(|pod| pod.pointer("/metadata/deletionTimestamp").is_some())
    };
    if deleted {
        // It was deleted before it had a process to end.
        let _ = child.start_kill();
    }
    let code = child.wait().await.ok().and_then(|status| status.code());
    (code, std::fs::read_to_string(path).unwrap_or_default())
}

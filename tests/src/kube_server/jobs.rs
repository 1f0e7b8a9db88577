//! The controller of Jobs: makes pods, counts how they end, and says when a Job has.

use super::lock;
use super::world::World;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// How long a failed pod's place stays empty; a real cluster takes ten seconds and more.
const REPLACE: Duration = Duration::from_millis(200);
const STEP: Duration = Duration::from_millis(20);

/// What is known of a Job. Without indexes all its pods are in place 0, 1, 2, ... of the completions.
#[derive(Default)]
struct Tally {
    uid: Value,
    made: u32,
    /// Places without a pod, and when they may get one.
    free: BTreeMap<u32, Instant>,
    active: BTreeMap<String, u32>,
    succeeded: u32,
    failed: u32,
    failed_per_index: BTreeMap<u32, u64>,
    failed_indexes: BTreeSet<u32>,
    told: (usize, u32, u32),
    over: bool,
}

pub(super) async fn control(world: Arc<Mutex<World>>) {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    loop {
        {
            let mut world = lock(&world);
            collect(&mut world);
            let jobs: Vec<(String, Value)> =
                world.iter("jobs").filter(|(_, job)| !over(job)).map(|(name, job)| (name.to_string(), job.clone())).collect();
            tallies.retain(|name, _| jobs.iter().any(|(job, _)| job == name));
            for (name, job) in jobs {
                let uid = job["metadata"]["uid"].clone();
                let tally = tallies.entry(name.clone()).or_default();
                if tally.uid != uid {
                    *tally = Tally::new(&job);
                }
                step(&mut world, &name, &job, tally);
            }
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Removes Jobs whose owner is gone.
fn collect(world: &mut World) {
    let owners: BTreeSet<String> = world.iter("configmaps").map(|(_, map)| map["metadata"]["uid"].to_string()).collect();
    let orphaned = |job: &Value| {
        let listed = job.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        listed.is_some_and(|listed| !listed.iter().any(|owner| owners.contains(&owner["uid"].to_string())))
    };
    let names: Vec<String> = world.iter("jobs").filter(|(_, job)| orphaned(job)).map(|(name, _)| name.to_string()).collect();
    names.iter().for_each(|name| drop(world.delete("jobs", name)));
}

fn over(job: &Value) -> bool {
    let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
    conditions.is_some_and(|conditions| conditions.iter().any(|c| c["type"] == "Complete" || c["type"] == "Failed"))
}

fn number(job: &Value, path: &str) -> Option<u64> {
    job.pointer(path).and_then(Value::as_u64)
}

impl Tally {
    fn new(job: &Value) -> Self {
        let completions = number(job, "/spec/completions").unwrap_or(1) as u32;
        let now = Instant::now();
        Tally { uid: job["metadata"]["uid"].clone(), free: (0..completions).map(|place| (place, now)).collect(), ..Tally::default() }
    }
}

fn step(world: &mut World, name: &str, job: &Value, tally: &mut Tally) {
    if tally.over || job.pointer("/spec/suspend") == Some(&json!(true)) {
        return;
    }
    if let Some(failure) = count(world, job, tally) {
        return end(world, name, tally, "Failed", failure);
    }
    let parallelism = number(job, "/spec/parallelism").unwrap_or(1) as usize;
    while tally.active.len() < parallelism {
        let now = Instant::now();
        let Some(place) = tally.free.iter().find(|(_, since)| **since <= now).map(|(place, _)| *place) else { break };
        if let Some(quota) = world.quota.clone() {
            if !world.iter("events").any(|(_, event)| event["involvedObject"]["name"] == name) {
                world.event("Job", name, "FailedCreate", &quota);
            }
            break;
        }
        tally.free.remove(&place);
        tally.made += 1;
        let pod = format!("{name}-{place}-{:05x}", tally.made);
        tally.active.insert(pod.clone(), place);
        world.put("pods", &pod, pod_of(name, job, place));
    }
    if tally.free.is_empty() && tally.active.is_empty() {
        match tally.failed_indexes.len() {
            0 => {
                return end(
                    world,
                    name,
                    tally,
                    "Complete",
                    ("CompletionsReached", "reached expected number of succeeded pods".to_string()),
                );
            }
            failed => return end(world, name, tally, "Failed", ("FailedIndexes", format!("Job has {failed} failed indexes"))),
        }
    }
    let told = (tally.active.len(), tally.succeeded, tally.failed);
    // As often as it changes by much: a status for each pod of thousands would be more than a real controller writes.
    if told != tally.told && (told.0 < 50 || tally.succeeded.is_multiple_of(50)) {
        tally.told = told;
        let status = json!({ "active": told.0, "succeeded": told.1, "failed": told.2 });
        world.update("jobs", name, |job| job["status"] = status);
    }
}

/// Counts pods that have ended; says so when one of them ends the Job.
fn count(world: &mut World, job: &Value, tally: &mut Tally) -> Option<(&'static str, String)> {
    let names: Vec<(String, u32)> = tally.active.iter().map(|(pod, place)| (pod.clone(), *place)).collect();
    for (name, place) in names {
        let pod = world.get("pods", &name).cloned();
        let phase = pod.as_ref().and_then(|pod| pod.pointer("/status/phase")).and_then(Value::as_str);
        match phase {
            Some("Succeeded") => {
                tally.succeeded += 1;
                tally.active.remove(&name);
            }
            Some("Failed") | None => {
                tally.active.remove(&name);
                tally.failed += 1;
                let action = pod.as_ref().map_or("Count".to_string(), |pod| policy(job, pod));
                if let Some(failure) = failed(job, tally, place, &action, &name) {
                    return Some(failure);
                }
            }
            Some(_) => {}
        }
    }
    None
}

fn failed(job: &Value, tally: &mut Tally, place: u32, action: &str, pod: &str) -> Option<(&'static str, String)> {
    let per_index = number(job, "/spec/backoffLimitPerIndex");
    if action == "FailJob" {
        return Some(("PodFailurePolicy", format!("Container worker for pod {pod} matches FailJob rule")));
    }
    if action == "Count" {
        *tally.failed_per_index.entry(place).or_default() += 1;
    }
    let of_index = tally.failed_per_index.get(&place).copied().unwrap_or(0);
    if action == "FailIndex" || per_index.is_some_and(|limit| of_index > limit) {
        tally.failed_indexes.insert(place);
        return None;
    }
    let all: u64 = tally.failed_per_index.values().sum();
    if per_index.is_none() && all > number(job, "/spec/backoffLimit").unwrap_or(6) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit".to_string()));
    }
    tally.free.insert(place, Instant::now() + REPLACE);
    None
}

/// The action of the first rule that fits.
fn policy(job: &Value, pod: &Value) -> String {
    let code = pod.pointer("/status/containerStatuses/0/state/terminated/exitCode");
    let disrupted = pod
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .is_some_and(|conditions| conditions.iter().any(|c| c["type"] == "DisruptionTarget"));
    let rules = job.pointer("/spec/podFailurePolicy/rules").and_then(Value::as_array).cloned().unwrap_or_default();
    let fits = |rule: &&Value| match rule.pointer("/onExitCodes/values").and_then(Value::as_array) {
        Some(codes) => code.is_some_and(|code| codes.contains(code)),
        None => rule.get("onPodConditions").is_some() && disrupted,
    };
    rules.iter().find(fits).and_then(|rule| rule["action"].as_str()).unwrap_or("Count").to_string()
}

fn end(world: &mut World, name: &str, tally: &mut Tally, condition: &str, (reason, message): (&str, String)) {
    tally.over = true;
    let status = json!({
        "active": 0, "succeeded": tally.succeeded, "failed": tally.failed,
        "conditions": [{ "type": condition, "status": "True", "reason": reason, "message": message }],
    });
    world.update("jobs", name, |job| job["status"] = status);
    let left: Vec<String> = tally.active.keys().cloned().collect();
    left.iter().for_each(|pod| drop(world.delete("pods", pod)));
}

fn pod_of(name: &str, job: &Value, place: u32) -> Value {
    let mut pod = job.pointer("/spec/template").cloned().unwrap_or_else(|| json!({}));
    let uid = &job["metadata"]["uid"];
    let indexed = job.pointer("/spec/completionMode") == Some(&json!("Indexed"));
    pod["kind"] = json!("Pod");
    pod["apiVersion"] = json!("v1");
    let labels = &mut pod["metadata"]["labels"];
    labels["batch.kubernetes.io/job-name"] = json!(name);
    labels["job-name"] = json!(name);
    if indexed {
        labels["batch.kubernetes.io/job-completion-index"] = json!(place.to_string());
        if let Some(env) = pod.pointer_mut("/spec/containers/0/env").and_then(Value::as_array_mut) {
            env.push(json!({ "name": "JOB_COMPLETION_INDEX", "value": place.to_string() }));
        }
    }
    pod["metadata"]["ownerReferences"] = json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid, "controller": true }]);
    pod["status"] = json!({ "phase": "Pending" });
    pod
}

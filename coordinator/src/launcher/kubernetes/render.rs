//! From settings to a Job: a pure function, so that what a cluster gets can be read in a snapshot.

use super::names::{self, CONTAINER};
use super::strict;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::spec::{Capacity, Jobs, PodTemplate};
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Exit codes of a worker.
const BAD_CONFIGURATION: i32 = 42;
const POISONED: i32 = 43;
/// Where scratch files and fetched models go.
const SCRATCH: &str = "/scratch";
/// How long a worker has between SIGTERM and SIGKILL; it needs ten seconds, and spot nodes give fifteen.
const GRACE_SECONDS: i64 = 15;

/// Stages that are run with the same settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Names the settings in a label.
    pub id: String,
    pub stages: Vec<Stage>,
    pub jobs: Jobs,
    /// Most pods at once.
    pub workers: u32,
    pub pod: PodTemplate,
}

impl Group {
    /// What a Job's name says of it.
    pub fn word(&self) -> &'static str {
        match (self.jobs, &self.stages[..]) {
            (_, [stage]) => stage.name(),
            _ => "pool",
        }
    }
}

/// What all Jobs of a run have in common.
#[derive(Clone, Debug)]
pub struct Run {
    /// The name of its objects.
    pub base: String,
    /// The UID of the ConfigMap that owns them.
    pub owner: String,
    pub term: u32,
    pub coordinator: String,
    pub token_secret: String,
    /// Failed pods that a Job makes again.
    pub attempts: u32,
}

/// What a Job works on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// This many workers that lease what there is.
    Pool {
        workers: u32,
    },
    Wave {
        stage: Stage,
        partitions: Vec<u32>,
    },
    Partition {
        stage: Stage,
        partition: u32,
    },
}

/// The Job of this name. An error names what is wrong with the template.
pub fn job(run: &Run, group: &Group, name: &str, cover: &Cover) -> Result<Job, String> {
    let labels = labels(run, group, cover);
    let mut spec = json!({
        "podReplacementPolicy": "Failed",
        "podFailurePolicy": { "rules": failure_rules(cover) },
        "template": { "metadata": { "labels": labels.clone(), "annotations": group.pod.annotations }, "spec": pod(run, group, name, cover)? },
    });
    put(&mut spec, amounts(run, group, cover));
    let mut all = labels;
    if let Some(queue) = &group.pod.queue {
        all.insert("kueue.x-k8s.io/queue-name".to_string(), queue.clone());
        put(&mut spec, json!({ "suspend": true }));
    }
    let object = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": all,
            "ownerReferences": [{ "apiVersion": "v1", "kind": "ConfigMap", "name": run.base, "uid": run.owner }],
        },
        "spec": spec,
    });
    strict::read(&object).map_err(|problem| format!("run.kubernetes makes a Job that Kubernetes does not know: {problem}"))
}

fn labels(run: &Run, group: &Group, cover: &Cover) -> BTreeMap<String, String> {
    let mut labels = group.pod.labels.clone();
    let word = match group.jobs {
        Jobs::Pool => "pool",
        Jobs::Indexed => "indexed",
        Jobs::PerPartition => "per-partition",
    };
    let own = [
        ("app.kubernetes.io/name", "ip2p".to_string()),
        ("app.kubernetes.io/component", "worker".to_string()),
        (names::RUN, run.base.clone()),
        (names::GROUP, group.id.clone()),
        (names::MODE, word.to_string()),
        (names::STAGE, group.word().to_string()),
        (names::EPOCH, run.term.to_string()),
    ];
    labels.extend(own.map(|(key, value)| (key.to_string(), value)));
    if let Cover::Partition { partition, .. } = cover {
        labels.insert(names::PARTITION.to_string(), partition.to_string());
    }
    labels
}

/// How many pods, and how often a failed one is made again.
fn amounts(run: &Run, group: &Group, cover: &Cover) -> Value {
    match cover {
        Cover::Pool { workers } => json!({
            "completionMode": "NonIndexed",
            "completions": workers,
            "parallelism": workers,
            "backoffLimit": workers.saturating_mul(run.attempts),
        }),
        Cover::Partition { .. } => {
            json!({ "completionMode": "NonIndexed", "completions": 1, "parallelism": 1, "backoffLimit": run.attempts })
        }
        Cover::Wave { partitions, .. } => {
            let completions = partitions.len() as u32;
            json!({
                "completionMode": "Indexed",
                "completions": completions,
                "parallelism": group.workers.min(completions),
                "backoffLimitPerIndex": run.attempts,
                // One bad partition ends nothing but itself.
                "maxFailedIndexes": completions,
            })
        }
    }
}

/// The first rule that fits counts. The scheduler has a cap of its own on what a disruption costs.
fn failure_rules(cover: &Cover) -> Value {
    let on_exit = |code: i32, action: &str| json!({ "action": action, "onExitCodes": { "containerName": CONTAINER, "operator": "In", "values": [code] } });
    let disrupted = json!({ "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] });
    let bad = on_exit(BAD_CONFIGURATION, "FailJob");
    match cover {
        Cover::Pool { .. } => json!([bad, disrupted]),
        Cover::Wave { .. } => json!([bad, on_exit(POISONED, "FailIndex"), disrupted]),
        Cover::Partition { .. } => json!([bad, on_exit(POISONED, "FailJob"), disrupted]),
    }
}

/// Adds keys to a map.
fn put(map: &mut Value, keys: Value) {
    if let (Value::Object(map), Value::Object(keys)) = (map, keys) {
        map.extend(keys);
    }
}

fn pod(run: &Run, group: &Group, name: &str, cover: &Cover) -> Result<Value, String> {
    let template = &group.pod;
    let id = template.run_as_user;
    let mut scratch = Map::new();
    scratch.extend(template.scratch.as_ref().map(|limit| ("sizeLimit".to_string(), json!(limit))));
    let mut volumes = vec![json!({ "name": "scratch", "emptyDir": scratch })];
    volumes.extend(list(&template.volumes));
    let mut spec = json!({
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "securityContext": {
            "runAsNonRoot": true, "runAsUser": id, "runAsGroup": id, "fsGroup": id, "seccompProfile": { "type": "RuntimeDefault" },
            // A volume of many files is not gone through at each start.
            "fsGroupChangePolicy": "OnRootMismatch",
        },
        "containers": [container(run, group, name, cover)],
        "volumes": volumes,
    });
    let pull: Vec<Value> = template.image_pull_secrets.iter().map(|name| json!({ "name": name })).collect();
    let (affinity, mut tolerations) = capacity(template)?;
    tolerations.extend(list(&template.tolerations));
    let optional = [
        ("serviceAccountName", template.service_account.as_ref().map(|name| json!(name))),
        ("priorityClassName", template.priority_class.as_ref().map(|name| json!(name))),
        ("activeDeadlineSeconds", template.deadline.map(|deadline| json!(deadline.as_secs()))),
        ("nodeSelector", (!template.node_selector.is_empty()).then(|| json!(template.node_selector))),
        ("imagePullSecrets", (!pull.is_empty()).then(|| json!(pull))),
        ("affinity", affinity),
        ("tolerations", (!tolerations.is_empty()).then(|| json!(tolerations))),
    ];
    put(&mut spec, optional.into_iter().filter_map(|(key, value)| Some((key.to_string(), value?))).collect::<Map<_, _>>().into());
    Ok(spec)
}

fn list(value: &Option<Value>) -> Vec<Value> {
    value.as_ref().and_then(Value::as_array).cloned().unwrap_or_default()
}

fn container(run: &Run, group: &Group, name: &str, cover: &Cover) -> Value {
    let template = &group.pod;
    let mut mounts = vec![json!({ "name": "scratch", "mountPath": SCRATCH })];
    mounts.extend(list(&template.mounts));
    let mut container = json!({
        "name": CONTAINER,
        "image": template.image,
        "args": arguments(run, group, name, cover),
        "env": environment(run, template),
        "resources": resources(template),
        "securityContext": {
            "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] },
        },
        // What a worker logs last says why it ended.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts,
    });
    if !template.command.is_empty() {
        put(&mut container, json!({ "command": template.command }));
    }
    if !template.env_from_secrets.is_empty() {
        let from: Vec<Value> = template.env_from_secrets.iter().map(|name| json!({ "secretRef": { "name": name } })).collect();
        put(&mut container, json!({ "envFrom": from }));
    }
    container
}

fn arguments(run: &Run, group: &Group, name: &str, cover: &Cover) -> Vec<String> {
    let mut arguments = vec!["--coordinator".to_string(), run.coordinator.clone(), "--name".to_string(), "$(POD_NAME)".to_string()];
    match cover {
        Cover::Pool { .. } => {
            let stages: Vec<&str> = group.stages.iter().map(|stage| stage.name()).collect();
            arguments.extend(["--stages".to_string(), stages.join(",")]);
        }
        Cover::Partition { stage, partition } => {
            arguments.extend(["--stages".to_string(), stage.to_string(), "--partition".to_string(), partition.to_string()]);
        }
        Cover::Wave { .. } => arguments.extend(["--wave".to_string(), name.to_string()]),
    }
    arguments.extend(group.pod.arguments.iter().cloned());
    arguments
}

/// Secrets by reference only.
fn environment(run: &Run, template: &PodTemplate) -> Vec<Value> {
    let secret =
        |variable: &str, name: &str, key: &str| json!({ "name": variable, "valueFrom": { "secretKeyRef": { "name": name, "key": key } } });
    let plain = |variable: &str, value: &str| json!({ "name": variable, "value": value });
    let mut environment = vec![
        json!({ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }),
        secret("IP2P_TOKEN", &run.token_secret, "token"),
        plain("HOME", SCRATCH),
        plain("TMPDIR", SCRATCH),
    ];
    if !template.env.contains_key("IP2P_CACHE") {
        environment.push(plain("IP2P_CACHE", &format!("{SCRATCH}/cache")));
    }
    environment.extend(template.env.iter().map(|(variable, value)| plain(variable, value)));
    let references = template.secrets.iter().filter_map(|(variable, reference)| Some((variable, reference.split_once('/')?)));
    environment.extend(references.map(|(variable, (name, key))| secret(variable, name, key)));
    environment
}

fn resources(template: &PodTemplate) -> Value {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    requests.extend(template.cpu.as_ref().map(|cpu| ("cpu".to_string(), json!(cpu))));
    if let Some(memory) = &template.memory {
        requests.insert("memory".to_string(), json!(memory));
        limits.insert("memory".to_string(), json!(memory));
    }
    // Otherwise pods go to nodes that lack the room, and are evicted when they use it.
    if let Some(scratch) = &template.scratch {
        requests.insert("ephemeral-storage".to_string(), json!(scratch));
        limits.insert("ephemeral-storage".to_string(), json!(scratch));
    }
    if template.gpus > 0 {
        let gpus = json!(template.gpus.to_string());
        requests.insert(template.gpu_resource.clone(), gpus.clone());
        limits.insert(template.gpu_resource.clone(), gpus);
    }
    json!({ "requests": requests, "limits": limits })
}

/// How clouds mark nodes that can be taken away at any time: label, value, and whether it is a taint too.
const SPOT: [(&str, &str, bool); 4] = [
    ("cloud.google.com/gke-spot", "true", true),
    ("karpenter.sh/capacity-type", "spot", false),
    ("eks.amazonaws.com/capacityType", "SPOT", false),
    ("kubernetes.azure.com/scalesetpriority", "spot", true),
];

/// Affinity and tolerations that `capacity` asks for, merged into what the template has.
fn capacity(template: &PodTemplate) -> Result<(Option<Value>, Vec<Value>), String> {
    let expression = |label: &str, operator: &str, value: &str| json!({ "key": label, "operator": operator, "values": [value] });
    let terms: Vec<Value> = match template.capacity {
        Capacity::Any => return Ok((template.affinity.clone(), Vec::new())),
        // One of them is enough.
        Capacity::Spot => SPOT.iter().map(|(label, value, _)| json!({ "matchExpressions": [expression(label, "In", value)] })).collect(),
        // None of them may be there.
        Capacity::OnDemand => {
            vec![json!({ "matchExpressions": SPOT.iter().map(|(label, value, _)| expression(label, "NotIn", value)).collect::<Vec<_>>() })]
        }
    };
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let mut affinity = template.affinity.clone().unwrap_or_else(|| json!({}));
    if affinity.pointer(&format!("/nodeAffinity/{REQUIRED}")).is_some() {
        return Err(format!(
            "run.kubernetes.affinity: `capacity` and a nodeAffinity of one's own that is {REQUIRED} exclude each other; put the \
             labels of spot nodes into the latter, or use node_selector"
        ));
    }
    let mut node = affinity.get("nodeAffinity").cloned().unwrap_or_else(|| json!({}));
    put(&mut node, json!({ REQUIRED: { "nodeSelectorTerms": terms } }));
    put(&mut affinity, json!({ "nodeAffinity": node }));
    let taints = SPOT.iter().filter(|(_, _, taint)| *taint && template.capacity == Capacity::Spot);
    let tolerations = taints.map(|(key, value, _)| json!({ "key": key, "operator": "Equal", "value": value, "effect": "NoSchedule" }));
    Ok((Some(affinity), tolerations.collect()))
}

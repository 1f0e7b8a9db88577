//! `run.kubernetes`: how the stages become Jobs. What stands at the top holds for all stages; `stages` changes it for one.

use super::diagnostics::quoted;
use super::kinds::{choice, duration, integer, text};
use super::objects::*;
use super::seconds;
use super::section::Section;
use crate::layout::Stage;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::time::Duration;

/// Most partitions that get a Job each: very many Jobs stall a control plane.
pub const MOST_JOBS: u32 = 1_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// That of the coordinator's pod, or of the current context, when `None`.
    pub namespace: Option<String>,
    /// Where pods reach the coordinator.
    pub coordinator: String,
    /// The Secret whose key `token` is the coordinator's IP2P_TOKEN.
    pub token_secret: String,
    /// How long pods may fail to start before the run stops.
    #[serde(with = "seconds")]
    pub start_timeout: Duration,
    /// One for each of [`Stage::RUN`], in order.
    pub stages: Vec<StageJobs>,
}

/// How one stage is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageJobs {
    pub stage: Stage,
    pub jobs: Jobs,
    /// Most pods at once.
    pub workers: u32,
    pub pod: PodTemplate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Jobs {
    /// One Job of workers that lease partitions of every stage with the same settings.
    Pool,
    /// One Indexed Job for all partitions that are ready at a time.
    Indexed,
    /// One Job for each partition.
    PerPartition,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capacity {
    Any,
    /// Nodes that can be taken away at any time.
    Spot,
    OnDemand,
}

/// What pods look like. Secrets are named, never held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodTemplate {
    pub image: String,
    /// The container's command; the image's own entry point when empty.
    pub command: Vec<String>,
    /// Further arguments of the worker.
    pub arguments: Vec<String>,
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub gpus: u32,
    /// The resource that `gpus` counts.
    pub gpu_resource: String,
    /// What a pod asks for of its node's disk, and the most it may use: the scratch volume, where models are cached too.
    pub scratch: Option<String>,
    pub service_account: Option<String>,
    pub priority_class: Option<String>,
    /// A Kueue queue: Jobs are created suspended.
    pub queue: Option<String>,
    pub capacity: Capacity,
    pub run_as_user: i64,
    #[serde(with = "optional_seconds")]
    pub deadline: Option<Duration>,
    pub image_pull_secrets: Vec<String>,
    pub node_selector: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub env: BTreeMap<String, String>,
    /// Variable -> secret-name/key.
    pub secrets: BTreeMap<String, String>,
    pub env_from_secrets: Vec<String>,
    pub tolerations: Option<Json>,
    pub affinity: Option<Json>,
    pub volumes: Option<Json>,
    pub mounts: Option<Json>,
}

mod optional_seconds {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::time::Duration;

    pub fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        d.map(|d| d.as_secs_f64()).serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(d)?;
        seconds.map(|seconds| Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)).transpose()
    }
}

const JOBS: &[(&str, Jobs)] = &[("pool", Jobs::Pool), ("indexed", Jobs::Indexed), ("per-partition", Jobs::PerPartition)];
const CAPACITIES: &[(&str, Capacity)] = &[("any", Capacity::Any), ("spot", Capacity::Spot), ("on_demand", Capacity::OnDemand)];

/// The settings of one stage before the general ones fill what it leaves out.
#[derive(Clone, Default)]
struct Settings {
    image: Option<String>,
    jobs: Option<Jobs>,
    workers: Option<u32>,
    command: Option<Vec<String>>,
    arguments: Option<Vec<String>>,
    cpu: Option<String>,
    memory: Option<String>,
    gpus: Option<u32>,
    gpu_resource: Option<String>,
    scratch: Option<String>,
    service_account: Option<String>,
    priority_class: Option<String>,
    queue: Option<String>,
    capacity: Option<Capacity>,
    run_as_user: Option<i64>,
    deadline: Option<Duration>,
    image_pull_secrets: Option<Vec<String>>,
    node_selector: Option<BTreeMap<String, String>>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    env: Option<BTreeMap<String, String>>,
    secrets: Option<BTreeMap<String, String>>,
    env_from_secrets: Option<Vec<String>>,
    tolerations: Option<Json>,
    affinity: Option<Json>,
    volumes: Option<Json>,
    mounts: Option<Json>,
}

/// Reads the section; `workers` is the run's own number.
pub(super) fn kubernetes(s: &mut Section, workers: Option<u32>) -> Option<Kubernetes> {
    let namespace = s.optional("namespace", object_name(), "Namespace of everything; that of the coordinator when left out.");
    let coordinator = s.required("coordinator", coordinator_url(), "Where pods reach the coordinator: its Service, or a machine outside.");
    let doc = "The Secret whose key `token` holds the IP2P_TOKEN of the coordinator.";
    let token_secret = s.default("token_secret", "ip2p-token", object_name(), doc);
    let doc = "How long no pod may be able to start before the run stops; nodes that have yet to be made count.";
    let start_timeout = s.default("start_timeout", "15m", duration("10s", "1day"), doc);
    let general = settings(s);
    let doc = "Other settings for one stage; what is left out is as above.";
    let stages = s.section("stages", doc, |s| {
        Stage::RUN.map(|stage| {
            let doc = "Any of the keys from `image` on, for this stage alone.";
            s.repeated(stage.name(), doc, settings)
        })
    });
    let general = general?;
    let image_missing = general.image.is_none() && stages.iter().any(|stage| stage.as_ref().is_none_or(|s| s.image.is_none()));
    if image_missing {
        s.refuse("image", "missing key; expected the name of an image, here or for each stage");
        return None;
    }
    let stages: Option<Vec<Settings>> = stages.into_iter().collect();
    let stages = stages?;
    for (stage, own) in Stage::RUN.into_iter().zip(&stages) {
        let pairs = [(&own.env, &general.secrets), (&general.env, &own.secrets)];
        let twice = pairs.into_iter().filter(|_| own.env.is_none() || own.secrets.is_none());
        if let Some(name) = twice.filter_map(|(env, secrets)| shared(env.as_ref(), secrets.as_ref())).next() {
            s.refuse("stages", &format!("{stage} has {} in `env` and in `secrets`, one of them from above; keep one", quoted(name)));
        }
    }
    let stages = Stage::RUN.into_iter().zip(stages);
    let stages = stages.map(|(stage, own)| own.resolve(&general, stage, workers)).collect::<Option<_>>()?;
    Some(Kubernetes {
        namespace: namespace?,
        coordinator: coordinator?,
        token_secret: token_secret?,
        start_timeout: start_timeout?,
        stages,
    })
}

/// All keys are read before the first `?`, as everywhere in the schema.
fn settings(s: &mut Section) -> Option<Settings> {
    let image = s.optional("image", image(), "Image of the workers.");
    let doc = "Workers that lease partitions, an Indexed Job for all that is ready, or a Job each (1000 at most); pool when left out.";
    let jobs = s.optional("jobs", choice(JOBS), doc);
    let workers = s.optional("workers", integer(1, 10_000), "Most pods at once; `run.workers` when left out.");
    let command = s.optional("command", words(), "Command of the container; the image's own when left out.");
    let arguments = s.optional("arguments", words(), "Further arguments of the worker, such as --ca and a path.");
    let cpu = s.optional("cpu", quantity(), "CPU that a pod asks for.");
    let memory = s.optional("memory", quantity(), "Memory that a pod asks for, and its limit.");
    let gpus = s.optional("gpus", integer(0, 64), "GPUs of a pod; 0 when left out.");
    let gpu_resource = s.optional("gpu_resource", text("the name of a resource"), "What `gpus` counts; nvidia.com/gpu when left out.");
    let scratch =
        s.optional("scratch", quantity(), "Disk for scratch files and fetched models that a pod asks for, and the most it may use.");
    let service_account = s.optional("service_account", object_name(), "Service account of the pods; they get no token of it.");
    let priority_class = s.optional("priority_class", object_name(), "Priority class of the pods.");
    let queue = s.optional("queue", object_name(), "Local queue of Kueue: Jobs wait, suspended, until it admits them.");
    let capacity = s.optional("capacity", choice(CAPACITIES), "Spot or on-demand nodes of GKE, EKS, Karpenter and AKS; any when left out.");
    let run_as_user = s.optional("run_as_user", integer(1, 4_294_967_295), "User and group of the processes; 65532 when left out.");
    let deadline = s.optional("deadline", duration("1m", "30days"), "Longest life of a pod; a pool's pods need none.");
    let image_pull_secrets = s.optional("image_pull_secrets", object_names(), "Secrets for the image's registry.");
    let node_selector = s.optional("node_selector", texts(), "Labels that nodes must have.");
    let labels = s.optional("labels", texts(), "Labels of Jobs and pods.");
    let annotations = s.optional("annotations", texts(), "Annotations of the pods.");
    let env = s.optional("env", variables(), "Environment variables that are no secrets.");
    let secrets = s.optional("secrets", secret_references(), "Environment variables whose values are in Secrets.");
    let env_from_secrets = s.optional("env_from_secrets", object_names(), "Secrets of which every key becomes an environment variable.");
    let tolerations = s.optional("tolerations", raw_list(), "Taints of nodes that pods bear.");
    let affinity = s.optional("affinity", raw_map(), "Which nodes and neighbours pods want.");
    let volumes = s.optional("volumes", raw_list(), "Volumes of the pods, for example one with the models.");
    let mounts = s.optional("mounts", raw_list(), "Where the container has these volumes.");
    let twice = clash(
        env.as_ref().and_then(Option::as_ref),
        secrets.as_ref().and_then(Option::as_ref),
        volumes.as_ref().and_then(Option::as_ref),
        mounts.as_ref().and_then(Option::as_ref),
    );
    if let Some((key, problem)) = twice {
        s.refuse(key, &problem);
    }
    Some(Settings {
        image: image?,
        jobs: jobs?,
        workers: workers?,
        command: command?,
        arguments: arguments?,
        cpu: cpu?,
        memory: memory?,
        gpus: gpus?,
        gpu_resource: gpu_resource?,
        scratch: scratch?,
        service_account: service_account?,
        priority_class: priority_class?,
        queue: queue?,
        capacity: capacity?,
        run_as_user: run_as_user?,
        deadline: deadline?,
        image_pull_secrets: image_pull_secrets?,
        node_selector: node_selector?,
        labels: labels?,
        annotations: annotations?,
        env: env?,
        secrets: secrets?,
        env_from_secrets: env_from_secrets?,
        tolerations: tolerations?,
        affinity: affinity?,
        volumes: volumes?,
        mounts: mounts?,
    })
}

/// Variables that every pod has from the launcher or from the cluster.
const VARIABLES: [&str; 5] = ["HOME", "IP2P_TOKEN", "JOB_COMPLETION_INDEX", "POD_NAME", "TMPDIR"];
/// The launcher's own volume, and where it is.
const VOLUME: (&str, &str) = ("scratch", "/scratch");

/// What would be twice in a list of the pod that a server has by a key, and refuses: the key of the section, and why.
fn clash(
    env: Option<&BTreeMap<String, String>>,
    secrets: Option<&BTreeMap<String, String>>,
    volumes: Option<&Json>,
    mounts: Option<&Json>,
) -> Option<(&'static str, String)> {
    for (key, map) in [("env", env), ("secrets", secrets)] {
        // Only a plain value can take the place of the launcher's.
        let taken = |name: &&String| VARIABLES.contains(&name.as_str()) || (key == "secrets" && *name == "IP2P_CACHE");
        if let Some(name) = map.into_iter().flat_map(BTreeMap::keys).find(taken) {
            return Some((key, format!("{} is set by the launcher; remove it", quoted(name))));
        }
    }
    if let Some(name) = shared(env, secrets) {
        return Some(("secrets", format!("{} is in `env` too; keep one", quoted(name))));
    }
    for (key, list, field, own) in [("volumes", volumes, "name", VOLUME.0), ("mounts", mounts, "mountPath", VOLUME.1)] {
        let mut seen = vec![own];
        for value in list.and_then(Json::as_array).into_iter().flatten().filter_map(|item| item.get(field)?.as_str()) {
            let value = if key == "mounts" { value.trim_end_matches('/') } else { value };
            if value == own {
                return Some((key, format!("`{field}: {own}` is the launcher's own; choose another one")));
            }
            if seen.contains(&value) {
                return Some((key, format!("`{field}: {value}` is there twice; keep one")));
            }
            seen.push(value);
        }
    }
    None
}

/// A variable that both have.
fn shared<'s>(env: Option<&BTreeMap<String, String>>, secrets: Option<&'s BTreeMap<String, String>>) -> Option<&'s str> {
    secrets?.keys().find(|name| env.is_some_and(|env| env.contains_key(*name))).map(String::as_str)
}

/// User of the images: `nonroot` by convention.
const NONROOT: i64 = 65_532;

impl Settings {
    /// Fills what is left out; `None` only without an image or a number of workers.
    fn resolve(self, general: &Settings, stage: Stage, workers: Option<u32>) -> Option<StageJobs> {
        let general = general.clone();
        let pod = PodTemplate {
            image: self.image.or(general.image)?,
            command: self.command.or(general.command).unwrap_or_default(),
            arguments: self.arguments.or(general.arguments).unwrap_or_default(),
            cpu: self.cpu.or(general.cpu),
            memory: self.memory.or(general.memory),
            gpus: self.gpus.or(general.gpus).unwrap_or(0),
            gpu_resource: self.gpu_resource.or(general.gpu_resource).unwrap_or_else(|| "nvidia.com/gpu".to_string()),
            scratch: self.scratch.or(general.scratch),
            service_account: self.service_account.or(general.service_account),
            priority_class: self.priority_class.or(general.priority_class),
            queue: self.queue.or(general.queue),
            capacity: self.capacity.or(general.capacity).unwrap_or(Capacity::Any),
            run_as_user: self.run_as_user.or(general.run_as_user).unwrap_or(NONROOT),
            deadline: self.deadline.or(general.deadline),
            image_pull_secrets: self.image_pull_secrets.or(general.image_pull_secrets).unwrap_or_default(),
            node_selector: self.node_selector.or(general.node_selector).unwrap_or_default(),
            labels: self.labels.or(general.labels).unwrap_or_default(),
            annotations: self.annotations.or(general.annotations).unwrap_or_default(),
            env: self.env.or(general.env).unwrap_or_default(),
            secrets: self.secrets.or(general.secrets).unwrap_or_default(),
            env_from_secrets: self.env_from_secrets.or(general.env_from_secrets).unwrap_or_default(),
            tolerations: self.tolerations.or(general.tolerations),
            affinity: self.affinity.or(general.affinity),
            volumes: self.volumes.or(general.volumes),
            mounts: self.mounts.or(general.mounts),
        };
        let workers = self.workers.or(general.workers).or(workers)?;
        Some(StageJobs { stage, jobs: self.jobs.or(general.jobs).unwrap_or(Jobs::Pool), workers, pod })
    }
}

//! All objects, and the log of their changes that watches read.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::sync::watch;

/// Changes that a watch may be behind.
const LOG: usize = 20_000;

#[derive(Clone)]
pub struct Change {
    pub version: u64,
    pub kind: &'static str,
    pub resource: String,
    pub object: Value,
}

pub struct World {
    version: u64,
    objects: BTreeMap<(String, String), Value>,
    log: VecDeque<Change>,
    /// Watches from before this version are told 410 Gone.
    pub floor: u64,
    pub changed: watch::Sender<u64>,
    /// Watches of another number end.
    pub generation: watch::Sender<u64>,
    /// Calls by verb and resource.
    pub calls: BTreeMap<(String, String), u64>,
    /// Verbs on resources that are answered with 403.
    pub denied: BTreeSet<(String, String)>,
    /// Verbs on resources that are never answered.
    pub hung: BTreeSet<(String, String)>,
    /// Jobs that are made although the answer says that somebody else has changed them: the first one was lost.
    pub lost_answers: u32,
    /// Requests that are answered with 429 before others are served.
    pub throttled: u32,
    pub secrets: BTreeMap<(String, String), String>,
    /// Logs of pods.
    pub logs: BTreeMap<String, String>,
    /// Process ids of pods.
    pub processes: BTreeMap<String, u32>,
    /// Pods that run at once; others stay unschedulable.
    pub capacity: usize,
    /// Pods are refused with these words.
    pub quota: Option<String>,
    /// Jobs are refused with these words, as a policy of the cluster does it.
    pub policy: Option<String>,
    /// What `/version` says.
    pub minor: u32,
}

impl World {
    pub fn new() -> Self {
        World {
            version: 1,
            objects: BTreeMap::new(),
            log: VecDeque::new(),
            floor: 0,
            changed: watch::channel(1).0,
            generation: watch::channel(0).0,
            calls: BTreeMap::new(),
            denied: BTreeSet::new(),
            hung: BTreeSet::new(),
            lost_answers: 0,
            throttled: 0,
            secrets: BTreeMap::new(),
            logs: BTreeMap::new(),
            processes: BTreeMap::new(),
            capacity: usize::MAX,
            quota: None,
            policy: None,
            minor: 36,
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    pub fn get(&self, resource: &str, name: &str) -> Option<&Value> {
        self.objects.get(&(resource.to_string(), name.to_string()))
    }

    pub fn list(&self, resource: &str) -> BTreeMap<String, Value> {
        self.iter(resource).map(|(name, object)| (name.to_string(), object.clone())).collect()
    }

    pub fn iter(&self, resource: &str) -> impl Iterator<Item = (&str, &Value)> {
        let from = (resource.to_string(), String::new());
        let resource = resource.to_string();
        self.objects.range(from..).take_while(move |((of, _), _)| *of == resource).map(|((_, name), object)| (name.as_str(), object))
    }

    /// Stores an object under a new version; what is new gets a UID.
    pub fn put(&mut self, resource: &str, name: &str, mut object: Value) -> Value {
        self.version += 1;
        let key = (resource.to_string(), name.to_string());
        let old = self.objects.get(&key);
        let uid = old.and_then(|old| old.pointer("/metadata/uid")).cloned().unwrap_or_else(|| json!(format!("uid-{}", self.version)));
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("name".to_string(), json!(name));
            metadata.insert("namespace".to_string(), json!(super::NAMESPACE));
            metadata.insert("uid".to_string(), uid);
            metadata.insert("resourceVersion".to_string(), json!(self.version.to_string()));
        }
        self.objects.insert(key, object.clone());
        self.note(kind, resource, object.clone());
        object
    }

    /// Changes an object in place, if it is there.
    pub fn update(&mut self, resource: &str, name: &str, change: impl FnOnce(&mut Value)) {
        if let Some(mut object) = self.get(resource, name).cloned() {
            change(&mut object);
            self.put(resource, name, object);
        }
    }

    pub fn remove(&mut self, resource: &str, name: &str) -> Option<Value> {
        let mut object = self.objects.remove(&(resource.to_string(), name.to_string()))?;
        self.version += 1;
        if let Some(version) = object.pointer_mut("/metadata/resourceVersion") {
            *version = json!(self.version.to_string());
        }
        self.note("DELETED", resource, object.clone());
        Some(object)
    }

    fn note(&mut self, kind: &'static str, resource: &str, object: Value) {
        self.log.push_back(Change { version: self.version, kind, resource: resource.to_string(), object });
        if self.log.len() > LOG
            && let Some(lost) = self.log.pop_front()
        {
            self.floor = lost.version;
        }
        self.changed.send_replace(self.version);
    }

    /// Changes after `version`; `None` when some of them are forgotten.
    pub fn since(&self, version: u64, resource: &str) -> Option<Vec<Change>> {
        if version < self.floor {
            return None;
        }
        let first = self.log.partition_point(|change| change.version <= version);
        Some(self.log.range(first..).filter(|change| change.resource == resource).cloned().collect())
    }

    /// Ends every watch.
    pub fn disconnect(&mut self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Forgets all changes, and ends every watch: where they were is gone.
    pub fn expire(&mut self) {
        self.version += 1;
        self.floor = self.version;
        self.disconnect();
    }

    /// Deletes as a client does: a pod that runs gets its SIGTERM first, and what an object owns goes with it.
    pub fn delete(&mut self, resource: &str, name: &str) -> Option<Value> {
        if resource == "pods" && self.get("pods", name).is_some_and(|pod| pod.pointer("/status/phase") == Some(&json!("Running"))) {
            self.update("pods", name, |pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"));
            return self.get("pods", name).cloned();
        }
        let removed = self.remove(resource, name)?;
        self.collect(&removed);
        Some(removed)
    }

    fn collect(&mut self, owner: &Value) {
        let uid = owner.pointer("/metadata/uid").cloned();
        for resource in ["jobs", "pods"] {
            let owned = |object: &Value| {
                let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
                owners.is_some_and(|owners| owners.iter().any(|owner| owner.get("uid") == uid.as_ref()))
            };
            let names: Vec<String> = self.iter(resource).filter(|(_, object)| owned(object)).map(|(name, _)| name.to_string()).collect();
            names.iter().for_each(|name| drop(self.delete(resource, name)));
        }
    }

    /// Marks a pod as disrupted and has it ended.
    pub fn disrupt(&mut self, name: &str) {
        self.update("pods", name, |pod| {
            pod["status"]["conditions"] = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI" }]);
        });
        if let Some(process) = self.processes.get(name) {
            crate::signal(*process, "TERM");
        }
    }

    /// An event about an object.
    pub fn event(&mut self, kind: &str, object: &str, reason: &str, message: &str) {
        let name = format!("{object}.{}", self.version);
        let time = k8s_openapi::jiff::Timestamp::now().to_string();
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {}, "type": "Warning", "reason": reason, "message": message,
            "involvedObject": { "kind": kind, "name": object, "namespace": super::NAMESPACE }, "lastTimestamp": time,
        });
        self.put("events", &name, event);
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

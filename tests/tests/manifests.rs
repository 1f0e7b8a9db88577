//! What is in `k8s/` against the types of the Kubernetes API, against what kustomize needs, and against what runs do.

use ip2p_coordinator::launcher::kubernetes::strict;
use ip2p_pipeline::spec::{Jobs, Launcher, Spec, Unchecked};
use ip2p_tests::repository;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, PodSpec, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const OVERLAYS: [&str; 4] = ["minimal", "gpu-spot", "kueue", "trial-s3"];

fn k8s() -> PathBuf {
    repository().join("k8s")
}

fn documents(path: &Path) -> Vec<Value> {
    parse(&std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())), path)
}

fn parse(text: &str, path: &Path) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|document| !document.trim().is_empty());
    documents.map(|document| serde_saphyr::from_str(document).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).collect()
}

/// The files that a kustomization lists, those of its bases included.
fn resources(folder: &Path) -> Vec<PathBuf> {
    let kustomization = documents(&folder.join("kustomization.yaml")).remove(0);
    let listed = kustomization["resources"].as_array().cloned().unwrap_or_default();
    let paths = listed.iter().map(|path| folder.join(path.as_str().unwrap()));
    paths.flat_map(|path| if path.is_dir() { resources(&path) } else { vec![path] }).collect()
}

fn objects(folder: &Path) -> Vec<Value> {
    resources(folder).iter().flat_map(|path| documents(path)).collect()
}

fn check(object: &Value) -> Result<(), String> {
    match (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default()) {
        ("v1", "ConfigMap") => strict::read::<ConfigMap>(object).map(drop),
        ("v1", "Namespace") => strict::read::<Namespace>(object).map(drop),
        ("v1", "Service") => strict::read::<Service>(object).map(drop),
        ("v1", "ServiceAccount") => strict::read::<ServiceAccount>(object).map(drop),
        ("apps/v1", "Deployment") => strict::read::<Deployment>(object).map(drop),
        ("batch/v1", "Job") => strict::read::<Job>(object).map(drop),
        ("networking.k8s.io/v1", "NetworkPolicy") => strict::read::<NetworkPolicy>(object).map(drop),
        ("policy/v1", "PodDisruptionBudget") => strict::read::<PodDisruptionBudget>(object).map(drop),
        ("rbac.authorization.k8s.io/v1", "Role") => strict::read::<Role>(object).map(drop),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => strict::read::<RoleBinding>(object).map(drop),
        (version, kind) => Err(format!("{version} {kind} is not known here")),
    }
}

#[test]
fn every_manifest_is_what_the_api_knows() {
    for overlay in OVERLAYS {
        let objects = objects(&k8s().join("overlays").join(overlay));
        assert!(objects.len() > 8, "{overlay}");
        for object in objects {
            let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
            check(&object).unwrap_or_else(|problem| panic!("{overlay}: {kind} {name}: {problem}"));
            assert_ne!(kind, "Secret", "{overlay}: Secrets are made by people");
        }
    }
}

/// What `kubectl apply -k` sends. Where there is no kubectl, the test above has read the same files one by one.
#[test]
fn a_coordinator_that_was_cancelled_or_needs_a_person_is_not_started_again() {
    let job: Job = serde_json::from_value(documents(&k8s().join("base/coordinator.yaml")).remove(0)).unwrap();
    let rules = job.spec.unwrap().pod_failure_policy.unwrap().rules;
    let codes = rules.iter().find(|rule| rule.action == "FailJob").and_then(|rule| rule.on_exit_codes.as_ref()).unwrap();
    assert_eq!(codes.values, [2, 3, 5]);
}

#[test]
fn kustomize_builds_every_overlay() {
    for overlay in OVERLAYS {
        let folder = k8s().join("overlays").join(overlay);
        let Ok(built) = std::process::Command::new("kubectl").arg("kustomize").arg(&folder).output() else { return };
        assert!(built.status.success(), "{overlay}: {}", String::from_utf8_lossy(&built.stderr));
        let text = String::from_utf8(built.stdout).unwrap();
        let built = parse(&text, Path::new(overlay));
        // The pipeline is a ConfigMap that kustomize makes.
        assert_eq!(built.len(), objects(&folder).len() + 1, "{overlay}");
        for object in &built {
            check(object).unwrap_or_else(|problem| panic!("{overlay}: {} {}: {problem}", object["kind"], object["metadata"]["name"]));
            let namespace = &object["metadata"]["namespace"];
            assert!(object["kind"] == "Namespace" || namespace == "ip2p", "{overlay}: {} in {namespace}", object["kind"]);
        }
        let coordinator = built.iter().find(|object| object["kind"] == "Job").unwrap();
        let image = coordinator.pointer("/spec/template/spec/containers/0/image").unwrap();
        assert!(image.as_str().unwrap().contains('/'), "{overlay}: the image {image} has no registry");
    }
}

#[test]
fn a_key_with_a_typing_mistake_would_be_found() {
    let mut service = documents(&k8s().join("base/service.yaml")).remove(0);
    service["spec"]["selectr"] = json!({ "a": "b" });
    assert!(check(&service).unwrap_err().contains("spec.selectr"));
}

#[test]
fn every_pod_fits_the_restricted_level() {
    let mut seen = 0;
    for object in OVERLAYS.iter().flat_map(|overlay| objects(&k8s().join("overlays").join(overlay))) {
        let Some(pod) = object.pointer("/spec/template/spec") else { continue };
        assert_restricted(&serde_json::from_value(pod.clone()).unwrap());
        seen += 1;
    }
    let snapshots = repository().join("coordinator/src/launcher/kubernetes/snapshots");
    for entry in std::fs::read_dir(snapshots).unwrap() {
        let job: Job = serde_json::from_slice(&std::fs::read(entry.unwrap().path()).unwrap()).unwrap();
        let pod = job.spec.unwrap().template.spec.unwrap();
        assert_restricted(&pod);
        assert_eq!(pod.automount_service_account_token, Some(false), "workers have nothing to say to the API");
        seen += 1;
    }
    assert!(seen >= 9, "{seen}");
}

/// https://kubernetes.io/docs/concepts/security/pod-security-standards, and more.
fn assert_restricted(pod: &PodSpec) {
    let security = pod.security_context.as_ref().unwrap();
    assert_eq!((security.run_as_non_root, security.run_as_user != Some(0)), (Some(true), true));
    assert_eq!(security.seccomp_profile.as_ref().unwrap().type_, "RuntimeDefault");
    assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none());
    for volume in pod.volumes.iter().flatten() {
        assert!(volume.host_path.is_none() && volume.nfs.is_none(), "{}", volume.name);
    }
    for container in &pod.containers {
        let security = container.security_context.as_ref().unwrap();
        assert_eq!((security.allow_privilege_escalation, security.read_only_root_filesystem), (Some(false), Some(true)));
        assert_eq!(security.capabilities.as_ref().unwrap().drop.as_ref().unwrap(), &["ALL"]);
        assert!(container.env.iter().flatten().all(|variable| variable.name != "IP2P_TOKEN" || variable.value_from.is_some()));
    }
}

#[test]
fn the_pipelines_of_the_overlays_are_valid_and_for_a_cluster() {
    for overlay in OVERLAYS {
        let path = k8s().join("overlays").join(overlay).join("pipeline.yaml");
        let text = std::fs::read_to_string(&path).unwrap();
        let spec = Spec::parse(&text, overlay, &[], &Unchecked).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((spec.run.launcher, spec.run.listen.as_str()), (Launcher::Kubernetes, "0.0.0.0:7070"), "{overlay}");
        let kubernetes = spec.run.kubernetes.unwrap();
        assert_eq!(kubernetes.coordinator, "http://ip2p-coordinator:7070", "the Service of the base");
        let pairs = &kubernetes.stages[1];
        let expected = if matches!(overlay, "gpu-spot" | "kueue") { (Jobs::Indexed, 1) } else { (Jobs::Pool, 0) };
        assert_eq!((pairs.jobs, pairs.pod.gpus), expected, "{overlay}");
        assert_eq!(pairs.pod.queue.is_some(), overlay == "kueue", "{overlay}");
    }
}

//! What a cluster gets, as files to be read. `IP2P_BLESS=1` writes them again.

use super::render::{self, Cover, Group, Run};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::spec::{Jobs, Kubernetes, Spec, Unchecked};
use k8s_openapi::api::batch::v1::Job;
use std::path::PathBuf;

/// Every key of the section, on a general level and for one stage.
const FULL: &str = "
    namespace: data
    coordinator: https://ip2p-coordinator:7070
    token_secret: ip2p-token
    image: registry.example.com/ip2p-worker@sha256:0123
    arguments: [--ca, /etc/ip2p/ca.pem]
    cpu: 2
    memory: 8Gi
    scratch: 20Gi
    service_account: ip2p-worker
    labels: { team: vision }
    annotations: { note: \"a run\" }
    env: { RUST_LOG: info }
    secrets: { HF_TOKEN: hub/token }
    env_from_secrets: [store-credentials]
    image_pull_secrets: [registry]
    volumes: [{ name: ca, configMap: { name: ip2p-ca } }]
    mounts: [{ name: ca, mountPath: /etc/ip2p, readOnly: true }]
    stages:
      pairs:
        jobs: indexed
        workers: 8
        gpus: 1
        capacity: spot
        priority_class: batch
        queue: gpus
        deadline: 12h
        node_selector: { gpu: h100 }
        tolerations: [{ key: nvidia.com/gpu, operator: Exists, effect: NoSchedule }]
      shards: { jobs: per-partition, capacity: on_demand, run_as_user: 1000, command: [ip2p-coordinator, worker] }
";

fn parse(section: &str) -> Result<Spec, String> {
    let text = format!(
        "version: 1\nname: small\nstore: s3://bucket/x\ncorpus: {{ path: c.jsonl }}\nmodels: {{ diffusion: d, clip: c, llm: l }}\n\
         run:\n  launcher: kubernetes\n  workers: 3\n  kubernetes:{section}"
    );
    Spec::parse(&text, "p.yaml", &[], &Unchecked).map_err(|e| e.to_string())
}

fn kubernetes(section: &str) -> Kubernetes {
    parse(section).unwrap().run.kubernetes.unwrap()
}

fn run(spec: &Kubernetes) -> Run {
    Run {
        base: "ip2p-small-0123abcd".to_string(),
        owner: "6a1c".to_string(),
        term: 3,
        coordinator: spec.coordinator.clone(),
        token_secret: spec.token_secret.clone(),
        attempts: 4,
    }
}

fn group(spec: &Kubernetes, stages: &[Stage]) -> Group {
    let jobs = spec.stages.iter().find(|jobs| jobs.stage == stages[0]).unwrap();
    Group { id: "settings".to_string(), stages: stages.to_vec(), jobs: jobs.jobs, workers: jobs.workers, pod: jobs.pod.clone() }
}

fn check(name: &str, job: &Job) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("src/launcher/kubernetes/snapshots/{name}.json"));
    let text = serde_json::to_string_pretty(job).unwrap() + "\n";
    if std::env::var_os("IP2P_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}: set IP2P_BLESS=1 to write the snapshot again");
}

#[test]
fn jobs_are_as_the_snapshots_say() {
    let spec = kubernetes(FULL);
    let render = |name: &str, stages: &[Stage], cover: &Cover| {
        let group = group(&spec, stages);
        let job = render::job(&run(&spec), &group, &format!("ip2p-small-0123abcd-{}-3-1", group.word()), cover).unwrap();
        check(name, &job);
    };
    render("pool", &[Stage::Prompts, Stage::Filter, Stage::Index], &Cover::Pool { workers: 3 });
    render("indexed", &[Stage::Pairs], &Cover::Wave { stage: Stage::Pairs, partitions: (0..40).collect() });
    render("per-partition", &[Stage::Shards], &Cover::Partition { stage: Stage::Shards, partition: 17 });
}

#[test]
fn what_is_left_out_is_left_out_of_the_job() {
    let spec = kubernetes("\n    coordinator: http://ip2p-coordinator:7070\n    image: ip2p-worker:1\n");
    let job = render::job(&run(&spec), &group(&spec, &Stage::RUN), "x", &Cover::Pool { workers: 1 }).unwrap();
    check("minimal", &job);
    assert_eq!(spec.stages.iter().map(|stage| (stage.jobs, stage.workers)).collect::<Vec<_>>(), [(Jobs::Pool, 3); 5]);
}

#[test]
fn what_the_cluster_does_not_know_is_refused_before_it_is_asked() {
    let base = "\n    coordinator: http://c:1\n    image: i\n";
    let refusal = |keys: &str| {
        let spec = kubernetes(&format!("{base}    {keys}\n"));
        render::job(&run(&spec), &group(&spec, &Stage::RUN), "x", &Cover::Pool { workers: 1 }).unwrap_err()
    };
    let told = refusal("tolerations: [{ key: a, efect: NoSchedule }]");
    assert!(told.contains("`spec.template.spec.tolerations.0.efect` is no key"), "{told}");
    assert!(refusal("volumes: [{ name: v, configMap: 3 }]").contains("run.kubernetes makes a Job"));
    let both = refusal(
        "capacity: spot\n    affinity: { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: { nodeSelectorTerms: [] } } }",
    );
    assert!(both.contains("exclude each other"), "{both}");
}

#[test]
fn secrets_are_named_and_never_written() {
    let base = "\n    coordinator: http://c:1\n    image: i\n";
    for (keys, part) in [
        ("env: { HF_TOKEN: abcdefgh }", "name a Secret's key with `secrets`"),
        ("env: { X: hf_abcdefghijk }", "name a Secret's key with `secrets`"),
        ("secrets: { HF_TOKEN: hf_abcdefghijk }", "(not shown)"),
        ("arguments: [--x, hf_abcdefghijk]", "a secret (not shown)"),
        ("volumes: [{ name: v, x: hf_abcdefghijk }]", "a secret (not shown)"),
    ] {
        let told = parse(&format!("{base}    {keys}\n")).unwrap_err();
        assert!(told.contains(part) && !told.contains("abcdefgh"), "{told}");
    }
    assert!(parse("\n    coordinator: http://c:1\n").unwrap_err().contains("run.kubernetes.image: missing key"));
    let told = parse(&format!("{base}    stages: {{ pairs: {{ gpu: 1 }} }}\n")).unwrap_err();
    assert!(told.contains("did you mean `gpus`?"), "{told}");
}

//! Why pods do not start, and what to do about it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Why something does not start, in the cluster's words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stuck {
    pub reason: String,
    pub message: String,
}

/// One reason, with how many pods or Jobs it holds up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// One of them.
    pub object: String,
    pub others: u32,
    /// The cluster's own words.
    pub reason: String,
    pub message: String,
    pub advice: String,
}

impl Trouble {
    pub fn new(object: &str, stuck: &Stuck) -> Self {
        Trouble {
            object: object.to_string(),
            others: 0,
            reason: stuck.reason.clone(),
            message: stuck.message.trim().to_string(),
            advice: advice(stuck).to_string(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Trouble { object, others, reason, message, advice } = self;
        write!(f, "{object}")?;
        if *others > 0 {
            write!(f, " and {others} more")?;
        }
        write!(f, " cannot start: {reason}: {message}. {advice}")
    }
}

/// Whether a node that a pod was given to did not take it.
pub fn is_refusal(reason: &str) -> bool {
    let named = ["UnexpectedAdmissionError", "NodeAffinity", "TopologyAffinityError", "NodeShutdown", "AppArmor", "SysctlForbidden"];
    reason.starts_with("OutOf") || named.contains(&reason)
}

/// What to do about a reason of the kubelet, the schedulers or the Job controller.
fn advice(stuck: &Stuck) -> &'static str {
    let message = stuck.message.to_ascii_lowercase();
    let says = |text: &str| message.contains(text);
    match stuck.reason.as_str() {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            "Check run.kubernetes.image, that the registry can be reached from the nodes, and image_pull_secrets"
        }
        "CreateContainerConfigError" => {
            "A Secret or one of its keys is missing in this namespace: create it (docs/kubernetes.md), or mend token_secret, secrets and \
             env_from_secrets"
        }
        "FailedMount" | "FailedAttachVolume" => "Check run.kubernetes.volumes: what they name must be in this namespace",
        "FailedCreate" if says("quota") => "The namespace's quota is used up: lower workers or what a pod asks for, or raise the quota",
        "FailedCreate" if says("podsecurity") || says("violates") => {
            "The namespace's pod security refuses the pod: volumes and other settings must fit its level"
        }
        "FailedCreate" if says("serviceaccount") || says("service account") => "Create the service account, or mend service_account",
        "FailedCreate" => "An admission check refuses the pod: the message says what it wants",
        "Unschedulable" if says("nvidia.com/gpu") || says("insufficient nvidia") => {
            "No node has a free GPU: add GPU nodes (with the device plug-in), or wait until some are free"
        }
        "Unschedulable" if says("taint") => {
            "All fitting nodes have taints: add run.kubernetes.tolerations, or capacity: spot for spot nodes"
        }
        "Unschedulable" if says("selector") || says("affinity") => "No node has these labels: mend node_selector, affinity or capacity",
        "Unschedulable" => "No node has room: wait for the autoscaler, lower cpu and memory, or add nodes",
        "Suspended" => "Kueue has not admitted the Job: check that the local queue exists and has quota left",
        reason if is_refusal(reason) => {
            "The node refused the pod, and another is made; if that goes on, lower what a pod asks for, or mend the node's device plug-in"
        }
        _ => "`kubectl describe` on it shows more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_fits_the_reason() {
        let told = |reason: &str, message: &str| {
            Trouble::new("pod x", &Stuck { reason: reason.to_string(), message: message.to_string() }).to_string()
        };
        let gpu = told("Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.");
        assert!(gpu.contains("pod x cannot start: Unschedulable: 0/3") && gpu.contains("add GPU nodes"), "{gpu}");
        assert!(told("Unschedulable", "1 node(s) had untolerated taint {a: b}").contains("tolerations"));
        assert!(told("ImagePullBackOff", "Back-off").contains("image_pull_secrets"));
        assert!(told("CreateContainerConfigError", "secret \"ip2p-token\" not found").contains("token_secret"));
        assert!(told("FailedCreate", "pods \"x\" is forbidden: exceeded quota: gpus").contains("quota is used up"));
        assert!(told("FailedCreate", "violates PodSecurity \"restricted:latest\"").contains("pod security refuses"));
        assert!(told("OutOfnvidia.com/gpu", "Node didn't have enough resource").contains("The node refused the pod"));
    }
}

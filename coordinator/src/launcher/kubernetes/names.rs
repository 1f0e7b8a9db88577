//! Names and labels of everything that a run has in a cluster.

use ip2p_pipeline::ids::Fingerprint;

/// The field manager of what this program applies.
pub const MANAGER: &str = "ip2p-coordinator";
/// Which run an object belongs to.
pub const RUN: &str = "ip2p/run";
/// Which settings a Job was made with: Jobs of other settings are not adopted.
pub const GROUP: &str = "ip2p/group";
/// How its partitions are found: the word of `jobs`.
pub const MODE: &str = "ip2p/jobs";
pub const STAGE: &str = "ip2p/stage";
pub const PARTITION: &str = "ip2p/partition";
/// The upper half of the epochs that the coordinator which made the Job grants.
pub const EPOCH: &str = "ip2p/epoch";
/// Where Kubernetes says which index of a Job a pod is.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The older name of the same.
pub const JOB_NAME_OLD: &str = "job-name";
/// The container that works.
pub const CONTAINER: &str = "worker";

/// Longest readable part of a name: with stage, term, number and the endings of pods it stays within 63 characters.
const LONGEST: usize = 20;

/// The name of a run's objects; the same for every coordinator of the run, and another one for each store.
pub fn base(run: &str, store: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let readable: String = run.chars().map(plain).take(LONGEST).collect();
    let hash = Fingerprint::of(&["kubernetes", run, store]).to_string();
    format!("ip2p-{}-{}", readable.trim_matches('-'), hash.get(..8).unwrap_or(&hash))
}

/// The name of a Job; `term` and `number` make it new.
pub fn job(base: &str, what: &str, term: u32, number: u32) -> String {
    format!("{base}-{what}-{term}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_a_cluster_whatever_the_run_is_called() {
        for run in ["small", "My_Run.v2", "0", "an extremely long name of a run that says all about it and more"] {
            let base = base(run, "s3://bucket/prefix");
            let pod = format!("{}-99999-abcde", job(&base, "prompts", 99_999, 99));
            assert!(pod.len() <= 63, "{pod}");
            assert!(pod.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{pod}");
        }
        assert_ne!(base("a-b", "s3://x"), base("a_b", "s3://x"));
        assert_ne!(base("a", "s3://x"), base("a", "s3://y"));
    }
}

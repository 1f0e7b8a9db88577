//! Calls to the API of a cluster, and what their errors mean.

use super::names::{self, MANAGER};
use crate::trouble::Stuck;
use futures::TryFutureExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, LogParams, Patch, PatchParams};
use kube::{Api, Client, Config, Error};
use std::fmt;
use std::time::Duration;

/// Oldest server on which Indexed Jobs have all that is used here; older ones drop what they do not know without a word.
const OLDEST: u32 = 29;
/// Lines and bytes of a failed pod's log that are kept.
const LOG_LINES: i64 = 50;
const LOG_BYTES: i64 = 64 << 10;
/// How long evidence stays in the cluster once it is in the store, in seconds.
const KEEP_SECONDS: u32 = 600;
/// How much the clock of the server may be behind.
const CLOCKS: Duration = Duration::from_secs(5);
/// How often a call is tried that may succeed later, and the longest pause in between.
const TRIES: u32 = 8;
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a request may take: a connection that died without a word would hold it for ever.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a log may take. It is evidence, for which nothing has to wait.
const LOG_ANSWER: Duration = Duration::from_secs(5);

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    message: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It may succeed later: no answer, too many requests, a server in trouble.
    Passing,
    NotFound,
    Conflict,
    /// No repetition can help: a permission, or an object that the server does not accept.
    Refused,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What was tried, for messages: a verb of RBAC, a resource and its name.
#[derive(Clone, Copy)]
pub struct Call<'a>(pub &'a str, pub &'a str, pub &'a str);

impl Problem {
    pub fn of(error: &Error, Call(verb, resource, name): Call, namespace: &str) -> Self {
        let what = format!("cannot {verb} {resource} {name} in namespace {namespace}").replace("  ", " ");
        let Error::Api(status) = error else {
            return Problem { kind: ProblemKind::Passing, message: format!("{what}: {error}") };
        };
        let said = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
        let kind = match status.code {
            401 | 403 | 400 | 422 => ProblemKind::Refused,
            404 | 410 => ProblemKind::NotFound,
            // Pods and Jobs that are made at the same time update one quota.
            409 if said.contains("Operation cannot be fulfilled on resourcequotas") => ProblemKind::Passing,
            409 => ProblemKind::Conflict,
            // The server's word for an object with two entries of one key.
            500 if said.starts_with("failed to create typed patch object") => ProblemKind::Refused,
            _ => ProblemKind::Passing,
        };
        let advice = match status.code {
            401 => "; the credentials are not valid any more: renew the kubeconfig or the service account's token",
            // Quotas and admission speak with the same code.
            403 if !said.contains("cannot ") => "",
            403 => "; the coordinator's Role lacks this permission: apply k8s/base/rbac.yaml to the namespace",
            _ => "",
        };
        let permission = if advice.contains("Role") { format!(" (verb `{verb}` on `{resource}`)") } else { String::new() };
        Problem { kind, message: format!("{what}{permission}: {said}{advice}") }
    }

    fn silence(Call(verb, resource, name): Call, namespace: &str, waited: Duration) -> Self {
        let what = format!("cannot {verb} {resource} {name} in namespace {namespace}").replace("  ", " ");
        Problem { kind: ProblemKind::Passing, message: format!("{what}: no answer in {} s", waited.as_secs()) }
    }
}

/// One namespace of a cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    pub namespace: String,
}

impl Cluster {
    /// By KUBECONFIG or ~/.kube/config, or inside a cluster by the pod's service account.
    pub async fn connect(namespace: Option<&str>) -> Result<Self, String> {
        let config = Config::infer()
            .await
            .map_err(|e| format!("no cluster: {e}; set KUBECONFIG, or run the coordinator in a pod with a service account (k8s/base)"))?;
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_string);
        let client = Client::try_from(config).map_err(|e| format!("the cluster's configuration cannot be used: {e}"))?;
        Ok(Cluster { client, namespace })
    }

    pub fn jobs(&self) -> Api<Job> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    fn events(&self) -> Api<Event> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// One try.
    async fn once<T>(
        &self,
        call: Call<'_>,
        patience: Duration,
        request: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, (Problem, Option<Error>)> {
        match tokio::time::timeout(patience, request).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err((Problem::of(&error, call, &self.namespace), Some(error))),
            Err(_) => Err((Problem::silence(call, &self.namespace, patience), None)),
        }
    }

    /// Tries again what may succeed later, for about half a minute, or longer when there is no answer at all.
    pub async fn patiently<T, F>(&self, call: Call<'_>, request: impl Fn() -> F + Send) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, Error>> + Send,
    {
        let mut tries = 1;
        loop {
            let (problem, error) = match self.once(call, ANSWER, request()).await {
                Ok(value) => return Ok(value),
                Err(failed) => failed,
            };
            if problem.kind != ProblemKind::Passing || tries >= TRIES {
                return Err(problem);
            }
            tracing::debug!("{problem}; trying again");
            tokio::time::sleep(pause(error.as_ref(), tries)).await;
            tries += 1;
        }
    }

    /// Refuses servers that would ignore what makes these Jobs safe.
    pub async fn check_version(&self) -> Result<(), Problem> {
        let info = self.patiently(Call("get", "the version of the server", ""), || self.client.apiserver_version()).await?;
        let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>().unwrap_or(0);
        let (major, minor) = (number(&info.major), number(&info.minor));
        if (major, minor) >= (1, OLDEST) {
            return Ok(());
        }
        let message = format!(
            "the cluster runs Kubernetes {major}.{minor}; its Jobs need 1.{OLDEST} or newer (backoffLimitPerIndex, podReplacementPolicy)"
        );
        Err(Problem { kind: ProblemKind::Refused, message })
    }

    /// Has the server check a Job without creating it.
    pub async fn rehearse(&self, job: &Job) -> Result<(), Problem> {
        self.apply_job(job, &PatchParams::apply(MANAGER).dry_run()).await
    }

    /// Creates a Job; one of this name that is there already is ours, from a call whose answer was lost.
    pub async fn launch(&self, job: &Job) -> Result<(), Problem> {
        let applied = self.apply_job(job, &PatchParams::apply(MANAGER)).await;
        match applied {
            // After a lost answer the Job may be there and another controller, such as Kueue, have changed it.
            Err(problem) if problem.kind == ProblemKind::Conflict && self.is_there(job).await? => Ok(()),
            applied => applied,
        }
    }

    /// Whether a Job of this name and this owner is there.
    async fn is_there(&self, job: &Job) -> Result<bool, Problem> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let jobs = self.jobs();
        let found = self.patiently(Call("get", "jobs", name), || jobs.get_opt(name)).await?;
        let owner = |job: &Job| job.metadata.owner_references.iter().flatten().map(|owner| owner.uid.clone()).next();
        Ok(found.is_some_and(|found| owner(&found) == owner(job)))
    }

    async fn apply_job(&self, job: &Job, parameters: &PatchParams) -> Result<(), Problem> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let (jobs, patch) = (self.jobs(), Patch::Apply(job));
        self.patiently(Call("patch", "jobs", name), || jobs.patch(name, parameters, &patch).map_ok(drop)).await
    }

    /// Removes a Job and its pods. One that is not there is removed.
    pub async fn delete_job(&self, name: &str) -> Result<(), Problem> {
        let (jobs, parameters) = (self.jobs(), DeleteParams::background());
        let removed = self.patiently(Call("delete", "jobs", name), || jobs.delete(name, &parameters).map_ok(drop)).await;
        removed.or_else(|problem| if problem.kind == ProblemKind::NotFound { Ok(()) } else { Err(problem) })
    }

    /// Lets the cluster remove a finished Job after a while.
    pub async fn expire_job(&self, name: &str) -> Result<(), Problem> {
        let (jobs, parameters) = (self.jobs(), PatchParams::default());
        let patch = Patch::Merge(serde_json::json!({ "spec": { "ttlSecondsAfterFinished": KEEP_SECONDS } }));
        let expired = self.patiently(Call("patch", "jobs", name), || jobs.patch(name, &parameters, &patch).map_ok(drop)).await;
        expired.or_else(|problem| if problem.kind == ProblemKind::NotFound { Ok(()) } else { Err(problem) })
    }

    /// The end of a pod's log, in one try: nodes that are in trouble do not answer at all.
    pub async fn log_tail(&self, pod: &str) -> Result<String, Problem> {
        let (pods, parameters) = (
            self.pods(),
            LogParams {
                container: Some(names::CONTAINER.to_string()),
                tail_lines: Some(LOG_LINES),
                limit_bytes: Some(LOG_BYTES),
                ..LogParams::default()
            },
        );
        self.once(Call("get", "pods/log", pod), LOG_ANSWER, pods.logs(pod, &parameters)).await.map_err(|(problem, _)| problem)
    }

    /// What the newest warning about a pod or Job says that has waited for this long. Older ones explain what is over.
    pub async fn newest_warning(&self, kind: &str, name: &str, waited: Duration) -> Result<Option<Stuck>, Problem> {
        let since = Timestamp::now().checked_sub(waited + CLOCKS).ok();
        let selector = format!("involvedObject.kind={kind},involvedObject.name={name},type=Warning");
        let (events, parameters) = (self.events(), ListParams::default().fields(&selector));
        let listed = self.patiently(Call("list", "events", ""), || events.list(&parameters)).await?;
        let when = |event: &Event| {
            let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
            let last = event.last_timestamp.as_ref().map(|time| time.0);
            let first = event.event_time.as_ref().map(|time| time.0);
            series.or(last).or(first)
        };
        let recent = |event: &Event| when(event).is_none_or(|when| since.is_none_or(|since| when >= since));
        let newest = listed.items.into_iter().filter(recent).max_by_key(when);
        Ok(newest.map(|event| Stuck {
            // The scheduler's reason is another word for what the pod's condition says.
            reason: match event.reason.as_deref() {
                Some("FailedScheduling") => "Unschedulable".to_string(),
                reason => reason.unwrap_or_default().to_string(),
            },
            message: event.message.unwrap_or_default(),
        }))
    }
}

/// As long as the server says, or longer each time.
fn pause(error: Option<&Error>, tries: u32) -> Duration {
    let asked = match error {
        Some(Error::Api(status)) => {
            status.details.as_ref().map(|details| u64::from(details.retry_after_seconds)).filter(|seconds| *seconds > 0)
        }
        _ => None,
    };
    match asked {
        Some(seconds) => Duration::from_secs(seconds),
        None => Duration::from_millis(100 << tries.min(7)),
    }
    .min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn problem(code: u16, message: &str) -> Problem {
        let error = Error::Api(Status { code, message: message.to_string(), ..Status::default() }.boxed());
        Problem::of(&error, Call("create", "jobs", "x"), "data")
    }

    #[test]
    fn a_missing_permission_is_named() {
        let denied =
            problem(403, "jobs.batch \"x\" is forbidden: User \"system:serviceaccount:data:ip2p\" cannot create resource \"jobs\"");
        assert_eq!(denied.kind, ProblemKind::Refused);
        let text = denied.to_string();
        for part in ["cannot create jobs x in namespace data", "verb `create` on `jobs`", "k8s/base/rbac.yaml"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!problem(403, "pods \"x\" is forbidden: exceeded quota").to_string().contains("rbac"));
        assert_eq!(problem(429, "").kind, ProblemKind::Passing);
        assert_eq!(problem(500, "").kind, ProblemKind::Passing);
        assert_eq!(problem(422, "").kind, ProblemKind::Refused);
    }

    #[test]
    fn what_a_server_says_tells_what_helps_where_the_code_does_not() {
        let busy = "Operation cannot be fulfilled on resourcequotas \"gpus\": the object has been modified; please apply your changes to \
                    the latest version and try again";
        assert_eq!(problem(409, busy).kind, ProblemKind::Passing);
        assert_eq!(problem(409, "Apply failed with 1 conflict: conflict with \"kueue\": .spec.suspend").kind, ProblemKind::Conflict);
        let twice = "failed to create typed patch object (data/x; batch/v1, Kind=Job): .spec.template.spec.containers[name=\"worker\"].env: \
                     duplicate entries for key [name=\"HOME\"]";
        assert_eq!(problem(500, twice).kind, ProblemKind::Refused);
    }
}

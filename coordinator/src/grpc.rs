//! The gRPC server: checks who speaks, turns each call into one [`Request`] for the driver, and waits for its
//! answer. It decides nothing itself.

use crate::door::{Door, Peer};
use crate::waves::Waves;
use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::task::{Assignment, Failure, Finished, Parting, Progress, Report, Scope, Wanted};
use ip2p_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use ip2p_proto::{MAX_MESSAGE_BYTES, MAX_NAME_BYTES, PROTOCOL, TOKEN_KEY, one_line, v1};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::service::InterceptorLayer;
use tonic::{Request as Call, Response, Status};

/// Most metadata of a call, in bytes; a token is the largest of it.
const MAX_METADATA_BYTES: u32 = 8 << 10;
/// Most calls at once on a connection; a worker has three.
const MAX_STREAMS: u32 = 16;

/// What workers ask of the driver. A dropped reply channel tells the other side that its peer is gone.
#[derive(Debug)]
pub enum Request {
    Register { worker: String, device: String, scope: Scope, reply: oneshot::Sender<Registered> },
    Unfit { worker: String, failure: Failure, reply: oneshot::Sender<()> },
    Lease { worker: String, reply: oneshot::Sender<LeaseAnswer> },
    Heartbeat { worker: String, progress: Option<Progress>, reply: oneshot::Sender<HeartbeatAnswer> },
    Report { worker: String, assignment: Assignment, outcome: Result<Finished, Failure>, reply: oneshot::Sender<bool> },
}

#[derive(Debug)]
pub struct Registered {
    /// The name that the worker has from now on.
    pub worker: String,
    pub open_stages: Vec<Stage>,
}

#[derive(Debug)]
pub enum LeaseAnswer {
    Work(Assignment),
    Leave(Parting, String),
    /// The worker was silent for too long, or registered with an earlier coordinator.
    Unknown,
}

#[derive(Debug)]
pub struct HeartbeatAnswer {
    pub keep_lease: bool,
    pub drain: bool,
}

/// What every worker is told when it registers.
#[derive(Debug)]
pub struct Welcome {
    pub plan: Plan,
    pub store_url: String,
    pub lease: Duration,
}

struct Service {
    welcome: Arc<Welcome>,
    /// Names plan and store.
    run: String,
    waves: Waves,
    driver: mpsc::Sender<Request>,
}

/// Serves until `shutdown` resolves. `token` is what workers must show as `Bearer <token>`; who does not gets one and
/// the same answer to every call, known or not, before a byte of its message is read.
pub async fn serve(
    door: impl Into<Door>,
    token: String,
    welcome: impl Into<Arc<Welcome>>,
    driver: mpsc::Sender<Request>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let mut door = door.into();
    let welcome = welcome.into();
    let waves = Waves::new(welcome.store_url.clone(), welcome.plan.spec.store_options.clone());
    let run = Fingerprint::of(&[&welcome.plan.fingerprint().to_string(), &welcome.store_url]).to_string();
    let service = CoordinatorServer::new(Service { welcome, run, waves, driver })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut server = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(MAX_METADATA_BYTES)
        .max_concurrent_streams(MAX_STREAMS);
    if let Some(tls) = door.tls.take() {
        server = server.tls_config(tls)?;
    }
    server
        .layer(InterceptorLayer::new(token_check(token)))
        .add_service(service)
        .serve_with_incoming_shutdown(door.incoming(), shutdown)
        .await
}

/// Lets calls with the token through.
fn token_check(token: String) -> impl FnMut(Call<()>) -> Result<Call<()>, Status> + Clone {
    let expected = blake3::hash(format!("Bearer {token}").as_bytes());
    let refused = Arc::new(AtomicU64::new(0));
    move |call: Call<()>| {
        let shown = call.metadata().get(TOKEN_KEY).map(|value| value.as_bytes()).unwrap_or_default();
        let peer = call.extensions().get::<Arc<Peer>>();
        // BLAKE3 makes both sides equally long, and its hashes are compared in constant time.
        if blake3::hash(shown) == expected {
            peer.into_iter().for_each(|peer| peer.admit());
            return Ok(call);
        }
        let times = refused.fetch_add(1, Ordering::Relaxed) + 1;
        // Whoever floods the server does not flood the log.
        if times.is_power_of_two() {
            let address = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
            tracing::warn!(address, times, "refused a call with a wrong or missing token");
        }
        Err(Status::unauthenticated("wrong or missing token: start the worker with the coordinator's IP2P_TOKEN"))
    }
}

impl Service {
    /// Sends one request to the driver and waits for its answer.
    async fn ask<A>(&self, request: impl FnOnce(oneshot::Sender<A>) -> Request) -> Result<A, Status> {
        let gone = || Status::unavailable("the coordinator is shutting down");
        let (reply, answer) = oneshot::channel();
        self.driver.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// What a worker of another run says is about other partitions: it must register first, and learn this plan.
    fn same_run(&self, worker: &str, run: &str) -> Result<(), Status> {
        if run == self.run {
            return Ok(());
        }
        tracing::warn!(worker, "a worker of another plan or store called: it is told to register again");
        Err(Status::not_found("this coordinator has another plan or store: register again"))
    }

    async fn take_report(&self, worker: String, Report { assignment, outcome }: Report) -> Result<bool, Status> {
        self.ask(|reply| Request::Report { worker, assignment, outcome, reply }).await
    }
}

/// Names of workers are keys of maps and stand in logs and manifests.
fn checked_name(worker: String) -> Result<String, Status> {
    match (1..=MAX_NAME_BYTES).contains(&worker.len()) && !worker.contains(char::is_control) {
        true => Ok(worker),
        false => {
            Err(Status::invalid_argument(format!("a worker's name has 1 to {MAX_NAME_BYTES} bytes, none of them a control character")))
        }
    }
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn register(&self, call: Call<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let v1::RegisterRequest { protocol, version, worker, device, stages, only, run_name } = call.into_inner();
        let worker = checked_name(worker)?;
        let [version, device, run_name] = [version, device, run_name].map(|text| one_line(text, MAX_NAME_BYTES));
        if protocol != PROTOCOL {
            let refusal = format!(
                "worker {worker} (version {version}) speaks protocol {protocol}, this coordinator (version {}) speaks {PROTOCOL}: \
                 use the same version on both sides",
                env!("CARGO_PKG_VERSION")
            );
            tracing::warn!("refused: {refusal}");
            return Err(Status::failed_precondition(refusal));
        }
        let own = &self.welcome.plan.spec.name;
        if !run_name.is_empty() && run_name != *own {
            let refusal =
                format!("worker {worker} is there for run {run_name}, this coordinator runs {own}: check --coordinator and --run");
            tracing::warn!("refused: {refusal}");
            return Err(Status::failed_precondition(refusal));
        }
        let scope = match ip2p_proto::wanted(&stages, only)? {
            Wanted::Scope(scope) => scope,
            Wanted::Wave { name, index } => self.waves.scope(&name, index).await?,
        };
        let Registered { worker, open_stages } = self.ask(|reply| Request::Register { worker, device, scope, reply }).await?;
        let plan_json = serde_json::to_string(&self.welcome.plan).map_err(|e| Status::internal(e.to_string()))?;
        let lease_millis = self.welcome.lease.as_millis() as u64;
        let open_stages = open_stages.iter().map(ToString::to_string).collect();
        let (store_url, run) = (self.welcome.store_url.clone(), self.run.clone());
        Ok(Response::new(v1::RegisterResponse { plan_json, store_url, lease_millis, worker, open_stages, run }))
    }

    async fn unfit(&self, call: Call<v1::UnfitRequest>) -> Result<Response<v1::UnfitResponse>, Status> {
        let v1::UnfitRequest { worker, failed, run } = call.into_inner();
        let worker = checked_name(worker)?;
        self.same_run(&worker, &run)?;
        let failure = ip2p_proto::failed(failed)?;
        self.ask(|reply| Request::Unfit { worker, failure, reply }).await?;
        Ok(Response::new(v1::UnfitResponse {}))
    }

    async fn lease(&self, call: Call<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let v1::LeaseRequest { worker, report, run } = call.into_inner();
        let worker = checked_name(worker)?;
        self.same_run(&worker, &run)?;
        if let Some(report) = report {
            self.take_report(worker.clone(), report.try_into()?).await?;
        }
        let answer = match self.ask(|reply| Request::Lease { worker, reply }).await? {
            LeaseAnswer::Work(assignment) => v1::lease_response::Answer::Assignment(assignment.into()),
            LeaseAnswer::Leave(parting, reason) => v1::lease_response::Answer::Leave(ip2p_proto::leave(parting, reason)),
            LeaseAnswer::Unknown => return Err(Status::not_found("this coordinator does not know the worker: register again")),
        };
        Ok(Response::new(v1::LeaseResponse { answer: Some(answer) }))
    }

    async fn heartbeat(&self, call: Call<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let v1::HeartbeatRequest { worker, progress, run } = call.into_inner();
        let worker = checked_name(worker)?;
        let progress = progress.map(Progress::try_from).transpose()?;
        // It ends at its next chunk, and then registers again.
        if self.same_run(&worker, &run).is_err() {
            return Ok(Response::new(v1::HeartbeatResponse { keep_lease: false, drain: false }));
        }
        let HeartbeatAnswer { keep_lease, drain } = self.ask(|reply| Request::Heartbeat { worker, progress, reply }).await?;
        Ok(Response::new(v1::HeartbeatResponse { keep_lease, drain }))
    }

    async fn report(&self, call: Call<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let v1::ReportRequest { worker, report, run } = call.into_inner();
        let worker = checked_name(worker)?;
        self.same_run(&worker, &run)?;
        let accepted = self.take_report(worker, ip2p_proto::report(report)?).await?;
        Ok(Response::new(v1::ReportResponse { accepted }))
    }
}

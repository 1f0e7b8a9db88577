//! The gRPC server: checks who speaks, turns each call into one [`Request`] for the driver, and waits for its
//! answer. It decides nothing itself.

use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::task::{Assignment, Failure, Finished, Progress};
use ip2p_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use ip2p_proto::{MAX_MESSAGE_BYTES, PROTOCOL, TOKEN_KEY, v1};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request as Call, Response, Status};

/// What workers ask of the driver. A dropped reply channel tells the other side that its peer is gone.
#[derive(Debug)]
pub enum Request {
    Register { worker: String, device: String, reply: oneshot::Sender<Registered> },
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
    Leave(String),
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
    driver: mpsc::Sender<Request>,
}

/// Serves until `shutdown` resolves. `token` is what workers must show as `Bearer <token>`.
pub async fn serve(
    listener: TcpListener,
    token: String,
    welcome: Welcome,
    driver: mpsc::Sender<Request>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let service = CoordinatorServer::new(Service { welcome: Arc::new(welcome), driver })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let expected = format!("Bearer {token}");
    let check = move |call: Call<()>| {
        let shown = call.metadata().get(TOKEN_KEY).map(|value| value.as_bytes()).unwrap_or_default();
        if equal_in_constant_time(shown, expected.as_bytes()) {
            Ok(call)
        } else {
            Err(Status::unauthenticated("wrong or missing token: start the worker with the coordinator's IP2P_TOKEN"))
        }
    };
    tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(tonic::service::interceptor::InterceptedService::new(service, check))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown)
        .await
}

/// Takes as long for a wrong token as for the right one. BLAKE3 makes both sides equally long.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    blake3::hash(a) == blake3::hash(b)
}

impl Service {
    /// Sends one request to the driver and waits for its answer.
    async fn ask<A>(&self, request: impl FnOnce(oneshot::Sender<A>) -> Request) -> Result<A, Status> {
        let gone = || Status::unavailable("the coordinator is shutting down");
        let (reply, answer) = oneshot::channel();
        self.driver.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

fn required<T>(field: &str, value: Option<T>) -> Result<T, Status> {
    value.ok_or_else(|| Status::invalid_argument(format!("`{field}` is missing")))
}

#[tonic::async_trait]
impl Coordinator for Service {
    async fn register(&self, call: Call<v1::RegisterRequest>) -> Result<Response<v1::RegisterResponse>, Status> {
        let v1::RegisterRequest { protocol, version, worker, device } = call.into_inner();
        if protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "worker {worker} (version {version}) speaks protocol {protocol}, this coordinator (version {}) speaks {PROTOCOL}: \
                 use the same version on both sides",
                env!("CARGO_PKG_VERSION")
            )));
        }
        if worker.is_empty() || worker.len() > 200 {
            return Err(Status::invalid_argument("a worker's name has 1 to 200 bytes"));
        }
        let Registered { worker, open_stages } = self.ask(|reply| Request::Register { worker, device, reply }).await?;
        let plan_json = serde_json::to_string(&self.welcome.plan).map_err(|e| Status::internal(e.to_string()))?;
        let lease_millis = self.welcome.lease.as_millis() as u64;
        let open_stages = open_stages.iter().map(ToString::to_string).collect();
        let store_url = self.welcome.store_url.clone();
        Ok(Response::new(v1::RegisterResponse { plan_json, store_url, lease_millis, worker, open_stages }))
    }

    async fn unfit(&self, call: Call<v1::UnfitRequest>) -> Result<Response<v1::UnfitResponse>, Status> {
        let v1::UnfitRequest { worker, failed } = call.into_inner();
        let failure = ip2p_proto::failed(failed)?;
        self.ask(|reply| Request::Unfit { worker, failure, reply }).await?;
        Ok(Response::new(v1::UnfitResponse {}))
    }

    async fn lease(&self, call: Call<v1::LeaseRequest>) -> Result<Response<v1::LeaseResponse>, Status> {
        let worker = call.into_inner().worker;
        let answer = match self.ask(|reply| Request::Lease { worker, reply }).await? {
            LeaseAnswer::Work(assignment) => v1::lease_response::Answer::Assignment(assignment.into()),
            LeaseAnswer::Leave(reason) => v1::lease_response::Answer::Leave(v1::Leave { reason }),
            LeaseAnswer::Unknown => return Err(Status::not_found("this coordinator does not know the worker: register again")),
        };
        Ok(Response::new(v1::LeaseResponse { answer: Some(answer) }))
    }

    async fn heartbeat(&self, call: Call<v1::HeartbeatRequest>) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let v1::HeartbeatRequest { worker, progress } = call.into_inner();
        let progress = progress.map(Progress::try_from).transpose()?;
        let HeartbeatAnswer { keep_lease, drain } = self.ask(|reply| Request::Heartbeat { worker, progress, reply }).await?;
        Ok(Response::new(v1::HeartbeatResponse { keep_lease, drain }))
    }

    async fn report(&self, call: Call<v1::ReportRequest>) -> Result<Response<v1::ReportResponse>, Status> {
        let v1::ReportRequest { worker, assignment, outcome } = call.into_inner();
        let assignment = required("assignment", assignment)?.try_into()?;
        let outcome = ip2p_proto::outcome(outcome)?;
        let accepted = self.ask(|reply| Request::Report { worker, assignment, outcome, reply }).await?;
        Ok(Response::new(v1::ReportResponse { accepted }))
    }
}

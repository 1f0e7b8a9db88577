//! The [`Link`] over gRPC.

use crate::failure::{Result, failure};
use crate::link::{Answer, Link, Pulse, Unanswered, Welcome};
use crate::loaded::Models;
use crate::tls::{self, ClientFiles};
use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use ip2p_pipeline::task::{Assignment, Cause, Failure, Progress, Report, Wanted};
use ip2p_proto::v1::coordinator_client::CoordinatorClient;
use ip2p_proto::{MAX_MESSAGE_BYTES, PROTOCOL, TOKEN_KEY, v1};
use std::error::Error;
use std::time::Duration;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How a worker reaches its coordinator.
#[derive(Clone)]
pub struct Address {
    /// e.g. `http://127.0.0.1:7070`.
    pub coordinator: String,
    /// The coordinator's token; never logged.
    pub token: String,
    /// For a coordinator behind TLS.
    pub tls: ClientFiles,
}

/// A connection that is made anew by itself when it breaks.
pub struct GrpcLink {
    client: CoordinatorClient<InterceptedService<Channel, Bearer>>,
    coordinator: String,
    tls: ClientFiles,
    wanted: Wanted,
    run_name: String,
}

#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TOKEN_KEY, self.0.clone());
        Ok(request)
    }
}

impl GrpcLink {
    /// Tries for about half a minute.
    pub async fn connect(address: &Address) -> Result<Self> {
        let Address { coordinator, token, tls } = address;
        let bad =
            |what: &str| failure(Cause::BadInput, format!("{what} `{coordinator}` is not valid: write for example http://10.0.0.5:7070"));
        if !coordinator.contains("://") {
            return Err(bad("the coordinator's address"));
        }
        let endpoint = Endpoint::from_shared(coordinator.clone())
            .map_err(|_| bad("the coordinator's address"))?
            .connect_timeout(Duration::from_secs(5))
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let endpoint = tls.apply(endpoint, coordinator)?;
        let dial = || async {
            let absent = |e| failure(Cause::Transient, format!("no coordinator at {coordinator}: {e}"));
            match endpoint.connect().await {
                Ok(channel) => Ok(channel),
                Err(e) => Err(tls::explain(coordinator, tls, &e).await.unwrap_or_else(|| absent(e))),
            }
        };
        let patience = ExponentialBuilder::default().with_max_delay(Duration::from_secs(5)).with_max_times(8);
        let channel = dial.retry(patience).when(|f: &Failure| f.cause == Cause::Transient).await?;
        let bearer = format!("Bearer {token}")
            .parse()
            .map_err(|_| failure(Cause::BadInput, "IP2P_TOKEN has characters that no header can carry"))?;
        let client = CoordinatorClient::with_interceptor(channel, Bearer(bearer))
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        Ok(GrpcLink { client, coordinator: coordinator.clone(), tls: tls.clone(), wanted: Wanted::default(), run_name: String::new() })
    }

    /// Registers with a coordinator of the run of this name only.
    pub fn of_run(self, run_name: Option<String>) -> Self {
        GrpcLink { run_name: run_name.unwrap_or_default(), ..self }
    }

    /// Registers for this work only.
    pub fn wanting(self, wanted: Wanted) -> Self {
        GrpcLink { wanted, ..self }
    }
}

impl From<Status> for Unanswered {
    fn from(status: Status) -> Self {
        // What the connection said is nearer to the cause than what gRPC made of it.
        let message = if status.source().is_some() { tls::last(&status) } else { status.message().to_string() };
        match status.code() {
            Code::NotFound => Unanswered::Unknown,
            Code::Unauthenticated | Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied => {
                Unanswered::Refused(message)
            }
            _ => Unanswered::Silent(message),
        }
    }
}

/// An answer that no coordinator of this version gives.
fn nonsense(problem: impl std::fmt::Display) -> Unanswered {
    Unanswered::Refused(format!("it sent an answer that this worker cannot read: {problem}"))
}

/// Who speaks, and of which run.
fn speaker(welcome: &Welcome) -> (String, String) {
    (welcome.worker.clone(), welcome.run.clone())
}

#[async_trait]
impl Link for GrpcLink {
    fn place(&self) -> &str {
        &self.coordinator
    }

    async fn register(&self, name: &str) -> Result<Welcome, Unanswered> {
        let request = v1::RegisterRequest {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_string(),
            worker: name.to_string(),
            device: Models::describe_device(),
            run_name: self.run_name.clone(),
            ..(&self.wanted).into()
        };
        let welcome = match self.client.clone().register(request).await {
            Ok(welcome) => welcome.into_inner(),
            Err(status) => {
                let explained = tls::explain(&self.coordinator, &self.tls, &status).await;
                return Err(explained.map_or_else(|| status.into(), |f| Unanswered::Refused(f.message)));
            }
        };
        Ok(Welcome {
            plan: serde_json::from_str(&welcome.plan_json).map_err(nonsense)?,
            open_stages: ip2p_proto::stages(&welcome.open_stages).map_err(nonsense)?,
            lease: Duration::from_millis(welcome.lease_millis),
            worker: welcome.worker,
            run: welcome.run,
            store_url: welcome.store_url,
        })
    }

    async fn lease(&self, welcome: &Welcome, report: Option<Report>) -> Result<Answer, Unanswered> {
        let (worker, run) = speaker(welcome);
        let request = v1::LeaseRequest { worker, report: report.map(Into::into), run };
        match self.client.clone().lease(request).await?.into_inner().answer {
            Some(v1::lease_response::Answer::Assignment(wire)) => Assignment::try_from(wire).map(Answer::Work).map_err(nonsense),
            Some(v1::lease_response::Answer::Leave(leave)) => {
                ip2p_proto::parting(&leave).map(|parting| Answer::Leave(parting, leave.reason)).map_err(nonsense)
            }
            None => Err(nonsense("neither work nor a farewell")),
        }
    }

    async fn heartbeat(&self, welcome: &Welcome, progress: Option<Progress>, timeout: Duration) -> Result<Pulse, Unanswered> {
        let (worker, run) = speaker(welcome);
        let mut request = Request::new(v1::HeartbeatRequest { worker, progress: progress.map(Into::into), run });
        request.set_timeout(timeout);
        let answer = self.client.clone().heartbeat(request).await?.into_inner();
        Ok(Pulse { keep_lease: answer.keep_lease, drain: answer.drain })
    }

    async fn report(&self, welcome: &Welcome, report: Report) -> Result<(), Unanswered> {
        let (worker, run) = speaker(welcome);
        let request = v1::ReportRequest { worker, report: Some(report.into()), run };
        self.client.clone().report(request).await?;
        Ok(())
    }

    async fn unfit(&self, welcome: &Welcome, failure: Failure) -> Result<(), Unanswered> {
        let (worker, run) = speaker(welcome);
        let request = v1::UnfitRequest { worker, failed: Some(failure.into()), run };
        self.client.clone().unfit(request).await?;
        Ok(())
    }
}

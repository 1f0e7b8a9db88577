//! A worker's life: register, lease, work, report, until the coordinator says there is no more work.

use crate::control::Control;
use crate::failure::{Result, failure};
use crate::loaded::Models;
use crate::ready;
use crate::run_partition::run_partition;
use crate::stages::Env;
use crate::tls::{self, ClientFiles};
use backon::{ExponentialBuilder, Retryable};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished};
use ip2p_proto::v1::coordinator_client::CoordinatorClient;
use ip2p_proto::{MAX_MESSAGE_BYTES, PROTOCOL, TOKEN_KEY, Wire, v1};
use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How a worker reaches its coordinator.
#[derive(Clone)]
pub struct SessionOptions {
    /// e.g. `http://127.0.0.1:7070`.
    pub coordinator: String,
    /// Proposed name; the coordinator gives a second worker of this name another one.
    pub name: String,
    /// The coordinator's token; never logged.
    pub token: String,
    /// For a coordinator behind TLS.
    pub tls: ClientFiles,
}

/// Why a session ended well.
#[derive(Debug)]
pub enum Ended {
    /// The coordinator had no more work.
    Dismissed(String),
    /// The worker itself was asked to leave (signal, or its parent died).
    Left,
}

type Client = CoordinatorClient<InterceptedService<Channel, Bearer>>;

#[derive(Clone)]
struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TOKEN_KEY, self.0.clone());
        Ok(request)
    }
}

/// How long a worker waits for a coordinator that went away, before it ends too.
const PATIENCE: Duration = Duration::from_secs(120);

struct Session {
    client: Client,
    options: SessionOptions,
    /// Among other things, what the coordinator calls this worker.
    welcome: v1::RegisterResponse,
    env: Env,
    lease: Duration,
    /// Turns true when the worker should leave.
    leave: watch::Receiver<bool>,
}

/// Works for the coordinator until one side ends it.
pub async fn run(options: SessionOptions, mut leave: watch::Receiver<bool>) -> Result<Ended> {
    let client = connect(&options).await?;
    loop {
        let welcome = register(&client, &options).await?;
        let session = tokio::select! {
            session = Session::get_ready(&client, &options, welcome, leave.clone()) => session?,
            _ = wait_true(&mut leave) => return Ok(Ended::Left),
        };
        if let Some(ended) = session.serve().await? {
            return Ok(ended);
        }
        tracing::info!("the coordinator has another plan: starting anew");
    }
}

/// Heartbeats without a lease, because loading models can take longer than a lease lasts.
async fn stay_known(client: &Client, worker: &str, lease: Duration) -> Infallible {
    let mut beat = tokio::time::interval(lease / 6);
    loop {
        beat.tick().await;
        let request = v1::HeartbeatRequest { worker: worker.to_string(), progress: None };
        // Whoever is forgotten all the same registers again when it asks for work.
        let _ = client.clone().heartbeat(request).await;
    }
}

/// Tells the coordinator what no new try can mend; hands the failure on.
async fn tell_unfit(client: &Client, worker: &str, f: Failure) -> Failure {
    if matches!(f.cause, Cause::BadInput | Cause::Resource) {
        let request = v1::UnfitRequest { worker: worker.to_string(), failed: Some(f.clone().into()) };
        if let Err(status) = client.clone().unfit(request).await {
            tracing::warn!("the coordinator could not be told: {}", status.message());
        }
    }
    f
}

/// Tells the coordinator why this worker leaves, which need not concern any other; hands the failure on.
async fn tell_alone(client: &Client, worker: &str, f: Failure) -> Failure {
    let alone = Failure { cause: Cause::Transient, message: f.message.clone() };
    let request = v1::UnfitRequest { worker: worker.to_string(), failed: Some(alone.into()) };
    if let Err(status) = client.clone().unfit(request).await {
        tracing::warn!("the coordinator could not be told: {}", status.message());
    }
    f
}

async fn register(client: &Client, options: &SessionOptions) -> Result<v1::RegisterResponse> {
    let request = v1::RegisterRequest {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_string(),
        worker: options.name.clone(),
        device: Models::describe_device(),
    };
    let welcome = match client.clone().register(request).await {
        Ok(welcome) => welcome.into_inner(),
        Err(status) => {
            return Err(tls::explain(&options.coordinator, &options.tls, &status).await.unwrap_or_else(|| refused(options, status)));
        }
    };
    if welcome.worker != options.name {
        tracing::warn!("another worker calls itself {}: this one is {} from now on", options.name, welcome.worker);
    }
    Ok(welcome)
}

async fn connect(options: &SessionOptions) -> Result<Client> {
    let bad = |what: &str| {
        failure(Cause::BadInput, format!("{what} `{}` is not valid: write for example http://10.0.0.5:7070", options.coordinator))
    };
    if !options.coordinator.contains("://") {
        return Err(bad("the coordinator's address"));
    }
    let endpoint = Endpoint::from_shared(options.coordinator.clone())
        .map_err(|_| bad("the coordinator's address"))?
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let endpoint = options.tls.apply(endpoint, &options.coordinator)?;
    let dial = || async {
        let absent = |e| failure(Cause::Transient, format!("no coordinator at {}: {e}", options.coordinator));
        match endpoint.connect().await {
            Ok(channel) => Ok(channel),
            Err(e) => Err(tls::explain(&options.coordinator, &options.tls, &e).await.unwrap_or_else(|| absent(e))),
        }
    };
    let patience = ExponentialBuilder::default().with_max_delay(Duration::from_secs(5)).with_max_times(8);
    let channel = dial.retry(patience).when(|f: &Failure| f.cause == Cause::Transient).await?;
    let bearer = format!("Bearer {}", options.token)
        .parse()
        .map_err(|_| failure(Cause::BadInput, "IP2P_TOKEN has characters that no header can carry"))?;
    Ok(CoordinatorClient::with_interceptor(channel, Bearer(bearer))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// The coordinator's refusal in words; wrong token, version or run cannot be mended by trying again.
fn refused(options: &SessionOptions, status: Status) -> Failure {
    let cause = match status.code() {
        Code::Unauthenticated | Code::FailedPrecondition | Code::InvalidArgument | Code::PermissionDenied => Cause::BadInput,
        _ => Cause::Transient,
    };
    if status.source().is_some() {
        return failure(cause, format!("no answer from the coordinator at {}: {}", options.coordinator, tls::last(&status)));
    }
    failure(cause, format!("the coordinator at {} refused: {}", options.coordinator, status.message()))
}

impl Session {
    /// Opens the store and loads the models, while heartbeats say that this worker is alive.
    async fn get_ready(
        client: &Client,
        options: &SessionOptions,
        welcome: v1::RegisterResponse,
        leave: watch::Receiver<bool>,
    ) -> Result<Self> {
        let plan: Plan = serde_json::from_str(&welcome.plan_json)
            .map_err(|e| failure(Cause::Bug, format!("the coordinator sent a plan this worker cannot read: {e}")))?;
        let store = match ready::open_store(&welcome.store_url, &plan).await {
            Ok(store) => store,
            Err(f) => return Err(tell_alone(client, &welcome.worker, f).await),
        };
        let open = ip2p_proto::stages(&welcome.open_stages).map_err(|e| failure(Cause::Bug, e.to_string()))?;
        let lease = Duration::from_millis(welcome.lease_millis);
        let ready = tokio::select! {
            ready = ready::get_ready(&plan, &open) => ready,
            never = stay_known(client, &welcome.worker, lease) => match never {},
        };
        let device = match ready {
            Ok(device) => device,
            Err(f) => return Err(tell_unfit(client, &welcome.worker, f).await),
        };
        let env = Env { store, plan: Arc::new(plan), device, kept: Arc::default() };
        Ok(Session { client: client.clone(), options: options.clone(), welcome, env, lease, leave })
    }

    /// Takes and does work; `None` when the coordinator has another plan by now.
    async fn serve(mut self) -> Result<Option<Ended>> {
        let mut leave = self.leave.clone();
        loop {
            let request = v1::LeaseRequest { worker: self.welcome.worker.clone() };
            let mut client = self.client.clone();
            let answer = tokio::select! {
                answer = client.lease(request) => answer,
                _ = wait_true(&mut leave) => return Ok(Some(Ended::Left)),
            };
            match answer {
                Ok(answer) => match answer.into_inner().answer {
                    Some(v1::lease_response::Answer::Assignment(wire)) => {
                        let assignment = Assignment::try_from(wire).map_err(|e| failure(Cause::Bug, e.to_string()))?;
                        self.work(assignment).await?;
                    }
                    Some(v1::lease_response::Answer::Leave(leave)) => return Ok(Some(Ended::Dismissed(leave.reason))),
                    None => return Err(failure(Cause::Bug, "the coordinator answered a lease request with nothing")),
                },
                // It was silent for longer than a lease, or the coordinator is starting again.
                Err(status) if is_gone(&status) => {
                    let again = tokio::select! {
                        again = self.register_again() => again?,
                        _ = wait_true(&mut leave) => return Ok(Some(Ended::Left)),
                    };
                    if again.plan_json != self.welcome.plan_json || again.store_url != self.welcome.store_url {
                        return Ok(None);
                    }
                    self.welcome = again;
                }
                Err(status) => return Err(refused(&self.options, status)),
            }
        }
    }

    /// Waits for a coordinator that is starting again.
    async fn register_again(&self) -> Result<v1::RegisterResponse> {
        let patience = ExponentialBuilder::default()
            .with_jitter()
            .with_max_delay(Duration::from_secs(10))
            .without_max_times()
            .with_total_delay(Some(PATIENCE));
        let register = || register(&self.client, &self.options);
        register.retry(patience).when(|f| f.cause == Cause::Transient).await
    }

    /// One attempt with its heartbeats. Only a broken device ends the session here.
    async fn work(&self, assignment: Assignment) -> Result<()> {
        let control = Arc::new(Control::default());
        let attempt = run_partition(&self.env, assignment, &self.welcome.worker, &control);
        tokio::pin!(attempt);
        let outcome = tokio::select! {
            outcome = &mut attempt => outcome,
            silence = self.keep_lease(assignment, &control) => {
                control.lose();
                // The step at hand ends first, so that no half-written object is left.
                let _ = attempt.await;
                tracing::warn!(stage = %assignment.stage, partition = assignment.partition, "the coordinator is gone: {}", silence.message());
                return Ok(());
            }
            never = drain_on(self.leave.clone(), &control) => match never {},
        };
        self.report(assignment, outcome).await;
        match self.env.device.broken() {
            Some(why) => Err(failure(Cause::Resource, why)),
            None => Ok(()),
        }
    }

    /// Sends heartbeats until the coordinator was silent for the length of a lease: by then it has taken the lease back.
    async fn keep_lease(&self, assignment: Assignment, control: &Control) -> Status {
        let mut beat = tokio::time::interval((self.lease / 6).min(Duration::from_secs(1)));
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_answer = Instant::now();
        loop {
            beat.tick().await;
            match self.beat(assignment, control).await {
                Ok(()) => last_answer = Instant::now(),
                Err(status) if last_answer.elapsed() >= self.lease => return status,
                Err(_) => {}
            }
        }
    }

    async fn beat(&self, assignment: Assignment, control: &Control) -> Result<(), Status> {
        let progress = Some(control.progress(assignment).into());
        let request = v1::HeartbeatRequest { worker: self.welcome.worker.clone(), progress };
        let mut request = Request::new(request);
        request.set_timeout(self.lease / 3);
        let answer = self.client.clone().heartbeat(request).await?.into_inner();
        if !answer.keep_lease {
            control.lose();
        }
        if answer.drain {
            control.drain();
        }
        Ok(())
    }

    /// A report that does not arrive costs nothing but the lease: what was committed is in the store.
    async fn report(&self, assignment: Assignment, outcome: Result<Finished>) {
        // Whose memory or disk it was matters to who reads this elsewhere.
        let outcome = outcome.map_err(|f| match f.cause {
            Cause::Resource => failure(f.cause, format!("worker {}: {}", self.welcome.worker, f.message)),
            Cause::Transient | Cause::Preempted | Cause::BadInput | Cause::Bug => f,
        });
        if let Err(f) = &outcome {
            tracing::warn!(stage = %assignment.stage, partition = assignment.partition, cause = f.cause.name(), "attempt ended: {}", f.message);
        }
        let message = v1::ReportRequest {
            worker: self.welcome.worker.clone(),
            assignment: Some(assignment.into()),
            outcome: Some(Wire::from(outcome).0),
        };
        let send = || {
            let (mut client, message) = (self.client.clone(), message.clone());
            async move { client.report(message).await }
        };
        if let Err(status) = send.retry(ExponentialBuilder::default().with_max_times(5)).await {
            tracing::warn!("the coordinator does not take reports: {}", status.message());
        }
    }
}

/// The coordinator does not know this worker, or is not there.
fn is_gone(status: &Status) -> bool {
    matches!(status.code(), Code::NotFound | Code::Unavailable)
}

/// Tells the attempt to end once the worker should leave.
async fn drain_on(mut leave: watch::Receiver<bool>, control: &Control) -> Infallible {
    wait_true(&mut leave).await;
    control.drain();
    std::future::pending().await
}

async fn wait_true(flag: &mut watch::Receiver<bool>) {
    // An error means that nobody can ask any more: wait for ever.
    if flag.wait_for(|leave| *leave).await.is_err() {
        std::future::pending::<()>().await;
    }
}

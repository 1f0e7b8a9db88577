//! The network between workers and the coordinator: slow, and it loses requests and answers.

use super::process::Process;
use async_trait::async_trait;
use ip2p_coordinator::grpc::{HeartbeatAnswer, LeaseAnswer, Registered, Request};
use ip2p_pipeline::task::{Failure, Progress, Report, Scope};
use ip2p_worker::link::{Answer, Link, Pulse, Unanswered, Welcome};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Where the coordinators are at the moment. The latest that still listens is called.
#[derive(Clone, Default)]
pub struct Address(Arc<Mutex<Vec<mpsc::Sender<Request>>>>);

impl Address {
    fn listening(&self) -> MutexGuard<'_, Vec<mpsc::Sender<Request>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, coordinator: mpsc::Sender<Request>) {
        self.listening().push(coordinator);
    }

    /// Nobody can be reached any more.
    pub fn cut(&self) {
        self.listening().clear();
    }

    fn get(&self) -> Option<mpsc::Sender<Request>> {
        let mut listening = self.listening();
        listening.retain(|coordinator| !coordinator.is_closed());
        listening.last().cloned()
    }
}

/// A worker's connection.
pub struct BadLink {
    pub process: Process,
    pub address: Address,
    pub lease: Duration,
}

fn silent(why: &str) -> Unanswered {
    Unanswered::Silent(why.to_string())
}

impl BadLink {
    async fn ask<A>(&self, request: impl FnOnce(oneshot::Sender<A>) -> Request + Send) -> Result<A, Unanswered> {
        self.ask_observed(request, |_| {}).await
    }

    /// `observe` sees the answer as the coordinator gives it, however late it arrives.
    async fn ask_observed<A>(
        &self,
        request: impl FnOnce(oneshot::Sender<A>) -> Request + Send,
        observe: impl FnOnce(&A) + Send,
    ) -> Result<A, Unanswered> {
        self.process.awake().await;
        let world = &self.process.world;
        let (lost, unanswered) = (world.fault(30), world.fault(30));
        tokio::time::sleep(world.chance.millis(1..30)).await;
        let coordinator = self.address.get().filter(|_| !lost).ok_or_else(|| silent("no route"))?;
        let (reply, answer) = oneshot::channel();
        coordinator.send(request(reply)).await.map_err(|_| silent("connection refused"))?;
        let answer = answer.await.map_err(|_| silent("connection closed"))?;
        observe(&answer);
        tokio::time::sleep(world.chance.millis(1..30)).await;
        self.process.awake().await;
        if unanswered { Err(silent("connection reset")) } else { Ok(answer) }
    }
}

#[async_trait]
impl Link for BadLink {
    fn place(&self) -> &str {
        "simulated"
    }

    async fn register(&self, name: &str) -> Result<Welcome, Unanswered> {
        let (worker, device) = (name.to_string(), "simulated".to_string());
        let Registered { worker, open_stages } = self.ask(|reply| Request::Register { worker, device, scope: Scope::Any, reply }).await?;
        let plan = (*self.process.world.plan).clone();
        Ok(Welcome { worker, run: "simulated".to_string(), plan, store_url: "memory:///".to_string(), lease: self.lease, open_stages })
    }

    async fn lease(&self, welcome: &Welcome, report: Option<Report>) -> Result<Answer, Unanswered> {
        // One call, but here each half of it may be lost.
        if let Some(report) = report {
            self.report(welcome, report).await?;
        }
        let world = self.process.world.clone();
        let worker = welcome.worker.clone();
        let observe = |answer: &LeaseAnswer| {
            if let LeaseAnswer::Work(assignment) = answer {
                world.granted(*assignment);
            }
        };
        match self.ask_observed(|reply| Request::Lease { worker, reply }, observe).await? {
            LeaseAnswer::Work(assignment) => {
                self.process.note(|| format!("got {} {} epoch {:x}", assignment.stage, assignment.partition, assignment.epoch));
                Ok(Answer::Work(assignment))
            }
            LeaseAnswer::Leave(parting, why) => Ok(Answer::Leave(parting, why)),
            LeaseAnswer::Unknown => Err(Unanswered::Unknown),
        }
    }

    async fn heartbeat(&self, welcome: &Welcome, progress: Option<Progress>, timeout: Duration) -> Result<Pulse, Unanswered> {
        let worker = welcome.worker.clone();
        let answer = self.ask(|reply| Request::Heartbeat { worker, progress, reply });
        let HeartbeatAnswer { keep_lease, drain } = tokio::time::timeout(timeout, answer).await.map_err(|_| silent("timed out"))??;
        if let Some(progress) = progress.filter(|_| !keep_lease) {
            self.process.world.told_lost(progress.assignment);
        }
        Ok(Pulse { keep_lease, drain })
    }

    async fn report(&self, welcome: &Welcome, Report { assignment, outcome }: Report) -> Result<(), Unanswered> {
        match &outcome {
            Ok(_) => self.process.world.reported_done(assignment),
            Err(f) => self.process.note(|| format!("failed {} {}: {}", assignment.stage, assignment.partition, f.message)),
        }
        let worker = welcome.worker.clone();
        self.ask(|reply| Request::Report { worker, assignment, outcome, reply }).await.map(drop)
    }

    async fn unfit(&self, welcome: &Welcome, failure: Failure) -> Result<(), Unanswered> {
        let worker = welcome.worker.clone();
        self.ask(|reply| Request::Unfit { worker, failure, reply }).await
    }
}

//! A worker's life: register, lease, work, report, until the coordinator says that there is no more work.
//!
//! How it speaks ([`Link`]) and what an attempt does ([`Attempts`]) are not decided here, so that the simulation lives
//! this very life over a bad network and a worse store.

use crate::control::Control;
use crate::failure::{Result, failure};
use crate::link::{Answer, Link, Unanswered, Welcome};
use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use ip2p_pipeline::planted::{self, Defect};
use ip2p_pipeline::rng::{Purpose, Stream};
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished, Parting, Report};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep, timeout};

/// How long a worker waits for a coordinator that went away, before it ends too.
const PATIENCE: Duration = Duration::from_secs(120);
/// For a report by a worker that has been asked to leave.
const LAST_WORD: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Calls without an answer, one after the other, after which a report is held to be what the coordinator cannot take.
const TELLINGS: u32 = 5;

/// Why a session ended well.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// The coordinator had no more work for it, and said why.
    Dismissed(Parting, String),
    /// The worker itself was asked to leave (signal, or its parent died).
    Left,
}

/// What a worker that is ready can do.
#[async_trait]
pub trait Attempts: Send + Sync {
    /// On `Ok` the partition's manifest is in the store.
    async fn run(&self, assignment: Assignment, worker: &str, control: &Arc<Control>) -> Result<Finished>;
    /// Why the worker should end and another process take its place, if it should.
    fn broken(&self) -> Option<String>;
}

/// Works for the coordinator until one side ends it. `get_ready` loads what the welcome asks for.
pub async fn run<L: Link, A: Attempts>(
    link: &L,
    name: &str,
    get_ready: impl AsyncFn(&Welcome) -> Result<A>,
    mut leave: watch::Receiver<bool>,
) -> Result<Ended> {
    let mut welcome = register(link, name).await.map_err(|lost| unanswered(link, lost))?;
    loop {
        let attempts = tokio::select! {
            biased;
            _ = wait_true(&mut leave) => return Ok(Ended::Left),
            ready = while_known(link, &welcome, get_ready(&welcome)) => ready,
        };
        let attempts = match attempts {
            Ok(attempts) => attempts,
            Err(f) => return Err(tell_unfit(link, &welcome, f).await),
        };
        let session = Session { link, name, welcome, attempts, leave: leave.clone() };
        match session.serve().await? {
            Next::End(ended) => return Ok(ended),
            Next::Anew(other) => {
                tracing::info!("the coordinator has another plan: starting anew");
                welcome = *other;
            }
        }
    }
}

/// Heartbeats without a lease, because loading models can take longer than a lease lasts.
async fn while_known<L: Link, T>(link: &L, welcome: &Welcome, loading: impl Future<Output = T>) -> T {
    let beats = async {
        let mut beat = interval(welcome.lease / 6);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            beat.tick().await;
            // Whoever is forgotten all the same registers again when it asks for work.
            let _ = link.heartbeat(welcome, None, welcome.lease / 3).await;
        }
    };
    let never: Infallible = tokio::select! {
        biased;
        loaded = loading => return loaded,
        never = beats => never,
    };
    match never {}
}

/// Tells the coordinator what no new try can mend; hands the failure on.
async fn tell_unfit<L: Link>(link: &L, welcome: &Welcome, f: Failure) -> Failure {
    if matches!(f.cause, Cause::BadInput | Cause::Resource)
        && let Err(lost) = link.unfit(welcome, f.clone()).await
    {
        tracing::warn!("the coordinator could not be told: {}", unanswered(link, lost).message);
    }
    f
}

async fn register<L: Link>(link: &L, name: &str) -> Result<Welcome, Unanswered> {
    let welcome = link.register(name).await?;
    if welcome.worker != name {
        tracing::warn!(
            "the coordinator knows a worker {name} already, perhaps an earlier start: this one is {} from now on",
            welcome.worker
        );
    }
    Ok(welcome)
}

/// What a call without an answer means: a wrong token, version or run cannot be mended by trying again.
fn unanswered<L: Link>(link: &L, lost: Unanswered) -> Failure {
    let place = link.place();
    match lost {
        Unanswered::Refused(why) => failure(Cause::BadInput, format!("the coordinator at {place} refused: {why}")),
        Unanswered::Silent(why) => failure(Cause::Transient, format!("the coordinator at {place} does not answer: {why}")),
        Unanswered::Unknown => failure(Cause::Transient, format!("the coordinator at {place} does not know this worker")),
    }
}

/// Registered, with all that the work needs.
struct Session<'a, L, A> {
    link: &'a L,
    /// What the worker calls itself.
    name: &'a str,
    /// Among other things, what the coordinator calls it.
    welcome: Welcome,
    attempts: A,
    /// Turns true when the worker should leave.
    leave: watch::Receiver<bool>,
}

enum Next {
    End(Ended),
    /// A coordinator with another plan or store.
    Anew(Box<Welcome>),
}

impl<L: Link, A: Attempts> Session<'_, L, A> {
    async fn serve(mut self) -> Result<Next> {
        let mut leave = self.leave.clone();
        // How the last attempt ended: what the coordinator may not know yet.
        let mut report = None;
        // Calls without an answer since the last that had one.
        let mut silent = 0;
        let mut pauses = pauses(self.name);
        loop {
            let answer = tokio::select! {
                biased;
                _ = wait_true(&mut leave) => {
                    self.last_word(report).await;
                    return Ok(Next::End(Ended::Left));
                }
                answer = self.link.lease(&self.welcome, report.clone()) => answer,
            };
            match answer {
                Ok(Answer::Work(assignment)) => {
                    silent = 0;
                    report = self.work(assignment).await;
                    if let Some(why) = self.attempts.broken() {
                        self.last_word(report).await;
                        return Err(failure(Cause::Resource, why));
                    }
                }
                Ok(Answer::Leave(parting, reason)) => return Ok(Next::End(Ended::Dismissed(parting, reason))),
                Err(refused @ Unanswered::Refused(_)) => return Err(unanswered(self.link, refused)),
                // It was silent for longer than a lease, or the coordinator is starting again.
                Err(lost @ (Unanswered::Unknown | Unanswered::Silent(_))) => {
                    silent += 1;
                    if silent == TELLINGS && report.take().is_some() {
                        tracing::warn!("the coordinator does not take a report: {}", unanswered(self.link, lost).message);
                    }
                    let again = async {
                        // It answers a registration, but not this.
                        if silent > 1 {
                            sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
                        }
                        self.register_again().await
                    };
                    let again = tokio::select! {
                        biased;
                        _ = wait_true(&mut leave) => return Ok(Next::End(Ended::Left)),
                        again = again => again?,
                    };
                    if again.plan != self.welcome.plan || again.store_url != self.welcome.store_url {
                        return Ok(Next::Anew(Box::new(again)));
                    }
                    self.welcome = again;
                }
            }
        }
    }

    /// Waits for a coordinator that is starting again.
    async fn register_again(&self) -> Result<Welcome> {
        let gone = Instant::now();
        let mut pauses = pauses(self.name);
        loop {
            match register(self.link, self.name).await {
                Ok(welcome) => return Ok(welcome),
                Err(lost @ Unanswered::Refused(_)) => return Err(unanswered(self.link, lost)),
                Err(lost) if gone.elapsed() >= PATIENCE => return Err(unanswered(self.link, lost)),
                Err(_) => sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await,
            }
        }
    }

    /// One attempt with its heartbeats; nothing to report when its lease was lost.
    async fn work(&self, assignment: Assignment) -> Option<Report> {
        let control = Arc::new(Control::default());
        let attempt = self.attempts.run(assignment, &self.welcome.worker, &control);
        tokio::pin!(attempt);
        let outcome = tokio::select! {
            biased;
            outcome = &mut attempt => outcome,
            () = self.keep_lease(assignment, &control) => {
                control.lose();
                // The step at hand ends first, so that no half-written object is left.
                let _ = attempt.await;
                let partition = assignment.partition;
                tracing::warn!(stage = %assignment.stage, partition, "the coordinator was silent for the length of a lease");
                return None;
            }
            never = drain_on(self.leave.clone(), &control) => match never {},
        };
        // Whose memory or disk it was matters to who reads this elsewhere.
        let outcome = outcome.map_err(|f| match f.cause {
            Cause::Resource => failure(f.cause, format!("worker {}: {}", self.welcome.worker, f.message)),
            Cause::Transient | Cause::Preempted | Cause::StoreFull | Cause::BadInput | Cause::Bug | Cause::Damaged { .. } => f,
        });
        if let Err(f) = &outcome {
            tracing::warn!(stage = %assignment.stage, partition = assignment.partition, cause = f.cause.name(), "attempt ended: {}", f.message);
        }
        Some(Report { assignment, outcome })
    }

    /// Sends heartbeats until the coordinator was silent for the length of a lease: by then it has taken the lease back.
    async fn keep_lease(&self, assignment: Assignment, control: &Control) {
        let lease = self.welcome.lease;
        let period = (lease / 6).min(Duration::from_secs(1));
        // The lease is new: an attempt that is over sooner needs no heartbeat.
        let mut beat = interval_at(Instant::now() + period, period);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_answer = Instant::now();
        while last_answer.elapsed() < lease {
            beat.tick().await;
            if let Ok(pulse) = self.link.heartbeat(&self.welcome, Some(control.progress(assignment)), lease / 3).await {
                last_answer = Instant::now();
                if !pulse.keep_lease && !planted::has(Defect::FencingOff) {
                    control.lose();
                }
                if pulse.drain {
                    control.drain();
                }
            }
        }
    }

    /// The report of a worker that asks for no more work. One that does not arrive costs nothing but the lease: what was
    /// committed is in the store.
    async fn last_word(&self, report: Option<Report>) {
        let Some(report) = report else { return };
        let send = || self.link.report(&self.welcome, report.clone());
        let sent = send.retry(ExponentialBuilder::default().with_max_times(5)).when(|lost| matches!(lost, Unanswered::Silent(_)));
        // A coordinator that has gone away holds up nobody who leaves.
        if let Ok(Err(lost)) = timeout(LAST_WORD, sent).await {
            tracing::warn!("the coordinator does not take reports: {}", unanswered(self.link, lost).message);
        }
    }
}

/// Pauses between calls, doubling. Each worker has its own, so that they do not all come back at once; they are the same
/// in every replay.
fn pauses(name: &str) -> impl Iterator<Item = Duration> {
    let seed = name.bytes().fold(0u64, |seed, byte| seed.rotate_left(8) ^ u64::from(byte));
    (0u32..).map(move |n| {
        let longest = Duration::from_secs(1).saturating_mul(1 << n.min(10)).min(LONGEST_PAUSE);
        let jitter = Stream::keyed(seed, &[0; 16], n, Purpose::Jitter).uniform();
        Duration::from_millis((longest.as_millis() as f64 * (0.5 + 0.5 * jitter)) as u64)
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::Pulse;
    use crate::testing;
    use ip2p_pipeline::layout::Stage;
    use ip2p_pipeline::task::Progress;
    use std::sync::Mutex;

    /// A coordinator that takes registrations, but no call with a report.
    struct Deaf {
        welcome: Welcome,
        /// When each call for work came, and whether it had a report.
        calls: Mutex<Vec<(Instant, bool)>>,
    }

    #[async_trait]
    impl Link for Deaf {
        fn place(&self) -> &str {
            "a test"
        }

        async fn register(&self, _: &str) -> Result<Welcome, Unanswered> {
            Ok(self.welcome.clone())
        }

        async fn lease(&self, _: &Welcome, report: Option<Report>) -> Result<Answer, Unanswered> {
            let mut calls = self.calls.lock().unwrap();
            calls.push((Instant::now(), report.is_some()));
            match (calls.len(), report) {
                (1, _) => Ok(Answer::Work(Assignment { stage: Stage::Prompts, partition: 0, epoch: 1, failures: 0 })),
                (_, Some(_)) => Err(Unanswered::Silent("the message is too large".to_string())),
                (_, None) => Ok(Answer::Leave(Parting::Done, "done".to_string())),
            }
        }

        async fn heartbeat(&self, _: &Welcome, _: Option<Progress>, _: Duration) -> Result<Pulse, Unanswered> {
            Ok(Pulse { keep_lease: true, drain: false })
        }

        async fn report(&self, _: &Welcome, _: Report) -> Result<(), Unanswered> {
            Ok(())
        }

        async fn unfit(&self, _: &Welcome, _: Failure) -> Result<(), Unanswered> {
            Ok(())
        }
    }

    struct Failing;

    #[async_trait]
    impl Attempts for Failing {
        async fn run(&self, _: Assignment, _: &str, _: &Arc<Control>) -> Result<Finished> {
            Err(failure(Cause::BadInput, "a long message"))
        }

        fn broken(&self) -> Option<String> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_that_cannot_be_taken_is_dropped_after_some_calls_with_pauses() {
        let dir = tempfile::tempdir().unwrap();
        let welcome = Welcome {
            worker: "w".to_string(),
            run: "r".to_string(),
            plan: testing::plan(dir.path()),
            store_url: "memory:///".to_string(),
            lease: Duration::from_secs(30),
            open_stages: vec![Stage::Prompts],
        };
        let link = Deaf { welcome, calls: Mutex::default() };
        let (_stay, leave) = watch::channel(false);
        let ended = run(&link, "w", async |_: &Welcome| Ok(Failing), leave).await.unwrap();
        assert_eq!(ended, Ended::Dismissed(Parting::Done, "done".to_string()));
        let calls = link.calls.into_inner().unwrap();
        let with_report: Vec<Instant> = calls.iter().filter(|(_, report)| *report).map(|(at, _)| *at).collect();
        assert_eq!((calls.len(), with_report.len()), (2 + TELLINGS as usize, TELLINGS as usize));
        assert!(with_report[TELLINGS as usize - 1] - with_report[0] > Duration::from_secs(2), "it calls without a pause");
    }
}

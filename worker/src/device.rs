//! One thread owns the models. Everything that computes is a job on it, so that models need no locks and
//! async code never blocks.

use crate::failure::{Result, failure};
use crate::loaded::Models;
use ip2p_pipeline::task::Cause;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, oneshot};

type Job = Box<dyn FnOnce(&mut Models) + Send>;

/// Handle of the device thread; the thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct Device {
    jobs: mpsc::Sender<Job>,
    name: Arc<str>,
    /// Why its models could not be loaded again; a new process may have more luck.
    broken: Arc<OnceLock<String>>,
}

impl Device {
    pub fn start(models: Models) -> std::io::Result<Self> {
        let (jobs, mut queue) = mpsc::channel::<Job>(4);
        std::thread::Builder::new().name("device".to_string()).spawn(move || {
            let mut models = models;
            while let Some(job) = queue.blocking_recv() {
                job(&mut models);
            }
        })?;
        Ok(Device { jobs, name: Models::describe_device().into(), broken: Arc::default() })
    }

    /// What it is, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why the worker should end and another process take its place, if it should.
    pub fn broken(&self) -> Option<&str> {
        self.broken.get().map(String::as_str)
    }

    /// Drops the models of drawing and loads them again: a failure may have left anything behind.
    pub async fn refresh(&self) -> Result<()> {
        self.run(Models::refresh).await.map_err(|f| {
            let message = format!("after a failure the models cannot be loaded again on {}: {}", self.name, f.message);
            // The first reason stays.
            let _ = self.broken.set(message.clone());
            failure(Cause::Resource, message)
        })
    }

    /// A device without models, for tests of the stages that compute nothing.
    #[cfg(test)]
    pub(crate) fn absent() -> Self {
        Device { jobs: mpsc::channel(1).0, name: "none".into(), broken: Arc::default() }
    }

    /// Runs `work` on the device thread. A panic in it becomes a failure of the attempt, not of the worker.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce(&mut Models) -> Result<T> + Send + 'static) -> Result<T> {
        let gone = || failure(Cause::Bug, "the device thread ended");
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |models| {
            let result =
                catch_unwind(AssertUnwindSafe(|| work(models))).unwrap_or_else(|panic| Err(failure(Cause::Bug, panic_text(&*panic))));
            // Nobody waits any more when the attempt was cancelled.
            let _ = reply.send(result);
        });
        self.jobs.send(job).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string).or_else(|| panic.downcast_ref::<String>().cloned());
    format!("a defect in the worker: {}. Please report it", text.as_deref().unwrap_or("panic without a message"))
}

//! A process of the simulation: it can be killed between any two awaits, and put to sleep.

use super::world::World;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::ready;
use tokio::sync::Notify;

/// What a process knows of itself.
#[derive(Clone)]
pub struct Process {
    pub world: Arc<World>,
    pub name: Arc<str>,
    sleep: Arc<Sleep>,
}

/// Sleepers wake in the order in which they fell asleep; those of a `watch` wake by chance that no seed rules.
#[derive(Default)]
struct Sleep {
    asleep: AtomicBool,
    woken: Notify,
}

/// Puts a process to sleep and wakes it.
pub struct Switch(Arc<Sleep>);

impl Process {
    pub fn new(world: &Arc<World>, name: String) -> (Self, Switch) {
        let sleep = Arc::new(Sleep::default());
        (Process { world: world.clone(), name: name.into(), sleep: sleep.clone() }, Switch(sleep))
    }

    /// Passes at once unless the process sleeps.
    pub async fn awake(&self) {
        loop {
            let woken = self.sleep.woken.notified();
            if !self.sleep.asleep.load(Ordering::Relaxed) {
                return;
            }
            woken.await;
        }
    }

    /// Lives `life`, but only while the process is awake: when it wakes, its clock has jumped between two of its steps.
    pub async fn live<T>(&self, life: impl Future<Output = T>) -> T {
        let (mut life, mut awake) = (pin!(life), Box::pin(self.awake()));
        poll_fn(move |context| {
            ready!(awake.as_mut().poll(context));
            awake.set(self.awake());
            life.as_mut().poll(context)
        })
        .await
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        self.world.note(|| format!("{}: {}", self.name, what()));
    }
}

impl Switch {
    /// SIGSTOP.
    pub fn stop(&self) {
        self.0.asleep.store(true, Ordering::Relaxed);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.0.asleep.store(false, Ordering::Relaxed);
        self.0.woken.notify_waiters();
    }
}

//! A process of the simulation: it can be killed between any two awaits, and put to sleep.

use super::world::World;
use std::sync::Arc;
use tokio::sync::watch;

/// What a process knows of itself.
#[derive(Clone)]
pub struct Process {
    pub world: Arc<World>,
    pub name: Arc<str>,
    asleep: watch::Receiver<bool>,
}

impl Process {
    /// The process, and what puts it to sleep (SIGSTOP) and wakes it (SIGCONT).
    pub fn new(world: &Arc<World>, name: String) -> (Self, watch::Sender<bool>) {
        let (sleep, asleep) = watch::channel(false);
        (Process { world: world.clone(), name: name.into(), asleep }, sleep)
    }

    /// Passes at once unless the process sleeps.
    pub async fn awake(&self) {
        let mut asleep = self.asleep.clone();
        // Nobody can wake it any more: it was killed, and so was whoever waits here.
        let _ = asleep.wait_for(|asleep| !asleep).await;
    }

    pub fn note(&self, what: impl FnOnce() -> String) {
        self.world.note(|| format!("{}: {}", self.name, what()));
    }
}

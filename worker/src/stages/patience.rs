//! Telling a bad record from a sick device.
//!
//! The first failure of a record ends the attempt, so that another worker can try. In a later attempt a record gets a
//! second try with fresh models. If that fails too, the device draws a reference that every healthy device can draw:
//! when it can, the fault is the record's own, and when it cannot, the device's.

use crate::failure::{Result, failure};
use async_trait::async_trait;
use ip2p_pipeline::task::{Cause, Failure};

/// Draws records by number: models on the device thread, or in tests a stand-in that fails as they do.
#[async_trait]
pub(super) trait Draws: Sync {
    type Drawn: Send;
    async fn draw(&self, record: u64) -> Result<Self::Drawn>;
    /// Draws something that depends on no record.
    async fn draw_reference(&self) -> Result<()>;
    /// Loads the models afresh.
    async fn refresh(&self) -> Result<()>;
    /// The device, for messages.
    fn device(&self) -> String;
}

/// What became of a record; an error text quarantines it.
pub(super) type Verdict<T> = Result<T, String>;

/// Draws one record. `failures` counts the failed attempts at its partition.
pub(super) async fn draw_patiently<D: Draws>(draws: &D, record: u64, failures: u32) -> Result<Verdict<D::Drawn>> {
    let defect = |f: &Failure| matches!(f.cause, Cause::Bug | Cause::Resource) && failures > 0;
    match draw(draws, record).await? {
        Err(f) if defect(&f) => {}
        first => return first.map(Ok),
    }
    let error = match draw(draws, record).await? {
        Err(f) if defect(&f) => f.message,
        second => return second.map(Ok),
    };
    match draws.draw_reference().await {
        Ok(()) => Ok(Err(error)),
        Err(f) => {
            let message = format!("the device {} is at fault, for it cannot draw a plain reference either: {}", draws.device(), f.message);
            Err(failure(Cause::Resource, message))
        }
    }
}

/// One try. Whatever a failure left behind on the device, the next try starts with fresh models; a device that cannot
/// load them is the outer error.
async fn draw<D: Draws>(draws: &D, record: u64) -> Result<Result<D::Drawn>> {
    let drawn = draws.draw(record).await;
    if let Err(f) = &drawn
        && matches!(f.cause, Cause::Bug | Cause::Resource)
    {
        tracing::warn!(record, cause = f.cause.name(), "drawing failed, loading the models afresh: {}", f.message);
        draws.refresh().await?;
    }
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// How often each record still fails, and with what.
    #[derive(Default)]
    struct Sick {
        faults: Mutex<BTreeMap<u64, (u32, Cause)>>,
        refreshed: Mutex<u32>,
        reload_fails: bool,
        reference_fails: bool,
    }

    impl Sick {
        fn with(faults: &[(u64, u32, Cause)]) -> Self {
            let faults = faults.iter().map(|&(record, times, cause)| (record, (times, cause))).collect();
            Sick { faults: Mutex::new(faults), ..Sick::default() }
        }

        async fn draw(&self, record: u64, failures: u32) -> Result<Verdict<u64>> {
            draw_patiently(self, record, failures).await
        }
    }

    #[async_trait]
    impl Draws for Sick {
        type Drawn = u64;

        async fn draw(&self, record: u64) -> Result<u64> {
            match self.faults.lock().unwrap().get_mut(&record) {
                Some((times, cause)) if *times > 0 => {
                    *times -= 1;
                    Err(failure(*cause, format!("record {record} is broken")))
                }
                _ => Ok(record),
            }
        }

        async fn draw_reference(&self) -> Result<()> {
            if self.reference_fails { Err(failure(Cause::Bug, "all is black")) } else { Ok(()) }
        }

        async fn refresh(&self) -> Result<()> {
            *self.refreshed.lock().unwrap() += 1;
            if self.reload_fails { Err(failure(Cause::Resource, "the device is gone")) } else { Ok(()) }
        }

        fn device(&self) -> String {
            "cuda".to_string()
        }
    }

    const ALWAYS: u32 = 99;

    fn broken(record: u64) -> Verdict<u64> {
        Err(format!("record {record} is broken"))
    }

    #[tokio::test]
    async fn the_first_failure_ends_the_attempt() {
        let sick = Sick::with(&[(1, ALWAYS, Cause::Bug)]);
        assert_eq!(sick.draw(0, 0).await.unwrap(), Ok(0));
        assert_eq!(sick.draw(1, 0).await.unwrap_err().cause, Cause::Bug);
        assert_eq!(*sick.refreshed.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_record_that_fails_again_is_given_up_and_one_that_recovers_is_not() {
        let sick = Sick::with(&[(1, ALWAYS, Cause::Bug), (2, 1, Cause::Bug)]);
        assert_eq!(sick.draw(1, 1).await.unwrap(), broken(1));
        assert_eq!(sick.draw(2, 1).await.unwrap(), Ok(2));
        assert_eq!(*sick.refreshed.lock().unwrap(), 3);
    }

    #[tokio::test]
    async fn any_number_of_bad_neighbours_are_given_up_by_a_healthy_device() {
        let sick = Sick::with(&[0, 1, 2, 3, 4].map(|record| (record, ALWAYS, Cause::Bug)));
        for record in 0..5 {
            assert_eq!(sick.draw(record, 1).await.unwrap(), broken(record));
        }
    }

    #[tokio::test]
    async fn a_sick_device_gives_up_not_even_a_single_record() {
        let sick = Sick { reference_fails: true, ..Sick::with(&[(0, ALWAYS, Cause::Bug)]) };
        let f = sick.draw(0, 1).await.unwrap_err();
        assert_eq!(f.cause, Cause::Resource);
        assert!(f.message.contains("cuda is at fault") && f.message.contains("all is black"), "{}", f.message);
    }

    #[tokio::test]
    async fn lack_of_memory_is_the_records_fault_only_where_the_reference_fits() {
        for reference_fails in [false, true] {
            let sick = Sick { reference_fails, ..Sick::with(&[(0, ALWAYS, Cause::Resource)]) };
            assert_eq!(sick.draw(0, 0).await.unwrap_err().cause, Cause::Resource, "the first failure ends the attempt");
            match sick.draw(0, 1).await {
                Ok(verdict) => assert!(!reference_fails && verdict == broken(0)),
                Err(f) => assert!(reference_fails && f.cause == Cause::Resource),
            }
        }
    }

    #[tokio::test]
    async fn other_causes_never_quarantine() {
        for cause in [Cause::Transient, Cause::Preempted, Cause::BadInput, Cause::StoreFull] {
            let sick = Sick::with(&[(0, ALWAYS, cause)]);
            assert_eq!(sick.draw(0, 3).await.unwrap_err().cause, cause);
            assert_eq!(*sick.refreshed.lock().unwrap(), 0, "{cause:?}");
        }
    }

    #[tokio::test]
    async fn a_device_that_cannot_load_its_models_judges_no_record() {
        let sick = Sick { reload_fails: true, ..Sick::with(&[(0, ALWAYS, Cause::Bug)]) };
        let f = sick.draw(0, 1).await.unwrap_err();
        assert_eq!((f.cause, f.message.as_str()), (Cause::Resource, "the device is gone"));
    }
}

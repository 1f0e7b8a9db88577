//! Telling a bad record from a sick device.
//!
//! The first failure of a record ends the attempt, so that another worker can try. In a later attempt a record gets a
//! second try with fresh models; then it is the record's own fault, unless those after it fail as well.

use crate::failure::{Result, failure};
use async_trait::async_trait;
use ip2p_pipeline::task::Cause;
use std::ops::Range;

/// So many failed records in a row are the device's fault.
const ROW: usize = 3;

/// Draws records by number: models on the device thread, or in tests a stand-in that fails as they do.
#[async_trait]
pub(super) trait Draws: Sync {
    type Drawn: Send;
    async fn draw(&self, record: u64) -> Result<Self::Drawn>;
    /// Loads the models afresh.
    async fn refresh(&self) -> Result<()>;
    /// The device, for messages.
    fn device(&self) -> String;
}

/// What became of a record; an error text quarantines it.
pub(super) type Verdict<T> = Result<T, String>;

/// Draws from the start of `records` up to the first success. `failures` counts the partition's failed attempts.
pub(super) async fn draw_next<D: Draws>(draws: &D, records: Range<u64>, failures: u32) -> Result<Vec<Verdict<D::Drawn>>> {
    let mut verdicts = Vec::new();
    for record in records {
        let first = draw(draws, record).await;
        let drawn = match first {
            Err(f) if f.cause == Cause::Bug && failures > 0 => draw(draws, record).await,
            first => first,
        };
        match drawn {
            Err(f) if f.cause == Cause::Bug && failures > 0 => verdicts.push(Err(f.message)),
            drawn => {
                verdicts.push(Ok(drawn?));
                return Ok(verdicts);
            }
        }
        if verdicts.len() == ROW {
            let last = verdicts.pop().and_then(Verdict::err).unwrap_or_default();
            let message = format!("{ROW} records in a row failed on {}, so the device is to blame, not they: {last}", draws.device());
            return Err(failure(Cause::Resource, message));
        }
    }
    Ok(verdicts)
}

/// One try. Whatever a failure left behind on the device, the next try starts with fresh models.
async fn draw<D: Draws>(draws: &D, record: u64) -> Result<D::Drawn> {
    let drawn = draws.draw(record).await;
    if let Err(f) = &drawn
        && matches!(f.cause, Cause::Bug | Cause::Resource)
    {
        tracing::warn!(record, cause = f.cause.name(), "drawing failed, loading the models afresh: {}", f.message);
        draws.refresh().await?;
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// How often each record still fails, and with what.
    struct Sick {
        faults: Mutex<BTreeMap<u64, (u32, Cause)>>,
        refreshed: Mutex<u32>,
        reload_fails: bool,
    }

    impl Sick {
        fn with(faults: &[(u64, u32, Cause)]) -> Self {
            let faults = faults.iter().map(|&(record, times, cause)| (record, (times, cause))).collect();
            Sick { faults: Mutex::new(faults), refreshed: Mutex::new(0), reload_fails: false }
        }

        async fn next(&self, start: u64, failures: u32) -> Result<Vec<Verdict<u64>>> {
            draw_next(self, start..6, failures).await
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

        async fn refresh(&self) -> Result<()> {
            *self.refreshed.lock().unwrap() += 1;
            if self.reload_fails { Err(failure(Cause::Resource, "the device is gone")) } else { Ok(()) }
        }

        fn device(&self) -> String {
            "cuda".to_string()
        }
    }

    const ALWAYS: u32 = 99;

    #[tokio::test]
    async fn the_first_failure_ends_the_attempt() {
        let sick = Sick::with(&[(1, ALWAYS, Cause::Bug)]);
        assert_eq!(sick.next(0, 0).await.unwrap(), [Ok(0)]);
        assert_eq!(sick.next(1, 0).await.unwrap_err().cause, Cause::Bug);
        assert_eq!(*sick.refreshed.lock().unwrap(), 1);
    }

    #[tokio::test]
    async fn a_record_that_fails_again_is_given_up_and_its_neighbours_are_not() {
        let sick = Sick::with(&[(1, ALWAYS, Cause::Bug), (2, 1, Cause::Bug)]);
        let verdicts = sick.next(1, 1).await.unwrap();
        assert_eq!(verdicts, [Err("record 1 is broken".to_string()), Ok(2)], "record 2 fails once only");
        assert_eq!(*sick.refreshed.lock().unwrap(), 3);
    }

    #[tokio::test]
    async fn three_in_a_row_are_the_devices_fault() {
        let sick = Sick::with(&[(1, ALWAYS, Cause::Bug), (2, ALWAYS, Cause::Bug), (3, ALWAYS, Cause::Bug)]);
        let f = sick.next(1, 1).await.unwrap_err();
        assert_eq!(f.cause, Cause::Resource);
        assert!(f.message.contains("3 records in a row failed on cuda") && f.message.contains("record 3 is broken"), "{}", f.message);
        let verdicts = sick.next(2, 1).await.unwrap();
        assert_eq!(verdicts, [Err("record 2 is broken".to_string()), Err("record 3 is broken".to_string()), Ok(4)]);
    }

    #[tokio::test]
    async fn the_last_records_may_fail_without_a_success_behind_them() {
        let sick = Sick::with(&[(5, ALWAYS, Cause::Bug)]);
        assert_eq!(sick.next(5, 1).await.unwrap(), [Err("record 5 is broken".to_string())]);
    }

    #[tokio::test]
    async fn memory_and_other_causes_never_quarantine() {
        for (cause, refreshed) in [(Cause::Resource, 1), (Cause::Transient, 0), (Cause::Preempted, 0), (Cause::BadInput, 0)] {
            let sick = Sick::with(&[(0, ALWAYS, cause)]);
            assert_eq!(sick.next(0, 3).await.unwrap_err().cause, cause);
            assert_eq!(*sick.refreshed.lock().unwrap(), refreshed, "{cause:?}");
        }
    }

    #[tokio::test]
    async fn a_device_that_cannot_load_its_models_judges_no_record() {
        let sick = Sick { reload_fails: true, ..Sick::with(&[(0, ALWAYS, Cause::Bug)]) };
        let f = sick.next(0, 1).await.unwrap_err();
        assert_eq!((f.cause, f.message.as_str()), (Cause::Resource, "the device is gone"));
    }
}

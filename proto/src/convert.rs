//! Wire types stop here.

use crate::v1;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished, Progress};

/// A message that no version of this program would send.
#[derive(Debug, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct ConvertError(String);

impl From<ConvertError> for tonic::Status {
    fn from(e: ConvertError) -> Self {
        tonic::Status::invalid_argument(e.to_string())
    }
}

/// How an attempt ended.
pub type Outcome = Result<Finished, Failure>;

fn required<T>(field: &str, value: Option<T>) -> Result<T, ConvertError> {
    value.ok_or_else(|| ConvertError(format!("`{field}` is missing")))
}

impl From<Assignment> for v1::Assignment {
    fn from(a: Assignment) -> Self {
        v1::Assignment { stage: a.stage.name().to_string(), partition: a.partition, epoch: a.epoch, failures: a.failures }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = ConvertError;

    fn try_from(a: v1::Assignment) -> Result<Self, ConvertError> {
        Ok(Assignment { stage: stage(&a.stage)?, partition: a.partition, epoch: a.epoch, failures: a.failures })
    }
}

fn stage(name: &str) -> Result<Stage, ConvertError> {
    let stage: Stage = name.parse().map_err(ConvertError)?;
    match Stage::RUN.contains(&stage) {
        true => Ok(stage),
        false => Err(ConvertError(format!("`{stage}` is not a stage that workers run"))),
    }
}

/// Reads a list of stages.
pub fn stages(names: &[String]) -> Result<Vec<Stage>, ConvertError> {
    names.iter().map(|name| stage(name)).collect()
}

impl From<Progress> for v1::Progress {
    fn from(p: Progress) -> Self {
        v1::Progress { assignment: Some(p.assignment.into()), done: p.done, total: p.total, units: p.units, kept: p.kept }
    }
}

impl TryFrom<v1::Progress> for Progress {
    type Error = ConvertError;

    fn try_from(p: v1::Progress) -> Result<Self, ConvertError> {
        let assignment = required("progress.assignment", p.assignment)?.try_into()?;
        Ok(Progress { assignment, done: p.done, total: p.total, units: p.units, kept: p.kept })
    }
}

impl From<Counts> for v1::Counts {
    fn from(c: Counts) -> Self {
        v1::Counts { expected: c.expected, output: c.output, rejected: c.rejected.into_iter().collect(), quarantined: c.quarantined }
    }
}

impl From<v1::Counts> for Counts {
    fn from(c: v1::Counts) -> Self {
        Counts { expected: c.expected, output: c.output, rejected: c.rejected.into_iter().collect(), quarantined: c.quarantined }
    }
}

impl From<Cause> for v1::Cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Transient => v1::Cause::Transient,
            Cause::Preempted => v1::Cause::Preempted,
            Cause::Resource => v1::Cause::Resource,
            Cause::BadInput => v1::Cause::BadInput,
            Cause::Bug => v1::Cause::Bug,
            Cause::StoreFull => v1::Cause::StoreFull,
        }
    }
}

impl TryFrom<v1::Cause> for Cause {
    type Error = ConvertError;

    fn try_from(cause: v1::Cause) -> Result<Self, ConvertError> {
        match cause {
            v1::Cause::Transient => Ok(Cause::Transient),
            v1::Cause::Preempted => Ok(Cause::Preempted),
            v1::Cause::Resource => Ok(Cause::Resource),
            v1::Cause::BadInput => Ok(Cause::BadInput),
            v1::Cause::Bug => Ok(Cause::Bug),
            v1::Cause::StoreFull => Ok(Cause::StoreFull),
            v1::Cause::Unspecified => Err(ConvertError("a failure without a cause".to_string())),
        }
    }
}

impl From<Outcome> for Wire {
    fn from(outcome: Outcome) -> Self {
        Wire(match outcome {
            Ok(done) => v1::report_request::Outcome::Done(v1::Done {
                counts: Some(done.counts.into()),
                seconds: done.seconds,
                figures: done.figures.into_iter().collect(),
            }),
            Err(failure) => v1::report_request::Outcome::Failed(failure.into()),
        })
    }
}

impl From<Failure> for v1::Failed {
    fn from(failure: Failure) -> Self {
        v1::Failed { cause: v1::Cause::from(failure.cause).into(), message: failure.message }
    }
}

/// Reads a failure.
pub fn failed(wire: Option<v1::Failed>) -> Result<Failure, ConvertError> {
    let failed = required("failed", wire)?;
    let cause = v1::Cause::try_from(failed.cause).map_err(|e| ConvertError(e.to_string()))?.try_into()?;
    Ok(Failure { cause, message: failed.message })
}

/// The wire form of an [`Outcome`], a type of its own because both sides of `Outcome` are foreign.
pub struct Wire(pub v1::report_request::Outcome);

/// Reads the outcome of a report.
pub fn outcome(wire: Option<v1::report_request::Outcome>) -> Result<Outcome, ConvertError> {
    match required("report.outcome", wire)? {
        v1::report_request::Outcome::Done(done) => Ok(Ok(Finished {
            counts: required("done.counts", done.counts)?.into(),
            seconds: done.seconds,
            figures: done.figures.into_iter().collect(),
        })),
        v1::report_request::Outcome::Failed(wire) => Ok(Err(failed(Some(wire))?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignments_survive_the_wire() {
        let a = Assignment { stage: Stage::Filter, partition: 7, epoch: 1 << 33, failures: 2 };
        assert_eq!(Assignment::try_from(v1::Assignment::from(a)).unwrap(), a);
        let unknown = v1::Assignment { stage: "dance".to_string(), partition: 0, epoch: 0, failures: 0 };
        assert!(Assignment::try_from(unknown).unwrap_err().to_string().contains("`dance`"));
        assert_eq!(stages(&["pairs".to_string()]).unwrap(), [Stage::Pairs]);
        assert!(stages(&["corpus".to_string()]).is_err());
    }

    #[test]
    fn outcomes_survive_the_wire() {
        let done = Finished {
            counts: Counts { expected: 3, output: 1, rejected: [("same_as_caption".to_string(), 2)].into(), quarantined: 0 },
            seconds: 1.5,
            figures: [("tokens".to_string(), 9.0)].into(),
        };
        for result in [Ok(done), Err(Failure { cause: Cause::Resource, message: "no room".to_string() })] {
            assert_eq!(outcome(Some(Wire::from(result.clone()).0)).unwrap(), result);
        }
        let alone = Failure { cause: Cause::BadInput, message: "no such file".to_string() };
        assert_eq!(failed(Some(alone.clone().into())).unwrap(), alone);
        assert!(outcome(None).is_err() && failed(None).is_err());
        let unspecified = v1::Failed { cause: 0, message: String::new() };
        assert!(outcome(Some(v1::report_request::Outcome::Failed(unspecified))).is_err());
    }
}

//! Wire types stop here.

use crate::v1;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::task::{Assignment, Cause, Failure, Finished, Parting, Progress, Report, Scope, Wanted};
use std::collections::{BTreeMap, HashMap};

/// A message that no version of this program would send.
#[derive(Debug, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct ConvertError(String);

impl From<ConvertError> for tonic::Status {
    fn from(e: ConvertError) -> Self {
        tonic::Status::invalid_argument(e.to_string())
    }
}

/// Longest message of a failure, in bytes; the rest is cut.
const MAX_FAILURE_BYTES: usize = 16 << 10;
/// Most reasons and figures of a report, and the longest name of one in bytes.
const MAX_ENTRIES: usize = 256;
const MAX_KEY_BYTES: usize = 100;
/// Largest number of records, units or seconds: sums over all partitions of a run still fit.
const MAX_NUMBER: u64 = 1 << 40;

/// At most `longest` bytes of a text that ends up in logs, without line ends or other control characters.
pub fn one_line(text: String, longest: usize) -> String {
    let mut text = cut(text, longest);
    if text.contains(char::is_control) {
        text = text.replace(char::is_control, " ");
    }
    text
}

fn cut(mut text: String, longest: usize) -> String {
    text.truncate(text.floor_char_boundary(longest));
    text
}

fn number(field: &str, n: u64) -> Result<u64, ConvertError> {
    if n <= MAX_NUMBER { Ok(n) } else { Err(ConvertError(format!("`{field}` is {n}"))) }
}

/// Refuses maps that no worker sends.
fn entries<V>(field: &str, map: HashMap<String, V>) -> Result<BTreeMap<String, V>, ConvertError> {
    let sound = |key: &String| key.len() <= MAX_KEY_BYTES && !key.contains(char::is_control);
    match map.len() <= MAX_ENTRIES && map.keys().all(sound) {
        true => Ok(map.into_iter().collect()),
        false => Err(ConvertError(format!("`{field}` has too many or too long names"))),
    }
}

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

/// Longest name of a wave: that of a Kubernetes object.
const MAX_WAVE_BYTES: usize = 63;

/// What a worker asks for when it registers.
pub fn wanted(stage_names: &[String], only: Option<v1::register_request::Only>) -> Result<Wanted, ConvertError> {
    use v1::register_request::Only;
    match only {
        Some(Only::Partition(p)) => Ok(Wanted::Scope(Scope::Partition { stage: stage(&p.stage)?, partition: p.partition })),
        Some(Only::Wave(wave)) => {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            match (1..=MAX_WAVE_BYTES).contains(&wave.name.len()) && wave.name.chars().all(allowed) {
                true => Ok(Wanted::Wave { name: wave.name, index: wave.index }),
                false => Err(ConvertError("`wave.name` is not the name of a Job".to_string())),
            }
        }
        None if stage_names.is_empty() => Ok(Wanted::default()),
        None if stage_names.len() > Stage::RUN.len() => Err(ConvertError("`stages` has more names than there are stages".to_string())),
        None => Ok(Wanted::Scope(Scope::Stages(stages(stage_names)?))),
    }
}

/// The fields of a registration that say what a worker asks for.
impl From<&Wanted> for v1::RegisterRequest {
    fn from(wanted: &Wanted) -> Self {
        use v1::register_request::Only;
        let mut request = v1::RegisterRequest::default();
        match wanted {
            Wanted::Scope(Scope::Any) => {}
            Wanted::Scope(Scope::Stages(stages)) => request.stages = stages.iter().map(ToString::to_string).collect(),
            Wanted::Scope(Scope::Partition { stage, partition }) => {
                request.only = Some(Only::Partition(v1::Partition { stage: stage.to_string(), partition: *partition }));
            }
            Wanted::Wave { name, index } => request.only = Some(Only::Wave(v1::WaveIndex { name: name.clone(), index: *index })),
        }
        request
    }
}

/// A dismissal.
pub fn leave(parting: Parting, reason: String) -> v1::Leave {
    let parting = match parting {
        Parting::Done => v1::Parting::Done,
        Parting::Unfinished => v1::Parting::Unfinished,
        Parting::GivenUp => v1::Parting::GivenUp,
    };
    v1::Leave { reason, parting: parting.into() }
}

/// Reads how a worker is dismissed.
pub fn parting(leave: &v1::Leave) -> Result<Parting, ConvertError> {
    match v1::Parting::try_from(leave.parting).map_err(|e| ConvertError(e.to_string()))? {
        v1::Parting::Done => Ok(Parting::Done),
        v1::Parting::Unfinished => Ok(Parting::Unfinished),
        v1::Parting::GivenUp => Ok(Parting::GivenUp),
        v1::Parting::Unspecified => Err(ConvertError("a dismissal that does not say what is done".to_string())),
    }
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
        let (done, total) = (number("progress.done", p.done)?, number("progress.total", p.total)?);
        Ok(Progress { assignment, done, total, units: number("progress.units", p.units)?, kept: number("progress.kept", p.kept)? })
    }
}

impl From<Counts> for v1::Counts {
    fn from(c: Counts) -> Self {
        v1::Counts { expected: c.expected, output: c.output, rejected: c.rejected.into_iter().collect(), quarantined: c.quarantined }
    }
}

impl TryFrom<v1::Counts> for Counts {
    type Error = ConvertError;

    fn try_from(c: v1::Counts) -> Result<Self, ConvertError> {
        let rejected = entries("counts.rejected", c.rejected)?;
        for n in rejected.values().chain([&c.expected, &c.output, &c.quarantined]) {
            number("counts", *n)?;
        }
        Ok(Counts { expected: c.expected, output: c.output, rejected, quarantined: c.quarantined })
    }
}

/// Finite, and of a size that sums can bear.
fn figure(field: &str, x: f64) -> Result<f64, ConvertError> {
    if x.abs() <= 1e15 { Ok(x) } else { Err(ConvertError(format!("`{field}` is {x}"))) }
}

/// The number of a cause on the wire.
fn wire_cause(cause: Cause) -> v1::Cause {
    match cause {
        Cause::Transient => v1::Cause::Transient,
        Cause::Preempted => v1::Cause::Preempted,
        Cause::Resource => v1::Cause::Resource,
        Cause::BadInput => v1::Cause::BadInput,
        Cause::Bug => v1::Cause::Bug,
        Cause::StoreFull => v1::Cause::StoreFull,
        Cause::Damaged { .. } => v1::Cause::Damaged,
    }
}

fn cause(failed: &v1::Failed) -> Result<Cause, ConvertError> {
    Ok(match v1::Cause::try_from(failed.cause).map_err(|e| ConvertError(e.to_string()))? {
        v1::Cause::Transient => Cause::Transient,
        v1::Cause::Preempted => Cause::Preempted,
        v1::Cause::Resource => Cause::Resource,
        v1::Cause::BadInput => Cause::BadInput,
        v1::Cause::Bug => Cause::Bug,
        v1::Cause::StoreFull => Cause::StoreFull,
        v1::Cause::Damaged => Cause::Damaged { stage: stage(&failed.damaged_stage)?, partition: failed.damaged_partition },
        v1::Cause::Unspecified => return Err(ConvertError("a failure without a cause".to_string())),
    })
}

impl From<Report> for v1::Report {
    fn from(report: Report) -> Self {
        let outcome = match report.outcome {
            Ok(done) => v1::report::Outcome::Done(v1::Done {
                counts: Some(done.counts.into()),
                seconds: done.seconds,
                figures: done.figures.into_iter().collect(),
            }),
            Err(failure) => v1::report::Outcome::Failed(failure.into()),
        };
        v1::Report { assignment: Some(report.assignment.into()), outcome: Some(outcome) }
    }
}

impl From<Failure> for v1::Failed {
    fn from(failure: Failure) -> Self {
        let (damaged_stage, damaged_partition) = match failure.cause {
            Cause::Damaged { stage, partition } => (stage.name().to_string(), partition),
            Cause::Transient | Cause::Preempted | Cause::Resource | Cause::BadInput | Cause::Bug | Cause::StoreFull => Default::default(),
        };
        let message = cut(failure.message, MAX_FAILURE_BYTES);
        v1::Failed { cause: wire_cause(failure.cause).into(), message, damaged_stage, damaged_partition }
    }
}

/// Reads a failure.
pub fn failed(wire: Option<v1::Failed>) -> Result<Failure, ConvertError> {
    let failed = required("failed", wire)?;
    Ok(Failure { cause: cause(&failed)?, message: cut(failed.message, MAX_FAILURE_BYTES) })
}

impl TryFrom<v1::Report> for Report {
    type Error = ConvertError;

    fn try_from(report: v1::Report) -> Result<Self, ConvertError> {
        let assignment = required("report.assignment", report.assignment)?.try_into()?;
        let outcome = match required("report.outcome", report.outcome)? {
            v1::report::Outcome::Done(done) => Ok(done.try_into()?),
            v1::report::Outcome::Failed(wire) => Err(failed(Some(wire))?),
        };
        Ok(Report { assignment, outcome })
    }
}

impl TryFrom<v1::Done> for Finished {
    type Error = ConvertError;

    fn try_from(done: v1::Done) -> Result<Self, ConvertError> {
        let figures = entries("done.figures", done.figures)?;
        for x in figures.values() {
            figure("done.figures", *x)?;
        }
        let counts = required("done.counts", done.counts)?.try_into()?;
        Ok(Finished { counts, seconds: figure("done.seconds", done.seconds)?, figures })
    }
}

/// Reads the end of an attempt from a message that must tell it.
pub fn report(wire: Option<v1::Report>) -> Result<Report, ConvertError> {
    required("report", wire)?.try_into()
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
    fn dismissals_survive_the_wire() {
        for expected in [Parting::Done, Parting::Unfinished, Parting::GivenUp] {
            assert_eq!(parting(&leave(expected, String::new())).unwrap(), expected);
        }
        assert!(parting(&v1::Leave { reason: "no reason".to_string(), parting: 0 }).is_err());
        assert!(parting(&v1::Leave { reason: "no reason".to_string(), parting: 9 }).is_err());
    }

    #[test]
    fn outcomes_survive_the_wire() {
        let done = Finished {
            counts: Counts { expected: 3, output: 1, rejected: [("same_as_caption".to_string(), 2)].into(), quarantined: 0 },
            seconds: 1.5,
            figures: [("tokens".to_string(), 9.0)].into(),
        };
        let failed_by = |cause| Err(Failure { cause, message: "no room".to_string() });
        let assignment = Assignment { stage: Stage::Filter, partition: 7, epoch: 1 << 33, failures: 2 };
        for outcome in [Ok(done), failed_by(Cause::Resource), failed_by(Cause::Damaged { stage: Stage::Pairs, partition: 3 })] {
            let told = Report { assignment, outcome };
            assert_eq!(report(Some(told.clone().into())).unwrap(), told);
            assert!(report(Some(v1::Report { assignment: None, ..told.clone().into() })).is_err());
            assert!(report(Some(v1::Report { outcome: None, ..told.into() })).is_err());
        }
        let alone = Failure { cause: Cause::BadInput, message: "no such file".to_string() };
        assert_eq!(failed(Some(alone.clone().into())).unwrap(), alone);
        let long = v1::Failed { cause: v1::Cause::Bug.into(), message: "é".repeat(MAX_FAILURE_BYTES), ..Default::default() };
        assert_eq!(failed(Some(long)).unwrap().message.len(), MAX_FAILURE_BYTES);
        assert!(report(None).is_err() && failed(None).is_err());
        assert!(failed(Some(v1::Failed { cause: 0, ..Default::default() })).is_err());
        let of_the_corpus = v1::Failed { cause: v1::Cause::Damaged.into(), damaged_stage: "corpus".to_string(), ..Default::default() };
        assert!(failed(Some(of_the_corpus)).is_err());
    }
    #[test]
    fn what_would_break_sums_or_logs_is_refused() {
        let assignment = || Some(v1::Assignment { stage: "pairs".to_string(), partition: 0, epoch: 0, failures: 0 });
        let progress = |done| v1::Progress { assignment: assignment(), done, total: 1, units: 0, kept: 0 };
        assert!(Progress::try_from(progress(MAX_NUMBER)).is_ok());
        assert!(Progress::try_from(progress(MAX_NUMBER + 1)).unwrap_err().to_string().contains("progress.done"));
        let done = |change: fn(&mut v1::Done)| {
            let mut done = v1::Done { counts: Some(v1::Counts::default()), seconds: 1.0, figures: HashMap::new() };
            change(&mut done);
            Finished::try_from(done)
        };
        assert!(done(|_| ()).is_ok());
        assert!(done(|d| d.seconds = f64::NAN).is_err());
        assert!(done(|d| d.figures = [("tokens".to_string(), f64::INFINITY)].into()).is_err());
        assert!(done(|d| d.figures = (0..=MAX_ENTRIES).map(|n| (n.to_string(), 0.0)).collect()).is_err());
        assert!(done(|d| d.counts = Some(v1::Counts { expected: u64::MAX, ..Default::default() })).is_err());
        assert!(done(|d| d.counts = Some(v1::Counts { rejected: [("x".repeat(101), 1)].into(), ..Default::default() })).is_err());
        assert!(done(|d| d.counts = Some(v1::Counts { rejected: [("x".to_string(), u64::MAX)].into(), ..Default::default() })).is_err());
        assert_eq!(one_line("a\nb\u{7}cdé".to_string(), 7), "a b cd");
    }
}

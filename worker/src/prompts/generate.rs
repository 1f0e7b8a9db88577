//! One caption from start to end: ask, read, moderate, compare, and account for every completion.

use super::{Backend, BackendError, Completion, Request, Usage};
use futures::stream::{self, Stream as FuturesStream, StreamExt};
use ip2p_pipeline::completion::{self, Rejection};
use ip2p_pipeline::ids::CaptionId;
use ip2p_pipeline::manifest::Counts;
use ip2p_pipeline::records::{CorpusRecord, Edit, RejectedCompletion, Triplet};
use ip2p_pipeline::rng::{Purpose, Stream};
use ip2p_pipeline::spec::{PromptBackend, Prompts};
use std::sync::Arc;

/// What became of one caption: each of its `expected` completions is a triplet, rejected or quarantined.
#[derive(Clone, Debug, PartialEq)]
pub struct CaptionOutcome {
    pub caption: CaptionId,
    /// Completions that had to be accounted for.
    pub expected: u32,
    pub triplets: Vec<Triplet>,
    pub rejected: Vec<RejectedCompletion>,
    /// Why the completions that are neither triplets nor rejected could not be asked for.
    pub quarantined: Option<String>,
    pub usage: Usage,
}

impl CaptionOutcome {
    fn new(caption: CaptionId, expected: u32) -> Self {
        CaptionOutcome { caption, expected, triplets: Vec::new(), rejected: Vec::new(), quarantined: None, usage: Usage::default() }
    }

    /// The outcome in units of completions; always balanced.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { expected: u64::from(self.expected), output: self.triplets.len() as u64, ..Counts::default() };
        self.rejected.iter().for_each(|rejected| counts.reject(&rejected.reason));
        counts.quarantined = counts.expected - counts.output - counts.rejected_total();
        counts
    }

    fn reject(&mut self, caption: &str, number: u32, reason: Rejection, completion: String) {
        self.rejected.push(RejectedCompletion {
            caption_id: self.caption,
            caption: caption.to_string(),
            number,
            reason: reason.name().to_string(),
            completion,
        });
    }

    /// Keeps the answer as a triplet, or says why not. The two rules of our own come last and without
    /// another try, so that the original's rules decide what is asked and how often.
    fn settle(&mut self, record: &CorpusRecord, number: u32, answer: Answer) {
        let Answer { text, verdict } = answer;
        let edit = match verdict {
            Ok(edit) if completion::is_empty(&edit) => return self.reject(&record.caption, number, Rejection::Empty, text),
            Ok(edit) => edit,
            Err(reason) => return self.reject(&record.caption, number, reason, text),
        };
        let triplet = Triplet::new(record.caption.clone(), edit.edit, edit.output, record.url.clone());
        match self.triplets.iter().any(|earlier| earlier.id == triplet.id) {
            true => self.reject(&record.caption, number, Rejection::Duplicate, text),
            false => self.triplets.push(triplet),
        }
    }
}

/// A completion after its last try: the raw text and what the rules say about it.
struct Answer {
    text: String,
    verdict: Result<Edit, Rejection>,
}

/// Turns captions into triplets.
pub struct Generator {
    prompts: Prompts,
    run_seed: u64,
    source: Source,
}

enum Source {
    /// The corpus already holds triplets.
    Corpus,
    Model(Arc<dyn Backend>),
}

impl Generator {
    /// Asks `backend`, as often as `prompts` says.
    pub fn new(prompts: Prompts, run_seed: u64, backend: Arc<dyn Backend>) -> Self {
        Generator { prompts, run_seed, source: Source::Model(backend) }
    }

    /// Takes the edits that the records bring along (`backend: file`): one completion a record, no model.
    pub fn from_corpus(prompts: Prompts) -> Self {
        Generator { prompts, run_seed: 0, source: Source::Corpus }
    }

    /// Completions that each record must account for.
    pub fn expected(&self) -> u32 {
        match self.source {
            Source::Corpus => 1,
            Source::Model(_) => self.prompts.per_caption,
        }
    }

    /// The outcomes of many records, in their order, with at most as many captions in flight as the
    /// backend is allowed requests (a caption has one request in flight at a time).
    pub fn outcomes<'a>(
        &'a self,
        records: &'a [CorpusRecord],
    ) -> impl FuturesStream<Item = Result<CaptionOutcome, BackendError>> + Send + 'a {
        let concurrency = match &self.prompts.backend {
            PromptBackend::OpenAi(server) => server.concurrency.max(1),
            PromptBackend::Local | PromptBackend::File => 1,
        };
        stream::iter(records).map(move |record| self.outcome(record)).buffered(concurrency as usize)
    }

    /// Everything about one caption.
    ///
    /// # Errors
    /// [`BackendError::Unavailable`] and [`BackendError::Misconfigured`], which concern more than this
    /// caption; a refused request is part of the outcome.
    pub async fn outcome(&self, record: &CorpusRecord) -> Result<CaptionOutcome, BackendError> {
        let mut outcome = CaptionOutcome::new(record.id(), self.expected());
        match &self.source {
            Source::Corpus => outcome.settle(record, 0, answer_of(record)),
            Source::Model(backend) => match self.ask_all(backend.as_ref(), record, &mut outcome).await {
                Err(BackendError::Refused(error)) => outcome.quarantined = Some(error),
                done => done?,
            },
        }
        Ok(outcome)
    }

    async fn ask_all(&self, backend: &dyn Backend, record: &CorpusRecord, outcome: &mut CaptionOutcome) -> Result<(), BackendError> {
        let first = self.request(record, 0, 0);
        let caption_flagged = backend.flagged(&[&record.caption], &first, &mut outcome.usage).await?;
        for number in 0..self.prompts.per_caption {
            let answer = match caption_flagged {
                true => Answer { text: String::new(), verdict: Err(Rejection::Flagged) },
                false => self.ask(backend, record, number, &mut outcome.usage).await?,
            };
            outcome.settle(record, number, answer);
        }
        Ok(())
    }

    /// One completion: tries until one passes the original's rules, at most `attempts` times.
    async fn ask(&self, backend: &dyn Backend, record: &CorpusRecord, number: u32, usage: &mut Usage) -> Result<Answer, BackendError> {
        let mut last = Answer { text: String::new(), verdict: Err(Rejection::NoCompletion) };
        for attempt in 0..self.prompts.attempts {
            let request = self.request(record, number, attempt);
            last = match backend.complete(&request, usage).await? {
                Some(completion) => Answer { verdict: judge(backend, &request, &completion, usage).await?, text: completion.text },
                None => Answer { text: String::new(), verdict: Err(Rejection::NoCompletion) },
            };
            if last.verdict.is_ok() {
                break;
            }
        }
        Ok(last)
    }

    fn request<'a>(&self, record: &'a CorpusRecord, number: u32, attempt: u32) -> Request<'a> {
        let position = number.wrapping_mul(self.prompts.attempts).wrapping_add(attempt);
        let stream = Stream::keyed(self.run_seed, record.id().bytes(), position, Purpose::Tokens);
        Request { caption: &record.caption, number, attempt, stream }
    }
}

/// The original's rules, in its order: read, moderate edit and edited caption in one call, compare.
async fn judge(
    backend: &dyn Backend,
    request: &Request<'_>,
    completion: &Completion,
    usage: &mut Usage,
) -> Result<Result<Edit, Rejection>, BackendError> {
    let edit = match completion.style.parse(&completion.text) {
        Ok(edit) => edit,
        Err(reason) => return Ok(Err(reason)),
    };
    if backend.flagged(&[&edit.edit, &edit.output], request, usage).await? {
        return Ok(Err(Rejection::Flagged));
    }
    Ok(compare(request.caption, edit))
}

fn compare(caption: &str, edit: Edit) -> Result<Edit, Rejection> {
    if completion::same_text(caption, &edit.output) { Err(Rejection::SameAsCaption) } else { Ok(edit) }
}

/// The edit that a record brings along, judged by the rules that need no model.
fn answer_of(record: &CorpusRecord) -> Answer {
    match &record.edit {
        Some(edit) => Answer {
            text: format!("{}{}{}", edit.edit, completion::SEPARATOR, edit.output),
            verdict: compare(&record.caption, edit.clone()),
        },
        None => Answer { text: String::new(), verdict: Err(Rejection::NoCompletion) },
    }
}

#[cfg(test)]
mod tests;

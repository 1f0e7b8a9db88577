//! `prompts`: caption -> triplets. Every completion asked for ends as a triplet, rejected or quarantined.

use super::{Env, role};
use crate::control::Control;
use crate::failure::{Result, domain, failure};
use crate::prompts::{self, BackendError, CaptionOutcome, Generator, LocalBackend, OpenAiBackend, Usage};
use crate::run_partition::{ChunkData, ChunkPlace, Work};
use async_trait::async_trait;
use futures::TryStreamExt;
use ip2p_pipeline::corpus;
use ip2p_pipeline::records::{CorpusRecord, Quarantined};
use ip2p_pipeline::spec::PromptBackend;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::task::Cause;
use std::sync::Arc;

/// Records of a step where nothing waits for a model.
const FILE_STEP: u64 = 4096;
/// Rounds of concurrent requests in a step, so that the slowest request of a round holds up few others.
const ROUNDS: u64 = 4;

struct PromptsWork {
    records: Vec<CorpusRecord>,
    generator: Generator,
    step_records: u64,
    outcomes: Vec<CaptionOutcome>,
}

pub(super) async fn open(env: &Env, partition: u32) -> Result<impl Work + use<>> {
    let manifest = corpus::load(&env.store, &env.plan.corpus_dir).await.map_err(domain)?;
    let manifest = manifest.ok_or_else(|| failure(Cause::BadInput, "the frozen corpus of this run is gone: start the run again"))?;
    let range = env.plan.partitioning.range(partition);
    let records = corpus::read_range(&env.store, &manifest, range).await.map_err(domain)?;
    let (generator, step_records) = generator(env).map_err(prompts::failure)?;
    Ok(PromptsWork { records, generator, step_records, outcomes: Vec::new() })
}

/// The generator, and how many records make a step.
fn generator(env: &Env) -> Result<(Generator, u64), BackendError> {
    let spec = &env.plan.spec;
    let prompts = spec.stages.prompts.clone();
    Ok(match &spec.stages.prompts.backend {
        PromptBackend::File => (Generator::from_corpus(prompts), FILE_STEP),
        PromptBackend::Local => {
            let backend = LocalBackend::new(env.device.clone(), &prompts);
            (Generator::new(prompts, spec.seed, Arc::new(backend)), 1)
        }
        PromptBackend::OpenAi(server) => {
            let backend = OpenAiBackend::from_env(&prompts, server)?;
            let step = u64::from(server.concurrency) * ROUNDS;
            (Generator::new(prompts, spec.seed, Arc::new(backend)), step)
        }
    })
}

#[async_trait]
impl Work for PromptsWork {
    fn records(&self) -> u64 {
        self.records.len() as u64
    }

    async fn step(&mut self, start: u64, control: &Arc<Control>) -> Result<u64> {
        let end = (start + self.step_records).min(self.records());
        let records = &self.records[start as usize..end as usize];
        let outcomes = tokio::select! {
            outcomes = self.generator.outcomes(records).try_collect::<Vec<CaptionOutcome>>() => outcomes,
            // A server may be slow, or away: nobody waits for it at the end.
            () = control.stopped() => return Err(failure(Cause::Preempted, "asked to leave")),
        };
        let mut outcomes = outcomes.map_err(prompts::failure)?;
        let made = outcomes.iter().map(|o| o.triplets.len() as u64).sum();
        control.made(outcomes.iter().map(|o| u64::from(o.expected)).sum(), made);
        self.outcomes.append(&mut outcomes);
        Ok(end)
    }

    async fn take_chunk(&mut self, place: &ChunkPlace) -> Result<ChunkData> {
        let outcomes = std::mem::take(&mut self.outcomes);
        let mut data = ChunkData::default();
        let (mut triplets, mut rejected, mut quarantined) = (Vec::new(), Vec::new(), Vec::new());
        let mut usage = Usage::default();
        for outcome in outcomes {
            data.counts.add(&outcome.counts());
            usage.add(&outcome.usage);
            quarantined.extend(outcome.quarantined.map(|error| Quarantined { record: outcome.caption.to_string(), error }));
            triplets.extend(outcome.triplets);
            rejected.extend(outcome.rejected);
        }
        data.figures = usage.figures();
        let mut add = |role, name: &str, table: ip2p_pipeline::Result<bytes::Bytes>| -> Result<()> {
            data.objects.push((role, place.key(name), table.map_err(domain)?));
            Ok(())
        };
        add(role::TRIPLETS, "triplets.parquet", Table::encode(&triplets))?;
        if !rejected.is_empty() {
            add(role::REJECTED, "rejected.parquet", Table::encode(&rejected))?;
        }
        if !quarantined.is_empty() {
            add(role::QUARANTINE, "quarantine.parquet", Table::encode(&quarantined))?;
        }
        Ok(data)
    }
}

//! The checks that are the same for every stage: manifests, chunk chains, objects.

use super::{Audit, Checked, Finding, Unfinished};
use crate::fetch;
use crate::figures::StageFigures;
use ip2p_pipeline::fetch as stored;
use ip2p_pipeline::layout::{self, Stage, StageDir};
use ip2p_pipeline::manifest::{Attempt, ChunkManifest, DataObject, PartitionManifest};
use ip2p_pipeline::plan::{Partitioning, Plan};
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::tables::Table;
use ip2p_pipeline::{Error, Result, commit, corpus};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Which partitions have a manifest, and which have chunks alone.
pub(super) struct Present {
    committed: BTreeMap<Stage, BTreeSet<u32>>,
    /// With the keys of the chunks, in order.
    begun: BTreeMap<(Stage, u32), Vec<String>>,
    /// Partitions of `prompts`, `pairs` and `filter`.
    partitions: u32,
}

impl Present {
    pub async fn list(store: &Store, plan: &Plan) -> Result<Self> {
        let (mut committed, mut begun) = (BTreeMap::new(), BTreeMap::<_, Vec<String>>::new());
        for stage in Stage::RUN {
            let keys = store.list(&plan.dir(stage).manifests()).await?;
            let whole: BTreeSet<u32> = keys.iter().filter_map(|(key, _)| StageDir::partition_of(key)).collect();
            for (key, _) in store.list(&plan.dir(stage).chunks()).await? {
                if let Some(partition) = StageDir::partition_of_part(&key).filter(|partition| !whole.contains(partition)) {
                    begun.entry((stage, partition)).or_default().push(key);
                }
            }
            committed.insert(stage, whole);
        }
        Ok(Present { committed, begun, partitions: plan.partitioning.partitions()? })
    }

    pub fn of(&self, stage: Stage) -> impl Iterator<Item = u32> + '_ {
        self.committed.get(&stage).into_iter().flatten().copied()
    }

    pub fn has(&self, stage: Stage, partition: u32) -> bool {
        self.committed.get(&stage).is_some_and(|committed| committed.contains(&partition))
    }

    /// Partitions at work that have committed chunks, with the keys of those.
    pub fn begun(&self) -> impl Iterator<Item = (Stage, u32, &[String])> + '_ {
        self.begun.iter().map(|((stage, partition), chunks)| (*stage, *partition, chunks.as_slice()))
    }

    /// Whether something that is committed was made from this partition.
    pub fn needed(&self, stage: Stage, partition: u32) -> bool {
        let later = |other: &Stage| *other > stage;
        Stage::RUN.iter().filter(|other| later(other)).any(|&other| match other {
            Stage::Pairs | Stage::Filter => self.has(other, partition),
            Stage::Index | Stage::Shards => self.of(other).next().is_some(),
            Stage::Corpus | Stage::Prompts => false,
        })
    }

    pub fn complete(&self, stage: Stage) -> bool {
        (0..self.partitions).all(|partition| self.has(stage, partition))
    }

    /// The stages that have not all their partitions; `shards` is the number of shards once it is known.
    pub fn unfinished(&self, shards: Option<u32>) -> Vec<Unfinished> {
        let size = |stage| match stage {
            Stage::Corpus | Stage::Prompts | Stage::Pairs | Stage::Filter => Some(self.partitions),
            Stage::Index => Some(1),
            Stage::Shards => shards,
        };
        let stages = Stage::RUN.map(|stage| Unfinished { stage, committed: self.of(stage).count() as u32, of: size(stage) });
        stages.into_iter().filter(|stage| stage.of.is_none_or(|of| stage.committed < of)).collect()
    }
}

/// Reads objects and collects what is wrong with them.
pub(super) struct Inspector<'a> {
    pub store: &'a Store,
    pub plan: &'a Plan,
    pub quick: bool,
    pub findings: Vec<Finding>,
    /// What the manifests read so far add up to.
    pub sums: BTreeMap<Stage, StageFigures>,
    /// The newest term that an attempt was granted in.
    pub newest_term: u32,
    checked: Checked,
}

impl<'a> Inspector<'a> {
    pub fn new(store: &'a Store, plan: &'a Plan, quick: bool) -> Self {
        let (findings, sums) = (Vec::new(), BTreeMap::new());
        Inspector { store, plan, quick, findings, sums, newest_term: 0, checked: Checked::default() }
    }

    pub fn join(&mut self, other: Inspector<'_>) {
        self.findings.extend(other.findings);
        for (stage, sums) in other.sums {
            self.sums.entry(stage).or_insert_with(|| StageFigures::none(stage)).add(&sums);
        }
        self.newest_term = self.newest_term.max(other.newest_term);
        self.checked.add(&other.checked);
    }

    pub fn finish(self, unfinished: Vec<Unfinished>) -> Audit {
        let mut findings = self.findings;
        findings.sort();
        let (run, plan) = (self.store.url().to_string(), self.plan.fingerprint());
        Audit { run, plan, quick: self.quick, findings, unfinished, checked: self.checked }
    }

    pub fn report(&mut self, stage: Stage, partition: Option<u32>, object: Option<&str>, problem: String) {
        let advice = advice(self.plan, stage, partition);
        self.advise(Some(stage), partition, object, problem, advice);
    }

    /// Reports a problem with advice of its own.
    pub fn advise(&mut self, stage: Option<Stage>, partition: Option<u32>, object: Option<&str>, problem: String, advice: String) {
        self.findings.push(Finding { stage, partition, object: object.map(str::to_string), problem, advice });
    }

    /// Damage becomes a finding and `None`; trouble with the store stops the audit.
    fn judge<T>(&mut self, stage: Stage, partition: Option<u32>, object: &str, result: Result<T>) -> Result<Option<T>> {
        match damage_in(result)? {
            Ok(value) => Ok(Some(value)),
            Err(problem) => {
                self.report(stage, partition, Some(object), problem);
                let mendable = partition.is_some_and(|partition| can_be_mended(stage, partition, object));
                if let (true, Some(finding)) = (mendable, self.findings.last_mut()) {
                    finding.advice = format!("`run --repair` makes the same bytes again; if it says that it cannot, {}", finding.advice);
                }
                Ok(None)
            }
        }
    }

    /// The frozen corpus, on which all other numbers rest.
    pub async fn check_corpus(&mut self) -> Result<()> {
        let (store, plan) = (self.store, self.plan);
        let key = plan.corpus_dir.manifest(0);
        let manifest = corpus::load(store, &plan.corpus_dir).await;
        let Some(manifest) = self.judge(Stage::Corpus, None, &key, manifest)? else { return Ok(()) };
        self.checked.manifests += 1;
        let Some(manifest) = manifest else {
            self.report(Stage::Corpus, None, Some(&key), "it is missing".to_string());
            return Ok(());
        };
        if manifest.fingerprint != plan.corpus {
            self.report(Stage::Corpus, None, Some(&key), "it describes another corpus than the plan's".to_string());
        }
        let records: u64 = manifest.objects.iter().map(|object| object.records).sum();
        if records != manifest.records || records != plan.partitioning.records {
            let planned = plan.partitioning.records;
            let problem = format!("its objects hold {records} records, it says {}, the plan says {planned}", manifest.records);
            self.report(Stage::Corpus, None, Some(&key), problem);
        }
        for object in &manifest.objects {
            self.check_object(Stage::Corpus, None, &object.data).await?;
        }
        Ok(())
    }

    /// The frozen partitioning is the plan's.
    pub async fn check_partitioning(&mut self) -> Result<()> {
        let key = layout::partitioning(&self.plan.dir(Stage::Prompts));
        let frozen = commit::read::<Partitioning>(self.store, &key).await;
        if let Some(frozen) = self.judge(Stage::Prompts, None, &key, frozen)?
            && frozen != Some(self.plan.partitioning)
        {
            self.report(Stage::Prompts, None, Some(&key), "it is missing or differs from the plan's partitioning".to_string());
        }
        Ok(())
    }

    /// No stage has a partition that the plan does not have.
    pub fn check_partition_numbers(&mut self, present: &Present) -> Result<()> {
        let partitions = self.plan.partitioning.partitions()?;
        for (stage, size) in [(Stage::Prompts, partitions), (Stage::Pairs, partitions), (Stage::Filter, partitions), (Stage::Index, 1)] {
            for partition in present.of(stage).filter(|&partition| partition >= size) {
                let key = self.plan.dir(stage).manifest(partition);
                self.report(stage, Some(partition), Some(&key), format!("the stage has {size} partitions, counted from 0"));
            }
        }
        Ok(())
    }

    /// Reads a partition's manifest and checks it by itself. `needed` makes its absence a finding.
    pub async fn manifest(&mut self, stage: Stage, partition: u32, needed: bool) -> Result<Option<PartitionManifest>> {
        let key = self.plan.dir(stage).manifest(partition);
        let read = commit::read::<PartitionManifest>(self.store, &key).await;
        let Some(read) = self.judge(stage, Some(partition), &key, read)? else { return Ok(None) };
        let Some(manifest) = read else {
            if needed {
                self.report(stage, Some(partition), Some(&key), "it is missing, but later stages were made from it".to_string());
            }
            return Ok(None);
        };
        self.checked.manifests += 1;
        if (manifest.stage, manifest.partition) != (stage, partition) {
            let problem = format!("it describes {} partition {}", manifest.stage, manifest.partition);
            self.report(stage, Some(partition), Some(&key), problem);
            return Ok(None);
        }
        for problem in chain_problems(&manifest) {
            self.report(stage, Some(partition), Some(&key), problem);
        }
        self.check_names(&manifest);
        self.sums.entry(stage).or_insert_with(|| StageFigures::none(stage)).add(&StageFigures::of(&manifest));
        self.granted(manifest.chunks.iter().map(|chunk| &chunk.attempt).chain([&manifest.attempt]));
        Ok(Some(manifest))
    }

    fn granted<'b>(&mut self, attempts: impl Iterator<Item = &'b Attempt>) {
        self.newest_term = attempts.map(Attempt::term).fold(self.newest_term, u32::max);
    }

    /// Every object belongs to this stage's folder and is named once.
    fn check_names(&mut self, manifest: &PartitionManifest) {
        let dir = self.plan.dir(manifest.stage);
        let (data, dataset) = (format!("{}/", dir.data_objects()), format!("{}/", dir.dataset_root()));
        let mut names = HashSet::new();
        for object in manifest.chunks.iter().flat_map(|chunk| &chunk.objects) {
            let problem = if !names.insert(&object.key) {
                "the manifest names it twice"
            } else if !object.key.starts_with(&data) && !object.key.starts_with(&dataset) {
                "it lies outside the stage's folder"
            } else {
                continue;
            };
            self.report(manifest.stage, Some(manifest.partition), Some(&object.key), problem.to_string());
        }
    }

    /// Checks the objects of a chunk, but leaves those of the roles in `tables` to [`Inspector::table`].
    pub async fn check_objects(&mut self, chunk: &ChunkManifest, tables: &[&str]) -> Result<()> {
        for object in &chunk.objects {
            if self.quick || !tables.contains(&object.role.as_str()) {
                self.check_object(chunk.stage, Some(chunk.partition), object).await?;
            }
        }
        Ok(())
    }

    /// The committed chunks of a partition at work, whose manifests were `listed`.
    pub async fn check_chunks(&mut self, stage: Stage, partition: u32, listed: &[String]) -> Result<()> {
        let dir = self.plan.dir(stage);
        let chain = commit::chunk_chain(self.store, &dir, partition).await;
        let Some(chain) = self.judge(stage, Some(partition), &format!("{}*", dir.chunks_of(partition)), chain)? else { return Ok(()) };
        // Nobody commits a chunk behind a gap.
        let end = dir.chunk(partition, chain.last().map_or(0, |chunk| chunk.end));
        let is_linked = |key: &&String| chain.iter().any(|chunk| **key == dir.chunk(partition, chunk.start));
        if let Some(behind) = listed.iter().find(|key| !is_linked(key)) {
            let advice = "run again: its records, and those of the chunks behind it, are made anew".to_string();
            self.advise(Some(stage), Some(partition), Some(&end), format!("it is missing, but {behind} was committed after it"), advice);
        }
        self.granted(chain.iter().map(|chunk| &chunk.attempt));
        for chunk in chain {
            if !chunk.counts.balanced() {
                let key = dir.chunk(partition, chunk.start);
                self.report(stage, Some(partition), Some(&key), "expected is not output + rejected + quarantined".to_string());
            }
            self.check_objects(&chunk, &[]).await?;
        }
        Ok(())
    }

    async fn check_object(&mut self, stage: Stage, partition: Option<u32>, object: &DataObject) -> Result<()> {
        let result = self.read(object).await;
        self.judge(stage, partition, &object.key, result).map(drop)
    }

    /// Reads an object, or its length only.
    pub async fn read(&mut self, object: &DataObject) -> Result<()> {
        self.count(object);
        if self.quick {
            stored::check_length(self.store, object).await
        } else {
            stored::stream(self.store, object, &mut std::io::sink()).await
        }
    }

    /// The rows of one role of a chunk; `None` when they are damaged, which is then reported, or not read.
    pub async fn table<T: Table>(&mut self, chunk: &ChunkManifest, role: &str) -> Result<Option<Vec<T>>> {
        if self.quick {
            return Ok(None);
        }
        let mut all = Some(Vec::new());
        for object in chunk.objects.iter().filter(|object| object.role == role) {
            self.count(object);
            let rows = commit::read_data(self.store, object).await.and_then(|bytes| T::decode(&object.key, bytes));
            match (self.judge(chunk.stage, Some(chunk.partition), &object.key, rows)?, &mut all) {
                (Some(mut rows), Some(all)) => all.append(&mut rows),
                _ => all = None,
            }
        }
        self.checked.rows += all.as_ref().map_or(0, Vec::len) as u64;
        Ok(all)
    }

    /// Shows every row of one role of the index to `visit`; `None` when a table is damaged, which is then reported.
    pub async fn visit<A: Send + 'static>(
        &mut self,
        index: &PartitionManifest,
        role: &str,
        state: A,
        visit: fn(&mut A, &IndexRow),
    ) -> Result<Option<A>> {
        let mut state = (state, 0);
        for object in index.objects(role) {
            self.count(object);
            let count = move |(state, rows): &mut (A, u64), row: IndexRow| {
                visit(state, &row);
                *rows += 1;
            };
            let visited = fetch::visit_index(self.store, object, state, count).await;
            match self.judge(Stage::Index, Some(0), &object.key, visited)? {
                Some(visited) => state = visited,
                None => return Ok(None),
            }
        }
        self.checked.rows += state.1;
        Ok(Some(state.0))
    }

    /// A file with an object's bytes; `None` when they are damaged, which is then reported.
    pub async fn file(&mut self, partition: u32, object: &DataObject) -> Result<Option<std::fs::File>> {
        self.count(object);
        let file = fetch::to_file(self.store, object).await;
        self.judge(Stage::Shards, Some(partition), &object.key, file)
    }

    fn count(&mut self, object: &DataObject) {
        self.checked.objects += 1;
        self.checked.bytes += object.bytes;
    }
}

/// What is wrong with a manifest by itself: gaps, overlaps, strangers, unbalanced counts.
fn chain_problems(manifest: &PartitionManifest) -> Vec<String> {
    let mut problems = Vec::new();
    let mut next = 0;
    for chunk in &manifest.chunks {
        let ChunkManifest { start, end, .. } = *chunk;
        if (chunk.stage, chunk.partition) != (manifest.stage, manifest.partition) {
            problems.push(format!("its chunk {start}..{end} belongs to {} partition {}", chunk.stage, chunk.partition));
        }
        if start > next {
            problems.push(format!("no chunk holds the records {next}..{start}"));
        } else if start < next {
            problems.push(format!("the records {start}..{next} are in two chunks"));
        }
        if end <= start {
            problems.push(format!("its chunk {start}..{end} is empty"));
        }
        if !chunk.counts.balanced() {
            let counts = &chunk.counts;
            let (rejected, quarantined) = (counts.rejected_total(), counts.quarantined);
            problems.push(format!(
                "in its chunk {start}..{end}, expected {} is not output {} + rejected {rejected} + quarantined {quarantined}",
                counts.expected, counts.output
            ));
        }
        next = next.max(end);
    }
    if next != manifest.records {
        problems.push(format!("its chunks end at record {next} of {}", manifest.records));
    }
    problems
}

/// Sorts damage of what was read from trouble with the store.
pub(super) fn damage_in<T>(result: Result<T>) -> Result<Result<T, String>> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Damaged { problem, .. } | Error::Format { problem, .. }) => Ok(Err(problem)),
        Err(e) => Err(e),
    }
}

/// Whether a worker can make the object again from what the partition was made of.
pub(crate) fn can_be_mended(stage: Stage, partition: u32, object: &str) -> bool {
    let made_by = StageDir::maker_of(object).filter(|(maker, _)| Stage::RUN.contains(maker));
    stage == Stage::Shards || made_by == Some((stage, partition))
}

/// How to get whole again. Everything but the corpus can be made anew, with the same bytes.
fn advice(plan: &Plan, stage: Stage, partition: Option<u32>) -> String {
    let dir = plan.dir(stage);
    match (stage, partition) {
        (Stage::Corpus, _) => "restore the object from a copy of the store; without one, start the run under another name".to_string(),
        (Stage::Shards, Some(_)) => "delete it, if it is there, and run again: the same bytes are written anew".to_string(),
        (_, Some(partition)) => {
            let paths = made_from(plan, stage, partition).join(", ");
            format!("delete {paths}, then run again: the same data is made anew")
        }
        (_, None) => format!("delete {}/ and what the later stages made from it, then run again", dir.manifests()),
    }
}

/// A partition of a stage and all that was made from it: the same partition of the stages behind it, and the index, which
/// names every object, with the shards.
fn made_from(plan: &Plan, stage: Stage, partition: u32) -> Vec<String> {
    let same = Stage::RUN.into_iter().skip_while(|s| *s != stage).take_while(|s| *s != Stage::Index);
    let same = same.map(|stage| plan.dir(stage)).flat_map(|dir| [dir.manifest(partition), format!("{}*", dir.chunks_of(partition))]);
    let whole = [Stage::Index, Stage::Shards].map(|stage| format!("{}/", plan.dir(stage).root()));
    same.chain(whole).collect()
}

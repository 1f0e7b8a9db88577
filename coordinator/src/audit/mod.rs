//! `audit`: proves from the store alone that every record of a run is accounted for and every object is sound.
//!
//! It follows manifests as any reader does, and believes none of them: numbers of one stage must follow from the
//! stage before it, from the plan, and from the rows in the tables; draws and verdicts are computed again; every
//! object named must be there with its length and checksum. The index and each shard format must hold the same pairs as
//! the partitions they were made from, row by row. Of a whole dataset it also checks what a person reads (card, figures,
//! report, summary), and that nothing else lies in its folder.
//!
//! Chunk manifests are read while their partition is at work. Once it is committed its own manifest holds all that they
//! say, and nothing reads them any more.

mod closing;
mod dataset;
mod inspect;
mod partition;
mod terms;
#[cfg(test)]
mod tests;

use crate::forecast::human_bytes;
use crate::text::{count, printable};
use futures::{StreamExt, TryStreamExt};
use inspect::{Inspector, Present};
use ip2p_pipeline::Result;
use ip2p_pipeline::ids::{Fingerprint, TripletId};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{IndexRow, Verdict};
use ip2p_pipeline::store::Store;
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::fmt;

/// Partitions and shards checked at the same time; each holds about one chunk's table in memory.
const PARALLEL: usize = 8;

/// What an audit found.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    pub run: String,
    pub plan: Fingerprint,
    /// Contents were not read: existence, lengths and the manifests' numbers only.
    pub quick: bool,
    /// By stage, partition and object.
    pub findings: Vec<Finding>,
    /// Stages that are not finished, which is no damage.
    pub unfinished: Vec<Unfinished>,
    pub checked: Checked,
}

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// `None` when it concerns the run as a whole.
    pub stage: Option<Stage>,
    /// `None` when it concerns the whole stage.
    pub partition: Option<u32>,
    /// Key of the object, relative to the run.
    pub object: Option<String>,
    pub problem: String,
    /// What to do.
    pub advice: String,
}

/// A stage with partitions that are not committed yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unfinished {
    pub stage: Stage,
    pub committed: u32,
    /// Unknown for `shards` before the index is done.
    pub of: Option<u32>,
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub manifests: u64,
    pub objects: u64,
    /// Sum of the lengths of these objects.
    pub bytes: u64,
    /// Rows of tables.
    pub rows: u64,
}

impl Checked {
    fn add(&mut self, other: &Checked) {
        self.manifests += other.manifests;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.rows += other.rows;
    }
}

impl Audit {
    /// Nothing is damaged; the run may still be unfinished.
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Committed partitions with damaged objects, which workers can make again.
    pub fn mendable(&self) -> BTreeSet<(Stage, u32)> {
        let mendable = |f: &Finding| {
            let (stage, partition, object) = (f.stage?, f.partition?, f.object.as_ref()?);
            inspect::can_be_mended(stage, partition, object).then_some((stage, partition))
        };
        self.findings.iter().filter_map(mendable).collect()
    }
}

/// A multiset in constant memory: two are the same exactly when they hold the same values equally often (up to a
/// collision of sums of 128-bit hashes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    rows: u64,
    sum: u128,
}

impl Tally {
    /// What is hashed is the text for debugging, which has every field and tells all numbers apart.
    fn add(&mut self, value: &impl fmt::Debug) {
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(format!("{value:?}").as_bytes()).as_bytes()[..16]);
        self.join(&Tally { rows: 1, sum: u128::from_le_bytes(hash) });
    }

    fn join(&mut self, other: &Tally) {
        self.rows += other.rows;
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// The rows with verdicts of some tables, and the kept ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdicts {
    all: Tally,
    kept: Tally,
}

impl Verdicts {
    fn add(&mut self, row: &IndexRow) {
        self.all.add(row);
        if row.verdict == Verdict::Kept {
            self.kept.add(row);
        }
    }

    fn join(&mut self, other: &Verdicts) {
        self.all.join(&other.all);
        self.kept.join(&other.kept);
    }
}

/// Audits one plan of a run. `quick` reads no content. Fails only when the store does.
pub async fn audit(store: &Store, plan: &Plan, quick: bool) -> Result<Audit> {
    let mut all = Inspector::new(store, plan, quick);
    let present = Present::list(store, plan).await?;
    all.check_corpus().await?;
    all.check_partitioning().await?;
    all.check_partition_numbers(&present)?;

    let partitions = 0..plan.partitioning.partitions()?;
    let check = |partition| partition::check(Inspector::new(store, plan, quick), partition, &present);
    let mut checked = futures::stream::iter(partitions).map(check).buffered(PARALLEL);
    let mut verdicts = Verdicts::default();
    let mut owners: HashMap<TripletId, u32> = HashMap::new();
    while let Some(result) = checked.try_next().await? {
        for id in result.triplets {
            if let Some(first) = owners.insert(id, result.partition) {
                let problem = format!("triplet {id} is in partition {first} as well");
                all.report(Stage::Prompts, Some(result.partition), None, problem);
            }
        }
        verdicts.join(&result.verdicts);
        all.join(result.inspector);
    }
    for (stage, partition, listed) in present.begun() {
        all.check_chunks(stage, partition, listed).await?;
    }
    // Sums over damaged partitions would only repeat what is already reported.
    let expected = (all.findings.is_empty() && present.complete(Stage::Filter)).then_some(verdicts);
    let shards = dataset::check(&mut all, expected, &present).await?;
    // A coordinator may have come while manifests were read: its term is there before anything it grants.
    terms::check(&mut all).await?;
    Ok(all.finish(present.unfinished(shards)))
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checked { manifests, objects, bytes, rows } = self.checked;
        writeln!(f, "run      {}", printable(&self.run))?;
        writeln!(f, "plan     {}", self.plan.short())?;
        let how = if self.quick { "existence and length of" } else { "every byte of" };
        write!(f, "checked  {} manifests, {how} {} objects ({})", count(manifests), count(objects), human_bytes(bytes))?;
        writeln!(f, "{}", if self.quick { String::new() } else { format!(", {} rows", count(rows)) })?;
        for Unfinished { stage, committed, of } in &self.unfinished {
            let of = of.map_or("an unknown number".to_string(), |of| count(of.into()));
            writeln!(f, "not done {stage}: {} of {of} partitions are committed", count((*committed).into()))?;
        }
        for finding in &self.findings {
            write!(f, "\n{finding}")?;
        }
        match self.findings.len() {
            0 if self.unfinished.is_empty() => writeln!(f, "result   sound: every record is accounted for"),
            0 => writeln!(f, "result   sound so far: the run is not finished"),
            n => writeln!(f, "\nresult   {} found", if n == 1 { "1 problem".to_string() } else { format!("{} problems", count(n as u64)) }),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "problem  {}", self.stage.map_or("run", Stage::name))?;
        if let Some(partition) = self.partition {
            write!(f, " partition {partition}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ", object {}", printable(object))?;
        }
        writeln!(f, ": {}", printable(&self.problem))?;
        writeln!(f, "  to do  {}", self.advice)
    }
}

//! Commands that read a run from its store alone. Only `gc` removes anything.

use super::{Exit, RunRef, say};
use crate::explain::{Asked, Explanation};
use crate::{audit, explain, found, gc, prepare, status};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::{self, Spec};
use ip2p_pipeline::store::Store;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

impl RunRef {
    /// The run's store, and its spec when a pipeline file was given.
    fn open(&self) -> Result<(Store, Option<Spec>), Exit> {
        if self.run.contains("://") {
            if !self.overrides.is_empty() {
                return Err(Exit::bad_input("--set changes a pipeline file; a run that is given by its URL has none"));
            }
            if spec::is_secret(&self.run) {
                return Err(Exit::bad_input("the run's URL holds a secret (not shown): credentials come from the environment"));
            }
            must_exist(&self.run)?;
            return Ok((Store::open(&self.run)?, None));
        }
        if Path::new(&self.run).is_dir() {
            let folder = self.run.trim_end_matches('/');
            return Err(Exit::bad_input(format!("{folder} is a folder: write a pipeline file, or the folder of a run as file://{folder}")));
        }
        let spec = Spec::load(Path::new(&self.run), &self.overrides).map_err(|e| Exit::bad_input(e.to_string()))?;
        must_exist(&format!("{}/{}", spec.store.trim_end_matches('/'), spec.name))?;
        Ok((prepare::open_store(&spec)?, Some(spec)))
    }

    pub(super) async fn plan(&self) -> Result<(Store, Plan), Exit> {
        let (store, spec) = self.open()?;
        let plan = found::require_plan(&store, spec.as_ref()).await?;
        Ok((store, plan))
    }
}

/// Opening a store on this machine makes its folder; who only reads must not.
fn must_exist(url: &str) -> Result<(), Exit> {
    match url.strip_prefix("file://") {
        Some(path) if !Path::new(path).is_dir() => Err(found::no_run(url).into()),
        _ => Ok(()),
    }
}

pub(super) async fn status(run: RunRef, json: bool) -> Result<(), Exit> {
    let (store, plan) = run.plan().await?;
    let status = status::status(&store, &plan).await?;
    if json {
        return print_json(&status);
    }
    say(status)
}

fn print_json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Exit::bad_input(e.to_string()))?;
    say(text + "\n")
}

pub(super) async fn audit(run: RunRef, quick: bool) -> Result<(), Exit> {
    let (store, plan) = run.plan().await?;
    let audit = audit::audit(&store, &plan, quick).await?;
    say(&audit)?;
    if audit.is_sound() { Ok(()) } else { Err(Exit::bad_input(format!("the audit found {} problems", audit.findings.len()))) }
}

pub(super) async fn explain(run: RunRef, pair: &str, draw: Option<PathBuf>) -> Result<(), Exit> {
    let (store, plan) = run.plan().await?;
    let program = super::program();
    let asked = Asked { program: &program, run: &run.run, overrides: &run.overrides };
    let explanation = explain::explain(&store, &plan, pair, &asked).await?;
    say(&explanation)?;
    match draw {
        Some(folder) => draw_again(&plan, &explanation, &folder).await,
        None => Ok(()),
    }
}

#[cfg(feature = "worker")]
async fn draw_again(plan: &Plan, explanation: &Explanation, folder: &Path) -> Result<(), Exit> {
    use ip2p_pipeline::records::Triplet;
    let row = &explanation.row;
    let triplet = Triplet::new(row.caption.clone(), row.edit.clone(), row.output.clone(), row.url.clone());
    let images = ip2p_worker::draw::again(&crate::redraw::plan_here(plan).await?, triplet, row.candidate.sample)
        .await
        .map_err(|f| Exit::bad_input(f.message))?;
    let cannot = |e: std::io::Error| Exit::bad_input(format!("{}: {e}", folder.display()));
    std::fs::create_dir_all(folder).map_err(cannot)?;
    for (number, image) in images.iter().enumerate() {
        let file = folder.join(format!("{}_{number}.{}", row.candidate.seed, plan.spec.stages.pairs.image.extension()));
        std::fs::write(&file, image).map_err(cannot)?;
        say(format_args!("drew {}\n", file.display()))?;
    }
    match &row.images {
        None => say("stored   nothing to compare with: the run keeps no images of this pair\n"),
        Some(stored) if stored.iter().zip(&images).all(|(stored, drawn)| stored.describes(drawn)) => say("stored   the same bytes\n"),
        Some(_) => Err(Exit::bad_input(
            "the stored images are others: another kind of device, precision or version drew them; the pictures should look alike",
        )),
    }
}

#[cfg(not(feature = "worker"))]
async fn draw_again(_plan: &Plan, _explanation: &Explanation, _folder: &Path) -> Result<(), Exit> {
    Err(Exit::bad_input("this program was built without the worker and cannot draw"))
}

pub(super) async fn gc(run: RunRef, dry_run: bool, unused_folders: bool, grace: &str) -> Result<(), Exit> {
    let grace = humantime::parse_duration(grace).map_err(|e| Exit::bad_input(format!("--grace {grace}: {e}; write for example 24h")))?;
    let (store, _) = run.open()?;
    let now = SystemTime::now();
    say(gc::gc(&store, gc::Options { grace, dry_run, unused_folders }, now).await?)
}

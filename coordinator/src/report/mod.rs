//! `report.html`: one self-contained file that shows what a run made, for people.

mod load;
mod page;
#[cfg(test)]
mod tests;

use crate::charts::Point;
use crate::summary::Summary;
use bytes::Bytes;
use ip2p_pipeline::layout;
use ip2p_pipeline::manifest::{DataObject, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Result, commit};
pub use page::render;

/// Everything the page shows; [`render`] turns it into HTML without looking anywhere else.
#[derive(Clone, Debug)]
pub struct ReportData {
    pub plan: Plan,
    pub summary: Summary,
    /// A sample of the kept pairs, best direction first.
    pub kept: Vec<Shown>,
    /// A sample of the rejected pairs, by reason.
    pub rejected: Vec<Shown>,
    /// A sample of all scored candidates, for the scatter.
    pub points: Vec<Point>,
    /// All scored candidates.
    pub scored: u64,
}

/// A pair of the gallery.
#[derive(Clone, Debug)]
pub struct Shown {
    pub row: IndexRow,
    /// Its verdict in words, with the numbers.
    pub verdict: String,
    /// Before and after as `data:` URIs; `None` when they are not stored or the page is full.
    pub images: Option<[String; 2]>,
}

/// Loads, renders and writes the report of a complete run, and describes it.
pub async fn write(store: &Store, plan: &Plan, summary: &Summary) -> Result<DataObject> {
    let data = ReportData::load(store, plan, summary).await?;
    commit::write_data(store, role::CLOSING, layout::REPORT.to_string(), Bytes::from(render(&data))).await
}

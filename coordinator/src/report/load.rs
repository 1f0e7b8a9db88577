//! Reads from the store what the page shows: samples that are the same on every machine, and small images.

use super::{ReportData, Shown};
use crate::charts::Point;
use crate::explain::verdict;
use crate::fetch;
use crate::sample::Sample;
use crate::summary::Summary;
use crate::thumbnail::thumbnail;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt, TryStreamExt};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{PartitionManifest, role};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::records::{ImageRef, IndexRow, RejectReason, Verdict};
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result, commit};
use std::collections::BTreeMap;

/// Most pairs in the gallery of kept ones.
const KEPT: usize = 200;
/// Most rejected pairs for each reason.
const REJECTED: usize = 15;
/// Most points of each colour in the scatter.
const POINTS: usize = 1500;
/// Most characters of all images together; the page stays below 8 MB.
const IMAGE_TEXT: usize = 6_500_000;
/// Images that are longer are shown smaller, at this side in pixels.
const SIDE: u32 = 192;
const SMALL_BYTES: usize = 12_000;
/// Images read at the same time.
const PARALLEL: usize = 16;

/// What one pass over the index collects.
struct Samples {
    kept: Sample<IndexRow>,
    rejected: BTreeMap<RejectReason, Sample<IndexRow>>,
    points: [Sample<Point>; 2],
    scored: u64,
}

impl Samples {
    fn new() -> Self {
        let rejected = RejectReason::ALL.map(|reason| (reason, Sample::of(REJECTED)));
        Samples { kept: Sample::of(KEPT), rejected: rejected.into(), points: [(), ()].map(|()| Sample::of(POINTS)), scored: 0 }
    }

    fn add(&mut self, row: IndexRow) {
        let kept = row.verdict == Verdict::Kept;
        if let Some(scores) = row.scores {
            self.scored += 1;
            let point = Point { image: scores.clip_sim_image, direction: scores.clip_sim_dir, kept };
            self.points[usize::from(kept)].offer(row.pair, || point);
        }
        match row.verdict {
            Verdict::Kept => self.kept.offer(row.pair, || row),
            Verdict::Rejected(reason) => {
                if let Some(sample) = self.rejected.get_mut(&reason) {
                    sample.offer(row.pair, || row);
                }
            }
            Verdict::Quarantined(_) => {}
        }
    }
}

impl ReportData {
    /// Reads the index and the images of the sampled pairs. Fails when the index is not committed.
    pub async fn load(store: &Store, plan: &Plan, summary: &Summary) -> Result<Self> {
        let key = plan.dir(Stage::Index).manifest(0);
        let manifest: Option<PartitionManifest> = commit::read(store, &key).await?;
        let index = manifest.as_ref().and_then(|manifest| manifest.objects(role::INDEX).next());
        let index = index.ok_or_else(|| Error::invalid(format!("{} names no index: finish the run first", store.url_of(&key))))?;
        let samples = fetch::visit_index(store, index, Samples::new(), Samples::add).await?;

        let mut kept: Vec<IndexRow> = samples.kept.into_entries().collect();
        let direction = |row: &IndexRow| row.scores.map_or(f64::NEG_INFINITY, |scores| scores.clip_sim_dir);
        kept.sort_by(|a, b| direction(b).total_cmp(&direction(a)));
        let rejected = samples.rejected.into_values().flat_map(Sample::into_entries).collect();
        let mut room = IMAGE_TEXT;
        let kept = show(store, plan, kept, &mut room).await?;
        let rejected = show(store, plan, rejected, &mut room).await?;
        // Kept ones last, so that they lie on top.
        let points = samples.points.into_iter().flat_map(Sample::into_entries).collect();
        Ok(ReportData { plan: plan.clone(), summary: summary.clone(), kept, rejected, points, scored: samples.scored })
    }
}

/// Fetches the images of `rows` while there is room on the page.
async fn show(store: &Store, plan: &Plan, rows: Vec<IndexRow>, room: &mut usize) -> Result<Vec<Shown>> {
    let fetch = |row: IndexRow| async move {
        let images = match &row.images {
            Some([before, after]) => Some([data_uri(store, before).await?, data_uri(store, after).await?]),
            None => None,
        };
        Ok::<_, Error>((row, images))
    };
    let mut fetched = futures::stream::iter(rows).map(fetch).buffered(PARALLEL);
    let mut shown = Vec::new();
    while let Some((row, images)) = fetched.try_next().await? {
        let size = images.as_ref().map_or(0, |images| images.iter().map(String::len).sum());
        let images = images.filter(|_| size <= *room);
        *room -= if images.is_some() { size } else { 0 };
        shown.push(Shown { verdict: verdict(plan, &row), row, images });
    }
    Ok(shown)
}

async fn data_uri(store: &Store, image: &ImageRef) -> Result<String> {
    let bytes = commit::read_image(store, image).await?;
    let what = format!("image at {} of {}", image.offset, store.url_of(&image.object));
    let (kind, bytes) = thumbnail(&bytes, SIDE, SMALL_BYTES).map_err(|e| Error::format(what, e))?;
    Ok(format!("data:{kind};base64,{}", STANDARD.encode(bytes)))
}

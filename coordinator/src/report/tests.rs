use super::*;
use crate::figures;
use crate::fixture::{CANDIDATES, Fixture, KEPT};
use ip2p_pipeline::corpus;
use ip2p_pipeline::records::Verdict;
use std::time::Duration;

async fn data() -> ReportData {
    let Fixture { store, plan } = Fixture::finished().await;
    let stages = figures::of_store(&store, &plan).await.unwrap();
    let corpus = corpus::load(&store, &plan.corpus_dir).await.unwrap().unwrap();
    let mut summary = Summary::new(&plan, &corpus, stages, true, Duration::from_secs(75), &store);
    summary.add_reasons(&store, &plan).await.unwrap();
    ReportData::load(&store, &plan, &summary).await.unwrap()
}

#[tokio::test]
async fn the_page_has_every_pair_of_a_small_run() {
    let data = data().await;
    assert_eq!((data.kept.len() as u64, data.scored), (KEPT, CANDIDATES - 1));
    assert_eq!(data.rejected.len() as u64, CANDIDATES - 1 - KEPT);
    assert!(data.kept.iter().all(|shown| shown.images.as_ref().unwrap()[0].starts_with("data:image/png;base64,iVBOR")));
    assert!(data.rejected.iter().all(|shown| shown.images.is_none()));
    let page = render(&data);
    for shown in data.kept.iter().chain(&data.rejected) {
        assert!(page.contains(&shown.row.pair.short()));
    }
    assert_eq!(page.matches("<img ").count() as u64, 2 * KEPT);
    assert_eq!(page.matches("<circle ").count() as u64, CANDIDATES - 1);
    assert!(page.contains("clip sim dir 0.1000 is below clip direction 0.2"));
    assert!(page.contains("keep_rejected: true"));
    assert!(page.contains("<dt>1 pairs</dt><dd>the image is not finite</dd>"));
    assert!(page.contains("that were left out") && page.contains("caption empty") && page.contains("1 · 17% of the rows"));
    assert!(page.contains("reads JPEG only") && !page.contains("EditDataset("));
}

#[tokio::test]
async fn a_page_without_pairs_says_why_and_not_how_to_load_them() {
    let mut data = data().await;
    assert!(render(&data).contains("load_dataset") && !render(&data).contains("No pairs"));
    data.kept.clear();
    data.summary.nothing_kept = Some("0 of 12 candidates kept: 8 fail <clip_direction> 0.2".to_string());
    let page = render(&data);
    assert!(page.contains("8 fail &lt;clip_direction&gt; 0.2") && !page.contains("load_dataset"));
}

#[tokio::test]
async fn nothing_on_the_page_comes_from_elsewhere() {
    let page = render(&data().await);
    for outside in ["http://", "https://", "src=\"/", "url(", "@import", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page.matches("<script>").count(), 1);
}

#[tokio::test]
async fn texts_from_outside_stay_texts() {
    let mut data = data().await;
    let nasty = "</script><script>alert(1)</script>\" onload='x' & \u{0}";
    for shown in data.kept.iter_mut().chain(&mut data.rejected) {
        shown.row.caption = nasty.to_string();
        shown.row.edit = nasty.to_string();
        shown.row.output = nasty.to_string();
        shown.verdict = nasty.to_string();
    }
    data.summary.run = nasty.to_string();
    data.summary.dataset = nasty.to_string();
    data.plan.spec.corpus.path = nasty.to_string();
    data.plan.spec.models.clip = nasty.to_string();
    let page = render(&data);
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(page.matches("alert(1)").count(), page.matches("&lt;script&gt;alert(1)&lt;/script&gt;").count());
    assert!(!page.contains("onload='") && !page.contains('\u{0}'));
}

#[tokio::test]
async fn scores_that_are_no_numbers_leave_the_drawing_whole() {
    let mut data = data().await;
    data.points.push(Point { image: f64::NAN, direction: 0.1, kept: false });
    data.points.push(Point { image: -1.0, direction: f64::INFINITY, kept: true });
    let page = render(&data);
    assert!(!page.contains("NaN") && !page.contains("cy=inf"));
    data.points.clear();
    data.kept.clear();
    data.rejected.clear();
    assert!(render(&data).contains("threshold"));
}

#[tokio::test]
async fn the_report_is_written_where_the_layout_says_and_needs_an_index() {
    let Fixture { store, plan } = Fixture::finished().await;
    let data = data().await;
    assert!(data.kept.iter().all(|shown| shown.row.verdict == Verdict::Kept));
    write(&store, &plan, &data.summary).await.unwrap();
    assert!(store.require(layout::REPORT).await.unwrap().starts_with(b"<!doctype html>"));
    store.delete(&plan.dir(ip2p_pipeline::layout::Stage::Index).manifest(0)).await.unwrap();
    assert!(write(&store, &plan, &data.summary).await.unwrap_err().to_string().contains("names no index"));
}

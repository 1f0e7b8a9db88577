//! Whole requests against the pages of a small finished run.

use super::server::router;
use super::*;
use crate::explain::Asked;
use crate::fixture::{Fixture, KEPT};
use crate::scheduler::{Event, Policy, Scheduler};
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use futures::StreamExt;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{Counts, role};
use ip2p_pipeline::records::IndexRow;
use ip2p_pipeline::task::{Cause, Failure, Finished, Progress, Scope};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tower::ServiceExt;

const ASKED: Asked = Asked { program: "ip2p-coordinator", run: "memory:///", overrides: &[] };
const LOOPBACK: &str = "127.0.0.1:8080";

async fn site_on(fixture: &Fixture, address: &str) -> Site {
    let access = Access::of(address.parse().unwrap(), Some("s3cret"), false).unwrap();
    let shown = watch(&fixture.store, &fixture.plan).await.unwrap();
    Site::new(&fixture.store, &fixture.plan, shown, access, &ASKED)
}

async fn send(site: &Site, request: Request<Body>) -> Response<Body> {
    router(site.clone()).oneshot(request).await.unwrap()
}

async fn get(site: &Site, path: &str) -> (StatusCode, String) {
    let response = send(site, Request::get(path).header("host", "localhost").body(Body::empty()).unwrap()).await;
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

const PAGES: [&str; 9] =
    ["/", "/?stage=filter", "/workers", "/gallery", "/gallery?show=rejected", "/quality", "/problems", "/partition/pairs/1", "/pair/0/0"];

#[tokio::test]
async fn every_page_is_whole_and_refers_to_nothing_outside() {
    let fixture = Fixture::finished().await;
    let site = site_on(&fixture, LOOPBACK).await;
    for path in PAGES {
        let (status, page) = get(&site, path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {page}");
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{path}");
        for forbidden in ["http://", "https://", " style=", "<style", " onclick", "javascript:"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(forbidden), "{path}: {forbidden}");
        }
        assert_eq!(page.matches("<script").count(), page.matches("<script src=\"/").count(), "{path}: a script in the page");
    }
    assert!(get(&site, "/").await.1.contains("Complete"));
    assert_eq!(get(&site, "/gallery").await.1.matches("<article").count() as u64, KEPT);
    assert!(get(&site, "/gallery?show=rejected").await.1.contains("clip sim dir 0.1000 is below clip direction 0.2"));
    assert!(get(&site, "/quality?direction=0.35").await.1.contains("0 pairs of 0 triplets"));
    assert!(get(&site, "/quality").await.1.contains("4 pairs of 4 triplets"));
    assert!(get(&site, "/problems").await.1.contains("the image is not finite"));
    assert!(get(&site, "/pair/0/0").await.1.contains("ip2p-coordinator explain memory:/// "));
    assert!(get(&site, "/partition/pairs/1").await.1.contains("local-0.0"));
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let fixture = Fixture::finished().await;
    let site = site_on(&fixture, LOOPBACK).await;
    let paths = [
        "/nothing",
        "/partition/pairs/9",
        "/partition/corpus/0",
        "/pair/0/999",
        "/pair/9/0",
        "/image/0/1/0",
        "/image/0/0/2",
        "/pair?id=zz",
    ];
    for path in paths {
        assert_eq!(get(&site, path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn texts_from_outside_stay_texts() {
    let fixture = Fixture::finished().await;
    let nasty = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(2)> & \u{202e}";
    fixture
        .damage_rows(Stage::Filter, 0, role::SELECTION, |rows: &mut Vec<IndexRow>| {
            for row in rows {
                row.edit = nasty.to_string();
                row.caption = nasty.to_string();
                row.output = nasty.to_string();
                row.url = Some(nasty.to_string());
            }
        })
        .await;
    let site = site_on(&fixture, LOOPBACK).await;
    for path in PAGES.into_iter().chain(["/gallery?text=%3Cscript%3Ealert(1)%3C/script%3E", "/gallery?text=%22%3E%3Cscript%3E"]) {
        let (status, page) = get(&site, path).await;
        assert_eq!(status, StatusCode::OK, "{path}");
        assert!(!page.contains("<script>") && !page.contains("<img src=x"), "{path}: {page}");
    }
    assert!(get(&site, "/gallery").await.1.contains("&lt;script&gt;alert(1)"));
}

#[tokio::test]
async fn images_are_read_by_their_range_and_kept() {
    let fixture = Fixture::finished().await;
    let site = site_on(&fixture, LOOPBACK).await;
    let (status, first) = get(&site, "/image/0/0/0").await;
    assert_eq!((status, first.contains("PNG")), (StatusCode::OK, true));
    assert_ne!(get(&site, "/image/0/0/1").await.1, first);
    for (key, _) in fixture.store.list("pairs").await.unwrap().into_iter().filter(|(key, _)| key.ends_with("images.tar")) {
        fixture.store.delete(&key).await.unwrap();
    }
    assert_eq!(get(&site, "/image/0/0/0").await, (StatusCode::OK, first));
    assert_eq!(get(&site, "/image/1/0/0").await.0, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn browsers_are_told_to_do_nothing_else() {
    let fixture = Fixture::finished().await;
    let site = site_on(&fixture, LOOPBACK).await;
    for path in ["/", "/style.css", "/nothing", "/image/0/0/0", "/live?page=run"] {
        let response = send(&site, Request::get(path).header("host", "[::1]:9").body(Body::empty()).unwrap()).await;
        let policy = response.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
    }
    for path in ["/", "/style.css", "/sign-in", "/live?page=run"] {
        let rebound = send(&site, Request::get(path).header("host", "evil.example:8080").body(Body::empty()).unwrap()).await;
        assert_eq!(rebound.status(), StatusCode::FORBIDDEN, "{path}");
    }
}

fn post(path: &str, body: &'static str, cookie: &str) -> Request<Body> {
    let form = Request::post(path).header("host", "gpu:8080").header("origin", "http://gpu:8080").header("cookie", cookie);
    form.header("content-type", "application/x-www-form-urlencoded").body(Body::from(body)).unwrap()
}

#[tokio::test]
async fn elsewhere_one_signs_in_first() {
    let fixture = Fixture::finished().await;
    let site = site_on(&fixture, "0.0.0.0:8080").await;
    for path in PAGES.into_iter().chain(["/live?page=run", "/image/0/0/0", "/quality/scores.json", "/nothing"]) {
        let (status, body) = get(&site, path).await;
        assert_eq!((status, body.as_str()), (StatusCode::SEE_OTHER, ""), "{path}");
    }
    assert_eq!(get(&site, "/sign-in").await.0, StatusCode::OK);
    assert_eq!(get(&site, "/style.css").await.0, StatusCode::OK);
    let wrong = send(&site, post("/sign-in", "token=wrong", "")).await;
    assert_eq!((wrong.status(), wrong.headers().get("set-cookie")), (StatusCode::FORBIDDEN, None));
    let right = send(&site, post("/sign-in", "token=s3cret", "")).await;
    assert_eq!(right.status(), StatusCode::SEE_OTHER);
    let cookie = right.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_string();
    let signed_in = Request::get("/gallery").header("host", "gpu:8080").header("cookie", &cookie).body(Body::empty()).unwrap();
    assert_eq!(send(&site, signed_in).await.status(), StatusCode::OK);
    let out = send(&site, post("/sign-out", "", &cookie)).await;
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    let foreign =
        Request::post("/sign-in").header("host", "gpu:8080").header("origin", "https://evil.example").body(Body::empty()).unwrap();
    assert_eq!(send(&site, foreign).await.status(), StatusCode::FORBIDDEN);
}

/// A coordinator with two workers of which one holds a partition.
fn at_work() -> (Scheduler, Screen, watch::Receiver<Arc<Snapshot>>, Arc<Mutex<History>>) {
    let policy = Policy {
        lease: Duration::from_secs(30),
        attempts: 4,
        preemptions: 20,
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(60),
        max_quarantined: 1.0,
        quarantine_sample: 100,
        min_kept: 0.0,
        kept_sample: 0,
    };
    let partitions = |stage| if stage == Stage::Index { 1 } else { 3 };
    let recovered = Stage::RUN.map(|stage| crate::scheduler::Recovered {
        stage,
        partitions: if stage == Stage::Shards { 0 } else { partitions(stage) },
        committed: Vec::new(),
        unblocked: stage == Stage::Prompts,
    });
    let (screen, snapshots, history) = screen();
    (Scheduler::new(policy, 1, recovered.to_vec()), screen, snapshots, history)
}

/// What the driver does with an event.
fn happens(scheduler: &mut Scheduler, screen: &mut Screen, event: Event, now: Duration) -> Vec<crate::scheduler::Command> {
    screen.event(&event);
    let commands = scheduler.step(event, now);
    for command in &commands {
        match command {
            crate::scheduler::Command::Notice(notice) => screen.notice(notice),
            crate::scheduler::Command::Grant { .. } => screen.granted(),
            _ => {}
        }
    }
    screen.paint(scheduler, &crate::driver::View::of(scheduler, now), now, true);
    commands
}

fn joins(scheduler: &mut Scheduler, screen: &mut Screen, worker: &str) {
    let worker = worker.to_string();
    let _ =
        happens(scheduler, screen, Event::Joined { worker: worker.clone(), device: "cpu".to_string(), scope: Scope::Any }, Duration::ZERO);
    let _ = happens(scheduler, screen, Event::WantsWork { worker }, Duration::ZERO);
}

#[tokio::test]
async fn a_run_at_work_is_seen_to_change_and_lost_workers_stay_with_the_cause() {
    let fixture = Fixture::finished().await;
    let (mut scheduler, mut screen, snapshots, history) = at_work();
    let access = Access::of(LOOPBACK.parse().unwrap(), None, false).unwrap();
    let site = Site::new(&fixture.store, &fixture.plan, (snapshots, history), access, &ASKED);
    joins(&mut scheduler, &mut screen, "a<b>");
    assert!(get(&site, "/").await.1.contains("At work with 1 worker"));

    let live = send(&site, Request::get("/live?page=run&stage=prompts").header("host", "localhost").body(Body::empty()).unwrap()).await;
    let mut events = live.into_body().into_data_stream();
    let mut seen = String::new();
    while !seen.contains("event: cells") {
        seen += std::str::from_utf8(&events.next().await.unwrap().unwrap()).unwrap();
    }
    assert!(seen.contains(r#"data: {"digits":"422","each":1}"#), "{seen}");

    let (_, page) = get(&site, "/workers").await;
    assert!(page.contains("a&lt;b&gt;") && page.contains("/partition/prompts/0"), "{page}");
    let lines = get(&site, "/partition/prompts/0/lines").await.1;
    assert_eq!(lines, "prompts 0\nat work\nattempt 1 by a<b>: starting, heartbeat 0.0 s ago");

    let assignment = scheduler.workers()["a<b>"].holds.unwrap();
    let progress = Some(Progress { assignment, done: 1, total: 3, units: 12, kept: 0 });
    let _ = happens(&mut scheduler, &mut screen, Event::Beat { worker: "a<b>".to_string(), progress }, Duration::from_secs(1));
    let killed = Event::Left { worker: "a<b>".to_string(), why: "its process ended: signal 9".to_string() };
    let _ = happens(&mut scheduler, &mut screen, killed, Duration::from_secs(2));
    seen.clear();
    while !seen.contains(r#"{"digits":"222""#) {
        seen += std::str::from_utf8(&events.next().await.unwrap().unwrap()).unwrap();
    }
    let (_, page) = get(&site, "/workers").await;
    assert!(page.contains("signal 9") && page.contains("<td>12</td>"), "{page}");
    assert!(get(&site, "/").await.1.contains("lease lost"));
}

#[tokio::test]
async fn failures_are_counted_by_cause_and_told_of_their_partition() {
    let fixture = Fixture::finished().await;
    let (mut scheduler, mut screen, snapshots, history) = at_work();
    let access = Access::of(LOOPBACK.parse().unwrap(), None, false).unwrap();
    let site = Site::new(&fixture.store, &fixture.plan, (snapshots, history), access, &ASKED);
    joins(&mut scheduler, &mut screen, "w");
    let assignment = scheduler.workers()["w"].holds.unwrap();
    let outcome = Err(Failure { cause: Cause::Resource, message: "out of <memory>".to_string() });
    let _ = happens(&mut scheduler, &mut screen, Event::Reported { worker: "w".to_string(), assignment, outcome }, Duration::from_secs(1));
    let (_, problems) = get(&site, "/problems").await;
    assert!(problems.contains("out of &lt;memory&gt;") && problems.contains(">resource<"), "{problems}");
    assert!(get(&site, "/partition/prompts/0/lines").await.1.contains("failed: resource: out of <memory>"));
    assert!(get(&site, "/").await.1.contains("failed, waits to be tried again"));
}

#[tokio::test]
async fn metrics_say_what_the_page_says() {
    let fixture = Fixture::finished().await;
    let (mut scheduler, mut screen, snapshots, history) = at_work();
    let access = Access::of(LOOPBACK.parse().unwrap(), None, false).unwrap();
    let site = Site::new(&fixture.store, &fixture.plan, (snapshots, history), access, &ASKED);
    joins(&mut scheduler, &mut screen, "w");
    let assignment = scheduler.workers()["w"].holds.unwrap();
    let outcome = Err(Failure { cause: Cause::StoreFull, message: "no room".to_string() });
    let _ = happens(&mut scheduler, &mut screen, Event::Reported { worker: "w".to_string(), assignment, outcome }, Duration::from_secs(1));
    let (_, text) = get(&site, "/metrics").await;
    let lines = [
        "ip2p_partitions{run=\"small\",stage=\"prompts\",state=\"ready\"} 3.0",
        "ip2p_leases_granted_total{run=\"small\"} 1",
        "ip2p_failed_attempts_total{run=\"small\",cause=\"store_full\"} 1",
        "ip2p_workers{run=\"small\",state=\"idle\"} 1.0",
        "ip2p_coordinator_working{run=\"small\"} 0.0",
    ];
    for line in lines {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    let (_, finished) = get(&site_on(&fixture, LOOPBACK).await, "/metrics").await;
    assert!(finished.contains("ip2p_records_total{run=\"small\",stage=\"filter\",outcome=\"output\"} 4\n"), "{finished}");
    assert!(finished.contains("ip2p_figures_total{run=\"small\",stage=\"index\",figure=\"train_pairs\"} 2.0"), "{finished}");
}

#[test]
fn a_partition_that_is_mended_is_counted_once() {
    let (mut scheduler, mut screen, _snapshots, history) = at_work();
    joins(&mut scheduler, &mut screen, "w");
    let counts = Counts { expected: 2, output: 2, quarantined: 1, ..Counts::default() };
    let finished = Finished { counts, seconds: 1.0, figures: BTreeMap::new() };
    let damaged = Failure { cause: Cause::Damaged { stage: Stage::Prompts, partition: 0 }, message: "bytes differ".to_string() };
    // The reader of what the first makes finds it damaged, so it is made again.
    for outcome in [Ok(finished.clone()), Err(damaged), Ok(finished)] {
        let assignment = scheduler.workers()["w"].holds.unwrap();
        let _ = happens(&mut scheduler, &mut screen, Event::Reported { worker: "w".to_string(), assignment, outcome }, Duration::ZERO);
        let _ = happens(&mut scheduler, &mut screen, Event::WantsWork { worker: "w".to_string() }, Duration::ZERO);
    }
    let history = history.lock().unwrap();
    assert_eq!(history.totals().commits, [(Stage::Prompts, 1)].into());
    assert_eq!((history.slowest(Stage::Prompts).len(), &history.quarantined()[&Stage::Prompts]), (1, &vec![0]));
    assert_eq!(history.events().next().unwrap().what.words(), "damaged objects made again");
}

/// Whoever adds a metric adds it to the page that explains them.
#[tokio::test]
async fn every_metric_is_documented() {
    let fixture = Fixture::finished().await;
    let (_, text) = get(&site_on(&fixture, LOOPBACK).await, "/metrics").await;
    let page = include_str!("../../../docs/metrics.md");
    let dashboard = include_str!("../../../k8s/grafana/ip2p.json");
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 10);
    for name in names {
        assert!(page.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
    }
    for used in dashboard.split("ip2p_").skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next().unwrap()) {
        assert!(page.contains(&format!("`ip2p_{used}`")), "the dashboard shows ip2p_{used}, which is not in docs/metrics.md");
    }
}

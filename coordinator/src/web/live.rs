//! Parts of a page, renewed while it is open.

use super::pages;
use super::screen::lock;
use super::server::Site;
use super::snapshot::Snapshot;
use super::unix_now;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use ip2p_pipeline::layout::Stage;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Pages that are renewed at the same time.
pub const MOST: usize = 64;

/// A part of the page, or its cells.
#[derive(Serialize)]
struct Part<'a> {
    id: &'a str,
    html: String,
}

/// The cells of the stage that is drawn.
#[derive(Serialize)]
struct Drawn<'a> {
    digits: &'a str,
    each: u32,
}

/// Which parts of which page.
struct Wanted {
    page: String,
    stage: Stage,
}

/// One open page.
struct Watcher {
    site: Site,
    wanted: Wanted,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Hashes of what it has.
    sent: HashMap<&'static str, blake3::Hash>,
    first: bool,
    _place: OwnedSemaphorePermit,
}

/// Server-sent events: `part` with an element's id and its new content, `cells` with the states of partitions.
pub async fn events(State(site): State<Site>, Query(fields): Query<BTreeMap<String, String>>) -> Response {
    let Ok(place) = site.inner().watchers.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open").into_response();
    };
    let stage = fields.get("stage").and_then(|name| name.parse().ok()).unwrap_or(Stage::Pairs);
    let wanted = Wanted { page: fields.get("page").cloned().unwrap_or_default(), stage };
    let snapshots = site.inner().snapshots.clone();
    let watcher = Watcher { site, wanted, snapshots, sent: HashMap::new(), first: true, _place: place };
    Sse::new(stream(watcher)).keep_alive(KeepAlive::default()).into_response()
}

fn stream(watcher: Watcher) -> impl Stream<Item = Result<Event, Infallible>> {
    futures::stream::unfold(watcher, |mut watcher| async move {
        if !std::mem::take(&mut watcher.first) {
            // The run is over when nobody draws it any more.
            watcher.snapshots.changed().await.ok()?;
        }
        let events = watcher.news();
        Some((futures::stream::iter(events), watcher))
    })
    .flatten()
    .map(Ok)
}

impl Watcher {
    /// What is new for this page.
    fn news(&mut self) -> Vec<Event> {
        let snapshot = self.snapshots.borrow_and_update().clone();
        let mut events = Vec::new();
        for (id, html) in self.parts(&snapshot) {
            if self.is_new(id, html.as_bytes()) {
                // Strings always have a JSON form.
                events.extend(Event::default().event("part").json_data(Part { id, html }));
            }
        }
        let drawn = snapshot.stages.iter().find(|now| now.stage() == self.wanted.stage && self.wanted.page == "run");
        if let Some(now) = drawn
            && self.is_new("cells", now.cells.digits.as_bytes())
        {
            events.extend(Event::default().event("cells").json_data(Drawn { digits: &now.cells.digits, each: now.cells.each }));
        }
        events
    }

    fn is_new(&mut self, id: &'static str, content: &[u8]) -> bool {
        let hash = blake3::hash(content);
        self.sent.insert(id, hash) != Some(hash)
    }

    fn parts(&self, snapshot: &Snapshot) -> Vec<(&'static str, String)> {
        let history = lock(&self.site.inner().history);
        let now = unix_now();
        let parts = match self.wanted.page.as_str() {
            "run" => vec![
                ("state", pages::run::state(snapshot)),
                ("flow", pages::run::flow(snapshot)),
                ("figures", pages::run::figures(snapshot)),
                ("states", pages::run::states(snapshot, self.wanted.stage)),
                ("events", pages::run::events(&history, snapshot.live, now)),
            ],
            "workers" => vec![("workers", pages::workers::table(snapshot)), ("gone", pages::workers::gone(&history, now))],
            "problems" => vec![
                ("failing", pages::problems::failing(&history, now)),
                ("causes", pages::problems::causes(snapshot, &history)),
                ("slowest", pages::problems::slowest(&history)),
            ],
            _ => Vec::new(),
        };
        parts.into_iter().map(|(id, markup)| (id, markup.into_string())).collect()
    }
}

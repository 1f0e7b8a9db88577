//! The page's server: who may look, which page it is, and headers that keep browsers from doing anything else.

use super::access::{Access, Refusal};
use super::connections::Connections;
use super::gallery;
use super::history::History;
use super::images::Images;
use super::pages::{self, Frame, Tab};
use super::partition::Told;
use super::quality::Quality;
use super::screen::lock;
use super::snapshot::{STATES, Snapshot, StageNow};
use super::tables::Tables;
use super::{live, metrics, unix_now};
use crate::explain::{self, Asked};
use crate::quarantine::{self, QuarantineError};
use crate::scheduler::Cell;
use axum::extract::{DefaultBodyLimit, Form, Path, Query, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::Filter;
use ip2p_pipeline::store::Store;
use ip2p_pipeline::{Error, Result};
use maud::Markup;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// Nothing but what this server itself sends, and no script or style inside a page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; \
                      frame-ancestors 'none'; base-uri 'none'";
/// Largest form in bytes.
const FORM: usize = 8 << 10;
/// After a wrong token; only one is looked at at a time.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the errors in quarantine are shown before they are read again.
const ERRORS_FRESH: Duration = Duration::from_secs(30);

type Fields = Query<BTreeMap<String, String>>;
type Errors = Result<Vec<QuarantineError>, String>;

/// Everything that the pages of one run are made of. A handle: cheap to clone.
#[derive(Clone)]
pub struct Site(Arc<Inner>);

pub(super) struct Inner {
    store: Store,
    plan: Plan,
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    pub history: Arc<Mutex<History>>,
    access: Access,
    /// How the user asked for the run: becomes the commands on the page.
    program: String,
    run: String,
    overrides: Vec<String>,
    tables: Tables,
    images: Images,
    quality: Quality,
    errors: AsyncMutex<Option<(Instant, Arc<Errors>)>>,
    /// Searches of all partitions at the same time.
    searches: Semaphore,
    guesses: Semaphore,
    /// Pages that are being renewed.
    pub watchers: Arc<Semaphore>,
}

impl Site {
    /// `run` is the pipeline file or the URL that the user gave, `overrides` the `--set` arguments.
    pub fn new(
        store: &Store,
        plan: &Plan,
        shown: (watch::Receiver<Arc<Snapshot>>, Arc<Mutex<History>>),
        access: Access,
        asked: &Asked<'_>,
    ) -> Self {
        let (snapshots, history) = shown;
        Site(Arc::new(Inner {
            tables: Tables::new(store, plan),
            images: Images::new(store),
            quality: Quality::default(),
            errors: AsyncMutex::new(None),
            searches: Semaphore::new(1),
            guesses: Semaphore::new(1),
            watchers: Arc::new(Semaphore::new(live::MOST)),
            store: store.clone(),
            plan: plan.clone(),
            snapshots,
            history,
            access,
            program: asked.program.to_string(),
            run: asked.run.to_string(),
            overrides: asked.overrides.to_vec(),
        }))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    fn frame<'a>(&'a self, tab: Tab, title: &'a str) -> Frame<'a> {
        Frame { run: &self.0.plan.spec.name, tab, title, live: None, scripts: &[], signed_in: self.0.access.needs_token() }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.0.snapshots.borrow().clone()
    }

    fn asked(&self) -> Asked<'_> {
        Asked { program: &self.0.program, run: &self.0.run, overrides: &self.0.overrides }
    }

    fn problem(&self, status: StatusCode, title: &str, message: &str) -> Response {
        (status, html(pages::problem(&self.frame(Tab::Other, title), message))).into_response()
    }

    fn failed(&self, error: Error) -> Response {
        match error {
            Error::Invalid { .. } => self.problem(StatusCode::NOT_FOUND, "Not found", &error.to_string()),
            _ => {
                tracing::warn!("the page cannot be made: {error}");
                self.problem(StatusCode::BAD_GATEWAY, "The store cannot be read", &error.to_string())
            }
        }
    }

    fn not_found(&self) -> Response {
        self.problem(StatusCode::NOT_FOUND, "Not found", "There is no such page.")
    }
}

/// Serves the pages until the listener fails or the future is dropped.
pub async fn serve(site: Site, listener: TcpListener, tls: Option<TlsAcceptor>) -> io::Result<()> {
    axum::serve(Connections::new(listener, tls)?, router(site)).await
}

pub(super) fn router(site: Site) -> Router {
    let pages = Router::new()
        .route("/", get(run))
        .route("/workers", get(workers))
        .route("/gallery", get(show_gallery))
        .route("/quality", get(quality))
        .route("/quality/scores.json", get(scores))
        .route("/problems", get(problems))
        .route("/partition/{stage}/{number}", get(partition))
        .route("/partition/{stage}/{number}/lines", get(partition_lines))
        .route("/pair", get(pair_by_id))
        .route("/pair/{partition}/{row}", get(pair))
        .route("/image/{partition}/{row}/{which}", get(image))
        .route("/live", get(live::events))
        .route("/metrics", get(show_metrics))
        .route("/sign-out", post(sign_out))
        .fallback(async |State(site): State<Site>| site.not_found())
        .layer(middleware::from_fn_with_state(site.clone(), guard));
    // What the sign-in form itself needs.
    let open = Router::new()
        .route("/sign-in", get(sign_in_form).post(sign_in))
        .route("/style.css", get(async || asset("text/css; charset=utf-8", STYLE)))
        .route("/page.js", get(async || asset(SCRIPT, include_str!("assets/page.js"))))
        .route("/grid.js", get(async || asset(SCRIPT, include_str!("assets/grid.js"))))
        .route("/compare.js", get(async || asset(SCRIPT, include_str!("assets/compare.js"))))
        .route("/quality.js", get(async || asset(SCRIPT, include_str!("assets/quality.js"))))
        .route("/icon.svg", get(async || asset("image/svg+xml", include_str!("assets/icon.svg"))))
        .layer(middleware::from_fn_with_state(site.clone(), guard_open));
    open.merge(pages).layer(DefaultBodyLimit::max(FORM)).layer(middleware::map_response(with_headers)).with_state(site)
}

const SCRIPT: &str = "text/javascript; charset=utf-8";
/// The report's style and what only the page needs.
const STYLE: &str = concat!(include_str!("../report/style.css"), include_str!("assets/style.css"));

fn asset(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "no-cache")], text)
}

fn html(markup: Markup) -> Html<String> {
    Html(markup.into_string())
}

/// Lets through who may look; shows all others the way.
async fn guard(State(site): State<Site>, request: Request, next: Next) -> Response {
    match site.0.access.check(request.headers(), changes(request.method())) {
        Ok(()) => next.run(request).await,
        Err(Refusal::SignIn) => (StatusCode::SEE_OTHER, [(LOCATION, "/sign-in")]).into_response(),
        Err(refusal) => refused(refusal),
    }
}

/// The same without a sign-in.
async fn guard_open(State(site): State<Site>, request: Request, next: Next) -> Response {
    match site.0.access.check(request.headers(), changes(request.method())) {
        Ok(()) | Err(Refusal::SignIn) => next.run(request).await,
        Err(refusal) => refused(refusal),
    }
}

fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD)
}

fn refused(refusal: Refusal) -> Response {
    let text = match refusal {
        Refusal::WrongHost => {
            "This page answers under the names localhost and 127.0.0.1 only. To look from elsewhere forward its port through SSH, or serve it with --web on another address and a token."
        }
        Refusal::WrongOrigin | Refusal::SignIn => "This form belongs to another page.",
    };
    (StatusCode::FORBIDDEN, text).into_response()
}

async fn with_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let fixed = [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "same-origin"),
        ("x-frame-options", "DENY"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cross-origin-opener-policy", "same-origin"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn run(State(site): State<Site>, Query(fields): Fields) -> Response {
    let snapshot = site.snapshot();
    let asked = fields.get("stage").and_then(|name| name.parse().ok()).filter(|stage| Stage::RUN.contains(stage));
    let stage = asked.unwrap_or_else(|| at_work(&snapshot));
    let content = pages::run::content(&site.0.plan.spec.name, &snapshot, &lock(&site.0.history), stage, unix_now());
    let live = Some(format!("/live?page=run&stage={stage}"));
    html(pages::document(&Frame { live, scripts: &["/grid.js"], ..site.frame(Tab::Run, "Run") }, content)).into_response()
}

/// The stage that most people want to see: pairs, where the time goes, unless it has not begun or is over; then the last
/// that has anything to do.
fn at_work(snapshot: &Snapshot) -> Stage {
    let to_do =
        |stage: &&StageNow| STATES.iter().any(|(cell, _)| !matches!(cell, Cell::Committed | Cell::Blocked) && stage.in_state(*cell) > 0);
    let pairs = |stage: &&StageNow| stage.stage() == Stage::Pairs && !stage.complete() && stage.view.committed > 0;
    let stages = &snapshot.stages;
    stages.iter().find(pairs).or_else(|| stages.iter().rev().find(to_do)).map_or(Stage::Pairs, StageNow::stage)
}

async fn workers(State(site): State<Site>) -> Response {
    let content = pages::workers::content(&site.snapshot(), &lock(&site.0.history), unix_now());
    html(pages::document(&Frame { live: Some("/live?page=workers".to_string()), ..site.frame(Tab::Workers, "Workers") }, content))
        .into_response()
}

async fn show_gallery(State(site): State<Site>, Query(fields): Fields) -> Response {
    let query = gallery::Query::of(&fields);
    match gallery::find(&site.0.tables, &query).await {
        Ok(found) => {
            let content = pages::gallery::content(&site.0.plan, &query, &found);
            html(pages::document(&Frame { scripts: &["/compare.js"], ..site.frame(Tab::Gallery, "Gallery") }, content)).into_response()
        }
        Err(e) => site.failed(e),
    }
}

async fn quality(State(site): State<Site>, Query(fields): Fields) -> Response {
    let own = &site.0.plan.spec.stages.filter;
    match site.0.quality.sample(&site.0.tables).await {
        Ok(sample) => {
            let yields = lock(&site.0.history).yields().to_vec();
            let content = pages::quality::content(&sample, own, &thresholds(own, &fields), &yields);
            html(pages::document(&Frame { scripts: &["/quality.js"], ..site.frame(Tab::Quality, "Quality") }, content)).into_response()
        }
        Err(e) => site.failed(e),
    }
}

/// The run's own thresholds, but for those in the form.
fn thresholds(own: &Filter, fields: &BTreeMap<String, String>) -> Filter {
    let number = |name: &str, own: f64| fields.get(name).and_then(|n| n.trim().parse().ok()).filter(|n: &f64| n.is_finite()).unwrap_or(own);
    Filter {
        clip_text: number("text", own.clip_text),
        clip_direction: number("direction", own.clip_direction),
        clip_image: number("image", own.clip_image),
        keep: fields.get("keep").and_then(|n| n.trim().parse().ok()).unwrap_or(own.keep),
    }
}

async fn scores(State(site): State<Site>) -> Response {
    match site.0.quality.sample(&site.0.tables).await {
        Ok(sample) => Json(sample.columns()).into_response(),
        Err(e) => site.failed(e),
    }
}

async fn problems(State(site): State<Site>) -> Response {
    let errors = errors(&site.0).await;
    let content = pages::problems::content(&site.snapshot(), &lock(&site.0.history), &errors, unix_now());
    html(pages::document(&Frame { live: Some("/live?page=problems".to_string()), ..site.frame(Tab::Problems, "Problems") }, content))
        .into_response()
}

/// Why records are in quarantine, read now and then.
async fn errors(site: &Inner) -> Arc<Errors> {
    let mut last = site.errors.lock().await;
    if let Some((at, errors)) = &*last
        && at.elapsed() < ERRORS_FRESH
    {
        return errors.clone();
    }
    let partitions = lock(&site.history).quarantined().clone();
    let errors = quarantine::errors_in(&site.store, &site.plan, &partitions).await.map_err(|e| e.to_string());
    let errors = Arc::new(errors);
    *last = Some((Instant::now(), errors.clone()));
    errors
}

async fn show_metrics(State(site): State<Site>) -> Response {
    match metrics::text(&site.0.plan.spec.name, &site.snapshot(), &lock(&site.0.history)) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(e) => site.problem(StatusCode::INTERNAL_SERVER_ERROR, "No metrics", &e.to_string()),
    }
}

fn told(site: &Site, stage: &str, number: u32) -> Option<Told> {
    let stage = stage.parse().ok().filter(|stage| Stage::RUN.contains(stage))?;
    Told::at_hand(&site.snapshot(), &lock(&site.0.history), stage, number)
}

async fn partition(State(site): State<Site>, Path((stage, number)): Path<(String, u32)>) -> Response {
    let Some(told) = told(&site, &stage, number) else { return site.not_found() };
    match told.with_chunks(&site.0.store, &site.0.plan).await {
        Ok(told) => {
            let title = format!("{} {number}", told.stage);
            html(pages::document(&site.frame(Tab::Other, &title), pages::partition::content(&told, unix_now()))).into_response()
        }
        Err(e) => site.failed(e),
    }
}

async fn partition_lines(State(site): State<Site>, Path((stage, number)): Path<(String, u32)>) -> Response {
    told(&site, &stage, number).map_or_else(|| site.not_found(), |told| told.lines().into_response())
}

async fn pair(State(site): State<Site>, Path((partition, row)): Path<(u32, usize)>) -> Response {
    match explain::row(&site.0.store, &site.0.plan, partition, row, &site.asked()).await {
        Ok(explanation) => show_pair(&site, &explanation, Some((partition, row))),
        Err(e) => site.failed(e),
    }
}

async fn pair_by_id(State(site): State<Site>, Query(fields): Fields) -> Response {
    // Nobody closes the semaphore.
    let _search = site.0.searches.acquire().await;
    let id = fields.get("id").map(|id| id.trim()).unwrap_or_default();
    match explain::explain(&site.0.store, &site.0.plan, id, &site.asked()).await {
        Ok(explanation) => {
            let partition = explanation.made.iter().find(|made| made.stage == Stage::Filter).map(|made| made.partition);
            let place = match partition {
                Some(partition) => site.0.tables.rows(partition).await.ok().and_then(|rows| {
                    let row = rows.iter().position(|row| row.pair == explanation.row.pair)?;
                    Some((partition, row))
                }),
                None => None,
            };
            show_pair(&site, &explanation, place)
        }
        Err(e) => site.failed(e),
    }
}

fn show_pair(site: &Site, explanation: &explain::Explanation, place: Option<(u32, usize)>) -> Response {
    let title = format!("Pair {}", explanation.row.pair.short());
    let content = pages::pair::content(explanation, place);
    html(pages::document(&Frame { scripts: &["/compare.js"], ..site.frame(Tab::Other, &title) }, content)).into_response()
}

/// The query names the pair, so that browsers keep no image of another run for it.
async fn image(State(site): State<Site>, Path((partition, row, which)): Path<(u32, usize, usize)>) -> Response {
    let rows = match site.0.tables.rows(partition).await {
        Ok(rows) => rows,
        Err(e) => return site.failed(e),
    };
    let image = rows.get(row).and_then(|row| row.images.as_ref()?.get(which));
    let Some(image) = image else { return site.not_found() };
    match site.0.images.read(image).await {
        Ok(image) => {
            ([(CONTENT_TYPE, image.kind), (CACHE_CONTROL, "private, max-age=86400, immutable")], image.bytes.clone()).into_response()
        }
        Err(e) => site.failed(e),
    }
}

async fn sign_in_form(State(site): State<Site>, headers: HeaderMap) -> Response {
    match site.0.access.check(&headers, false) {
        Ok(()) => home(None),
        Err(_) => html(pages::sign_in::content(false)).into_response(),
    }
}

async fn sign_in(State(site): State<Site>, Form(fields): Form<BTreeMap<String, String>>) -> Response {
    // Nobody closes the semaphore.
    let _guess = site.0.guesses.acquire().await;
    match fields.get("token").and_then(|token| site.0.access.sign_in(token)) {
        Some(cookie) => home(Some(cookie)),
        None if !site.0.access.needs_token() => home(None),
        None => {
            tokio::time::sleep(PATIENCE).await;
            (StatusCode::FORBIDDEN, html(pages::sign_in::content(true))).into_response()
        }
    }
}

async fn sign_out(State(site): State<Site>) -> Response {
    (StatusCode::SEE_OTHER, [(SET_COOKIE, site.0.access.sign_out()), (LOCATION, "/sign-in".to_string())]).into_response()
}

fn home(cookie: Option<String>) -> Response {
    let mut response = (StatusCode::SEE_OTHER, [(LOCATION, "/")]).into_response();
    if let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

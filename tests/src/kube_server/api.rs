//! The API over HTTP.

use super::world::{Change, World};
use super::{NAMESPACE, lock};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ip2p_coordinator::launcher::kubernetes::strict;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Shared = Arc<Mutex<World>>;

/// How often a quiet watch says where it is.
const BOOKMARK: Duration = Duration::from_secs(2);

pub(super) async fn serve(listener: tokio::net::TcpListener, world: Shared) {
    let app = axum::Router::new().fallback(answer).with_state(world);
    // It ends with the runtime.
    let _ = axum::serve(listener, app).await;
}

/// One request, taken apart.
struct Call {
    verb: &'static str,
    resource: String,
    name: Option<String>,
    query: BTreeMap<String, String>,
    content_type: String,
    body: Value,
}

async fn answer(State(world): State<Shared>, request: Request) -> Response {
    if request.uri().path() == "/version" {
        let minor = lock(&world).minor;
        return respond(
            StatusCode::OK,
            &json!({ "major": "1", "minor": format!("{minor}+"), "gitVersion": "v1", "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" }),
        );
    }
    let Some(call) = read(request).await else { return failure(404, "NotFound", "no such path") };
    if lock(&world).hung.contains(&(call.verb.to_string(), call.resource.clone())) {
        return std::future::pending().await;
    }
    let mut guard = lock(&world);
    *guard.calls.entry((call.verb.to_string(), call.resource.clone())).or_default() += 1;
    if guard.throttled > 0 {
        guard.throttled -= 1;
        return failure(429, "TooManyRequests", "slow down");
    }
    if guard.denied.contains(&(call.verb.to_string(), call.resource.clone())) {
        let message = format!(
            "{0} is forbidden: User \"nobody\" cannot {1} resource \"{0}\" in the namespace \"{NAMESPACE}\"",
            call.resource, call.verb
        );
        return failure(403, "Forbidden", &message);
    }
    match (call.verb, call.name.as_deref()) {
        ("list", _) => list(&guard, &call),
        ("watch", _) => {
            drop(guard);
            watch(world, call)
        }
        ("get", Some(name)) if call.resource == "pods/log" => match guard.logs.get(name) {
            Some(log) => tail(log, &call).into_response(),
            None => failure(404, "NotFound", "no log"),
        },
        ("get", Some(name)) => found(guard.get(&call.resource, name), name),
        ("create", _) => create(&mut guard, &call),
        ("update", Some(name)) => replace(&mut guard, &call, name),
        ("patch", Some(name)) => patch(&mut guard, &call, name),
        ("delete", Some(name)) => found(guard.delete(&call.resource, name).as_ref(), name),
        _ => failure(405, "MethodNotAllowed", "not here"),
    }
}

/// `/api/v1/namespaces/NS/RESOURCE[/NAME[/SUB]]`, or the same below `/apis/GROUP/VERSION`.
async fn read(request: Request) -> Option<Call> {
    let path = request.uri().path().to_string();
    let query = request.uri().query().unwrap_or_default();
    let query: BTreeMap<String, String> =
        query.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_string(), decode(v))).collect();
    let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_string();
    let mut parts = path.split('/').skip_while(|part| *part != "namespaces").skip(1);
    parts.next().filter(|namespace| *namespace == NAMESPACE)?;
    let (resource, name, sub) = (parts.next()?.to_string(), parts.next().map(str::to_string), parts.next());
    let watching = query.get("watch").is_some_and(|watch| watch == "true" || watch == "1");
    let verb = match (request.method(), &name) {
        (&Method::GET, None) if watching => "watch",
        (&Method::GET, None) => "list",
        (&Method::GET, Some(_)) => "get",
        (&Method::POST, None) => "create",
        (&Method::PUT, Some(_)) => "update",
        (&Method::PATCH, Some(_)) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        _ => return None,
    };
    let body: Bytes = axum::body::to_bytes(request.into_body(), 8 << 20).await.ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let resource = sub.map_or(resource.clone(), |sub| format!("{resource}/{sub}"));
    Some(Call { verb, resource, name, query, content_type, body })
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'%' => {
                let hex: String = [rest.next(), rest.next()].into_iter().flatten().map(char::from).collect();
                u8::from_str_radix(&hex, 16).unwrap_or(b'?')
            }
            b'+' => b' ',
            byte => byte,
        };
        bytes.push(decoded);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn respond(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    let details = if code == 429 { json!({ "retryAfterSeconds": 1 }) } else { json!({}) };
    json!({ "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, "details": details })
}

fn failure(code: u16, reason: &str, message: &str) -> Response {
    respond(StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status(code, reason, message))
}

fn found(object: Option<&Value>, name: &str) -> Response {
    match object {
        Some(object) => respond(StatusCode::OK, object),
        None => failure(404, "NotFound", &format!("\"{name}\" not found")),
    }
}

fn tail(log: &str, call: &Call) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let most = call.query.get("tailLines").and_then(|n| n.parse().ok()).unwrap_or(lines.len());
    lines[lines.len().saturating_sub(most)..].join("\n")
}

fn selected(object: &Value, call: &Call) -> bool {
    let labels = call.query.get("labelSelector").map(String::as_str).unwrap_or_default();
    let fields = call.query.get("fieldSelector").map(String::as_str).unwrap_or_default();
    let pairs = |text: &str| {
        text.split(',').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_string(), v.to_string())).collect::<Vec<_>>()
    };
    let label = |key: &str| object.pointer("/metadata/labels").and_then(|labels| labels.get(key)).and_then(Value::as_str);
    let field = |path: &str| object.pointer(&format!("/{}", path.replace('.', "/"))).and_then(Value::as_str);
    pairs(labels).iter().all(|(key, value)| label(key) == Some(value)) && pairs(fields).iter().all(|(key, value)| field(key) == Some(value))
}

/// Kind and API version of a resource.
fn kind(resource: &str) -> (&'static str, &'static str) {
    match resource {
        "jobs" => ("Job", "batch/v1"),
        "leases" => ("Lease", "coordination.k8s.io/v1"),
        "configmaps" => ("ConfigMap", "v1"),
        "events" => ("Event", "v1"),
        _ => ("Pod", "v1"),
    }
}

fn list(world: &World, call: &Call) -> Response {
    let items: Vec<&Value> = world.iter(&call.resource).map(|(_, object)| object).filter(|object| selected(object, call)).collect();
    let (kind, version) = kind(&call.resource);
    let metadata = json!({ "resourceVersion": world.version().to_string() });
    respond(StatusCode::OK, &json!({ "kind": format!("{kind}List"), "apiVersion": version, "metadata": metadata, "items": items }))
}

fn create(world: &mut World, call: &Call) -> Response {
    let name = call.body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_string();
    if world.get(&call.resource, &name).is_some() {
        return failure(409, "AlreadyExists", &format!("\"{name}\" already exists"));
    }
    store(world, call, &name, call.body.clone(), StatusCode::CREATED)
}

/// Checks what a server checks, and keeps it unless this is a rehearsal.
fn store(world: &mut World, call: &Call, name: &str, mut object: Value, code: StatusCode) -> Response {
    let (kind, version) = kind(&call.resource);
    object["kind"] = json!(kind);
    object["apiVersion"] = json!(version);
    if call.resource == "jobs"
        && let Err(problem) = strict::read::<k8s_openapi::api::batch::v1::Job>(&object)
    {
        return failure(422, "Invalid", &format!("Job \"{name}\" is invalid: {problem}"));
    }
    if let Some(policy) = world.policy.as_ref().filter(|_| call.resource == "jobs") {
        return failure(403, "Forbidden", &format!("admission webhook \"policy\" denied the request: {policy}"));
    }
    if call.query.contains_key("dryRun") {
        return respond(code, &object);
    }
    respond(code, &world.put(&call.resource, name, object))
}

fn replace(world: &mut World, call: &Call, name: &str) -> Response {
    let version = |object: &Value| object.pointer("/metadata/resourceVersion").cloned();
    match world.get(&call.resource, name) {
        None => failure(404, "NotFound", &format!("\"{name}\" not found")),
        Some(current) if version(&call.body).is_some_and(|seen| Some(seen) != version(current)) => {
            failure(409, "Conflict", "the object has been modified; please apply your changes to the latest version and try again")
        }
        Some(_) => store(world, call, name, call.body.clone(), StatusCode::OK),
    }
}

fn patch(world: &mut World, call: &Call, name: &str) -> Response {
    let applying = call.content_type.starts_with("application/apply-patch");
    match world.get(&call.resource, name).cloned() {
        None if applying => {
            let made = store(world, call, name, call.body.clone(), StatusCode::CREATED);
            let lost = call.resource == "jobs" && !call.query.contains_key("dryRun") && world.lost_answers > 0;
            world.lost_answers -= u32::from(lost);
            if lost { failure(409, "Conflict", "Apply failed with 1 conflict: conflict with \"kueue\": .spec.suspend") } else { made }
        }
        None => failure(404, "NotFound", &format!("\"{name}\" not found")),
        Some(mut object) => {
            merge(&mut object, &call.body);
            store(world, call, name, object, StatusCode::OK)
        }
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// A stream of changes, one a line, until its time is over or the server hangs up.
fn watch(world: Shared, call: Call) -> Response {
    let from = call.query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    let limit = call.query.get("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(300);
    let (changed, generation) = {
        let world = lock(&world);
        (world.changed.subscribe(), world.generation.subscribe())
    };
    let state = Watching {
        world,
        call,
        at: from,
        changed,
        generation,
        until: tokio::time::Instant::now() + Duration::from_secs(limit),
        over: false,
    };
    let lines = futures::stream::unfold(state, |mut state| async move {
        let lines = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), state))
    });
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], Body::from_stream(lines)).into_response()
}

struct Watching {
    world: Shared,
    call: Call,
    at: u64,
    changed: tokio::sync::watch::Receiver<u64>,
    generation: tokio::sync::watch::Receiver<u64>,
    until: tokio::time::Instant,
    over: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<String> {
        let first = *self.generation.borrow();
        loop {
            if self.over || self.generation.has_changed().unwrap_or(true) || *self.generation.borrow() != first {
                return None;
            }
            let lines = self.lines();
            if !lines.is_empty() {
                return Some(lines);
            }
            tokio::select! {
                _ = self.changed.changed() => {}
                _ = self.generation.changed() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
                () = tokio::time::sleep(BOOKMARK) => return Some(self.bookmark()),
            }
        }
    }

    fn lines(&mut self) -> String {
        let world = lock(&self.world);
        let Some(changes) = world.since(self.at, &self.call.resource) else {
            self.over = true;
            return line("ERROR", &status(410, "Expired", "too old resource version"));
        };
        self.at = world.version();
        let told = |change: &Change| selected(&change.object, &self.call).then(|| line(change.kind, &change.object));
        changes.iter().filter_map(told).collect()
    }

    fn bookmark(&self) -> String {
        let (kind, version) = kind(&self.call.resource);
        line(
            "BOOKMARK",
            &json!({ "kind": kind, "apiVersion": version, "metadata": { "resourceVersion": self.at.to_string(), "creationTimestamp": null }, "spec": { "containers": [], "template": { "spec": { "containers": [] } } } }),
        )
    }
}

fn line(kind: &str, object: &Value) -> String {
    json!({ "type": kind, "object": object }).to_string() + "\n"
}

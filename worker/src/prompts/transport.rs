//! HTTP to an OpenAI-compatible server: retries, waits, and what each failure means.
//!
//! async-openai gives the request types. The requests are sent from here, because its client keeps
//! retries, their number and `Retry-After` to itself, does not repeat a request whose answer was cut off,
//! and refuses answers of other servers over fields nobody asked for (64bit/async-openai#498).

use super::{BackendError, Usage};
use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::time::Duration;

/// The longest wait that a server may ask for; beyond it the work goes back to the scheduler.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// First and longest own wait between retries, before jitter, which at most doubles it.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A server that has just been started gets these further tries, about two seconds in all.
const PROBE_RETRIES: usize = 3;
const PROBE_PAUSE: Duration = Duration::from_millis(300);
/// One that accepts the connection and says nothing for so long is taken to be busy.
const PROBE_PATIENCE: Duration = Duration::from_secs(15);
/// Characters of a server's answer that an error quotes.
const QUOTED: usize = 300;
/// Bytes of the largest answer that is read: a thousand times what a caption needs.
const LARGEST_ANSWER: usize = 16 << 20;

/// A connection pool to one server.
pub(super) struct Transport {
    http: reqwest::Client,
    base: Url,
    key: Option<Key>,
    timeout: Duration,
    backoff: ExponentialBuilder,
}

/// An API key: it cannot be printed.
struct Key(String);

/// One failed request.
struct Failure {
    kind: Kind,
    message: String,
    /// How long the server asks to wait.
    wait: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Overload, a fault of the server or the connection: it may pass.
    Passing,
    /// A success whose body is not what the API promises: once is an accident, always is this request's.
    Garbled,
    Refused,
    Misconfigured,
}

impl Failure {
    fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into(), wait: None }
    }

    fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Passing | Kind::Garbled)
    }
}

impl Transport {
    /// `base_url` as in `https://api.openai.com/v1`; `timeout` spans one request from start to end.
    pub fn new(base_url: &str, key: Option<String>, timeout: Duration, retries: u32) -> Result<Self, BackendError> {
        let bad = |problem: String| BackendError::Misconfigured(format!("stages.prompts.openai.base_url: {problem}"));
        let mut base = Url::parse(base_url).map_err(|e| bad(format!("`{base_url}` is not a URL: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(bad(format!("`{}://` is not http:// or https://", base.scheme())));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(bad("it holds a user name or password; name the variable that holds the key in api_key_env".to_string()));
        }
        // So that joining a path adds to the last part of the address instead of replacing it.
        base.set_path(&format!("{}/", base.path().trim_end_matches('/')));
        crate::tls::install();
        let http = reqwest::Client::builder()
            .default_headers(headers(key.as_deref())?)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .build()
            .map_err(|e| BackendError::Misconfigured(format!("HTTP client: {e}")))?;
        let transport = Transport { http, base, key: key.map(Key), timeout, backoff: ExponentialBuilder::new() };
        Ok(transport.with_backoff(BACKOFF.0, BACKOFF.1, retries))
    }

    /// Replaces the waits between retries.
    pub fn with_backoff(mut self, first: Duration, longest: Duration, retries: u32) -> Self {
        self.backoff =
            ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest).with_max_times(retries as usize).with_jitter();
        self
    }

    /// Sends `body` to `path` below the base address, again after failures that may pass.
    ///
    /// `seed` decides the jitter of the waits.
    pub async fn post<B: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
        seed: u64,
        usage: &mut Usage,
    ) -> Result<A, BackendError> {
        // Straight to text: a `Value` would widen 0.7 as f32 to 0.699999988.
        let body = serde_json::to_vec(body).map_err(|e| BackendError::Refused(format!("the request cannot be written as JSON: {e}")))?;
        let body = Bytes::from(body);
        usage.requests += 1;
        let retries = usage.retries;
        let result = (|| self.send(path, &body))
            .retry(self.backoff.with_jitter_seed(seed))
            .when(Failure::may_pass)
            .adjust(|failure, own| match (failure.wait, own) {
                (Some(asked), Some(_)) if asked > LONGEST_WAIT => None,
                (Some(asked), Some(own)) => Some(asked.max(own)),
                (_, own) => own,
            })
            .notify(|failure, wait| {
                usage.requests += 1;
                usage.retries += 1;
                usage.waited += wait;
                tracing::warn!(wait_seconds = wait.as_secs_f64(), "{}; trying again", failure.message);
            })
            .await;
        result.map_err(|failure| verdict(failure, usage.retries - retries))
    }

    /// Asks for the list of models, which every server answers somehow: any answer but a refusal of the key will do.
    /// `key_env` names the variable of the key.
    ///
    /// Whoever is not there is taken for a wrong address: this is for the start, before a server has ever answered.
    pub async fn probe(&self, key_env: Option<&str>) -> Result<(), BackendError> {
        let url = self.base.join("models").map_err(|e| BackendError::Misconfigured(format!("{}models: {e}", self.base)))?;
        let ask = || self.http.get(url.clone()).timeout(PROBE_PATIENCE).send();
        let pauses = ExponentialBuilder::new().with_min_delay(PROBE_PAUSE).with_max_times(PROBE_RETRIES);
        match ask.retry(pauses).when(reqwest::Error::is_connect).await {
            Ok(answer) => self.key_is_taken(answer, key_env).await,
            Err(error) if error.is_connect() => {
                let advice = "check stages.prompts.openai.base_url, and that the server runs and can be reached from this machine";
                let problem = format!("no language model server at {}: {}; {advice}", self.base, self.describe(error));
                Err(BackendError::Misconfigured(problem))
            }
            // It is there, but busy or broken: the first real request will say what it is.
            Err(_) => Ok(()),
        }
    }

    async fn key_is_taken(&self, answer: reqwest::Response, key_env: Option<&str>) -> Result<(), BackendError> {
        let status = answer.status();
        if !matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Ok(());
        }
        let body = self.body(answer).await.unwrap_or_default();
        // A good key may lack the right to list models, and OpenAI says so in this word.
        if String::from_utf8_lossy(&body).contains("scope") {
            return Ok(());
        }
        let advice = match key_env {
            Some(name) => format!("check the key in the environment variable {name}"),
            None => "no key was sent: name the variable that holds it in stages.prompts.openai.api_key_env".to_string(),
        };
        let message = format!("{} answers HTTP {status}: {}; {advice}", self.base, said(&body));
        Err(BackendError::Misconfigured(self.without_key(&message)))
    }

    async fn send<A: DeserializeOwned>(&self, path: &str, body: &Bytes) -> Result<A, Failure> {
        let url = self.base.join(path).map_err(|e| Failure::new(Kind::Misconfigured, format!("{}{path}: {e}", self.base)))?;
        let result = self.exchange(url.clone(), body).await;
        result.map_err(|failure| Failure { message: self.without_key(&format!("{url}: {}", failure.message)), ..failure })
    }

    async fn exchange<A: DeserializeOwned>(&self, url: Url, body: &Bytes) -> Result<A, Failure> {
        let failed = |e| Failure::new(Kind::Passing, self.describe(e));
        let response = self.http.post(url).timeout(self.timeout).body(body.clone()).send().await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = self.body(response).await?;
        if !status.is_success() {
            return Err(refusal(status, &headers, &bytes));
        }
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::new(Kind::Garbled, format!("the answer is not what the API promises ({e}): {}", quote(&bytes))))
    }

    /// What the server sends, at most [`LARGEST_ANSWER`] bytes of it, whatever length it announces.
    async fn body(&self, mut response: reqwest::Response) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|e| Failure::new(Kind::Passing, self.describe(e)))? {
            if body.len() + piece.len() > LARGEST_ANSWER {
                let problem = format!("the answer is longer than {} MiB: is this a language model server?", LARGEST_ANSWER >> 20);
                return Err(Failure::new(Kind::Garbled, problem));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// The innermost cause of a failed connection, without the address, which the caller adds.
    fn describe(&self, error: reqwest::Error) -> String {
        if error.is_timeout() && !error.is_connect() {
            return format!("no complete answer within {} s", self.timeout.as_secs_f64());
        }
        let what = match error.is_connect() {
            true => "cannot connect",
            false => "the connection broke",
        };
        let causes = std::iter::successors(std::error::Error::source(&error), |e| e.source());
        match causes.last() {
            Some(cause) => format!("{what}: {cause}"),
            None => format!("{what}: {}", error.without_url()),
        }
    }

    /// A server may quote the key that it refuses.
    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(Key(key)) if !key.is_empty() => text.replace(key.as_str(), "[key]"),
            _ => text.to_string(),
        }
    }
}

fn headers(key: Option<&str>) -> Result<HeaderMap, BackendError> {
    let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    if let Some(key) = key {
        let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| BackendError::Misconfigured("the API key holds characters that a header cannot carry".to_string()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

/// What the caller of a failed request should do.
fn verdict(failure: Failure, retries: u64) -> BackendError {
    let tried = match retries {
        0 => String::new(),
        1 => " (after 1 retry)".to_string(),
        n => format!(" (after {n} retries)"),
    };
    let message = format!("{}{tried}", failure.message);
    match failure.kind {
        Kind::Passing => BackendError::Unavailable(message),
        Kind::Garbled | Kind::Refused => BackendError::Refused(message),
        Kind::Misconfigured => BackendError::Misconfigured(message),
    }
}

/// Reads an answer that is not a success.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Failure {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &json["error"];
    let message = said(body);
    let out_of_credit = ["code", "type"].iter().any(|key| error[key] == "insufficient_quota");
    let (kind, advice) = advise(status, out_of_credit);
    let mut failure = Failure::new(kind, format!("HTTP {status}: {message}{advice}"));
    failure.wait = retry_after(headers);
    failure
}

/// What an unsuccessful answer says, in the API's form or any other.
fn said(body: &[u8]) -> String {
    let json: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &json["error"];
    match error["message"].as_str().or(error.as_str()) {
        Some(message) => message.chars().take(QUOTED).collect(),
        None => quote(body),
    }
}

fn advise(status: StatusCode, out_of_credit: bool) -> (Kind, &'static str) {
    match status.as_u16() {
        429 if out_of_credit => (Kind::Misconfigured, ". The credit is used up: add credit, then run again"),
        402 => (Kind::Misconfigured, ". The credit is used up: add credit, then run again"),
        401 | 403 => (Kind::Misconfigured, ". Check the key in the variable that stages.prompts.openai.api_key_env names"),
        404 | 405 | 501 => (Kind::Misconfigured, ". Check stages.prompts.openai.base_url, api and model"),
        300..=399 => (Kind::Misconfigured, ". The server redirects: write its final address into stages.prompts.openai.base_url"),
        408 | 409 | 425 | 429 | 500.. => (Kind::Passing, ""),
        _ => (Kind::Refused, ""),
    }
}

/// `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3), or OpenAI's `retry-after-ms`.
///
/// A date counts from the answer's own `Date`, so that the clocks of the two machines need not agree.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let number = |text: &str| text.trim().parse::<f64>().ok();
    if let Some(milliseconds) = text("retry-after-ms").and_then(number) {
        return Duration::try_from_secs_f64(milliseconds / 1000.0).ok();
    }
    let value = text(RETRY_AFTER.as_str())?;
    if let Some(seconds) = number(value) {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let now = httpdate::parse_http_date(text(DATE.as_str())?).ok()?;
    Some(httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default())
}

/// The start of an answer, for a message.
fn quote(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { "no text".to_string() } else { format!("`{}`", text.trim()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(headers: &[(&'static str, &'static str)]) -> Option<Duration> {
        retry_after(&headers.iter().map(|&(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect())
    }

    #[test]
    fn retry_after_in_every_form() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", " 0.25")]), Some(Duration::from_millis(250)));
        assert_eq!(wait(&[("retry-after-ms", "1500"), ("retry-after", "9")]), Some(Duration::from_millis(1500)));
        assert_eq!(wait(&[date, ("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]), Some(Duration::from_secs(60)));
        assert_eq!(wait(&[date, ("retry-after", "Sunday, 06-Nov-94 08:49:47 GMT")]), Some(Duration::from_secs(10)));
        assert_eq!(wait(&[date, ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT")]), Some(Duration::ZERO), "a date in the past");
        assert_eq!(wait(&[("retry-after", "Sun, 06 Nov 1994 08:50:37 GMT")]), None, "no clock to compare with");
        for nonsense in ["-1", "nan", "inf", "1e300", "soon", ""] {
            assert_eq!(wait(&[("retry-after", nonsense)]), None, "{nonsense}");
        }
    }

    #[test]
    fn every_status_has_a_verdict() {
        let kind = |status: u16, body: &str| refusal(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes()).kind;
        for status in [408, 409, 429, 500, 502, 503, 504, 529] {
            assert_eq!(kind(status, "{}"), Kind::Passing, "{status}");
        }
        for status in [301, 307, 401, 402, 403, 404, 405, 501] {
            assert_eq!(kind(status, ""), Kind::Misconfigured, "{status}");
        }
        for status in [400, 413, 415, 422] {
            assert_eq!(kind(status, "[]"), Kind::Refused, "{status}");
        }
        for body in [r#"{"error":{"code":"insufficient_quota"}}"#, r#"{"error":{"type":"insufficient_quota","code":null}}"#] {
            assert_eq!(kind(429, body), Kind::Misconfigured, "{body}");
        }
    }

    #[test]
    fn messages_quote_the_server_whatever_it_sends() {
        let message = |body: &[u8]| refusal(StatusCode::BAD_REQUEST, &HeaderMap::new(), body).message;
        assert_eq!(message(br#"{"error":{"message":"too long"}}"#), "HTTP 400 Bad Request: too long");
        assert_eq!(message(br#"{"error":"too long"}"#), "HTTP 400 Bad Request: too long");
        assert_eq!(message(b"<h1>no\n</h1>"), "HTTP 400 Bad Request: `<h1>no </h1>`");
        assert_eq!(message(b" \n"), "HTTP 400 Bad Request: no text");
        assert!(message(&[0xff; 5000]).chars().count() < 400);
        assert!(message(format!(r#"{{"error":{{"message":"{}"}}}}"#, "long ".repeat(1000)).as_bytes()).chars().count() < 400);
    }

    #[test]
    fn bad_addresses_are_refused() {
        for (url, part) in
            [("localhost:8000", "not http"), ("", "not a URL"), ("ftp://x/v1", "ftp://"), ("https://me:secret@x/v1", "api_key_env")]
        {
            let Err(error) = Transport::new(url, None, Duration::from_secs(1), 0) else { panic!("{url}") };
            assert!(matches!(&error, BackendError::Misconfigured(m) if m.contains(part) && !m.contains("secret")), "{error}");
        }
    }
}

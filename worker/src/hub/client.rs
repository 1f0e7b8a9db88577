//! The hub's HTTP interface: what a repository holds, and its files.
//!
//! `GET /api/models/{repository}/revision/{revision}?blobs=true` lists files with sizes and checksums;
//! `GET /{repository}/resolve/{commit}/{file}` answers with the file or redirects to where it is kept.

use super::error::{Error, Result};
use super::reference::HubReference;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Response, StatusCode, Url};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest chain of redirects that is followed.
const REDIRECTS: usize = 8;

/// A revision of a repository: its commit and files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Listing {
    pub sha: String,
    pub siblings: Vec<Sibling>,
}

/// One file of a repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Sibling {
    pub rfilename: String,
    /// In bytes.
    pub size: Option<u64>,
    /// Large files are stored by their SHA-256.
    pub lfs: Option<Lfs>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lfs {
    pub sha256: String,
    pub size: u64,
}

/// A file on its way.
pub(super) struct Transfer {
    pub body: Response,
    /// True when the body goes on where the partial file ended.
    pub resumed: bool,
    /// SHA-256 that the hub's answer announced, in lower-case hex digits.
    pub sha256: Option<String>,
}

/// A connection to one hub.
pub(super) struct Client {
    http: reqwest::Client,
    endpoint: Url,
    /// Marked as sensitive, so that it is never printed; sent to the endpoint's own host only.
    authorization: Option<HeaderValue>,
}

impl Client {
    pub(super) fn new(endpoint: &str, token: Option<&str>) -> Result<Self> {
        crate::tls::install();
        let wrong = |problem: String| Error::Reference { reference: format!("HF_ENDPOINT={endpoint}"), problem };
        let url: Url = endpoint.trim_end_matches('/').parse().map_err(|e| wrong(format!("not a URL: {e}")))?;
        let bearer = |token: &str| {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| wrong("HF_TOKEN has characters that no token has".to_string()))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        };
        let authorization = token.filter(|token| !token.is_empty()).map(bearer).transpose()?;
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(15))
            .read_timeout(Duration::from_secs(60))
            .user_agent(concat!("ip2p/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| wrong(e.to_string()))?;
        Ok(Client { http, endpoint: url, authorization })
    }

    pub(super) fn endpoint(&self) -> &Url {
        &self.endpoint
    }

    /// The files of a revision.
    pub(super) async fn list(&self, reference: &HubReference) -> Result<Listing> {
        let url = self.url(reference, &format!("api/models/{}/revision/{}?blobs=true", reference.repository, reference.revision))?;
        let (answer, _) = self.get(reference, url, 0).await?;
        answer.json().await.map_err(|e| unreachable(reference, format!("its listing is not readable: {}", e.without_url())))
    }

    /// A file of a commit from byte `from` on.
    pub(super) async fn file(&self, reference: &HubReference, commit: &str, file: &str, from: u64) -> Result<Transfer> {
        let url = self.url(reference, &format!("{}/resolve/{commit}/{file}", reference.repository))?;
        let (body, sha256) = self.get(reference, url, from).await?;
        let resumed = from > 0 && body.status() == StatusCode::PARTIAL_CONTENT;
        Ok(Transfer { body, resumed, sha256 })
    }

    fn url(&self, reference: &HubReference, path: &str) -> Result<Url> {
        let text = format!("{}/{path}", self.endpoint.as_str().trim_end_matches('/'));
        text.parse().map_err(|e| Error::Reference { reference: reference.text.clone(), problem: format!("{text}: {e}") })
    }

    /// Follows redirects by hand: the checksum is in the first answer, and the token must not leave the hub's host.
    async fn get(&self, reference: &HubReference, mut url: Url, from: u64) -> Result<(Response, Option<String>)> {
        let mut sha256 = None;
        for _ in 0..REDIRECTS {
            let mut request = self.http.get(url.clone());
            let at_hub = same_host(&url, &self.endpoint);
            if let Some(value) = self.authorization.as_ref().filter(|_| at_hub) {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let answer = request.send().await.map_err(|e| self.not_reached(reference, e))?;
            // Where contents are kept, an etag may be any other hash.
            sha256 = sha256.or_else(|| announced_sha256(answer.headers()).filter(|_| at_hub));
            if !answer.status().is_redirection() {
                return check_status(reference, &url, answer, self.authorization.is_some()).map(|answer| (answer, sha256));
            }
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| unreachable(reference, format!("{} redirects nowhere", without_query(&url))))?;
        }
        Err(unreachable(reference, format!("more than {REDIRECTS} redirects")))
    }

    fn not_reached(&self, reference: &HubReference, error: reqwest::Error) -> Error {
        // The URL of a redirect is signed: it is left out of messages.
        let error = error.without_url();
        let mut problem = format!("cannot reach {}: {error}", self.endpoint);
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            problem = format!("{problem}: {inner}");
            cause = inner.source();
        }
        unreachable(reference, problem)
    }
}

fn unreachable(reference: &HubReference, problem: String) -> Error {
    Error::Unreachable { reference: reference.text.clone(), problem }
}

fn same_host(a: &Url, b: &Url) -> bool {
    (a.scheme(), a.host(), a.port_or_known_default()) == (b.scheme(), b.host(), b.port_or_known_default())
}

/// The part of a URL that holds no signature.
fn without_query(url: &Url) -> &str {
    url.as_str().split(['?', '#']).next().unwrap_or_default()
}

/// `x-linked-etag` (large files) or `etag` when it is a SHA-256; small files have their git hash there.
fn announced_sha256(headers: &HeaderMap) -> Option<String> {
    let hex = |name: &str| {
        let value = headers.get(name)?.to_str().ok()?.trim_start_matches("W/").trim_matches('"');
        (value.len() == 64 && value.bytes().all(|b| b.is_ascii_hexdigit())).then(|| value.to_ascii_lowercase())
    };
    hex("x-linked-etag").or_else(|| hex("etag"))
}

/// Says what an unsuccessful status means for the user.
fn check_status(reference: &HubReference, url: &Url, answer: Response, has_token: bool) -> Result<Response> {
    let (text, repository) = (reference.text.clone(), &reference.repository);
    let denied = |problem: String| Error::Denied { reference: text.clone(), problem };
    let file = without_query(url);
    Err(match answer.status() {
        status if status.is_success() => return Ok(answer),
        StatusCode::UNAUTHORIZED if has_token => denied("the hub does not accept the token in HF_TOKEN (401)".to_string()),
        StatusCode::UNAUTHORIZED => {
            denied(format!("{repository} does not exist, or is private or gated (401): check the name, or set HF_TOKEN"))
        }
        StatusCode::FORBIDDEN => {
            denied(format!("access to {repository} is restricted (403): accept its conditions on its page with the account of HF_TOKEN"))
        }
        StatusCode::NOT_FOUND => {
            let problem = format!("{file} does not exist (404): check owner, name, revision `{}` and path", reference.revision);
            Error::Missing { reference: text, problem }
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::RANGE_NOT_SATISFIABLE => {
            unreachable(reference, format!("{file} answers {status}"))
        }
        status => Error::Missing { reference: text, problem: format!("{file} answers {status}") },
    })
}

//! The page: a run seen in a browser, live beside its coordinator or from its store alone.
//!
//! What is shown comes from two places. A [`Snapshot`] is the run as it stands: of a coordinator at work the driver
//! publishes one each second ([`Screen`]), of a store alone [`stored`] reads one now and then. Everything about pairs is
//! read from committed tables when it is asked for ([`tables`]). Pages are functions of these values to HTML; they are
//! whole without script, and script renews parts of them with fragments that the server renders by the same functions.

mod access;
mod cache;
mod connections;
mod gallery;
mod history;
mod images;
mod live;
mod metrics;
mod pages;
mod partition;
mod quality;
mod screen;
mod server;
mod snapshot;
mod stored;
mod tables;
#[cfg(test)]
mod tests;

pub use access::Access;
pub use history::History;
pub use screen::{Screen, screen};
pub use server::{Site, serve};
pub use snapshot::Snapshot;
pub use stored::watch;

use std::time::{SystemTime, UNIX_EPOCH};

/// Where the page is unless the user says otherwise.
pub const DEFAULT_ADDRESS: &str = "127.0.0.1:8080";

/// Seconds since 1970.
fn unix_now() -> f64 {
    #[expect(clippy::disallowed_methods, reason = "people are told when something happened")]
    let now = SystemTime::now();
    unix(now)
}

fn unix(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

//! Real object stores that `tests/stores/serve.py` started for this process.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

/// URLs of real servers: `s3://bucket az://container`, reached as the environment says.
pub fn urls() -> Vec<String> {
    let urls = std::env::var("IP2P_TEST_STORES").unwrap_or_default();
    urls.split_whitespace().map(str::to_string).collect()
}

/// A name that no other test has, in this process or another.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("a clock").as_nanos();
    format!("test-{now:x}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Where the environment says that the server is: moved into `store_options`, so that a run works only if its
/// workers have them from the plan.
pub struct Described {
    pub options: String,
    pub moved: Vec<(&'static str, String)>,
}

impl Described {
    pub fn of(url: &str) -> Self {
        let [endpoint, more] = match url.split_once("://").map_or("", |(scheme, _)| scheme) {
            "s3" => ["AWS_ENDPOINT", "AWS_ALLOW_HTTP"],
            "az" => ["AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP"],
            _ => panic!("no options are known for {url}"),
        };
        let moved: Vec<_> = [endpoint, more].map(|name| (name, std::env::var(name).expect("the server's address"))).into();
        Described { options: format!("{{ endpoint: \"{}\", allow_http: true }}", moved[0].1), moved }
    }

    pub fn hidden(&self) -> Vec<&'static str> {
        self.moved.iter().map(|(name, _)| *name).collect()
    }
}

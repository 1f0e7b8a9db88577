//! The page in a real browser: Chromium, driven by the chromedriver that `IP2P_CHROMEDRIVER` names, as
//! `tests/browser/run.sh` does. Without it there is nothing to try, and each test says so.

mod browser;
mod pages;

use browser::Browser;
use ip2p_tests::{Pipeline, Running};

const PROGRAM: &str = env!("CARGO_BIN_EXE_ip2p-under-test");

/// A browser; `None`, with a line about it, where there is none.
async fn browser() -> Option<Browser> {
    let Ok(driver) = std::env::var("IP2P_CHROMEDRIVER") else {
        eprintln!("skipped: IP2P_CHROMEDRIVER is not set");
        return None;
    };
    Some(Browser::start(&driver).await)
}

/// A coordinator or `serve` with its page.
struct Shown {
    /// `http://127.0.0.1:PORT`, however the page is called elsewhere.
    url: String,
    process: Running,
}

impl Shown {
    /// `arguments` start a program that says where its page is.
    fn start(pipeline: &Pipeline, arguments: &[&str], token: Option<&str>) -> Self {
        let mut command = pipeline.command(arguments);
        token.map(|token| command.env("IP2P_TOKEN", token));
        let mut process = Running::start(command);
        process.wait_to_say("page: http://");
        let log = process.log();
        let said = log.lines().find_map(|line| line.split("page: http://").nth(1)).expect("the line about the page");
        let port: String = said.rsplit(':').next().into_iter().flat_map(str::chars).take_while(char::is_ascii_digit).collect();
        Shown { url: format!("http://127.0.0.1:{port}"), process }
    }

    /// The page of a finished run, from its store.
    fn serve(pipeline: &Pipeline) -> Self {
        Self::start(pipeline, &["serve", &pipeline.url(), "--web", "127.0.0.1:0"], None)
    }
}

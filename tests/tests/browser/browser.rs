//! A Chromium of one test, and what it must not do.

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything on a page.
const PATIENCE: Duration = Duration::from_secs(180);

pub struct Browser {
    pub client: Client,
    driver: Child,
    /// Open as long as it may say more.
    _said: Lines<BufReader<ChildStdout>>,
}

/// A command of chromedriver's own.
#[derive(Debug)]
struct Vendor(&'static str, Value);

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &url::Url, session: Option<&str>) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.0))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.1.to_string()))
    }
}

impl Browser {
    /// Starts chromedriver on a free port, and a browser with a window of 1280 x 900.
    pub async fn start(program: &str) -> Self {
        let mut driver = Command::new(program)
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts");
        let mut said = BufReader::new(driver.stdout.take().expect("its standard output")).lines();
        // It repeats the 0 that it was given before it says the port that it found.
        let port_in = |line: String| line.split("successfully on port ").nth(1).map(|rest| rest.trim_end_matches('.').to_string());
        let port = said.by_ref().map_while(Result::ok).find_map(port_in).expect("chromedriver says its port");
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--window-size=1280,900",
        ];
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object") };
        let client = ClientBuilder::new(HttpConnector::new()).capabilities(capabilities).connect(&format!("http://127.0.0.1:{port}")).await;
        Browser { client: client.expect("a browser"), driver, _said: said }
    }

    pub async fn open(&self, url: &str) {
        self.client.goto(url).await.expect("the page opens");
    }

    /// The value of a JavaScript expression on the page.
    pub async fn value(&self, expression: &str) -> Value {
        self.client.execute(&format!("return {expression}"), Vec::new()).await.expect(expression)
    }

    /// Text of the first element that fits.
    pub async fn text(&self, selector: &str) -> String {
        self.client.find(Locator::Css(selector)).await.expect(selector).text().await.expect(selector)
    }

    /// Waits until an expression is true on the page.
    pub async fn wait(&self, expression: &str) {
        let started = Instant::now();
        while self.value(expression).await != Value::Bool(true) {
            assert!(started.elapsed() < PATIENCE, "never true: {expression}\n{}", self.text("body").await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn vendor(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Vendor(path, body)).await.expect(path)
    }

    /// Looks as a phone would: narrow, with a finger.
    pub async fn become_a_phone(&self) {
        let parameters = json!({ "width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": true });
        self.vendor("goog/cdp/execute", json!({ "cmd": "Emulation.setDeviceMetricsOverride", "params": parameters })).await;
    }

    /// Light or dark.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.vendor("goog/cdp/execute", json!({ "cmd": "Emulation.setEmulatedMedia", "params": { "features": features } })).await;
    }

    /// Serious faults that axe-core finds on the page, as `rule: element`.
    pub async fn accessibility_faults(&self, axe: &str) -> Vec<String> {
        self.client.execute(axe, Vec::new()).await.expect("axe-core loads");
        let found = self.client.execute_async("const done = arguments[0]; axe.run().then(done)", Vec::new()).await.expect("axe-core runs");
        let serious = |fault: &&Value| matches!(fault["impact"].as_str(), Some("serious" | "critical"));
        let words = |fault: &Value| format!("{}: {}", fault["id"], fault["nodes"][0]["html"]);
        found["violations"].as_array().into_iter().flatten().filter(serious).map(words).collect()
    }

    /// Ends the browser. Panics if the console saw an error, or anything but `site` was asked for anything.
    pub async fn end(mut self, site: &str) {
        let log = self.vendor("se/log", json!({ "type": "browser" })).await;
        let errors: Vec<&Value> = log.as_array().into_iter().flatten().filter(|entry| entry["level"] == "SEVERE").collect();
        assert!(errors.is_empty(), "errors in the console: {errors:?}");
        let log = self.vendor("se/log", json!({ "type": "performance" })).await;
        for entry in log.as_array().into_iter().flatten() {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap_or_default()).unwrap_or_default();
            let sent = &message["message"];
            if sent["method"] == "Network.requestWillBeSent" {
                let url = sent["params"]["request"]["url"].as_str().unwrap_or_default();
                assert!(url.starts_with(site) || url.starts_with("data:") || url == "about:blank", "the page asked for {url}");
            }
        }
        let client = self.client.clone();
        client.close().await.expect("the browser ends");
        self.stop();
    }

    fn stop(&mut self) {
        // It may have ended by itself.
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.stop();
    }
}

//! What a person sees and does.

use super::{PROGRAM, Shown, browser};
use fantoccini::Locator;
use fantoccini::actions::{InputSource, MOUSE_BUTTON_LEFT, MouseActions, PointerAction};
use ip2p_tests::Pipeline;
use serde_json::json;
use std::sync::LazyLock;
use std::time::Duration;

/// A small run that is complete. Whoever only looks shares it.
fn finished() -> &'static Pipeline {
    static FINISHED: LazyLock<Pipeline> = LazyLock::new(|| {
        let pipeline = Pipeline::new(PROGRAM);
        pipeline.run_expecting(0, &[]);
        pipeline
    });
    &FINISHED
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_run_is_seen_to_progress() {
    let Some(browser) = browser().await else { return };
    let pipeline = Pipeline::new(PROGRAM);
    let mut shown = Shown::start(&pipeline, &["run", "pipeline.yaml", "--web", "127.0.0.1:0"], None);
    browser.open(&format!("{}/?stage=filter", shown.url)).await;
    // The page was opened before anything was committed; nobody opens it again.
    browser.wait("document.querySelector('#state').textContent.includes('At work with 2 workers')").await;
    browser.wait("Number(document.querySelector('.grid-wrap').dataset.drawn) === 3").await;
    browser.wait("document.querySelectorAll('.stage .tick').length >= 3").await;
    browser.wait("/(pairs|filter|index|shards) \\d/.test(document.querySelector('#events').textContent)").await;
    browser
        .wait("document.querySelector('#state').textContent.includes('Complete') || !document.querySelector('#connection').hidden")
        .await;
    assert_eq!(shown.process.wait(), Some(0));
    // The end of the coordinator is told, and makes an error of the connection in the console: that of no other kind.
    browser.wait("document.querySelector('#connection').textContent.includes('serve')").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gallery_s_slider_shows_more_or_less_of_the_picture_before() {
    let Some(browser) = browser().await else { return };
    let pipeline = finished();
    let shown = Shown::serve(pipeline);
    browser.open(&format!("{}/gallery", shown.url)).await;
    browser.wait("[...document.images].slice(0, 2).every((image) => image.complete && image.naturalWidth > 0)").await;
    let at = "document.querySelector('.compare').style.getPropertyValue('--at')";
    assert_eq!(browser.value(at).await, "50%");
    let slider = browser.client.find(Locator::Css(".compare input")).await.unwrap();
    slider.send_keys("\u{E014}\u{E014}").await.unwrap();
    assert_eq!(browser.value(at).await, "52%", "arrow keys move it");
    let clip = browser.value("getComputedStyle(document.querySelector('.compare img:nth-child(2)')).clipPath").await;
    assert!(clip.as_str().unwrap().contains("52%"), "{clip}");
    // From a card to where the pair comes from.
    browser.client.find(Locator::Css("article.pair h2 a")).await.unwrap().click().await.unwrap();
    browser.wait("document.querySelector('.command')?.textContent.includes('--draw')").await;
    browser.end(&shown.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thresholds_that_are_dragged_count_what_the_filter_then_keeps() {
    let Some(browser) = browser().await else { return };
    // It is run again, so it is nobody else's.
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.run_expecting(0, &[]);
    let shown = Shown::serve(&pipeline);
    browser.open(&format!("{}/quality", shown.url)).await;
    browser.wait("'ready' in document.querySelector('#thresholds').dataset").await;
    let before = browser.text("#answer").await;
    let grip = "document.querySelector('.grip.image').getBoundingClientRect()";
    let (x, y) = (browser.value(&format!("{grip}.x + {grip}.width / 2")).await, browser.value(&format!("{grip}.y + 30")).await);
    let to = |x: f64| PointerAction::MoveTo { duration: Some(Duration::from_millis(50)), x: x as i64, y: y.as_f64().unwrap() as i64 };
    let x = x.as_f64().unwrap();
    let drag = MouseActions::new("mouse".to_string())
        .then(to(x))
        .then(PointerAction::Down { button: MOUSE_BUTTON_LEFT })
        .then(to(x + 60.0))
        .then(to(x + 180.0))
        .then(PointerAction::Up { button: MOUSE_BUTTON_LEFT });
    browser.client.perform_actions(drag).await.unwrap();
    let after = browser.text("#answer").await;
    assert_ne!(before, after, "the count follows the line");
    let threshold = browser.value("document.querySelector('#image').value").await;
    let threshold = threshold.as_str().unwrap().to_string();
    // Without script the server counts the same.
    let url = format!("{}/quality?image={threshold}", shown.url);
    browser.open(&url).await;
    assert_eq!(browser.text("#answer").await, after);
    pipeline.run_expecting(0, &[&format!("stages.filter.clip_image={threshold}")]);
    let summary: serde_json::Value = serde_json::from_slice(&pipeline.object("summary.json")).unwrap();
    let filter = summary["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "filter").unwrap();
    assert!(after.starts_with(&format!("{} pairs of ", filter["counts"]["output"])), "{after}: {}", filter["counts"]);
    browser.end(&shown.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_another_address_one_signs_in() {
    let Some(browser) = browser().await else { return };
    let pipeline = finished();
    let refused = pipeline.call(&["serve", &pipeline.url(), "--web", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("set IP2P_TOKEN"));
    let shown = Shown::start(pipeline, &["serve", &pipeline.url(), "--web", "0.0.0.0:0"], Some("open-sesame"));
    browser.open(&format!("{}/gallery", shown.url)).await;
    let sign_in = async |token: &str| {
        let field = browser.client.find(Locator::Css("#token")).await.unwrap();
        field.send_keys(token).await.unwrap();
        browser.client.find(Locator::Css("button")).await.unwrap().click().await.unwrap();
    };
    sign_in("wrong").await;
    browser.wait("document.body.textContent.includes('not the run')").await;
    sign_in("open-sesame").await;
    browser.wait("location.pathname === '/' && document.querySelector('#state') !== null").await;
    assert_eq!(browser.value("document.cookie").await, "", "no script can read the cookie");
    let cookie = browser.client.get_all_cookies().await.unwrap().remove(0);
    let attributes = cookie.to_string();
    assert!(attributes.contains("HttpOnly") && attributes.contains("SameSite=Strict"), "{attributes}");
    assert!(!cookie.value().contains("open-sesame"));
    browser.client.find(Locator::Css(".top form button")).await.unwrap().click().await.unwrap();
    browser.wait("location.pathname === '/sign-in'").await;
    browser.open(&format!("{}/workers", shown.url)).await;
    assert!(browser.client.current_url().await.unwrap().path() == "/sign-in");
}

/// Triplets as an enemy, or the internet, would write them.
fn hostile() -> String {
    let long = "long ".repeat(20_000);
    let texts = [
        "</title><script>document.title = 'taken'</script>",
        "<img src=x onerror=\"document.title='taken'\">",
        "\"><svg onload=document.title='taken'>",
        "{{7*7}} ${7*7} <%= 7*7 %> &lt;b&gt; 'quoted'",
        "صورة قطة \u{202e}cba\u{202c} תמונה",
        "👩‍👩‍👧‍👦 🏳️‍🌈 emoji \u{0}\u{7}",
        long.as_str(),
    ];
    let line = |text: &str| json!({ "caption": format!("a red circle {text}"), "edit": format!("make it blue {text}"), "output": format!("a blue circle {text}") });
    texts.iter().map(|text| format!("{}\n", line(text))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_captions_stay_texts() {
    let Some(browser) = browser().await else { return };
    let pipeline = Pipeline::new(PROGRAM);
    pipeline.write("captions.jsonl", &hostile());
    let all = ["stages.prompts.backend=file", "stages.filter.clip_direction=-1.0", "stages.filter.clip_image=-1.0"];
    pipeline.run_expecting(0, &all);
    let shown = Shown::serve(&pipeline);
    for path in ["/", "/gallery", "/gallery?text=%3Cscript%3E", "/quality", "/problems", "/pair/0/0", "/pair/0/4", "/pair/1/0"] {
        browser.open(&format!("{}{path}", shown.url)).await;
        assert_ne!(browser.client.title().await.unwrap(), "taken", "{path}");
        assert_eq!(browser.value("document.querySelectorAll('script:not([src]), [onerror], [onload]').length").await, 0, "{path}");
        assert_eq!(browser.value("document.documentElement.scrollWidth <= innerWidth").await, true, "{path} is wider than the window");
    }
    browser.open(&format!("{}/gallery", shown.url)).await;
    assert!(browser.text(".gallery").await.contains("<script>document.title"), "the text is there to be read");
    browser.end(&shown.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_partitions_are_drawn_and_each_tells_of_itself() {
    let Some(browser) = browser().await else { return };
    let pipeline = Pipeline::new(PROGRAM);
    let captions: String = (0..10_000).map(|n| format!("{{\"caption\": \"a red circle, number {n}\"}}\n")).collect();
    pipeline.write("captions.jsonl", &captions);
    let arguments = [
        "run",
        "pipeline.yaml",
        "--web",
        "127.0.0.1:0",
        "--set",
        "partition.records=1",
        "--set",
        "run.launcher=external",
        "--set",
        "run.listen=127.0.0.1:0",
    ];
    let shown = Shown::start(&pipeline, &arguments, Some("s3cret"));
    browser.open(&format!("{}/?stage=prompts", shown.url)).await;
    browser.wait("Number(document.querySelector('.grid-wrap').dataset.drawn) === 10000").await;
    assert!(browser.text("#states").await.contains("10,000"));
    let canvas = browser.client.find(Locator::Css("#grid")).await.unwrap();
    canvas.send_keys("\u{E010}").await.unwrap();
    browser.wait("document.querySelector('#tip').textContent.startsWith('prompts 9,999')").await;
    canvas.send_keys("\u{E007}").await.unwrap();
    browser.wait("document.querySelector('h1').textContent === 'prompts 9,999'").await;
    browser.end(&shown.url).await;
}

const VIEWS: [&str; 7] = ["/", "/workers", "/gallery", "/quality", "/problems", "/pair/0/0", "/partition/pairs/0"];

#[tokio::test(flavor = "multi_thread")]
async fn every_view_fits_a_phone() {
    let Some(browser) = browser().await else { return };
    let pipeline = finished();
    let shown = Shown::serve(pipeline);
    browser.become_a_phone().await;
    for path in VIEWS {
        browser.open(&format!("{}{path}", shown.url)).await;
        let width = browser.value("document.documentElement.scrollWidth").await;
        assert!(width.as_u64().unwrap() <= 390, "{path} is {width} pixels wide");
    }
    browser.end(&shown.url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn axe_finds_no_serious_fault() {
    let Some(browser) = browser().await else { return };
    let axe = std::fs::read_to_string(std::env::var("IP2P_AXE").expect("IP2P_AXE names axe.min.js")).expect("axe.min.js");
    let pipeline = finished();
    let shown = Shown::serve(pipeline);
    let mut faults = Vec::new();
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        for path in VIEWS {
            browser.open(&format!("{}{path}", shown.url)).await;
            faults.extend(browser.accessibility_faults(&axe).await.into_iter().map(|fault| format!("{path} ({scheme}): {fault}")));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    browser.end(&shown.url).await;
}

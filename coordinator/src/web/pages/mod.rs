//! The pages: values in, HTML out.

pub mod gallery;
pub mod pair;
pub mod partition;
pub mod problems;
pub mod quality;
pub mod run;
pub mod sign_in;
pub mod workers;

use crate::text::duration;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// A tab of the navigation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tab {
    Run,
    Workers,
    Gallery,
    Quality,
    Problems,
    /// A page that none of them leads to.
    Other,
}

const TABS: [(Tab, &str, &str); 5] = [
    (Tab::Run, "/", "Run"),
    (Tab::Workers, "/workers", "Workers"),
    (Tab::Gallery, "/gallery", "Gallery"),
    (Tab::Quality, "/quality", "Quality"),
    (Tab::Problems, "/problems", "Problems"),
];

/// What surrounds a page.
pub struct Frame<'a> {
    pub run: &'a str,
    pub tab: Tab,
    pub title: &'a str,
    /// Path of the events that renew parts of the page.
    pub live: Option<String>,
    /// Scripts besides the one for all pages.
    pub scripts: &'a [&'static str],
    /// There is something to sign out of.
    pub signed_in: bool,
}

/// A whole document.
pub fn document(frame: &Frame<'_>, content: Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(&format!("{} · {}", frame.title, frame.run), frame.scripts))
            body data-live=[frame.live.as_ref()] {
                a.skip href="#content" { "Skip to the content" }
                div.top {
                    div.bar {
                        a.brand href="/" { (icon()) span { (frame.run) } }
                        nav aria-label="Pages" {
                            @for (tab, path, name) in TABS {
                                a href=(path) aria-current=[(tab == frame.tab).then_some("page")] { (name) }
                            }
                        }
                        @if frame.signed_in {
                            form method="post" action="/sign-out" { button.quiet type="submit" { "Sign out" } }
                        }
                    }
                }
                p #connection role="status" hidden {}
                main #content tabindex="-1" { (content) }
            }
        }
    }
}

pub fn head(title: &str, scripts: &[&str]) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) }
            link rel="stylesheet" href="/style.css";
            link rel="icon" href="/icon.svg" type="image/svg+xml";
            script src="/page.js" defer {}
            @for script in scripts { script src=(script) defer {} }
        }
    }
}

fn icon() -> Markup {
    PreEscaped(include_str!("../assets/icon.svg").trim().replacen("<svg ", "<svg aria-hidden=\"true\" ", 1))
}

/// A page that says what is wrong.
pub fn problem(frame: &Frame<'_>, message: &str) -> Markup {
    document(frame, html! { header { h1 { (frame.title) } } section.panel { p { (message) } p { a href="/" { "Back to the run" } } } })
}

/// How long ago, in words.
pub fn ago(at: f64, now: f64) -> String {
    if at <= 0.0 { "before this coordinator".to_string() } else { format!("{} ago", duration((now - at).max(0.0))) }
}

/// A number of a page, with what it counts and a word more.
pub fn card(value: &str, name: &str, note: &str) -> Markup {
    html! { div.card { b { (value) } span { (name) } @if !note.is_empty() { small { (note) } } } }
}

/// The link to the page of a partition.
pub fn partition_link(stage: ip2p_pipeline::layout::Stage, partition: u32) -> Markup {
    html! { a href={ "/partition/" (stage) "/" (partition) } { (stage) " " (partition) } }
}

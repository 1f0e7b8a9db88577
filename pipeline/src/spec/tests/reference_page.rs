//! `docs/pipeline-yaml.md` is written from the schema; set `IP2P_BLESS=1` to write it again.

use super::super::*;
use std::path::PathBuf;

const BEGIN: &str = "<!-- The table is written by a test from the schema: IP2P_BLESS=1 cargo test -p ip2p-pipeline reference_page -->\n";

fn row(key: &KeyDoc) -> String {
    let default = match key.presence {
        Presence::Required => "required".to_string(),
        Presence::Optional | Presence::Section => String::new(),
        Presence::Default(yaml) => format!("`{yaml}`"),
    };
    format!("| `{}` | {} | {default} | {} |\n", key.path, key.expected, key.doc)
}

#[test]
fn the_reference_page_lists_exactly_the_schema() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/pipeline-yaml.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (introduction, table) = page.split_once(BEGIN).unwrap();
    let rows: String = reference().iter().map(row).collect();
    let written = format!("| key | value | default | meaning |\n|---|---|---|---|\n{rows}");
    if std::env::var_os("IP2P_BLESS").is_some() {
        std::fs::write(&path, format!("{introduction}{BEGIN}{written}")).unwrap();
    } else {
        assert_eq!(table, written, "docs/pipeline-yaml.md is behind the schema: run this test with IP2P_BLESS=1");
    }
}

#[test]
fn every_key_is_described_once() {
    let keys = reference();
    let mut paths: Vec<&str> = keys.iter().map(|key| key.path.as_str()).collect();
    paths.sort_unstable();
    paths.dedup();
    assert_eq!(paths.len(), keys.len());
    for key in &keys {
        assert!(key.doc.ends_with('.') && !key.doc.contains('|') && !key.expected.contains('|'), "{key:?}");
    }
}

//! What is accepted, what is refused and with which words, and that nothing makes the parser fall over.

mod accepted;
mod hostile;
mod on_disk;
mod reference_page;
mod refused;

use super::{Diagnostics, Spec, Unchecked};

/// The shortest valid file: everything else is a default.
const SHORTEST: &str = "\
version: 1
name: shortest
store: file://./out
corpus:
  path: captions.jsonl
models:
  diffusion: models/sd
  clip: models/clip
  llm: models/llm
";

fn parse(text: &str) -> Result<Spec, Diagnostics> {
    parse_with(text, &[])
}

fn parse_with(text: &str, overrides: &[&str]) -> Result<Spec, Diagnostics> {
    let overrides: Vec<String> = overrides.iter().map(|argument| argument.to_string()).collect();
    Spec::parse(text, "p.yaml", &overrides, &Unchecked)
}

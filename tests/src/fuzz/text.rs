//! Readers of text: the pipeline file, completions, captions, manifests.

use ip2p_pipeline::commit;
use ip2p_pipeline::completion::{self, Style};
use ip2p_pipeline::corpus::CorpusManifest;
use ip2p_pipeline::layout::Stage;
use ip2p_pipeline::manifest::{ChunkManifest, PartitionManifest};
use ip2p_pipeline::plan::Plan;
use ip2p_pipeline::spec::{Spec, Unchecked};
use ip2p_worker::models::tokenizer::{ClipTokenizer, Dialect};
use std::sync::OnceLock;

/// Lines that begin with `--set ` are arguments of that name.
pub fn spec(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (arguments, lines): (Vec<&str>, Vec<&str>) = text.split('\n').partition(|line| line.starts_with("--set "));
    let arguments: Vec<String> = arguments.iter().map(|line| line["--set ".len()..].to_string()).collect();
    match Spec::parse(&lines.join("\n"), "p.yaml", &arguments, &Unchecked) {
        Ok(spec) => {
            let json = serde_json::to_string(&spec).expect("a spec is JSON");
            assert_eq!(serde_json::from_str::<Spec>(&json).expect("its JSON is a spec"), spec);
        }
        Err(diagnostics) => assert!(!diagnostics.to_string().is_empty()),
    }
}

pub fn completion(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for style in [Style::Delimited, Style::Json] {
        if let Ok(edit) = style.parse(&text) {
            completion::is_empty(&edit);
            completion::same_text("A cat.", &edit.output);
        }
    }
}

pub fn caption_tokens(data: &[u8]) {
    static TOKENIZER: OnceLock<ClipTokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| ClipTokenizer::built_in().expect("the vocabulary"));
    let text = String::from_utf8_lossy(data);
    for dialect in [Dialect::OpenAi, Dialect::StableDiffusion] {
        let tokens = tokenizer.encode(&text, dialect, 77).expect("any text has tokens");
        assert_eq!(tokens.ids.len(), 77);
    }
}

/// JSON of the store: manifests of chunks, partitions and corpora, and plans.
pub fn manifest(data: &[u8]) {
    if let Ok(chunk) = commit::decode::<ChunkManifest>("chunk", data) {
        chunk.counts.balanced();
    }
    if let Ok(partition) = commit::decode::<PartitionManifest>("partition", data) {
        partition.counts().balanced();
        partition.figures();
        partition.seconds();
    }
    if let Ok(corpus) = commit::decode::<CorpusManifest>("corpus", data) {
        corpus.report.skipped_total();
    }
    if let Ok(plan) = commit::decode::<Plan>("plan", data) {
        plan.fingerprint();
        let _ = Stage::RUN.map(|stage| plan.dir(stage).root());
        // A plan of more partitions than can be counted is refused in words.
        let _ = plan.partitioning.partitions();
        let _ = [0, 1, u32::MAX].map(|partition| plan.partitioning.range(partition));
    }
}

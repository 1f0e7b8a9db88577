//! Specs and plans for tests, with the bundled tiny models.

use ip2p_pipeline::ids::Fingerprint;
use ip2p_pipeline::layout::{Stage, StageDir};
use ip2p_pipeline::plan::{ModelFingerprints, Partitioning, Plan};
use ip2p_pipeline::spec::Spec;
use std::path::Path;

/// A pipeline whose file is written into `folder`.
pub(crate) fn spec(folder: &Path) -> Spec {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let models = repository.join("models/tiny");
    let models = models.display();
    let text = format!(
        "version: 1\nname: small\nstore: file://./out\ncorpus: {{ path: {models}/captions.jsonl }}\n\
         models: {{ diffusion: {models}/diffusion, clip: {models}/clip, llm: {models}/llm }}\n\
         stages: {{ pairs: {{ samples: 2, steps: 2, batch: 2, resolution: 64 }}, filter: {{ keep: 1 }} }}\n\
         run: {{ device: cpu, chunk: 0s }}\n"
    );
    let file = tempfile::NamedTempFile::new_in(folder).unwrap();
    std::fs::write(file.path(), text).unwrap();
    Spec::load(file.path(), &[]).unwrap()
}

/// A plan of one partition.
pub(crate) fn plan(folder: &Path) -> Plan {
    let any = Fingerprint::of(&["any"]);
    let models = ModelFingerprints { diffusion: any, vae: None, clip: any, llm: Some(any) };
    let corpus = StageDir { stage: Stage::Corpus, fingerprint: any };
    Plan::new(spec(folder), corpus, any, models, Partitioning { records: 8, partition_records: 8 })
}

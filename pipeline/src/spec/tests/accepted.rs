use super::super::*;
use super::{SHORTEST, parse, parse_with};
use std::path::Path;

#[test]
fn defaults_are_the_originals() {
    let spec = parse(SHORTEST).unwrap();
    let pairs = &spec.stages.pairs;
    assert_eq!((pairs.samples, pairs.steps, pairs.resolution), (100, 100, 512));
    assert_eq!(pairs.sampler, Sampler::EulerAncestral);
    assert_eq!((pairs.p2p, pairs.guidance), (Range { min: 0.1, max: 0.9 }, Range { min: 7.5, max: 15.0 }));
    assert_eq!(pairs.image, ImageFormat::Jpeg { quality: 100 });
    let filter = &spec.stages.filter;
    assert_eq!((filter.clip_text, filter.clip_direction, filter.clip_image, filter.keep), (0.2, 0.2, 0.7, 4));
    let prompts = &spec.stages.prompts;
    assert_eq!((prompts.temperature, prompts.max_tokens, prompts.frequency_penalty, prompts.attempts), (0.7, 256, 0.1, 4));
    assert_eq!(prompts.backend, PromptBackend::Local);
    assert_eq!(spec.run.retry.backoff_max, Duration::from_secs(60));
    assert_eq!((spec.run.max_quarantined, spec.run.min_kept), (0.01, 0.01));
    assert_eq!(spec.stages.shards.shard_bytes, 500_000_000);
}

#[test]
fn every_key_reaches_the_spec() {
    let text = r#"
version: 1
name: all-keys_1.0
seed: 18446744073709551615
store: s3://bucket/prefix
store_options: { endpoint: "http://127.0.0.1:9000", region: here, path_style: false, allow_http: true, deadline: 30s }
corpus: { path: "s3://bucket/*.csv.gz", caption_column: TEXT, url_column: URL, limit: 10 }
partition: { records: 7 }
models: { diffusion: hf://a/b@v1.5/unet?variant=fp16, vae: gs://b/vae, clip: file:///models/clip, llm: llm.gguf }
stages:
  prompts:
    backend: openai
    per_caption: 2
    temperature: 0
    top_p: 0.5
    max_tokens: 64
    frequency_penalty: -1
    attempts: 5
    openai: { base_url: "http://[::1]:8080/v1", model: m, api: completions, api_key_env: MY_KEY, concurrency: 3, timeout: 1m 30s, retries: 0, moderation: omni }
  pairs: { samples: 9, steps: 25, sampler: dpmpp_2m, p2p: [0, 1], guidance: [3, 3], resolution: 768, batch: 2, dtype: bf16, fuse: false, keep_rejected: true, image: jpeg, quality: 90 }
  filter: { clip_text: -1, clip_direction: 0, clip_image: 1, keep: 9 }
  index: {}
  shards: { formats: [original], split: { train: 1, val: 0, test: 0 }, shard_bytes: 64MiB, columns: diffusers }
run: { launcher: external, workers: 3, threads: 2, device: cuda, retry: { attempts: 9, backoff: 500ms..2m }, max_quarantined: 0.5%, min_kept: 2%, lease: 5s, chunk: 2m, listen: "0.0.0.0:7070", tls: { cert: c.pem, key: k.pem } }
"#;
    let spec = parse(text).unwrap();
    assert_eq!((spec.name.as_str(), spec.seed, spec.store.as_str()), ("all-keys_1.0", u64::MAX, "s3://bucket/prefix"));
    let options = crate::store::StoreOptions {
        endpoint: Some("http://127.0.0.1:9000".to_string()),
        region: Some("here".to_string()),
        path_style: Some(false),
        allow_http: true,
        deadline: Duration::from_secs(30),
    };
    assert_eq!(spec.store_options, options);
    let column = |name: &str| Some(name.to_string());
    let corpus =
        Corpus { path: "s3://bucket/*.csv.gz".to_string(), caption_column: column("TEXT"), url_column: column("URL"), limit: Some(10) };
    assert_eq!(spec.corpus, corpus);
    assert_eq!(spec.partition.records, 7);
    let models = &spec.models;
    assert_eq!((models.diffusion.as_str(), models.clip.as_str()), ("hf://a/b@v1.5/unet?variant=fp16", "file:///models/clip"));
    assert_eq!((models.vae.as_deref(), models.llm.as_deref()), (Some("gs://b/vae"), Some("llm.gguf")));
    let server = OpenAi {
        base_url: "http://[::1]:8080/v1".to_string(),
        model: "m".to_string(),
        api: OpenAiApi::Completions,
        api_key_env: Some("MY_KEY".to_string()),
        concurrency: 3,
        timeout: Duration::from_secs(90),
        retries: 0,
        moderation: Some("omni".to_string()),
    };
    let prompts = Prompts {
        backend: PromptBackend::OpenAi(server),
        per_caption: 2,
        temperature: 0.0,
        top_p: 0.5,
        max_tokens: 64,
        frequency_penalty: -1.0,
        attempts: 5,
    };
    assert_eq!(spec.stages.prompts, prompts);
    let pairs = Pairs {
        samples: 9,
        steps: 25,
        sampler: Sampler::Dpmpp2m,
        p2p: Range { min: 0.0, max: 1.0 },
        guidance: Range { min: 3.0, max: 3.0 },
        resolution: 768,
        batch: 2,
        dtype: Dtype::Bf16,
        fuse: false,
        keep_rejected: true,
        image: ImageFormat::Jpeg { quality: 90 },
    };
    assert_eq!(spec.stages.pairs, pairs);
    assert_eq!(spec.stages.filter, Filter { clip_text: -1.0, clip_direction: 0.0, clip_image: 1.0, keep: 9 });
    let shards = Shards {
        formats: vec![ShardFormat::Original],
        split: Split { train: 1.0, val: 0.0, test: 0.0 },
        shard_bytes: 64 << 20,
        columns: ColumnProfile::Diffusers,
    };
    assert_eq!(spec.stages.shards, shards);
    let run = Run {
        launcher: Launcher::External,
        workers: 3,
        threads: Some(2),
        device: Device::Cuda,
        retry: Retry { attempts: 9, backoff_min: Duration::from_millis(500), backoff_max: Duration::from_secs(120) },
        max_quarantined: 0.005,
        min_kept: 0.02,
        lease: Duration::from_secs(5),
        chunk: Duration::from_secs(120),
        listen: "0.0.0.0:7070".to_string(),
        tls: Some(Tls { cert: "c.pem".to_string(), key: "k.pem".to_string(), client_ca: None }),
        kubernetes: None,
    };
    assert_eq!(spec.run, run);
}

#[test]
fn a_spec_survives_json() {
    let spec = parse_with(SHORTEST, &["stages.pairs.sampler=dpmpp_2m", "stages.prompts.backend=file"]).unwrap();
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec);
    assert_eq!(spec.store_options, crate::store::StoreOptions::default());
    // Plans of older versions lie in stores.
    let mut older: serde_json::Value = serde_json::from_str(&json).unwrap();
    older.as_object_mut().unwrap().remove("store_options").unwrap();
    assert_eq!(serde_json::from_value::<Spec>(older).unwrap(), spec);
}

#[test]
fn arguments_replace_values_and_the_last_wins() {
    let arguments = ["stages.pairs.samples=8", "stages.pairs.samples=16", "run.retry={attempts: 2}", "models.vae=hf://a/b", "seed=7"];
    let spec = parse_with(SHORTEST, &arguments).unwrap();
    assert_eq!((spec.stages.pairs.samples, spec.run.retry.attempts, spec.seed), (16, 2, 7));
    assert_eq!(spec.models.vae.as_deref(), Some("hf://a/b"));
    assert_eq!(parse_with(SHORTEST, &["stages.prompts.backend=file", "models.llm="]).unwrap().models.llm, None);
}

#[test]
fn an_unused_server_may_stay_in_the_file() {
    let text = format!("{SHORTEST}stages:\n  prompts:\n    backend: file\n    openai: {{ base_url: http://h, model: m }}\n");
    assert_eq!(parse(&text).unwrap().stages.prompts.backend, PromptBackend::File);
}

#[test]
fn a_byte_order_mark_and_windows_lines_do_not_matter() {
    let text = format!("\u{feff}{}", SHORTEST.replace('\n', "\r\n"));
    assert_eq!(parse(&text).unwrap(), parse(SHORTEST).unwrap());
}

#[test]
fn the_bundled_files_are_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let spec = Spec::parse(&text, &path.to_string_lossy(), &[], &Unchecked).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(spec.name, name);
        names.push(name);
    }
    names.sort();
    assert_eq!(names, ["external", "openai", "quickstart", "sd15"]);
}

#[test]
fn a_column_may_be_a_number() {
    let spec = parse_with(SHORTEST, &["corpus.caption_column=2", "corpus.url_column=1"]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((spec.corpus.caption_column.as_deref(), spec.corpus.url_column.as_deref()), (Some("2"), Some("1")));
}

#[test]
fn the_quickstart_finds_its_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let here = |key: &str, path: &str| format!("{key}={}/models/tiny/{path}", root.display());
    let paths = [("corpus.path", "captions.jsonl"), ("models.diffusion", "diffusion"), ("models.clip", "clip"), ("models.llm", "llm")];
    let overrides = paths.map(|(key, path)| here(key, path));
    let spec = Spec::load(&root.join("configs/quickstart.yaml"), &overrides).unwrap_or_else(|e| panic!("{e}"));
    for (_, path) in paths {
        let text = include_str!("../../../../configs/quickstart.yaml");
        assert!(text.contains(&format!("models/tiny/{path}")), "{path}");
    }
    assert_eq!(spec.stages.pairs.resolution, 64);
}

#[test]
fn sd15_says_the_originals_numbers() {
    let text = include_str!("../../../../configs/sd15.yaml");
    let spec = parse(text).unwrap();
    let defaults = parse(SHORTEST).unwrap();
    assert_eq!(spec.stages.pairs, defaults.stages.pairs);
    assert_eq!(spec.stages.filter, defaults.stages.filter);
}

//! Every key of `pipeline.yaml`: its kind, its default and what it means.
//!
//! This is the only list of keys: unknown keys are refused, near ones proposed and `docs/pipeline-yaml.md`
//! is written from it. Each function reads one map; all keys of a map are read before the first `?`, so that
//! every problem of a file is found in one go. Defaults of `prompts`, `pairs` and `filter` are those of
//! timothybrooks/instruct-pix2pix wherever it has one.

use super::kinds::*;
use super::references::{corpus_path, endpoint, store_url, weights};
use super::section::Section;
use super::*;

/// The version of the format that this program reads.
const VERSION: u32 = 1;

pub(super) const PROMPTS_BACKEND: &str = "stages.prompts.backend";

#[derive(Clone, Copy, PartialEq)]
enum BackendWord {
    Local,
    File,
    OpenAi,
}

const BACKENDS: &[(&str, BackendWord)] = &[("local", BackendWord::Local), ("file", BackendWord::File), ("openai", BackendWord::OpenAi)];
const APIS: &[(&str, OpenAiApi)] = &[("chat", OpenAiApi::Chat), ("completions", OpenAiApi::Completions)];
const SAMPLERS: &[(&str, Sampler)] = &[("euler_ancestral", Sampler::EulerAncestral), ("dpmpp_2m", Sampler::Dpmpp2m)];
const DTYPES: &[(&str, Dtype)] = &[("auto", Dtype::Auto), ("f32", Dtype::F32), ("f16", Dtype::F16), ("bf16", Dtype::Bf16)];
const FORMATS: &[(&str, ShardFormat)] =
    &[("webdataset", ShardFormat::Webdataset), ("parquet", ShardFormat::Parquet), ("original", ShardFormat::Original)];
const COLUMNS: &[(&str, ColumnProfile)] = &[("timbrooks", ColumnProfile::Timbrooks), ("diffusers", ColumnProfile::Diffusers)];
const LAUNCHERS: &[(&str, Launcher)] =
    &[("local", Launcher::Local), ("kubernetes", Launcher::Kubernetes), ("external", Launcher::External)];
const DEVICES: &[(&str, Device)] = &[("auto", Device::Auto), ("cpu", Device::Cpu), ("cuda", Device::Cuda)];

/// Quality is a key of its own and joined in [`pairs`].
const IMAGES: &[(&str, ImageFormat)] =
    &[("jpeg", ImageFormat::Jpeg { quality: 100 }), ("png", ImageFormat::Png), ("webp", ImageFormat::Webp)];

pub(super) fn spec(s: &mut Section) -> Option<Spec> {
    let version = s.required("version", version(VERSION), "Version of this format.");
    let name = s.required("name", segment(), "Name of the run: its folder in the store.");
    let seed = s.default("seed", "0", integer(0, u64::MAX), "Seed of every random draw; another seed gives another dataset.");
    let store = s.required("store", store_url(), "Where everything the run makes is kept; credentials come from the environment.");
    let options = "How to reach the store; what is left out comes from the environment.";
    let store_options = s.section("store_options", options, store_options);
    let corpus = s.section("corpus", "The captions to start from.", corpus);
    let partition = s.section("partition", "How the work is cut; it changes no byte of the dataset.", partition);
    let models = s.section("models", "The weights.", models);
    let stages = s.section("stages", "What each stage does.", stages);
    let run = s.section("run", "How the run is carried out; on one kind of device nothing here changes a byte of the dataset.", run);
    version?;
    Some(Spec {
        name: name?,
        seed: seed?,
        store: store?,
        store_options: store_options?,
        corpus: corpus?,
        partition: partition?,
        models: models?,
        stages: stages?,
        run: run?,
    })
}

fn store_options(s: &mut Section) -> Option<StoreOptions> {
    let endpoint = s.optional("endpoint", endpoint(), "Address of the server, for all but the cloud's own.");
    let region = s.optional("region", text("the name of a region"), "Region of an s3:// bucket.");
    let doc = "For s3://: name the bucket in the path (the default), or in the host; the endpoint must hold it then.";
    let path_style = s.optional("path_style", boolean(), doc);
    let allow_http = s.default("allow_http", "false", boolean(), "Allow connections without TLS.");
    let doc = "How long a failed request is tried again before the failure counts.";
    let deadline = s.default("deadline", "120s", duration("1s", "5m"), doc);
    Some(StoreOptions { endpoint: endpoint?, region: region?, path_style: path_style?, allow_http: allow_http?, deadline: deadline? })
}

fn corpus(s: &mut Section) -> Option<Corpus> {
    let path = s.required("path", corpus_path(), "JSONL, Parquet, CSV, TSV or COCO JSON, also compressed.");
    let caption_column = s.optional("caption_column", column(), "Column of the captions; found by its usual names when left out.");
    let url_column = s.optional("url_column", column(), "Column of the image URLs; found by its usual names when left out.");
    let limit = s.optional("limit", integer(1, u64::MAX), "Use at most this many captions.");
    Some(Corpus { path: path?, caption_column: caption_column?, url_column: url_column?, limit: limit? })
}

fn partition(s: &mut Section) -> Option<Partition> {
    let records = s.default("records", "32", integer(1, 10_000_000), "Captions per partition, the unit of scheduling and retry.");
    Some(Partition { records: records? })
}

fn models(s: &mut Section) -> Option<Models> {
    let diffusion = s.required("diffusion", weights(), "Stable Diffusion 1.x: a diffusers folder, a .safetensors or a .ckpt file.");
    let vae = s.optional("vae", weights(), "A VAE that replaces the one in `diffusion`.");
    let clip = s.required("clip", weights(), "CLIP for the filter: an HF folder or a .safetensors file.");
    let llm = s.optional("llm", weights(), "Language model of `backend: local`: an HF folder or a .gguf file.");
    Some(Models { diffusion: diffusion?, vae: vae?, clip: clip?, llm: llm? })
}

fn stages(s: &mut Section) -> Option<Stages> {
    let prompts = s.section("prompts", "Caption to edit instruction and edited caption.", prompts);
    let pairs = s.section("pairs", "Drawing the candidate pairs.", pairs);
    let filter = s.section("filter", "Keeping the pairs whose change agrees with the change of the text.", filter);
    let index = s.section("index", "The table of every candidate; it has no keys.", |_| Index {});
    let shards = s.section("shards", "Writing the training set.", shards);
    Some(Stages { prompts: prompts?, pairs: pairs?, filter: filter?, index, shards: shards? })
}

fn prompts(s: &mut Section) -> Option<Prompts> {
    let doc = "Who writes the edits: `models.llm` on this machine, the corpus itself (a file of triplets), or a server.";
    let word = s.default("backend", "local", choice(BACKENDS), doc);
    let per_caption = s.default("per_caption", "1", integer(1, 1_000), "Edits asked for per caption.");
    let temperature = s.default("temperature", "0.7", number(0.0, 2.0), "Sampling temperature; 0 always takes the likeliest token.");
    let top_p = s.default("top_p", "1", number(0.01, 1.0), "Sample from the likeliest tokens with this total probability.");
    let max_tokens = s.default("max_tokens", "256", integer(1, 32_768), "Longest completion in tokens.");
    let frequency_penalty = s.default("frequency_penalty", "0.1", number(-2.0, 2.0), "Penalty on tokens already used.");
    let attempts = s.default("attempts", "4", integer(1, 100), "Completions tried until one can be parsed.");
    let needed = word == Some(BackendWord::OpenAi);
    let openai = s.section_if(needed, "openai", "The server of `backend: openai`; needed by it only.", openai);
    let backend = match (word?, openai?) {
        (BackendWord::OpenAi, Some(server)) => PromptBackend::OpenAi(server),
        (BackendWord::OpenAi, None) => return None,
        (BackendWord::Local, _) => PromptBackend::Local,
        (BackendWord::File, _) => PromptBackend::File,
    };
    Some(Prompts {
        backend,
        per_caption: per_caption?,
        temperature: temperature?,
        top_p: top_p?,
        max_tokens: max_tokens?,
        frequency_penalty: frequency_penalty?,
        attempts: attempts?,
    })
}

fn openai(s: &mut Section) -> Option<OpenAi> {
    let base_url = s.required("base_url", base_url(), "Any server that speaks the OpenAI protocol.");
    let model = s.required("model", text("the name of a model"), "Model the server is asked for.");
    let api = s.default("api", "chat", choice(APIS), "Chat with a JSON schema, or text completions with the original's delimiters.");
    let api_key_env = s.optional("api_key_env", variable(), "Environment variable with the API key; no key is sent when left out.");
    let concurrency = s.default("concurrency", "8", integer(1, 1_000), "Requests in flight per worker.");
    let timeout = s.default("timeout", "60s", duration("1s", "1h"), "Longest wait for one answer.");
    let retries = s.default("retries", "5", integer(0, 100), "Retries of a request after 429, 5xx and cut connections.");
    let moderation = text("the name of a moderation model");
    let moderation = s.optional("moderation", moderation, "Moderate every text with this model of the same server.");
    Some(OpenAi {
        base_url: base_url?,
        model: model?,
        api: api?,
        api_key_env: api_key_env?,
        concurrency: concurrency?,
        timeout: timeout?,
        retries: retries?,
        moderation: moderation?,
    })
}

fn pairs(s: &mut Section) -> Option<Pairs> {
    let samples = s.default("samples", "100", integer(1, 100_000), "Candidates drawn per triplet.");
    let steps = s.default("steps", "100", integer(2, 1_000), "Sampling steps.");
    let sampler = s.default("sampler", "euler_ancestral", choice(SAMPLERS), "The original's sampler, or DPM-Solver++ (2M) for few steps.");
    let doc = "Share of the steps in which the second image uses the first's self-attention; drawn per candidate.";
    let p2p = s.default("p2p", "[0.1, 0.9]", range(0.0, 1.0), doc);
    let guidance = s.default("guidance", "[7.5, 15]", range(0.0, 100.0), "Classifier-free guidance scale; drawn per candidate.");
    let resolution =
        s.default("resolution", "512", integer(8, 4_096), "Side of the images in pixels; a multiple of 8 and of the VAE's factor.");
    let batch =
        s.default("batch", "4", integer(1, 1_024), "Candidates of one triplet drawn at once; it can change the last bits of an image.");
    let dtype = s.default("dtype", "auto", choice(DTYPES), "Precision of the models; auto is f32 on a CPU and bf16 on a GPU.");
    let fuse = s.default("fuse", "true", boolean(), "Draw and filter in one stage; the dataset is the same either way.");
    let keep_rejected = s.default("keep_rejected", "false", boolean(), "Store the images of rejected candidates too.");
    let image = s.default("image", "jpeg", choice(IMAGES), "File format of the images; png and webp are lossless.");
    let quality = s.optional("quality", integer(1, 100), "Quality of `image: jpeg`; 100 when left out.");
    let image = match (image?, quality?) {
        (ImageFormat::Jpeg { .. }, Some(quality)) => ImageFormat::Jpeg { quality },
        (image, _) => image,
    };
    Some(Pairs {
        samples: samples?,
        steps: steps?,
        sampler: sampler?,
        p2p: p2p?,
        guidance: guidance?,
        resolution: resolution?,
        batch: batch?,
        dtype: dtype?,
        fuse: fuse?,
        keep_rejected: keep_rejected?,
        image,
    })
}

fn filter(s: &mut Section) -> Option<Filter> {
    let cosine = || number(-1.0, 1.0);
    let clip_text = s.default("clip_text", "0.2", cosine(), "Least similarity of each image with its caption.");
    let doc = "Least similarity of the change of the image with the change of the text.";
    let clip_direction = s.default("clip_direction", "0.2", cosine(), doc);
    let clip_image = s.default("clip_image", "0.7", cosine(), "Least similarity of the two images.");
    let keep = s.default("keep", "4", integer(1, 100_000), "Most pairs kept per triplet, at most `stages.pairs.samples`.");
    Some(Filter { clip_text: clip_text?, clip_direction: clip_direction?, clip_image: clip_image?, keep: keep? })
}

fn shards(s: &mut Section) -> Option<Shards> {
    const KB: u64 = 1_000;
    let formats = s.default("formats", "[webdataset, parquet]", choices(FORMATS), "Formats of the training set; each is a full copy.");
    let split = s.section("split", "Shares of the triplets; they sum to 1.", split);
    let bytes = size(64 * KB, 100 * KB * KB * KB, "from 64KB to 100GB");
    let shard_bytes = s.default("shard_bytes", "500MB", bytes, "Target size of a shard file.");
    let columns = s.default(
        "columns",
        "timbrooks",
        choice(COLUMNS),
        "Columns of the Parquet shards, as the published set or as the diffusers trainer has them.",
    );
    Some(Shards { formats: formats?, split: split?, shard_bytes: shard_bytes?, columns: columns? })
}

fn split(s: &mut Section) -> Option<Split> {
    let train = s.default("train", "0.9", number(0.0, 1.0), "Share for training.");
    let val = s.default("val", "0.05", number(0.0, 1.0), "Share for validation.");
    let test = s.default("test", "0.05", number(0.0, 1.0), "Share for testing.");
    Some(Split { train: train?, val: val?, test: test? })
}

fn run(s: &mut Section) -> Option<Run> {
    let launcher = s.default(
        "launcher",
        "local",
        choice(LAUNCHERS),
        "Start workers on this machine, as Jobs of a cluster, or wait for workers that connect by themselves.",
    );
    let workers = s.default("workers", "1", integer(1, 10_000), "Worker processes.");
    let threads = s.optional("threads", integer(1, 1_024), "CPU threads per worker; the cores shared out evenly when left out.");
    let device = s.default("device", "auto", choice(DEVICES), "Where the models run; auto is a GPU if there is one.");
    let retry = s.section("retry", "What happens after a failed partition.", retry);
    let max_quarantined = s.default("max_quarantined", "1%", share(), "Share of records that may fail before the run stops.");
    let doc = "Share of the pairs that could be kept (`keep` per triplet) below which the run stops, once 1000 triplets are judged.";
    let min_kept = s.default("min_kept", "1%", share(), doc);
    let lease =
        s.default("lease", "30s", duration("1s", "1h"), "How long a worker may be silent before its partition is given to another.");
    let chunk =
        s.default("chunk", "60s", duration("0s", "1day"), "Most work per worker that a kill can lose; 0s commits after every record.");
    let listen = s.default("listen", "127.0.0.1:0", address(), "Address the coordinator listens on.");
    let tls = s.section_if(false, "tls", "Encrypts the connections to `listen`: see security.md.", tls);
    let doc = "The cluster's Jobs: see kubernetes.md; needed by `launcher: kubernetes` only.";
    let kubernetes = s.section_if(launcher == Some(Launcher::Kubernetes), "kubernetes", doc, |s| kubernetes::kubernetes(s, workers));
    Some(Run {
        launcher: launcher?,
        workers: workers?,
        threads: threads?,
        device: device?,
        retry: retry?,
        max_quarantined: max_quarantined?,
        min_kept: min_kept?,
        lease: lease?,
        chunk: chunk?,
        listen: listen?,
        tls: tls?,
        kubernetes: kubernetes?,
    })
}

fn tls(s: &mut Section) -> Option<Tls> {
    let cert = s.required("cert", pem_file(), "The coordinator's certificate, with those between it and its authority.");
    let key = s.required("key", pem_file(), "Its private key.");
    let client_ca = s.optional("client_ca", pem_file(), "Authorities for workers: only workers with a certificate of theirs may connect.");
    Some(Tls { cert: cert?, key: key?, client_ca: client_ca? })
}

fn retry(s: &mut Section) -> Option<Retry> {
    let attempts = s.default("attempts", "4", integer(1, 1_000), "Most attempts at one partition.");
    let backoff = s.default("backoff", "1s..60s", backoff(), "Shortest and longest wait before the next attempt.");
    let (backoff_min, backoff_max) = backoff?;
    Some(Retry { attempts: attempts?, backoff_min, backoff_max })
}

//! Rules between keys, and between keys and the machine's files. Each reads only values that are valid by
//! themselves, so that one mistake gives one message.

use super::diagnostics::Problem;
use super::files::Files;
use super::keys::PROMPTS_BACKEND;
use super::section::Values;

const STORE: &str = "store";
const ENDPOINT: &str = "store_options.endpoint";
const REGION: &str = "store_options.region";
const PATH_STYLE: &str = "store_options.path_style";
const ALLOW_HTTP: &str = "store_options.allow_http";
const SAMPLES: &str = "stages.pairs.samples";
const KEEP: &str = "stages.filter.keep";
const PER_CAPTION: &str = "stages.prompts.per_caption";
const RESOLUTION: &str = "stages.pairs.resolution";
const IMAGE: &str = "stages.pairs.image";
const QUALITY: &str = "stages.pairs.quality";
const DTYPE: &str = "stages.pairs.dtype";
const DEVICE: &str = "run.device";
const SPLIT: &str = "stages.shards.split";
const CORPUS: &str = "corpus.path";
const DIFFUSION: &str = "models.diffusion";
const VAE: &str = "models.vae";
const CLIP: &str = "models.clip";
const LLM: &str = "models.llm";
const TLS_CERT: &str = "run.tls.cert";
const TLS_KEY: &str = "run.tls.key";
const TLS_CLIENT_CA: &str = "run.tls.client_ca";

pub(super) fn check(values: &Values, files: &dyn Files) -> Vec<Problem> {
    let found = [
        options_fit_store(values),
        plain_http_is_wanted(values),
        keep_within_samples(values),
        local_backend_has_model(values),
        file_backend_has_one_edit(values),
        quality_is_for_jpeg(values),
        cpu_computes_in_f32(values),
        split_sums_to_one(values),
        resolution_fits(values, files),
        corpus_exists(values, files),
    ];
    let models = [DIFFUSION, VAE, CLIP, LLM].map(|key| weights_exist(values, files, key));
    let pem = [(TLS_CERT, "CERTIFICATE"), (TLS_KEY, "PRIVATE KEY"), (TLS_CLIENT_CA, "CERTIFICATE")];
    let pem = pem.map(|(key, label)| pem_is_there(values, files, key, label));
    found.into_iter().chain(models).chain(pem).flatten().map(|(key, message)| Problem::new(values.place(key), key, message)).collect()
}

type Found = Option<(&'static str, String)>;

fn refuse(key: &'static str, message: impl Into<String>) -> Found {
    Some((key, message.into()))
}

/// A key that would do nothing is a mistake.
fn options_fit_store(values: &Values) -> Found {
    let scheme = values.text(STORE)?.split_once("://")?.0;
    let given = |keys: &[&'static str]| keys.iter().copied().find(|key| values.is_given(key));
    if scheme == "file" {
        return refuse(given(&[ENDPOINT, REGION, PATH_STYLE, ALLOW_HTTP])?, "a local folder has no server; remove this key");
    }
    if scheme == "s3" {
        return None;
    }
    refuse(given(&[REGION, PATH_STYLE])?, format!("only an s3:// store has one, and this is {scheme}://; remove this key"))
}

fn plain_http_is_wanted(values: &Values) -> Found {
    let plain = values.text(ENDPOINT)?.starts_with("http://");
    if !plain || values.flag(ALLOW_HTTP)? {
        return None;
    }
    refuse(ENDPOINT, format!("everything would go over the network unencrypted; write https://, or set `{ALLOW_HTTP}: true`"))
}

fn keep_within_samples(values: &Values) -> Found {
    let (keep, samples) = (values.integer(KEEP)?, values.integer(SAMPLES)?);
    if keep <= samples {
        return None;
    }
    let message = format!("{keep} pairs cannot be kept of {samples} candidates; lower it or raise `{SAMPLES}`");
    // Blame what the user wrote: few samples against the default of `keep`, or the other way round.
    refuse(if values.is_given(KEEP) { KEEP } else { SAMPLES }, message)
}

fn local_backend_has_model(values: &Values) -> Found {
    let missing = values.text(PROMPTS_BACKEND)? == "local" && !values.is_given(LLM);
    if !missing {
        return None;
    }
    refuse(LLM, format!("missing key; `{PROMPTS_BACKEND}: local` needs a language model (or choose `openai` or `file`)"))
}

fn file_backend_has_one_edit(values: &Values) -> Found {
    let per_caption = values.integer(PER_CAPTION)?;
    if values.text(PROMPTS_BACKEND)? != "file" || per_caption == 1 {
        return None;
    }
    refuse(PER_CAPTION, format!("expected 1, found {per_caption}; with `backend: file` every row of the corpus is one edit"))
}

fn quality_is_for_jpeg(values: &Values) -> Found {
    let image = values.text(IMAGE)?;
    values.integer(QUALITY).filter(|_| image != "jpeg")?;
    refuse(QUALITY, format!("`image: {image}` is lossless and has no quality; remove this key or choose jpeg"))
}

fn cpu_computes_in_f32(values: &Values) -> Found {
    let dtype = values.text(DTYPE)?;
    if values.text(DEVICE)? != "cpu" || matches!(dtype, "auto" | "f32") {
        return None;
    }
    refuse(DTYPE, format!("expected `auto` or `f32`, found `{dtype}`: `{DEVICE}: cpu` computes in f32"))
}

fn split_sums_to_one(values: &Values) -> Found {
    const TOLERANCE: f64 = 1e-6;
    let [train, val, test] = ["train", "val", "test"].map(|part| values.number(&format!("{SPLIT}.{part}")));
    let (train, val, test) = (train?, val?, test?);
    let sum = train + val + test;
    if (sum - 1.0).abs() <= TOLERANCE {
        return None;
    }
    let sum = (sum * 1e6).round() / 1e6;
    refuse(SPLIT, format!("train {train} + val {val} + test {test} is {sum}; the shares must sum to 1"))
}

/// Latents have a whole number of pixels: 8 for every Stable Diffusion, and what the VAE's own config says.
fn resolution_fits(values: &Values, files: &dyn Files) -> Found {
    let resolution = values.integer(RESOLUTION)?;
    let (factor, source) = match vae_factor(values, files) {
        Some((factor, config)) if factor > 8 => (factor, format!(" (the VAE's factor, from {config})")),
        _ => (8, String::new()),
    };
    if resolution % factor == 0 {
        return None;
    }
    let below = resolution - resolution % factor;
    let near = if below == 0 { format!("{factor}") } else { format!("{below} or {}", below + factor) };
    refuse(RESOLUTION, format!("expected a multiple of {factor}{source}, found {resolution}; the nearest is {near}"))
}

/// 2^(levels - 1) by the VAE's config.json, when it is a local diffusers folder.
fn vae_factor(values: &Values, files: &dyn Files) -> Option<(i128, String)> {
    let folders = match values.text(VAE) {
        Some(vae) => vec![vae.to_string(), format!("{vae}/vae")],
        None => vec![format!("{}/vae", values.text(DIFFUSION)?)],
    };
    folders.into_iter().find_map(|folder| {
        let path = format!("{}/config.json", local(&folder)?);
        let config: serde_json::Value = serde_json::from_str(&files.read(&path)?).ok()?;
        let levels = u32::try_from(config.get("block_out_channels")?.as_array()?.len()).ok()?;
        let factor = 2_i128.checked_pow(levels.checked_sub(1)?)?;
        Some((factor, path))
    })
}

fn weights_exist(values: &Values, files: &dyn Files, key: &'static str) -> Found {
    let path = local(values.text(key)?)?;
    let problem = files.missing(path)?;
    refuse(key, format!("{problem}; give the folder or file of the weights, or hf://owner/name"))
}

fn pem_is_there(values: &Values, files: &dyn Files, key: &'static str, label: &str) -> Found {
    let problem = files.not_pem(values.text(key)?, label)?;
    refuse(key, format!("{problem}; give a PEM file (docs/security.md says how one is made)"))
}

fn corpus_exists(values: &Values, files: &dyn Files) -> Found {
    let path = local(values.text(CORPUS)?)?;
    let problem = files.unmatched(path)?;
    refuse(CORPUS, format!("{problem}; give the file of captions or a glob that matches some"))
}

/// The path of a local reference; `None` for one in a remote store.
fn local(reference: &str) -> Option<&str> {
    match reference.split_once("://") {
        Some(("file", path)) => Some(path),
        Some(_) => None,
        None => Some(reference),
    }
}

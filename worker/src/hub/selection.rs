//! Which files of a repository or folder a model needs: configuration, tokenizer, and one form of the weights.

use super::Needs;

/// A full description of the parts in the root of a diffusers repository.
const PIPELINE_INDEX: &str = "model_index.json";
/// Parts of a diffusers repository that are used; safety checkers and image encoders are not.
const PIPELINE_PARTS: [&str; 5] = ["text_encoder/", "tokenizer/", "unet/", "vae/", "scheduler/"];
/// Beginnings of weight files' names, and their two formats, the better one first.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];
const FORMATS: [&str; 2] = ["safetensors", "bin"];

/// Chooses from `names` (paths relative to the root of the model); the message says what is missing.
pub(super) fn select(names: &[&str], needs: Needs, variant: Option<&str>) -> Result<Vec<String>, String> {
    match needs {
        Needs::Diffusion if names.contains(&PIPELINE_INDEX) => {
            let mut chosen = vec![PIPELINE_INDEX.to_string()];
            for part in PIPELINE_PARTS {
                chosen.extend(part_files(names, part, variant)?);
            }
            Ok(chosen)
        }
        Needs::Diffusion => Err(format!(
            "no {PIPELINE_INDEX}: name a diffusers model, or one checkpoint file in it, such as .../v1-5-pruned.safetensors; it has {}",
            shown(names)
        )),
        // The VAE of a whole pipeline may be borrowed.
        Needs::Vae if names.contains(&PIPELINE_INDEX) => part_files(names, "vae/", variant),
        Needs::Llm if !names.contains(&"config.json") => only_gguf(names),
        Needs::Vae | Needs::Clip | Needs::Llm => part_files(names, "", variant),
    }
}

/// Configuration and weights directly inside `folder`.
fn part_files(names: &[&str], folder: &str, variant: Option<&str>) -> Result<Vec<String>, String> {
    let inside: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(folder)).filter(|name| !name.contains('/')).collect();
    let mut chosen: Vec<&str> = inside.iter().copied().filter(|name| is_configuration(name)).collect();
    let wants_weights = !matches!(folder, "tokenizer/" | "scheduler/");
    if wants_weights {
        let weights = STEMS.iter().flat_map(|stem| FORMATS.map(|format| weight_files(&inside, stem, format, variant)));
        // A safetensors file under any name beats a pickle.
        let mut found: Vec<Vec<&str>> = weights.filter(|files| !files.is_empty()).collect();
        found.sort_by_key(|files| files.iter().any(|file| file.contains(".bin")));
        let missing = || match variant {
            Some(variant) => format!("no `{variant}` weights in `{folder}`; it has {}", shown(&inside)),
            None => format!("no weights in `{folder}`; it has {}", shown(&inside)),
        };
        chosen.extend(found.into_iter().next().ok_or_else(missing)?);
    }
    Ok(chosen.into_iter().map(|name| format!("{folder}{name}")).collect())
}

fn is_configuration(name: &str) -> bool {
    let index = name.contains(".index.");
    !index && [".json", ".txt", ".jinja"].iter().any(|extension| name.ends_with(extension))
}

/// `stem[.variant][-00001-of-00002].format` and its index, complete or not at all.
fn weight_files<'a>(names: &[&'a str], stem: &str, format: &str, variant: Option<&str>) -> Vec<&'a str> {
    let variant = variant.map(|variant| format!(".{variant}")).unwrap_or_default();
    let stem_with_variant = format!("{stem}{variant}");
    let whole = format!("{stem_with_variant}.{format}");
    let index = format!("{stem}.{format}.index{variant}.json");
    let is_part = |name: &&&str| {
        let middle = name.strip_prefix(stem_with_variant.as_str()).and_then(|rest| rest.strip_suffix(&format!(".{format}")));
        middle.is_some_and(|middle| middle.starts_with('-') && middle.contains("-of-"))
    };
    if let Some(name) = names.iter().find(|name| **name == whole) {
        return vec![name];
    }
    match names.iter().find(|name| **name == index) {
        Some(index) => std::iter::once(index).chain(names.iter().filter(is_part)).copied().collect(),
        None => Vec::new(),
    }
}

fn only_gguf(names: &[&str]) -> Result<Vec<String>, String> {
    let found: Vec<&str> = names.iter().copied().filter(|name| name.ends_with(".gguf")).collect();
    match found.as_slice() {
        [one] => {
            let beside = names.iter().copied().filter(|name| *name == "tokenizer.json");
            Ok(beside.chain([*one]).map(str::to_string).collect())
        }
        [] => Err(format!("neither config.json nor a .gguf file; it has {}", shown(names))),
        several => Err(format!("several .gguf files: add one of their names to the reference: {}", shown(several))),
    }
}

/// The first few names, for messages.
fn shown(names: &[&str]) -> String {
    const FEW: usize = 12;
    let more = if names.len() > FEW { format!(" and {} more", names.len() - FEW) } else { String::new() };
    format!("{}{more}", names.iter().take(FEW).copied().collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STABLE_DIFFUSION: [&str; 22] = [
        ".gitattributes",
        "README.md",
        "model_index.json",
        "v1-5-pruned.ckpt",
        "safety_checker/config.json",
        "safety_checker/model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.fp16.safetensors",
        "text_encoder/model.safetensors",
        "text_encoder/pytorch_model.bin",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.bin",
    ];

    #[test]
    fn a_pipeline_in_the_form_that_was_asked_for() {
        let mut names = STABLE_DIFFUSION.to_vec();
        names.push("vae/diffusion_pytorch_model.bin");
        let chosen = select(&names, Needs::Diffusion, None).unwrap();
        let weights: Vec<&str> = chosen.iter().map(String::as_str).filter(|name| !is_configuration(name)).collect();
        let expected = ["text_encoder/model.safetensors", "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin"];
        assert_eq!(weights, expected);
        assert_eq!(chosen.len(), 12);
        let half = select(&names, Needs::Diffusion, Some("fp16")).unwrap();
        assert!(half.contains(&"unet/diffusion_pytorch_model.fp16.safetensors".to_string()), "{half:?}");
        let error = select(&names, Needs::Diffusion, Some("int8")).unwrap_err();
        assert!(error.contains("no `int8` weights in `text_encoder/`"), "{error}");
        assert_eq!(select(&names, Needs::Vae, None).unwrap(), ["vae/config.json", "vae/diffusion_pytorch_model.bin"]);
    }

    #[test]
    fn sharded_weights_come_with_their_index() {
        let names = [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        let chosen = select(&names, Needs::Llm, None).unwrap();
        assert_eq!(chosen.len(), 6);
        assert!(!chosen.contains(&"pytorch_model.bin".to_string()));
    }

    #[test]
    fn gguf_repositories() {
        assert_eq!(select(&["a.gguf", "README.md"], Needs::Llm, None).unwrap(), ["a.gguf"]);
        assert!(select(&["a.gguf", "b.gguf"], Needs::Llm, None).unwrap_err().contains("a.gguf, b.gguf"));
        assert!(select(&["README.md"], Needs::Diffusion, None).unwrap_err().contains("model_index.json"));
    }
}

//! Checks against the machine's files.

use super::super::*;
use super::SHORTEST;
use std::fs;
use std::path::Path;

/// [`SHORTEST`] with every path below `folder`, where captions and models are.
fn prepare(folder: &Path) -> String {
    fs::write(folder.join("captions.jsonl"), "{}").unwrap();
    for model in ["sd/vae", "clip", "llm"] {
        fs::create_dir_all(folder.join("models").join(model)).unwrap();
    }
    let here = folder.to_string_lossy();
    SHORTEST.replace("captions.jsonl", &format!("{here}/captions.jsonl")).replace("models/", &format!("{here}/models/"))
}

/// The message of loading with these arguments, `DIR` standing for the folder.
fn refusal(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_string_lossy().into_owned();
    let text = prepare(folder.path());
    // Four levels: a factor of 8 like every Stable Diffusion. `deep` has six.
    let config = |levels: usize| serde_json::json!({ "block_out_channels": vec![32; levels] }).to_string();
    fs::write(folder.path().join("models/sd/vae/config.json"), config(4)).unwrap();
    fs::create_dir(folder.path().join("deep")).unwrap();
    fs::write(folder.path().join("deep/config.json"), config(6)).unwrap();
    let file = folder.path().join("p.yaml");
    fs::write(&file, text).unwrap();
    let arguments: Vec<String> = arguments.iter().map(|argument| argument.replace("DIR", &here)).collect();
    match Spec::load(&file, &arguments) {
        Ok(_) => "accepted".to_string(),
        Err(diagnostics) => diagnostics.to_string().replace(&here, "DIR"),
    }
}

#[test]
fn files_that_exist_are_accepted() {
    assert_eq!(refusal(&[]), "accepted");
    assert_eq!(refusal(&["corpus.path=DIR/*.jsonl"]), "accepted");
    assert_eq!(refusal(&["corpus.path=file://DIR/captions.jsonl"]), "accepted");
    assert_eq!(refusal(&["models.vae=DIR/deep", "stages.pairs.resolution=64"]), "accepted");
}

#[test]
fn missing_files_are_named_by_their_absolute_path() {
    let weights = "; give the folder or file of the weights, or hf://owner/name";
    let captions = "; give the file of captions or a glob that matches some";
    let cases = [
        ("models.clip=DIR/none", format!("models.clip: nothing is at `DIR/none`{weights}")),
        ("models.llm=file://DIR/none", format!("models.llm: nothing is at `DIR/none`{weights}")),
        ("models.vae=DIR/none", format!("models.vae: nothing is at `DIR/none`{weights}")),
        ("models.diffusion=DIR/none.ckpt", format!("models.diffusion: nothing is at `DIR/none.ckpt`{weights}")),
        ("corpus.path=DIR/none.jsonl", format!("corpus.path: no file is at `DIR/none.jsonl`{captions}")),
        ("corpus.path=DIR/*.parquet", format!("corpus.path: no file matches `DIR/*.parquet`{captions}")),
        ("corpus.path=DIR/models", format!("corpus.path: `DIR/models` is a folder{captions}")),
    ];
    for (argument, message) in cases {
        assert_eq!(refusal(&[argument]), format!("--set {argument}: {message}"));
    }
}

#[test]
fn a_relative_path_is_shown_in_full() {
    let tried = std::path::absolute("no/such/clip").unwrap();
    let expected = format!("nothing is at `{}`", tried.display());
    let message = refusal(&["models.clip=no/such/clip"]);
    assert!(message.contains(&expected), "{message}");
}

#[test]
fn the_resolution_fits_the_vae_of_the_model() {
    let factor = "expected a multiple of 32 (the VAE's factor, from DIR/deep/config.json)";
    assert_eq!(
        refusal(&["models.vae=DIR/deep", "stages.pairs.resolution=72"]),
        format!("--set stages.pairs.resolution=72: stages.pairs.resolution: {factor}, found 72; the nearest is 64 or 96")
    );
    assert_eq!(refusal(&["stages.pairs.resolution=72"]), "accepted");
}

#[test]
fn a_file_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let load =
        |name: &str| Spec::load(&folder.path().join(name), &[]).unwrap_err().to_string().replace(&*folder.path().to_string_lossy(), "DIR");
    let missing = load("none.yaml");
    assert!(missing.starts_with("DIR/none.yaml: cannot read it: "), "{missing}");
    assert!(missing.ends_with("; give the path of a pipeline file such as configs/quickstart.yaml"), "{missing}");
    fs::write(folder.path().join("large"), vec![b'#'; 200_000]).unwrap();
    assert_eq!(load("large"), "DIR/large: larger than 128 KiB: not a pipeline file");
    fs::write(folder.path().join("latin"), b"version: 1\nname: caf\xe9\n").unwrap();
    assert_eq!(load("latin"), "DIR/latin: line 2 is not UTF-8 text: save the file as UTF-8");
}

#[test]
fn certificates_and_keys_are_looked_at_but_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().to_string_lossy().into_owned();
    let cert = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n";
    fs::write(folder.path().join("cert.pem"), cert).unwrap();
    fs::write(folder.path().join("key.pem"), cert.replace("CERTIFICATE", "EC PRIVATE KEY").replace("MIIB", "SEKRIT")).unwrap();
    fs::write(folder.path().join("cert.der"), b"\x30\x82\xff").unwrap();
    let load = |cert: &str, key: &str| {
        let tls = format!("run.tls={{cert: {here}/{cert}, key: {here}/{key}}}");
        refusal(&[&tls]).replace(&here, "HERE").split(": run.").skip(1).map(|m| m.trim().to_string()).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(load("cert.pem", "key.pem"), "");
    let advice = "; give a PEM file (docs/security.md says how one is made)";
    let swapped = load("key.pem", "cert.pem");
    assert!(swapped.starts_with(&format!("tls.cert: no `-----BEGIN CERTIFICATE-----` is in `HERE/key.pem`{advice}")), "{swapped}");
    assert!(swapped.ends_with(&format!("tls.key: no `-----BEGIN PRIVATE KEY-----` is in `HERE/cert.pem`{advice}")), "{swapped}");
    assert!(!swapped.contains("SEKRIT"));
    assert!(load("cert.der", "key.pem").contains("no `-----BEGIN CERTIFICATE-----` is in `HERE/cert.der`"));
    let missing = load("none.pem", "key.pem");
    assert!(missing.starts_with("tls.cert: cannot read `HERE/none.pem`: No such file"), "{missing}");
}

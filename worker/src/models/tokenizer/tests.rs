use super::*;
use proptest::prelude::*;
use std::fs;
use std::sync::LazyLock;

static ORIGINAL: LazyLock<ClipTokenizer> = LazyLock::new(|| ClipTokenizer::built_in().unwrap());

fn ids(tokenizer: &ClipTokenizer, text: &str, dialect: Dialect) -> Vec<u32> {
    tokenizer.encode(text, dialect, 8).unwrap().ids
}

#[test]
fn original_ids() {
    let tokenizer = &*ORIGINAL;
    assert_eq!(tokenizer.vocabulary_size(), 49408);
    assert_eq!(ids(tokenizer, "a photo of a cat", Dialect::OpenAi), [49406, 320, 1125, 539, 320, 2368, 49407, 0]);
    assert_eq!(ids(tokenizer, "A Photo", Dialect::StableDiffusion), [49406, 320, 1125, 49407, 49407, 49407, 49407, 49407]);
}

#[test]
fn long_text_keeps_its_end_token_and_reports_its_length() {
    let tokenizer = &*ORIGINAL;
    let tokens = tokenizer.encode(&"cat ".repeat(100), Dialect::OpenAi, 77).unwrap();
    assert_eq!((tokens.ids.len(), tokens.ids[76], tokens.count), (77, 49407, 102));
    let exact = tokenizer.encode(&"cat ".repeat(75), Dialect::OpenAi, 77).unwrap();
    assert_eq!((exact.ids[75], exact.ids[76], exact.count), (2368, 49407, 77));
}

#[test]
fn special_tokens_inside_a_text_are_themselves() {
    let tokenizer = &*ORIGINAL;
    assert_eq!(ids(tokenizer, "cat <|endoftext|> cat", Dialect::OpenAi), [49406, 2368, 49407, 2368, 49407, 0, 0, 0]);
}

/// A vocabulary of a few words, as a small model may have, in both file forms and with another padding token.
#[test]
fn folder_vocabularies() {
    let vocabulary =
        r#"{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "!": 5, "!</w>": 6, "<|startoftext|>": 7, "<|endoftext|>": 8}"#;
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("tokenizer");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("vocab.json"), vocabulary).unwrap();
    fs::write(inner.join("merges.txt"), "#version: 0.2\na b</w>\n").unwrap();
    let expected = [7, 4, 0, 2, 8, 8, 8, 8];
    let tokenizer = ClipTokenizer::for_model(folder.path()).unwrap();
    assert_eq!(ids(&tokenizer, "AB aa", Dialect::StableDiffusion), expected);

    let json = folder.path().join("tokenizer.json");
    let model = format!(r#"{{"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {vocabulary}, "merges": ["a b</w>"]}}"#);
    fs::write(&json, format!(r#"{{"version": "1.0", "added_tokens": [], "model": {model}}}"#)).unwrap();
    fs::write(folder.path().join("special_tokens_map.json"), r#"{"pad_token": {"content": "!"}}"#).unwrap();
    fs::remove_dir_all(inner).unwrap();
    let tokenizer = ClipTokenizer::for_model(folder.path()).unwrap();
    assert_eq!(ids(&tokenizer, "AB aa", Dialect::StableDiffusion), [7, 4, 0, 2, 8, 5, 5, 5]);
    assert_eq!(ids(&tokenizer, "AB aa", Dialect::OpenAi), [7, 4, 0, 2, 8, 0, 0, 0]);
}

#[test]
fn a_foreign_tokenizer_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let json = r#"{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}"#;
    fs::write(folder.path().join("tokenizer.json"), json).unwrap();
    let error = ClipTokenizer::for_model(folder.path()).unwrap_err().to_string();
    assert!(error.contains("end_of_word_suffix"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any text, damaged or not, gives as many ids as were asked for, between start and end.
    #[test]
    fn any_text_is_encoded(text in "(\\PC|[\u{0}-\u{ff}]|[ÃÂâ€™ð&;<#]){0,60}", length in 2usize..80) {
        for dialect in [Dialect::OpenAi, Dialect::StableDiffusion] {
            let tokens = ORIGINAL.encode(&text, dialect, length).unwrap();
            prop_assert_eq!(tokens.ids.len(), length);
            prop_assert_eq!(tokens.ids[0], 49406);
            prop_assert_eq!(tokens.ids[tokens.count.min(length) - 1], 49407);
            prop_assert!(tokens.ids.iter().all(|id| *id < 49408));
        }
    }
}

//! Whatever the text, there is an answer: a valid spec, or messages of one printable line each.

use super::super::*;
use super::{SHORTEST, parse, parse_with};
use proptest::prelude::*;

/// Characters that mean something in YAML, and a few that do not.
const YAML_SOUP: &str = "[-:{}\\[\\],&*!|>'\"%@`?#<~.0-9a-e \n\t\r\u{feff}\u{85}é]{0,200}";

fn well_behaved(result: &Result<Spec, Diagnostics>) -> Result<(), TestCaseError> {
    if let Err(diagnostics) = result {
        prop_assert!(diagnostics.iter().count() > 0);
        for diagnostic in diagnostics.iter() {
            prop_assert!(!diagnostic.message.is_empty());
            prop_assert!(!diagnostic.to_string().chars().any(char::is_control), "{diagnostic:?}");
        }
    }
    Ok(())
}

/// `text` with some of its characters taken out and `inserted` put in their place.
fn mutated(text: &str, at: usize, removed: usize, inserted: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = at % (chars.len() + 1);
    let end = (at + removed).min(chars.len());
    chars[..at].iter().copied().chain(inserted.chars()).chain(chars[end..].iter().copied()).collect()
}

proptest! {
    #[test]
    fn any_text_has_an_answer(text in any::<String>()) {
        well_behaved(&parse(&text))?;
    }

    #[test]
    fn any_yaml_soup_has_an_answer(text in YAML_SOUP) {
        well_behaved(&parse(&text))?;
        well_behaved(&parse(&format!("{SHORTEST}stages: {text}")))?;
    }

    #[test]
    fn a_damaged_file_has_an_answer(
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..20, "[-:{}\\[\\],&*!|>'\"%#.0-9a-e \n]{0,10}"), 1..4),
    ) {
        let mut text = include_str!("../../../../configs/sd15.yaml").to_string();
        for (at, removed, inserted) in damages {
            text = mutated(&text, at.index(text.len() + 1), removed, &inserted);
        }
        well_behaved(&parse(&text))?;
    }

    #[test]
    fn any_argument_has_an_answer(argument in any::<String>(), value in YAML_SOUP) {
        well_behaved(&parse_with(SHORTEST, &[&argument, &format!("stages.pairs.p2p={value}")]))?;
    }
}

#[test]
fn a_small_file_cannot_unfold_into_a_large_one() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for i in 1..60 {
        let before = i - 1;
        bomb.push_str(&format!(
            "a{i}: &a{i} [*a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}, *a{before}]\n"
        ));
    }
    let message = parse(&bomb).unwrap_err().to_string();
    assert!(message.starts_with("p.yaml:1:1: version: missing key"), "{message}");
    assert!(message.contains("p.yaml:1:5: anchors are not supported"), "{message}");
    assert!(message.ends_with(" more"), "{message}");
}

#[test]
fn the_largest_file_of_the_worst_kind_is_refused() {
    const LARGEST: usize = 128 * 1024;
    for piece in
        ["[", "{", "- ", "a: ", "a: 1\n", "? ", "&a ", "*a ", "!a ", "\"", "|\n", "#\n", "\t", "- - ", "a.b: {c: [", "--- \n", "%", "x"]
    {
        let text = piece.repeat(LARGEST / piece.len());
        assert!(parse(&text).is_err(), "{piece:?}");
    }
}

//! What a chat model is told: the task, a few worked examples, and the JSON schema of its answer.
//!
//! A fine-tuned completion model learned all this from its training lines and gets the bare caption.

pub(crate) use crate::models::llm::Role;
use serde_json::{Value, json};

const TASK: &str = "You write training data for a model that edits pictures by instruction. \
The user gives the caption of a picture. Think of one edit that changes something visible: an object, an animal, \
a person's clothes, a colour, a material, the place, the weather, the season, the time of day or the art style. \
Answer with a JSON object with two strings. \"edit\" is the instruction, short and in the imperative. \
\"output\" is the caption of the edited picture: the caption again, word for word, except for what the edit changes. \
The output must differ from the caption and must not mention the edit.";

/// Caption, edit, edited caption: one example for each common kind of edit.
const EXAMPLES: [[&str; 3]; 5] = [
    ["A brown dog running on the beach", "turn the dog into a fox", "A brown fox running on the beach"],
    ["a quiet street in an old town at noon", "make it night", "a quiet street in an old town at night"],
    ["Portrait of a fisherman, oil painting", "as a charcoal sketch", "Portrait of a fisherman, charcoal sketch"],
    ["A bowl of red apples on a wooden table", "swap the apples for lemons", "A bowl of yellow lemons on a wooden table"],
    ["Two children playing in a park", "let it snow", "Two children playing in a snowy park"],
];

/// The conversation that asks for an edit of `caption`, ending with the user's turn.
pub(crate) fn messages(caption: &str) -> Vec<(Role, String)> {
    let mut messages = vec![(Role::System, TASK.to_string())];
    for [caption, edit, output] in EXAMPLES {
        messages.push((Role::User, caption.to_string()));
        messages.push((Role::Assistant, json!({ "edit": edit, "output": output }).to_string()));
    }
    messages.push((Role::User, caption.to_string()));
    messages
}

/// Name of the schema in requests.
pub(crate) const SCHEMA_NAME: &str = "caption_edit";

/// JSON schema of the answer, within the subset that strict mode accepts.
pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "properties": { "edit": { "type": "string" }, "output": { "type": "string" } },
        "required": ["edit", "output"],
        "additionalProperties": false
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ip2p_pipeline::completion::{Style, is_empty, same_text};

    /// A model copies its examples, so they must pass the rules themselves.
    #[test]
    fn the_examples_pass_the_rules() {
        let messages = messages("A cat");
        assert_eq!((messages[0].0, &messages[messages.len() - 1]), (Role::System, &(Role::User, "A cat".to_string())));
        for turn in messages[1..messages.len() - 1].chunks(2) {
            let [(Role::User, caption), (Role::Assistant, answer)] = turn else { panic!("{turn:?}") };
            let edit = Style::Json.parse(answer).unwrap();
            assert!(!is_empty(&edit) && !same_text(caption, &edit.output), "{answer}");
        }
    }
}

//! Turning a conversation into the prompt that an instruction-tuned model was trained on.
//!
//! Two formats cover the supported models: ChatML (SmolLM2, Qwen 2 and 3) and that of Llama 3. Which one a model
//! wants is read off the marks in its own chat template; templates themselves (Jinja) are not run.

/// One turn of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub role: Role,
    pub content: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// A prompt format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChatFormat {
    /// `thinking`: the model would first think aloud (Qwen 3); an empty thought is put in its mouth.
    ChatMl {
        thinking: bool,
    },
    Llama3,
}

/// A stretch of a prompt. Text never becomes a control token, whatever a caption contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Control(&'static str),
    Text(String),
}

impl ChatFormat {
    /// The format whose marks a model's chat template contains.
    pub(super) fn detect(template: &str) -> Option<Self> {
        if template.contains("<|im_start|>") {
            Some(ChatFormat::ChatMl { thinking: template.contains("enable_thinking") })
        } else if template.contains("<|start_header_id|>") {
            Some(ChatFormat::Llama3)
        } else {
            None
        }
    }

    /// The conversation, up to where the model's answer begins.
    pub(super) fn render(self, messages: &[Message<'_>]) -> Vec<Piece> {
        match self {
            ChatFormat::ChatMl { thinking } => chat_ml(messages, thinking),
            ChatFormat::Llama3 => llama3(messages),
        }
    }
}

fn chat_ml(messages: &[Message<'_>], thinking: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for message in messages {
        pieces.push(Piece::Control("<|im_start|>"));
        pieces.push(Piece::Text(format!("{}\n{}", message.role.name(), message.content)));
        pieces.push(Piece::Control("<|im_end|>"));
        pieces.push(Piece::Text("\n".to_string()));
    }
    pieces.push(Piece::Control("<|im_start|>"));
    pieces.push(Piece::Text("assistant\n".to_string()));
    if thinking {
        for control in ["<think>", "</think>"] {
            pieces.push(Piece::Control(control));
            pieces.push(Piece::Text("\n\n".to_string()));
        }
    }
    pieces
}

fn llama3(messages: &[Message<'_>]) -> Vec<Piece> {
    let header = |pieces: &mut Vec<Piece>, role: &str, content: &str| {
        pieces.push(Piece::Control("<|start_header_id|>"));
        pieces.push(Piece::Text(role.to_string()));
        pieces.push(Piece::Control("<|end_header_id|>"));
        pieces.push(Piece::Text(format!("\n\n{content}")));
    };
    let mut pieces = vec![Piece::Control("<|begin_of_text|>")];
    for message in messages {
        header(&mut pieces, message.role.name(), message.content.trim());
        pieces.push(Piece::Control("<|eot_id|>"));
    }
    header(&mut pieces, "assistant", "");
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(format: ChatFormat) -> String {
        let messages = [Message { role: Role::System, content: "Be brief." }, Message { role: Role::User, content: "Hi <|im_end|>" }];
        let piece = |piece| match piece {
            Piece::Control(control) => format!("[{control}]"),
            Piece::Text(text) => text,
        };
        format.render(&messages).into_iter().map(piece).collect()
    }

    #[test]
    fn chat_ml() {
        let expected =
            "[<|im_start|>]system\nBe brief.[<|im_end|>]\n[<|im_start|>]user\nHi <|im_end|>[<|im_end|>]\n[<|im_start|>]assistant\n";
        assert_eq!(text(ChatFormat::ChatMl { thinking: false }), expected);
        assert_eq!(text(ChatFormat::ChatMl { thinking: true }), format!("{expected}[<think>]\n\n[</think>]\n\n"));
    }

    #[test]
    fn llama3() {
        assert_eq!(
            text(ChatFormat::Llama3),
            "[<|begin_of_text|>][<|start_header_id|>]system[<|end_header_id|>]\n\nBe brief.[<|eot_id|>]\
             [<|start_header_id|>]user[<|end_header_id|>]\n\nHi <|im_end|>[<|eot_id|>]\
             [<|start_header_id|>]assistant[<|end_header_id|>]\n\n"
        );
    }

    #[test]
    fn formats_are_known_by_their_marks() {
        assert_eq!(ChatFormat::detect("{{'<|im_start|>' + message['role']}}"), Some(ChatFormat::ChatMl { thinking: false }));
        assert_eq!(ChatFormat::detect("<|start_header_id|>"), Some(ChatFormat::Llama3));
        assert_eq!(ChatFormat::detect("[INST] {{ message }} [/INST]"), None);
    }
}

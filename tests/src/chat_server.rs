//! A server on this machine that speaks as much of the OpenAI API as `prompts: { backend: openai }` needs.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

/// Serves until the process ends.
pub struct ChatServer {
    address: std::net::SocketAddr,
}

impl ChatServer {
    /// `answer` makes an HTTP status and the model's text, or the error's, from a caption.
    pub fn start(answer: impl Fn(&str) -> (u16, String) + Send + Sync + Clone + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("the port's address");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = answer.clone();
                // A worker that was killed reads no answer.
                std::thread::spawn(move || drop(serve(stream, &answer)));
            }
        });
        ChatServer { address }
    }

    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

/// One request for each connection.
fn serve(stream: TcpStream, answer: &impl Fn(&str) -> (u16, String)) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let request: Value = serde_json::from_slice(&body)?;
    let last = request["messages"].as_array().and_then(|messages| messages.last());
    let caption = last.and_then(|message| message["content"].as_str()).unwrap_or_default();
    let (status, text) = answer(caption);
    let body = match status {
        200 => json!({ "choices": [{ "index": 0, "message": { "role": "assistant", "content": text } }] }),
        _ => json!({ "error": { "message": text } }),
    };
    let body = body.to_string();
    let head =
        format!("HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    reader.get_mut().write_all((head + &body).as_bytes())
}

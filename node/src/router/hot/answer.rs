//! Answers as bytes, as hyper would write them.

use std::{io::Write as _, time::SystemTime};

use axum::{body::to_bytes, http::header, response::Response};

/// Answers that wait to be written.
#[derive(Debug, Default)]
pub(super) struct Answers {
    bytes: Vec<u8>,
    body: Vec<u8>,
    date: Date,
    last_given: bool,
}

impl Answers {
    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// What waits.
    pub(super) fn written(&self) -> &[u8] {
        &self.bytes
    }

    /// Nothing waits any more.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(super::KEPT_BYTES);
        self.body.shrink_to(super::KEPT_BYTES);
    }

    /// Whether an answer said that it is the connection's last.
    pub(super) fn is_last_given(&self) -> bool {
        self.last_given
    }

    /// Adds a 200 with a body in JSON; `closing` makes it the connection's last.
    pub(super) fn put_json(&mut self, closing: bool, write: impl FnOnce(&mut Vec<u8>)) {
        self.body.clear();
        write(&mut self.body);
        self.bytes.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n");
        self.end_head(closing);
    }

    /// Adds an answer as the router gives it; `closing` makes it the connection's last.
    pub(super) async fn put(&mut self, closing: bool, response: Response) {
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
        self.body.clear();
        self.body.extend_from_slice(&body);
        let reason = parts.status.canonical_reason().unwrap_or_default();
        self.bytes.extend_from_slice(b"HTTP/1.1 ");
        self.put_text(format_args!("{} {reason}\r\n", parts.status.as_u16()));
        let closes = parts.headers.contains_key(header::CONNECTION);
        for (name, value) in parts.headers.iter().filter(|(name, _)| **name != header::CONTENT_LENGTH) {
            self.bytes.extend_from_slice(name.as_str().as_bytes());
            self.bytes.extend_from_slice(b": ");
            self.bytes.extend_from_slice(value.as_bytes());
            self.bytes.extend_from_slice(b"\r\n");
        }
        self.end_head(closing && !closes);
        self.last_given |= closes;
    }

    fn end_head(&mut self, closing: bool) {
        self.bytes.extend_from_slice(b"content-length: ");
        self.put_text(format_args!("{}\r\n", self.body.len()));
        if closing {
            self.bytes.extend_from_slice(b"connection: close\r\n");
            self.last_given = true;
        }
        self.bytes.extend_from_slice(b"date: ");
        self.bytes.extend_from_slice(self.date.now().as_bytes());
        self.bytes.extend_from_slice(b"\r\n\r\n");
        self.bytes.extend_from_slice(&self.body);
    }

    fn put_text(&mut self, text: std::fmt::Arguments<'_>) {
        self.bytes.write_fmt(text).expect("memory takes everything");
    }
}

/// The date in its header, made once a second.
#[derive(Debug, Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
        let now = SystemTime::now();
        let second = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if self.second != second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        &self.text
    }
}

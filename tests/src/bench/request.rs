//! Requests, prepared before anything is measured.
//!
//! Every key has the same length, so one request serves for all keys: only the place where the key stands is
//! written anew.

use std::{borrow::Cow, net::SocketAddr};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};

/// There are no more. A letter and eight digits are nine bytes, so that in base64 a key needs no padding.
const KEYS_AT_MOST: u64 = 100_000_000;

/// The `number`-th key.
#[must_use]
pub fn key(number: u64) -> String {
    format!("k{number:08}")
}

/// How a key stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyForm {
    /// As it is.
    Plain,
    /// In base64.
    Base64,
}

impl KeyForm {
    /// A key in this form.
    fn of(self, number: u64) -> Cow<'static, str> {
        let key = key(number);
        match self {
            Self::Plain => key.into(),
            Self::Base64 => STANDARD.encode(key).into(),
        }
    }
}

/// The bytes of a request, for any key.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    key_at: usize,
    form: KeyForm,
}

impl Request {
    /// A request whose bytes were written for key 0.
    ///
    /// # Errors
    /// When that key does not stand in them exactly once.
    pub fn new(bytes: Vec<u8>, form: KeyForm) -> anyhow::Result<Self> {
        let key = form.of(0);
        let mut places = memchr::memmem::find_iter(&bytes, key.as_bytes());
        let key_at = places.next().context("a request without its key")?;
        ensure!(places.next().is_none(), "a request that names its key twice");
        Ok(Self { bytes, key_at, form })
    }

    /// `POST` of a JSON body.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn post(address: SocketAddr, path: &str, body: &str, form: KeyForm) -> anyhow::Result<Self> {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n");
        Self::new(format!("{head}Content-Length: {length}\r\n\r\n{body}").into_bytes(), form)
    }

    /// `PUT` of bytes, under the path `/kv/<key>`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn put(address: SocketAddr, value: &[u8]) -> anyhow::Result<Self> {
        let (key, length) = (key(0), value.len());
        let head = format!("PUT /kv/{key} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/octet-stream\r\n");
        let head = format!("{head}Content-Length: {length}\r\n\r\n").into_bytes();
        Self::new([&head, value].concat(), KeyForm::Plain)
    }

    /// `GET` of a path.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Self> {
        Self::new(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes(), KeyForm::Plain)
    }

    /// Commands to Redis, each with its arguments.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn redis(commands: &[&[&str]]) -> anyhow::Result<Self> {
        let mut text = String::new();
        for arguments in commands {
            text += &format!("*{}\r\n", arguments.len());
            for argument in *arguments {
                text += &format!("${}\r\n{argument}\r\n", argument.len());
            }
        }
        Self::new(text.into_bytes(), KeyForm::Plain)
    }

    /// `Put` of etcd's gRPC service: a message of protocol buffers behind its length.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn etcd_put(value: &str) -> anyhow::Result<Self> {
        let mut message = Vec::new();
        for (field, content) in [(1, key(0).as_bytes()), (2, value.as_bytes())] {
            // The type of a field of so many bytes is 2.
            message.push(field << 3 | 2);
            varint(content.len(), &mut message);
            message.extend_from_slice(content);
        }
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.len()).context("so long a value")?.to_be_bytes());
        bytes.append(&mut message);
        Self::new(bytes, KeyForm::Plain)
    }

    /// The request for a key.
    pub fn for_key(&mut self, number: u64) -> &[u8] {
        debug_assert!(number < KEYS_AT_MOST, "keys have the same length");
        let key = self.form.of(number);
        self.bytes[self.key_at..self.key_at + key.len()].copy_from_slice(key.as_bytes());
        &self.bytes
    }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn varint(mut number: usize, bytes: &mut Vec<u8>) {
    loop {
        let low = u8::try_from(number & 0x7f).expect("seven bits");
        number >>= 7;
        if number == 0 {
            return bytes.push(low);
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: ([u8; 4], u16) = ([127, 0, 0, 1], 5000);

    #[test]
    fn only_the_key_changes() {
        let body = format!(r#"{{"key":"{}","value":"v"}}"#, key(0));
        let mut request = Request::post(ADDRESS.into(), "/set", &body, KeyForm::Plain).expect("one key");
        let text = String::from_utf8(request.for_key(1_234_567).to_vec()).expect("text");
        assert_eq!(
            text,
            "POST /set HTTP/1.1\r\nHost: 127.0.0.1:5000\r\nContent-Type: application/json\r\nContent-Length: 31\r\n\r\n\
             {\"key\":\"k01234567\",\"value\":\"v\"}"
        );
        assert!(request.for_key(0).ends_with(body.as_bytes()));
    }

    #[test]
    fn a_put_carries_its_value_as_it_is() {
        let mut request = Request::put(ADDRESS.into(), &[0, 255]).expect("one key");
        let head = b"PUT /kv/k00000012 HTTP/1.1\r\nHost: 127.0.0.1:5000\r\n";
        let end = b"Content-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\n\x00\xff";
        assert_eq!(request.for_key(12), [&head[..], end].concat());
    }

    #[test]
    fn a_key_in_base64_keeps_its_length() {
        let body = format!(r#"{{"key":"{}"}}"#, STANDARD.encode(key(0)));
        let mut request = Request::post(ADDRESS.into(), "/v3/kv/put", &body, KeyForm::Base64).expect("one key");
        let wanted = format!(r#"{{"key":"{}"}}"#, STANDARD.encode("k00000042"));
        assert!(request.for_key(42).ends_with(wanted.as_bytes()));
        assert!(!wanted.contains('='));
    }

    #[test]
    fn commands_to_redis_say_how_long_they_are() {
        let mut request = Request::redis(&[&["SET", &key(0), "v"], &["WAIT", "3", "5000"]]).expect("one key");
        let wanted = "*3\r\n$3\r\nSET\r\n$9\r\nk00000007\r\n$1\r\nv\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n3\r\n$4\r\n5000\r\n";
        assert_eq!(request.for_key(7), wanted.as_bytes());
    }

    #[test]
    fn a_put_to_etcd_is_a_message_behind_its_length() {
        let value = "v".repeat(300);
        let mut request = Request::etcd_put(&value).expect("one key");
        let mut wanted = vec![0, 0, 0, 1, 58, 0x0a, 9];
        wanted.extend(b"k00000003");
        // 300 is 2 * 128 + 44.
        wanted.extend([0x12, 0x80 | 44, 2]);
        wanted.extend(value.as_bytes());
        assert_eq!(request.for_key(3), wanted);
    }

    #[test]
    fn a_request_that_does_not_name_its_key_once_is_refused() {
        for path in ["/get/none", "/get/k00000000/k00000000"] {
            Request::get(ADDRESS.into(), path).expect_err(path);
        }
    }
}

//! How values look in JSON: a value that is JSON text as itself, any other in base64, and marked as that.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use quorumkv_protocol::Format;

/// Appends a text as a JSON string.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).expect("a text can be written to memory");
}

/// Appends the text of a key, which was checked before it entered the log.
pub(super) fn put_key(out: &mut Vec<u8>, key: &[u8]) {
    put_text(out, std::str::from_utf8(key).expect("keys are UTF-8"));
}

/// Appends a value as JSON: bytes that are no JSON as a string in base64.
pub(super) fn put_json(out: &mut Vec<u8>, format: Format, value: &[u8]) {
    match format {
        Format::Json => out.extend_from_slice(value),
        Format::Raw => {
            out.push(b'"');
            out.extend_from_slice(BASE64.encode(value).as_bytes());
            out.push(b'"');
        }
    }
}

/// Appends a value as a field of an object: `"value":…` or `"base64":"…"`.
pub(super) fn put_field(out: &mut Vec<u8>, format: Format, value: &[u8]) {
    out.extend_from_slice(match format {
        Format::Json => br#""value":"#,
        Format::Raw => br#""base64":"#,
    });
    put_json(out, format, value);
}

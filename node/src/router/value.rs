//! Values are kept byte for byte, so what a reader could not parse must not come in.

use serde_json::value::RawValue;

use crate::answer::ApiError;

/// How deep arrays and objects may nest in a value. `GET /get_all` adds two levels, and parsers that give up
/// do so at 128 (serde_json) or later.
const MAX_DEPTH: usize = 100;

/// The text of a value that every JSON parser reads.
pub(super) fn checked_value(value: &RawValue) -> Result<&str, ApiError> {
    let text = value.get();
    if is_deeper_than(MAX_DEPTH, text) {
        let error = format!("the value nests deeper than {MAX_DEPTH} levels, which many JSON parsers do not read");
        return Err(ApiError::bad_request(error));
    }
    Ok(text)
}

/// Whether valid JSON text nests deeper than so many levels.
fn is_deeper_than(levels: usize, text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > levels {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::flat("7", 0)]
    #[case::array("[1,[2],[3]]", 2)]
    #[case::object(r#"{"a":{"b":[]}}"#, 3)]
    #[case::brackets_in_a_string(r#""[[[[""#, 0)]
    #[case::an_escaped_quote(r#"["\"[[[", 1]"#, 1)]
    #[case::an_escaped_backslash(r#"["\\",[1]]"#, 2)]
    fn depth_is_counted_outside_strings(#[case] text: &str, #[case] depth: usize) {
        assert!(!is_deeper_than(depth, text));
        assert!(depth == 0 || is_deeper_than(depth - 1, text));
    }
}

//! What clients present where nodes ask for a token.

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

/// The variable that programs take a token from.
pub const VARIABLE: &str = "QUORUMKV_TOKEN";

/// A token that can be sent in no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is a line of visible ASCII characters")]
pub struct NoToken;

/// The headers of every request of a client with this token; none without one.
///
/// # Errors
/// When it cannot be sent.
pub fn headers(token: Option<&str>) -> Result<HeaderMap, NoToken> {
    let mut headers = HeaderMap::new();
    if let Some(token) = token {
        let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).ok().filter(|_| visible).ok_or(NoToken)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_as_it_is_or_refused() {
        assert_eq!(headers(Some("t0ken")).expect("one")[AUTHORIZATION], "Bearer t0ken");
        assert!(headers(None).expect("none").is_empty());
        for wrong in ["", "two words", "a\n", "\u{e4}"] {
            assert_eq!(headers(Some(wrong)), Err(NoToken), "{wrong:?}");
        }
    }
}

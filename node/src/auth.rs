//! The bearer token of the peer port and of `POST /replicate`.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};

use crate::answer::ApiError;

/// What callers have to present, if anything.
#[derive(Debug, Clone, Default)]
pub struct Token(Option<Arc<str>>);

impl Token {
    /// The configured token.
    #[must_use]
    pub fn new(token: Option<&str>) -> Self {
        Self(token.map(Arc::from))
    }

    /// Checks a request's headers.
    ///
    /// # Errors
    /// 401 when a token is configured and the request presents none or another one.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let Some(expected) = &self.0 else { return Ok(()) };
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        match presented {
            Some(presented) if equal(presented, expected.as_bytes()) => Ok(()),
            Some(_) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "the peer token is wrong")),
            None => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "the peer token is missing (Authorization: Bearer <token>)",
            )),
        }
    }
}

/// Compares in a time that does not tell how much of a guess was right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, None, true)]
    #[case(None, Some("Bearer x"), true)]
    #[case(Some("secret"), Some("Bearer secret"), true)]
    #[case(Some("secret"), Some("Bearer secreT"), false)]
    #[case(Some("secret"), Some("Bearer secret2"), false)]
    #[case(Some("secret"), Some("secret"), false)]
    #[case(Some("secret"), None, false)]
    fn a_configured_token_is_required(
        #[case] configured: Option<&str>,
        #[case] header: Option<&'static str>,
        #[case] accepted: bool,
    ) {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(header));
        }
        let checked = Token::new(configured).check(&headers);
        assert_eq!(checked.is_ok(), accepted);
        assert!(checked.err().is_none_or(|error| error.status == StatusCode::UNAUTHORIZED));
    }
}

//! Bearer tokens: the cluster's own, for the peer port and `POST /replicate`, and those of clients.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use subtle::ConstantTimeEq as _;

use crate::answer::ApiError;

mod clients;
mod files;

pub(crate) use self::clients::Access;
pub use self::{
    clients::ClientTokens,
    files::{TokenFileError, TokenFiles},
};

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
        match presented(authorization(headers)?) {
            Some(presented) if equal(presented, expected.as_bytes()) => Ok(()),
            Some(_) => Err(ApiError::new(StatusCode::UNAUTHORIZED, "the peer token is wrong")),
            None => Err(ApiError::new(
                StatusCode::UNAUTHORIZED,
                "the peer token is missing (Authorization: Bearer <token>)",
            )),
        }
    }

    /// Whether there is a token, and it is this one.
    fn is(&self, presented: &[u8]) -> bool {
        self.0.as_deref().is_some_and(|token| equal(presented, token.as_bytes()))
    }
}

/// The header `Authorization`.
///
/// # Errors
/// 401 when there is more than one: who reads another one than this node would be fooled.
pub(crate) fn authorization(headers: &HeaderMap) -> Result<Option<&[u8]>, ApiError> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value.map(|value| value.as_bytes())),
        _ => Err(ApiError::new(StatusCode::UNAUTHORIZED, "there is more than one header Authorization")),
    }
}

/// The token in the header `Authorization`. The scheme's name may be written in any case.
fn presented(authorization: Option<&[u8]>) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let (scheme, token) = authorization?.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(token)
}

/// Compares in a time that does not tell how much of a guess was right.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(None, &[], true)]
    #[case(None, &["Bearer x"], true)]
    #[case(Some("secret"), &["Bearer secret"], true)]
    #[case(Some("secret"), &["bearer secret"], true)]
    #[case(Some("secret"), &["Bearer secreT"], false)]
    #[case(Some("secret"), &["Bearer secret2"], false)]
    #[case(Some("secret"), &["Bearer  secret"], false)]
    #[case(Some("secret"), &["Bearer "], false)]
    #[case(Some("secret"), &["Basic secret"], false)]
    #[case(Some("secret"), &["secret"], false)]
    #[case(Some("secret"), &["Bearer secret", "Bearer guess"], false)]
    #[case(Some("secret"), &[], false)]
    fn a_configured_token_is_required(
        #[case] configured: Option<&str>,
        #[case] presented: &[&'static str],
        #[case] accepted: bool,
    ) {
        let mut headers = HeaderMap::new();
        for value in presented {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        let checked = Token::new(configured).check(&headers);
        assert_eq!(checked.is_ok(), accepted);
        assert!(checked.err().is_none_or(|error| error.status == StatusCode::UNAUTHORIZED));
    }
}

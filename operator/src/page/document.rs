//! The page itself: one document with everything in it, so that nothing has to be fetched from elsewhere.

use std::sync::LazyLock;

use axum::{
    http::{HeaderName, header},
    response::{Html, IntoResponse, Response},
};
use rand::RngExt;

const TEMPLATE: &str = include_str!("web/page.html");
const STYLE: &str = include_str!("web/page.css");
const SCRIPT: &str =
    concat!(include_str!("web/charts.js"), include_str!("web/topology.js"), include_str!("web/page.js"));

static DOCUMENT: LazyLock<String> =
    LazyLock::new(|| TEMPLATE.replacen("/*style*/", STYLE, 1).replacen("/*script*/", SCRIPT, 1));

/// Headers of every answer.
pub(super) const HEADERS: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// `GET /`. Only what carries the nonce of this answer is applied and run.
pub(super) async fn document() -> Response {
    let nonce: u128 = rand::rng().random();
    let nonce = format!("{nonce:032x}");
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(DOCUMENT.replace("{nonce}", &nonce))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_whole_and_names_nothing_outside() {
        assert_eq!(DOCUMENT.matches("nonce=\"{nonce}\"").count(), 2, "one style, one script");
        assert!(!DOCUMENT.contains("/*style*/") && !DOCUMENT.contains("/*script*/"));
        let namespace = DOCUMENT.matches("http://www.w3.org/2000/svg").count();
        let elsewhere = DOCUMENT.matches("http://").count() + DOCUMENT.matches("https://").count();
        assert_eq!(elsewhere, namespace, "no address but the name of SVG");
        assert!(!DOCUMENT.contains(" style=\""), "the policy would not apply it");
    }
}

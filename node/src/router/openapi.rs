//! `GET /openapi.json`: what this port understands, for programs.

use axum::{body::Body, response::Response};

use super::reads::json;

/// The document. Tests hold every route against it, and every answer that they get.
pub(super) const DOCUMENT: &str = include_str!("../../openapi.json");

pub(super) async fn openapi() -> Response {
    json(Body::from(DOCUMENT))
}

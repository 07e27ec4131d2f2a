//! Keeps other web sites out: a page in the same browser must neither read a store nor change it.
//!
//! A name that somebody else may let point here (DNS rebinding) is not answered: hosts are addresses,
//! `localhost`, or names that were allowed. A change must come from a page of this origin and be JSON, which no
//! form of another site can send.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use quorumkv_api::lab::ErrorReply;

use super::{document::HEADERS, source::Refused};

/// The names under which a page is served, besides `localhost` and addresses.
#[derive(Debug, Clone, Default)]
pub struct Hosts(Arc<[String]>);

impl Hosts {
    /// Allows these names too.
    pub fn allowing(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()).collect())
    }

    fn allow(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
        host == "localhost" || address.parse::<IpAddr>().is_ok() || self.0.contains(&host)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorReply { error: self.error, ..ErrorReply::default() })).into_response()
    }
}

/// In front of every route.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match check(&hosts, request.method(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn check(hosts: &Hosts, method: &Method, headers: &HeaderMap) -> Result<(), Refused> {
    let text = |name: &header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let authority: Option<Authority> = text(&header::HOST).and_then(|host| host.parse().ok());
    let authority = authority.filter(|authority| hosts.allow(authority.host()));
    let Some(authority) = authority else {
        let error = "this host name is not served: use an address or localhost, or allow the name";
        return Err(Refused::new(StatusCode::MISDIRECTED_REQUEST, error));
    };
    if matches!(*method, Method::GET | Method::HEAD) {
        return Ok(());
    }
    let elsewhere = Refused::new(StatusCode::FORBIDDEN, "changes are taken from this page only, not from other sites");
    // Behind a proxy that speaks TLS, the scheme differs.
    let own = |origin: &str| {
        let origin = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        origin.is_some_and(|origin| origin.eq_ignore_ascii_case(authority.as_str()))
    };
    // Programs that are no browsers send no origin.
    if headers.contains_key(header::ORIGIN) && !text(&header::ORIGIN).is_some_and(own) {
        return Err(elsewhere);
    }
    let site = headers.get("sec-fetch-site");
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Err(elsewhere);
    }
    let kind = text(&header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).map(str::trim);
    if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/json")) {
        return Err(Refused::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send content-type: application/json"));
    }
    Ok(())
}

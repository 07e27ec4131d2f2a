//! Texts into values, each refusal saying what is allowed.

use std::{str::FromStr as _, time::Duration};

use quorumkv_api::settings::parse_duration;

use crate::{
    codec::MAX_PAYLOAD_BYTES,
    wire::compression::{Compression, SMALLEST},
};

/// The URL with its scheme and port replaced.
pub(super) fn with_port(url: &str, scheme: &str, port: u16) -> String {
    let mut parsed = reqwest::Url::from_str(url).expect("parse_url accepted it");
    parsed.set_scheme(scheme).expect("http and https are of one kind");
    parsed.set_port(Some(port)).expect("an http URL with a host takes a port");
    parsed.as_str().trim_end_matches('/').to_owned()
}

pub(super) fn parse_url(text: &str) -> Result<String, String> {
    parse_http(text, &["http"], "write http://host:port, without a path")
}

fn parse_http(text: &str, schemes: &[&str], allowed: &str) -> Result<String, String> {
    let url = reqwest::Url::from_str(text).map_err(|error| format!("{error}; {allowed}"))?;
    let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !schemes.contains(&url.scheme()) || url.host_str().is_none() || !bare || !url.username().is_empty() {
        return Err(allowed.to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// As [`parse_url`], and nothing for nothing: an empty variable, or a comma at the end of the list.
pub(super) fn parse_optional_url(text: &str) -> Result<Option<String>, String> {
    match text.trim() {
        "" => Ok(None),
        text => parse_url(text).map(Some),
    }
}

/// As [`parse_optional_url`]; with TLS it begins with https.
pub(super) fn parse_optional_peer_url(text: &str) -> Result<Option<String>, String> {
    match text.trim() {
        "" => Ok(None),
        text => parse_http(text, &["http", "https"], "write http://host:port or https://host:port, without a path")
            .map(Some),
    }
}

pub(super) fn parse_seconds(text: &str) -> Result<Duration, String> {
    let allowed = "write seconds (0.15) or a duration with its unit (150ms), at most one hour";
    let duration = match f64::from_str(text) {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| allowed.to_owned())?,
        Err(_) => parse_duration(text).map_err(|_| allowed.to_owned())?,
    };
    if duration > Duration::from_secs(3600) {
        return Err(allowed.to_owned());
    }
    Ok(duration)
}

/// `off` and 0 are the same.
pub(super) fn parse_compression(text: &str) -> Result<Compression, String> {
    match usize::from_str(text) {
        _ if text == "off" => Ok(Compression::Off),
        Ok(0) => Ok(Compression::Off),
        Ok(bytes) if (SMALLEST..=MAX_PAYLOAD_BYTES).contains(&bytes) => Ok(Compression::Above(bytes)),
        _ => Err(format!("write a number of bytes from {SMALLEST} to {MAX_PAYLOAD_BYTES}, or off")),
    }
}

/// Connections are looked at once in a while only, which a shorter time would not be told from.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let duration = parse_seconds(text)?;
    if duration < Duration::from_secs(1) {
        return Err("write at least one second".to_owned());
    }
    Ok(duration)
}

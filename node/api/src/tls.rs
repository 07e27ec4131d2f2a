//! TLS on the peer port: whom a node shows itself as, whom it trusts, and connections to others.
//!
//! All nodes of a store carry one DNS name in their certificates, since their addresses change: a peer is accepted when
//! its certificate has that name and leads to one of the trusted authorities. Who may ask for what is not decided
//! here: that is the bearer token's work, which is sent only after the peer's certificate was accepted.
//!
//! Only TLS 1.3 is spoken, with ring. Sessions are never resumed, so that every connection sees the certificates
//! that are in force when it begins.

mod bundle;
mod connect;

use std::sync::Arc;

use rustls::{
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use sha2::{Digest as _, Sha256};

pub use self::{
    bundle::{Authorities, Bundle, Credentials},
    connect::ClientTls,
};

/// Name of the certificate's file, and key in a Secret of type `kubernetes.io/tls`: the certificate first, then those
/// that lead to an authority.
pub const CERTIFICATE: &str = "tls.crt";
/// The same for the private key.
pub const KEY: &str = "tls.key";
/// The same for the certificates of trusted authorities.
pub const AUTHORITIES: &str = "ca.crt";

/// Why certificates or a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Nothing to verify names by.
    #[error("{0:?} is no DNS name")]
    Name(String),
    /// A part is not what it should be.
    #[error("{part} cannot be read as PEM: {reason}")]
    Pem {
        /// Which one.
        part: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A part is empty.
    #[error("{part} holds no {what}")]
    Missing {
        /// Which one.
        part: &'static str,
        /// What it should hold.
        what: &'static str,
    },
    /// The certificate speaks of another key.
    #[error("the key in {KEY} is not that of the certificate in {CERTIFICATE}")]
    OtherKey,
    /// The key is of no known kind.
    #[error("the key in {KEY} cannot be used: {0}")]
    Key(String),
    /// Too late.
    #[error("the certificate in {CERTIFICATE} expired at {0}")]
    Expired(jiff::Timestamp),
    /// Peers would refuse it.
    #[error("peers would refuse the certificate in {CERTIFICATE}: {0}")]
    Refused(String),
}

/// The DNS name that all certificates of a store carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName(ServerName<'static>);

impl PeerName {
    /// Reads it.
    ///
    /// # Errors
    /// When it is no DNS name.
    pub fn parse(name: &str) -> Result<Self, TlsError> {
        match ServerName::try_from(name.to_owned()) {
            Ok(name @ ServerName::DnsName(_)) => Ok(Self(name)),
            _ => Err(TlsError::Name(name.to_owned())),
        }
    }
}

/// SHA-256 of a certificate, in hexadecimal: what `openssl x509 -fingerprint -sha256` shows, without colons.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    Sha256::digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A moment, as certificates are judged at it.
fn unix_time(at: jiff::Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(u64::try_from(at.as_second()).unwrap_or(0)))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests;

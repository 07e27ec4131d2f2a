//! Certificates and key as they lie in files or in a Secret, and what they are once checked.

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use rustls::{
    CertificateError, ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier, danger::ServerCertVerifier as _},
    pki_types::{
        CertificateDer, PrivateKeyDer, UnixTime,
        pem::{self, PemObject as _},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use super::{AUTHORITIES, CERTIFICATE, KEY, PeerName, TlsError, fingerprint, provider, unix_time};
use crate::peer::TlsReport;

/// The first second of the year 10000, after which no certificate is valid.
const END_OF_TIME: u64 = 253_402_300_800;

/// What the three files or keys hold, unchecked.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bundle {
    /// [`CERTIFICATE`].
    pub certificate: Vec<u8>,
    /// [`KEY`].
    pub key: Vec<u8>,
    /// [`AUTHORITIES`].
    pub authorities: Vec<u8>,
}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bundle").finish_non_exhaustive()
    }
}

impl Bundle {
    /// What it holds, if a node with it is accepted by others with it now.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn check(&self, name: &PeerName, now: Timestamp) -> Result<Credentials, TlsError> {
        let authorities = Authorities::parse(&self.authorities)?;
        let chain = certificates(CERTIFICATE, &self.certificate)?;
        let (not_before, not_after) = authorities.accept(&chain, name, now)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| match error {
            pem::Error::NoItemsFound => TlsError::Missing { part: KEY, what: "private key" },
            error => TlsError::Pem { part: KEY, reason: error.to_string() },
        })?;
        let own = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => TlsError::OtherKey,
            error => TlsError::Key(error.to_string()),
        })?;
        Ok(Credentials { authorities, own: Arc::new(own), not_before, not_after })
    }
}

/// Whom a node shows itself as, and whom it trusts.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Whom it trusts.
    pub authorities: Authorities,
    own: Arc<CertifiedKey>,
    /// Since when others accept it.
    pub not_before: Timestamp,
    /// Until when others accept it.
    pub not_after: Timestamp,
}

impl Credentials {
    /// What a server needs that shows this certificate.
    ///
    /// # Panics
    /// Never: ring speaks TLS 1.3.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let resolver = SingleCertAndKey::from(Arc::clone(&self.own));
        let mut config =
            builder.expect("ring speaks TLS 1.3").with_no_client_auth().with_cert_resolver(Arc::new(resolver));
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// What is told to a manager.
    #[must_use]
    pub fn report(&self) -> TlsReport {
        TlsReport {
            authorities: self.authorities.fingerprints(),
            certificate: self.own.cert.first().map(fingerprint).unwrap_or_default(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }
}

/// Authorities whose word is taken for who a peer is.
#[derive(Debug, Clone)]
pub struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
}

impl Authorities {
    /// Reads [`AUTHORITIES`].
    ///
    /// # Errors
    /// When there is no certificate, or one that cannot be read.
    pub fn parse(pem: &[u8]) -> Result<Self, TlsError> {
        let certificates = certificates(AUTHORITIES, pem)?;
        let mut roots = RootCertStore::empty();
        for certificate in &certificates {
            let added = roots.add(certificate.clone());
            added.map_err(|error| TlsError::Pem { part: AUTHORITIES, reason: error.to_string() })?;
        }
        Ok(Self { certificates, roots: Arc::new(roots) })
    }

    /// Of every certificate, in order.
    #[must_use]
    pub fn fingerprints(&self) -> Vec<String> {
        self.certificates.iter().map(fingerprint).collect()
    }

    /// Judges a certificate as a peer would, and tells from when to when it does so.
    fn accept(
        &self,
        chain: &[CertificateDer<'_>],
        name: &PeerName,
        now: Timestamp,
    ) -> Result<(Timestamp, Timestamp), TlsError> {
        let (own, others) = chain.split_first().ok_or(TlsError::Missing { part: CERTIFICATE, what: "certificate" })?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&self.roots), provider()).build();
        let verifier = verifier.map_err(|error| TlsError::Refused(error.to_string()))?;
        let verify = |at| verifier.verify_server_cert(own, others, &name.0, &[], at);
        verify(unix_time(now)).map_err(|error| match expiry(&error) {
            Some(not_after) => TlsError::Expired(not_after),
            None => TlsError::Refused(error.to_string()),
        })?;
        // The verifier tells a certificate's dates only to who comes too early or too late; it looks at them first.
        let at = |seconds| verify(UnixTime::since_unix_epoch(Duration::from_secs(seconds))).err();
        let not_before = at(0).as_ref().and_then(beginning).unwrap_or(Timestamp::UNIX_EPOCH);
        Ok((not_before, at(END_OF_TIME).as_ref().and_then(expiry).unwrap_or(Timestamp::MAX)))
    }

    /// What a client needs that trusts these.
    pub(super) fn client_config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.expect("ring speaks TLS 1.3").with_root_certificates(Arc::clone(&self.roots));
        let mut config = builder.with_no_client_auth();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

fn expiry(error: &rustls::Error) -> Option<Timestamp> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => timestamp(*not_after),
        _ => None,
    }
}

fn beginning(error: &rustls::Error) -> Option<Timestamp> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
            timestamp(*not_before)
        }
        _ => None,
    }
}

fn timestamp(time: UnixTime) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(time.as_secs()).ok()?).ok()
}

fn certificates(part: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let read = read.map_err(|error| TlsError::Pem { part, reason: error.to_string() })?;
    if read.is_empty() { Err(TlsError::Missing { part, what: "certificate" }) } else { Ok(read) }
}

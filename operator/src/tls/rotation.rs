//! What the Secret holds, and the order in which certificates are replaced.
//!
//! 1. The new authority is put beside the old one, and the new certificate with its key is laid by.
//! 2. Once every node trusts both authorities, the new certificate takes the place of the old one.
//! 3. Once every node shows it, the old authority is taken away.
//!
//! At each moment whatever certificate a node shows is trusted by all others. Where one stands is in the Secret alone,
//! so that another operator can go on.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Resource as _, ResourceExt as _};
use quorumkv_api::{
    peer::TlsReport,
    tls::{AUTHORITIES, Authorities, Bundle, CERTIFICATE, Credentials, KEY, PeerName, TlsError},
};

use super::make::Made;
use crate::{
    build::names,
    validate::{ValidCluster, ValidTls},
};

/// Annotation on the Secret that asks for a new certificate. It goes when one is begun.
pub const RENEW: &str = "quorumkv.io/renew";
/// The certificate that is laid by.
const NEXT_CERTIFICATE: &str = "next.crt";
/// Its key.
const NEXT_KEY: &str = "next.key";
/// Ends a certificate.
const END: &[u8] = b"-----END CERTIFICATE-----";

/// What a Secret holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// What nodes load.
    pub bundle: Bundle,
    /// Certificate and key that come next.
    pub next: Option<(Vec<u8>, Vec<u8>)>,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// A new authority beside the old one.
    Begin,
    /// Nodes have not all loaded what is there.
    Wait,
    /// The new certificate instead of the old one.
    Switch,
    /// The new authority alone.
    Finish,
}

impl Contents {
    /// Of a Secret; what is not there is empty.
    #[must_use]
    pub fn of(secret: &Secret) -> Self {
        let part = |name: &str| secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.clone());
        let must = |name| part(name).unwrap_or_default();
        let bundle = Bundle { certificate: must(CERTIFICATE), key: must(KEY), authorities: must(AUTHORITIES) };
        Self { bundle, next: part(NEXT_CERTIFICATE).zip(part(NEXT_KEY)) }
    }

    /// What begins with something new; `last` is what nodes may have in force, if others still accept that.
    #[must_use]
    pub fn renewed(made: Made, last: Option<&Self>) -> Self {
        let Made { certificate, key, authority } = made;
        match last {
            None => Self { bundle: Bundle { certificate, key, authorities: authority }, next: None },
            Some(last) => {
                let Bundle { certificate: shown, key: its_key, authorities } = last.bundle.clone();
                let authorities = [with_newline(authority), authorities].concat();
                let bundle = Bundle { certificate: shown, key: its_key, authorities };
                Self { bundle, next: Some((certificate, key)) }
            }
        }
    }

    /// After [`Step::Switch`].
    #[must_use]
    pub fn switched(self) -> Self {
        match self.next {
            Some((certificate, key)) => Self { bundle: Bundle { certificate, key, ..self.bundle }, next: None },
            None => self,
        }
    }

    /// After [`Step::Finish`]: the first authority alone, which is that of the certificate.
    #[must_use]
    pub fn finished(mut self) -> Self {
        let authorities = &mut self.bundle.authorities;
        if let Some(at) = authorities.windows(END.len()).position(|window| window == END) {
            authorities.truncate(at + END.len());
            authorities.push(b'\n');
        }
        self
    }

    /// Whether peers accept each other with this, now. Too late is told apart from all else: none.
    ///
    /// # Errors
    /// When it can never be used.
    pub fn check(&self, name: &PeerName, now: Timestamp) -> Result<Option<Credentials>, TlsError> {
        match self.bundle.check(name, now) {
            Ok(credentials) => Ok(Some(credentials)),
            Err(TlsError::Expired(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is next for a Secret that the operator keeps. `asked`: somebody wants a new certificate. `reports`: what
    /// each node that runs has in force; none of one that does not say.
    ///
    /// # Errors
    /// When it can never be used.
    pub fn step(
        &self,
        name: &PeerName,
        asked: bool,
        reports: &[Option<TlsReport>],
        now: Timestamp,
    ) -> Result<Step, TlsError> {
        let credentials = self.check(name, now)?;
        let authorities = Authorities::parse(&self.bundle.authorities)?.fingerprints();
        // A certificate that is refused everywhere is worth waiting for nobody.
        let all = |has: &dyn Fn(&TlsReport) -> bool| {
            credentials.is_none() || reports.iter().all(|report| report.as_ref().is_some_and(has))
        };
        if self.next.is_some() {
            let trusted = all(&|report| authorities.iter().all(|authority| report.authorities.contains(authority)));
            return Ok(if trusted { Step::Switch } else { Step::Wait });
        }
        let Some(credentials) = &credentials else { return Ok(Step::Begin) };
        if authorities.len() > 1 {
            let own = credentials.report().certificate;
            return Ok(if all(&|report| report.certificate == own) { Step::Finish } else { Step::Wait });
        }
        Ok(if asked || left(credentials, now) < 1.0 / 3.0 { Step::Begin } else { Step::Stay })
    }

    /// Changes whenever nodes have something to load.
    #[must_use]
    pub fn version(&self) -> String {
        let Bundle { certificate, authorities, .. } = &self.bundle;
        format!("{:016x}", crate::build::fnv1a(&[certificate.as_slice(), authorities].concat()))
    }

    /// The Secret that the operator keeps; it replaces the one of this version, or is new.
    #[must_use]
    pub fn secret(&self, cluster: &ValidCluster, tls: &ValidTls, replaces: Option<String>) -> Secret {
        let Self { bundle: Bundle { certificate, key, authorities }, next } = self.clone();
        let mut data: BTreeMap<String, ByteString> =
            [(CERTIFICATE, certificate), (KEY, key), (AUTHORITIES, authorities)]
                .map(|(name, bytes)| (name.to_owned(), ByteString(bytes)))
                .into();
        if let Some((certificate, key)) = next {
            data.insert(NEXT_CERTIFICATE.to_owned(), ByteString(certificate));
            data.insert(NEXT_KEY.to_owned(), ByteString(key));
        }
        let mut secret = Secret {
            metadata: names::metadata(cluster, tls.secret.clone()),
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        secret.meta_mut().resource_version = replaces;
        secret
    }
}

/// Whether a Secret asks for a new certificate.
#[must_use]
pub fn is_asked(secret: &Secret) -> bool {
    secret.annotations().contains_key(RENEW)
}

/// How much of a certificate's life is left, from 1 to 0.
#[must_use]
pub fn left(credentials: &Credentials, now: Timestamp) -> f64 {
    let whole = credentials.not_after.duration_since(credentials.not_before).as_secs_f64();
    if whole <= 0.0 { 0.0 } else { (credentials.not_after.duration_since(now).as_secs_f64() / whole).clamp(0.0, 1.0) }
}

fn with_newline(mut pem: Vec<u8>) -> Vec<u8> {
    if !pem.ends_with(b"\n") {
        pem.push(b'\n');
    }
    pem
}

#[cfg(test)]
mod tests;

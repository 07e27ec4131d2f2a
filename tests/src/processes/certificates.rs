//! Certificates for the peer ports of a lab, in folders that its nodes read.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use quorumkv_api::{
    client::PeerClient,
    tls::{AUTHORITIES, Authorities, CERTIFICATE, ClientTls, KEY, PeerName},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// DNS name in every certificate.
const NAME: &str = "lab-nodes.test.svc";

/// Vouches for nodes.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new() -> anyhow::Result<Self> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, format!("lab {:x}", rand::random::<u64>()));
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?))
    }
}

/// A folder with the certificate that nodes show, and those of whom they trust. Clones are the same folder.
#[derive(Debug, Clone)]
pub struct Certificates {
    folder: Arc<TempDir>,
    client: ClientTls,
}

impl Certificates {
    /// Of nodes that this authority vouches for, and that trust no other.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn of(authority: &Authority) -> anyhow::Result<Self> {
        let folder = Arc::new(tempfile::tempdir().context("a folder for certificates")?);
        let authorities = Authorities::parse(authority.0.pem().as_bytes())?;
        let certificates = Self { folder, client: ClientTls::new(PeerName::parse(NAME)?, &authorities) };
        certificates.trust(&[authority])?;
        certificates.show(authority)?;
        Ok(certificates)
    }

    /// From now on nodes show a new certificate, for which this authority vouches.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn show(&self, authority: &Authority) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([NAME.to_owned()])?.signed_by(&key, &authority.0)?;
        self.put(CERTIFICATE, &certificate.pem())?;
        self.put(KEY, &key.serialize_pem())
    }

    /// From now on nodes, and clients made by [`Self::client`], trust these and no others.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn trust(&self, authorities: &[&Authority]) -> anyhow::Result<()> {
        let pem: String = authorities.iter().map(|authority| authority.0.pem()).collect();
        self.client.trust(&Authorities::parse(pem.as_bytes())?);
        self.put(AUTHORITIES, &pem)
    }

    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        fs::write(self.folder.path().join(name), text).with_context(|| format!("write {name}"))
    }

    /// Environment of a node.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("PEER_TLS_DIR", self.folder.path().display().to_string()), ("PEER_TLS_NAME", NAME.to_owned())]
    }

    /// Arguments of the lab's programs that make them trust the nodes.
    #[must_use]
    pub fn arguments(&self) -> [String; 4] {
        let file: PathBuf = self.folder.path().join(AUTHORITIES);
        ["--peer-ca".to_owned(), file.display().to_string(), "--peer-name".to_owned(), NAME.to_owned()]
    }

    /// A client that trusts the nodes.
    #[must_use]
    pub fn client(&self, token: Option<String>, timeout: Duration) -> PeerClient {
        PeerClient::secured(token, timeout, self.client.clone())
    }
}

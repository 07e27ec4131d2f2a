//! TLS on this node's peer port, from files that may change while it runs.
//!
//! Someone else renews the files: cert-manager, the operator, a person. Whatever is usable takes effect with the next
//! connection, in both directions at once; connections that are up stay. What is not usable is left, and said so.

mod accept;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use jiff::Timestamp;
use quorumkv_api::{
    peer::TlsReport,
    tls::{self, Bundle, ClientTls, Credentials, PeerName, TlsError},
};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};
use tracing::{info, warn};

use crate::metrics::Metrics;

/// How often the files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why this node cannot speak TLS.
#[derive(Debug, thiserror::Error)]
pub enum PeerTlsError {
    /// A file cannot be read.
    #[error("{}: {source}", .file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What is in the files cannot be used.
    #[error(transparent)]
    Unusable(#[from] TlsError),
}

/// TLS on the peer port: what is in force. Clones share it.
#[derive(Debug, Clone)]
pub struct PeerTls {
    directory: PathBuf,
    name: PeerName,
    client: ClientTls,
    shown: Arc<RwLock<Shown>>,
}

#[derive(Debug)]
struct Shown {
    bundle: Bundle,
    config: Arc<ServerConfig>,
    report: TlsReport,
}

impl Shown {
    fn new(bundle: Bundle, credentials: &Credentials) -> Self {
        Self { bundle, config: credentials.server_config(), report: credentials.report() }
    }
}

impl PeerTls {
    /// Loads `tls.crt`, `tls.key` and `ca.crt` of this directory. `name` is what the certificates of all nodes carry.
    ///
    /// # Errors
    /// When a file cannot be read, or peers would refuse what is in them.
    pub fn load(directory: &Path, name: &str) -> Result<Self, PeerTlsError> {
        let name = PeerName::parse(name)?;
        let bundle = read(directory)?;
        let credentials = bundle.check(&name, Timestamp::now())?;
        Ok(Self {
            directory: directory.to_owned(),
            client: ClientTls::new(name.clone(), &credentials.authorities),
            name,
            shown: Arc::new(RwLock::new(Shown::new(bundle, &credentials))),
        })
    }

    /// Opens connections to other nodes.
    #[must_use]
    pub fn client(&self) -> &ClientTls {
        &self.client
    }

    /// What is in force.
    #[must_use]
    pub fn report(&self) -> TlsReport {
        self.shown.read().unwrap_or_else(PoisonError::into_inner).report.clone()
    }

    /// What a new connection is opened with.
    fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner).config).into()
    }

    /// Looks at the files again and again.
    pub async fn keep_fresh(self, metrics: Arc<Metrics>) {
        metrics.certificate_in_force(&self.report());
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut troubled = Trouble::default();
        loop {
            ticks.tick().await;
            let tls = self.clone();
            let Ok((troubled_now, outcome)) = tokio::task::spawn_blocking(move || tls.look(troubled)).await else {
                // The runtime is ending.
                return;
            };
            troubled = troubled_now;
            match outcome {
                Look::Same => {}
                Look::Loaded(report) => {
                    let TlsReport { certificate, not_after, authorities, .. } = &report;
                    info!(certificate, %not_after, authorities = authorities.len(), "loaded certificates");
                    metrics.certificates_loaded();
                    metrics.certificate_in_force(&report);
                }
                Look::Refused(error) => {
                    warn!(directory = %self.directory.display(), %error, "new certificates are left, the last good ones stay in force");
                    metrics.certificates_refused();
                }
            }
        }
    }

    /// Looks once. Several files are not replaced at one moment, so that trouble is told only when it is the same
    /// the next time.
    fn look(&self, before: Trouble) -> (Trouble, Look) {
        let bundle = match read(&self.directory) {
            Ok(bundle) => bundle,
            Err(error) => return before.again(Trouble::new(None, &error)),
        };
        if self.shown.read().unwrap_or_else(PoisonError::into_inner).bundle == bundle {
            return (Trouble::default(), Look::Same);
        }
        match bundle.check(&self.name, Timestamp::now()) {
            Ok(credentials) => {
                let shown = Shown::new(bundle, &credentials);
                let report = shown.report.clone();
                // First what is trusted: who hears of the new certificate knows that its authority is.
                self.client.trust(&credentials.authorities);
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown;
                (Trouble::default(), Look::Loaded(report))
            }
            Err(error) => before.again(Trouble::new(Some(bundle), &error.into())),
        }
    }
}

#[derive(Debug)]
enum Look {
    Same,
    Loaded(TlsReport),
    Refused(String),
}

/// What is wrong with files that were found.
#[derive(Debug, Default)]
struct Trouble {
    bundle: Option<Bundle>,
    error: Option<String>,
    told: bool,
}

impl Trouble {
    fn new(bundle: Option<Bundle>, error: &PeerTlsError) -> Self {
        Self { bundle, error: Some(error.to_string()), told: false }
    }

    /// Seen after `self`: is told when it is the same as that, once.
    fn again(self, mut now: Self) -> (Self, Look) {
        let same = (&self.bundle, &self.error) == (&now.bundle, &now.error);
        now.told = same;
        match now.error.clone().filter(|_| same && !self.told) {
            Some(error) => (now, Look::Refused(error)),
            None => (now, Look::Same),
        }
    }
}

fn read(directory: &Path) -> Result<Bundle, PeerTlsError> {
    let read = |name| {
        let file = directory.join(name);
        std::fs::read(&file).map_err(|source| PeerTlsError::File { file, source })
    };
    Ok(Bundle { certificate: read(tls::CERTIFICATE)?, key: read(tls::KEY)?, authorities: read(tls::AUTHORITIES)? })
}

#[cfg(test)]
pub(crate) mod tests;

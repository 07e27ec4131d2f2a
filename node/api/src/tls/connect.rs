//! Connections to peers.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Authorities, PeerName};

/// Opens TLS connections to peers of one store. Clones share what is trusted.
#[derive(Debug, Clone)]
pub struct ClientTls {
    name: PeerName,
    config: Arc<RwLock<Arc<ClientConfig>>>,
}

impl ClientTls {
    /// Accepts peers with this name that one of these authorities vouches for.
    #[must_use]
    pub fn new(name: PeerName, authorities: &Authorities) -> Self {
        Self { name, config: Arc::new(RwLock::new(authorities.client_config())) }
    }

    /// From now on, trusts these instead. Connections that are up stay.
    pub fn trust(&self, authorities: &Authorities) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = authorities.client_config();
    }

    /// Turns a connection into one whose other end has shown who it is.
    ///
    /// # Errors
    /// When the peer's certificate is refused, or it does not speak TLS.
    pub async fn connect<Io: AsyncRead + AsyncWrite + Unpin>(&self, io: Io) -> io::Result<TlsStream<Io>> {
        let config = Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsConnector::from(config).connect(self.name.0.clone(), io).await
    }
}

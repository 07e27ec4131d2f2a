//! What the client port remembers of a connection: whether this node led while it was used.
//!
//! A client that keeps a connection to the leader takes every answer on it for the leader's. Once the node has
//! stepped down such a read is refused as a linearizable one is, and the connection closed: the next one finds
//! whoever leads, or is a follower's from its beginning.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::request::Parts,
    serve::Listener,
};
use quorumkv_api::lab::Role;
use tokio::net::{TcpListener, TcpStream};
use tracing::warn;

use super::ClientPort;

/// One connection. A handler that takes it notes on it whether the node leads.
#[derive(Debug, Clone, Default)]
pub struct Connection {
    met_leader: Arc<AtomicBool>,
}

impl Connection {
    /// Notes whether the node leads, at the beginning of a request.
    pub(super) fn note(&self, port: &ClientPort) {
        if port.driver.view.borrow().role == Role::Leader {
            self.met_leader.store(true, Ordering::Relaxed);
        }
    }

    /// Whether this node led when it got a request on this connection, now or earlier.
    pub(super) fn met_leader(&self) -> bool {
        self.met_leader.load(Ordering::Relaxed)
    }
}

/// Hands out connections without Nagle's delay.
pub(crate) struct Undelayed(pub(crate) TcpListener);

impl Listener for Undelayed {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        let (tcp, from) = Listener::accept(&mut self.0).await;
        if let Err(error) = tcp.set_nodelay(true) {
            warn!(%error, "a connection keeps Nagle's delay");
        }
        (tcp, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl FromRequestParts<ClientPort> for Connection {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, port: &ClientPort) -> Result<Self, Infallible> {
        let known = parts.extensions.get::<ConnectInfo<Self>>();
        let connection = known.map_or_else(Self::default, |ConnectInfo(connection)| connection.clone());
        connection.note(port);
        Ok(connection)
    }
}

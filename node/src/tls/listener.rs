//! Hands out connections once their TLS handshake is over; a slow one holds up no other.

use std::{io, net::SocketAddr, time::Duration};

use axum::serve::Listener;
use quorumkv_api::peer::{PeerError, Refusal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::server::TlsStream;
use tracing::debug;

use super::PeerTls;
use crate::router::Undelayed;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Handshakes under way at once; who comes then waits in the system's queue.
const MOST_HANDSHAKES: usize = 128;
/// With what a TLS connection begins: a record of the kind "handshake".
const FIRST_BYTE: u8 = 0x16;

/// A port that speaks TLS.
pub(crate) struct TlsListener {
    tcp: Undelayed,
    tls: PeerTls,
    handshakes: JoinSet<Option<(TlsStream<TcpStream>, SocketAddr)>>,
}

impl TlsListener {
    pub(crate) fn new(tcp: Undelayed, tls: PeerTls) -> Self {
        Self { tcp, tls, handshakes: JoinSet::new() }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            tokio::select! {
                (tcp, from) = self.tcp.accept(), if self.handshakes.len() < MOST_HANDSHAKES => {
                    self.handshakes.spawn(open(tcp, from, self.tls.clone()));
                }
                Some(ended) = self.handshakes.join_next() => {
                    if let Ok(Some(opened)) = ended {
                        return opened;
                    }
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn open(tcp: TcpStream, from: SocketAddr, tls: PeerTls) -> Option<(TlsStream<TcpStream>, SocketAddr)> {
    let opening = async {
        let mut first = [0];
        let read = tcp.peek(&mut first).await?;
        if read > 0 && first[0] != FIRST_BYTE {
            refuse(tcp).await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks no TLS"));
        }
        tls.acceptor().accept(tcp).await
    };
    match timeout(HANDSHAKE, opening).await {
        Ok(Ok(stream)) => return Some((stream, from)),
        Ok(Err(error)) => debug!(%from, %error, "a connection was refused"),
        Err(_) => debug!(%from, "a handshake took too long"),
    }
    None
}

/// Tells a client that speaks HTTP without TLS what is wrong.
async fn refuse(mut tcp: TcpStream) -> io::Result<()> {
    let error = "this port speaks TLS: use https".to_owned();
    let refusal = PeerError { error, reason: Refusal::Invalid, promised: quorumkv_api::Epoch(0) };
    let body = serde_json::to_string(&refusal)?;
    let length = body.len();
    // What it sent is read first: closing a connection with unread bytes would tear the answer from its hands.
    let mut sent = vec![0; 16 * 1024];
    if tcp.read(&mut sent).await? == 0 {
        return Ok(());
    }
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n";
    tcp.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes()).await?;
    tcp.shutdown().await
}

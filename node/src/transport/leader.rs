//! The leader's end of a stream: dial, upgrade, greet, replicate.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use quorumkv_api::{Epoch, NodeId, lab::Role, peer::PeerAddress, tls::ClientTls};
use quorumkv_protocol::{FollowerMessage, Hello, StreamId, Welcome};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream, lookup_host},
    sync::mpsc,
};
use tracing::info;

use super::{HANDSHAKE, PROTOCOL, Payloads, StreamError, write_all};
use crate::{
    failpoint::{Failpoint, reached},
    handle::{Command, DriverHandle},
    metrics::Direction,
    outbox,
    wire::{
        self, FollowerFrame,
        compression::{Compression, ENCODING},
        read_follower_frame,
    },
};

/// How a leader reaches its followers.
#[derive(Debug, Clone, Default)]
pub struct Dial {
    /// What it presents.
    pub token: Option<String>,
    /// Where it comes from, if that is not the system's choice.
    pub source: Option<IpAddr>,
    /// What it compresses for those who read that.
    pub compression: Compression,
    /// Whom it accepts, if it speaks TLS.
    pub tls: Option<ClientTls>,
}

impl Dial {
    async fn reach(&self, authority: &str) -> std::io::Result<TcpStream> {
        let Some(source) = self.source else { return TcpStream::connect(authority).await };
        let mut failed = std::io::Error::other(format!("{authority} has no address that {source} can reach"));
        for address in lookup_host(authority).await?.filter(|address| address.is_ipv4() == source.is_ipv4()) {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            socket.bind(SocketAddr::new(source, 0))?;
            match socket.connect(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// Opens a stream to a follower and serves it until it ends; whether it was ever up.
///
/// # Errors
/// The reason why it could not be opened or broke, and whether it was up before.
pub async fn run(
    driver: &DriverHandle,
    peer: &PeerAddress,
    hello: &Hello,
    dial: &Dial,
) -> Result<(), (bool, StreamError)> {
    let opening = async {
        let (io, compression) = tokio::time::timeout(HANDSHAKE, connect(&peer.peer_url, dial))
            .await
            .map_err(|_| StreamError::Silent(HANDSHAKE))??;
        let (read, mut write) = tokio::io::split(io);
        let hello = wire::hello(hello);
        write.write_all(&hello).await.map_err(StreamError::Write)?;
        driver.metrics.stream_bytes(Direction::Sent).add(hello.len(), hello.len());
        write.flush().await.map_err(StreamError::Write)?;
        let mut payloads = Payloads::new(read, driver.metrics.stream_bytes(Direction::Received));
        let first = first_answer(&mut payloads).await?;
        Ok((payloads, write, compression, first))
    };
    let (mut payloads, write, compression, first) = opening.await.map_err(|error| (false, error))?;
    let stream = driver.next_stream();
    let node = &peer.node;
    let welcome = match first {
        FollowerMessage::Welcome(welcome) => welcome,
        message => {
            let told = driver.send(Command::FromFollower { peer: node.clone(), stream, message }).await;
            told.map_err(|stopped| (false, stopped.into()))?;
            return Err((false, StreamError::Unexpected("the follower promised a higher epoch")));
        }
    };
    info!(follower = %node, epoch = %hello.epoch, copy = %welcome.storage_id, ?compression, "the stream is up");
    let served = serve(driver, node, stream, (hello.epoch, welcome), &mut payloads, (write, compression)).await;
    served.map_err(|error| {
        driver.metrics.stream_broke(Role::Leader);
        (true, error)
    })
}

async fn serve(
    driver: &DriverHandle,
    node: &NodeId,
    stream: StreamId,
    (epoch, welcome): (Epoch, Welcome),
    payloads: &mut Payloads<impl AsyncRead + Unpin>,
    (write, compression): (impl AsyncWrite + Unpin, Compression),
) -> Result<(), StreamError> {
    let (outbound, queue) = mpsc::channel(outbox::QUEUE);
    // However this ends, also by being dropped, the core has to hear of it.
    let _down = Down { driver: driver.clone(), peer: node.clone(), stream };
    reached(Failpoint::StreamWelcomed);
    driver.send(Command::StreamUp { peer: node.clone(), stream, epoch, welcome, outbound }).await?;
    let sent = driver.metrics.stream_bytes(Direction::Sent);
    tokio::select! {
        read = read_all(driver, node, stream, payloads) => read,
        written = write_all(write, queue, compression, sent) => written,
    }
}

async fn read_all(
    driver: &DriverHandle,
    node: &NodeId,
    stream: StreamId,
    payloads: &mut Payloads<impl AsyncRead + Unpin>,
) -> Result<(), StreamError> {
    while let Some(payload) = payloads.next().await? {
        match read_follower_frame(payload)? {
            FollowerFrame::Message(message) => {
                driver.send(Command::FromFollower { peer: node.clone(), stream, message }).await?;
            }
            FollowerFrame::Alive => {}
        }
    }
    Ok(())
}

/// Reports the end of a stream.
struct Down {
    driver: DriverHandle,
    peer: NodeId,
    stream: StreamId,
}

impl Drop for Down {
    fn drop(&mut self) {
        let (driver, peer, stream) = (self.driver.clone(), self.peer.clone(), self.stream);
        // The queue may be full, and a drop cannot wait. Without a runtime the process is ending.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { driver.send(Command::StreamDown { peer, stream }).await });
        }
    }
}

async fn first_answer(payloads: &mut Payloads<impl AsyncRead + Unpin>) -> Result<FollowerMessage, StreamError> {
    loop {
        if let FollowerFrame::Message(message) = read_follower_frame(payloads.first().await?)? {
            return Ok(message);
        }
    }
}

/// Connects to a peer port and upgrades the connection; also what may be compressed on it.
async fn connect(
    peer_url: &str,
    dial: &Dial,
) -> Result<(impl AsyncRead + AsyncWrite + Unpin, Compression), StreamError> {
    let address = || StreamError::Address { url: peer_url.to_owned() };
    let mismatch = |reason| StreamError::Scheme { url: peer_url.to_owned(), reason };
    let (scheme, authority) = peer_url.split_once("://").ok_or_else(address)?;
    let authority = authority.trim_end_matches('/');
    let (default_port, tls) = match (scheme, &dial.tls) {
        ("http", None) => (":80", None),
        ("https", Some(tls)) => (":443", Some(tls)),
        ("http", Some(_)) => return Err(mismatch("this node speaks TLS, and to nobody without it")),
        ("https", None) => return Err(mismatch("this node does not speak TLS: PEER_TLS_DIR is not set")),
        _ => return Err(address()),
    };
    let default_port = if authority.contains(':') { "" } else { default_port };
    let tcp = dial.reach(&format!("{authority}{default_port}")).await.map_err(StreamError::Connect)?;
    tcp.set_nodelay(true).map_err(StreamError::Connect)?;
    match tls {
        None => upgrade(tcp, peer_url, authority, dial).await,
        Some(tls) => upgrade(tls.connect(tcp).await.map_err(StreamError::Tls)?, peer_url, authority, dial).await,
    }
}

/// Asks for the stream on a fresh connection.
async fn upgrade(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer_url: &str,
    authority: &str,
    dial: &Dial,
) -> Result<(TokioIo<Upgraded>, Compression), StreamError> {
    let address = || StreamError::Address { url: peer_url.to_owned() };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let connection = tokio::spawn(connection.with_upgrades());
    let mut request = Request::get("/stream")
        .header(header::HOST, authority)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, PROTOCOL);
    if let Some(token) = &dial.token {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| address())?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request.body(Body::empty()).map_err(|_| address())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let status = response.status();
        let body = axum::body::to_bytes(Body::new(response.into_body()), 4096).await.unwrap_or_default();
        connection.abort();
        return Err(StreamError::Refused { status, text: String::from_utf8_lossy(&body).into_owned() });
    }
    let compression = if announced(response.headers()) { dial.compression } else { Compression::Off };
    Ok((TokioIo::new(hyper::upgrade::on(response).await?), compression))
}

/// Whether a follower reads compressed frames.
fn announced(answer: &HeaderMap) -> bool {
    let values = answer.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case(ENCODING))
}

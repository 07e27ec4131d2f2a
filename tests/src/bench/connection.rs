//! One connection to a server, with one request under way at a time.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use hyper::{Method, StatusCode, header::HeaderMap};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{answer::Expected, request::Request};

/// Where requests go, what they are, and what they must be answered with.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server.
    pub address: SocketAddr,
    /// The request.
    pub request: Request,
    /// The answer.
    pub expected: Expected,
}

/// A connection.
pub enum Connection {
    /// Of bytes, one answer after the other.
    Stream(Stream),
    /// Of HTTP/2.
    Grpc(Grpc),
}

/// A connection of bytes.
pub struct Stream {
    tcp: TcpStream,
    request: Request,
    expected: Expected,
    input: Vec<u8>,
}

/// A connection of HTTP/2.
pub struct Grpc {
    sender: SendRequest<Bytes>,
    request: Request,
    head: hyper::Request<()>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(target: &Target) -> anyhow::Result<Self> {
        let Target { address, request, expected } = target.clone();
        let tcp = TcpStream::connect(address).await.with_context(|| format!("no connection to {address}"))?;
        tcp.set_nodelay(true)?;
        if !matches!(expected, Expected::Grpc) {
            return Ok(Self::Stream(Stream { tcp, request, expected, input: Vec::with_capacity(4096) }));
        }
        let (sender, connection) = h2::client::handshake(tcp).await.context("HTTP/2")?;
        // It ends with the last sender; what went wrong with it, the requests tell.
        tokio::spawn(connection);
        let head = hyper::Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}/etcdserverpb.KV/Put"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .context("the head of a request")?;
        Ok(Self::Grpc(Grpc { sender, request, head }))
    }

    /// Sends the request for a key and waits for the answer; what is wrong with it, if anything is.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is no answer.
    pub async fn exchange(&mut self, key: u64) -> anyhow::Result<Option<String>> {
        match self {
            Self::Stream(stream) => stream.exchange(key).await,
            Self::Grpc(grpc) => grpc.exchange(key).await,
        }
    }
}

impl Stream {
    async fn exchange(&mut self, key: u64) -> anyhow::Result<Option<String>> {
        let Self { tcp, request, expected, input } = self;
        tcp.write_all(request.for_key(key)).await.context("a request")?;
        loop {
            if tcp.read_buf(input).await.context("an answer")? == 0 {
                bail!("the server closed the connection");
            }
            if let Some(answer) = expected.take(input)? {
                ensure!(answer.bytes == input.len(), "more than the answer came");
                input.clear();
                return Ok(answer.failure);
            }
        }
    }
}

impl Grpc {
    async fn exchange(&mut self, key: u64) -> anyhow::Result<Option<String>> {
        let Self { sender, request, head } = self;
        let mut ready = sender.clone().ready().await.context("HTTP/2")?;
        let (response, mut body) = ready.send_request(head.clone(), false).context("a request")?;
        body.send_data(Bytes::copy_from_slice(request.for_key(key)), true).context("a request")?;
        let (head, mut body) = response.await.context("an answer")?.into_parts();
        while let Some(part) = body.data().await {
            let part = part.context("an answer")?;
            body.flow_control().release_capacity(part.len()).context("HTTP/2")?;
        }
        let trailers = body.trailers().await.context("the end of an answer")?;
        // An answer that is nothing but an error has its status in the head.
        Ok(wrong(head.status, trailers.as_ref().unwrap_or(&head.headers)))
    }
}

fn wrong(status: StatusCode, trailers: &HeaderMap) -> Option<String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let good = status == StatusCode::OK && text("grpc-status") == "0";
    (!good).then(|| format!("{status}, gRPC status {}: {}", text("grpc-status"), text("grpc-message")))
}

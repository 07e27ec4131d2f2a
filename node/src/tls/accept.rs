//! The beginning of a connection to a port that speaks TLS. How long it may take is the affair of whoever lets
//! connections in.

use std::io;

use quorumkv_api::peer::{PeerError, Refusal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::server::TlsStream;

use super::PeerTls;

/// With what a TLS connection begins: a record of the kind "handshake".
const FIRST_BYTE: u8 = 0x16;

impl PeerTls {
    /// Takes up a connection with the certificate that is in force now. Who speaks HTTP without TLS is told so.
    ///
    /// # Errors
    /// When the client goes, or speaks no TLS, or not as it is spoken here.
    pub(crate) async fn accept(&self, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let mut first = [0];
        let read = tcp.peek(&mut first).await?;
        if read > 0 && first[0] != FIRST_BYTE {
            refuse(tcp).await?;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks no TLS"));
        }
        self.acceptor().accept(tcp).await
    }
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

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::tls::{Authorities, PeerName};

/// A server without TLS that answers every request the same; what it is sent.
async fn plain_server() -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let heard = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.expect("a connection");
        let mut heard = vec![0; 4096];
        let read = tcp.read(&mut heard).await.expect("something is sent");
        heard.truncate(read);
        tcp.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
        heard
    });
    (address, heard)
}

fn secured() -> PeerClient {
    let key = rcgen::KeyPair::generate().expect("a key");
    let own = rcgen::CertificateParams::default().self_signed(&key).expect("a certificate");
    let authorities = Authorities::parse(own.pem().as_bytes()).expect("an authority");
    let tls = ClientTls::new(PeerName::parse("demo-nodes.default.svc").expect("a name"), &authorities);
    PeerClient::secured(Some("secret".to_owned()), Duration::from_secs(5), tls)
}

#[tokio::test]
async fn the_token_is_not_sent_to_who_shows_no_certificate() {
    let (address, heard) = plain_server().await;
    let error = secured().state(&format!("https://{address}")).await.expect_err("it speaks no TLS");
    assert!(matches!(error, CallError::Unreachable { .. }), "{error}");
    let heard = String::from_utf8_lossy(&heard.await.expect("no panic")).into_owned();
    assert!(!heard.contains("secret"), "{heard}");
}

#[tokio::test]
async fn nothing_at_all_is_sent_without_tls() {
    let (address, heard) = plain_server().await;
    let error = secured().state(&format!("http://{address}")).await.expect_err("no https").to_string();
    assert!(error.contains("not https"), "{error}");
    assert!(!heard.is_finished(), "nobody connected");
}

use std::net::SocketAddr;

use axum::{Json, Router, routing::get};
use quorumkv_api::{client::PeerClient, tls::Authorities};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    connections::{Door, http},
    limits::Limits,
    metrics::{connections::Ended, requests::Port},
};

const SOON: Duration = Duration::from_secs(10);
pub(crate) const NAME: &str = "demo-nodes.default.svc";

pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut parameters = CertificateParams::default();
        // Of two with one name, a signature would be said to be wrong, and not its maker to be unknown.
        parameters.distinguished_name.push(rcgen::DnType::CommonName, uuid::Uuid::new_v4().to_string());
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    /// Writes files that trust all of `trusted` and show a certificate of this one.
    pub(crate) fn write(&self, directory: &Path, trusted: &[&Self]) {
        let key = KeyPair::generate().expect("a key");
        let parameters = CertificateParams::new([NAME.to_owned()]).expect("a name");
        let certificate = parameters.signed_by(&key, &self.0).expect("a certificate");
        let put = |name, text: String| std::fs::write(directory.join(name), text).expect("written");
        put(tls::CERTIFICATE, certificate.pem());
        put(tls::KEY, key.serialize_pem());
        Self::trust(directory, trusted);
    }

    pub(crate) fn trust(directory: &Path, trusted: &[&Self]) {
        let all: String = trusted.iter().map(|authority| authority.0.pem()).collect();
        std::fs::write(directory.join(tls::AUTHORITIES), all).expect("written");
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The same files twice, as they are seen when nobody writes them any more.
fn look_twice(tls: &PeerTls) -> Look {
    let (trouble, first) = tls.look(Trouble::default());
    match first {
        Look::Same => tls.look(trouble).1,
        first => first,
    }
}

/// A peer port that tells its own certificate.
async fn serve(tls: PeerTls) -> SocketAddr {
    Site::new(tls).await.address
}

struct Site {
    address: SocketAddr,
    metrics: Metrics,
    until: CancellationToken,
    serving: JoinHandle<()>,
}

impl Site {
    async fn new(tls: PeerTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shown = tls.clone();
        let router = Router::new().route("/tls", get(async move || Json(shown.report())));
        let limits = Limits { peer_connections: 2, head_timeout: Duration::from_secs(1), ..Limits::default() };
        let (metrics, until) = (Metrics::default(), CancellationToken::new());
        let door = Door::new(Port::Peer, &limits, &metrics);
        let serving = tokio::spawn(http::listen(listener, Some(tls), router, door, until.clone()));
        Self { address, metrics, until, serving }
    }

    fn ended(&self, limit: Ended) -> u64 {
        self.metrics.connections.of(Port::Peer).count(limit)
    }

    /// A connection in the middle of its handshake.
    async fn half_a_handshake(&self) -> TcpStream {
        let mut tcp = TcpStream::connect(self.address).await.expect("a connection");
        tcp.write_all(&[0x16, 3, 1]).await.expect("the beginning of a record");
        tcp
    }
}

/// What comes until the connection is closed; nothing may, for it would be no TLS.
async fn closed(mut tcp: TcpStream) {
    let ended = timeout(SOON, tcp.read(&mut [0; 16])).await;
    assert!(matches!(ended, Ok(Ok(0) | Err(_))), "{ended:?}");
}

fn client(of: &PeerTls) -> PeerClient {
    PeerClient::secured(None, Duration::from_secs(5), of.client().clone())
}

#[test]
fn without_files_or_with_wrong_ones_nothing_is_loaded() {
    let (folder, authority) = (folder(), Authority::new());
    let error = |name| PeerTls::load(folder.path(), name).expect_err("not usable").to_string();
    assert!(error(NAME).contains("tls.crt"), "{}", error(NAME));
    authority.write(folder.path(), &[&authority]);
    assert!(error("other").contains("peers would refuse"), "{}", error("other"));
    assert!(error("10.0.0.7").contains("no DNS name"), "{}", error("10.0.0.7"));
    PeerTls::load(folder.path(), NAME).expect("usable");
}

#[tokio::test]
async fn new_files_take_effect_under_connections_that_stay() {
    let (folder, old, new) = (folder(), Authority::new(), Authority::new());
    old.write(folder.path(), &[&old]);
    let tls = PeerTls::load(folder.path(), NAME).expect("usable");
    let before = tls.report();
    let url = format!("https://{}", serve(tls.clone()).await);
    let kept = client(&tls);
    assert_eq!(kept.tls(&url).await.expect("an answer"), before);

    // First everyone trusts the new authority, then certificates are of it, then the old one is forgotten.
    Authority::trust(folder.path(), &[&new, &old]);
    assert!(matches!(look_twice(&tls), Look::Loaded(_)));
    assert_eq!(tls.report().certificate, before.certificate);
    new.write(folder.path(), &[&new, &old]);
    assert!(matches!(look_twice(&tls), Look::Loaded(_)));
    assert_ne!(tls.report().certificate, before.certificate);
    new.write(folder.path(), &[&new]);
    assert!(matches!(look_twice(&tls), Look::Loaded(_)));
    assert!(matches!(look_twice(&tls), Look::Same));

    // One whose connection is older, one that connects now, and one that still trusts the old authority alone.
    assert_eq!(kept.tls(&url).await.expect("its connection is up"), tls.report());
    assert_eq!(client(&tls).tls(&url).await.expect("an answer"), tls.report());
    let pem = old.0.pem();
    let only_old =
        ClientTls::new(PeerName::parse(NAME).expect("a name"), &Authorities::parse(pem.as_bytes()).expect("one"));
    let late = PeerClient::secured(None, Duration::from_secs(5), only_old);
    let refusal = late.tls(&url).await.expect_err("it does not know the new one").to_string();
    assert!(refusal.contains("UnknownIssuer"), "{refusal}");
}

#[test]
fn what_cannot_be_used_is_told_once_and_the_last_good_stays() {
    let (folder, one, other) = (folder(), Authority::new(), Authority::new());
    one.write(folder.path(), &[&one]);
    let tls = PeerTls::load(folder.path(), NAME).expect("usable");
    let before = tls.report();
    // As while somebody copies one file after the other.
    Authority::trust(folder.path(), &[&other]);
    let (trouble, seen) = tls.look(Trouble::default());
    assert!(matches!(seen, Look::Same), "it may be in the making: {seen:?}");
    let (trouble, seen) = tls.look(trouble);
    let Look::Refused(error) = seen else { panic!("it stays so: {seen:?}") };
    assert!(error.contains("UnknownIssuer"), "{error}");
    let (trouble, seen) = tls.look(trouble);
    assert!(matches!(seen, Look::Same), "told once: {seen:?}");
    assert_eq!(tls.report(), before);
    std::fs::remove_file(folder.path().join(tls::KEY)).expect("removed");
    let (trouble, _) = tls.look(trouble);
    let (trouble, seen) = tls.look(trouble);
    assert!(matches!(&seen, Look::Refused(error) if error.contains("tls.key")), "{seen:?}");
    other.write(folder.path(), &[&other]);
    assert!(matches!(tls.look(trouble).1, Look::Loaded(_)));
}

#[tokio::test]
async fn who_speaks_no_tls_is_told_so() {
    let (folder, authority) = (folder(), Authority::new());
    authority.write(folder.path(), &[&authority]);
    let address = serve(PeerTls::load(folder.path(), NAME).expect("usable")).await;
    let answer = reqwest::get(format!("http://{address}/tls")).await.expect("an answer");
    assert_eq!(answer.status(), 400);
    let text = answer.text().await.expect("a body");
    assert!(text.contains("this port speaks TLS"), "{text}");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_holds_up_nobody() {
    let (folder, authority) = (folder(), Authority::new());
    authority.write(folder.path(), &[&authority]);
    let tls = PeerTls::load(folder.path(), NAME).expect("usable");
    let site = Site::new(tls.clone()).await;
    let slow = site.half_a_handshake().await;
    client(&tls).tls(&format!("https://{}", site.address)).await.expect("an answer");
    closed(slow).await;
    assert_eq!(site.ended(Ended::head), 1, "{:?}", site.metrics.connections);
    let slow = site.half_a_handshake().await;
    // It may not have been let in before that.
    client(&tls).tls(&format!("https://{}", site.address)).await.expect("an answer");
    site.until.cancel();
    timeout(Duration::from_millis(700), site.serving).await.expect("nobody waits for it").expect("no panic");
    closed(slow).await;
}

#[tokio::test]
async fn who_finds_no_place_is_told_nothing_that_is_no_tls() {
    let (folder, authority) = (folder(), Authority::new());
    authority.write(folder.path(), &[&authority]);
    let site = Site::new(PeerTls::load(folder.path(), NAME).expect("usable")).await;
    // Two that may be open, and the reserve.
    let mut held = Vec::new();
    for _ in 0..66 {
        held.push(TcpStream::connect(site.address).await.expect("a connection"));
    }
    closed(TcpStream::connect(site.address).await.expect("a connection")).await;
    assert_eq!(site.ended(Ended::full), 65, "the reserve, and one that was closed");
}

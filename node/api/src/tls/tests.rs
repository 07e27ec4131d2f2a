use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;

use super::*;

const NAME: &str = "demo-nodes.default.svc";

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut parameters = CertificateParams::default();
    // Of two with one name, a signature would be said to be wrong, and not its maker to be unknown.
    parameters.distinguished_name.push(rcgen::DnType::CommonName, uuid::Uuid::new_v4().to_string());
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate for this name, valid from 2020 until the beginning of a year.
fn leaf(ca: &Ca, name: &str, until: i32) -> Bundle {
    let mut parameters = CertificateParams::new([name.to_owned()]).expect("a name");
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(until, 1, 1);
    let key = KeyPair::generate().expect("a key");
    let certificate = parameters.signed_by(&key, ca).expect("a certificate");
    Bundle {
        certificate: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
        authorities: ca.pem().into_bytes(),
    }
}

fn name() -> PeerName {
    PeerName::parse(NAME).expect("a name")
}

fn now() -> Timestamp {
    "2030-06-01T00:00:00Z".parse().expect("a time")
}

fn checked(bundle: &Bundle) -> Credentials {
    bundle.check(&name(), now()).expect("good")
}

#[test]
fn a_good_bundle_says_until_when_it_is_good() {
    let ca = ca();
    let mut bundle = leaf(&ca, NAME, 2040);
    bundle.authorities.extend(self::ca().pem().into_bytes());
    let report = checked(&bundle).report();
    assert_eq!(report.not_before, "2020-01-01T00:00:00Z".parse().expect("a time"));
    assert_eq!(report.not_after, "2040-01-01T00:00:00Z".parse().expect("a time"));
    assert_eq!((report.authorities.len(), report.certificate.len()), (2, 64));
    assert_eq!(report.authorities[0], fingerprint(ca.der()));
}

#[rstest]
#[case::no_certificate(|b: &mut Bundle| b.certificate = b"nothing".to_vec(), "tls.crt holds no certificate")]
#[case::no_authority(|b: &mut Bundle| b.authorities.clear(), "ca.crt holds no certificate")]
#[case::no_key(|b: &mut Bundle| b.key.clear(), "tls.key holds no private key")]
#[case::cut_off(|b: &mut Bundle| b.certificate.truncate(200), "tls.crt cannot be read as PEM")]
#[case::no_certificate_inside(|b: &mut Bundle| b.authorities = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec(), "ca.crt cannot be read as PEM")]
#[case::another_key(|b: &mut Bundle| b.key = leaf(&ca(), NAME, 2040).key, "not that of the certificate")]
#[case::another_authority(|b: &mut Bundle| b.authorities = ca().pem().into_bytes(), "UnknownIssuer")]
#[case::another_name(|b: &mut Bundle| *b = leaf(&ca(), "other-nodes.default.svc", 2040), "peers would refuse the certificate")]
#[case::too_late(|b: &mut Bundle| *b = leaf(&ca(), NAME, 2030), "expired at 2030-01-01T00:00:00Z")]
fn what_peers_would_refuse_is_refused_with_what_is_wrong(#[case] spoil: fn(&mut Bundle), #[case] expected: &str) {
    let mut bundle = leaf(&ca(), NAME, 2040);
    spoil(&mut bundle);
    let error = bundle.check(&name(), now()).expect_err("refused").to_string();
    assert!(error.contains(expected), "{expected:?} is missing in: {error}");
}

#[rstest]
#[case("10.0.0.1")]
#[case("")]
#[case("not a name")]
fn what_is_no_name_verifies_nobody(#[case] text: &str) {
    assert_eq!(PeerName::parse(text), Err(TlsError::Name(text.to_owned())));
}

/// What came of it when a client that trusts `trusted` meets a server with `shown`.
async fn meet(client: &ClientTls, shown: &Credentials) -> std::io::Result<Vec<u8>> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(shown.server_config());
    let server = tokio::spawn(async move {
        let mut tls = acceptor.accept(far).await?;
        tls.write_all(b"hello").await?;
        tls.shutdown().await
    });
    let mut heard = Vec::new();
    client.connect(near).await?.read_to_end(&mut heard).await?;
    server.await.expect("no panic")?;
    Ok(heard)
}

#[tokio::test]
async fn a_client_meets_whom_its_authorities_vouch_for_and_learns_of_new_ones() {
    // The clock of a handshake is the real one.
    let (old, new) = (ca(), ca());
    let [before, after] = [&old, &new].map(|ca| checked(&leaf(ca, NAME, 4000)));
    let client = ClientTls::new(name(), &before.authorities);
    assert_eq!(meet(&client, &before).await.expect("trusted"), b"hello");
    let refusal = meet(&client, &after).await.expect_err("not trusted yet").to_string();
    assert!(refusal.contains("UnknownIssuer"), "{refusal}");

    let both = [old.pem(), new.pem()].concat();
    client.trust(&Authorities::parse(both.as_bytes()).expect("two"));
    for shown in [&before, &after] {
        assert_eq!(meet(&client, shown).await.expect("both are trusted"), b"hello");
    }
    client.clone().trust(&after.authorities);
    let refusal = meet(&client, &before).await.expect_err("no longer trusted").to_string();
    assert!(refusal.contains("UnknownIssuer"), "{refusal}");
}

#[tokio::test]
async fn a_client_refuses_the_name_of_another_store() {
    let ca = ca();
    let other = PeerName::parse("other-nodes.default.svc").expect("a name");
    let shown = leaf(&ca, "other-nodes.default.svc", 4000).check(&other, now()).expect("good for the other");
    let client = ClientTls::new(name(), &shown.authorities);
    let refusal = meet(&client, &shown).await.expect_err("another name").to_string();
    assert!(refusal.contains("not valid for name"), "{refusal}");
}

#[tokio::test]
async fn who_speaks_no_tls_is_no_peer() {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let client = ClientTls::new(name(), &checked(&leaf(&ca(), NAME, 2040)).authorities);
    tokio::spawn(async move { far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await });
    let met = tokio::time::timeout(Duration::from_secs(5), client.connect(near)).await.expect("it ends");
    met.expect_err("no TLS");
}

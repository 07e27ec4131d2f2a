//! A certificate for all nodes of a store, and the authority that vouches for it and for nothing else: its key is
//! dropped as soon as it has signed.

use jiff::{Timestamp, ToSpan as _, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// How long a certificate is valid.
pub const VALID_DAYS: i64 = 90;

/// PEM of what was made.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// The nodes' certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The authority's certificate.
    pub authority: Vec<u8>,
}

/// Makes both. All nodes show the certificate under this DNS name.
///
/// # Errors
/// When the name is none, or the system has no randomness.
pub fn make(name: &str, now: Timestamp) -> Result<Made, rcgen::Error> {
    let mut authority = CertificateParams::default();
    // A name of its own tells authorities apart, for people and in what others log.
    authority.distinguished_name.push(DnType::CommonName, format!("quorumkv peers {}", now.as_second()));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    limit(&mut authority, now);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;

    let mut own = CertificateParams::new([name.to_owned()])?;
    own.distinguished_name.push(DnType::CommonName, "quorumkv-node");
    own.is_ca = IsCa::ExplicitNoCa;
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    own.use_authority_key_identifier_extension = true;
    limit(&mut own, now);
    let key = KeyPair::generate()?;
    let certificate = own.signed_by(&key, &authority)?;
    Ok(Made {
        certificate: certificate.pem().into_bytes(),
        key: key.serialize_pem().into_bytes(),
        authority: authority.pem().into_bytes(),
    })
}

/// Whole days, beginning with yesterday: clocks differ.
fn limit(parameters: &mut CertificateParams, now: Timestamp) {
    let today = now.to_zoned(TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| {
        let number = |part: i8| part.unsigned_abs();
        date_time_ymd(i32::from(date.year()), number(date.month()), number(date.day()))
    };
    parameters.not_before = day(today.saturating_sub(1.day()));
    parameters.not_after = day(today.saturating_add(VALID_DAYS.days()));
}

#[cfg(test)]
mod tests {
    use quorumkv_api::tls::{Bundle, PeerName};

    use super::*;

    #[test]
    fn what_is_made_is_accepted_for_its_name_and_its_time() {
        let now: Timestamp = "2026-12-31T23:00:00Z".parse().expect("a time");
        let Made { certificate, key, authority } = make("demo-nodes.default.svc", now).expect("made");
        let bundle = Bundle { certificate, key, authorities: authority };
        let name = PeerName::parse("demo-nodes.default.svc").expect("a name");
        let credentials = bundle.check(&name, now).expect("accepted");
        let text = [credentials.not_before.to_string(), credentials.not_after.to_string()];
        assert_eq!(text, ["2026-12-30T00:00:00Z", "2027-03-31T00:00:00Z"]);
        assert_eq!(credentials.report().authorities.len(), 1);
        let other = PeerName::parse("other-nodes.default.svc").expect("a name");
        bundle.check(&other, now).expect_err("another store");
    }
}

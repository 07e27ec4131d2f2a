use jiff::ToSpan as _;
use rstest::rstest;

use super::*;
use crate::{testing::valid_cluster, tls::make};

const NAME: &str = "demo-nodes.default.svc";

fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().expect("a time")
}

fn in_days(days: i64) -> Timestamp {
    now() + (days * 24).hours()
}

fn name() -> PeerName {
    PeerName::parse(NAME).expect("a name")
}

fn made() -> Made {
    make::make(NAME, now()).expect("made")
}

fn fresh() -> Contents {
    Contents::renewed(made(), None)
}

/// Of a node that has loaded this.
fn loaded(contents: &Contents) -> Option<TlsReport> {
    Some(contents.bundle.check(&name(), now()).expect("usable").report())
}

fn step(contents: &Contents, reports: &[Option<TlsReport>]) -> Step {
    contents.step(&name(), false, reports, now()).expect("usable")
}

#[test]
fn a_fresh_certificate_stays_until_it_is_due_or_asked_for() {
    let contents = fresh();
    let at = |days, asked| contents.step(&name(), asked, &[loaded(&contents)], in_days(days)).expect("usable");
    assert_eq!((at(0, false), at(0, true)), (Step::Stay, Step::Begin));
    // A third of 91 days is 30 days and 8 hours.
    assert_eq!((at(59, false), at(60, false), at(89, false)), (Step::Stay, Step::Begin, Step::Begin));
}

#[test]
fn each_step_waits_until_every_node_has_loaded_the_one_before() {
    let before = fresh();
    let begun = Contents::renewed(made(), Some(&before));
    assert_eq!(begun.bundle.certificate, before.bundle.certificate, "nobody would trust the new one yet");
    let (old, both) = (loaded(&before), loaded(&begun));
    assert_eq!(step(&begun, &[both.clone(), old.clone()]), Step::Wait);
    assert_eq!(step(&begun, &[both.clone(), None]), Step::Wait, "who does not answer may not have loaded it");
    assert_eq!(step(&begun, &[both.clone(), both.clone()]), Step::Switch);

    let switched = begun.clone().switched();
    let new = loaded(&switched);
    assert_eq!(switched.next, None);
    assert_eq!(step(&switched, &[new.clone(), both]), Step::Wait);
    assert_eq!(step(&switched, &[new.clone(), new.clone()]), Step::Finish);

    let finished = switched.clone().finished();
    let last = loaded(&finished);
    assert_eq!(step(&finished, &[last.clone(), new]), Step::Stay);
    assert_eq!(last.expect("a report").authorities.len(), 1);
    let versions = [&before, &begun, &switched, &finished].map(Contents::version);
    assert!(versions.windows(2).all(|pair| pair[0] != pair[1]), "nodes have something to load: {versions:?}");
}

/// Whatever two nodes have loaded, of steps that follow each other: they accept one another.
#[test]
fn between_two_steps_everybody_accepts_everybody() {
    let before = fresh();
    let begun = Contents::renewed(made(), Some(&before));
    let switched = begun.clone().switched();
    let finished = switched.clone().finished();
    let steps = [before, begun, switched, finished];
    for pair in steps.windows(2) {
        for (shows, trusts) in [(&pair[0], &pair[1]), (&pair[1], &pair[0])] {
            let bundle = Bundle { authorities: trusts.bundle.authorities.clone(), ..shows.bundle.clone() };
            bundle.check(&name(), now()).expect("accepted");
        }
    }
}

#[test]
fn an_expired_certificate_is_replaced_without_waiting() {
    let before = fresh();
    let late = |contents: &Contents| contents.step(&name(), false, &[None], in_days(91)).expect("usable once");
    assert_eq!(late(&before), Step::Begin);
    let begun = Contents::renewed(made(), Some(&before));
    assert_eq!(late(&begun), Step::Switch);
}

#[rstest]
#[case::another_key(|c: &mut Contents| c.bundle.key = fresh().bundle.key)]
#[case::another_authority(|c: &mut Contents| c.bundle.authorities = fresh().bundle.authorities)]
#[case::nothing(|c: &mut Contents| c.bundle = Bundle::default())]
fn what_somebody_spoilt_is_no_step_of_a_rotation(#[case] spoil: fn(&mut Contents)) {
    let mut contents = fresh();
    spoil(&mut contents);
    contents.step(&name(), false, &[], now()).expect_err("unusable");
}

#[test]
fn a_secret_holds_what_was_put_into_it() {
    let cluster = valid_cluster();
    let tls = ValidTls { secret: "demo-peer-tls".into(), self_signed: true };
    for contents in [fresh(), Contents::renewed(made(), Some(&fresh()))] {
        let mut secret = contents.secret(&cluster, &tls, Some("7".into()));
        assert_eq!(Contents::of(&secret), contents);
        assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
        assert_eq!(secret.metadata.resource_version.as_deref(), Some("7"));
        assert!(!is_asked(&secret), "a request goes with the first step");
        secret.annotations_mut().insert(RENEW.to_owned(), String::new());
        assert!(is_asked(&secret));
    }
}

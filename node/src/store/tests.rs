use proptest::prelude::*;
use quorumkv_api::Epoch;
use quorumkv_protocol::{Condition, Digest, RequestKey};

use super::*;
use crate::store::requests::REMEMBERED;

fn entry(seq: u64, operation: Operation) -> Entry {
    Entry { epoch: Epoch(1), seq: Seq(seq), operation }
}

fn put(seq: u64, key: &str, value: &str) -> Entry {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    entry(seq, Operation::Put { key, value })
}

fn write(seq: u64, key: &str, value: Option<&str>, condition: Option<Condition>, request: Option<(&str, u8)>) -> Entry {
    let change =
        value.map_or(Change::Delete, |value| Change::Put { format: Format::Raw, value: value.to_owned().into() });
    let request = request.map(|(id, digest)| RequestKey { id: id.to_owned().into(), digest: Digest([digest; 16]) });
    entry(seq, Operation::Write(Box::new(Write { key: key.to_owned().into(), change, condition, request })))
}

fn value_of(store: &Store, key: &str) -> Option<(String, u64)> {
    let text = |found: Arc<Versioned>| String::from_utf8(found.value.to_vec()).expect("text");
    store.get(key.as_bytes()).0.map(|found| (text(found.clone()), found.version.0))
}

#[test]
fn the_last_write_of_a_key_wins_and_carries_its_version() {
    let store = Store::default();
    let deviations =
        store.apply([put(1, "a", "1"), put(2, "b", "2"), put(3, "a", "3"), entry(4, Operation::Barrier)].iter());
    let (found, applied) = store.get(b"a");
    let value = Bytes::from_static(b"3");
    assert_eq!(found.as_deref(), Some(&Versioned { value, format: Format::Json, version: Seq(3) }));
    assert_eq!((applied, store.len()), (Seq(4), 2));
    assert_eq!(store.get(b"c").0, None);
    assert!(deviations.is_empty(), "plain writes do what they say");
}

#[test]
fn a_snapshot_does_not_change_under_its_reader() {
    let store = Store::default();
    store.apply([put(1, "a", "1")].iter());
    let before = store.snapshot();
    store.apply([put(2, "a", "2"), put(3, "b", "3"), write(4, "c", Some("4"), None, Some(("id", 1)))].iter());
    assert_eq!((before.len(), before.applied, before.requests.len()), (1, Seq(1), 0));
    assert_eq!(before.get(b"a").expect("kept").version, Seq(1));
}

#[test]
fn a_snapshot_can_be_walked_in_pieces() {
    let mut snapshot = Snapshot::default();
    for (seq, key) in (1..).zip(["c", "a", "b"]) {
        snapshot.put(key.as_bytes(), Format::Json, b"0", Seq(seq));
    }
    let first: Vec<_> = snapshot.after(None).take(2).map(|(key, _)| key.clone()).collect();
    assert_eq!(first, [b"a".as_slice().into(), b"b".as_slice().into()] as [Key; 2]);
    let rest: Vec<_> = snapshot.after(first.last().map(|key| &**key)).map(|(key, _)| key.clone()).collect();
    assert_eq!(rest, [Key::from(b"c".as_slice())]);
}

#[tokio::test]
async fn a_reader_can_wait_for_a_version() {
    let store = Store::default();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move {
            store.reached(Seq(2)).await;
            store.applied()
        }
    });
    store.apply([entry(1, Operation::Barrier)].iter());
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "one is not two");
    store.apply([entry(2, Operation::Barrier)].iter());
    assert_eq!(waiting.await.expect("no panic"), Seq(2));
}

#[test]
fn a_repeated_write_does_nothing_even_after_another_one_of_its_key() {
    let store = Store::default();
    let deviations = store.apply(
        [
            write(1, "a", Some("first"), None, Some(("id", 1))),
            put(2, "a", "another"),
            write(3, "a", Some("first"), None, Some(("id", 1))),
        ]
        .iter(),
    );
    assert_eq!(deviations, [(Seq(3), Deviation::Repeated { version: Seq(1), outcome: Outcome::Done })]);
    assert_eq!(value_of(&store, "a"), Some(("another".to_owned(), 2)));
}

#[test]
fn an_id_of_another_write_changes_nothing_and_stays_the_first_ones() {
    let store = Store::default();
    let other = write(2, "b", Some("2"), None, Some(("id", 2)));
    let again = write(3, "a", Some("1"), None, Some(("id", 1)));
    let deviations = store.apply([write(1, "a", Some("1"), None, Some(("id", 1))), other, again].iter());
    let repeated = Deviation::Repeated { version: Seq(1), outcome: Outcome::Done };
    assert_eq!(deviations, [(Seq(2), Deviation::IdTaken), (Seq(3), repeated)]);
    assert_eq!(value_of(&store, "b"), None);
}

#[test]
fn conditions_are_about_the_state_where_they_stand() {
    let store = Store::default();
    let steps = [
        (write(1, "a", Some("1"), Some(Condition::Present), None), Some(None)),
        (write(2, "a", Some("2"), Some(Condition::Absent), None), None),
        (write(3, "a", Some("3"), Some(Condition::Absent), None), Some(Some(2))),
        (write(4, "a", Some("4"), Some(Condition::Version(Seq(2))), None), None),
        (write(5, "a", Some("5"), Some(Condition::Version(Seq(2))), None), Some(Some(4))),
        (write(6, "a", Some("6"), Some(Condition::NotVersion(Seq(4))), None), Some(Some(4))),
        (write(7, "a", Some("7"), Some(Condition::NotVersion(Seq(2))), None), None),
        (write(8, "a", None, Some(Condition::Version(Seq(7))), None), None),
        (write(9, "a", None, Some(Condition::Present), None), Some(None)),
        (write(10, "a", None, None, None), None),
        (write(11, "a", Some("11"), Some(Condition::NotVersion(Seq(7))), None), None),
    ];
    for (entry, expected) in steps {
        let expected = expected.map(|current: Option<u64>| Deviation::ConditionFailed { current: current.map(Seq) });
        let found = store.apply([&entry].into_iter());
        assert_eq!(found.first().map(|(_, deviation)| *deviation), expected, "entry {}", entry.seq);
    }
    assert_eq!(value_of(&store, "a"), Some(("11".to_owned(), 11)));
}

#[test]
fn a_failed_condition_is_remembered_as_that() {
    let store = Store::default();
    let failing = |seq| write(seq, "a", Some("1"), Some(Condition::Present), Some(("id", 1)));
    store.apply([failing(1), put(2, "a", "2")].iter());
    let outcome = Outcome::ConditionFailed { current: None };
    let again = store.apply([failing(3)].iter());
    assert_eq!(again, [(Seq(3), Deviation::Repeated { version: Seq(1), outcome })], "although it would hold now");
    assert_eq!(value_of(&store, "a"), Some(("2".to_owned(), 2)));
}

#[derive(Debug, Clone)]
struct Step {
    key: u8,
    value: Option<u8>,
    condition: Option<Condition>,
    request: Option<(u8, u8)>,
}

fn step() -> impl Strategy<Value = Step> {
    let condition = prop_oneof![
        Just(Condition::Present),
        Just(Condition::Absent),
        (1_u64..60).prop_map(|version| Condition::Version(Seq(version))),
        (1_u64..60).prop_map(|version| Condition::NotVersion(Seq(version))),
    ];
    let request = prop::option::of((0_u8..8, 0_u8..2));
    (0_u8..4, prop::option::of(any::<u8>()), prop::option::of(condition), request)
        .prop_map(|(key, value, condition, request)| Step { key, value, condition, request })
}

fn log_of(steps: &[Step]) -> Vec<Entry> {
    let text = |number: u8| number.to_string();
    (1..)
        .zip(steps)
        .map(|(seq, Step { key, value, condition, request })| {
            let request = request.map(|(id, digest)| (text(id), digest));
            let request = request.as_ref().map(|(id, digest)| (id.as_str(), *digest));
            write(seq, &text(*key), value.map(text).as_deref(), *condition, request)
        })
        .collect()
}

proptest! {
    #[test]
    fn replicas_that_applied_the_same_log_agree_however_it_came(
        steps in prop::collection::vec(step(), 1..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        copied_at in any::<prop::sample::Index>(),
    ) {
        let log = log_of(&steps);
        let whole = Store::default();
        let deviations = whole.apply(log.iter());

        // Another replica, in batches, that began with a snapshot of the first part.
        let (batches, copied) = (Store::default(), Store::default());
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(log.len())).collect();
        cuts.extend([0, log.len()]);
        cuts.sort_unstable();
        let mut found = Vec::new();
        for cut in cuts.windows(2) {
            found.extend(batches.apply(log[cut[0]..cut[1]].iter()));
        }
        let copied_at = copied_at.index(log.len());
        let before = Store::default();
        before.apply(log[..copied_at].iter());
        copied.install(before.snapshot());
        copied.apply(log[copied_at..].iter());

        prop_assert_eq!(&found, &deviations);
        prop_assert_eq!(whole.snapshot(), batches.snapshot());
        prop_assert_eq!(whole.snapshot(), copied.snapshot());
    }

    #[test]
    fn an_id_changes_the_state_once_at_most(steps in prop::collection::vec(step(), 1..60)) {
        let log = log_of(&steps);
        let mut state = Snapshot::default();
        let mut done = std::collections::BTreeMap::new();
        for entry in &log {
            let before = state.clone();
            let deviation = state.apply(entry);
            let Operation::Write(write) = &entry.operation else { continue };
            let Some(RequestKey { id, digest }) = &write.request else { continue };
            let first = *done.entry(id.clone()).or_insert((entry.seq, *digest));
            if first.0 == entry.seq {
                let known = matches!(deviation, Some(Deviation::Repeated { .. } | Deviation::IdTaken));
                prop_assert!(!known, "{:?} at its first appearance", deviation);
                continue;
            }
            prop_assert_eq!((&state.index, &state.requests), (&before.index, &before.requests));
            match deviation {
                Some(Deviation::Repeated { version, .. }) => prop_assert_eq!((version, *digest), first),
                Some(Deviation::IdTaken) => prop_assert!(*digest != first.1),
                other => prop_assert!(false, "{:?} for an id seen before", other),
            }
        }
    }
}

#[test]
fn replicas_forget_the_same_ids_at_the_same_place() {
    let log: Vec<Entry> = (1..=REMEMBERED as u64 + 10)
        .map(|seq| write(seq, "k", Some("v"), None, Some((&format!("id-{seq}"), 1))))
        .collect();
    let (early, late) = (Store::default(), Store::default());
    early.apply(log.iter());
    late.apply(log[..5].iter());
    let copy = late.snapshot();
    late.install(copy);
    log[5..].chunks(1000).for_each(|batch| drop(late.apply(batch.iter())));
    assert_eq!(early.snapshot(), late.snapshot());
    assert_eq!(early.snapshot().requests.len(), REMEMBERED);
    // What is forgotten is a new write again, on both.
    let again = write(REMEMBERED as u64 + 11, "k", Some("v"), None, Some(("id-1", 1)));
    assert_eq!((early.apply([&again].into_iter()), late.apply([&again].into_iter())), (vec![], vec![]));
}

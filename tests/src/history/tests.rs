use proptest::{collection::vec, prelude::*};
use rstest::rstest;

use super::*;

fn operation(key: &str, action: Action, invoked: u64, returned: u64) -> Operation {
    Operation { client: 0, key: key.to_owned(), action, invoked: Moment(invoked), returned: Moment(returned) }
}

fn acked(value: &str, version: u64, invoked: u64, returned: u64) -> Operation {
    let outcome = Outcome::Acked { version, replicas: 3 };
    operation("k", Action::Write { value: value.to_owned(), outcome }, invoked, returned)
}

fn unknown(value: &str, invoked: u64, returned: u64) -> Operation {
    let outcome = Outcome::Unknown { reason: "timeout".to_owned() };
    operation("k", Action::Write { value: value.to_owned(), outcome }, invoked, returned)
}

fn refused(value: &str, invoked: u64, returned: u64) -> Operation {
    let outcome = Outcome::Refused { reason: "403".to_owned() };
    operation("k", Action::Write { value: value.to_owned(), outcome }, invoked, returned)
}

fn read(value: Option<&str>, invoked: u64, returned: u64) -> Operation {
    operation("k", Action::Read { value: value.map(str::to_owned), version: None }, invoked, returned)
}

/// A read from a follower; version 0 is "no such key".
fn follower(value: &str, version: u64, min: Option<u64>, connection: u64, invoked: u64) -> Operation {
    let (value, version) = if version == 0 { (None, None) } else { (Some(value.to_owned()), Some(version)) };
    let action = Action::FollowerRead { value, version, min_version: min, connection };
    operation("k", action, invoked, invoked + 1)
}

fn content(value: Option<&str>) -> BTreeMap<String, FinalValue> {
    value.map(|value| ("k".to_owned(), FinalValue { value: value.to_owned(), version: None })).into_iter().collect()
}

#[rstest]
#[case::nothing(vec![])]
#[case::one_after_the_other(vec![acked("a", 1, 1, 2), read(Some("a"), 3, 4), acked("b", 2, 5, 6), read(Some("b"), 7, 8)])]
#[case::absent_before_the_first_write(vec![read(None, 1, 2), acked("a", 1, 3, 4), read(Some("a"), 5, 6)])]
#[case::absent_while_the_first_write_runs(vec![acked("a", 1, 1, 9), read(None, 2, 3), read(Some("a"), 4, 5)])]
#[case::an_unknown_write_that_happened(vec![acked("a", 1, 1, 2), unknown("b", 3, 4), read(Some("b"), 5, 6)])]
#[case::an_unknown_write_that_did_not(vec![acked("a", 1, 1, 2), unknown("b", 3, 4), read(Some("a"), 5, 6)])]
#[case::an_unknown_write_that_happened_late(vec![
    acked("a", 1, 1, 2), unknown("b", 3, 4), read(Some("a"), 5, 6), acked("c", 2, 7, 8), read(Some("c"), 9, 10), read(Some("b"), 11, 12),
])]
#[case::concurrent_writes_in_either_order(vec![acked("a", 1, 1, 10), acked("b", 2, 1, 10), read(Some("b"), 11, 12)])]
fn possible_histories_pass(#[case] history: Vec<Operation>) {
    assert_eq!(check(&history), Ok(()));
}

#[rstest]
#[case::stale_read(vec![acked("a", 1, 1, 2), acked("b", 2, 3, 4), read(Some("a"), 5, 6)])]
#[case::absent_after_an_acknowledged_write(vec![acked("a", 1, 1, 2), read(None, 3, 4)])]
#[case::seen_then_unseen(vec![acked("a", 1, 1, 2), acked("b", 2, 3, 20), read(Some("b"), 5, 6), read(Some("a"), 7, 8)])]
#[case::an_unknown_write_that_happened_twice(vec![
    acked("a", 1, 1, 2), unknown("b", 3, 4), read(Some("b"), 5, 6), acked("c", 2, 7, 8), read(Some("b"), 9, 10),
])]
#[case::two_readers_disagree_on_the_order(vec![
    acked("a", 1, 1, 30), acked("b", 2, 1, 30), read(Some("a"), 2, 3), read(Some("b"), 4, 5), read(Some("a"), 6, 7),
])]
#[case::overwritten_while_the_overwriting_write_is_long_done(vec![
    acked("a", 1, 1, 2), acked("b", 2, 3, 4), acked("c", 3, 5, 50), read(Some("b"), 6, 7), read(Some("a"), 8, 9),
])]
fn impossible_histories_are_contradictions(#[case] history: Vec<Operation>) {
    let violation = check(&history).expect_err("impossible");
    assert!(matches!(violation, Violation::Contradiction { .. }), "{violation}");
}

#[test]
fn a_value_out_of_nowhere_is_named() {
    let violation = check(&[acked("a", 1, 1, 2), read(Some("x"), 3, 4)]).expect_err("never written");
    assert!(matches!(violation, Violation::NeverWritten { .. }), "{violation}");
}

#[test]
fn a_refused_write_must_not_be_read() {
    let violation = check(&[refused("a", 1, 2), read(Some("a"), 3, 4)]).expect_err("refused");
    assert!(matches!(violation, Violation::RefusedButRead { .. }), "{violation}");
    assert_eq!(check(&[refused("a", 1, 2), read(None, 3, 4)]), Ok(()));
}

#[test]
fn a_read_must_not_come_before_its_write() {
    let violation = check(&[read(Some("a"), 1, 2), acked("a", 1, 3, 4)]).expect_err("too early");
    assert!(matches!(violation, Violation::ReadBeforeWrite { .. }), "{violation}");
}

#[test]
fn a_history_that_reuses_a_value_is_not_accepted() {
    let violation = check(&[acked("a", 1, 1, 2), acked("a", 2, 3, 4)]).expect_err("ambiguous");
    assert!(matches!(violation, Violation::ValueReused { .. }), "{violation}");
}

#[test]
fn two_writes_must_not_share_a_version() {
    let violation = check(&[acked("a", 7, 1, 2), acked("b", 7, 3, 4)]).expect_err("one place in the log");
    assert!(matches!(violation, Violation::Version { .. }), "{violation}");
}

#[rstest]
#[case::behind(vec![acked("a", 1, 1, 2), acked("b", 2, 3, 4), follower("a", 1, None, 1, 5)])]
#[case::nothing_yet(vec![acked("a", 1, 1, 2), follower("", 0, None, 1, 5), follower("a", 1, None, 1, 7)])]
#[case::another_connection_is_another_process(vec![
    acked("a", 1, 1, 2), acked("b", 2, 3, 4), follower("b", 2, None, 1, 5), follower("a", 1, None, 2, 7),
])]
#[case::complete_up_to_the_version(vec![acked("a", 1, 1, 2), acked("b", 7, 3, 4), follower("a", 1, Some(6), 1, 5)])]
#[case::an_unknown_write_that_was_committed(vec![unknown("a", 1, 2), follower("a", 1, None, 1, 5), read(Some("a"), 7, 8)])]
fn followers_may_be_behind(#[case] history: Vec<Operation>) {
    assert_eq!(check(&history), Ok(()));
}

#[test]
fn a_follower_must_not_go_back_on_one_connection() {
    let writes = [acked("a", 1, 1, 2), acked("b", 2, 3, 4)];
    for later in [follower("a", 1, None, 1, 7), follower("", 0, None, 1, 7)] {
        let history = [&writes[..], &[follower("b", 2, None, 1, 5), later]].concat();
        let violation = check(&history).expect_err("it went back");
        assert!(matches!(violation, Violation::WentBack { .. }), "{violation}");
    }
}

#[rstest]
#[case(follower("a", 1, Some(2), 1, 5))]
#[case(follower("", 0, Some(9), 1, 5))]
fn an_answer_to_min_version_must_be_complete(#[case] read: Operation) {
    let violation = check(&[acked("a", 1, 1, 2), acked("b", 2, 3, 4), read]).expect_err("incomplete");
    assert!(matches!(violation, Violation::MinVersion { .. }), "{violation}");
}

#[test]
fn a_follower_must_not_show_another_write_under_a_version() {
    let violation = check(&[acked("a", 1, 1, 2), unknown("b", 3, 4), follower("b", 1, None, 1, 5)]);
    assert!(matches!(violation, Err(Violation::Version { .. })), "{violation:?}");
}

#[test]
fn a_follower_must_not_show_what_was_refused_or_is_not_written_yet() {
    let violation = check(&[refused("a", 1, 2), follower("a", 1, None, 1, 5)]).expect_err("refused");
    assert!(matches!(violation, Violation::RefusedButRead { .. }), "{violation}");
    let violation = check(&[follower("a", 1, None, 1, 2), acked("a", 1, 5, 6)]).expect_err("too early");
    assert!(matches!(violation, Violation::ReadBeforeWrite { .. }), "{violation}");
}

#[test]
fn what_a_follower_showed_the_leader_must_not_lack_afterwards() {
    let history = [acked("a", 1, 1, 2), unknown("b", 3, 4), follower("b", 2, None, 1, 5), read(Some("a"), 7, 8)];
    let violation = check(&history).expect_err("shown before it was committed, or lost afterwards");
    assert!(matches!(violation, Violation::Contradiction { .. }), "{violation}");
    assert!(check_with_content(&history[..3], &content(Some("a"))).is_err(), "nor may it be gone in the end");
}

#[test]
fn keys_are_independent() {
    let mut other = acked("b", 2, 3, 4);
    other.key = "other".to_owned();
    assert_eq!(check(&[acked("a", 1, 1, 2), other, read(Some("a"), 5, 6)]), Ok(()));
}

#[rstest]
#[case::kept(vec![acked("a", 1, 1, 2)], Some("a"))]
#[case::overwritten(vec![acked("a", 1, 1, 2), acked("b", 2, 3, 4)], Some("b"))]
#[case::overwritten_by_an_unknown_one(vec![acked("a", 1, 1, 2), unknown("b", 3, 4)], Some("b"))]
#[case::unknown_and_gone(vec![unknown("a", 1, 2)], None)]
#[case::nothing_was_acknowledged(vec![refused("a", 1, 2)], None)]
fn content_that_may_be_passes(#[case] history: Vec<Operation>, #[case] found: Option<&str>) {
    assert_eq!(check_with_content(&history, &content(found)), Ok(()));
}

#[rstest]
#[case::gone(vec![acked("a", 1, 1, 2)], None, "a")]
#[case::rolled_back(vec![acked("a", 1, 1, 2), acked("b", 2, 3, 4)], Some("a"), "b")]
#[case::rolled_back_behind_an_unknown_one(vec![acked("a", 1, 1, 2), unknown("b", 3, 4), acked("c", 2, 5, 6)], Some("a"), "c")]
fn a_lost_write_is_named(#[case] history: Vec<Operation>, #[case] found: Option<&str>, #[case] lost: &str) {
    match check_with_content(&history, &content(found)) {
        Err(Violation::LostWrite { write, .. }) => {
            assert!(matches!(&write.action, Action::Write { value, .. } if value == lost), "{write}");
        }
        other => panic!("not noticed: {other:?}"),
    }
}

/// The definition, taken literally: is there an order of all operations (unknown writes may be left out) that
/// respects real time and in which every read sees the write before it?
fn some_order_explains(state: Option<&str>, left: &[&Operation]) -> bool {
    if left.iter().all(|operation| matches!(&operation.action, Action::Write { outcome: Outcome::Unknown { .. }, .. }))
    {
        return true;
    }
    let end = |operation: &Operation| match &operation.action {
        Action::Write { outcome: Outcome::Unknown { .. }, .. } => Moment::END,
        _ => operation.returned,
    };
    let earliest_end = left.iter().map(|operation| end(operation)).min().unwrap_or(Moment::END);
    (0..left.len()).filter(|&at| left[at].invoked <= earliest_end).any(|at| {
        let mut rest = left.to_vec();
        let chosen = rest.remove(at);
        match &chosen.action {
            Action::Write { value, .. } => some_order_explains(Some(value), &rest),
            Action::Read { value, .. } => value.as_deref() == state && some_order_explains(state, &rest),
            Action::FollowerRead { .. } => unreachable!("none is made here"),
        }
    })
}

#[derive(Debug, Clone)]
enum Step {
    Acked,
    Unknown,
    /// Reads the value of the n-th write, or nothing.
    Read(usize),
}

fn any_history() -> impl Strategy<Value = Vec<Operation>> {
    let step = prop_oneof![3 => Just(Step::Acked), 1 => Just(Step::Unknown), 4 => (0_usize..5).prop_map(Step::Read)];
    vec((step, 1_u64..20, 0_u64..8), 1..8).prop_map(|steps| {
        let values: Vec<String> = (0..steps.len()).map(|at| format!("v{at}")).collect();
        let writes: Vec<&String> = values
            .iter()
            .zip(&steps)
            .filter(|(_, step)| !matches!(step.0, Step::Read(_)))
            .map(|(value, _)| value)
            .collect();
        (0..)
            .zip(&steps)
            .map(|(at, (step, invoked, duration))| {
                let value = &values[usize::try_from(at).expect("small")];
                match step {
                    Step::Acked => acked(value, at, *invoked, invoked + duration),
                    Step::Unknown => unknown(value, *invoked, invoked + duration),
                    Step::Read(nth) => read(writes.get(*nth).map(|value| value.as_str()), *invoked, invoked + duration),
                }
            })
            .collect()
    })
}

/// A history that a correct register produced: operations take effect in turn, each somewhere within its time.
fn correct_history() -> impl Strategy<Value = Vec<Operation>> {
    vec((0_u8..4, 0_u64..40, 0_u64..40), 1..60).prop_map(|steps| {
        let mut state: Option<String> = None;
        (1_u64..)
            .zip(steps)
            .map(|(at, (kind, before, after))| {
                let effect = 100 + at * 10;
                let (invoked, returned) = (effect - before, effect + after);
                let value = format!("v{at}");
                match kind {
                    0 | 1 => {
                        state = Some(value.clone());
                        if kind == 0 { acked(&value, at, invoked, returned) } else { unknown(&value, invoked, invoked) }
                    }
                    2 => refused(&value, invoked, returned),
                    _ => read(state.as_deref(), invoked, returned),
                }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_sweep_agrees_with_trying_every_order(history in any_history()) {
        let all: Vec<&Operation> = history.iter().collect();
        prop_assert_eq!(check(&history).is_ok(), some_order_explains(None, &all), "{:#?}", check(&history));
    }
}

proptest! {
    #[test]
    fn what_a_correct_register_does_passes(history in correct_history()) {
        prop_assert_eq!(check(&history), Ok(()));
    }

    #[test]
    fn a_planted_stale_read_is_found(history in correct_history()) {
        // After everything else: two acknowledged writes, then a read of the first.
        let mut history = history;
        history.extend([acked("x", 1001, 10_000, 10_001), acked("y", 1002, 10_002, 10_003), read(Some("x"), 10_004, 10_005)]);
        prop_assert!(check(&history).is_err());
    }

    #[test]
    fn a_planted_lost_write_is_found(history in correct_history(), before in 0_u64..5) {
        let mut history = history;
        history.push(acked("x", 1001, 10_000 - before, 10_001));
        prop_assert!(check_with_content(&history, &content(Some("x"))).is_ok());
        prop_assert!(check_with_content(&history, &content(None)).is_err());
    }

    #[test]
    fn a_planted_value_out_of_nowhere_is_found(history in correct_history(), at in 0_u64..1000) {
        let mut history = history;
        history.push(read(Some("x"), at, at + 1));
        prop_assert!(check(&history).is_err());
    }
}

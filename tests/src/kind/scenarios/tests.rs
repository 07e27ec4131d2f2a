use super::*;
use crate::history::{Moment, Operation};

fn write(key: &str, value: &str, outcome: Outcome, returned_ms: u64) -> Operation {
    let moment = |ms: u64| Moment(ms * 1_000_000 + 1);
    let action = Action::Write { value: value.to_owned(), outcome };
    Operation {
        client: 0,
        key: key.to_owned(),
        action,
        invoked: moment(returned_ms - 1),
        returned: moment(returned_ms),
    }
}

fn acked(version: u64) -> Outcome {
    Outcome::Acked { version, replicas: 3 }
}

fn unknown() -> Outcome {
    Outcome::Unknown { reason: "timeout".to_owned() }
}

fn report(operations: Vec<Operation>) -> Report {
    Report { operations, elapsed: Duration::from_millis(12_340) }
}

fn content(held: &[(&str, &str)]) -> BTreeMap<String, FinalValue> {
    let held = held.iter();
    held.map(|(key, value)| ((*key).to_owned(), FinalValue { value: (*value).to_owned(), version: None })).collect()
}

#[test]
fn a_row_counts_what_clients_did() {
    let refused = Outcome::Refused { reason: "403".to_owned() };
    let operations = vec![
        write("a", "1", acked(1), 10),
        write("a", "2", refused, 20),
        write("a", "3", unknown(), 30),
        write("a", "4", acked(3), 1510),
    ];
    let row = Row::of("pod kill", &report(operations), &content(&[("a", "4")]));
    let expected = Row {
        scenario: "pod kill".to_owned(),
        duration: Duration::from_millis(12_340),
        attempted: 4,
        acked: 2,
        lost: 0,
        longest_outage: Duration::from_millis(1500),
    };
    assert_eq!(row, expected);
}

#[test]
fn an_acknowledged_write_that_is_gone_is_lost() {
    let of = |operations: Vec<Operation>, held: &[(&str, &str)]| lost(&report(operations), &content(held));
    let two = || vec![write("a", "1", acked(1), 10), write("a", "2", acked(2), 20)];
    assert_eq!(of(two(), &[("a", "2")]), 0, "overwritten is not lost");
    assert_eq!(of(two(), &[("a", "1")]), 1, "the later one is gone");
    assert_eq!(of(two(), &[]), 2, "the key is gone");
    assert_eq!(of(two(), &[("a", "never written")]), 2);
    let same = vec![write("a", "1", acked(1), 10), write("b", "2", acked(1), 20)];
    assert_eq!(of(same, &[("a", "1"), ("b", "2")]), 1, "one place in the log is for one write");
    let with_unknown = vec![write("a", "1", acked(1), 10), write("a", "2", unknown(), 20)];
    assert_eq!(of(with_unknown, &[("a", "2")]), 0, "it came after the other");
}

#[test]
fn the_document_tells_how_it_was_measured() {
    let row = |scenario: &str, longest_ms: u64| Row {
        scenario: scenario.to_owned(),
        duration: Duration::from_millis(9870),
        attempted: 1234,
        acked: 1230,
        lost: 0,
        longest_outage: Duration::from_millis(longest_ms),
    };
    let setting = Setting {
        command: "make e2e-table".to_owned(),
        machine: "2 cores, Linux 6.1".to_owned(),
        versions: vec!["Kubernetes v1.34.4".to_owned(), "quorumkv 0.1.0".to_owned()],
    };
    let text = document(&[row("pod kill (leader)", 1500), row("node drain", 20)], &setting);
    assert!(
        text.contains(
            "Measured by `make e2e-table` on 2 cores, Linux 6.1.\n\n- Kubernetes v1.34.4\n- quorumkv 0.1.0\n\n"
        )
    );
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
    let expected = [
        "| scenario          | duration | writes attempted | acknowledged | lost | longest outage |",
        "|-------------------|----------|------------------|--------------|------|----------------|",
        "| pod kill (leader) |   9.87 s |             1234 |         1230 |    0 |         1.50 s |",
        "| node drain        |   9.87 s |             1234 |         1230 |    0 |         0.02 s |",
    ];
    assert_eq!(lines, expected, "{text}");
}

//! A write or a sync that fails is never tried again, and what it should have kept is never reported.

use std::io::ErrorKind;

use super::*;
use crate::storage::{
    error::{Action, StorageError},
    testing::Fault,
};

fn failure(halt: Halt) -> StorageError {
    match halt {
        Halt::Failed(error) => error,
        Halt::Closed => panic!("it was closed"),
    }
}

#[test]
fn a_failed_operation_ends_the_thread_with_its_reason_and_reports_nothing() {
    let expected = [(0, Action::Write, "write"), (1, Action::Sync, "sync")];
    for (after, action, verb) in expected {
        let disk = SimDisk::default();
        let mut bench = Bench::new(&disk).expect("a new copy");
        bench.batch(true, 0, 1, 10, 0);
        disk.inject(Fault { after, kind: ErrorKind::Other, times: 1 });
        let error = failure(bench.turn().expect_err("it fails once"));
        assert!(matches!(&error, StorageError::Io { action: found, .. } if *found == action), "{error}");
        let text = error.to_string();
        assert!(text.contains(verb) && text.contains("wal-0000000000000001"), "{text}");
        assert_eq!(bench.durable(), Ticket(0));
    }
}

#[test]
fn a_sync_that_finds_no_room_is_a_failure_too() {
    let disk = SimDisk::default();
    let mut bench = Bench::new(&disk).expect("a new copy");
    bench.batch(true, 0, 1, 10, 0);
    disk.inject(Fault { after: 1, kind: ErrorKind::StorageFull, times: 1 });
    let error = failure(bench.turn().expect_err("the pages it was about may be gone"));
    assert!(error.to_string().contains("sync"), "{error}");
    assert_eq!(bench.durable(), Ticket(0));
}

#[test]
fn every_single_failure_is_either_reported_or_without_consequence() {
    for after in 0..200 {
        let disk = SimDisk::default();
        let mut bench = Bench::new(&disk).expect("a new copy");
        disk.inject(Fault { after, kind: ErrorKind::PermissionDenied, times: 1 });
        let mut failed = false;
        for round in 0..12 {
            bench.batch(round % 4 == 0, 1, 2, 60, 1);
            if round == 5 {
                bench.install(3, 4);
            }
            while !failed && !bench.shared.is_idle() {
                failed = bench.turn().is_err();
            }
            if failed {
                break;
            }
        }
        bench.check(&disk.crashed(0, true)).expect("what was reported is there");
        bench.check(&disk.crashed(0, false)).expect("what was reported is there");
    }
}

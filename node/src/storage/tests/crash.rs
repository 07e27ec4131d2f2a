//! Whatever a crash leaves of the last write, a node comes back to a batch that it had, and to none before the
//! last one it reported.

use std::io::ErrorKind;

use super::*;
use crate::storage::testing::Fault;

/// Takes one byte at a time of what was not synced.
fn every_prefix(bench: &Bench) -> Result<(), TestCaseError> {
    let unsynced = bench.disk.unsynced();
    for kept in 0..=unsynced {
        bench.check(&bench.disk.crashed(kept, true))?;
        bench.check(&bench.disk.crashed(kept, false))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_at_any_operation_and_any_byte_leaves_a_batch_boundary(
        steps in prop::collection::vec(step(), 1..40),
        after in 0_usize..120,
    ) {
        let disk = SimDisk::default();
        let mut bench = Bench::new(&disk).expect("a new copy");
        disk.inject(Fault { after, kind: ErrorKind::Other, times: usize::MAX });
        if bench.run(&steps).is_ok() {
            bench.drain().ok();
        }
        every_prefix(&bench)?;
    }

    #[test]
    fn sectors_and_names_may_reach_the_disk_in_any_order(
        steps in prop::collection::vec(step(), 1..30),
        after in 0_usize..80,
        lost in any::<u64>(),
        sector in prop_oneof![Just(1_u64), Just(16), Just(64), Just(512)],
    ) {
        let disk = SimDisk::default();
        let mut bench = Bench::new(&disk).expect("a new copy");
        disk.inject(Fault { after, kind: ErrorKind::Other, times: usize::MAX });
        if bench.run(&steps).is_ok() {
            bench.drain().ok();
        }
        let bit = |place: u64| lost.rotate_left(u32::try_from(place % 64).expect("small")) & 1 == 0;
        bench.check(&disk.torn(|place| bit(place / sector), |index| bit(index as u64 + 32)))?;
    }

    #[test]
    fn a_node_goes_on_after_each_of_many_crashes(
        runs in prop::collection::vec((prop::collection::vec(step(), 1..15), 0_usize..60, 0_usize..600), 2..6),
    ) {
        let mut disk = SimDisk::default();
        for (steps, after, kept) in runs {
            let mut bench = Bench::new(&disk).map_err(|error| TestCaseError::fail(error.to_string()))?;
            disk.inject(Fault { after, kind: ErrorKind::Other, times: usize::MAX });
            if bench.run(&steps).is_ok() {
                bench.drain().ok();
            }
            let left = disk.crashed(kept, kept % 2 == 0);
            bench.check(&left)?;
            disk = left;
        }
    }

    #[test]
    fn a_start_cut_short_is_begun_again(steps in prop::collection::vec(step(), 1..20), after in 0_usize..12) {
        let disk = SimDisk::default();
        let mut bench = Bench::new(&disk).expect("a new copy");
        bench.run(&steps).expect("nothing fails");
        bench.drain().expect("nothing fails");
        // Something to cut, so that recovery writes.
        bench.batch(true, 0, 3, 50, 0);
        disk.inject(Fault { after: 1, kind: ErrorKind::Other, times: usize::MAX });
        bench.turn().expect_err("the sync fails");
        let left = disk.crashed(disk.unsynced() / 2, true);
        left.inject(Fault { after, kind: ErrorKind::Other, times: usize::MAX });
        drop(recover(&left, &OPTIONS));
        bench.check(&left.crashed(0, false))?;
        bench.check(&left.crashed(usize::MAX, true))?;
    }
}

#[test]
fn making_a_copy_may_be_cut_short_anywhere() {
    for after in 0..20 {
        let disk = SimDisk::default();
        disk.inject(Fault { after, kind: ErrorKind::Other, times: usize::MAX });
        let begun = recover(&disk, &OPTIONS).map(|found| found.copy);
        for kept in [0, 10, 45, usize::MAX] {
            for names_kept in [false, true] {
                let again = recover(&disk.crashed(kept, names_kept), &OPTIONS).expect("begun again").copy;
                if let Ok(copy) = &begun {
                    assert_eq!(again, *copy, "once it is there, it stays");
                }
            }
        }
    }
}

#[test]
fn what_is_written_is_synced_before_it_is_reported_and_names_before_they_matter() {
    let disk = SimDisk::default();
    let mut bench = Bench::new(&disk).expect("a new copy");
    disk.operations();
    bench.batch(true, 0, 2, 10, 0);
    bench.batch(false, 0, 1, 10, 0);
    bench.turn().expect("written");
    assert_eq!(bench.durable(), Ticket(2), "both in one group");
    let operations = disk.operations();
    assert_eq!(operations[..2], ["write wal-0000000000000001", "sync wal-0000000000000001"]);
    let ahead = ["create wal-next.tmp", "allocate wal-next.tmp", "write wal-next.tmp", "sync wal-next.tmp"];
    assert_eq!(operations[2..], ahead, "room for more is taken afterwards");
    bench.batch(false, 0, 4, 110, 0);
    bench.turn().expect("written");
    let next = [
        "rename wal-0000000000000002",
        "sync names",
        "write wal-0000000000000001",
        "sync wal-0000000000000001",
        "write wal-0000000000000002",
        "sync wal-0000000000000002",
    ];
    assert_eq!(disk.operations()[..6], next);
}

#[test]
fn what_a_crash_left_behind_a_cut_is_never_read_again() {
    let disk = SimDisk::default();
    let mut bench = Bench::new(&disk).expect("a new copy");
    bench.batch(false, 0, 1, 10, 0);
    bench.batch(false, 0, 1, 10, 0);
    disk.inject(Fault { after: 1, kind: ErrorKind::Other, times: usize::MAX });
    bench.turn().expect_err("the sync fails");
    // The beginning of the group is torn, its batches are whole.
    let group = super::super::segment::HEADER_BYTES as u64;
    let left = disk.torn(|place| !(group..group + 4).contains(&place), |_| true);
    let mut bench = Bench::new(&left).expect("the group is cut off");
    assert_eq!(bench.ticket, Ticket(0));
    // As long as the torn one: the whole one would follow it without a gap.
    bench.batch(false, 0, 1, 10, 0);
    bench.drain().expect("written");
    assert_eq!(bench.check(&left.crashed(0, false)).expect("only what was written since"), 1);
}

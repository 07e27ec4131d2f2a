//! A full disk stops the log before anything depends on it, and the log goes on when there is room.

use std::io::ErrorKind;

use super::*;
use crate::storage::{Room, Storage as _, persistent::Persistent, testing::Fault};

#[test]
fn batches_wait_for_room_and_are_kept_when_there_is() {
    let disk = SimDisk::default();
    let mut bench = Bench::new(&disk).expect("a new copy");
    disk.limit(Some(1000));
    for round in 0..12 {
        bench.batch(round == 0, 0, 3, 60, 1);
    }
    let freeing = std::thread::spawn({
        let (disk, shared) = (disk.clone(), bench.shared.clone());
        move || {
            while !shared.is_full() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let reported = shared.progress.borrow().durable;
            std::thread::sleep(Duration::from_millis(20));
            let later = shared.progress.borrow().durable;
            disk.limit(None);
            (reported, later)
        }
    });
    bench.drain().expect("nothing fails for good");
    let (reported, later) = freeing.join().expect("no panic");
    assert!(reported < bench.ticket && later < bench.ticket, "nothing is reported that was not written");
    assert!(!bench.shared.is_full());
    assert_eq!(bench.check(&disk.crashed(0, false)).expect("everything is there"), bench.history.len() - 1);
}

#[test]
fn a_file_system_that_breaks_its_word_is_waited_for_as_well() {
    let disk = SimDisk::default();
    let mut bench = Bench::new(&disk).expect("a new copy");
    bench.batch(true, 0, 2, 30, 1);
    disk.inject(Fault { after: 0, kind: ErrorKind::StorageFull, times: 3 });
    bench.turn().expect("written at the fourth attempt");
    assert_eq!(bench.durable(), Ticket(1));
    assert_eq!(bench.check(&disk.crashed(0, false)).expect("sound"), 1);
}

#[test]
fn a_copy_cannot_be_made_where_there_is_no_room_and_can_be_opened_where_there_is_none_left() {
    let disk = SimDisk::default();
    disk.limit(Some(100));
    let refused = recover(&disk, &OPTIONS).err().expect("no room").to_string();
    assert!(refused.contains("wal-next.tmp"), "{refused}");
    disk.limit(None);
    let mut bench = Bench::new(&disk).expect("a new copy");
    bench.batch(true, 0, 2, 30, 1);
    bench.drain().expect("written");
    let full = disk.crashed(0, false);
    full.limit(Some(0));
    assert_eq!(bench.check(&full).expect("it takes no more room"), 1);
}

#[tokio::test]
async fn room_is_refused_before_what_was_taken_is_used_up_and_comes_back() {
    let disk = SimDisk::default();
    let options = Options { segment_bytes: 64 * 1024, ..OPTIONS };
    let mut opened = Persistent::open_on(disk.clone(), options).expect("a new copy");
    let storage = &mut opened.storage;
    // The second segment is taken ahead, the third cannot be.
    disk.limit(Some(150 * 1024));
    let (mut log, store) = (Log::default(), Store::default());
    let mut ticket = Ticket(0);
    let entry_bytes = 1000;
    while storage.room(entry_bytes) != Room::Full {
        if storage.room(entry_bytes) == Room::Soon {
            tokio::time::timeout(Duration::from_secs(10), storage.room_changed()).await.expect("it changes");
            continue;
        }
        let seq = log.last_seq().next();
        let operation = Operation::Put { key: "key".into(), value: vec![b'1'; entry_bytes].into() };
        log.append(Entry { epoch: Epoch(1), seq, operation });
        ticket = Ticket(ticket.0 + 1);
        storage.submit(ticket, &[Persist::Append(seq..=seq)], &log, &store);
    }
    assert!(ticket.0 > 64, "both segments were used: {ticket:?}");
    // What cannot be refused still fits.
    ticket = Ticket(ticket.0 + 1);
    storage.submit(ticket, &[Persist::Promise(Epoch(9))], &log, &store);
    let wait = async {
        while storage.durable().await.expect("no failure") < ticket {}
        while storage.room(entry_bytes) == Room::Full {
            disk.limit(None);
            storage.room_changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wait).await.expect("it comes back");
    drop(opened);
    let again = Persistent::open_on(disk, options).expect("whole");
    assert_eq!(again.recovered.promised, Epoch(9));
    assert_eq!(again.recovered.entries.len() as u64, log.last_seq().0, "nothing that was let in is lost");
}

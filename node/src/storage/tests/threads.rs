//! The threads, on a real file system.

use super::*;
use crate::storage::{Storage as _, persistent::Persistent};

fn put(seq: u64) -> Entry {
    let operation = Operation::Put { key: format!("key-{}", seq % 50).into(), value: format!("{seq}").into() };
    Entry { epoch: Epoch(1), seq: Seq(seq), operation }
}

fn options() -> Options {
    Options { segment_bytes: 16 * 1024, group_bytes: 4096, snapshot_log_bytes: 40 * 1024, ..Options::default() }
}

async fn write(storage: &mut Persistent, log: &mut Log, store: &Store, writes: u64) {
    let mut ticket = Ticket(0);
    for _ in 0..writes {
        let entry = put(log.last_seq().0 + 1);
        let seq = entry.seq;
        log.append(entry.clone());
        store.apply([&entry].into_iter());
        log.commit(seq);
        ticket = Ticket(ticket.0 + 1);
        storage.submit(ticket, &[Persist::Append(seq..=seq), Persist::Commit(seq)], log, store);
        if seq.0.is_multiple_of(16) {
            while storage.durable().await.expect("no failure") < ticket {}
        }
    }
    while !ticket.0.is_multiple_of(16) && storage.durable().await.expect("no failure") < ticket {}
}

#[tokio::test]
async fn a_long_log_is_replaced_by_snapshots_and_everything_is_found_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut opened = Persistent::open(directory.path(), options()).expect("a new copy");
    let (mut log, store) = (Log::default(), Store::default());
    write(&mut opened.storage, &mut log, &store, 3000).await;
    let copy = opened.copy;
    drop(opened);
    let names: Vec<String> = std::fs::read_dir(directory.path())
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().into_string().expect("ours"))
        .collect();
    assert!(!names.contains(&"wal-0000000000000001".to_owned()), "{names:?}");
    let again = Persistent::open(directory.path(), options()).expect("whole");
    assert_eq!(again.copy, copy);
    let base = again.recovered.snapshot.as_ref().expect("a snapshot").outline.last;
    assert_eq!(again.state.applied, base);
    assert_eq!(again.recovered.commit, Seq(3000));
    let entries = &again.recovered.entries;
    assert_eq!(entries.last().map(|entry| entry.seq), Some(Seq(3000)));
    assert_eq!(entries.len() as u64, 3000 - base.0);
    let log_bytes: usize = entries.iter().map(Entry::weight).sum();
    assert!(log_bytes < 4 * 40 * 1024, "{log_bytes} bytes of entries are left above the snapshot");
}

#[test]
fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = Persistent::open(directory.path(), options()).expect("a new copy");
    let refused = Persistent::open(directory.path(), options()).expect_err("in use").to_string();
    assert!(refused.contains("another process") && refused.contains("DATA_DIR="), "{refused}");
    drop(first);
    Persistent::open(directory.path(), options()).expect("free again");
}

#[test]
fn a_directory_that_cannot_be_made_is_refused() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let refused = Persistent::open(file.path(), options()).expect_err("no directory").to_string();
    assert!(refused.contains(&file.path().display().to_string()), "{refused}");
}

#[tokio::test]
async fn a_failure_of_the_disk_reaches_whoever_waits() {
    let disk = SimDisk::default();
    let mut opened = Persistent::open_on(disk.clone(), OPTIONS).expect("a new copy");
    let (mut log, store) = (Log::default(), Store::default());
    log.append(put(1));
    disk.inject(crate::storage::testing::Fault { after: 0, kind: std::io::ErrorKind::Other, times: usize::MAX });
    opened.storage.submit(Ticket(1), &[Persist::Append(Seq(1)..=Seq(1))], &log, &store);
    let failed = tokio::time::timeout(Duration::from_secs(10), opened.storage.durable()).await.expect("soon");
    let text = failed.expect_err("it failed").to_string();
    assert!(text.starts_with("storage failed: cannot"), "{text}");
}

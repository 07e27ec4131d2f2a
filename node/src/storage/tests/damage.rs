//! Whatever changes on disk afterwards is cut off where it may be what a crash left, or else refused.

use super::*;
use crate::storage::{
    frame::{Kind, Seed, frame_at},
    identity,
};

/// A directory with a snapshot, several segments, and groups of batches.
fn written() -> Bench {
    let mut bench = Bench::new(&SimDisk::default()).expect("a new copy");
    for round in 0..12 {
        bench.batch(round % 5 == 0, 1, 2, 30, 2);
        if round % 3 != 0 {
            bench.batch(false, 0, 1, 20, 1);
        }
        bench.turn().expect("written");
        if round == 3 {
            bench.snapshot();
        }
        if round == 5 {
            bench.name_snapshot();
            bench.turn().expect("named");
        }
    }
    while groups(&bench).len() < 3 {
        bench.batch(false, 0, 1, 5, 1);
        bench.turn().expect("written");
    }
    bench
}

fn last_segment(disk: &SimDisk) -> String {
    disk.names().into_iter().rfind(|name| name.starts_with("wal-0")).expect("there is one")
}

/// Where the groups of the last segment begin, and where the last one ends.
fn groups(bench: &Bench) -> Vec<usize> {
    let contents: Bytes = bench.disk.contents(&last_segment(&bench.disk)).into();
    let (mut offset, mut groups) = (crate::storage::segment::HEADER_BYTES, Vec::new());
    while let Some(frame) = frame_at(&contents, offset, Seed::of(bench.copy())) {
        if frame.kind == Kind::Group {
            groups.push(offset);
        }
        offset += frame.bytes();
    }
    groups.push(offset);
    groups
}

#[test]
fn the_directory_under_test_has_everything() {
    let bench = written();
    let names = bench.disk.names();
    assert!(names.iter().filter(|name| name.starts_with("wal-0")).count() >= 3, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.starts_with("snapshot-")).count(), 1, "{names:?}");
    assert!(!names.contains(&"wal-0000000000000001".to_owned()), "the snapshot made it superfluous: {names:?}");
    assert_eq!(bench.check(&bench.disk).expect("sound"), bench.history.len() - 1);
}

#[test]
fn a_changed_byte_is_cut_in_the_last_group_and_refused_before() {
    let bench = written();
    let last = last_segment(&bench.disk);
    let &[_, .., group, end] = &groups(&bench)[..] else { panic!("the last segment has two groups") };
    let whole = bench.history.len() - 1;
    let (mut refused, mut cut) = (0, 0);
    for name in bench.disk.names() {
        if name.ends_with(".tmp") {
            continue;
        }
        let sealed = name.starts_with("wal-0") && name != last;
        for offset in 0..bench.disk.contents(&name).len() {
            for change in [1, 0x80, 0xff] {
                let changed = bench.disk.with_changed_byte(&name, offset, change);
                let place = format!("{name} at {offset}");
                match recover(&changed, &OPTIONS) {
                    Err(error) => {
                        refused += 1;
                        assert!(name != last || offset < group, "{place} is in the last group: {error}");
                        assert!(error.to_string().contains(&name), "{place}: {error}");
                    }
                    Ok(found) => {
                        let state = State::recovered(&found.recovered, &found.state);
                        if bench.history[whole].is(&state) {
                            // Zeros after a seal or after the end.
                            assert!(sealed || (name == last && offset >= end), "{place} was not noticed");
                            continue;
                        }
                        cut += 1;
                        assert!(name == last && (group..end).contains(&offset), "{place} must be refused");
                        let earlier = bench.history.iter().rposition(|earlier| earlier.is(&state));
                        assert!(earlier.is_some_and(|index| index + 2 >= whole), "{place}: only the last group may go");
                    }
                }
            }
        }
    }
    assert!(refused > 1000 && cut > 100, "{refused} refused, {cut} cut");
}

#[test]
fn zeros_after_a_seal_do_not_matter_but_a_seal_does() {
    let bench = written();
    let name = bench.disk.names().into_iter().find(|name| name.starts_with("wal-0")).expect("there is one");
    let contents: Bytes = bench.disk.contents(&name).into();
    let mut offset = crate::storage::segment::HEADER_BYTES;
    let seal = loop {
        let frame = frame_at(&contents, offset, Seed::of(bench.copy())).expect("it ends with a seal");
        if frame.kind == Kind::Seal {
            break offset;
        }
        offset += frame.bytes();
    };
    let problem = problem(&bench.disk.with_changed_byte(&name, seal, 1));
    assert!(
        matches!(&problem, Problem::Corrupt { file, offset, .. } if *file == name && *offset == seal as u64),
        "{problem}"
    );
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let bench = written();
    let names: Vec<String> = bench.disk.names().into_iter().filter(|name| !name.ends_with(".tmp")).collect();
    let mut missed = 0;
    for name in &names {
        let problem = match recover(&bench.disk.without(name), &OPTIONS) {
            Err(error) => error.problem,
            Ok(found) => {
                // A segment that the snapshot covers, kept until the next one.
                let state = State::recovered(&found.recovered, &found.state);
                assert!(bench.history.last().is_some_and(|last| last.is(&state)), "{name} was not missed");
                continue;
            }
        };
        missed += 1;
        match name.as_str() {
            "copy" => assert!(matches!(problem, Problem::NoIdentity { file: "copy" }), "{problem}"),
            _ => assert!(matches!(problem, Problem::Missing { .. } | Problem::Corrupt { .. }), "{name}: {problem}"),
        }
    }
    assert!(missed + 1 >= names.len() && missed >= 4, "{missed} of {names:?}");
}

#[test]
fn the_file_of_another_copy_is_refused() {
    let (bench, other) = (written(), written());
    let name = last_segment(&bench.disk);
    let mixed = bench.disk.without(&name);
    mixed.plant(&name, other.disk.contents(&name));
    let problem = problem(&mixed);
    assert!(matches!(&problem, Problem::OtherCopy { file, .. } if *file == name), "{problem}");
}

#[test]
fn a_file_of_a_newer_version_is_refused() {
    let bench = written();
    for name in bench.disk.names().into_iter().filter(|name| !name.ends_with(".tmp")) {
        let offset = if name == "copy" { "quorumkv data, format ".len() } else { 8 };
        let problem = problem(&bench.disk.with_changed_byte(&name, offset, 3 ^ 2));
        let expected = matches!(&problem, Problem::Version { file, found: 3, newest: 2 } if *file == name);
        assert!(expected, "{name}: {problem}");
    }
}

/// Gives the header of a file another version, and the checksum that goes with it.
fn with_version(mut contents: Vec<u8>, version: u8, header_bytes: usize) -> Vec<u8> {
    contents[8] = version;
    let checksum = crc32c::crc32c(&contents[..header_bytes - 4]);
    contents[header_bytes - 4..header_bytes].copy_from_slice(&checksum.to_le_bytes());
    contents
}

#[test]
fn a_directory_of_version_one_is_read_and_becomes_one_that_older_programs_refuse() {
    let bench = written();
    let old = bench.disk.crashed(usize::MAX, true);
    for name in old.names() {
        let contents = match name.as_str() {
            "copy" => identity::render(bench.copy(), 1).into_bytes(),
            name if name.starts_with("snapshot-") => with_version(old.contents(name), 1, 56),
            name => with_version(old.contents(name), 1, crate::storage::segment::HEADER_BYTES),
        };
        old.plant(&name, contents);
    }
    assert_eq!(bench.check(&old).expect("it is read"), bench.history.len() - 1);
    assert!(old.contents("copy").starts_with(b"quorumkv data, format 2\n"));
    assert_eq!(bench.check(&old).expect("again"), bench.history.len() - 1);
}

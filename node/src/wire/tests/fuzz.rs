//! Frames that are almost right: each is read or refused, none is read as more than it holds, and none makes a reader
//! panic.

use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
use rand::RngExt as _;

use super::*;
use crate::{
    codec::{MAX_PAYLOAD_BYTES, frame},
    fuzz::{cases, spoil},
    wire::compression::expand,
};

const WORDS: [&[u8]; 8] =
    [&[0], &[0xff], &[0xff; 4], &[0xff; 8], &[0, 0, 0, 0x80], &[1, 0, 0, 0], &[0xff, 0xff, 0x3f, 0], &[9]];

/// Payloads of every kind, as nodes send them.
fn payloads() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let mut frames = vec![heartbeat(Epoch(3), Seq(9), Micros(77)), alive(), snapshot_end(12)];
    for _ in 0..8 {
        let Append { epoch, prev, commit, entries } = batch().new_tree(&mut runner).expect("one").current();
        frames.extend(append(epoch, prev, commit, entries.iter()));
        let meta = meta().new_tree(&mut runner).expect("one").current();
        frames.push(snapshot_start(epoch, &meta));
        let said = said_by_a_follower().new_tree(&mut runner).expect("one").current();
        frames.push(follower_message(&said));
        frames.push(hello(&Hello { epoch, leader: "n1".into(), client_url: "http://n1:5000".to_owned() }));
    }
    let mut snapshot = crate::store::Snapshot::default();
    for key in 0..20_u64 {
        let format = if key % 7 == 0 { Format::Raw } else { Format::Json };
        snapshot.put(format!("key-{key}").as_bytes(), format, b"1", Seq(key + 1));
        let request = RequestKey { id: format!("id-{key}").into(), digest: Digest([1; 16]) };
        snapshot.requests.remember(Seq(key + 1), &request, Outcome::Done);
    }
    frames.extend(SnapshotParts::new(snapshot));
    frames.iter().map(|frame| payload(frame).to_vec()).collect()
}

#[test]
fn payloads_that_are_almost_right_are_read_or_refused() {
    let payloads = payloads();
    let mut refused = 0_u32;
    for mut case in cases(20_000) {
        let mut bytes = payloads[case.dice.random_range(0..payloads.len())].clone();
        spoil(&mut case.dice, &mut bytes, &WORDS);
        let length = bytes.len();
        let bytes = Bytes::from(bytes);
        let read = read_leader_frame(bytes.clone());
        refused += u32::from(read.is_err());
        if let Ok(LeaderFrame::Message(LeaderMessage::Append(append))) = read {
            assert!(append.entries.len() <= length, "more entries than bytes");
        }
        drop((read_follower_frame(bytes.clone()), read_write(bytes.clone())));
        // What it announces is checked before memory is taken for it.
        if let Ok(expanded) = expand(bytes) {
            assert!(expanded.len() <= MAX_PAYLOAD_BYTES);
        }
    }
    assert!(refused > 0, "not one was spoilt");
}

#[test]
fn streams_that_are_almost_right_are_cut_into_frames_or_refused() {
    let payloads = payloads();
    for mut case in cases(4_000) {
        let mut bytes = Vec::new();
        for _ in 0..case.dice.random_range(1..5) {
            let payload = &payloads[case.dice.random_range(0..payloads.len())];
            bytes.extend(frame(payload.len(), |buffer| buffer.extend_from_slice(payload)));
        }
        let sent = bytes.clone();
        spoil(&mut case.dice, &mut bytes, &WORDS);
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(payload)) = FrameDecoder.decode(&mut buffer) {
            // A checksum lets nothing through that was not sent; that of nothing is zero, which eight zeros make.
            let known = payload.is_empty() || sent.windows(payload.len()).any(|window| window == &payload[..]);
            assert!(known, "{payload:?}");
        }
    }
}

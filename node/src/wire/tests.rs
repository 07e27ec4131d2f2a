use std::time::Duration;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use quorumkv_api::{Delay, NodeId, Position, ProcessId, Seq, Settings, StorageId, WriteQuorum, peer::SettingsEntry};
use quorumkv_protocol::{
    Append, Change, Condition, Digest, Entry, EpochStart, Format, Micros, Operation, Outline, RequestKey, Welcome,
    Write,
};
use rstest::rstest;
use tokio_util::codec::Decoder as _;
use uuid::Uuid;

use super::*;
use crate::{codec::FrameDecoder, store::requests::Outcome, transport::SnapshotParts};

mod fuzz;

pub(super) fn payload(frame: &Bytes) -> Bytes {
    let mut buffer = BytesMut::from(&frame[..]);
    let payload = FrameDecoder.decode(&mut buffer).expect("sound").expect("whole");
    assert!(buffer.is_empty(), "one frame only");
    payload
}

fn from_leader(frame: &Bytes) -> LeaderFrame {
    read_leader_frame(payload(frame)).expect("well-formed")
}

fn seq() -> impl Strategy<Value = Seq> {
    any::<u64>().prop_map(Seq)
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch)
}

fn position() -> impl Strategy<Value = Position> {
    (epoch(), seq()).prop_map(|(epoch, seq)| Position { epoch, seq })
}

fn duration() -> impl Strategy<Value = Duration> {
    (0..10_000_000_000_000_u64).prop_map(Duration::from_nanos)
}

fn settings() -> impl Strategy<Value = Settings> {
    (any::<u8>(), duration(), duration(), duration()).prop_map(|(quorum, min, max, write_timeout)| Settings {
        write_quorum: WriteQuorum(quorum),
        delay: Delay { min, max },
        write_timeout,
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let put = ("\\PC{1,40}", "[ -~]{0,80}")
        .prop_map(|(key, value)| Operation::Put { key: Bytes::from(key), value: Bytes::from(value) });
    let write = write().prop_map(|write| Operation::Write(Box::new(write)));
    prop_oneof![4 => put, 4 => write, 1 => Just(Operation::Barrier), 1 => settings().prop_map(Operation::Settings)]
}

fn write() -> impl Strategy<Value = Write> {
    let value = prop::collection::vec(any::<u8>(), 0..80).prop_map(Bytes::from);
    let put = (prop_oneof![Just(Format::Json), Just(Format::Raw)], value)
        .prop_map(|(format, value)| Change::Put { format, value });
    let change = prop_oneof![3 => put, 1 => Just(Change::Delete)];
    let condition = prop_oneof![
        Just(Condition::Present),
        Just(Condition::Absent),
        seq().prop_map(Condition::Version),
        seq().prop_map(Condition::NotVersion),
    ];
    let request = ("[ -~]{1,128}", any::<[u8; 16]>())
        .prop_map(|(id, digest)| RequestKey { id: Bytes::from(id), digest: Digest(digest) });
    ("\\PC{1,40}", change, prop::option::of(condition), prop::option::of(request))
        .prop_map(|(key, change, condition, request)| Write { key: Bytes::from(key), change, condition, request })
}

fn outline() -> impl Strategy<Value = Outline> {
    let start = (epoch(), seq()).prop_map(|(epoch, first)| EpochStart { epoch, first });
    (prop::collection::vec(start, 0..5), seq()).prop_map(|(starts, last)| Outline { starts, last })
}

fn meta() -> impl Strategy<Value = SnapshotMeta> {
    let entry = (position(), settings()).prop_map(|(position, settings)| SettingsEntry { position, settings });
    (outline(), prop::option::of(entry)).prop_map(|(outline, settings)| SnapshotMeta { outline, settings })
}

pub(super) fn batch() -> impl Strategy<Value = Append> {
    let prev = (epoch(), 0..u64::MAX / 2).prop_map(|(epoch, seq)| Position { epoch, seq: Seq(seq) });
    let entries = prop::collection::vec((epoch(), operation()), 0..20);
    (epoch(), prev, seq(), entries).prop_map(|(epoch, prev, commit, entries)| {
        let entries = (prev.seq.0 + 1..)
            .zip(entries)
            .map(|(seq, (epoch, operation))| Entry { epoch, seq: Seq(seq), operation })
            .collect();
        Append { epoch, prev, commit, entries }
    })
}

fn said_by_a_follower() -> impl Strategy<Value = FollowerMessage> {
    prop_oneof![
        (any::<u128>(), any::<u128>(), outline(), seq()).prop_map(|(storage, process, outline, commit)| {
            FollowerMessage::Welcome(Welcome {
                storage_id: StorageId(Uuid::from_u128(storage)),
                process_id: ProcessId(Uuid::from_u128(process)),
                outline,
                commit,
            })
        }),
        (epoch(), seq(), prop::option::of(any::<u64>().prop_map(Micros)))
            .prop_map(|(epoch, match_seq, heartbeat)| FollowerMessage::Ack { epoch, match_seq, heartbeat }),
        (epoch(), outline()).prop_map(|(epoch, outline)| FollowerMessage::Mismatch { epoch, outline }),
        epoch().prop_map(|promised| FollowerMessage::Rejected { promised }),
    ]
}

proptest! {
    #[test]
    fn appends_arrive_as_they_were_sent(sent in batch()) {
        let frames = append(sent.epoch, sent.prev, sent.commit, sent.entries.iter());
        prop_assert_eq!(frames.len(), 1);
        prop_assert_eq!(from_leader(&frames[0]), LeaderFrame::Message(LeaderMessage::Append(sent)));
    }

    #[test]
    fn writes_are_kept_as_they_were_made(made in write(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        put_write(&mut bytes, &made);
        let bytes = Bytes::from(bytes);
        prop_assert!(read_write(bytes.slice(..cut.index(bytes.len()))).is_err(), "cut short");
        prop_assert_eq!(read_write(bytes), Ok(made));
    }

    #[test]
    fn hellos_arrive_as_they_were_sent(epoch in epoch(), leader in "\\PC{0,20}", client_url in "\\PC{0,40}") {
        let sent = Hello { epoch, leader: NodeId(leader), client_url };
        prop_assert_eq!(from_leader(&hello(&sent)), LeaderFrame::Hello(sent));
    }

    #[test]
    fn snapshot_descriptions_arrive_as_they_were_sent(epoch in epoch(), meta in meta()) {
        prop_assert_eq!(from_leader(&snapshot_start(epoch, &meta)), LeaderFrame::SnapshotStart { epoch, meta });
    }

    #[test]
    fn follower_messages_arrive_as_they_were_sent(sent in said_by_a_follower()) {
        let received = read_follower_frame(payload(&follower_message(&sent)));
        prop_assert_eq!(received, Ok(FollowerFrame::Message(sent)));
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in 0_u8..24) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = kind;
        }
        let bytes = Bytes::from(bytes);
        // Either outcome is fine; what counts is that there is one.
        drop((read_leader_frame(bytes.clone()), read_follower_frame(bytes)));
    }

    #[test]
    fn a_message_cut_short_is_refused(sent in batch(), cut in any::<prop::sample::Index>()) {
        let whole = payload(&append(sent.epoch, sent.prev, sent.commit, sent.entries.iter())[0]);
        let cut = whole.slice(..cut.index(whole.len()));
        prop_assert!(read_leader_frame(cut).is_err());
    }
}

#[test]
fn heartbeats_signs_of_life_and_ends_arrive_as_they_were_sent() {
    let beat = LeaderMessage::Heartbeat { epoch: Epoch(3), commit: Seq(9), sent: Micros(77) };
    assert_eq!(from_leader(&heartbeat(Epoch(3), Seq(9), Micros(77))), LeaderFrame::Message(beat));
    assert_eq!(from_leader(&alive()), LeaderFrame::Alive);
    assert_eq!(read_follower_frame(payload(&alive())), Ok(FollowerFrame::Alive));
    assert_eq!(from_leader(&snapshot_end(12)), LeaderFrame::SnapshotEnd { records: 12 });
}

#[test]
fn a_batch_larger_than_a_frame_continues_in_the_next_one() {
    let value = Bytes::from(vec![b'1'; 700_000]);
    let entries: Vec<Entry> = (5..10)
        .map(|seq| Entry {
            epoch: Epoch(2),
            seq: Seq(seq),
            operation: Operation::Put { key: Bytes::from_static(b"k"), value: value.clone() },
        })
        .collect();
    let prev = Position { epoch: Epoch(1), seq: Seq(4) };
    let frames = append(Epoch(2), prev, Seq(4), entries.iter());
    assert_eq!(frames.len(), 5, "two of them exceed a frame's share");
    let mut expected_prev = prev;
    let mut received = Vec::new();
    for frame in &frames {
        let LeaderFrame::Message(LeaderMessage::Append(batch)) = from_leader(frame) else { panic!("an append") };
        assert_eq!(batch.prev, expected_prev);
        received.extend(batch.entries);
        expected_prev = received.last().expect("no frame is empty").position();
    }
    assert_eq!(received, entries);
}

#[test]
fn a_snapshot_is_sent_in_parts_that_add_up() {
    let mut snapshot = crate::store::Snapshot::default();
    for key in 0..2_000_u32 {
        let format = if key == 1_500 { Format::Raw } else { Format::Json };
        snapshot.put(format!("key-{key}").as_bytes(), format, &vec![b'7'; 500], Seq(u64::from(key) + 1));
    }
    for place in 1..=5_000_u64 {
        let request = RequestKey { id: format!("{place:0>80}").into(), digest: Digest([1; 16]) };
        let outcomes = [None, Some(Seq(place))].map(|current| Outcome::ConditionFailed { current });
        let outcome = outcomes.get(usize::try_from(place % 3).expect("small")).copied().unwrap_or(Outcome::Done);
        snapshot.requests.remember(Seq(place), &request, outcome);
    }
    let mut builder = crate::transport::SnapshotBuilder::default();
    let (mut kinds, mut end) = (Vec::new(), None);
    for frame in SnapshotParts::new(snapshot.clone()) {
        kinds.push(payload(&frame)[0]);
        match from_leader(&frame) {
            LeaderFrame::SnapshotPart(part) => builder.part(part),
            LeaderFrame::SnapshotEnd { records } => end = Some(records),
            other => panic!("{other:?} is no part"),
        }
    }
    assert_eq!(end, Some(7_000));
    let count = |kind| kinds.iter().filter(|found| **found == kind).count();
    assert!(
        count(5) >= 3 && count(7) == 1 && count(8) >= 2,
        "only the part with the raw value is different: {kinds:?}"
    );
    assert_eq!(builder.end(7_000, Seq(0)).expect("whole"), snapshot);
}

#[rstest]
#[case::no_kind(&[], Malformed::Short("its kind"))]
#[case::unknown_kind(&[99], Malformed::Kind(99))]
#[case::something_follows(&[0, 1], Malformed::Trailing(1))]
#[case::more_entries_than_bytes(&[2, 0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0, 0,0,0,0,0,0,0,0, 255,255,255,255], Malformed::Short("the number of entries"))]
#[case::no_key(&[5, 1,0,0,0, 9,0,0,0,0,0,0,0, 0,0, 1,0,0,0, b'1'], Malformed::Key(0))]
#[case::a_key_that_is_no_text(&[5, 1,0,0,0, 9,0,0,0,0,0,0,0, 1,0, 1,0,0,0, 0xff, b'1'], Malformed::Text("a key"))]
#[case::an_id_that_is_no_text(&[8, 1,0,0,0, 9,0,0,0,0,0,0,0, 0, 1, 7, 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], Malformed::RequestId)]
#[case::no_id(&[8, 1,0,0,0, 9,0,0,0,0,0,0,0, 0, 0, 7, 0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0], Malformed::RequestId)]
#[case::no_format(&[7, 1,0,0,0, 9, 9,0,0,0,0,0,0,0, 1,0, 1,0,0,0, b'k', b'1'], Malformed::Code("a format", 9))]
#[case::a_follower_message(&[17], Malformed::Kind(17))]
fn nonsense_is_refused_with_its_reason(#[case] bytes: &'static [u8], #[case] expected: Malformed) {
    assert_eq!(read_leader_frame(Bytes::from_static(bytes)), Err(expected));
}

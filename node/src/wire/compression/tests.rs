use proptest::prelude::*;
use quorumkv_api::Seq;
use quorumkv_protocol::{Append, Entry, LeaderMessage};
use rand::{SeedableRng as _, rngs::StdRng};
use rstest::rstest;

use super::*;
use crate::wire::{
    LeaderFrame, append, read_leader_frame,
    tests::{batch, payload},
};

/// As applications write it: the same names over and over, with other numbers.
fn text(bytes: usize) -> Vec<u8> {
    let records =
        (0_u64..).flat_map(|n| format!(r#"{{"id":{},"balance":{},"active":true}},"#, n * 7919, n * n).into_bytes());
    records.take(bytes).collect()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    StdRng::seed_from_u64(1).fill_bytes(&mut noise);
    noise
}

fn shared(payload: &[u8]) -> SharedFrame {
    frame(payload.len(), |out| out.put_slice(payload)).into()
}

/// A compressed payload that says this of itself.
fn compressed(length: u32, checksum: u32, block: &[u8]) -> Bytes {
    [&[kind::COMPRESSED][..], &length.to_le_bytes(), &checksum.to_le_bytes(), block].concat().into()
}

proptest! {
    #[test]
    fn batches_arrive_as_they_were_sent(few in batch(), times in 1_usize..40) {
        let Append { epoch, prev, commit, entries } = few;
        // What comes again is what there is to compress.
        let many = entries.iter().cycle().take(entries.len() * times);
        let entries: Vec<Entry> =
            (prev.seq.0 + 1..).zip(many).map(|(seq, entry)| Entry { seq: Seq(seq), ..entry.clone() }).collect();
        let frames = append(epoch, prev, commit, entries.iter());
        prop_assert_eq!(frames.len(), 1);
        let shared = SharedFrame::from(frames[0].clone());
        let sent = shared.sent(Compression::Above(0));
        prop_assert!(sent.len() <= shared.plain().len());
        let received = expand(payload(sent)).expect("sound");
        let wanted = LeaderFrame::Message(LeaderMessage::Append(Append { epoch, prev, commit, entries }));
        prop_assert_eq!(read_leader_frame(received), Ok(wanted));
    }

    #[test]
    fn changed_bytes_are_refused_or_stand_for_the_same(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        more in prop::collection::vec(any::<u8>(), 0..4),
    ) {
        let plain = text(3000);
        let shared = shared(&plain);
        let mut bytes = payload(shared.sent(Compression::Above(0))).to_vec();
        prop_assert_eq!(bytes[0], kind::COMPRESSED);
        for (position, byte) in changes {
            // The kind stays: of another one this module knows nothing.
            let position = 1 + position.index(bytes.len() - 1);
            bytes[position] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(1 + cut.index(bytes.len()));
        }
        bytes.extend(more);
        if let Ok(found) = expand(bytes.into()) {
            prop_assert!(found == plain, "other bytes were taken for what was sent");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(
        length in prop_oneof![0_u32..2000, any::<u32>()],
        checksum in any::<u32>(),
        block in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = compressed(length, checksum, &block);
        drop(expand(bytes.slice(..cut.index(bytes.len()))));
        prop_assert!(expand(bytes).is_err() || length == 0, "the checksum is hardly right by chance");
    }
}

#[rstest]
#[case::a_little(1000)]
#[case::what_is_tried_whole(TRIED_WHOLE)]
#[case::what_is_tried_in_pieces(TRIED_WHOLE + 1)]
#[case::much(1_000_000)]
fn text_gets_smaller_once_for_all_streams(#[case] bytes: usize) {
    let (payload, one) = (text(bytes), shared(&text(bytes)));
    let other = one.clone();
    let sent = one.sent(Compression::Above(SMALLEST));
    assert!(sent.len() < bytes * 2 / 3, "{} of {bytes}", sent.len());
    assert_eq!(sent.as_ptr(), other.sent(Compression::Above(SMALLEST)).as_ptr(), "the work is done once");
    assert_eq!(other.sent(Compression::Off).as_ptr(), one.plain().as_ptr(), "who does not read it gets it as it was");
    assert_eq!(expand(super::super::tests::payload(sent)), Ok(payload.into()));
}

#[rstest]
#[case::noise(noise(1000), SMALLEST)]
#[case::much_noise(noise(1_000_000), SMALLEST)]
#[case::a_tenth_of_text([noise(900), text(100)].concat(), SMALLEST)]
#[case::small(text(SMALLEST - HEADER_BYTES), 0)]
#[case::below_the_threshold(text(4096 - HEADER_BYTES), 4096)]
fn what_does_not_pay_is_sent_as_it_is(#[case] payload: Vec<u8>, #[case] above: usize) {
    let shared = shared(&payload);
    assert_eq!(shared.sent(Compression::Above(above)).as_ptr(), shared.plain().as_ptr());
}

#[test]
fn half_of_a_large_payload_is_enough() {
    let half = 100_000;
    for payload in [[text(half), noise(half)].concat(), [noise(half), text(half)].concat()] {
        let shared = shared(&payload);
        assert!(shared.sent(Compression::Above(0)).len() < payload.len() * 4 / 5);
    }
}

#[test]
fn the_most_that_fits_a_frame_can_be_nearly_nothing() {
    let payload = vec![kind::APPEND; MAX_PAYLOAD_BYTES];
    let shared = shared(&payload);
    let sent = shared.sent(Compression::Above(0));
    assert!(sent.len() < MAX_PAYLOAD_BYTES / 200, "{}", sent.len());
    assert_eq!(expand(super::super::tests::payload(sent)), Ok(payload.into()));
}

#[rstest]
#[case::no_head(&[kind::COMPRESSED, 1, 0, 0], Malformed::Short("the head of a compressed message"))]
#[case::four_gib(&compressed(u32::MAX, 0, &[0; 100]), Malformed::CompressedLength(0xffff_ffff))]
#[case::more_than_a_frame(&compressed(4 * 1024 * 1024 + 1, 0, &[0; 20_000]), Malformed::CompressedLength(4 * 1024 * 1024 + 1))]
#[case::more_than_lz4_can(&compressed(511, 0, &[0; 2]), Malformed::CompressedLength(511))]
// Two literal bytes, as the block says in its first one.
#[case::fewer(&compressed(3, 0, &[0x20, 1, 2]), Malformed::Compressed("it has fewer bytes than announced"))]
#[case::more(&compressed(1, 0, &[0x20, 1, 2]), Malformed::Compressed("it is no block of LZ4, or one of more bytes than announced"))]
#[case::cut(&compressed(3, 0, &[0x30, 1, 2]), Malformed::Compressed("it is no block of LZ4, or one of more bytes than announced"))]
#[case::other_bytes(&compressed(2, 0, &[0x20, 1, 2]), Malformed::Compressed("it has another checksum"))]
fn what_no_sender_makes_is_refused_with_its_reason(#[case] bytes: &[u8], #[case] expected: Malformed) {
    assert_eq!(expand(Bytes::copy_from_slice(bytes)), Err(expected));
}

#[test]
fn a_compressed_payload_within_another_is_no_message() {
    let inner = compressed(2, crc32c::crc32c(&[1, 2]), &[0x20, 1, 2]);
    assert_eq!(expand(inner.clone()), Ok(Bytes::from_static(&[1, 2])));
    let mut block = vec![u8::try_from(inner.len()).expect("few") << 4];
    block.extend_from_slice(&inner);
    let outer = compressed(u32::try_from(inner.len()).expect("few"), crc32c::crc32c(&inner), &block);
    let found = expand(outer).expect("it is what it says");
    assert_eq!(read_leader_frame(found), Err(Malformed::Kind(kind::COMPRESSED)));
}

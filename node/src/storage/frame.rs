//! Frames of the write-ahead log.
//!
//! ```text
//! | CRC32C: u32 | payload bytes: u32 | magic: u16 | kind: u8 | flags: u8 | batch: u64 | epoch: u64 | seq: u64 | payload |
//! ```
//!
//! All numbers are little-endian. The checksum covers everything after it and begins with the copy's
//! identity, so that neither a frame of another copy nor a value that looks like a frame is taken for one.
//! A batch is one or more frames, the first and the last of them marked; it counts as a whole or not at all.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use quorumkv_api::{Delay, Epoch, MAX_KEY_BYTES, Seq, Settings, StorageId, WriteQuorum};
use quorumkv_protocol::{Entry, Operation};

use crate::wire;

/// Bytes before the payload.
pub(super) const HEADER_BYTES: usize = 36;

const MAGIC: u16 = 0x6b51;
const FIRST: u8 = 1;
const LAST: u8 = 2;
const SETTINGS_BYTES: usize = 1 + 3 * 8;

/// What a frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Everything before this frame was durable when it was written; `seq` is its own offset.
    Group = 1,
    /// The log goes on in the next segment.
    Seal,
    /// `epoch` is promised.
    Promise,
    /// Entries after `seq` are forgotten.
    Truncate,
    /// Entries up to `seq` are committed.
    Commit,
    /// An entry that gives a key a value.
    Put,
    /// An entry that does nothing.
    Barrier,
    /// An entry with settings.
    Settings,
    /// An entry with a write that is more than a put.
    Write,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{Barrier, Commit, Group, Promise, Put, Seal, Settings, Truncate, Write};
        let all = [Group, Seal, Promise, Truncate, Commit, Put, Barrier, Settings, Write];
        all.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// A frame as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) first: bool,
    pub(super) last: bool,
    pub(super) batch: u64,
    pub(super) epoch: Epoch,
    pub(super) seq: Seq,
    pub(super) payload: Bytes,
}

impl Frame {
    pub(super) fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The entry in it; none when it holds something else, or nothing that could have been written.
    pub(super) fn entry(&self) -> Option<Entry> {
        let operation = match self.kind {
            Kind::Put => {
                let mut rest = self.payload.clone();
                let key_bytes = usize::from(rest.try_get_u16_le().ok()?);
                if !(1..=MAX_KEY_BYTES).contains(&key_bytes) || rest.len() < key_bytes {
                    return None;
                }
                let key = rest.split_to(key_bytes);
                std::str::from_utf8(&key).ok()?;
                Operation::Put { key, value: rest }
            }
            Kind::Write => Operation::Write(Box::new(wire::read_write(self.payload.clone()).ok()?)),
            Kind::Barrier => Operation::Barrier,
            Kind::Settings => Operation::Settings(read_settings(&self.payload)?),
            _ => return None,
        };
        Some(Entry { epoch: self.epoch, seq: self.seq, operation })
    }
}

/// What checksums begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn of(copy: StorageId) -> Self {
        Self(crc32c::crc32c(copy.0.as_bytes()))
    }

    fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// The frames of one batch.
#[derive(Debug)]
pub(super) struct Encoder {
    batch: u64,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Encoder {
    pub(super) fn new(batch: u64) -> Self {
        Self { batch, bytes: Vec::new(), ends: Vec::new() }
    }

    pub(super) fn push(&mut self, kind: Kind, epoch: Epoch, seq: Seq) {
        self.push_with(kind, epoch, seq, |_| {});
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        let Entry { epoch, seq, operation } = entry;
        match operation {
            Operation::Put { key, value } => self.push_with(Kind::Put, *epoch, *seq, |out| {
                out.reserve(2 + key.len() + value.len());
                out.put_u16_le(u16::try_from(key.len()).expect("keys have at most 1024 bytes"));
                out.put_slice(key);
                out.put_slice(value);
            }),
            Operation::Write(write) => {
                self.push_with(Kind::Write, *epoch, *seq, |out| wire::put_write(out, write));
            }
            Operation::Barrier => self.push(Kind::Barrier, *epoch, *seq),
            Operation::Settings(settings) => {
                self.push_with(Kind::Settings, *epoch, *seq, |out| put_settings(out, settings));
            }
        }
    }

    fn push_with(&mut self, kind: Kind, epoch: Epoch, seq: Seq, payload: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        // Checksum and length are filled in when the flags are known.
        self.bytes.put_bytes(0, 8);
        self.bytes.put_u16_le(MAGIC);
        self.bytes.put_u8(kind as u8);
        self.bytes.put_u8(0);
        self.bytes.put_u64_le(self.batch);
        self.bytes.put_u64_le(epoch.0);
        self.bytes.put_u64_le(seq.0);
        payload(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start - HEADER_BYTES).expect("an entry is far below 4 GiB");
        self.bytes[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        self.ends.push(self.bytes.len());
    }

    /// The frames, and where each ends.
    pub(super) fn finish(mut self, seed: Seed) -> (Vec<u8>, Vec<usize>) {
        let frames = self.ends.len();
        let mut start = 0;
        for (index, end) in self.ends.iter().enumerate() {
            let frame = &mut self.bytes[start..*end];
            frame[11] = if index == 0 { FIRST } else { 0 } | if index + 1 == frames { LAST } else { 0 };
            let checksum = seed.checksum(&frame[4..]);
            frame[..4].copy_from_slice(&checksum.to_le_bytes());
            start = *end;
        }
        (self.bytes, self.ends)
    }
}

/// A frame of the log itself, which belongs to no batch.
pub(super) fn mark(kind: Kind, offset: u64, seed: Seed) -> Vec<u8> {
    let mut encoder = Encoder::new(0);
    encoder.push(kind, Epoch(0), Seq(offset));
    encoder.finish(seed).0
}

/// The frame that begins at `offset`; none if there is none.
pub(super) fn frame_at(bytes: &Bytes, offset: usize, seed: Seed) -> Option<Frame> {
    let mut header = bytes.get(offset..offset + HEADER_BYTES)?;
    let checksum = header.get_u32_le();
    let length = header.get_u32_le() as usize;
    if header.get_u16_le() != MAGIC {
        return None;
    }
    let (kind, flags) = (Kind::of(header.get_u8())?, header.get_u8());
    let end = (offset + HEADER_BYTES).checked_add(length)?;
    if checksum != seed.checksum(bytes.get(offset + 4..end)?) {
        return None;
    }
    Some(Frame {
        kind,
        first: flags & FIRST != 0,
        last: flags & LAST != 0,
        batch: header.get_u64_le(),
        epoch: Epoch(header.get_u64_le()),
        seq: Seq(header.get_u64_le()),
        payload: bytes.slice(offset + HEADER_BYTES..end),
    })
}

/// Where, after `from`, a group begins: what is before it was durable once.
pub(super) fn group_after(bytes: &Bytes, from: usize, seed: Seed) -> Option<usize> {
    let last = bytes.len().checked_sub(HEADER_BYTES)?;
    (from..=last).find(|offset| {
        bytes[offset + 8..offset + 10] == MAGIC.to_le_bytes()
            && frame_at(bytes, *offset, seed)
                .is_some_and(|frame| frame.kind == Kind::Group && frame.seq.0 == *offset as u64)
    })
}

fn put_settings(out: &mut Vec<u8>, settings: &Settings) {
    let Settings { write_quorum, delay, write_timeout } = settings;
    out.put_u8(write_quorum.0);
    for duration in [delay.min, delay.max, *write_timeout] {
        out.put_u64_le(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

fn read_settings(payload: &Bytes) -> Option<Settings> {
    let mut from = payload.clone();
    if from.len() != SETTINGS_BYTES {
        return None;
    }
    let write_quorum = WriteQuorum(from.get_u8());
    let mut duration = || Duration::from_nanos(from.get_u64_le());
    let delay = Delay { min: duration(), max: duration() };
    Some(Settings { write_quorum, delay, write_timeout: duration() })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorumkv_protocol::{Change, Condition, Digest, Format, RequestKey, Write};

    use super::*;

    fn copy() -> StorageId {
        StorageId(uuid::Uuid::from_u128(7))
    }

    fn entries() -> Vec<Entry> {
        let settings = Settings { write_quorum: WriteQuorum(2), ..Settings::default() };
        let put = Operation::Put { key: Bytes::from_static(b"key"), value: Bytes::from_static(b"[1]") };
        let write = Write {
            key: Bytes::from_static(b"key"),
            change: Change::Put { format: Format::Raw, value: Bytes::from_static(b"\0\xff") },
            condition: Some(Condition::Version(Seq(1))),
            request: Some(RequestKey { id: Bytes::from_static(b"id"), digest: Digest([7; 16]) }),
        };
        let operations = [put, Operation::Barrier, Operation::Settings(settings), Operation::Write(Box::new(write))];
        (1..).zip(operations).map(|(seq, operation)| Entry { epoch: Epoch(3), seq: Seq(seq), operation }).collect()
    }

    fn encoded() -> (Bytes, Vec<usize>) {
        let mut encoder = Encoder::new(9);
        entries().iter().for_each(|entry| encoder.entry(entry));
        let (bytes, ends) = encoder.finish(Seed::of(copy()));
        (bytes.into(), ends)
    }

    #[test]
    fn entries_come_back_as_they_were_and_the_batch_shows_its_ends() {
        let (bytes, ends) = encoded();
        let mut offset = 0;
        let mut read = Vec::new();
        for end in &ends {
            let frame = frame_at(&bytes, offset, Seed::of(copy())).expect("a frame");
            assert_eq!((frame.batch, frame.first, frame.last), (9, offset == 0, *end == bytes.len()));
            read.push(frame.entry().expect("an entry"));
            offset = *end;
        }
        assert_eq!(read, entries());
    }

    #[test]
    fn the_bytes_on_disk_stay_what_they_are() {
        let (bytes, ends) = encoded();
        let hex = |frame: std::ops::Range<usize>| -> String {
            // Without the checksum.
            bytes[frame].iter().skip(4).map(|byte| format!("{byte:02x}")).collect()
        };
        let because = "a change here makes existing data unreadable: raise the version";
        let put = "08000000516b06010900000000000000030000000000000001000000000000000300\
                   6b65795b315d";
        assert_eq!(hex(0..ends[0]), put, "{because}");
        let write = "28000000516b09020900000000000000030000000000000004000000000000000203\
                     010000000000000002696407070707070707070707070707070707030002000000\
                     6b657900ff";
        assert_eq!(hex(ends[2]..ends[3]), write, "{because}");
    }

    #[test]
    fn a_frame_of_another_copy_is_none() {
        let (bytes, _) = encoded();
        assert_eq!(frame_at(&bytes, 0, Seed::of(StorageId(uuid::Uuid::from_u128(8)))), None);
    }

    #[test]
    fn a_group_is_found_only_where_it_says_it_is() {
        let seed = Seed::of(copy());
        let mut bytes = vec![0; 100];
        bytes.extend(mark(Kind::Group, 100, seed));
        bytes.extend(vec![0; 50]);
        assert_eq!(group_after(&bytes.clone().into(), 3, seed), Some(100));
        assert_eq!(group_after(&bytes.clone().into(), 101, seed), None);
        bytes.insert(0, 0);
        assert_eq!(group_after(&bytes.into(), 0, seed), None, "a copy of it elsewhere, such as within a value");
    }

    proptest! {
        #[test]
        fn no_changed_byte_goes_unnoticed(position in any::<prop::sample::Index>(), change in 1_u8..) {
            let (bytes, ends) = encoded();
            let position = position.index(ends[0]);
            let mut changed = bytes.to_vec();
            changed[position] ^= change;
            prop_assert_eq!(frame_at(&changed.into(), 0, Seed::of(copy())), None);
        }

        #[test]
        fn noise_is_never_a_frame(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(frame_at(&noise.into(), 0, Seed::of(copy())), None);
        }
    }
}

//! Payloads into messages.

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use quorumkv_api::{
    Delay, Epoch, MAX_KEY_BYTES, MAX_REQUEST_ID_BYTES, NodeId, Position, ProcessId, Seq, Settings, StorageId,
    WriteQuorum, peer::SettingsEntry,
};
use quorumkv_protocol::{
    Append, Change, Condition, Digest, Entry, EpochStart, FollowerMessage, Format, Hello, LeaderMessage, Micros,
    Operation, Outline, RequestKey, SnapshotMeta, Welcome, Write,
};
use uuid::Uuid;

use super::{FollowerFrame, LeaderFrame, Malformed, SnapshotPart, kind};
use crate::store::{
    Versioned,
    requests::{Outcome, Remembered},
};

/// Reads what a leader sent.
///
/// # Errors
/// See [`Malformed`].
pub fn read_leader_frame(payload: Bytes) -> Result<LeaderFrame, Malformed> {
    let mut from = Reader(payload);
    let read = match from.byte("its kind")? {
        kind::ALIVE => LeaderFrame::Alive,
        kind::HELLO => LeaderFrame::Hello(Hello {
            epoch: from.epoch()?,
            leader: NodeId(from.text("the leader's name")?),
            client_url: from.text("the leader's URL")?,
        }),
        kind::APPEND => LeaderFrame::Message(LeaderMessage::Append(from.append()?)),
        kind::HEARTBEAT => LeaderFrame::Message(LeaderMessage::Heartbeat {
            epoch: from.epoch()?,
            commit: from.seq()?,
            sent: Micros(from.number("a time")?),
        }),
        kind::SNAPSHOT_START => LeaderFrame::SnapshotStart { epoch: from.epoch()?, meta: from.meta()? },
        kind @ (kind::SNAPSHOT_PART | kind::SNAPSHOT_FORMATS) => {
            LeaderFrame::SnapshotPart(from.snapshot_keys(kind == kind::SNAPSHOT_FORMATS)?)
        }
        kind::SNAPSHOT_REQUESTS => LeaderFrame::SnapshotPart(from.snapshot_requests()?),
        kind::SNAPSHOT_END => LeaderFrame::SnapshotEnd { records: from.number("the number of records")? },
        unknown => return Err(Malformed::Kind(unknown)),
    };
    from.end(read)
}

/// Reads what a follower sent.
///
/// # Errors
/// See [`Malformed`].
pub fn read_follower_frame(payload: Bytes) -> Result<FollowerFrame, Malformed> {
    let mut from = Reader(payload);
    let message = match from.byte("its kind")? {
        kind::ALIVE => return from.end(FollowerFrame::Alive),
        kind::WELCOME => FollowerMessage::Welcome(Welcome {
            storage_id: StorageId(from.uuid()?),
            process_id: ProcessId(from.uuid()?),
            outline: from.outline()?,
            commit: from.seq()?,
        }),
        kind::ACK => FollowerMessage::Ack {
            epoch: from.epoch()?,
            match_seq: from.seq()?,
            heartbeat: match from.byte("an acknowledgement")? {
                0 => None,
                _ => Some(Micros(from.number("a time")?)),
            },
        },
        kind::MISMATCH => FollowerMessage::Mismatch { epoch: from.epoch()?, outline: from.outline()? },
        kind::REJECTED => FollowerMessage::Rejected { promised: from.epoch()? },
        unknown => return Err(Malformed::Kind(unknown)),
    };
    from.end(FollowerFrame::Message(message))
}

/// Reads what [`super::put_write`] wrote.
///
/// # Errors
/// See [`Malformed`].
pub fn read_write(payload: Bytes) -> Result<Write, Malformed> {
    let mut from = Reader(payload);
    let write = from.write()?;
    from.end(write)
}

/// Takes values off the front of a payload.
struct Reader(Bytes);

impl Reader {
    fn need(&self, bytes: usize, what: &'static str) -> Result<(), Malformed> {
        if self.0.len() < bytes { Err(Malformed::Short(what)) } else { Ok(()) }
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, Malformed> {
        self.need(1, what)?;
        Ok(self.0.get_u8())
    }

    fn number(&mut self, what: &'static str) -> Result<u64, Malformed> {
        self.need(8, what)?;
        Ok(self.0.get_u64_le())
    }

    fn epoch(&mut self) -> Result<Epoch, Malformed> {
        self.number("an epoch").map(Epoch)
    }

    fn seq(&mut self) -> Result<Seq, Malformed> {
        self.number("a place in the log").map(Seq)
    }

    fn position(&mut self) -> Result<Position, Malformed> {
        Ok(Position { epoch: self.epoch()?, seq: self.seq()? })
    }

    /// A count of things that take at least `each` bytes, checked before memory is reserved for them.
    fn count(&mut self, what: &'static str, each: usize) -> Result<usize, Malformed> {
        self.need(4, what)?;
        let count = self.0.get_u32_le() as usize;
        self.need(count.saturating_mul(each), what)?;
        Ok(count)
    }

    fn bytes(&mut self, length: usize, what: &'static str) -> Result<Bytes, Malformed> {
        self.need(length, what)?;
        Ok(self.0.split_to(length))
    }

    fn text(&mut self, what: &'static str) -> Result<String, Malformed> {
        let length = self.count(what, 1)?;
        String::from_utf8(self.bytes(length, what)?.to_vec()).map_err(|_| Malformed::Text(what))
    }

    fn uuid(&mut self) -> Result<Uuid, Malformed> {
        self.need(16, "an identity")?;
        let mut bytes = [0; 16];
        self.0.copy_to_slice(&mut bytes);
        Ok(Uuid::from_bytes(bytes))
    }

    fn outline(&mut self) -> Result<Outline, Malformed> {
        let count = self.count("an outline", 16)?;
        let mut starts = Vec::with_capacity(count);
        for _ in 0..count {
            starts.push(EpochStart { epoch: self.epoch()?, first: self.seq()? });
        }
        Ok(Outline { starts, last: self.seq()? })
    }

    fn meta(&mut self) -> Result<SnapshotMeta, Malformed> {
        let outline = self.outline()?;
        let settings = match self.byte("a snapshot's settings")? {
            0 => None,
            _ => Some(SettingsEntry { position: self.position()?, settings: self.settings()? }),
        };
        Ok(SnapshotMeta { outline, settings })
    }

    fn settings(&mut self) -> Result<Settings, Malformed> {
        let write_quorum = WriteQuorum(self.byte("settings")?);
        let mut duration = || self.number("settings").map(Duration::from_nanos);
        let delay = Delay { min: duration()?, max: duration()? };
        Ok(Settings { write_quorum, delay, write_timeout: duration()? })
    }

    /// The core and the client port rely on keys being UTF-8 of an allowed length.
    fn key_value(&mut self) -> Result<(Bytes, Bytes), Malformed> {
        self.need(2 + 4, "an entry")?;
        let key_bytes = usize::from(self.0.get_u16_le());
        let value_bytes = self.0.get_u32_le() as usize;
        if !(1..=MAX_KEY_BYTES).contains(&key_bytes) {
            return Err(Malformed::Key(key_bytes));
        }
        let key = self.bytes(key_bytes, "a key")?;
        if std::str::from_utf8(&key).is_err() {
            return Err(Malformed::Text("a key"));
        }
        Ok((key, self.bytes(value_bytes, "a value")?))
    }

    fn format(&mut self) -> Result<Format, Malformed> {
        match self.byte("a format")? {
            kind::JSON => Ok(Format::Json),
            kind::RAW => Ok(Format::Raw),
            unknown => Err(Malformed::Code("a format", unknown)),
        }
    }

    fn write(&mut self) -> Result<Write, Malformed> {
        let change = self.byte("a change")?;
        let condition = match self.byte("a condition")? {
            kind::ALWAYS => None,
            kind::PRESENT => Some(Condition::Present),
            kind::ABSENT => Some(Condition::Absent),
            kind::VERSION => Some(Condition::Version(self.seq()?)),
            kind::NOT_VERSION => Some(Condition::NotVersion(self.seq()?)),
            unknown => return Err(Malformed::Code("a condition", unknown)),
        };
        let request = match self.byte("a request id")? {
            0 => None,
            length => Some(self.request(length)?),
        };
        let (key, value) = self.key_value()?;
        let change = match change {
            kind::DELETE if value.is_empty() => Change::Delete,
            kind::DELETE => return Err(Malformed::Trailing(value.len())),
            kind::JSON => Change::Put { format: Format::Json, value },
            kind::RAW => Change::Put { format: Format::Raw, value },
            unknown => return Err(Malformed::Code("a change", unknown)),
        };
        Ok(Write { key, change, condition, request })
    }

    fn request(&mut self, length: u8) -> Result<RequestKey, Malformed> {
        let id = self.bytes(usize::from(length), "a request id")?;
        let printable = id.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if !printable || !(1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) {
            return Err(Malformed::RequestId);
        }
        self.need(16, "a digest")?;
        let mut digest = [0; 16];
        self.0.copy_to_slice(&mut digest);
        Ok(RequestKey { id, digest: Digest(digest) })
    }

    fn snapshot_keys(&mut self, formats: bool) -> Result<SnapshotPart, Malformed> {
        let count = self.count("the number of keys", 8 + 2 + 4)?;
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            let format = if formats { self.format()? } else { Format::Json };
            let version = self.seq()?;
            let (key, value) = self.key_value()?;
            keys.push((key, Versioned { value, format, version }));
        }
        Ok(SnapshotPart::Keys(keys))
    }

    fn snapshot_requests(&mut self) -> Result<SnapshotPart, Malformed> {
        let count = self.count("the number of request ids", 8 + 1 + 1 + 1 + 16)?;
        let mut requests = Vec::with_capacity(count);
        for _ in 0..count {
            let place = self.seq()?;
            let outcome = match self.byte("an outcome")? {
                kind::DONE => Outcome::Done,
                kind::FAILED_ABSENT => Outcome::ConditionFailed { current: None },
                kind::FAILED_VERSION => Outcome::ConditionFailed { current: Some(self.seq()?) },
                unknown => return Err(Malformed::Code("an outcome", unknown)),
            };
            let length = self.byte("a request id")?;
            requests.push((place, Remembered { request: self.request(length)?, outcome }));
        }
        Ok(SnapshotPart::Requests(requests))
    }

    fn append(&mut self) -> Result<Append, Malformed> {
        let (epoch, prev, commit) = (self.epoch()?, self.position()?, self.seq()?);
        let count = self.count("the number of entries", 1 + 8)?;
        let mut entries = Vec::with_capacity(count);
        let mut seq = prev.seq;
        for _ in 0..count {
            seq = Seq(seq.0.wrapping_add(1));
            let code = self.byte("an entry")?;
            let epoch = self.epoch()?;
            let operation = match code {
                kind::PUT => {
                    let (key, value) = self.key_value()?;
                    Operation::Put { key, value }
                }
                kind::WRITE => Operation::Write(Box::new(self.write()?)),
                kind::BARRIER => Operation::Barrier,
                kind::SETTINGS => Operation::Settings(self.settings()?),
                unknown => return Err(Malformed::Kind(unknown)),
            };
            entries.push(Entry { epoch, seq, operation });
        }
        Ok(Append { epoch, prev, commit, entries })
    }

    fn end<Read>(self, read: Read) -> Result<Read, Malformed> {
        if self.0.is_empty() { Ok(read) } else { Err(Malformed::Trailing(self.0.len())) }
    }
}

//! Messages into frames.

use bytes::{BufMut, Bytes, BytesMut};
use quorumkv_api::{Epoch, Position, Seq, Settings, peer::SettingsEntry};
use quorumkv_protocol::{
    Change, Condition, Entry, EpochStart, FollowerMessage, Format, Hello, Micros, Operation, Outline, RequestKey,
    SnapshotMeta, Welcome, Write,
};

use super::kind;
use crate::{
    codec::frame,
    store::{
        Key, Versioned,
        requests::{Outcome, Remembered},
    },
};

/// Bytes an entry takes besides its key and value.
const ENTRY_OVERHEAD: usize = 1 + 8 + 2 + 4;

/// Bytes a write that is more than a put takes besides its key, value and request id, at most.
const WRITE_OVERHEAD: usize = ENTRY_OVERHEAD + 1 + 1 + 8 + REQUEST_OVERHEAD;

/// Bytes a request id takes besides itself.
const REQUEST_OVERHEAD: usize = 1 + 16;

/// Payload bytes after which a batch goes on in the next frame.
const BATCH_BYTES: usize = 1024 * 1024;

/// The sign of life, which is the same in both directions.
#[must_use]
pub fn alive() -> Bytes {
    frame(1, |out| out.put_u8(kind::ALIVE))
}

/// A [`Hello`].
#[must_use]
pub fn hello(hello: &Hello) -> Bytes {
    let Hello { epoch, leader, client_url } = hello;
    frame(64, |out| {
        out.put_u8(kind::HELLO);
        out.put_u64_le(epoch.0);
        put_text(out, &leader.0);
        put_text(out, client_url);
    })
}

/// An append of `entries` after `prev`, in as many frames as its size demands, one at least.
pub fn append<'a>(
    epoch: Epoch,
    prev: Position,
    commit: Seq,
    entries: impl Iterator<Item = &'a Entry> + Clone,
) -> Vec<Bytes> {
    let mut frames = Vec::with_capacity(1);
    let mut prev = prev;
    let mut rest = entries.peekable();
    loop {
        let mut batch = Vec::with_capacity(rest.size_hint().0);
        let mut bytes = 0;
        while let Some(entry) = rest.peek() {
            let size = entry_bytes(entry);
            if !batch.is_empty() && bytes + size > BATCH_BYTES {
                break;
            }
            bytes += size;
            batch.push(*entry);
            rest.next();
        }
        frames.push(append_frame(epoch, prev, commit, &batch, bytes));
        match (batch.last(), rest.peek()) {
            (Some(last), Some(_)) => prev = last.position(),
            _ => return frames,
        }
    }
}

fn append_frame(epoch: Epoch, prev: Position, commit: Seq, entries: &[&Entry], bytes: usize) -> Bytes {
    frame(64 + bytes, |out| {
        out.put_u8(kind::APPEND);
        out.put_u64_le(epoch.0);
        put_position(out, prev);
        out.put_u64_le(commit.0);
        put_count(out, entries.len());
        for entry in entries {
            put_entry(out, entry);
        }
    })
}

/// A heartbeat.
#[must_use]
pub fn heartbeat(epoch: Epoch, commit: Seq, sent: Micros) -> Bytes {
    frame(32, |out| {
        out.put_u8(kind::HEARTBEAT);
        out.put_u64_le(epoch.0);
        out.put_u64_le(commit.0);
        out.put_u64_le(sent.0);
    })
}

/// The start of a snapshot.
#[must_use]
pub fn snapshot_start(epoch: Epoch, meta: &SnapshotMeta) -> Bytes {
    frame(128, |out| {
        out.put_u8(kind::SNAPSHOT_START);
        out.put_u64_le(epoch.0);
        put_outline(out, &meta.outline);
        match &meta.settings {
            None => out.put_u8(0),
            Some(SettingsEntry { position, settings }) => {
                out.put_u8(1);
                put_position(out, *position);
                put_settings(out, settings);
            }
        }
    })
}

/// Some keys of a snapshot: as many as fit a frame, taken from `keys`; the last key it took, if any.
pub fn snapshot_part<'a>(keys: impl Iterator<Item = (&'a Key, &'a Versioned)>) -> Option<(Bytes, Key, u64)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for (key, versioned) in keys {
        batch.push((key, versioned));
        bytes += key.len() + versioned.value.len() + ENTRY_OVERHEAD;
        if bytes > BATCH_BYTES / 4 {
            break;
        }
    }
    let last = batch.last().map(|(key, _)| Key::clone(key))?;
    let formats = batch.iter().any(|(_, versioned)| versioned.format != Format::Json);
    let frame = frame(bytes + 16, |out| {
        out.put_u8(if formats { kind::SNAPSHOT_FORMATS } else { kind::SNAPSHOT_PART });
        put_count(out, batch.len());
        for (key, Versioned { value, format, version }) in &batch {
            if formats {
                out.put_u8(format_code(*format));
            }
            out.put_u64_le(version.0);
            put_key_value(out, key, value);
        }
    });
    Some((frame, last, batch.len() as u64))
}

/// Some request ids of a snapshot, as [`snapshot_part`]; also the place of the last one.
pub fn snapshot_requests<'a>(requests: impl Iterator<Item = (Seq, &'a Remembered)>) -> Option<(Bytes, Seq, u64)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for (place, remembered) in requests {
        batch.push((place, remembered));
        bytes += remembered.request.id.len() + REQUEST_OVERHEAD + 8 + 1 + 8;
        if bytes > BATCH_BYTES / 4 {
            break;
        }
    }
    let last = batch.last().map(|(place, _)| *place)?;
    let frame = frame(bytes + 16, |out| {
        out.put_u8(kind::SNAPSHOT_REQUESTS);
        put_count(out, batch.len());
        for (place, Remembered { request, outcome }) in &batch {
            out.put_u64_le(place.0);
            match outcome {
                Outcome::Done => out.put_u8(kind::DONE),
                Outcome::ConditionFailed { current: None } => out.put_u8(kind::FAILED_ABSENT),
                Outcome::ConditionFailed { current: Some(version) } => {
                    out.put_u8(kind::FAILED_VERSION);
                    out.put_u64_le(version.0);
                }
            }
            put_request(out, Some(request));
        }
    });
    Some((frame, last, batch.len() as u64))
}

/// The end of a snapshot of so many keys and request ids.
#[must_use]
pub fn snapshot_end(records: u64) -> Bytes {
    frame(16, |out| {
        out.put_u8(kind::SNAPSHOT_END);
        out.put_u64_le(records);
    })
}

/// A [`Write`]; the log on disk carries it in the same form.
pub fn put_write(out: &mut impl BufMut, write: &Write) {
    let Write { key, change, condition, request } = write;
    let (code, value) = match change {
        Change::Put { format, value } => (format_code(*format), &value[..]),
        Change::Delete => (kind::DELETE, &[][..]),
    };
    out.put_u8(code);
    match condition {
        None => out.put_u8(kind::ALWAYS),
        Some(Condition::Present) => out.put_u8(kind::PRESENT),
        Some(Condition::Absent) => out.put_u8(kind::ABSENT),
        Some(Condition::Version(version)) => {
            out.put_u8(kind::VERSION);
            out.put_u64_le(version.0);
        }
        Some(Condition::NotVersion(version)) => {
            out.put_u8(kind::NOT_VERSION);
            out.put_u64_le(version.0);
        }
    }
    put_request(out, request.as_ref());
    put_key_value(out, key, value);
}

fn put_request(out: &mut impl BufMut, request: Option<&RequestKey>) {
    let Some(RequestKey { id, digest }) = request else { return out.put_u8(0) };
    out.put_u8(u8::try_from(id.len()).expect("request ids have at most 128 bytes"));
    out.put_slice(id);
    out.put_slice(&digest.0);
}

fn format_code(format: Format) -> u8 {
    match format {
        Format::Json => kind::JSON,
        Format::Raw => kind::RAW,
    }
}

/// What a follower's core says.
#[must_use]
pub fn follower_message(message: &FollowerMessage) -> Bytes {
    frame(64, |out| match message {
        FollowerMessage::Welcome(Welcome { storage_id, process_id, outline, commit }) => {
            out.put_u8(kind::WELCOME);
            out.put_slice(storage_id.0.as_bytes());
            out.put_slice(process_id.0.as_bytes());
            put_outline(out, outline);
            out.put_u64_le(commit.0);
        }
        FollowerMessage::Ack { epoch, match_seq, heartbeat } => {
            out.put_u8(kind::ACK);
            out.put_u64_le(epoch.0);
            out.put_u64_le(match_seq.0);
            match heartbeat {
                None => out.put_u8(0),
                Some(sent) => {
                    out.put_u8(1);
                    out.put_u64_le(sent.0);
                }
            }
        }
        FollowerMessage::Mismatch { epoch, outline } => {
            out.put_u8(kind::MISMATCH);
            out.put_u64_le(epoch.0);
            put_outline(out, outline);
        }
        FollowerMessage::Rejected { promised } => {
            out.put_u8(kind::REJECTED);
            out.put_u64_le(promised.0);
        }
    })
}

fn put_text(out: &mut BytesMut, text: &str) {
    put_count(out, text.len());
    out.put_slice(text.as_bytes());
}

fn put_count(out: &mut impl BufMut, count: usize) {
    out.put_u32_le(u32::try_from(count).expect("a frame holds less than four billion of anything"));
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_u64_le(position.epoch.0);
    out.put_u64_le(position.seq.0);
}

fn put_outline(out: &mut BytesMut, outline: &Outline) {
    put_count(out, outline.starts.len());
    for EpochStart { epoch, first } in &outline.starts {
        out.put_u64_le(epoch.0);
        out.put_u64_le(first.0);
    }
    out.put_u64_le(outline.last.0);
}

fn put_settings(out: &mut BytesMut, settings: &Settings) {
    let Settings { write_quorum, delay, write_timeout } = settings;
    out.put_u8(write_quorum.0);
    for duration in [delay.min, delay.max, *write_timeout] {
        out.put_u64_le(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

fn put_key_value(out: &mut impl BufMut, key: &[u8], value: &[u8]) {
    out.put_u16_le(u16::try_from(key.len()).expect("keys have at most 1024 bytes"));
    put_count(out, value.len());
    out.put_slice(key);
    out.put_slice(value);
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.operation {
        Operation::Put { key, value } => ENTRY_OVERHEAD + key.len() + value.len(),
        Operation::Write(write) => {
            let Write { key, change, condition: _, request } = &**write;
            let value = if let Change::Put { value, .. } = change { value.len() } else { 0 };
            WRITE_OVERHEAD + key.len() + value + request.as_ref().map_or(0, |request| request.id.len())
        }
        Operation::Barrier | Operation::Settings(_) => ENTRY_OVERHEAD + 32,
    }
}

fn put_entry(out: &mut BytesMut, entry: &Entry) {
    let code = match &entry.operation {
        Operation::Put { .. } => kind::PUT,
        Operation::Write(_) => kind::WRITE,
        Operation::Barrier => kind::BARRIER,
        Operation::Settings(_) => kind::SETTINGS,
    };
    out.put_u8(code);
    out.put_u64_le(entry.epoch.0);
    match &entry.operation {
        Operation::Put { key, value } => put_key_value(out, key, value),
        Operation::Write(write) => put_write(out, write),
        Operation::Barrier => {}
        Operation::Settings(settings) => put_settings(out, settings),
    }
}

//! Messages into frames.

use bytes::{BufMut as _, Bytes, BytesMut};
use quorumkv_api::{Epoch, Position, Seq, Settings, peer::SettingsEntry};
use quorumkv_protocol::{Entry, EpochStart, FollowerMessage, Hello, Micros, Operation, Outline, SnapshotMeta, Welcome};

use super::kind;
use crate::{codec::frame, store::Versioned};

/// Bytes an entry takes besides its key and value.
const ENTRY_OVERHEAD: usize = 1 + 8 + 2 + 4;

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
pub fn snapshot_part<'a>(keys: impl Iterator<Item = (&'a Bytes, &'a Versioned)>) -> Option<(Bytes, Bytes, u64)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for (key, versioned) in keys {
        batch.push((key, versioned));
        bytes += key.len() + versioned.value.len() + ENTRY_OVERHEAD;
        if bytes > BATCH_BYTES / 4 {
            break;
        }
    }
    let last = batch.last().map(|(key, _)| Bytes::clone(key))?;
    let frame = frame(bytes + 16, |out| {
        out.put_u8(kind::SNAPSHOT_PART);
        put_count(out, batch.len());
        for (key, versioned) in &batch {
            out.put_u64_le(versioned.version.0);
            put_key_value(out, key, &versioned.value);
        }
    });
    Some((frame, last, batch.len() as u64))
}

/// The end of a snapshot of so many keys.
#[must_use]
pub fn snapshot_end(keys: u64) -> Bytes {
    frame(16, |out| {
        out.put_u8(kind::SNAPSHOT_END);
        out.put_u64_le(keys);
    })
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

fn put_count(out: &mut BytesMut, count: usize) {
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

fn put_key_value(out: &mut BytesMut, key: &[u8], value: &[u8]) {
    out.put_u16_le(u16::try_from(key.len()).expect("keys have at most 1024 bytes"));
    put_count(out, value.len());
    out.put_slice(key);
    out.put_slice(value);
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.operation {
        Operation::Put { key, value } => ENTRY_OVERHEAD + key.len() + value.len(),
        Operation::Barrier | Operation::Settings(_) => ENTRY_OVERHEAD + 32,
    }
}

fn put_entry(out: &mut BytesMut, entry: &Entry) {
    let code = match &entry.operation {
        Operation::Put { .. } => kind::PUT,
        Operation::Barrier => kind::BARRIER,
        Operation::Settings(_) => kind::SETTINGS,
    };
    out.put_u8(code);
    out.put_u64_le(entry.epoch.0);
    match &entry.operation {
        Operation::Put { key, value } => put_key_value(out, key, value),
        Operation::Barrier => {}
        Operation::Settings(settings) => put_settings(out, settings),
    }
}

//! Snapshot files: everything that the log said up to one batch.
//!
//! ```text
//! | magic: 8 bytes | version: u32 | copy: 16 bytes | batch: u64 | promised: u64 | last: u64 | CRC32C: u32 | frames |
//! ```
//!
//! The frames are those of a replication stream: a snapshot of the applied state, then appends with the
//! entries after it. The log before and with `batch` is not needed any more; replaying begins with the next.
//! A file has its name only when it is complete and durable.

use std::io::{self, IoSlice};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quorumkv_api::{Epoch, Position, Seq, StorageId};
use quorumkv_protocol::{Entry, LeaderMessage, Log, SnapshotMeta};
use tokio_util::codec::Decoder as _;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile},
    error::{Action, Problem, StorageError},
};
use crate::{
    codec::FrameDecoder,
    store::{Snapshot, Store},
    transport::{SnapshotBuilder, SnapshotParts},
    wire::{self, LeaderFrame, read_leader_frame},
};

/// Version of snapshots and their frames. The first knew JSON values only, and no request ids.
const VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"qkv-snp\n";
const HEADER_BYTES: usize = 8 + 4 + 16 + 3 * 8 + 4;
/// Bytes handed to the disk at once, and read at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Bytes after which a file being written is synced, so that no sync of the log has to wait for all of it.
const SYNC_BYTES: u64 = 8 * 1024 * 1024;

/// Everything that the log says up to and with a batch.
#[derive(Debug)]
pub(super) struct Checkpoint {
    pub(super) batch: u64,
    pub(super) promised: Epoch,
    pub(super) meta: SnapshotMeta,
    /// The applied keys at `meta.outline.last`.
    pub(super) state: Snapshot,
    /// The entries after it.
    pub(super) tail: Vec<Entry>,
    /// Bytes of log handed over before it, by this process or found by it.
    pub(super) log_end: u64,
}

impl Checkpoint {
    /// The state of a node right after it handed over `batch`. Costs no more than the uncommitted entries.
    pub(super) fn capture(batch: u64, promised: Epoch, log_end: u64, log: &Log, store: &Store) -> Self {
        let state = store.snapshot();
        let applied = state.applied;
        let meta = SnapshotMeta { outline: log.outline_to(applied), settings: log.committed_settings() };
        let tail = log.entries(applied.next()..=log.last_seq()).cloned().collect();
        Self { batch, promised, meta, state, tail, log_end }
    }

    fn last(&self) -> Seq {
        self.tail.last().map_or(self.meta.outline.last, |entry| entry.seq)
    }

    fn header(&self, copy: StorageId) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.put_slice(MAGIC);
        header.put_u32_le(VERSION);
        header.put_slice(copy.0.as_bytes());
        header.put_u64_le(self.batch);
        header.put_u64_le(self.promised.0);
        header.put_u64_le(self.last().0);
        let checksum = crc32c::crc32c(&header);
        header.put_u32_le(checksum);
        header
    }

    /// The file's contents after the header, piece by piece.
    fn frames(&self) -> impl Iterator<Item = Bytes> + use<'_> {
        let SnapshotMeta { outline, .. } = &self.meta;
        let epoch = outline.starts.last().map_or(Epoch(0), |start| start.epoch);
        let prev = Position { epoch, seq: outline.last };
        let start = wire::snapshot_start(self.promised, &self.meta);
        let tail = if self.tail.is_empty() {
            Vec::new()
        } else {
            wire::append(self.promised, prev, outline.last, self.tail.iter())
        };
        std::iter::once(start).chain(SnapshotParts::new(self.state.clone())).chain(tail)
    }
}

/// Name of a snapshot's file.
pub(super) fn file_name(batch: u64) -> String {
    format!("snapshot-{batch:020}")
}

/// Name of a snapshot's file until it is complete.
pub(super) fn passing_name(batch: u64) -> String {
    format!("{}.tmp", file_name(batch))
}

/// The batch in a snapshot's name.
pub(super) fn batch_of(name: &str) -> Option<u64> {
    name.strip_prefix("snapshot-").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Writes a snapshot under a passing name and makes it durable; its length, or none when `stop` says so.
pub(super) fn write(
    disk: &impl Disk,
    copy: StorageId,
    checkpoint: &Checkpoint,
    stop: impl Fn() -> bool,
) -> Result<Option<u64>, StorageError> {
    let name = passing_name(checkpoint.batch);
    let written = write_file(disk, &name, copy, checkpoint, stop);
    if !matches!(written, Ok(Some(_))) {
        // Its room is needed elsewhere; recovery removes it too.
        disk.remove(&name).ok();
    }
    written
}

fn write_file(
    disk: &impl Disk,
    name: &str,
    copy: StorageId,
    checkpoint: &Checkpoint,
    stop: impl Fn() -> bool,
) -> Result<Option<u64>, StorageError> {
    let mut file = disk.create(name).map_err(StorageError::io(Action::Create, name))?;
    let (mut offset, mut synced) = (0, 0);
    let mut chunk = checkpoint.header(copy);
    for frame in checkpoint.frames() {
        if stop() {
            return Ok(None);
        }
        chunk.extend_from_slice(&frame);
        if chunk.len() >= CHUNK_BYTES {
            file.write_at(offset, &mut [IoSlice::new(&chunk)]).map_err(StorageError::io(Action::Write, name))?;
            offset += chunk.len() as u64;
            chunk.clear();
        }
        if offset - synced >= SYNC_BYTES {
            file.sync().map_err(StorageError::io(Action::Sync, name))?;
            synced = offset;
        }
    }
    file.write_at(offset, &mut [IoSlice::new(&chunk)]).map_err(StorageError::io(Action::Write, name))?;
    file.sync().map_err(StorageError::io(Action::Sync, name))?;
    Ok(Some(offset + chunk.len() as u64))
}

/// Gives a written snapshot its name: from here on it takes the place of the log up to its batch.
pub(super) fn publish(disk: &impl Disk, batch: u64) -> Result<(), StorageError> {
    let name = file_name(batch);
    disk.rename(&passing_name(batch), &name).map_err(StorageError::io(Action::Rename, &name))?;
    disk.sync_names().map_err(StorageError::io(Action::Sync, &disk.name()))
}

/// Reads a snapshot; also its length.
pub(super) fn read(disk: &impl Disk, batch: u64, copy: StorageId) -> Result<(Checkpoint, u64), Problem> {
    let name = file_name(batch);
    let mut file = disk.open(&name).map_err(Problem::io(&name))?;
    let mut header = [0; HEADER_BYTES];
    let read = file.read_at(0, &mut header).map_err(Problem::io(&name))?;
    if read < HEADER_BYTES {
        return Err(Problem::corrupt(&name, read, "it ends within its header"));
    }
    let (promised, last) = check_header(&header, &name, batch, copy)?;
    let mut frames = Frames { file, name: &name, buffer: BytesMut::new(), offset: HEADER_BYTES as u64, ended: false };
    let (meta, state) = read_state(&mut frames)?;
    let mut tail: Vec<Entry> = Vec::new();
    while let Some(frame) = frames.next()? {
        let LeaderFrame::Message(LeaderMessage::Append(append)) = frame else {
            return Err(frames.corrupt("only entries follow the state"));
        };
        tail.extend(append.entries);
    }
    let checkpoint = Checkpoint { batch, promised, meta, state, tail, log_end: 0 };
    let gapless = (checkpoint.meta.outline.last.0 + 1..).zip(&checkpoint.tail).all(|(seq, entry)| entry.seq.0 == seq);
    if checkpoint.last() != last || !gapless {
        return Err(frames.corrupt(format!("it ends at entry {} instead of {last}", checkpoint.last())));
    }
    Ok((checkpoint, frames.position()))
}

fn check_header(header: &[u8], name: &str, batch: u64, copy: StorageId) -> Result<(Epoch, Seq), Problem> {
    let checksum = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
    let mut rest = &header[8..];
    if &header[..8] != MAGIC {
        return Err(Problem::corrupt(name, 0, "it is no snapshot"));
    }
    let found = rest.get_u32_le();
    if !(1..=VERSION).contains(&found) {
        return Err(Problem::Version { file: name.to_owned(), found, newest: VERSION });
    }
    let found = StorageId(Uuid::from_u128(rest.get_u128()));
    let (found_batch, promised, last) = (rest.get_u64_le(), Epoch(rest.get_u64_le()), Seq(rest.get_u64_le()));
    if rest.get_u32_le() != checksum {
        return Err(Problem::corrupt(name, 0, "its header has another checksum"));
    }
    if found != copy {
        return Err(Problem::OtherCopy { file: name.to_owned(), found, expected: copy });
    }
    if found_batch != batch {
        return Err(Problem::corrupt(name, 28, format!("it is the snapshot at batch {found_batch}")));
    }
    Ok((promised, last))
}

fn read_state<File: DiskFile>(frames: &mut Frames<'_, File>) -> Result<(SnapshotMeta, Snapshot), Problem> {
    let Some(LeaderFrame::SnapshotStart { meta, .. }) = frames.next()? else {
        return Err(frames.corrupt("it does not begin with its outline"));
    };
    let mut builder = SnapshotBuilder::default();
    loop {
        match frames.next()? {
            Some(LeaderFrame::SnapshotPart(part)) => builder.part(part),
            Some(LeaderFrame::SnapshotEnd { records }) => {
                let state = builder.end(records, meta.outline.last);
                return Ok((meta, state.map_err(|error| frames.corrupt(error.to_string()))?));
            }
            Some(_) => return Err(frames.corrupt("something else stands between its records")),
            None => return Err(frames.corrupt("it ends before its last record")),
        }
    }
}

/// Reads a file frame by frame.
struct Frames<'a, File> {
    file: File,
    name: &'a str,
    buffer: BytesMut,
    /// Where the file is read next.
    offset: u64,
    ended: bool,
}

impl<File: DiskFile> Frames<'_, File> {
    fn next(&mut self) -> Result<Option<LeaderFrame>, Problem> {
        loop {
            let decoded = FrameDecoder.decode(&mut self.buffer).map_err(|error| self.corrupt(error.to_string()))?;
            if let Some(payload) = decoded {
                return read_leader_frame(payload).map(Some).map_err(|error| self.corrupt(error.to_string()));
            }
            if self.ended {
                let whole = self.buffer.is_empty();
                return if whole { Ok(None) } else { Err(self.corrupt("it ends within a frame")) };
            }
            self.fill().map_err(Problem::io(self.name))?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let before = self.buffer.len();
        self.buffer.resize(before + CHUNK_BYTES, 0);
        let read = self.file.read_at(self.offset, &mut self.buffer[before..])?;
        self.buffer.truncate(before + read);
        self.offset += read as u64;
        self.ended = read < CHUNK_BYTES;
        Ok(())
    }

    /// Where the next frame begins.
    fn position(&self) -> u64 {
        self.offset - self.buffer.len() as u64
    }

    fn corrupt(&self, what: impl Into<String>) -> Problem {
        Problem::Corrupt { file: self.name.to_owned(), offset: self.position(), what: what.into() }
    }
}

//! The replication stream: one connection between a leader and a follower.
//!
//! It begins as `GET /stream` with `Upgrade: quorumkv/1` on the follower's peer port, where the token is
//! checked. With `Accept-Encoding: lz4` in the 101 a follower announces that it reads compressed frames; without,
//! as from nodes of older versions, it gets none. After the 101 both sides send frames. Each side reads and writes at once: the reader hands
//! messages to the driver and waits while the driver's queue is full, the writer gathers what the driver
//! queued into few writes. A side that hears nothing for [`SILENCE`] gives up.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use quorumkv_api::Seq;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::codec::FramedRead;

use crate::{
    codec::{FrameDecoder, FrameError, HEADER_BYTES},
    failpoint::{Failpoint, reached},
    handle::{Outgoing, Stopped},
    metrics::StreamBytes,
    store::{Key, Snapshot},
    wire::{
        self, Malformed, SnapshotPart,
        compression::{Compression, SharedFrame, expand},
    },
};

mod follower;
mod leader;

pub use self::{
    follower::serve,
    leader::{Dial, run},
};

/// What both sides name in `Upgrade`.
pub const PROTOCOL: &str = "quorumkv/1";

/// A stream that is silent for so long is given up.
pub const SILENCE: Duration = Duration::from_secs(3);

/// How often a writer says that it is still there, whatever else it says.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// How long opening a connection, and the first message on it, may take.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Frames are gathered up to this size; larger ones are written as they are.
const WRITE_BYTES: usize = 64 * 1024;

/// Initial size of a read buffer.
const READ_BYTES: usize = 64 * 1024;

/// Why a stream ended, other than by being closed.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No connection.
    #[error("no connection: {0}")]
    Connect(#[source] std::io::Error),
    /// The peer's certificate is refused, or it does not speak TLS.
    #[error("no TLS connection: {0}")]
    Tls(#[source] std::io::Error),
    /// A peer with TLS and one without do not speak to each other.
    #[error("{url}: {reason}")]
    Scheme {
        /// The URL in question.
        url: String,
        /// Why it is not dialled.
        reason: &'static str,
    },
    /// The connection is no HTTP, or broke during the upgrade.
    #[error("the upgrade failed: {0}")]
    Upgrade(#[from] hyper::Error),
    /// The other side refused the stream.
    #[error("the stream was refused: {status} {text}")]
    Refused {
        /// Status of its answer.
        status: http::StatusCode,
        /// What it said.
        text: String,
    },
    /// The peer URL cannot be dialled.
    #[error("{url} is no address to connect to")]
    Address {
        /// The URL in question.
        url: String,
    },
    /// What arrives are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What arrives says nothing.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// A message that has no place here.
    #[error("unexpected message: {0}")]
    Unexpected(&'static str),
    /// The network does not take what is written.
    #[error("writing failed: {0}")]
    Write(#[source] std::io::Error),
    /// Nothing was heard.
    #[error("nothing was heard for {:.1} s", .0.as_secs_f64())]
    Silent(Duration),
    /// This node is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Reads payloads and notices silence.
struct Payloads<Read> {
    frames: FramedRead<Read, FrameDecoder>,
    received: StreamBytes,
    heard: Instant,
    check: tokio::time::Interval,
}

impl<Read: AsyncRead + Unpin> Payloads<Read> {
    fn new(read: Read, received: StreamBytes) -> Self {
        let frames = FramedRead::with_capacity(read, FrameDecoder, READ_BYTES);
        let mut check = interval(SILENCE / 4);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { frames, received, heard: Instant::now(), check }
    }

    /// The next payload; none when the other side closed the connection between two frames.
    async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            tokio::select! {
                biased;
                payload = self.frames.next() => {
                    self.heard = Instant::now();
                    let Some(payload) = payload.transpose()? else { return Ok(None) };
                    let bytes = payload.len();
                    let payload = expand(payload)?;
                    self.received.add(HEADER_BYTES + bytes, HEADER_BYTES + payload.len());
                    return Ok(Some(payload));
                }
                _ = self.check.tick() => {
                    let silent = self.heard.elapsed();
                    if silent >= SILENCE {
                        return Err(StreamError::Silent(silent));
                    }
                }
            }
        }
    }

    /// The first payload, which has to come soon.
    async fn first(&mut self) -> Result<Bytes, StreamError> {
        let closed = || StreamError::Unexpected("the connection was closed before the first message");
        let first = tokio::time::timeout(HANDSHAKE, self.next()).await.map_err(|_| StreamError::Silent(HANDSHAKE))?;
        first?.ok_or_else(closed)
    }
}

/// Writes what is queued until the queue is closed, and signs of life.
async fn write_all(
    write: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<Outgoing>,
    compression: Compression,
    sent: StreamBytes,
) -> Result<(), StreamError> {
    let mut waiting = Vec::with_capacity(64);
    let mut frames = Frames { write, buffer: BytesMut::with_capacity(WRITE_BYTES), compression, sent };
    let mut sign_of_life = interval(SIGN_OF_LIFE);
    sign_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            taken = queue.recv_many(&mut waiting, 64) => {
                if taken == 0 {
                    return frames.write.shutdown().await.map_err(StreamError::Write);
                }
            }
            _ = sign_of_life.tick() => waiting.push(Outgoing::Frame(wire::alive())),
        }
        for outgoing in waiting.drain(..) {
            match outgoing {
                Outgoing::Frame(frame) => frames.put(&frame, frame.len()).await?,
                Outgoing::Shared(frame) => frames.put_shared(&frame).await?,
                Outgoing::Snapshot { epoch, meta, snapshot } => {
                    frames.put_shared(&wire::snapshot_start(epoch, &meta).into()).await?;
                    for frame in SnapshotParts::new(snapshot) {
                        frames.put_shared(&frame.into()).await?;
                        reached(Failpoint::SnapshotSending);
                    }
                }
            }
        }
        frames.drain().await?;
        frames.write.flush().await.map_err(StreamError::Write)?;
    }
}

/// Gathers frames into few writes.
struct Frames<Write> {
    write: Write,
    buffer: BytesMut,
    compression: Compression,
    sent: StreamBytes,
}

impl<Write: AsyncWrite + Unpin> Frames<Write> {
    async fn put_shared(&mut self, frame: &SharedFrame) -> Result<(), StreamError> {
        self.put(frame.sent(self.compression), frame.plain().len()).await
    }

    /// Takes a frame that would have so many bytes if nothing were compressed.
    async fn put(&mut self, frame: &Bytes, uncompressed: usize) -> Result<(), StreamError> {
        self.sent.add(frame.len(), uncompressed);
        if self.buffer.len() + frame.len() > WRITE_BYTES {
            self.drain().await?;
        }
        if frame.len() > WRITE_BYTES {
            return self.write.write_all(frame).await.map_err(StreamError::Write);
        }
        self.buffer.extend_from_slice(frame);
        Ok(())
    }

    async fn drain(&mut self) -> Result<(), StreamError> {
        if !self.buffer.is_empty() {
            self.write.write_all(&self.buffer).await.map_err(StreamError::Write)?;
            self.buffer.clear();
        }
        Ok(())
    }
}

/// The frames of a snapshot after its first: its keys in parts, its request ids, then its end. Each is made
/// when asked for.
pub struct SnapshotParts {
    snapshot: Snapshot,
    last: Option<Key>,
    /// Place of the last request id that was sent.
    last_request: Seq,
    records: u64,
    ended: bool,
}

impl SnapshotParts {
    /// All parts of `snapshot`.
    #[must_use]
    pub fn new(snapshot: Snapshot) -> Self {
        Self { snapshot, last: None, last_request: Seq(0), records: 0, ended: false }
    }
}

impl Iterator for SnapshotParts {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some((frame, last, keys)) = wire::snapshot_part(self.snapshot.after(self.last.as_deref())) {
            self.last = Some(last);
            self.records += keys;
            return Some(frame);
        }
        if let Some((frame, last, requests)) = wire::snapshot_requests(self.snapshot.requests.after(self.last_request))
        {
            self.last_request = last;
            self.records += requests;
            return Some(frame);
        }
        self.ended = true;
        Some(wire::snapshot_end(self.records))
    }
}

/// Puts a received snapshot together.
#[derive(Debug, Default)]
pub struct SnapshotBuilder {
    snapshot: Snapshot,
    records: u64,
}

impl SnapshotBuilder {
    /// Adds a part.
    pub fn part(&mut self, part: SnapshotPart) {
        match part {
            SnapshotPart::Keys(keys) => {
                self.records += keys.len() as u64;
                for (key, found) in keys {
                    self.snapshot.put(&key, found.format, &found.value, found.version);
                }
            }
            SnapshotPart::Requests(requests) => {
                self.records += requests.len() as u64;
                for (place, found) in requests {
                    self.snapshot.requests.remember(place, &found.request, found.outcome);
                }
            }
        }
    }

    /// The snapshot, which stands at `applied`, if as many keys and request ids came as were sent.
    ///
    /// # Errors
    /// When parts are missing.
    pub fn end(self, records: u64, applied: Seq) -> Result<Snapshot, StreamError> {
        if records != self.records {
            return Err(StreamError::Unexpected("a snapshot ended with records missing"));
        }
        let mut snapshot = self.snapshot;
        snapshot.applied = applied;
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests;

//! The driver's ends of all streams: what goes out is queued here and never waited for.

use std::{collections::HashMap, ops::RangeInclusive};

use quorumkv_api::{Epoch, Position, Seq};
use quorumkv_protocol::{Log, StreamId, ToFollower};
use tracing::warn;

use crate::{
    handle::{Outbound, Outgoing},
    metrics::Metrics,
    store::Store,
    wire::{self, compression::SharedFrame},
};

/// Frames that wait for one stream before it counts as stuck. The core has few messages under way per
/// follower, so only one whose network takes nothing any more gets there.
pub const QUEUE: usize = 1024;

/// One append as all followers that are equally far get it.
struct Encoded {
    epoch: Epoch,
    prev: Position,
    commit: Seq,
    entries: RangeInclusive<Seq>,
    frames: Vec<SharedFrame>,
}

/// Open streams and their queues.
#[derive(Default)]
pub struct Outbox {
    streams: HashMap<StreamId, Outbound>,
    /// Followers are mostly equally far: each range is encoded once a batch.
    encoded: Vec<Encoded>,
}

impl Outbox {
    /// Adds a stream.
    pub fn open(&mut self, stream: StreamId, outbound: Outbound) {
        self.streams.insert(stream, outbound);
    }

    /// Lets a stream end once what is queued was written.
    pub fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Queues something; a stream that is stuck is closed instead, and its other end begins anew.
    pub fn send(&mut self, stream: StreamId, outgoing: Outgoing) {
        let Some(outbound) = self.streams.get(&stream) else { return };
        if outbound.try_send(outgoing).is_err() {
            if !outbound.is_closed() {
                warn!(stream = stream.0, "closing a stream that takes nothing any more");
            }
            self.close(stream);
        }
    }

    /// Encodes and queues what the core says to a follower.
    pub fn send_to_follower(
        &mut self,
        stream: StreamId,
        message: ToFollower,
        log: &Log,
        store: &Store,
        metrics: &Metrics,
    ) {
        match message {
            ToFollower::Append { epoch, prev, commit, entries } => {
                for frame in self.append_frames(epoch, prev, commit, entries, log) {
                    self.send(stream, Outgoing::Shared(frame));
                }
            }
            ToFollower::Heartbeat { epoch, commit, sent } => {
                self.send(stream, Outgoing::Frame(wire::heartbeat(epoch, commit, sent)));
            }
            ToFollower::Snapshot { epoch, meta } => {
                let snapshot = store.snapshot();
                assert_eq!(snapshot.applied, meta.outline.last, "commit is applied before anything is sent");
                metrics.snapshot_sent();
                self.send(stream, Outgoing::Snapshot { epoch, meta, snapshot });
            }
        }
    }

    /// Forgets encodings: the next batch has others.
    pub fn end_of_batch(&mut self) {
        self.encoded.clear();
    }

    fn append_frames(
        &mut self,
        epoch: Epoch,
        prev: Position,
        commit: Seq,
        entries: RangeInclusive<Seq>,
        log: &Log,
    ) -> Vec<SharedFrame> {
        let known = self.encoded.iter().find(|encoded| {
            (encoded.epoch, encoded.prev, encoded.commit, &encoded.entries) == (epoch, prev, commit, &entries)
        });
        if let Some(known) = known {
            return known.frames.clone();
        }
        // An empty range may start behind the last entry.
        let frames = if entries.is_empty() {
            wire::append(epoch, prev, commit, std::iter::empty())
        } else {
            wire::append(epoch, prev, commit, log.entries(entries.clone()))
        };
        let frames: Vec<_> = frames.into_iter().map(SharedFrame::from).collect();
        self.encoded.push(Encoded { epoch, prev, commit, entries, frames: frames.clone() });
        frames
    }
}

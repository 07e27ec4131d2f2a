//! From frames back to what the core is told at start.

use quorumkv_api::{Epoch, Seq};
use quorumkv_protocol::Recovered;

use super::{
    frame::{Frame, Kind},
    snapshot::Checkpoint,
};
use crate::store::Snapshot;

/// State of a node after the batches replayed so far.
#[derive(Debug)]
pub(super) struct Replay {
    recovered: Recovered,
    pub(super) state: Snapshot,
    /// Last batch that the snapshot holds; zero without one.
    covered: u64,
    /// Last complete batch.
    pub(super) batch: u64,
    /// Frames of a batch that is not complete yet.
    open: Vec<Frame>,
}

impl Replay {
    /// From a snapshot, or from nothing.
    pub(super) fn new(checkpoint: Option<Checkpoint>) -> Self {
        let Some(Checkpoint { batch, promised, meta, state, tail, log_end: _ }) = checkpoint else {
            let (recovered, state) = Default::default();
            return Self { recovered, state, covered: 0, batch: 0, open: Vec::new() };
        };
        let commit = meta.outline.last;
        let recovered = Recovered { promised, snapshot: Some(meta), entries: tail, commit };
        Self { recovered, state, covered: batch, batch, open: Vec::new() }
    }

    /// Whether frames of that batch are in the snapshot already.
    pub(super) fn covers(&self, batch: u64) -> bool {
        batch <= self.covered
    }

    /// Takes the next frame of the log; an error says why it cannot follow.
    pub(super) fn take(&mut self, frame: Frame) -> Result<(), String> {
        if self.covers(frame.batch) {
            return Ok(());
        }
        let expected = self.batch + 1;
        if frame.batch != expected {
            return Err(format!("batch {} stands where batch {expected} has to", frame.batch));
        }
        if frame.first {
            // What is open was never complete: the process ended while writing it, and the next one wrote
            // another batch in its place.
            self.open.clear();
        } else if self.open.is_empty() {
            return Err(format!("batch {expected} begins in its middle"));
        }
        let complete = frame.last;
        self.open.push(frame);
        if complete {
            let frames = std::mem::take(&mut self.open);
            frames.iter().try_for_each(|frame| self.apply(frame))?;
            self.batch = expected;
        }
        Ok(())
    }

    fn apply(&mut self, frame: &Frame) -> Result<(), String> {
        let base = self.base();
        let Recovered { promised, snapshot: _, entries, commit } = &mut self.recovered;
        let last = entries.last().map_or(base, |entry| entry.seq);
        match frame.kind {
            Kind::Promise if frame.epoch >= *promised => *promised = frame.epoch,
            Kind::Promise => return Err(format!("epoch {} is promised after epoch {promised}", frame.epoch)),
            Kind::Truncate if frame.seq >= *commit => {
                let kept = entries.partition_point(|entry| entry.seq <= frame.seq);
                entries.truncate(kept);
            }
            Kind::Truncate => {
                return Err(format!("entries after {} are forgotten, but {commit} is committed", frame.seq));
            }
            Kind::Commit if frame.seq <= last => *commit = frame.seq.max(*commit),
            Kind::Commit => return Err(format!("entry {} is committed, but the last one is {last}", frame.seq)),
            Kind::Put | Kind::Write | Kind::Barrier | Kind::Settings => {
                let entry = frame.entry().ok_or("an entry cannot be read")?;
                let before = entries.last().map_or(Epoch(0), |entry| entry.epoch);
                if entry.seq != last.next() || entry.epoch < before {
                    return Err(format!("entry {} follows entry {last}", entry.position()));
                }
                entries.push(entry);
            }
            Kind::Group | Kind::Seal => return Err("a mark of the log stands within a batch".to_owned()),
        }
        Ok(())
    }

    fn base(&self) -> Seq {
        self.recovered.snapshot.as_ref().map_or(Seq(0), |meta| meta.outline.last)
    }

    pub(super) fn promised(&self) -> Epoch {
        self.recovered.promised
    }

    pub(super) fn finish(self) -> (Recovered, Snapshot) {
        (self.recovered, self.state)
    }
}

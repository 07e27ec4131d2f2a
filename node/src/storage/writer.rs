//! The thread that writes the log.
//!
//! It takes every batch that waits, writes them with one call, makes them durable with one sync, and reports
//! the newest ticket; meanwhile the next ones gather. It writes only where room was taken before, one segment
//! ahead: a disk that is full is noticed before anything depends on it. Then it waits for room, and nothing
//! that was not written is reported. Any other failure ends the node.

use std::{
    collections::VecDeque,
    io::IoSlice,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use quorumkv_api::StorageId;
use quorumkv_protocol::Ticket;
use tracing::{info, warn};

use super::{
    Options,
    disk::Disk,
    error::{Action, StorageError},
    frame::{self, Kind, Seed},
    queue::{Batch, Shared, Taken, Written},
    segment::{self, Segment},
    snapshot::{self, Checkpoint},
};
use crate::failpoint::{Failpoint, reached};

/// A segment on disk, the one that is written to included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) number: u64,
    /// Batch of its first frame; none while it has no frame of a batch.
    pub(super) first_batch: Option<u64>,
    pub(super) bytes: u64,
}

/// Why the thread ends.
#[derive(Debug)]
pub(super) enum Halt {
    Closed,
    Failed(StorageError),
}

impl From<StorageError> for Halt {
    fn from(error: StorageError) -> Self {
        Self::Failed(error)
    }
}

pub(super) struct Writer<D: Disk> {
    pub(super) disk: D,
    pub(super) shared: Arc<Shared>,
    pub(super) options: Options,
    pub(super) copy: StorageId,
    pub(super) segment: Segment<D::File>,
    pub(super) segments: VecDeque<Present>,
    pub(super) spare: Option<Segment<D::File>>,
    /// Batch of the newest snapshot; zero if there is none.
    pub(super) snapshot: u64,
}

impl<D: Disk> Writer<D> {
    /// Works until the queue is closed or something fails.
    pub(super) fn run(mut self) {
        let mut done = self.look_ahead();
        while done.is_ok() {
            done = self.turn();
        }
        if let Err(Halt::Failed(error)) = done {
            self.shared.fail(error);
        }
    }

    /// One job, then room for the next.
    pub(super) fn turn(&mut self) -> Result<(), Halt> {
        let patience = self.spare.is_none().then_some(self.options.retry_pause);
        match self.shared.take(self.options.group_bytes, patience) {
            Taken::Closed => return Err(Halt::Closed),
            Taken::Nothing => {}
            Taken::Batches(batches) => {
                self.write(&batches)?;
                let last = batches.last().expect("a group is never empty");
                self.shared.durable(last.ticket);
            }
            Taken::Install(ticket, checkpoint) => self.install(ticket, &checkpoint)?,
            Taken::Publish(written) => self.publish(written)?,
        }
        self.look_ahead()
    }

    /// Takes room for the next segment, if there is any.
    pub(super) fn look_ahead(&mut self) -> Result<(), Halt> {
        if self.spare.is_some() {
            return Ok(());
        }
        match Segment::prepare(&self.disk, self.segment.number + 1, self.copy, self.options.segment_bytes) {
            Ok(spare) => {
                self.keep_spare(spare);
                Ok(())
            }
            Err(error) if error.is_full() => {
                self.set_full(Some(&error));
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn keep_spare(&mut self, spare: Segment<D::File>) {
        self.shared.gained(Segment::<D::File>::room_of(spare.capacity));
        self.spare = Some(spare);
        self.set_full(None);
        self.show_size();
    }

    fn set_full(&self, error: Option<&StorageError>) {
        if self.shared.set_full(error.is_some()) {
            match error {
                Some(error) => warn!(%error, "no room for more of the log: writes are refused until there is"),
                None => info!("there is room for the log again"),
            }
        }
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.full(error.is_some());
        }
    }

    /// Tries again while there is no room: nothing was reported yet, and the same bytes go to the same place.
    fn patiently<Done>(&self, mut attempt: impl FnMut() -> Result<Done, StorageError>) -> Result<Done, Halt> {
        loop {
            match attempt() {
                Err(error) if error.is_full() => {
                    self.set_full(Some(&error));
                    if self.shared.closed_within(self.options.retry_pause) {
                        return Err(Halt::Closed);
                    }
                }
                done => return Ok(done?),
            }
        }
    }

    fn write(&mut self, batches: &[Batch]) -> Result<(), Halt> {
        let mut parts: Vec<&[u8]> = Vec::with_capacity(batches.len());
        let mut pending = frame::HEADER_BYTES as u64;
        let mut ending = 0;
        for Batch { number, bytes, ends, .. } in batches {
            let mut start = 0;
            let mut frames = &ends[..];
            while let Some(next) = frames.first() {
                let room = self.segment.room().saturating_sub(pending);
                let fitting = frames.partition_point(|end| (end - start) as u64 <= room);
                let Some(end) = fitting.checked_sub(1).map(|last| frames[last]) else {
                    self.rotate(&parts, (next - start) as u64, ending)?;
                    parts.clear();
                    (pending, ending) = (frame::HEADER_BYTES as u64, 0);
                    continue;
                };
                parts.push(&bytes[start..end]);
                pending += (end - start) as u64;
                let present = self.segments.back_mut().expect("the segment written to is present");
                present.first_batch.get_or_insert(*number);
                frames = &frames[fitting..];
                start = end;
            }
            ending += 1;
        }
        if !parts.is_empty() {
            self.flush(&parts, ending, None)?;
        }
        Ok(())
    }

    /// Goes on in the next segment, which must have room for a frame of so many bytes.
    fn rotate(&mut self, parts: &[&[u8]], frame_bytes: u64, batches: usize) -> Result<(), Halt> {
        let needed = frame_bytes + frame::HEADER_BYTES as u64;
        let room_of = Segment::<D::File>::room_of;
        if self.spare.as_ref().is_none_or(|spare| room_of(spare.capacity) < needed) {
            if let Some(small) = self.spare.take() {
                self.shared.used(room_of(small.capacity));
            }
            let (number, overhead) = (self.segment.number + 1, segment::HEADER_BYTES + frame::HEADER_BYTES);
            let capacity = self.options.segment_bytes.max(needed + overhead as u64);
            let spare = self.patiently(|| Segment::prepare(&self.disk, number, self.copy, capacity))?;
            self.keep_spare(spare);
        }
        let next = self.spare.take().expect("made above if it was missing");
        self.patiently(|| next.publish(&self.disk))?;
        let seal = frame::mark(Kind::Seal, next.number, Seed::of(self.copy));
        self.flush(parts, batches, Some(&seal))?;
        self.shared.used(self.segment.room());
        self.segments.push_back(Present { number: next.number, first_batch: None, bytes: next.capacity });
        self.segment = next;
        self.show_size();
        Ok(())
    }

    /// Writes a group and makes it durable.
    fn flush(&mut self, parts: &[&[u8]], batches: usize, seal: Option<&[u8]>) -> Result<(), Halt> {
        let group = frame::mark(Kind::Group, self.segment.position, Seed::of(self.copy));
        let group = Some(&group[..]).filter(|_| !parts.is_empty());
        let all: Vec<&[u8]> = group.into_iter().chain(parts.iter().copied()).chain(seal).collect();
        let bytes: u64 = all.iter().map(|part| part.len() as u64).sum();
        let mut refused = false;
        loop {
            let mut slices: Vec<IoSlice<'_>> = all.iter().map(|part| IoSlice::new(part)).collect();
            match self.segment.write(&mut slices) {
                Ok(()) => break,
                Err(error) if error.is_full() => {
                    // A file system that does not keep the room it gave. What was written is written again.
                    refused = true;
                    self.set_full(Some(&error));
                    if self.shared.closed_within(self.options.retry_pause) {
                        return Err(Halt::Closed);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        if refused && self.spare.is_some() {
            self.set_full(None);
        }
        reached(Failpoint::GroupWritten);
        let begun = Instant::now();
        self.segment.sync()?;
        reached(Failpoint::GroupSynced);
        self.segment.position += bytes;
        if group.is_some() {
            self.shared.used(frame::HEADER_BYTES as u64);
        }
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.synced(begun.elapsed(), batches, bytes);
        }
        self.show_size();
        Ok(())
    }

    /// Puts a snapshot that came from elsewhere in place of everything.
    fn install(&mut self, ticket: Ticket, checkpoint: &Checkpoint) -> Result<(), Halt> {
        let stop = || self.shared.is_closed();
        let Some(bytes) = self.patiently(|| snapshot::write(&self.disk, self.copy, checkpoint, stop))? else {
            return Err(Halt::Closed);
        };
        self.name_snapshot(Written { batch: checkpoint.batch, bytes, log_end: checkpoint.log_end })?;
        self.shared.durable(ticket);
        Ok(())
    }

    fn publish(&mut self, written: Written) -> Result<(), Halt> {
        if written.batch > self.snapshot {
            self.name_snapshot(written)?;
        } else {
            // One that was installed meanwhile is newer.
            self.forget(&snapshot::passing_name(written.batch));
        }
        self.shared.snapshotting.store(false, Ordering::Relaxed);
        Ok(())
    }

    fn name_snapshot(&mut self, written: Written) -> Result<(), Halt> {
        let Written { batch, bytes, log_end } = written;
        reached(Failpoint::SnapshotWritten);
        self.patiently(|| snapshot::publish(&self.disk, batch))?;
        reached(Failpoint::SnapshotNamed);
        self.shared.log_start.store(log_end, Ordering::Relaxed);
        self.shared.snapshot_bytes.store(bytes, Ordering::Relaxed);
        let previous = std::mem::replace(&mut self.snapshot, batch);
        if previous > 0 {
            self.forget(&snapshot::file_name(previous));
        }
        // The one that is written to stays in any case.
        while self.segments.get(1).and_then(|next| next.first_batch).is_some_and(|first| first <= batch) {
            let superfluous = self.segments.pop_front().expect("there are two");
            if !self.forget(&segment::file_name(superfluous.number)) {
                // Those after it stay too: what is left must follow each other.
                self.segments.push_front(superfluous);
                break;
            }
        }
        self.disk.sync_names().map_err(StorageError::io(Action::Sync, &self.disk.name()))?;
        if let Some(metrics) = self.shared.metrics.get() {
            metrics.snapshot_written(bytes);
        }
        self.show_size();
        Ok(())
    }

    /// Removes a file that nothing depends on any more.
    fn forget(&self, name: &str) -> bool {
        let removed = self.disk.remove(name);
        if let Err(error) = &removed {
            warn!(file = name, %error, "a file that is not needed any more cannot be removed");
        }
        removed.is_ok()
    }

    fn show_size(&self) {
        if let Some(metrics) = self.shared.metrics.get() {
            let spare = self.spare.as_ref().map_or(0, |spare| spare.capacity);
            metrics.wal_takes(self.segments.iter().map(|present| present.bytes).sum::<u64>() + spare);
        }
    }
}

//! What the driver's side and the writing threads share.

use std::{
    collections::VecDeque,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use quorumkv_protocol::Ticket;
use tokio::sync::{Notify, watch};

use super::{error::StorageError, metrics::StorageMetrics, snapshot::Checkpoint};

/// One batch, encoded.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) ticket: Ticket,
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    /// Where each of its frames ends.
    pub(super) ends: Vec<usize>,
}

/// Something for the thread that writes.
#[derive(Debug)]
pub(super) enum Job {
    /// Append to the log.
    Batch(Batch),
    /// Put this in place of everything.
    Install(Ticket, Box<Checkpoint>),
    /// A snapshot is written and takes the log's place up to its batch.
    Publish(Written),
}

/// A snapshot that is written but has no name yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    pub(super) batch: u64,
    /// Its length.
    pub(super) bytes: u64,
    /// See [`Checkpoint::log_end`].
    pub(super) log_end: u64,
}

/// What the thread that writes has to do next.
#[derive(Debug)]
pub(super) enum Taken {
    Batches(Vec<Batch>),
    Install(Ticket, Box<Checkpoint>),
    Publish(Written),
    Nothing,
    Closed,
}

/// How far storage is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    pub(super) durable: Ticket,
    pub(super) failed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// The queue and the counters beside it. Its lock is never held during IO.
#[derive(Debug, Default)]
pub(super) struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    pub(super) progress: watch::Sender<Progress>,
    failure: Mutex<Option<StorageError>>,
    /// Room that is taken on disk, less what is written or queued.
    free: AtomicI64,
    full: AtomicBool,
    pub(super) room_changed: Notify,
    /// Bytes of log that the last snapshot covers, counted as [`Checkpoint::log_end`].
    pub(super) log_start: AtomicU64,
    /// Length of the last snapshot.
    pub(super) snapshot_bytes: AtomicU64,
    pub(super) snapshotting: AtomicBool,
    pub(super) metrics: OnceLock<StorageMetrics>,
}

impl Shared {
    pub(super) fn push(&self, job: Job) {
        self.queue.lock().jobs.push_back(job);
        self.changed.notify_all();
    }

    /// Lets both threads end after what they are doing.
    pub(super) fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.queue.lock().closed
    }

    /// Waits that long; whether the queue was closed meanwhile.
    pub(super) fn closed_within(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut queue = self.queue.lock();
        while !queue.closed {
            if self.changed.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        queue.closed
    }

    /// The next job, or all batches that wait, up to about so many bytes; waits for one, for ever or that long.
    pub(super) fn take(&self, group_bytes: usize, patience: Option<Duration>) -> Taken {
        let until = patience.map(|patience| Instant::now() + patience);
        let mut queue = self.queue.lock();
        loop {
            if queue.closed {
                return Taken::Closed;
            }
            match queue.jobs.pop_front() {
                Some(Job::Batch(batch)) => return Taken::Batches(group(&mut queue.jobs, batch, group_bytes)),
                Some(Job::Install(ticket, checkpoint)) => return Taken::Install(ticket, checkpoint),
                Some(Job::Publish(written)) => return Taken::Publish(written),
                None => {}
            }
            match until {
                None => self.changed.wait(&mut queue),
                Some(until) => {
                    if self.changed.wait_until(&mut queue, until).timed_out() {
                        return Taken::Nothing;
                    }
                }
            }
        }
    }

    /// Whether nothing waits.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.queue.lock().jobs.is_empty()
    }

    /// Everything up to this ticket is durable.
    pub(super) fn durable(&self, ticket: Ticket) {
        self.progress.send_modify(|progress| progress.durable = ticket);
    }

    /// Nothing more will become durable.
    pub(super) fn fail(&self, error: StorageError) {
        self.failure.lock().get_or_insert(error);
        self.progress.send_modify(|progress| progress.failed = true);
    }

    pub(super) fn failure(&self) -> StorageError {
        self.failure.lock().take().unwrap_or(StorageError::Ended)
    }

    pub(super) fn free(&self) -> i64 {
        self.free.load(Ordering::Relaxed)
    }

    pub(super) fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Room was taken on disk.
    pub(super) fn gained(&self, bytes: u64) {
        self.free.fetch_add(signed(bytes), Ordering::Relaxed);
        self.room_changed.notify_one();
    }

    /// Room was used, or will be by something queued.
    pub(super) fn used(&self, bytes: u64) {
        self.free.fetch_sub(signed(bytes), Ordering::Relaxed);
    }

    /// Whether there is no room for more; true the first time it is noticed.
    pub(super) fn set_full(&self, full: bool) -> bool {
        let changed = self.full.swap(full, Ordering::Relaxed) != full;
        if changed {
            self.room_changed.notify_one();
        }
        changed
    }
}

fn group(jobs: &mut VecDeque<Job>, first: Batch, group_bytes: usize) -> Vec<Batch> {
    let mut bytes = first.bytes.len();
    let mut batches = vec![first];
    while bytes < group_bytes {
        match jobs.pop_front() {
            Some(Job::Batch(batch)) => {
                bytes += batch.bytes.len();
                batches.push(batch);
            }
            Some(other) => {
                jobs.push_front(other);
                break;
            }
            None => break,
        }
    }
    batches
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).expect("no disk is that large")
}

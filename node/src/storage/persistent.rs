//! The driver's side of storage on disk: encode, queue, and say how far the disk is.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use quorumkv_api::{Epoch, StorageId};
use quorumkv_protocol::{Log, Persist, Recovered, Ticket};
use tracing::{info, warn};

use super::{
    Room, Storage,
    disk::{Disk, OsDisk},
    error::{OpenError, Problem, StorageError},
    frame::{Encoder, Kind, Seed},
    metrics::StorageMetrics,
    queue::{Batch, Job, Shared, Written},
    recovery::{Found, Resume, recover},
    snapshot::{self, Checkpoint},
    writer::Writer,
};
use crate::store::{Snapshot, Store};

/// Sizes and pauses.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Bytes of a segment of the log. Room for one is taken ahead, so twice as much is in use at least.
    pub segment_bytes: u64,
    /// Bytes of waiting batches after which a group is full.
    pub group_bytes: usize,
    /// A snapshot is written when the log since the last one is longer than this, and than half of that.
    pub snapshot_log_bytes: u64,
    /// Pause before a full disk is asked again.
    pub retry_pause: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: 32 << 20,
            group_bytes: 8 << 20,
            snapshot_log_bytes: 64 << 20,
            retry_pause: Duration::from_millis(250),
        }
    }
}

/// What a node begins with.
#[derive(Debug)]
pub struct Opened {
    /// Takes what comes.
    pub storage: Persistent,
    /// Which copy this is.
    pub copy: StorageId,
    /// For the core.
    pub recovered: Recovered,
    /// For the store: the keys of the recovered snapshot.
    pub state: Snapshot,
}

/// How the log goes on.
#[derive(Debug)]
pub(super) struct Journal {
    seed: Seed,
    next_batch: u64,
    promised: Epoch,
    /// Bytes of log handed over so far, those found at start included.
    pub(super) log_end: u64,
}

impl Journal {
    pub(super) fn new<File>(copy: StorageId, resume: &Resume<File>) -> Self {
        let Resume { next_batch, promised, log_bytes, .. } = resume;
        Self { seed: Seed::of(copy), next_batch: *next_batch, promised: *promised, log_end: *log_bytes }
    }

    /// A batch for the thread that writes.
    pub(super) fn job(&mut self, ticket: Ticket, batch: &[Persist], log: &Log, store: &Store) -> Job {
        let number = self.next_batch;
        self.next_batch += 1;
        let promises = batch.iter().filter_map(|persist| match persist {
            Persist::Promise(epoch) => Some(*epoch),
            _ => None,
        });
        self.promised = promises.fold(self.promised, Epoch::max);
        if batch.iter().any(|persist| matches!(persist, Persist::Snapshot(_))) {
            // It replaces everything, so the whole state takes the place of the batch.
            return Job::Install(ticket, Box::new(self.checkpoint(log, store)));
        }
        let mut encoder = Encoder::new(number);
        for persist in batch {
            match persist {
                Persist::Promise(epoch) => encoder.push(Kind::Promise, *epoch, Default::default()),
                Persist::Truncate { after } => encoder.push(Kind::Truncate, Epoch(0), *after),
                Persist::Append(places) => log.entries(places.clone()).for_each(|entry| encoder.entry(entry)),
                Persist::Commit(commit) => encoder.push(Kind::Commit, Epoch(0), *commit),
                Persist::Snapshot(_) => unreachable!("handled above"),
            }
        }
        let (bytes, ends) = encoder.finish(self.seed);
        self.log_end += bytes.len() as u64;
        Job::Batch(Batch { ticket, number, bytes, ends })
    }

    /// The state after the last batch.
    pub(super) fn checkpoint(&self, log: &Log, store: &Store) -> Checkpoint {
        Checkpoint::capture(self.next_batch - 1, self.promised, self.log_end, log, store)
    }
}

/// Storage on disk. Dropping it ends its threads; what was not reported may or may not be kept.
#[derive(Debug)]
pub struct Persistent {
    shared: Arc<Shared>,
    options: Options,
    journal: Journal,
    reported: Ticket,
    snapshots: Option<mpsc::SyncSender<Checkpoint>>,
    /// When the next snapshot may be tried, after one that found no room.
    retry_after: Arc<Mutex<Instant>>,
    threads: Vec<JoinHandle<()>>,
}

/// How long a snapshot that found no room is put off.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);

impl Persistent {
    /// Opens a directory, which is made if need be.
    ///
    /// # Errors
    /// When it is in use, cannot be read or written, or holds something that is not whole.
    pub fn open(directory: &Path, options: Options) -> Result<Opened, OpenError> {
        let locked = OsDisk::lock(directory);
        let disk = locked
            .map_err(|error| OpenError { directory: directory.display().to_string(), problem: Problem::Lock(error) })?;
        Self::open_on(disk, options)
    }

    pub(super) fn open_on<D: Disk>(disk: D, options: Options) -> Result<Opened, OpenError> {
        let begun = Instant::now();
        let Found { copy, recovered, state, resume } = recover(&disk, &options)?;
        info!(
            %copy,
            keys = state.len(),
            entries = recovered.entries.len(),
            promised = %recovered.promised,
            took = ?begun.elapsed(),
            "storage is open"
        );
        let shared = Arc::new(Shared::default());
        let journal = Journal::new(copy, &resume);
        let writer = writer(disk.clone(), &shared, options, copy, resume);
        let (sender, receiver) = mpsc::sync_channel(1);
        let retry_after = Arc::new(Mutex::new(Instant::now()));
        let snapshotter =
            Snapshotter { disk, copy, shared: shared.clone(), checkpoints: receiver, retry_after: retry_after.clone() };
        let spawn =
            |name: &str, work: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name.to_owned()).spawn(work);
        let writing = {
            let shared = shared.clone();
            // Also when it panics, whoever waits has to hear of it.
            spawn("wal", Box::new(move || guarded(&shared, || writer.run())))
        };
        let snapshotting = {
            let shared = shared.clone();
            spawn("snapshots", Box::new(move || guarded(&shared, || snapshotter.run())))
        };
        let threads = [writing, snapshotting].map(|thread| thread.expect("a process at its start can have threads"));
        let storage = Self {
            shared,
            options,
            journal,
            reported: Ticket::default(),
            snapshots: Some(sender),
            retry_after,
            threads: threads.into(),
        };
        Ok(Opened { storage, copy, recovered, state })
    }

    fn snapshot_if_due(&mut self, log: &Log, store: &Store) {
        let since = self.journal.log_end - self.shared.log_start.load(Ordering::Relaxed);
        let half = self.shared.snapshot_bytes.load(Ordering::Relaxed) / 2;
        let due = since > self.options.snapshot_log_bytes.max(half) && Instant::now() >= *self.retry_after.lock();
        if !due || self.shared.snapshotting.swap(true, Ordering::Relaxed) {
            return;
        }
        let sender = self.snapshots.as_ref().expect("taken only when dropped");
        // The thread is gone only after a failure, which is reported where tickets are.
        sender.try_send(self.journal.checkpoint(log, store)).ok();
    }
}

pub(super) fn writer<D: Disk>(
    disk: D,
    shared: &Arc<Shared>,
    options: Options,
    copy: StorageId,
    resume: Resume<D::File>,
) -> Writer<D> {
    let Resume { segment, segments, next_batch: _, promised: _, snapshot, snapshot_bytes, log_bytes: _ } = resume;
    shared.gained(segment.room());
    shared.snapshot_bytes.store(snapshot_bytes, Ordering::Relaxed);
    Writer { disk, shared: shared.clone(), options, copy, segment, segments, spare: None, snapshot }
}

fn guarded(shared: &Shared, work: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        shared.fail(StorageError::Ended);
    }
}

impl Storage for Persistent {
    fn submit(&mut self, ticket: Ticket, batch: &[Persist], log: &Log, store: &Store) {
        let job = self.journal.job(ticket, batch, log, store);
        if let Job::Batch(batch) = &job {
            self.shared.used(batch.bytes.len() as u64);
        }
        self.shared.push(job);
        self.snapshot_if_due(log, store);
    }

    async fn durable(&mut self) -> Result<Ticket, StorageError> {
        let mut progress = self.shared.progress.subscribe();
        let news = progress.wait_for(|progress| progress.failed || progress.durable > self.reported).await;
        let news = *news.map_err(|_| StorageError::Ended)?;
        if news.failed {
            return Err(self.shared.failure());
        }
        self.reported = news.durable;
        Ok(news.durable)
    }

    fn room(&self, bytes: usize) -> Room {
        // What is larger than a segment gets one of its own.
        let bytes = (bytes as u64).min(self.options.segment_bytes / 2);
        // A quarter of a segment is kept for what cannot be refused: promises, barriers, settings, notes of
        // commit, and the ends of segments that a frame does not fit.
        let needed = i64::try_from(bytes + self.options.segment_bytes / 4).unwrap_or(i64::MAX);
        match self.shared.free() >= needed {
            true => Room::Enough,
            false if self.shared.is_full() => Room::Full,
            false => Room::Soon,
        }
    }

    fn room_changed(&self) -> impl Future<Output = ()> + Send + 'static {
        let shared = self.shared.clone();
        async move { shared.room_changed.notified().await }
    }

    fn observe(&mut self, metrics: &StorageMetrics) {
        metrics.snapshot_is(self.shared.snapshot_bytes.load(Ordering::Relaxed));
        // Set once: a storage has one driver.
        self.shared.metrics.set(metrics.clone()).ok();
    }
}

impl Drop for Persistent {
    fn drop(&mut self) {
        self.shared.close();
        self.snapshots = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a thread of storage panicked");
            }
        }
    }
}

/// The thread that writes snapshots beside the log.
struct Snapshotter<D> {
    disk: D,
    copy: StorageId,
    shared: Arc<Shared>,
    checkpoints: mpsc::Receiver<Checkpoint>,
    retry_after: Arc<Mutex<Instant>>,
}

impl<D: Disk> Snapshotter<D> {
    fn run(self) {
        for checkpoint in &self.checkpoints {
            let begun = Instant::now();
            match snapshot::write(&self.disk, self.copy, &checkpoint, || self.shared.is_closed()) {
                Ok(Some(bytes)) => {
                    info!(keys = checkpoint.state.len(), bytes, took = ?begun.elapsed(), "snapshot written");
                    // Behind the batches it covers: it may stand for a promise only once that is durable.
                    let Checkpoint { batch, log_end, .. } = checkpoint;
                    self.shared.push(Job::Publish(Written { batch, bytes, log_end }));
                }
                Ok(None) => return,
                Err(error) if error.is_full() => {
                    warn!(%error, "no room for a snapshot, the log stays as it is for now");
                    *self.retry_after.lock() = Instant::now() + SNAPSHOT_RETRY;
                    self.shared.snapshotting.store(false, Ordering::Relaxed);
                }
                Err(error) => {
                    self.shared.fail(error);
                    return;
                }
            }
        }
    }
}

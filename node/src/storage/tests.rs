//! Histories of a node against a disk that crashes, tears, fails and fills up.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use quorumkv_api::{Epoch, Position, Seq, Settings, StorageId, WriteQuorum, peer::SettingsEntry};
use quorumkv_protocol::{
    Change, Condition, Digest, Entry, EpochStart, Format, Log, Operation, Outline, Persist, Recovered, RequestKey,
    SnapshotMeta, Ticket, Write,
};

use super::{
    error::{OpenError, Problem},
    persistent::{Journal, Options, writer},
    queue::{Job, Shared, Written},
    recovery::recover,
    snapshot,
    testing::SimDisk,
    writer::{Halt, Writer},
};
use crate::store::{Snapshot, Store, requests::Outcome};

mod crash;
mod damage;
mod failure;
mod full;
mod threads;

const OPTIONS: Options =
    Options { segment_bytes: 700, group_bytes: 400, snapshot_log_bytes: 1500, retry_pause: Duration::from_millis(2) };

/// Everything that a node must find again.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    promised: Epoch,
    /// Keys and request ids after every entry, committed or not.
    applied: Snapshot,
    outline: Outline,
    settings: Option<Settings>,
    /// Commit as storage was told at least, and as it was at most.
    commit: (Seq, Seq),
}

impl State {
    fn of(promised: Epoch, log: &Log, applied: Snapshot, commit: (Seq, Seq)) -> Self {
        let mut applied = applied;
        for entry in log.entries(applied.applied.next()..=log.last_seq()) {
            applied.apply(entry);
        }
        Self { promised, applied, outline: log.outline(), settings: log.settings_in_force(), commit }
    }

    fn recovered(recovered: &Recovered, snapshot: &Snapshot) -> Self {
        let log = log_of(recovered);
        assert_eq!(log.base(), snapshot.applied, "the keys stand where the outline says");
        let commit = recovered.commit.max(log.base());
        assert!(commit <= log.last_seq());
        Self::of(recovered.promised, &log, snapshot.clone(), (commit, commit))
    }

    /// Whether `found` is this state; a snapshot may have told it more of what was committed.
    fn is(&self, found: &Self) -> bool {
        let known = self.commit.0 <= found.commit.0 && found.commit.0 <= self.commit.1;
        known && *self == Self { commit: self.commit, ..found.clone() }
    }
}

fn log_of(recovered: &Recovered) -> Log {
    let mut log = Log::default();
    if let Some(meta) = &recovered.snapshot {
        log.reset(meta);
    }
    recovered.entries.iter().for_each(|entry| log.append(entry.clone()));
    log
}

/// A node that does what nodes do, and its storage without threads.
struct Bench {
    disk: SimDisk,
    writer: Writer<SimDisk>,
    shared: Arc<Shared>,
    journal: Journal,
    log: Log,
    store: Store,
    promised: Epoch,
    noted: Seq,
    commit: Seq,
    ticket: Ticket,
    /// A snapshot that is written but not handed over.
    written: Option<Written>,
    /// The state after each batch; the first is that before any.
    history: Vec<State>,
}

#[derive(Debug, Clone)]
enum Step {
    /// A batch: promise, truncate, append so many entries with values of so many bytes, commit.
    Batch { promise: bool, truncate: u64, append: usize, value_bytes: usize, commit: u64 },
    /// A leader's snapshot replaces everything.
    Install { ahead: u64, keys: u8 },
    /// A snapshot of this node's own is written beside the log.
    Snapshot,
    /// It is handed over to be named.
    Name,
    /// The thread that writes takes its turn.
    Turn,
}

fn step() -> impl Strategy<Value = Step> {
    let batch = (any::<bool>(), 0_u64..3, 0_usize..5, 0_usize..120, 0_u64..5).prop_map(
        |(promise, truncate, append, value_bytes, commit)| Step::Batch {
            promise,
            truncate,
            append,
            value_bytes,
            commit,
        },
    );
    prop_oneof![
        8 => batch,
        1 => (1_u64..20, 0_u8..6).prop_map(|(ahead, keys)| Step::Install { ahead, keys }),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Name),
        6 => Just(Step::Turn),
    ]
}

/// One of everything that a write can be, by its place.
fn unusual_write(seq: Seq, value_bytes: usize) -> Write {
    let conditions = [Some(Condition::Version(Seq(seq.0 / 2))), Some(Condition::Absent), None];
    let value = format!("{}{}", "v".repeat(value_bytes), seq.0).into();
    Write {
        key: format!("key-{}", seq.0 % 11).into(),
        change: if seq.0.is_multiple_of(5) { Change::Delete } else { Change::Put { format: Format::Raw, value } },
        condition: conditions[usize::try_from(seq.0 % 3).expect("small")],
        request: (!seq.0.is_multiple_of(4))
            .then(|| RequestKey { id: format!("id-{}", seq.0 % 13).into(), digest: Digest([3; 16]) }),
    }
}

impl Bench {
    fn new(disk: &SimDisk) -> Result<Self, OpenError> {
        let found = recover(disk, &OPTIONS)?;
        let shared = Arc::new(Shared::default());
        let journal = Journal::new(found.copy, &found.resume);
        let writer = writer(disk.clone(), &shared, OPTIONS, found.copy, found.resume);
        let log = log_of(&found.recovered);
        let store = Store::default();
        store.install(found.state.clone());
        let mut bench = Self {
            disk: disk.clone(),
            writer,
            shared,
            journal,
            log,
            store,
            promised: found.recovered.promised,
            noted: found.recovered.commit,
            commit: found.recovered.commit,
            ticket: Ticket(0),
            written: None,
            history: vec![State::recovered(&found.recovered, &found.state)],
        };
        bench.log.commit(bench.commit);
        bench.apply();
        Ok(bench)
    }

    fn apply(&self) {
        self.store.apply(self.log.entries(self.store.applied().next()..=self.commit));
    }

    fn submit(&mut self, batch: &[Persist]) {
        self.apply();
        self.ticket = Ticket(self.ticket.0 + 1);
        let job = self.journal.job(self.ticket, batch, &self.log, &self.store);
        self.shared.push(job);
        let commit = (self.noted, self.commit);
        self.history.push(State::of(self.promised, &self.log, self.store.snapshot(), commit));
    }

    fn batch(&mut self, promise: bool, truncate: u64, append: usize, value_bytes: usize, commit: u64) {
        let mut batch = Vec::new();
        if promise {
            self.promised = Epoch(self.promised.0 + 1);
            batch.push(Persist::Promise(self.promised));
        }
        let after = Seq(self.log.last_seq().0.saturating_sub(truncate)).max(self.commit);
        if after < self.log.last_seq() {
            self.log.truncate(after);
            batch.push(Persist::Truncate { after });
        }
        let first = self.log.last_seq().next();
        for index in 0..append {
            let seq = self.log.last_seq().next();
            let operation = match (seq.0 + index as u64) % 7 {
                0 => Operation::Barrier,
                1 => {
                    let write_quorum = WriteQuorum(u8::try_from(seq.0 % 5 + 1).expect("small"));
                    Operation::Settings(Settings { write_quorum, ..Settings::default() })
                }
                2 | 3 => Operation::Write(Box::new(unusual_write(seq, value_bytes))),
                _ => Operation::Put {
                    key: format!("key-{}", seq.0 % 11).into(),
                    value: format!("{:?}{}", "v".repeat(value_bytes), seq.0).into(),
                },
            };
            let epoch = self.promised.max(self.log.last().epoch);
            self.log.append(Entry { epoch, seq, operation });
        }
        if append > 0 {
            batch.push(Persist::Append(first..=self.log.last_seq()));
        }
        self.commit = Seq(self.commit.0 + commit).min(self.log.last_seq());
        self.log.commit(self.commit);
        if !batch.is_empty() {
            if self.commit > self.noted {
                self.noted = self.commit;
                batch.push(Persist::Commit(self.commit));
            }
            self.submit(&batch);
        }
    }

    fn install(&mut self, ahead: u64, keys: u8) {
        let last = Seq(self.log.last_seq().0 + ahead);
        self.promised = Epoch(self.promised.0 + 1);
        let mut starts = self.log.outline_to(self.commit).starts;
        starts.push(EpochStart { epoch: self.promised, first: last });
        let settings = SettingsEntry {
            position: Position { epoch: self.promised, seq: last },
            settings: Settings { write_quorum: WriteQuorum(keys + 1), ..Settings::default() },
        };
        let meta = SnapshotMeta { outline: Outline { starts, last }, settings: Some(settings) };
        let mut state = Snapshot::default();
        for key in 0..keys {
            state.put(format!("installed-{key}").as_bytes(), Format::Raw, b"\0", last);
            let request = RequestKey { id: format!("installed-{key}").into(), digest: Digest([key; 16]) };
            let place = Seq((last.0 + u64::from(key)).saturating_sub(u64::from(keys)));
            if place > Seq(0) {
                state.requests.remember(place, &request, Outcome::ConditionFailed { current: None });
            }
        }
        state.applied = last;
        self.store.install(state);
        self.log.reset(&meta);
        (self.commit, self.noted) = (last, last);
        self.submit(&[Persist::Promise(self.promised), Persist::Snapshot(meta)]);
    }

    /// Writes a snapshot as the thread beside does.
    fn snapshot(&mut self) {
        self.apply();
        // Commit may have moved since the last batch.
        self.history.last_mut().expect("never empty").commit.1 = self.commit;
        let checkpoint = self.journal.checkpoint(&self.log, &self.store);
        let (batch, log_end) = (checkpoint.batch, checkpoint.log_end);
        // One at a time, and none twice.
        if self.written.is_some() || batch <= self.writer.snapshot {
            return;
        }
        if let Ok(Some(bytes)) = snapshot::write(&self.disk, self.copy(), &checkpoint, || false) {
            self.written = Some(Written { batch, bytes, log_end });
        }
    }

    /// Hands the snapshot over, which may be long after.
    fn name_snapshot(&mut self) {
        self.written.take().into_iter().for_each(|written| self.shared.push(Job::Publish(written)));
    }

    fn copy(&self) -> StorageId {
        self.writer.copy
    }

    fn turn(&mut self) -> Result<(), Halt> {
        if self.shared.is_idle() { Ok(()) } else { self.writer.turn() }
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), Halt> {
        for step in steps {
            match *step {
                Step::Batch { promise, truncate, append, value_bytes, commit } => {
                    self.batch(promise, truncate, append, value_bytes, commit);
                }
                Step::Install { ahead, keys } => self.install(ahead, keys),
                Step::Snapshot => self.snapshot(),
                Step::Name => self.name_snapshot(),
                Step::Turn => self.turn()?,
            }
        }
        Ok(())
    }

    /// Until nothing waits.
    fn drain(&mut self) -> Result<(), Halt> {
        while !self.shared.is_idle() {
            self.turn()?;
        }
        Ok(())
    }

    fn durable(&self) -> Ticket {
        self.shared.progress.borrow().durable
    }

    /// Checks that a disk holds the state after some batch, none before the last reported one.
    fn check(&self, disk: &SimDisk) -> Result<usize, TestCaseError> {
        let found = recover(disk, &OPTIONS).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let state = State::recovered(&found.recovered, &found.state);
        let reported = usize::try_from(self.durable().0).expect("small");
        // A later batch may have the same state as an earlier one.
        let matching = self.history.iter().rposition(|expected| expected.is(&state));
        match matching {
            Some(index) if index >= reported => Ok(index),
            _ => Err(TestCaseError::fail(format!(
                "{reported} of {} batches were reported, found {state:?} instead of {:?}",
                self.history.len() - 1,
                self.history[reported],
            ))),
        }
    }
}

fn problem(disk: &SimDisk) -> Problem {
    match recover(disk, &OPTIONS) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error.problem,
    }
}

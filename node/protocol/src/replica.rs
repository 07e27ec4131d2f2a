//! What a node has whatever its role: its promise, its log, and what storage was told of them.

use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
};

use quorumkv_api::{
    Epoch, NodeId, ProcessId, Seq, StorageId,
    peer::{FenceReply, PeerError, Refusal},
};

use crate::{
    LEASE, Limits,
    log::Log,
    message::{Effects, Entry, Micros, Persist, SnapshotMeta, Ticket},
    planted::{Bug, planted},
};

/// Who this node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub node: NodeId,
    /// Its copy of the data.
    pub storage_id: StorageId,
    /// This run of its process.
    pub process_id: ProcessId,
    /// Where clients reach it.
    pub client_url: String,
}

/// What storage held when the process started; the default is a new, empty copy.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The highest promised epoch.
    pub promised: Epoch,
    /// The snapshot below the entries; the shell has installed it.
    pub snapshot: Option<SnapshotMeta>,
    /// The entries after the snapshot.
    pub entries: Vec<Entry>,
    /// The last entry that was noted as committed.
    pub commit: Seq,
}

#[derive(Debug, Clone)]
pub(crate) struct Replica {
    pub(crate) identity: Identity,
    pub(crate) limits: Limits,
    pub(crate) promised: Epoch,
    pub(crate) log: Log,
    pub(crate) commit: Seq,
    /// Last entry that storage holds.
    pub(crate) durable: Seq,
    /// Until when a leader may believe in a lease that this node granted.
    leased_until: Micros,
    /// Commit as of the last flush: the shell has applied it, so those entries may be dropped.
    applied: Seq,
    ticket: Ticket,
    outstanding: VecDeque<(Ticket, Seq)>,
    /// Last entry that was handed to storage and not truncated since.
    handed: Seq,
    truncate_to: Option<Seq>,
    promise_changed: bool,
    /// Commit as storage was told.
    noted_commit: Seq,
    /// Place of the last committed settings that storage was told of.
    noted_settings: Seq,
    installed: Option<SnapshotMeta>,
}

/// Two replicas that will do the same hash to the same: without the bounds, without the numbers of tickets (only which
/// are outstanding), and without what storage was told of commit, which storage knows.
impl Hash for Replica {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { identity, limits: _, promised, log, commit, durable, leased_until, applied, .. } = self;
        (identity.storage_id, identity.process_id, promised, log, commit, durable, leased_until, applied).hash(state);
        let Self { ticket, outstanding, handed, truncate_to, promise_changed, installed, .. } = self;
        (handed, truncate_to, promise_changed, installed).hash(state);
        for (later, held) in outstanding {
            (ticket.0 - later.0, held).hash(state);
        }
    }
}

impl Replica {
    pub(crate) fn new(identity: Identity, limits: Limits, recovered: Recovered, now: Micros) -> Self {
        let Recovered { promised, snapshot, entries, commit: noted } = recovered;
        let mut log = Log::default();
        let mut commit = Seq(0);
        if let Some(meta) = &snapshot {
            log.reset(meta);
            commit = meta.outline.last;
        }
        for entry in entries {
            log.append(entry);
        }
        let last = log.last_seq();
        commit = commit.max(noted.min(last));
        log.commit(commit);
        Self {
            identity,
            limits,
            promised,
            log,
            commit,
            durable: last,
            // An earlier run of this process may have granted a lease a moment before it ended.
            leased_until: if planted(Bug::ForgetLeaseOnRestart) { now } else { now.after(LEASE) },
            applied: Seq(0),
            ticket: Ticket::default(),
            outstanding: VecDeque::new(),
            handed: last,
            truncate_to: None,
            promise_changed: false,
            noted_commit: commit,
            noted_settings: commit,
            installed: None,
        }
    }

    pub(crate) fn promise(&mut self, epoch: Epoch) {
        debug_assert!(epoch >= self.promised, "a promise is never taken back");
        if epoch > self.promised {
            self.promised = epoch;
            self.promise_changed = true;
        }
    }

    pub(crate) fn grant_lease(&mut self, now: Micros) {
        self.leased_until = self.leased_until.max(now.after(LEASE));
    }

    pub(crate) fn set_commit(&mut self, commit: Seq) {
        debug_assert!(commit >= self.commit && commit <= self.log.last_seq(), "commit only moves forward in the log");
        self.commit = commit;
        self.log.commit(commit);
    }

    /// Forgets the entries after `last`, which must not be below commit.
    pub(crate) fn truncate(&mut self, last: Seq) {
        assert!(
            last >= self.commit || planted(Bug::TruncateBelowCommit),
            "truncating to {last} would undo committed entries up to {}",
            self.commit
        );
        if last >= self.log.last_seq() {
            return;
        }
        self.log.truncate(last);
        self.durable = self.durable.min(last);
        for (_, held) in &mut self.outstanding {
            *held = (*held).min(last);
        }
        if last < self.handed {
            self.handed = last;
            self.truncate_to = Some(self.truncate_to.map_or(last, |earlier| earlier.min(last)));
        }
    }

    /// Takes a snapshot's place in the log; everything before is replaced.
    pub(crate) fn install(&mut self, meta: &SnapshotMeta) {
        assert!(meta.outline.last >= self.commit, "a snapshot never takes commit back");
        self.log.reset(meta);
        self.set_commit(meta.outline.last);
        self.durable = self.durable.min(self.commit);
        for (_, held) in &mut self.outstanding {
            *held = Seq(0);
        }
        self.handed = self.commit;
        self.truncate_to = None;
        self.installed = Some(meta.clone());
    }

    pub(crate) fn snapshot_meta(&self) -> SnapshotMeta {
        SnapshotMeta { outline: self.log.outline_to(self.commit), settings: self.log.committed_settings() }
    }

    pub(crate) fn persisted(&mut self, ticket: Ticket) {
        while let Some((_, held)) = self.outstanding.pop_front_if(|(outstanding, _)| *outstanding <= ticket) {
            self.durable = self.durable.max(held);
        }
    }

    /// Hands what changed to storage as one batch.
    pub(crate) fn flush(&mut self, effects: &mut Effects) {
        if self.promise_changed {
            effects.persist.push(Persist::Promise(self.promised));
            self.promise_changed = false;
        }
        if let Some(meta) = self.installed.take() {
            effects.persist.push(Persist::Snapshot(meta));
        }
        if let Some(after) = self.truncate_to.take() {
            effects.persist.push(Persist::Truncate { after });
        }
        let last = self.log.last_seq();
        if last > self.handed {
            effects.persist.push(Persist::Append(self.handed.next()..=last));
            self.handed = last;
        }
        // Commit is noted with whatever is written anyway, and by itself when it covers new settings.
        let settings = self.log.committed_settings().map_or(Seq(0), |entry| entry.position.seq);
        let noteworthy = !effects.persist.is_empty() || settings > self.noted_settings;
        if noteworthy && self.commit > self.noted_commit {
            effects.persist.push(Persist::Commit(self.commit));
            self.noted_commit = self.commit;
            self.noted_settings = self.noted_settings.max(settings);
        }
        if !effects.persist.is_empty() {
            self.ticket = Ticket(self.ticket.0 + 1);
            self.outstanding.push_back((self.ticket, last));
        }
        effects.ticket = self.ticket;
        effects.commit = if planted(Bug::ReadUncommitted) { last } else { self.commit };
        self.applied = self.commit;
    }

    /// Drops entries that are applied and no longer kept for followers that lag.
    pub(crate) fn trim(&mut self) {
        let Limits { retain_bytes, retain_entries, .. } = self.limits;
        self.log.trim(self.applied.min(self.durable), retain_bytes, retain_entries);
    }

    pub(crate) fn fence_reply(&self, previous_promise: Epoch, now: Micros) -> FenceReply {
        let left = self.leased_until.since(now);
        FenceReply {
            node: self.identity.node.clone(),
            storage_id: self.identity.storage_id,
            process_id: self.identity.process_id,
            previous_promise,
            last: self.log.last(),
            commit: self.commit,
            settings: self.log.settings().to_vec(),
            settings_committed: self.log.settings_committed(),
            // Rounded up: a wait that is a little too long is safe, one that is too short is not.
            lease_remaining_ms: u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX),
        }
    }

    pub(crate) fn refuse(&self, reason: Refusal, error: impl Into<String>) -> PeerError {
        PeerError { error: error.into(), reason, promised: self.promised }
    }

    pub(crate) fn refuse_stale(&self, epoch: Epoch) -> PeerError {
        self.refuse(Refusal::StaleEpoch, format!("epoch {epoch} is stale: this node promised epoch {}", self.promised))
    }
}

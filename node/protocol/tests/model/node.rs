//! One node of the model: the real core, its disk, the value that it would show, and what waits for the disk.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
};

use quorumkv_api::{Epoch, NodeId, ProcessId, Seq, StorageId};
use quorumkv_protocol::{
    Entry, FollowerMessage, Hello, Identity, Limits, Micros, Node, Operation, Persist, Recovered, ReplyBody, RequestId,
    SnapshotMeta, StreamId, Ticket,
};

/// The value of the only key.
pub(crate) type Value = u8;

pub(crate) fn value_of(operation: &Operation) -> Option<Value> {
    match operation {
        Operation::Put { value, .. } => value.first().copied(),
        Operation::Write(_) | Operation::Barrier | Operation::Settings(_) => None,
    }
}

#[derive(Debug, Clone, Hash)]
pub(crate) enum DiskWrite {
    Promise(Epoch),
    Truncate(Seq),
    Snapshot(SnapshotMeta, Value),
    Append(Vec<Entry>),
    Commit(Seq),
}

/// What storage holds, with the batches that it was given and has not confirmed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk {
    promised: Epoch,
    snapshot: Option<(SnapshotMeta, Value)>,
    entries: Vec<Entry>,
    commit: Seq,
    pub(crate) unconfirmed: VecDeque<(Ticket, Vec<DiskWrite>)>,
}

/// Without the numbers of tickets.
impl Hash for Disk {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { promised, snapshot, entries, commit, unconfirmed } = self;
        (promised, snapshot, entries, commit).hash(state);
        unconfirmed.iter().for_each(|(_, writes)| writes.hash(state));
    }
}

impl Disk {
    pub(crate) fn write(&mut self, write: DiskWrite) {
        match write {
            DiskWrite::Promise(epoch) => self.promised = epoch,
            DiskWrite::Truncate(last) => self.entries.retain(|entry| entry.seq <= last),
            DiskWrite::Snapshot(meta, value) => {
                self.snapshot = Some((meta, value));
                self.entries.clear();
            }
            DiskWrite::Append(entries) => self.entries.extend(entries),
            DiskWrite::Commit(commit) => self.commit = commit,
        }
    }
}

/// A reply or acknowledgement that may leave the node once storage holds its batch.
pub(crate) type Held = (Ticket, Vec<(StreamId, FollowerMessage)>, Vec<(RequestId, ReplyBody)>);

#[derive(Debug, Clone)]
pub(crate) struct ModelNode {
    pub(crate) number: u8,
    /// How many disks and processes it had before.
    pub(crate) disks: u8,
    pub(crate) processes: u8,
    pub(crate) core: Node,
    pub(crate) applied: Seq,
    pub(crate) value: Value,
    pub(crate) hello: Option<Hello>,
    /// To whom it keeps streams while it leads.
    pub(crate) dials: Vec<u8>,
    pub(crate) disk: Disk,
    pub(crate) held: VecDeque<Held>,
    pub(crate) confirmed: Ticket,
    digest: u64,
}

/// By the digest, which [`ModelNode::seal`] renews after every change: cores are large, and the checker compares often.
impl Hash for ModelNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl PartialEq for ModelNode {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

pub(crate) fn name(number: u8) -> NodeId {
    NodeId(format!("n{number}"))
}

pub(crate) fn number_of(name: &NodeId) -> u8 {
    name.0[1..].parse().expect("names are made by name()")
}

impl ModelNode {
    pub(crate) fn new(number: u8, limits: Limits) -> Self {
        let core = start(number, 0, 0, limits, &Disk::default(), Micros(0));
        let mut node = Self {
            number,
            disks: 0,
            processes: 0,
            core,
            applied: Seq(0),
            value: 0,
            hello: None,
            dials: Vec::new(),
            disk: Disk::default(),
            held: VecDeque::new(),
            confirmed: Ticket(0),
            digest: 0,
        };
        node.seal();
        node
    }

    /// Ends the process and starts another. What storage has not confirmed is gone, or, with the disk, everything.
    pub(crate) fn restart(&self, lose_disk: bool, limits: Limits, started: Micros) -> Self {
        let disk = if lose_disk { Disk::default() } else { Disk { unconfirmed: VecDeque::new(), ..self.disk.clone() } };
        let (disks, processes) = (self.disks + u8::from(lose_disk), self.processes + 1);
        let core = start(self.number, disks, processes, limits, &disk, started);
        let (applied, value) = disk.snapshot.as_ref().map_or((Seq(0), 0), |(meta, value)| (meta.outline.last, *value));
        let node = Self { disks, processes, core, applied, value, hello: None, dials: Vec::new(), ..self.clone() };
        Self { held: VecDeque::new(), disk, confirmed: Ticket(0), ..node }
    }

    pub(crate) fn seal(&mut self) {
        let mut hasher = DefaultHasher::new();
        let Self { number, disks, processes, core, applied, value, hello, dials, disk, held, .. } = self;
        (number, disks, processes, &*core, applied, value, hello, dials, disk).hash(&mut hasher);
        for (_, messages, replies) in held {
            messages.hash(&mut hasher);
            replies.iter().for_each(|(request, _)| request.hash(&mut hasher));
        }
        self.digest = hasher.finish();
    }

    /// What the disk has to keep, as it will have to write it.
    pub(crate) fn disk_writes(&self, persist: Vec<Persist>) -> Vec<DiskWrite> {
        let write = |persist| match persist {
            Persist::Promise(epoch) => DiskWrite::Promise(epoch),
            Persist::Truncate { after } => DiskWrite::Truncate(after),
            Persist::Snapshot(meta) => DiskWrite::Snapshot(meta, self.value),
            Persist::Append(places) => DiskWrite::Append(self.core.log().entries(places).cloned().collect()),
            Persist::Commit(commit) => DiskWrite::Commit(commit),
        };
        persist.into_iter().map(write).collect()
    }
}

fn start(number: u8, disks: u8, processes: u8, limits: Limits, disk: &Disk, now: Micros) -> Node {
    let id = |kind: u128, count: u8| uuid::Uuid::from_u128(kind << 64 | u128::from(number) << 8 | u128::from(count));
    let identity = Identity {
        node: name(number),
        storage_id: StorageId(id(1, disks)),
        process_id: ProcessId(id(2, processes)),
        client_url: String::new(),
    };
    let recovered = Recovered {
        promised: disk.promised,
        snapshot: disk.snapshot.as_ref().map(|(meta, _)| meta.clone()),
        entries: disk.entries.clone(),
        commit: disk.commit,
    };
    Node::new(identity, limits, recovered, now)
}

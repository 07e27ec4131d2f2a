//! One simulated node: a core, its disk, its applied state, and what waits for the disk.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use quorumkv_api::peer::{MembersRequest, PromoteRequest};
use quorumkv_api::{Epoch, NodeId, ProcessId, Seq, SettingsPatch, StorageId, peer::PeerAddress};
use quorumkv_protocol::planted::{Bug, planted};
use quorumkv_protocol::{
    Effects, Entry, FollowerMessage, Hello, Identity, Input, LeaderMessage, Leading, Micros, Node, Operation, Persist,
    Recovered, ReplyBody, RequestId, SnapshotMeta, SnapshotSource, StreamId, Ticket, ToFollower, WriteId, WriteOutcome,
};
use rand::RngExt;

use crate::{
    manager::Reply,
    network::{State, Wire},
    world::{Event, World},
};

/// A call of a manager.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    State,
    Fence(Epoch),
    Promote(Box<PromoteRequest>),
    Members(Box<MembersRequest>),
    Settings(SettingsPatch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientWrite {
    pub(crate) key: u8,
    pub(crate) value: u64,
}

impl ClientWrite {
    fn operation(self) -> Operation {
        let value = Bytes::from(self.value.to_string());
        Operation::Put { key: Bytes::from(vec![b'a' + self.key]), value }
    }
}

/// What storage holds, with batches that it has accepted but not yet confirmed.
#[derive(Debug, Default, Clone)]
struct Disk {
    promised: Epoch,
    snapshot: Option<(SnapshotMeta, State)>,
    entries: Vec<Entry>,
    commit: Seq,
    unconfirmed: VecDeque<(Ticket, Vec<DiskWrite>)>,
}

#[derive(Debug, Clone)]
enum DiskWrite {
    Promise(Epoch),
    Truncate(Seq),
    Snapshot(SnapshotMeta, State),
    Append(Vec<Entry>),
    Commit(Seq),
}

impl Disk {
    fn write(&mut self, write: DiskWrite) {
        match write {
            DiskWrite::Promise(epoch) => self.promised = epoch,
            DiskWrite::Truncate(last) => self.entries.retain(|entry| entry.seq <= last),
            DiskWrite::Snapshot(meta, state) => {
                self.snapshot = Some((meta, state));
                self.entries.clear();
            }
            DiskWrite::Append(entries) => self.entries.extend(entries),
            DiskWrite::Commit(commit) => self.commit = commit,
        }
    }

    fn confirm(&mut self, ticket: Ticket) {
        while let Some((_, writes)) = self.unconfirmed.pop_front_if(|(queued, _)| *queued <= ticket) {
            writes.into_iter().for_each(|write| self.write(write));
        }
    }
}

/// What may leave the node only when storage holds a ticket.
type Held = (Ticket, Vec<(StreamId, FollowerMessage)>, Vec<(RequestId, Reply)>);

pub(crate) struct SimNode {
    pub(crate) name: NodeId,
    pub(crate) core: Option<Node>,
    pub(crate) process: u64,
    pub(crate) storage_id: StorageId,
    pub(crate) state: State,
    pub(crate) applied: Seq,
    pub(crate) hello: Option<Hello>,
    /// To whom it keeps streams while it leads.
    pub(crate) dials: Vec<NodeId>,
    pub(crate) received: BTreeMap<StreamId, State>,
    disk: Disk,
    held: VecDeque<Held>,
    requests: BTreeMap<RequestId, (usize, u64)>,
    writes: BTreeMap<WriteId, ClientWrite>,
    started: u64,
    /// Clock speed in thousandths; leases allow for a tenth.
    clock: u64,
    wake: Option<u64>,
    paused: u64,
    cut_off: u64,
}

impl SimNode {
    /// A place holder while the real one is being worked on.
    pub(crate) fn new_down() -> Self {
        Self {
            name: NodeId(String::new()),
            core: None,
            process: 0,
            storage_id: StorageId(uuid::Uuid::nil()),
            state: State::new(),
            applied: Seq(0),
            hello: None,
            dials: Vec::new(),
            received: BTreeMap::new(),
            disk: Disk::default(),
            held: VecDeque::new(),
            requests: BTreeMap::new(),
            writes: BTreeMap::new(),
            started: 0,
            clock: 1000,
            wake: None,
            paused: 0,
            cut_off: 0,
        }
    }

    pub(crate) fn new(world: &mut World, index: usize) -> Self {
        let mut node = Self {
            name: NodeId(format!("n{index}")),
            storage_id: StorageId(uuid::Uuid::from_u128(u128::from(world.id()))),
            clock: world.rng.random_range(980..=1020),
            ..Self::new_down()
        };
        node.start(world);
        node
    }

    pub(crate) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    pub(crate) fn paused_until(&self, now: u64) -> Option<u64> {
        (self.paused > now).then_some(self.paused)
    }

    pub(crate) fn pause(&mut self, until: u64) {
        self.paused = self.paused.max(until);
    }

    pub(crate) fn cut_off_from_managers(&mut self, until: u64) {
        self.cut_off = self.cut_off.max(until);
    }

    pub(crate) fn show_to_managers(&mut self) {
        self.cut_off = 0;
    }

    /// Nothing keeps it from anybody any more; what its sockets hold still comes when it was due.
    pub(crate) fn recover_from_pauses(&mut self) {
        self.paused = 0;
        self.cut_off = 0;
    }

    /// Whether a manager's calls do not get through.
    pub(crate) fn is_cut_off(&self, now: u64) -> bool {
        !self.is_up() || self.paused > now || self.cut_off > now
    }

    pub(crate) fn start(&mut self, world: &mut World) {
        self.process = world.id();
        self.started = world.now;
        let identity = Identity {
            node: self.name.clone(),
            storage_id: self.storage_id,
            process_id: ProcessId(uuid::Uuid::from_u128(u128::from(self.process))),
            client_url: format!("http://{}", self.name),
        };
        let Disk { promised, snapshot, entries, commit, .. } = self.disk.clone();
        self.state = snapshot.as_ref().map(|(_, state)| state.clone()).unwrap_or_default();
        self.applied = snapshot.as_ref().map_or(Seq(0), |(meta, _)| meta.outline.last);
        let recovered = Recovered { promised, snapshot: snapshot.map(|(meta, _)| meta), entries, commit };
        self.core = Some(Node::new(identity, world.plan.limits, recovered, Micros(0)));
    }

    /// Ends the process. Unconfirmed batches reach the disk in part: a prefix, as a torn tail leaves it.
    pub(crate) fn crash(&mut self, world: &mut World, lose_disk: bool) {
        self.core = None;
        self.hello = None;
        self.dials.clear();
        self.received.clear();
        self.held.clear();
        self.requests.clear();
        world.outcome.unknown += self.writes.len();
        self.writes.clear();
        self.wake = None;
        self.paused = 0;
        self.state.clear();
        let unconfirmed = std::mem::take(&mut self.disk.unconfirmed);
        if lose_disk {
            self.disk = Disk::default();
            self.storage_id = StorageId(uuid::Uuid::from_u128(u128::from(world.id())));
            return;
        }
        let survive = world.rng.random_range(0..=unconfirmed.len());
        for (_, writes) in unconfirmed.into_iter().take(survive) {
            writes.into_iter().for_each(|write| self.disk.write(write));
        }
    }

    /// The node's own monotonic clock.
    pub(crate) fn time(&self, now: u64) -> Micros {
        Micros((now - self.started) * self.clock / 1000)
    }

    fn world_time(&self, time: Micros) -> u64 {
        self.started + (time.0 * 1000).div_ceil(self.clock)
    }
}

impl World {
    pub(crate) fn input(&mut self, index: usize, input: Input) -> Result<(), String> {
        let node = &mut self.nodes[index];
        let now = node.time(self.now);
        let Some(core) = &mut node.core else { return Ok(()) };
        let mut effects = Effects::default();
        core.step(now, input, &mut effects);
        core.flush(now, &mut effects);
        self.carry_out(index, effects)
    }

    fn carry_out(&mut self, index: usize, effects: Effects) -> Result<(), String> {
        let Effects { install, commit, persist, ticket, leading, to_followers, answers, to_leader, replies, close } =
            effects;
        if let Some(SnapshotSource::Stream(stream)) = install {
            self.install(index, stream)?;
        }
        self.apply(index, commit)?;
        self.persist(index, persist, ticket);
        self.check_node(index)?;
        match leading {
            Some(Leading::Streams { hello, peers }) => self.open_streams(index, hello, &peers),
            Some(Leading::Stop) => {
                (self.nodes[index].hello, self.nodes[index].dials) = (None, Vec::new());
                self.break_streams(|stream| stream.leader == index);
            }
            None => {}
        }
        for (_, stream, message) in to_followers {
            let wire = self.encode(index, message);
            self.send(stream, false, wire);
        }
        for (write, outcome) in answers {
            self.answer(index, write, outcome)?;
        }
        let replies = replies.into_iter().map(|(request, reply)| (request, Reply::from(reply))).collect();
        self.nodes[index].held.push_back((ticket, to_leader, replies));
        if !self.plan.persistent {
            self.confirm(index, ticket)?;
        }
        self.release(index, ticket);
        for stream in close {
            self.break_stream(stream);
        }
        self.plan_wake(index);
        Ok(())
    }

    fn install(&mut self, index: usize, stream: StreamId) -> Result<(), String> {
        let node = &mut self.nodes[index];
        let state = node.received.remove(&stream).ok_or("a snapshot is installed that was never received")?;
        let core = node.core.as_ref().ok_or("a crashed node installs a snapshot")?;
        node.applied = core.snapshot_meta().outline.last;
        node.state = state;
        self.outcome.snapshots += 1;
        Ok(())
    }

    fn apply(&mut self, index: usize, commit: Seq) -> Result<(), String> {
        let node = &mut self.nodes[index];
        let Some(core) = &node.core else { return Ok(()) };
        if commit <= node.applied {
            return Ok(());
        }
        for entry in core.log().entries(node.applied.next()..=commit) {
            if let Operation::Put { key, value } = &entry.operation {
                node.state.insert(key.clone(), (entry.seq, value.clone()));
            }
            if let Operation::Settings(_) = entry.operation
                && self.checks.is_first_commit_of(entry)
            {
                self.outcome.settings_changes += 1;
            }
            self.checks.committed(&node.name, entry)?;
        }
        node.applied = commit;
        Ok(())
    }

    fn persist(&mut self, index: usize, persist: Vec<Persist>, ticket: Ticket) {
        if persist.is_empty() {
            return;
        }
        let node = &mut self.nodes[index];
        let Some(core) = &node.core else { return };
        let writes = persist
            .into_iter()
            .map(|persist| match persist {
                Persist::Promise(epoch) => DiskWrite::Promise(epoch),
                Persist::Truncate { after } => DiskWrite::Truncate(after),
                // Installed just now, so the state is at most a few applied entries further, which is harmless.
                Persist::Snapshot(meta) => DiskWrite::Snapshot(meta, node.state.clone()),
                Persist::Commit(commit) => DiskWrite::Commit(commit),
                Persist::Append(places) => DiskWrite::Append(core.log().entries(places).cloned().collect()),
            })
            .collect();
        if self.plan.persistent {
            node.disk.unconfirmed.push_back((ticket, writes));
            let process = node.process;
            let after = self.rng.random_range(100..8_000);
            self.schedule(after, Event::Persisted { node: index, process, ticket });
        }
    }

    pub(crate) fn persisted(&mut self, index: usize, process: u64, ticket: Ticket) -> Result<(), String> {
        if self.nodes[index].process != process || !self.nodes[index].is_up() {
            return Ok(());
        }
        self.nodes[index].disk.confirm(ticket);
        self.release(index, ticket);
        self.confirm(index, ticket)
    }

    fn confirm(&mut self, index: usize, ticket: Ticket) -> Result<(), String> {
        if self.plan.persistent {
            return self.input(index, Input::Persisted(ticket));
        }
        // Memory: confirmed at once, within the same turn, as the shell does.
        let node = &mut self.nodes[index];
        let now = node.time(self.now);
        if let Some(core) = &mut node.core {
            core.step(now, Input::Persisted(ticket), &mut Effects::default());
        }
        Ok(())
    }

    /// Lets go what waited for storage.
    fn release(&mut self, index: usize, confirmed: Ticket) {
        let persistent = self.plan.persistent && !planted(Bug::AcknowledgeBeforeDurable);
        loop {
            let node = &mut self.nodes[index];
            let waiting = node.disk.unconfirmed.front().map(|(ticket, _)| *ticket);
            let free =
                |(ticket, ..): &mut Held| !persistent || *ticket <= confirmed && waiting.is_none_or(|w| *ticket < w);
            let Some((_, messages, replies)) = node.held.pop_front_if(free) else { return };
            for (stream, message) in messages {
                self.send(stream, true, Wire::Follower(message));
            }
            for (request, reply) in replies {
                let Some((manager, turn)) = self.nodes[index].requests.remove(&request) else { continue };
                let after = self.rng.random_range(100..5_000);
                self.schedule(after, Event::Reply { manager, turn, node: index, reply: Box::new(reply) });
            }
        }
    }

    fn open_streams(&mut self, index: usize, hello: Hello, peers: &[PeerAddress]) {
        let goes_on = self.nodes[index].hello.as_ref() == Some(&hello);
        let dials: Vec<NodeId> = peers.iter().map(|peer| peer.node.clone()).collect();
        let stays: Vec<bool> = self.nodes.iter().map(|node| goes_on && dials.contains(&node.name)).collect();
        self.break_streams(|stream| stream.leader == index && !stays[stream.follower]);
        (self.nodes[index].hello, self.nodes[index].dials) = (Some(hello), dials);
        let process = self.nodes[index].process;
        for peer in peers {
            let after = self.rng.random_range(10..2_000);
            self.schedule(after, Event::Dial { from: index, process, peer: peer.node.clone() });
        }
    }

    fn encode(&self, index: usize, message: ToFollower) -> Wire {
        let node = &self.nodes[index];
        match message {
            ToFollower::Append { epoch, prev, commit, entries } => {
                let core = node.core.as_ref().expect("its effects are being carried out");
                let entries = core.log().entries(entries).cloned().collect();
                Wire::Leader(LeaderMessage::Append(quorumkv_protocol::Append { epoch, prev, commit, entries }))
            }
            ToFollower::Heartbeat { epoch, commit, sent } => {
                Wire::Leader(LeaderMessage::Heartbeat { epoch, commit, sent })
            }
            ToFollower::Snapshot { epoch, meta } => Wire::Snapshot(epoch, meta, node.state.clone()),
        }
    }

    fn plan_wake(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(deadline) = node.core.as_ref().and_then(Node::next_deadline) else { return };
        let at = node.world_time(deadline).max(self.now + 1);
        if node.wake.is_none_or(|planned| at < planned || planned <= self.now) {
            node.wake = Some(at);
            let process = node.process;
            self.schedule(at - self.now, Event::Wake { node: index, process });
        }
    }

    pub(crate) fn wake(&mut self, index: usize, process: u64) -> Result<(), String> {
        let node = &mut self.nodes[index];
        if node.process != process || !node.is_up() {
            return Ok(());
        }
        if let Some(until) = node.paused_until(self.now) {
            self.schedule(until - self.now, Event::Wake { node: index, process });
            return Ok(());
        }
        node.wake = None;
        self.input(index, Input::Tick)
    }

    pub(crate) fn call(&mut self, index: usize, manager: usize, turn: u64, call: Call) -> Result<(), String> {
        let node = &self.nodes[index];
        if !node.is_up() {
            return Ok(());
        }
        if let Some(until) = node.paused_until(self.now) {
            self.schedule(until - self.now, Event::Call { node: index, manager, turn, call });
            return Ok(());
        }
        if let Call::State = call {
            let state = node.core.as_ref().map(Node::state).expect("it is up");
            let reply = Box::new(Reply::State(Box::new(state)));
            let after = self.rng.random_range(100..5_000);
            self.schedule(after, Event::Reply { manager, turn, node: index, reply });
            return Ok(());
        }
        let request = RequestId(self.id());
        self.nodes[index].requests.insert(request, (manager, turn));
        let input = match call {
            Call::State => unreachable!("answered above"),
            Call::Fence(epoch) => Input::Fence { request, epoch },
            Call::Promote(promote) => Input::Promote { request, promote: *promote },
            Call::Members(members) => Input::Members { request, members: *members },
            Call::Settings(patch) => Input::ChangeSettings { request, patch },
        };
        self.input(index, input)
    }

    pub(crate) fn propose(&mut self, index: usize, write: ClientWrite) -> Result<(), String> {
        let node = &self.nodes[index];
        if !node.is_up() || node.paused_until(self.now).is_some() {
            return Ok(());
        }
        let core = node.core.as_ref().expect("it is up");
        let delay = core.delay_in_force();
        let followers = if delay.is_zero() { 0 } else { core.follower_count() };
        let round_trips = (0..followers).map(|_| self.rng.random_range(delay.min..=delay.max)).collect();
        let id = WriteId(self.id());
        self.nodes[index].writes.insert(id, write);
        self.input(index, Input::Propose { write: id, operation: write.operation(), round_trips })
    }

    fn answer(&mut self, index: usize, id: WriteId, outcome: WriteOutcome) -> Result<(), String> {
        let Some(write) = self.nodes[index].writes.remove(&id) else {
            return Err(format!("write {id:?} is answered twice"));
        };
        match outcome {
            WriteOutcome::Committed { version, replicas, .. } => {
                self.outcome.acknowledged += 1;
                self.check_acknowledged(index, version, &write.operation(), replicas)
            }
            WriteOutcome::NotLeader | WriteOutcome::NotActive | WriteOutcome::Stopping => Ok(()),
            WriteOutcome::QuorumNotReached { .. } | WriteOutcome::LeadershipLost => {
                self.outcome.unknown += 1;
                Ok(())
            }
        }
    }

    /// A linearizable read, where the node thinks that it may serve one.
    pub(crate) fn read(&mut self, index: usize) -> Result<(), String> {
        let node = &self.nodes[index];
        if node.paused_until(self.now).is_some() {
            return Ok(());
        }
        let Some(core) = &node.core else { return Ok(()) };
        let now = node.time(self.now);
        if core.view().lease_until.is_none_or(|until| now >= until) {
            return Ok(());
        }
        self.outcome.reads += 1;
        let (name, applied) = (node.name.clone(), node.applied);
        self.checks.read(&name, applied)
    }
}

impl From<Result<ReplyBody, quorumkv_api::peer::PeerError>> for Reply {
    fn from(reply: Result<ReplyBody, quorumkv_api::peer::PeerError>) -> Self {
        match reply {
            Ok(ReplyBody::Fenced(fenced)) => Self::Fenced(Box::new(fenced)),
            Ok(ReplyBody::State(state)) => Self::State(state),
            Ok(_) => Self::Done,
            Err(refusal) => Self::Refused(refusal),
        }
    }
}

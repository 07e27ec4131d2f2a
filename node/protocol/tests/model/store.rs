//! The whole store as one value: nodes, streams, record, managers, and what clients and checks remember.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use quorumkv_api::{Epoch, NodeId, Seq, lab::Role};
use quorumkv_protocol::{
    Append, Effects, Entry, FollowerMessage, Input, LeaderMessage, Leading, Micros, Operation, ReplyBody, RequestId,
    SnapshotMeta, StreamId, ToFollower, WriteId, WriteOutcome,
    planted::{Bug, planted},
};
use stateright::semantics::{
    ConsistencyTester, LinearizabilityTester,
    register::{Register, RegisterOp, RegisterRet},
};

use crate::{
    manager::{Manager, SharedRecord},
    model::Instance,
    node::{Held, ModelNode, Value, name, number_of, value_of},
};

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) enum Wire {
    Message(LeaderMessage),
    Snapshot(Epoch, SnapshotMeta, Value),
}

/// A stream: both directions keep their order. The follower's end closes first, when it closes.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Link {
    pub(crate) stream: StreamId,
    pub(crate) epoch: Epoch,
    pub(crate) down: VecDeque<Wire>,
    pub(crate) up: VecDeque<FollowerMessage>,
    pub(crate) closed: bool,
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Hash, Default)]
pub(crate) struct Budget {
    pub(crate) elections: u8,
    pub(crate) writes: u8,
    pub(crate) reads: u8,
    pub(crate) settings: u8,
    pub(crate) waits: u8,
    pub(crate) crashes: u8,
    pub(crate) losses: u8,
    pub(crate) breaks: u8,
    pub(crate) moves: u8,
    pub(crate) reminders: u8,
}

/// What a rule that was broken led to.
#[derive(Debug, Clone, Copy, PartialEq, Hash)]
pub(crate) enum Violation {
    TwoLeaders,
    TwoCommits,
    CommitUndone,
    CoreAssertion,
}

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct Acknowledged {
    pub(crate) epoch: Epoch,
    pub(crate) seq: Seq,
}

pub(crate) type History = LinearizabilityTester<u8, Register<Value>>;

#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct State {
    pub(crate) now: u64,
    pub(crate) nodes: Vec<Arc<ModelNode>>,
    /// By leader and follower.
    pub(crate) links: Vec<Option<Arc<Link>>>,
    pub(crate) record: SharedRecord,
    pub(crate) managers: Vec<Arc<Manager>>,
    pub(crate) left: Budget,
    /// What clients saw. Each write is a client of its own, so that one of unknown outcome stays open for ever.
    pub(crate) history: Arc<History>,
    pub(crate) acknowledged: Vec<Acknowledged>,
    /// The one committed log, as first seen on any node.
    pub(crate) committed: Vec<(Epoch, Option<Value>)>,
    pub(crate) leaders: Vec<(Epoch, u8)>,
    pub(crate) read_after_failover: bool,
    pub(crate) violation: Option<Violation>,
}

impl State {
    pub(crate) fn link(&mut self, leader: u8, follower: u8) -> &mut Option<Arc<Link>> {
        let nodes = self.nodes.len();
        &mut self.links[usize::from(leader) * nodes + usize::from(follower)]
    }

    pub(crate) fn link_of(&self, leader: u8, follower: u8) -> Option<&Arc<Link>> {
        self.links[usize::from(leader) * self.nodes.len() + usize::from(follower)].as_ref()
    }

    pub(crate) fn node(&self, number: u8) -> &ModelNode {
        &self.nodes[usize::from(number)]
    }

    fn node_mut(&mut self, number: u8) -> &mut ModelNode {
        Arc::make_mut(&mut self.nodes[usize::from(number)])
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.nodes.len()).expect("few nodes")
    }

    /// The nodes that managers deal with: those of the store, and one that joins.
    pub(crate) fn present(&self) -> impl Iterator<Item = u8> + use<> {
        let membership = &self.record.record.membership;
        let count = membership.nodes + usize::from(membership.joining().is_some());
        0..u8::try_from(count).expect("few nodes")
    }

    pub(crate) fn is_active(&self, number: u8) -> bool {
        let view = self.node(number).core.view();
        view.role == Role::Leader && view.ready
    }

    /// Steps the core and carries out its effects, in the order that [`Effects`] gives.
    pub(crate) fn input(&mut self, instance: &Instance, number: u8, input: Input) {
        self.input_at(instance, number, input, Micros(self.now));
    }

    pub(crate) fn input_at(&mut self, instance: &Instance, number: u8, input: Input, now: Micros) {
        let mut effects = Effects::default();
        let node = self.node_mut(number);
        let snapshot = match &input {
            Input::SnapshotReceived { meta, .. } => Some(meta.outline.last),
            _ => None,
        };
        node.core.step(now, input, &mut effects);
        node.core.flush(now, &mut effects);
        if effects.install.is_some() {
            node.applied = snapshot.expect("only a received snapshot is installed");
        }
        let Effects { persist, ticket, commit, .. } = &mut effects;
        let writes = node.disk_writes(std::mem::take(persist));
        let (ticket, commit) = (*ticket, *commit);
        if instance.disk && !writes.is_empty() {
            node.disk.unconfirmed.push_back((ticket, writes));
        }
        self.apply(number, commit);
        self.carry_out(instance, number, effects);
        if !instance.disk {
            let node = self.node_mut(number);
            node.confirmed = ticket;
            node.core.step(now, Input::Persisted(ticket), &mut Effects::default());
        }
        self.release(number, instance.disk && !planted(Bug::AcknowledgeBeforeDurable));
        self.node_mut(number).seal();
        self.note_leader(number);
    }

    fn carry_out(&mut self, instance: &Instance, number: u8, effects: Effects) {
        let Effects { leading, to_followers, answers, to_leader, replies, close, ticket, .. } = effects;
        if let Some(leading) = leading {
            let (hello, dials) = match leading {
                Leading::Streams { hello, peers } => {
                    (Some(hello), peers.iter().map(|peer| number_of(&peer.node)).collect())
                }
                Leading::Stop => (None, Vec::new()),
            };
            let goes_on = hello.is_some() && self.node(number).hello == hello;
            let ends = |follower: &u8| !goes_on || !dials.contains(follower);
            for follower in self.numbers().filter(ends) {
                self.close_stream(instance, number, follower);
            }
            let node = self.node_mut(number);
            (node.hello, node.dials) = (hello, dials);
        }
        for (follower, stream, message) in to_followers {
            self.send(instance, number, &follower, stream, message);
        }
        for (write, outcome) in answers {
            self.answer(number, write, &outcome);
        }
        let replies = replies.into_iter().filter_map(|(request, reply)| Some((request, reply.ok()?))).collect();
        self.node_mut(number).held.push_back((ticket, to_leader, replies));
        self.release(number, instance.disk && !planted(Bug::AcknowledgeBeforeDurable));
        for stream in close {
            for leader in self.numbers() {
                if let Some(link) = self.link(leader, number).as_mut().filter(|link| link.stream == stream) {
                    let link = Arc::make_mut(link);
                    link.closed = true;
                    link.down.clear();
                }
            }
        }
    }

    /// Lets go what waited for storage.
    fn release(&mut self, number: u8, wait_for_disk: bool) {
        loop {
            let node = self.node_mut(number);
            let confirmed = node.confirmed;
            let free = |(ticket, ..): &mut Held| !wait_for_disk || *ticket <= confirmed;
            let Some((_, messages, replies)) = node.held.pop_front_if(free) else { return };
            for (stream, message) in messages {
                for leader in self.numbers() {
                    if let Some(link) = self.link(leader, number).as_mut().filter(|link| link.stream == stream) {
                        Arc::make_mut(link).up.push_back(message.clone());
                    }
                }
            }
            for (request, reply) in replies {
                self.reply(request, reply);
            }
        }
    }

    fn reply(&mut self, RequestId(request): RequestId, reply: ReplyBody) {
        let manager = usize::try_from(request % 10).expect("a digit");
        if let (ReplyBody::Fenced(answer), Some(manager)) = (reply, self.managers.get_mut(manager)) {
            Arc::make_mut(manager).fenced(Epoch(request / 10), answer);
        }
    }

    pub(crate) fn persisted(&mut self, instance: &Instance, number: u8) {
        let node = self.node_mut(number);
        let Some((ticket, writes)) = node.disk.unconfirmed.pop_front() else { return };
        writes.into_iter().for_each(|write| node.disk.write(write));
        node.confirmed = ticket;
        self.input(instance, number, Input::Persisted(ticket));
    }

    /// A process ends and another one starts at once: one that stays away is one that nobody asks.
    pub(crate) fn crash(&mut self, instance: &Instance, number: u8, lose_disk: bool) {
        self.close_streams_of(instance, number);
        for leader in self.numbers() {
            if let Some(link) = self.link(leader, number) {
                let link = Arc::make_mut(link);
                link.closed = true;
                link.down.clear();
            }
        }
        // Where leases are no matter, a process is away for longer than one.
        let started = if instance.leases { Micros(self.now) } else { Micros(0) };
        let node = self.node(number).restart(lose_disk, instance.limits(), started);
        *self.node_mut(number) = node;
        self.node_mut(number).seal();
    }

    pub(crate) fn close_streams_of(&mut self, instance: &Instance, leader: u8) {
        for follower in self.numbers() {
            self.close_stream(instance, leader, follower);
        }
    }

    fn close_stream(&mut self, instance: &Instance, leader: u8, follower: u8) {
        if let Some(link) = self.link(leader, follower).take().filter(|link| !link.closed) {
            self.input(instance, follower, Input::LeaderStreamDown { stream: link.stream });
        }
    }

    fn send(&mut self, instance: &Instance, leader: u8, follower: &NodeId, stream: StreamId, message: ToFollower) {
        let node = self.node(leader);
        let wire = match message {
            ToFollower::Append { epoch, prev, commit, entries } => {
                let entries = node.core.log().entries(entries).cloned().collect();
                Wire::Message(LeaderMessage::Append(Append { epoch, prev, commit, entries }))
            }
            ToFollower::Heartbeat { .. } if !instance.leases => return,
            ToFollower::Heartbeat { epoch, commit, sent } => {
                Wire::Message(LeaderMessage::Heartbeat { epoch, commit, sent })
            }
            ToFollower::Snapshot { epoch, meta } => Wire::Snapshot(epoch, meta, node.value),
        };
        let link = self.link(leader, number_of(follower)).as_mut().filter(|link| link.stream == stream && !link.closed);
        let Some(link) = link.map(Arc::make_mut) else { return };
        // The same heartbeat twice says nothing more.
        if link.down.back() != Some(&wire) || matches!(wire, Wire::Message(LeaderMessage::Append(_))) {
            link.down.push_back(wire);
        }
    }

    fn apply(&mut self, number: u8, commit: Seq) {
        let node = Arc::make_mut(&mut self.nodes[usize::from(number)]);
        let log = node.core.log();
        // What was applied is still there.
        for (place, (epoch, _)) in (1..).zip(&self.committed).take_while(|(place, _)| Seq(*place) <= node.applied) {
            if log.epoch_at(Seq(place)) != Some(*epoch) {
                self.violation.get_or_insert(Violation::CommitUndone);
            }
        }
        if commit <= node.applied || commit > log.last_seq() {
            return;
        }
        let mut value = node.value;
        for entry in log.entries(node.applied.next()..=commit) {
            let Entry { epoch, seq, operation } = entry;
            let written = value_of(operation);
            value = written.unwrap_or(value);
            let place = usize::try_from(seq.0).expect("small") - 1;
            match self.committed.get(place) {
                None if place == self.committed.len() => self.committed.push((*epoch, written)),
                Some(first) if *first == (*epoch, written) => {}
                _ => {
                    self.violation.get_or_insert(Violation::TwoCommits);
                }
            }
        }
        (node.applied, node.value) = (commit, value);
    }

    fn note_leader(&mut self, number: u8) {
        let view = self.node(number).core.view();
        if view.role != Role::Leader {
            return;
        }
        match self.leaders.iter().find(|(epoch, _)| *epoch == view.epoch) {
            None => {
                self.leaders.push((view.epoch, number));
                self.leaders.sort_unstable();
            }
            Some((_, leader)) if *leader != number => {
                self.violation.get_or_insert(Violation::TwoLeaders);
            }
            Some(_) => {}
        }
    }

    pub(crate) fn write(&mut self, instance: &Instance, number: u8) {
        let value = instance.left.writes - self.left.writes + 1;
        self.left.writes -= 1;
        let history = Arc::make_mut(&mut self.history);
        history.on_invoke(value, RegisterOp::Write(value)).expect("a new client");
        let operation = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::copy_from_slice(&[value]) };
        let write = WriteId(value.into());
        self.input(instance, number, Input::Propose { write, operation, round_trips: Vec::new() });
    }

    fn answer(&mut self, number: u8, WriteId(write): WriteId, outcome: &WriteOutcome) {
        if let WriteOutcome::Committed { version, .. } = outcome {
            let epoch = self.node(number).core.view().epoch;
            self.acknowledged.push(Acknowledged { epoch, seq: *version });
            let client = u8::try_from(write).expect("few writes");
            Arc::make_mut(&mut self.history).on_return(client, RegisterRet::WriteOk).expect("it is in flight");
        }
    }

    pub(crate) fn may_read(&self, number: u8) -> bool {
        self.node(number).core.view().lease_until.is_some_and(|until| Micros(self.now) < until)
    }

    pub(crate) fn read(&mut self, number: u8) {
        let client = 100 + self.left.reads;
        self.left.reads -= 1;
        let node = self.node(number);
        let (value, epoch) = (node.value, node.core.view().epoch);
        self.read_after_failover |= epoch > Epoch(1);
        let history = Arc::make_mut(&mut self.history);
        history.on_invret(client, RegisterOp::Read, RegisterRet::ReadOk(value)).expect("a new client");
    }

    /// More than a lease passes, and everybody notices.
    pub(crate) fn wait(&mut self, instance: &Instance) {
        self.now += u64::try_from(Duration::from_millis(1200).as_micros()).expect("small");
        for number in self.numbers() {
            if self.node(number).core.view().role == Role::Leader {
                self.input(instance, number, Input::Tick);
            }
        }
    }

    /// Opens a stream: the follower hears the Hello at once, its answer is on the way.
    pub(crate) fn connect(&mut self, instance: &Instance, leader: u8, follower: u8) {
        let Some(hello) = self.node(leader).hello.clone() else { return };
        let age = self.node(follower).processes + (instance.left.breaks - self.left.breaks) * 10;
        let stream = hello.epoch.0 * 10_000 + u64::from(leader) * 1000 + u64::from(follower) * 100 + u64::from(age);
        let stream = StreamId(stream);
        let link = Link { stream, epoch: hello.epoch, down: VecDeque::new(), up: VecDeque::new(), closed: false };
        *self.link(leader, follower) = Some(Arc::new(link));
        self.input(instance, follower, Input::Hello { stream, hello });
    }

    pub(crate) fn deliver_down(&mut self, instance: &Instance, leader: u8, follower: u8) {
        let Some(link) = self.link(leader, follower).as_mut().map(Arc::make_mut) else { return };
        let (stream, Some(wire)) = (link.stream, link.down.pop_front()) else { return };
        match wire {
            Wire::Message(message) => self.input(instance, follower, Input::FromLeader { stream, message }),
            Wire::Snapshot(epoch, meta, value) => {
                let (before, last) = (self.node(follower).applied, meta.outline.last);
                self.input(instance, follower, Input::SnapshotReceived { stream, epoch, meta });
                let node = self.node_mut(follower);
                if before < last && node.applied == last {
                    node.value = value;
                    node.seal();
                }
            }
        }
    }

    pub(crate) fn deliver_up(&mut self, instance: &Instance, leader: u8, follower: u8) {
        let peer = name(follower);
        let Some(link) = self.link(leader, follower).as_mut().map(Arc::make_mut) else { return };
        let (stream, epoch) = (link.stream, link.epoch);
        let input = match link.up.pop_front() {
            Some(FollowerMessage::Welcome(welcome)) => Input::StreamUp { peer, stream, epoch, welcome },
            Some(message) => Input::FromFollower { peer, stream, message },
            None => {
                *self.link(leader, follower) = None;
                Input::StreamDown { peer, stream }
            }
        };
        self.input(instance, leader, input);
    }
}

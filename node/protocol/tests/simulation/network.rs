//! Streams keep order until they break; calls may be lost. Cut pairs of nodes exchange nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorumkv_api::{Epoch, NodeId, Seq};
use quorumkv_protocol::{FollowerMessage, Hello, Input, LeaderMessage, SnapshotMeta, StreamId};
use rand::RngExt;

use crate::world::{Event, World};

pub(crate) type State = BTreeMap<Bytes, (Seq, Bytes)>;

#[derive(Debug)]
pub(crate) enum Wire {
    Hello(Hello),
    Leader(LeaderMessage),
    Snapshot(Epoch, SnapshotMeta, State),
    Follower(FollowerMessage),
}

/// A connection from a leader's process to a follower's.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) leader: usize,
    leader_process: u64,
    pub(crate) follower: usize,
    follower_process: u64,
    /// Arrival of the last message in each direction: order is kept.
    last_arrival: [u64; 2],
    pub(crate) broken: bool,
    /// Which ends know that it is closed: nothing arrives there afterwards.
    closed: [bool; 2],
    epoch: Epoch,
}

const DIAL_AGAIN: u64 = 30_000;

impl World {
    pub(crate) fn can_talk(&self, a: usize, b: usize) -> bool {
        !self.cut[a][b] && self.nodes[a].is_up() && self.nodes[b].is_up()
    }

    fn latency(&mut self) -> u64 {
        if self.rng.random_bool(0.05) {
            self.rng.random_range(1000..60_000)
        } else {
            self.rng.random_range(50..self.plan.latency)
        }
    }

    pub(crate) fn dial(&mut self, from: usize, process: u64, peer: &NodeId) {
        let node = &self.nodes[from];
        let dials = node.process == process && node.dials.contains(peer);
        let Some(hello) = node.hello.clone().filter(|_| dials) else { return };
        let Some(to) = self.nodes.iter().position(|node| node.name == *peer) else { return };
        let connected = self.streams.values().any(|s| s.leader == from && s.follower == to && !s.broken);
        if connected {
            return;
        }
        if !self.can_talk(from, to) {
            self.schedule(DIAL_AGAIN, Event::Dial { from, process, peer: peer.clone() });
            return;
        }
        let id = StreamId(self.id());
        let stream = Stream {
            leader: from,
            leader_process: process,
            follower: to,
            follower_process: self.nodes[to].process,
            last_arrival: [self.now; 2],
            broken: false,
            closed: [false; 2],
            epoch: hello.epoch,
        };
        self.streams.insert(id, stream);
        self.send(id, false, Wire::Hello(hello));
    }

    pub(crate) fn send(&mut self, stream: StreamId, to_leader: bool, wire: Wire) {
        let latency = self.latency();
        let now = self.now;
        let Some(entry) = self.streams.get_mut(&stream).filter(|stream| !stream.broken) else { return };
        if self.cut[entry.leader][entry.follower] {
            return;
        }
        let arrival = (now + latency).max(entry.last_arrival[usize::from(to_leader)]);
        entry.last_arrival[usize::from(to_leader)] = arrival;
        self.schedule(arrival - now, Event::Deliver { stream, to_leader, wire });
    }

    /// Both ends notice, each in its own time; what is under way may or may not still arrive before.
    pub(crate) fn break_stream(&mut self, stream: StreamId) {
        let Some(entry) = self.streams.get_mut(&stream).filter(|stream| !stream.broken) else { return };
        entry.broken = true;
        for at_leader in [false, true] {
            let after = self.rng.random_range(10..3_000);
            self.schedule(after, Event::StreamClosed { stream, at_leader });
        }
    }

    pub(crate) fn break_streams(&mut self, which: impl Fn(&Stream) -> bool) {
        let streams: Vec<StreamId> =
            self.streams.iter().filter(|(_, stream)| which(stream)).map(|(id, _)| *id).collect();
        for stream in streams {
            self.break_stream(stream);
        }
    }

    pub(crate) fn deliver(&mut self, id: StreamId, to_leader: bool, wire: Wire) -> Result<(), String> {
        let Some(stream) = self.streams.get(&id) else { return Ok(()) };
        if stream.closed[usize::from(to_leader)] {
            return Ok(());
        }
        let (leader, follower, epoch) = (stream.leader, stream.follower, stream.epoch);
        let (to, process) =
            if to_leader { (leader, stream.leader_process) } else { (follower, stream.follower_process) };
        if self.nodes[to].process != process || !self.nodes[to].is_up() || self.cut[leader][follower] {
            self.break_stream(id);
            return Ok(());
        }
        if let Some(until) = self.nodes[to].paused_until(self.now) {
            // The socket's buffer holds it, and everything behind it.
            let after = until - self.now;
            self.schedule(after, Event::Deliver { stream: id, to_leader, wire });
            return Ok(());
        }
        let peer = self.nodes[follower].name.clone();
        let input = match wire {
            Wire::Hello(hello) => Input::Hello { stream: id, hello },
            Wire::Leader(message) => Input::FromLeader { stream: id, message },
            Wire::Snapshot(epoch, meta, state) => {
                self.nodes[to].received.insert(id, state);
                Input::SnapshotReceived { stream: id, epoch, meta }
            }
            Wire::Follower(FollowerMessage::Welcome(welcome)) => Input::StreamUp { peer, stream: id, epoch, welcome },
            Wire::Follower(message) => Input::FromFollower { peer, stream: id, message },
        };
        self.input(to, input)
    }

    pub(crate) fn stream_closed(&mut self, id: StreamId, at_leader: bool) -> Result<(), String> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        stream.closed[usize::from(at_leader)] = true;
        let (leader, follower) = (stream.leader, stream.follower);
        let (node, process) =
            if at_leader { (leader, stream.leader_process) } else { (follower, stream.follower_process) };
        if self.nodes[node].process != process || !self.nodes[node].is_up() {
            return Ok(());
        }
        let peer = self.nodes[follower].name.clone();
        if at_leader {
            let after = self.rng.random_range(1_000..DIAL_AGAIN);
            self.schedule(after, Event::Dial { from: leader, process, peer: peer.clone() });
            return self.input(node, Input::StreamDown { peer, stream: id });
        }
        self.input(node, Input::LeaderStreamDown { stream: id })
    }
}

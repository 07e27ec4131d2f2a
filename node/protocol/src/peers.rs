//! The leader's picture of its followers: which copy each has, how far it is, whether it counts.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{Hash, Hasher},
};

use quorumkv_api::{
    NodeId, Seq, StorageId,
    peer::{FollowerState, Member, PeerAddress},
};

use crate::{
    message::{Micros, StreamId},
    planted::{Bug, planted},
    quorum,
};

/// One copy that a follower presented. Another copy starts from nothing, whatever the old one had.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Copy {
    pub(crate) storage_id: StorageId,
    /// Last entry it acknowledged.
    pub(crate) match_seq: Seq,
    /// The leader's last entry when it first heard of this copy.
    target: Seq,
    /// When the newest heartbeat that it answered was made.
    heartbeat: Option<Micros>,
}

impl Copy {
    fn caught_up(&self) -> bool {
        self.match_seq >= self.target
    }
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Peer {
    pub(crate) address: PeerAddress,
    /// Its own as long as it is a peer, whoever comes and goes besides it.
    number: u8,
    /// It is to be taken out: what it acknowledges no longer counts.
    leaving: bool,
    pub(crate) stream: Option<StreamId>,
    pub(crate) copy: Option<Copy>,
    /// The copy on record; acknowledgements of any other do not count.
    recorded: Option<StorageId>,
    /// First entry not yet sent on this stream.
    pub(crate) next: Seq,
    /// Last entry of each message that is not yet acknowledged.
    pub(crate) in_flight: VecDeque<Seq>,
    /// Last commit that it was told.
    pub(crate) told_commit: Seq,
}

impl Peer {
    fn new(address: PeerAddress, number: u8) -> Self {
        Self {
            address,
            number,
            leaving: false,
            stream: None,
            copy: None,
            recorded: None,
            next: Seq(1),
            in_flight: VecDeque::new(),
            told_commit: Seq(0),
        }
    }

    /// The copy, if it is the recorded one of a node that stays.
    pub(crate) fn counted(&self) -> Option<&Copy> {
        let stays = !self.leaving || planted(Bug::CountLeaver);
        self.copy.as_ref().filter(|_| stays).filter(|copy| {
            self.recorded == Some(copy.storage_id)
                || planted(Bug::CountByName) && self.recorded.is_some()
                || planted(Bug::CountUnrecordedLearner) && copy.caught_up()
        })
    }

    pub(crate) fn disconnect(&mut self) {
        self.stream = None;
        self.in_flight.clear();
    }

    /// Notes which copy is on the other end; `last` is the end of the leader's log.
    pub(crate) fn present(&mut self, storage_id: StorageId, last: Seq) {
        if self.copy.as_ref().is_none_or(|copy| copy.storage_id != storage_id) {
            self.copy = Some(Copy { storage_id, match_seq: Seq(0), target: last, heartbeat: None });
        }
    }

    /// Takes an acknowledgement; returns the match before it.
    pub(crate) fn acknowledge(&mut self, match_seq: Seq, heartbeat: Option<Micros>) -> Seq {
        while self.in_flight.front().is_some_and(|last| *last <= match_seq) {
            self.in_flight.pop_front();
        }
        let Some(copy) = &mut self.copy else { return match_seq };
        let before = copy.match_seq;
        copy.match_seq = before.max(match_seq);
        copy.heartbeat = copy.heartbeat.max(heartbeat);
        before
    }

    fn state(&self) -> FollowerState {
        FollowerState {
            node: self.address.node.clone(),
            storage_id: self.copy.as_ref().map(|copy| copy.storage_id),
            match_seq: self.copy.as_ref().map_or(Seq(0), |copy| copy.match_seq),
            connected: self.stream.is_some(),
            counted: self.counted().is_some(),
            caught_up: self.copy.as_ref().is_some_and(Copy::caught_up),
        }
    }
}

/// All followers, in the order of their names; simulated round trips are drawn in that order and kept by number.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    peers: Vec<Peer>,
    /// Scratch space for order statistics.
    acknowledged: Vec<Seq>,
}

/// Without the scratch space, which means nothing between two calls.
impl Hash for Peers {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { peers, acknowledged: _ } = self;
        peers.hash(state);
    }
}

impl Peers {
    pub(crate) fn new(own: &NodeId, addresses: &[PeerAddress], members: &[Member]) -> Self {
        let mut peers = Self { peers: Vec::new(), acknowledged: Vec::new() };
        peers.assign(own, addresses);
        peers.record(members);
        peers
    }

    /// Makes these the peers: some may be new, some moved, some gone. Returns the numbers of those that are gone, and
    /// whether anything changed.
    pub(crate) fn assign(&mut self, own: &NodeId, addresses: &[PeerAddress]) -> (Vec<u8>, bool) {
        let mut changed = self.move_to(addresses);
        let mut gone = Vec::new();
        self.peers.retain(|peer| {
            let stays = addresses.iter().any(|address| address.node == peer.address.node);
            if !stays {
                gone.push(peer.number);
            }
            stays
        });
        changed |= !gone.is_empty();
        let mut addresses: Vec<&PeerAddress> = addresses.iter().filter(|address| address.node != *own).collect();
        addresses.sort_by(|a, b| a.node.cmp(&b.node));
        for address in addresses {
            let place = self.peers.binary_search_by(|peer| peer.address.node.cmp(&address.node));
            if let Err(place) = place {
                self.peers.insert(place, Peer::new(address.clone(), self.free_number()));
                changed = true;
            }
        }
        (gone, changed)
    }

    fn free_number(&self) -> u8 {
        (0..=u8::MAX)
            .find(|number| self.peers.iter().all(|peer| peer.number != *number))
            .expect("there are fewer peers")
    }

    /// Which peer no longer counts, for it is to be taken out.
    pub(crate) fn set_leaving(&mut self, leaving: Option<&NodeId>) {
        for peer in &mut self.peers {
            peer.leaving = Some(&peer.address.node) == leaving;
        }
    }

    /// The peer that no longer counts.
    pub(crate) fn leaving(&self) -> Option<&NodeId> {
        self.peers.iter().find(|peer| peer.leaving).map(|peer| &peer.address.node)
    }

    /// Whose copies count from now on.
    pub(crate) fn record(&mut self, members: &[Member]) {
        let recorded: BTreeMap<&NodeId, StorageId> =
            members.iter().map(|member| (&member.name, member.storage_id)).collect();
        for peer in &mut self.peers {
            peer.recorded = recorded.get(&peer.address.node).copied();
        }
    }

    /// Whether these addresses name the same nodes.
    pub(crate) fn are_named_by(&self, own: &NodeId, addresses: &[PeerAddress]) -> bool {
        let mut names: Vec<&NodeId> =
            addresses.iter().map(|address| &address.node).filter(|node| *node != own).collect();
        names.sort();
        names.len() == self.peers.len() && names.iter().zip(&self.peers).all(|(name, peer)| **name == peer.address.node)
    }

    /// Takes new addresses; true if any changed.
    fn move_to(&mut self, addresses: &[PeerAddress]) -> bool {
        let mut moved = false;
        for peer in &mut self.peers {
            if let Some(address) = addresses.iter().find(|address| address.node == peer.address.node)
                && *address != peer.address
            {
                peer.address = address.clone();
                moved = true;
            }
        }
        moved
    }

    pub(crate) fn addresses(&self) -> Vec<PeerAddress> {
        self.peers.iter().map(|peer| peer.address.clone()).collect()
    }

    /// The number of each, in the order in which round trips are drawn for them.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u8> {
        self.peers.iter().map(|peer| peer.number)
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.iter_mut()
    }

    /// The peer and its number, if `stream` is its current stream.
    pub(crate) fn on_stream(&mut self, node: &NodeId, stream: StreamId) -> Option<(u8, &mut Peer)> {
        self.named(node).filter(|(_, peer)| peer.stream == Some(stream))
    }

    pub(crate) fn named(&mut self, node: &NodeId) -> Option<(u8, &mut Peer)> {
        let index = self.peers.binary_search_by(|peer| peer.address.node.cmp(node)).ok()?;
        let peer = &mut self.peers[index];
        Some((peer.number, peer))
    }

    /// How far a counted follower acknowledged.
    pub(crate) fn acknowledged_by(&self, follower: u8) -> Option<Seq> {
        self.peers.iter().find(|peer| peer.number == follower)?.counted().map(|copy| copy.match_seq)
    }

    /// The number of each counted follower, and how far it acknowledged.
    pub(crate) fn counted_matches(&self) -> impl Iterator<Item = (u8, Seq)> {
        self.peers.iter().filter_map(|peer| Some((peer.number, peer.counted()?.match_seq)))
    }

    /// How far each counted follower acknowledged, in no order.
    pub(crate) fn acknowledged(&mut self) -> &mut [Seq] {
        self.acknowledged.clear();
        self.acknowledged.extend(self.peers.iter().filter_map(Peer::counted).map(|copy| copy.match_seq));
        &mut self.acknowledged
    }

    /// Counted followers that hold an entry.
    pub(crate) fn holders(&self, seq: Seq) -> usize {
        self.peers.iter().filter_map(Peer::counted).filter(|copy| copy.match_seq >= seq).count()
    }

    /// Counted followers whose stream is up.
    pub(crate) fn connected_counted(&self) -> usize {
        self.peers.iter().filter(|peer| peer.stream.is_some() && peer.counted().is_some()).count()
    }

    /// When the newest heartbeat was made that so many counted followers, or more, have answered.
    pub(crate) fn heartbeat_answered_by(&self, quorum: usize) -> Option<Micros> {
        let mut heartbeats: Vec<Micros> =
            self.peers.iter().filter_map(Peer::counted).filter_map(|copy| copy.heartbeat).collect();
        quorum::reached_by(&mut heartbeats, quorum)
    }

    pub(crate) fn states(&self) -> Vec<FollowerState> {
        self.peers.iter().map(Peer::state).collect()
    }
}

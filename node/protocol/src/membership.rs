//! Changing the set of nodes: which node joins or leaves next, and when that is done. Pure: the manager's side.
//!
//! One node at a time, and each step is recorded before anybody acts on it, under a number that only grows:
//!
//! 1. [`Membership::begin`]: the node that joins or leaves is on record. A leader that is told so lets a joining node
//!    learn without counting it; a leaving one it counts no longer, and appends a barrier.
//! 2. [`Membership::finish`]: the joining node has caught up, so it is recorded as one of N + 1; or the barrier is
//!    committed by the others alone, so that N - 1 nodes hold all that the leaving one was ever counted for.
//! 3. The leader is told, and counts the new node or forgets the old one.
//!
//! Recoveries ask for N - q answers of recorded copies ([`crate::election`]), with N as it is on record. While a node
//! joins, an entry that is acknowledged lies on q + 1 of the N nodes and so on q + 1 of N + 1. While one leaves, what
//! is acknowledged before the barrier lies on q + 1 of the N - 1 that stay as soon as the barrier does, and what
//! comes later was never acknowledged otherwise.
//!
//! Which q that is, the log says; but fewer nodes may be left to say it than a recovery can count on. Six nodes, q 4
//! lowered to 1 by an entry that all but one follower hold; then a write on the leader and one follower; then another
//! follower leaves, and the barrier needs one of the others. The follower that lacks the entry would now say that q is
//! 4, and suffice alone. Hence the record holds the last quorum known committed ([`KnownQuorum`]) together with N - 1.

use quorumkv_api::{
    NodeId, Seq, WriteQuorum,
    peer::{Configuration, FollowerState, Member, NodeChange, NodeState},
};

use crate::planted::{Bug, planted};

/// A write quorum that is known committed, and where: settings before that place are superseded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KnownQuorum {
    /// Place of its settings entry.
    pub seq: Seq,
    /// The quorum.
    pub write_quorum: WriteQuorum,
}

/// How many nodes a store has, and what is about to change.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Membership {
    /// Higher with every step; see [`Configuration`].
    pub number: u64,
    /// N: followers plus one. A leaving node is one of them, a joining one is not.
    pub nodes: usize,
    /// The change that is under way.
    pub change: Option<NodeChange>,
    /// What was known of the quorum when a node was last taken out of the record.
    pub known_quorum: Option<KnownQuorum>,
}

/// Why a change of the set of nodes has to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// One at a time.
    #[error("another change of the set of nodes is under way")]
    UnderWay,
    /// Nobody to ask.
    #[error("no leader is active")]
    NoLeader,
    /// It would have to stop counting itself.
    #[error("{0} leads, and another node has to before it can leave")]
    Leads(NodeId),
    /// A write could never have its quorum.
    #[error("{followers} followers would be left, and writeQuorum is {write_quorum}")]
    Quorum {
        /// Followers without the leaving one.
        followers: usize,
        /// The quorum in force.
        write_quorum: WriteQuorum,
    },
    /// Writes would wait at once.
    #[error("without {leaving} {connected} followers can confirm writes and {write_quorum} are needed")]
    Connected {
        /// Who is to leave.
        leaving: NodeId,
        /// Followers without it that are connected and counted.
        connected: usize,
        /// The quorum in force.
        write_quorum: WriteQuorum,
    },
}

impl Membership {
    /// A store of this many nodes whose set has never changed.
    #[must_use]
    pub fn first(nodes: usize) -> Self {
        Self { nodes, ..Self::default() }
    }

    /// What a leader is told of it.
    #[must_use]
    pub fn configuration(&self) -> Configuration {
        Configuration { number: self.number, change: self.change.clone() }
    }

    /// The node that learns, to be one of the store's.
    #[must_use]
    pub fn joining(&self) -> Option<&NodeId> {
        match &self.change {
            Some(NodeChange::Joining(node)) => Some(node),
            _ => None,
        }
    }

    /// The node that is about to be taken out.
    #[must_use]
    pub fn leaving(&self) -> Option<&NodeId> {
        match &self.change {
            Some(NodeChange::Leaving(node)) => Some(node),
            _ => None,
        }
    }

    /// Whether a change may begin, by what the leader says of itself. That it is still true when the leader hears of
    /// the change is the leader's to check: this only keeps changes from beginning that cannot end.
    ///
    /// # Errors
    /// See [`Obstacle`].
    pub fn may_begin(&self, change: &NodeChange, leader: &NodeState) -> Result<(), Obstacle> {
        if self.change.is_some() {
            return Err(Obstacle::UnderWay);
        }
        let settings = leader.settings.filter(|_| leader.ready).ok_or(Obstacle::NoLeader)?.settings;
        match change {
            NodeChange::Joining(_) => Ok(()),
            NodeChange::Leaving(leaving) => self.can_do_without(leaving, settings.write_quorum, leader),
        }
    }

    /// Whether the leader's writes go on if it no longer counts this node.
    ///
    /// # Errors
    /// See [`Obstacle`].
    pub fn can_do_without(
        &self,
        leaving: &NodeId,
        write_quorum: WriteQuorum,
        leader: &NodeState,
    ) -> Result<(), Obstacle> {
        if leader.node == *leaving {
            return Err(Obstacle::Leads(leaving.clone()));
        }
        let followers = self.nodes.saturating_sub(2);
        if followers < usize::from(write_quorum.0) {
            return Err(Obstacle::Quorum { followers, write_quorum });
        }
        let stays = |follower: &&FollowerState| follower.node != *leaving && follower.connected && follower.counted;
        let connected = leader.followers.iter().filter(stays).count();
        if connected < usize::from(write_quorum.0) {
            return Err(Obstacle::Connected { leaving: leaving.clone(), connected, write_quorum });
        }
        Ok(())
    }

    /// A node is about to join or leave.
    #[must_use]
    pub fn begin(&self, change: NodeChange) -> Self {
        Self { number: self.number + 1, change: Some(change), ..self.clone() }
    }

    /// The node that was joining does not, or the one that was leaving stays.
    #[must_use]
    pub fn give_up(&self) -> Self {
        Self { number: self.number + 1, change: None, ..self.clone() }
    }

    /// What to record once the leader's report says that the change is done, with the copies that count then.
    ///
    /// `leader` is the report of the recorded leader of the recorded epoch. The record must be replaced only if it is
    /// still what `self` and `members` are part of: in another epoch the report says nothing.
    #[must_use]
    pub fn finish(&self, members: &[Member], leader: &NodeState) -> Option<(Self, Vec<Member>)> {
        let report = leader.configuration.filter(|report| report.number == self.number)?;
        let mut members = members.to_vec();
        let next = match self.change.as_ref()? {
            NodeChange::Joining(node) => {
                let known = leader.followers.iter().find(|follower| follower.node == *node && follower.caught_up)?;
                members.retain(|member| member.name != *node);
                members.push(Member { name: node.clone(), storage_id: known.storage_id? });
                members.sort();
                if planted(Bug::JoinUnrecorded) {
                    return Some((Self { number: self.number + 1, ..self.clone() }, members));
                }
                Self { nodes: self.nodes + 1, ..self.clone() }
            }
            NodeChange::Leaving(node) => {
                let covered = report.covered || planted(Bug::LeaveUncovered) && leader.node != *node;
                let known = leader.settings.filter(|_| covered)?;
                let known = KnownQuorum { seq: known.position.seq, write_quorum: known.settings.write_quorum };
                let newer = self.known_quorum.filter(|earlier| earlier.seq > known.seq);
                members.retain(|member| member.name != *node);
                Self { nodes: self.nodes - 1, known_quorum: newer.or(Some(known)), ..self.clone() }
            }
        };
        Some((Self { number: self.number + 1, change: None, ..next }, members))
    }
}

#[cfg(test)]
mod tests;

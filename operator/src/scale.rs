//! Whether a store has as many nodes as the spec wants, and what to do next if it has not. Pure.
//!
//! Nodes join and leave one at a time and at the end: the node of the next ordinal joins, that of the last one leaves,
//! as a StatefulSet has it. What makes each step safe is in [`quorumkv_protocol::membership`]; here is decided when one
//! is due. Quorum and followers changed together are ordered by themselves: a quorum that the followers do not suffice
//! for is not asked for before they count ([`crate::decide::wanted_settings`]), and no follower leaves that the quorum
//! in force needs.

use std::{fmt, time::Duration};

use quorumkv_api::{
    NodeId,
    peer::{Member, NodeChange, NodeState},
};
use quorumkv_protocol::membership::Membership;

use crate::{
    decide::{Leadership, NodeView, Roll, Situation},
    switchover,
    validate::Store,
};

/// The next step towards the number of nodes that the spec wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scale {
    /// There are as many, or nothing is recorded yet.
    Done,
    /// Record that a node joins or leaves.
    Begin(NodeChange),
    /// A change is under way, and nothing to do about it at present.
    UnderWay(NodeChange),
    /// Record that it is done.
    Finish {
        /// What was done.
        change: NodeChange,
        /// The set of nodes after it.
        membership: Membership,
        /// The copies that count after it.
        members: Vec<Member>,
    },
    /// Record that what is under way does not happen.
    GiveUp(NodeChange),
    /// The leader is among those that leave: this node shall lead instead.
    HandOver(NodeId),
    /// Something has to come first.
    Wait(Hindrance),
}

/// What has to come first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hindrance {
    /// In a sentence.
    pub reason: String,
    /// Whether it passes by itself.
    pub passes: bool,
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

fn passing(reason: impl Into<String>) -> Scale {
    Scale::Wait(Hindrance { reason: reason.into(), passes: true })
}

fn lasting(reason: impl Into<String>) -> Scale {
    Scale::Wait(Hindrance { reason: reason.into(), passes: false })
}

/// What to do next.
#[must_use]
pub fn scale(situation: &Situation<'_>, leadership: &Leadership, roll: &Roll) -> Scale {
    let membership = &situation.record.membership;
    if situation.store.resting {
        // It is as large as it shall be: nothing begins, and what cannot be finished at once is given up.
        let store = Store { wanted: membership.nodes, resting: false, ..situation.store.clone() };
        return scale(&Situation { store: &store, ..*situation }, leadership, roll);
    }
    let store = situation.store;
    if membership.nodes == 0 || membership.nodes == store.wanted && membership.change.is_none() {
        return Scale::Done;
    }
    let leader = situation.leader_state().filter(|_| *leadership == Leadership::Active);
    let Some(leader) = leader else { return passing("no leader is active") };
    match &membership.change {
        None => begin(situation, leader, roll),
        Some(change) => go_on(situation, change, leader),
    }
}

fn begin(situation: &Situation<'_>, leader: &NodeState, roll: &Roll) -> Scale {
    let Situation { store, record, nodes, .. } = situation;
    let membership = &record.membership;
    if *roll != Roll::Done {
        return passing("nodes of an older description are replaced first");
    }
    let older = nodes.iter().filter_map(|view| view.state.as_ref()).find(|state| state.configuration.is_none());
    if let Some(older) = older {
        return lasting(format!("{} runs a release whose set of nodes cannot change", older.node));
    }
    if !store.settled {
        return passing("what an earlier change left behind is not gone yet");
    }
    let grows = membership.nodes < store.wanted;
    let node = store.names.get(if grows { membership.nodes } else { membership.nodes - 1 });
    let Some(node) = node.cloned() else { return lasting("a store has no more nodes than that") };
    if !grows && goes(situation, &leader.node) {
        return hand_over(situation);
    }
    let change = if grows { NodeChange::Joining(node) } else { NodeChange::Leaving(node) };
    match membership.may_begin(&change, leader) {
        Ok(()) => Scale::Begin(change),
        Err(obstacle) => lasting(obstacle.to_string()),
    }
}

fn go_on(situation: &Situation<'_>, change: &NodeChange, leader: &NodeState) -> Scale {
    let Situation { store, record, .. } = situation;
    let membership = &record.membership;
    if let Some((membership, members)) = membership.finish(&record.members, leader) {
        return Scale::Finish { change: change.clone(), membership, members };
    }
    let give_up = match change {
        NodeChange::Joining(_) => store.wanted <= membership.nodes,
        NodeChange::Leaving(_) if store.wanted >= membership.nodes => true,
        NodeChange::Leaving(node) if leader.node == *node => return hand_over(situation),
        // Others went meanwhile, and what this node could confirm is needed.
        NodeChange::Leaving(node) => {
            let connected = leader.followers.iter().any(|follower| follower.node == *node && follower.connected);
            let quorum = leader.settings.map(|entry| entry.settings.write_quorum);
            connected && quorum.is_some_and(|quorum| membership.can_do_without(node, quorum, leader).is_err())
        }
    };
    if give_up { Scale::GiveUp(change.clone()) } else { Scale::UnderWay(change.clone()) }
}

/// Whether the spec wants this node gone.
fn goes(situation: &Situation<'_>, node: &NodeId) -> bool {
    situation.store.names.iter().skip(situation.store.wanted).any(|name| name == node)
}

/// The leader hands over to one that stays, as if a person had asked for it; of whatever description, since nodes are
/// not replaced before a change that is under way is done.
fn hand_over(situation: &Situation<'_>) -> Scale {
    let nodes: Vec<NodeView> =
        situation.nodes.iter().map(|view| NodeView { outdated: false, ..view.clone() }).collect();
    let situation = &Situation { nodes: &nodes, ..*situation };
    let mut stays = situation.store.nodes.iter().take(situation.store.wanted);
    let ready = |node: &&NodeId| {
        let step = switchover::step(situation, &Leadership::Active, node, Duration::ZERO);
        step == switchover::Step::HandOver
    };
    match stays.find(ready) {
        Some(node) => Scale::HandOver(node.clone()),
        None => lasting("the leader is to leave, and none of the nodes that stay could take over now"),
    }
}

#[cfg(test)]
mod tests;

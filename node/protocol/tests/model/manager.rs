//! What a manager does: each numbered step of an election is an action of its own, so that it may end, or be
//! overtaken, between any two.

use std::sync::Arc;

use quorumkv_api::{
    Delay, Epoch, NodeId, Position, Settings, WriteQuorum,
    lab::Role,
    peer::{Configuration, FenceReply, Member, MembersRequest, NodeChange, NodeState, PeerAddress, PromoteRequest},
};
use quorumkv_protocol::{
    Input, RequestId,
    election::{self, Choice, Record},
    membership::Membership,
    planted::{Bug, planted},
};

use crate::{
    model::{Instance, Move},
    node::{name, number_of},
    store::State,
};

/// The record that managers share, replaced by compare-and-swap on its version.
#[derive(Debug, Clone, PartialEq, Hash)]
pub(crate) struct SharedRecord {
    version: u64,
    pub(crate) epoch: Epoch,
    pub(crate) leader: Option<NodeId>,
    pub(crate) record: Record,
}

impl SharedRecord {
    pub(crate) fn new(nodes: usize) -> Self {
        let record = Record { membership: Membership::first(nodes), members: Vec::new(), last_leader: None };
        Self { version: 0, epoch: Epoch(0), leader: None, record }
    }
}

/// Where a manager is in what it does.
#[derive(Debug, Clone, PartialEq, Hash, Default)]
pub(crate) enum Manager {
    #[default]
    Idle,
    Fencing {
        version: u64,
        epoch: Epoch,
        answers: Vec<FenceReply>,
        /// Where logs ended before they were fenced; known only to a manager with a planted bug.
        early: Vec<Position>,
    },
    Promoting {
        choice: Box<Choice>,
        epoch: Epoch,
        configuration: Configuration,
    },
    /// It has heard from the leader that a change of the set of nodes is done.
    Finishing {
        version: u64,
        membership: Membership,
        members: Vec<Member>,
    },
    Telling(Box<MembersRequest>),
}

impl Manager {
    pub(crate) fn fenced(&mut self, of: Epoch, mut answer: FenceReply) {
        let Self::Fencing { epoch, answers, early, .. } = self else { return };
        if *epoch == of {
            if let Some(position) = early.get(usize::from(number_of(&answer.node))) {
                answer.last = *position;
            }
            answers.push(answer);
            // Answers come in any order and mean the same.
            answers.sort_by(|a, b| a.node.cmp(&b.node));
        }
    }
}

impl State {
    pub(crate) fn manager(&self, manager: u8) -> &Manager {
        &self.managers[usize::from(manager)]
    }

    fn set_manager(&mut self, manager: u8, to: Manager) {
        self.managers[usize::from(manager)] = Arc::new(to);
    }

    /// Records a higher epoch. Whatever the manager was doing is given up, as by one that was started again.
    pub(crate) fn begin(&mut self, manager: u8) {
        self.left.elections -= 1;
        let epoch = election::next_epoch(self.record.epoch, []);
        self.record.epoch = epoch;
        self.record.leader = None;
        self.record.version += 1;
        let early = planted(Bug::ChooseBeforeFencing);
        let early = self.nodes.iter().filter(|_| early).map(|node| node.core.log().last()).collect();
        let version = self.record.version;
        self.set_manager(manager, Manager::Fencing { version, epoch, answers: Vec::new(), early });
    }

    /// Whether the manager would ask this node for a promise now.
    pub(crate) fn may_fence(&self, manager: u8, number: u8) -> bool {
        let Manager::Fencing { epoch, answers, .. } = self.manager(manager) else { return false };
        self.present().any(|present| present == number)
            && answers.iter().all(|answer| answer.node != name(number))
            && self.node(number).core.state().promised < *epoch
    }

    pub(crate) fn fence(&mut self, instance: &Instance, manager: u8, number: u8) {
        let Manager::Fencing { epoch, .. } = *self.manager(manager) else { return };
        let request = RequestId(epoch.0 * 10 + u64::from(manager));
        self.input(instance, number, Input::Fence { request, epoch });
    }

    /// The choice, if the answers so far allow one and the record is still as this manager left it.
    pub(crate) fn choice(&self, manager: u8) -> Option<(Epoch, Choice)> {
        let Manager::Fencing { version, epoch, answers, .. } = self.manager(manager) else { return None };
        if *version != self.record.version {
            return None;
        }
        let expected: Vec<NodeId> = self.present().map(name).collect();
        election::elect(&self.record.record, &expected, answers, &expected).ok().map(|choice| (*epoch, choice))
    }

    pub(crate) fn choose(&mut self, manager: u8) {
        let Some((epoch, choice)) = self.choice(manager) else { return };
        let chosen = Member { name: choice.node.clone(), storage_id: choice.storage_id };
        self.record.leader = Some(choice.node.clone());
        self.record.record.last_leader = Some(chosen);
        self.record.record.members = choice.members.clone();
        self.record.version += 1;
        let configuration = self.record.record.membership.configuration();
        self.set_manager(manager, Manager::Promoting { choice: Box::new(choice), epoch, configuration });
    }

    pub(crate) fn promote(&mut self, instance: &Instance, manager: u8) {
        let Manager::Promoting { choice, epoch, configuration } = self.manager(manager).clone() else { return };
        let quorum = WriteQuorum(instance.quorum);
        let write_timeout = std::time::Duration::from_hours(1);
        let settings = Settings { write_quorum: quorum, delay: Delay::ZERO, write_timeout };
        let wait = if instance.leases { choice.lease_wait } else { std::time::Duration::ZERO };
        let promote = PromoteRequest {
            epoch,
            storage_id: choice.storage_id,
            process_id: choice.process_id,
            peers: self.addresses(),
            members: choice.members.clone(),
            lease_wait_ms: u64::try_from(wait.as_millis()).expect("short"),
            bootstrap: (choice.bootstrap || planted(Bug::PromoteChangedNode)).then_some(settings),
            configuration,
        };
        self.set_manager(manager, Manager::Idle);
        let request = RequestId(epoch.0 * 10 + 9);
        self.input(instance, number_of(&choice.node), Input::Promote { request, promote });
    }

    fn addresses(&self) -> Vec<PeerAddress> {
        let address = |number| PeerAddress { node: name(number), client_url: String::new(), peer_url: String::new() };
        self.present().map(address).collect()
    }

    /// What the recorded leader says of itself, if it leads the recorded epoch.
    fn report(&self) -> Option<NodeState> {
        let state = self.node(number_of(self.record.leader.as_ref()?)).core.state();
        (state.epoch == self.record.epoch && state.role == Role::Leader).then_some(state)
    }

    /// The members as the recorded leader's report would have them, if that is a change.
    pub(crate) fn admission(&self) -> Option<Vec<Member>> {
        let state = self.report()?;
        let Record { membership, members, .. } = &self.record.record;
        let mut members = members.clone();
        let changes = |node: &NodeId| membership.change.as_ref().is_some_and(|change| change.node() == node);
        for follower in state.followers.into_iter().filter(|known| known.caught_up && !changes(&known.node)) {
            let Some(storage_id) = follower.storage_id else { continue };
            members.retain(|member| member.name != follower.node);
            members.push(Member { name: follower.node, storage_id });
        }
        members.sort();
        (members != self.record.record.members).then_some(members)
    }

    /// Records copies that have caught up; the leader hears of it in a step of its own.
    pub(crate) fn admit(&mut self, manager: u8) {
        let Some(members) = self.admission() else { return };
        self.record.record.members = members;
        self.record.version += 1;
        self.remind(manager);
    }

    /// The next change of the set of nodes, if it may begin.
    pub(crate) fn next_move(&self, instance: &Instance) -> Option<NodeChange> {
        let made = usize::from(instance.left.moves - self.left.moves);
        let membership = &self.record.record.membership;
        let last = u8::try_from(membership.nodes).expect("few nodes");
        let change = match instance.moves.get(made)? {
            Move::Join => NodeChange::Joining(name(last)),
            Move::Leave => NodeChange::Leaving(name(last - 1)),
        };
        membership.may_begin(&change, &self.report()?).is_ok().then_some(change)
    }

    pub(crate) fn begin_move(&mut self, instance: &Instance, manager: u8) {
        let Some(change) = self.next_move(instance) else { return };
        self.left.moves -= 1;
        self.record.record.membership = self.record.record.membership.begin(change);
        self.record.version += 1;
        self.remind(manager);
    }

    /// What the leader's report makes of the change that is under way.
    pub(crate) fn finished(&self) -> Option<(Membership, Vec<Member>)> {
        let Record { membership, members, .. } = &self.record.record;
        membership.finish(members, &self.report()?)
    }

    pub(crate) fn hear_of_finished(&mut self, manager: u8) {
        let Some((membership, members)) = self.finished() else { return };
        let version = self.record.version;
        self.set_manager(manager, Manager::Finishing { version, membership, members });
    }

    pub(crate) fn finish_move(&mut self, manager: u8) {
        let Manager::Finishing { version, membership, members } = self.manager(manager).clone() else { return };
        self.set_manager(manager, Manager::Idle);
        if version != self.record.version {
            return;
        }
        (self.record.record.membership, self.record.record.members) = (membership, members);
        self.record.version += 1;
        self.remind(manager);
    }

    /// The manager is about to tell the leader what is on record now.
    pub(crate) fn remind(&mut self, manager: u8) {
        let Record { membership, members, .. } = &self.record.record;
        let told = MembersRequest {
            epoch: self.record.epoch,
            peers: self.addresses(),
            members: members.clone(),
            configuration: membership.configuration(),
        };
        self.set_manager(manager, Manager::Telling(Box::new(told)));
    }

    pub(crate) fn tell(&mut self, instance: &Instance, manager: u8) {
        let Manager::Telling(members) = self.manager(manager).clone() else { return };
        self.set_manager(manager, Manager::Idle);
        let request = RequestId(members.epoch.0 * 10 + 9);
        for number in self.numbers() {
            if self.node(number).core.view().role == Role::Leader {
                self.input(instance, number, Input::Members { request, members: (*members).clone() });
            }
        }
    }
}

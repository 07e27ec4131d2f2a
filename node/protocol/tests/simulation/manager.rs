//! What the operator does, step by step, with a pause before each step in which it may crash or be overtaken.

use quorumkv_api::{
    Delay, Epoch, NodeId, Position, SettingsPatch, WriteQuorum,
    lab::Role,
    peer::{
        Configuration, FenceReply, Member, MembersRequest, NodeChange, NodeState, PeerAddress, PeerError,
        PromoteRequest,
    },
};
use quorumkv_protocol::{
    election::{self, Choice, Record},
    membership::Membership,
    planted::{Bug, planted},
};
use rand::RngExt;
use std::time::Duration;

use crate::{
    node::{Call, SimNode},
    world::{Event, World},
};

/// The record that managers share; written by compare-and-swap on its version.
#[derive(Debug, Clone)]
pub(crate) struct SharedRecord {
    pub(crate) version: u64,
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

#[derive(Debug)]
pub(crate) enum Reply {
    State(Box<NodeState>),
    Fenced(Box<FenceReply>),
    Done,
    Refused(PeerError),
}

/// Where a manager is in what it does.
#[derive(Debug, Default)]
enum Step {
    #[default]
    Look,
    Watch {
        seen: Box<SharedRecord>,
        probe: usize,
        state: Option<NodeState>,
    },
    /// It has decided, and is about to replace the record as it read it.
    Recording {
        seen: Box<SharedRecord>,
        membership: Membership,
        members: Vec<Member>,
    },
    /// It is about to tell the leader what was on record.
    Telling {
        leader: usize,
        members: Box<MembersRequest>,
    },
    Fencing {
        seen: SharedRecord,
        epoch: Epoch,
        answers: Vec<FenceReply>,
        promised: Vec<Epoch>,
        early: Vec<Early>,
    },
    Promoting {
        choice: Box<Choice>,
        epoch: Epoch,
        configuration: Configuration,
    },
}

/// Where a log ended before its node was fenced; known only to a manager with a planted bug.
type Early = (NodeId, Position);

fn as_known_early(answer: FenceReply, early: &[Early]) -> FenceReply {
    match early.iter().find(|(node, _)| *node == answer.node) {
        Some((_, last)) => FenceReply { last: *last, ..answer },
        None => answer,
    }
}

#[derive(Debug, Default)]
pub(crate) struct Manager {
    turn: u64,
    step: Step,
    missed_probes: u32,
    /// Highest epoch that a node refused a fence with.
    promised: Epoch,
}

impl World {
    pub(crate) fn manager_turn(&mut self, manager: usize, turn: u64) {
        if self.managers[manager].turn != turn {
            return;
        }
        // Safety may not rest on there being one manager; making progress may.
        if self.quiet && manager > 0 {
            return;
        }
        // A crash between any two steps: everything but the record is forgotten.
        if !self.quiet && self.rng.random_bool(0.02) {
            self.managers[manager] = Manager { turn, ..Manager::default() };
        }
        let step = std::mem::take(&mut self.managers[manager].step);
        let after = match step {
            Step::Look => self.look(manager),
            Step::Watch { seen, probe, state } => self.watch(manager, &seen, probe, state),
            Step::Recording { seen, membership, members } => self.record(manager, &seen, membership, members),
            Step::Telling { leader, members } => {
                self.ask(manager, leader, Call::Members(members));
                50_000
            }
            Step::Fencing { seen, epoch, answers, promised, early } => {
                let answers = answers.into_iter().map(|answer| as_known_early(answer, &early)).collect();
                self.fenced(manager, seen, epoch, answers, promised)
            }
            Step::Promoting { choice, epoch, configuration } => self.promote(manager, *choice, epoch, configuration),
        };
        let manager_state = &mut self.managers[manager];
        manager_state.turn += 1;
        let turn = manager_state.turn;
        self.schedule(after, Event::Manager { manager, turn });
    }

    /// Replies are gathered until the manager's next turn; a late one finds another turn and is ignored.
    pub(crate) fn manager_reply(&mut self, manager: usize, turn: u64, node: usize, reply: Reply) {
        let manager = &mut self.managers[manager];
        if manager.turn != turn {
            return;
        }
        match (&mut manager.step, reply) {
            (Step::Watch { probe, state, .. }, Reply::State(new)) if *probe == node => *state = Some(*new),
            (Step::Fencing { answers, .. }, Reply::Fenced(fenced)) => answers.push(*fenced),
            (Step::Fencing { promised, .. }, Reply::Refused(refusal)) => promised.push(refusal.promised),
            _ => {}
        }
    }

    /// A call that a manager makes; the reply belongs to its next turn.
    fn ask(&mut self, manager: usize, node: usize, call: Call) {
        let turn = self.managers[manager].turn + 1;
        if self.nodes[node].is_cut_off(self.now) || self.rng.random_bool(0.02) {
            return;
        }
        let after = if self.rng.random_bool(0.03) { 400_000 } else { self.rng.random_range(100..5_000) };
        self.schedule(after, Event::Call { node, manager, turn, call });
    }

    fn node_named(&self, name: &NodeId) -> usize {
        self.nodes.iter().position(|node| node.name == *name).expect("all names are nodes")
    }

    fn look(&mut self, manager: usize) -> u64 {
        let leader = self.record.leader.clone();
        if let Some(leader) = leader {
            let probe = self.node_named(&leader);
            self.ask(manager, probe, Call::State);
            let seen = Box::new(self.record.clone());
            self.managers[manager].step = Step::Watch { seen, probe, state: None };
            return 50_000;
        }
        self.begin_election(manager)
    }

    /// How many nodes managers deal with: those of the store, and one that joins.
    pub(crate) fn present(&self) -> usize {
        let membership = &self.record.record.membership;
        membership.nodes + usize::from(membership.joining().is_some())
    }

    fn watch(&mut self, manager: usize, seen: &SharedRecord, probe: usize, state: Option<NodeState>) -> u64 {
        let leads = state.as_ref().is_some_and(|state| state.role == Role::Leader && state.epoch == self.record.epoch);
        if !leads {
            self.managers[manager].missed_probes += 1;
            // A leader that says that it does not lead is not waited for.
            if self.managers[manager].missed_probes > 4 || state.is_some() {
                return self.begin_election(manager);
            }
            return 50_000;
        }
        self.managers[manager].missed_probes = 0;
        let state = state.expect("it leads");
        if !self.quiet && self.rng.random_bool(self.plan.switchover) {
            return self.begin_election(manager);
        }
        if let Some((membership, members)) = self.next_membership(seen, &state) {
            let seen = Box::new(seen.clone());
            self.managers[manager].step = Step::Recording { seen, membership, members };
            return self.rng.random_range(100..30_000);
        }
        self.record_learners(&state);
        if self.record.epoch == state.epoch {
            self.tell(manager, probe);
        }
        if !self.quiet && self.rng.random_bool(self.plan.resettle) {
            let patch = self.random_settings();
            self.ask(manager, probe, Call::Settings(patch));
        }
        100_000
    }

    /// Tells the leader what is on record now, at once or after a while in which that may have changed.
    fn tell(&mut self, manager: usize, leader: usize) {
        let Record { membership, members, .. } = &self.record.record;
        let changed = membership.number > 0;
        let members = MembersRequest {
            epoch: self.record.epoch,
            peers: self.addresses(),
            members: members.clone(),
            configuration: membership.configuration(),
        };
        if changed && self.rng.random_bool(0.2) {
            self.managers[manager].step = Step::Telling { leader, members: Box::new(members) };
        } else {
            self.ask(manager, leader, Call::Members(Box::new(members)));
        }
    }

    /// What to record of the set of nodes, from the record as it was read before the leader was asked.
    fn next_membership(&mut self, seen: &SharedRecord, leader: &NodeState) -> Option<(Membership, Vec<Member>)> {
        let Record { membership, members, .. } = &seen.record;
        if leader.epoch != seen.epoch || seen.leader.as_ref() != Some(&leader.node) {
            return None;
        }
        if let Some(finished) = membership.finish(members, leader) {
            return Some(finished);
        }
        if membership.change.is_some() {
            // What cannot end, for its node is gone or leads, must not keep the store from being whole.
            let give_up = self.rng.random_bool(if self.quiet { 0.2 } else { 0.02 });
            return give_up.then(|| (membership.give_up(), members.clone()));
        }
        if self.quiet || self.plan.reshape == 0.0 || !self.rng.random_bool(self.plan.reshape) {
            return None;
        }
        let change = if self.rng.random_bool(0.5) && membership.nodes < self.nodes.len() {
            NodeChange::Joining(self.nodes[membership.nodes].name.clone())
        } else {
            NodeChange::Leaving(self.nodes[membership.nodes - 1].name.clone())
        };
        let may_begin = membership.nodes > 2 || matches!(change, NodeChange::Joining(_));
        let may_begin = may_begin && membership.may_begin(&change, leader).is_ok();
        may_begin.then(|| (membership.begin(change), members.clone()))
    }

    /// The compare-and-swap.
    fn record(&mut self, manager: usize, seen: &SharedRecord, membership: Membership, members: Vec<Member>) -> u64 {
        if self.record.version != seen.version {
            return self.rng.random_range(1_000..50_000);
        }
        let (before, after) = (self.record.record.membership.nodes, membership.nodes);
        self.outcome.joined += usize::from(after > before);
        self.outcome.left += usize::from(after < before);
        (self.record.record.membership, self.record.record.members) = (membership, members);
        self.record.version += 1;
        if let Some(leader) = self.record.leader.clone() {
            let leader = self.node_named(&leader);
            self.tell(manager, leader);
        }
        50_000
    }

    pub(crate) fn random_settings(&mut self) -> SettingsPatch {
        let followers = u8::try_from(self.record.record.membership.nodes - 1).expect("few nodes");
        let quorum = WriteQuorum(self.rng.random_range(1..=followers));
        let max = Duration::from_millis(self.rng.random_range(0..3) * 20);
        let delay = Delay { min: max / 2, max };
        SettingsPatch { write_quorum: Some(quorum), delay: Some(delay), write_timeout: None }
    }

    /// Recorded first, counted second: in the epoch in which the leader reported it.
    fn record_learners(&mut self, state: &NodeState) {
        if state.epoch != self.record.epoch || self.record.leader.as_ref() != Some(&state.node) {
            return;
        }
        let Record { membership, members, .. } = &self.record.record;
        let mut members = members.clone();
        let changes = |node: &NodeId| membership.change.as_ref().is_some_and(|change| change.node() == node);
        let names: Vec<&NodeId> = self.nodes[..membership.nodes].iter().map(|node| &node.name).collect();
        let learned = |node: &NodeId| names.contains(&node) && !changes(node);
        for follower in state.followers.iter().filter(|follower| follower.caught_up && learned(&follower.node)) {
            let Some(storage_id) = follower.storage_id else { continue };
            members.retain(|member| member.name != follower.node);
            members.push(Member { name: follower.node.clone(), storage_id });
        }
        members.sort();
        if members != self.record.record.members {
            self.record.record.members = members;
            self.record.version += 1;
        }
    }

    fn addresses(&self) -> Vec<PeerAddress> {
        self.nodes[..self.present()]
            .iter()
            .map(|node| PeerAddress {
                node: node.name.clone(),
                client_url: format!("http://{}", node.name),
                peer_url: format!("http://{}", node.name),
            })
            .collect()
    }

    fn begin_election(&mut self, manager: usize) -> u64 {
        let epoch = election::next_epoch(self.record.epoch, [self.managers[manager].promised]);
        // The compare-and-swap: this manager's view is live, so it always wins here, and others lose later.
        self.record.epoch = epoch;
        self.record.leader = None;
        self.record.version += 1;
        let seen = self.record.clone();
        let early = self.positions_if_planted();
        for node in 0..self.present() {
            self.ask(manager, node, Call::Fence(epoch));
        }
        self.managers[manager].missed_probes = 0;
        self.managers[manager].step = Step::Fencing { seen, epoch, answers: Vec::new(), promised: Vec::new(), early };
        self.rng.random_range(20_000..300_000)
    }

    fn positions_if_planted(&self) -> Vec<Early> {
        if !planted(Bug::ChooseBeforeFencing) {
            return Vec::new();
        }
        let last = |node: &SimNode| node.core.as_ref().map(|core| (node.name.clone(), core.log().last()));
        self.nodes.iter().filter_map(last).collect()
    }

    fn fenced(
        &mut self,
        manager: usize,
        seen: SharedRecord,
        epoch: Epoch,
        answers: Vec<FenceReply>,
        promised: Vec<Epoch>,
    ) -> u64 {
        for promised in promised {
            let known = &mut self.managers[manager].promised;
            *known = (*known).max(promised);
        }
        if self.record.version != seen.version {
            return self.rng.random_range(10_000..200_000);
        }
        let expected: Vec<NodeId> = self.nodes[..self.present()].iter().map(|node| node.name.clone()).collect();
        let Ok(choice) = election::elect(&self.record.record, &expected, &answers, &expected) else {
            return self.rng.random_range(50_000..300_000);
        };
        self.record.leader = Some(choice.node.clone());
        self.record.record.last_leader = Some(Member { name: choice.node.clone(), storage_id: choice.storage_id });
        self.record.record.members = choice.members.clone();
        self.record.version += 1;
        let configuration = self.record.record.membership.configuration();
        self.managers[manager].step = Step::Promoting { choice: Box::new(choice), epoch, configuration };
        self.rng.random_range(100..20_000)
    }

    fn promote(&mut self, manager: usize, choice: Choice, epoch: Epoch, configuration: Configuration) -> u64 {
        let followers = u8::try_from(self.record.record.membership.nodes - 1).expect("few nodes");
        let quorum = WriteQuorum(self.plan.quorum.min(followers));
        let settings = quorumkv_api::Settings { write_quorum: quorum, ..quorumkv_api::Settings::default() };
        let promote = PromoteRequest {
            epoch,
            storage_id: choice.storage_id,
            process_id: choice.process_id,
            peers: self.addresses(),
            members: choice.members,
            lease_wait_ms: u64::try_from(choice.lease_wait.as_millis()).expect("short"),
            bootstrap: (choice.bootstrap || planted(Bug::PromoteChangedNode)).then_some(settings),
            configuration,
        };
        let node = self.node_named(&choice.node);
        if !self.quiet && self.rng.random_bool(self.plan.strike_leader / 4.0) {
            // The chosen one loses its copy, or restarts, a moment before it is promoted.
            let lose = !self.plan.persistent || self.rng.random_bool(0.5);
            self.crash(node, lose);
        }
        self.ask(manager, node, Call::Promote(Box::new(promote)));
        self.managers[manager].step = Step::Look;
        50_000
    }
}

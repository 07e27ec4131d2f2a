//! Which actions there are, and what must hold: the store as a model for stateright.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc};

use quorumkv_api::{Epoch, SettingsPatch, WriteQuorum, lab::Role};
#[cfg(feature = "planted-bugs")]
use quorumkv_protocol::planted::plant;
use quorumkv_protocol::{COMMIT_NOTICE, Input, Limits, Micros, RequestId, View, planted::Bug};
use stateright::{
    Model, Property,
    semantics::{ConsistencyTester, register::Register},
};

use crate::{
    manager::{Manager, SharedRecord},
    node::{ModelNode, number_of},
    store::{Budget, History, State, Violation},
};

/// One small store, and what may happen to it.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) name: &'static str,
    pub(crate) nodes: u8,
    /// How many of them it begins with; the others may join.
    pub(crate) first: u8,
    /// How the set of nodes changes, one after the other.
    pub(crate) moves: &'static [Move],
    /// What happens before all that is looked at.
    pub(crate) prelude: &'static [Action],
    /// The quorum that it starts with, and those to which it is changed, one after the other.
    pub(crate) quorum: u8,
    pub(crate) changes: &'static [u8],
    pub(crate) managers: u8,
    pub(crate) left: Budget,
    /// Storage confirms later, and a restart keeps what it confirmed; otherwise memory.
    pub(crate) disk: bool,
    /// Heartbeats and leases; without them time stands still and nobody reads.
    pub(crate) leases: bool,
    /// Followers hear of a commit also when no append carries it.
    pub(crate) notices: bool,
    /// A log forgets what is applied, so that a new copy needs a snapshot.
    pub(crate) snapshots: bool,
    /// Deepest path to follow; none follows all.
    pub(crate) depth: Option<usize>,
    /// What must be seen to happen, by the names of [`GOALS`].
    pub(crate) goals: &'static [&'static str],
    pub(crate) bug: Option<Bug>,
}

/// A change of the set of nodes: always the node of the highest number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Move {
    Join,
    Leave,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Action {
    Write(u8),
    Read(u8),
    Change(u8),
    Connect(u8, u8),
    Break(u8, u8),
    Down(u8, u8),
    Up(u8, u8),
    Notice(u8),
    Persisted(u8),
    Crash(u8),
    Lose(u8),
    Wait,
    Begin(u8),
    Fence(u8, u8),
    Choose(u8),
    Promote(u8),
    Admit(u8),
    Tell(u8),
    Move(u8),
    Hear(u8),
    Finish(u8),
    Remind(u8),
}

impl Instance {
    pub(crate) fn limits(&self) -> Limits {
        let retain_entries = if self.snapshots { 0 } else { Limits::default().retain_entries };
        Limits { retain_entries, ..Limits::default() }
    }

    /// A store whose first leader is active and has reached every follower.
    fn begun(&self) -> State {
        let nodes: Vec<_> = (0..self.nodes).map(|number| Arc::new(ModelNode::new(number, self.limits()))).collect();
        let left = Budget { elections: 1, ..self.left };
        let mut state = State {
            now: 10_000_000,
            links: vec![None; nodes.len() * nodes.len()],
            record: SharedRecord::new(usize::from(self.first)),
            nodes,
            managers: (0..self.managers).map(|_| Arc::new(Manager::Idle)).collect(),
            left,
            history: Arc::new(History::new(Register(0))),
            acknowledged: Vec::new(),
            committed: Vec::new(),
            leaders: Vec::new(),
            read_after_failover: false,
            violation: None,
        };
        let mut script = VecDeque::from([Action::Begin(0)]);
        script.extend((0..self.first).flat_map(|number| [Action::Fence(0, number), Action::Persisted(number)]));
        script.extend([Action::Choose(0), Action::Promote(0)]);
        script.extend((1..self.first).map(|follower| Action::Connect(0, follower)));
        while let Some(action) = script.pop_front() {
            self.act(&mut state, action);
            if script.is_empty() {
                let mut actions = Vec::new();
                self.network_actions(&state, &mut actions);
                script.extend(actions.into_iter().find(|action| !matches!(action, Action::Connect(..))));
                let notice = (!self.leases).then_some(Action::Notice(0));
                if script.is_empty() {
                    script.extend(notice.filter(|notice| self.changes_anything(&state, *notice)));
                }
            }
        }
        state.left = self.left;
        assert!(state.is_active(0), "the first leader serves");
        for action in self.prelude {
            assert!(self.changes_anything(&state, *action), "{action:?} does nothing");
            self.act(&mut state, *action);
        }
        state
    }

    fn changes_anything(&self, state: &State, action: Action) -> bool {
        let mut after = state.clone();
        self.act(&mut after, action);
        after != *state
    }

    /// What streams and disks do by themselves.
    fn network_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for leader in state.numbers() {
            for follower in state.numbers().filter(|follower| *follower != leader) {
                let Some(link) = state.link_of(leader, follower) else {
                    if state.node(leader).dials.contains(&follower) {
                        actions.push(Action::Connect(leader, follower));
                    }
                    continue;
                };
                if !link.down.is_empty() && !link.closed {
                    actions.push(Action::Down(leader, follower));
                }
                if !link.up.is_empty() || link.closed {
                    actions.push(Action::Up(leader, follower));
                }
            }
            if !state.node(leader).disk.unconfirmed.is_empty() {
                actions.push(Action::Persisted(leader));
            }
        }
    }

    fn fault_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        for number in state.numbers() {
            if left.crashes > 0 {
                actions.push(Action::Crash(number));
            }
            if left.losses > 0 {
                actions.push(Action::Lose(number));
            }
            for follower in state.numbers().filter(|_| left.breaks > 0) {
                if state.link_of(number, follower).is_some_and(|link| !link.closed) {
                    actions.push(Action::Break(number, follower));
                }
            }
        }
        if left.waits > 0 {
            actions.push(Action::Wait);
        }
    }

    fn client_actions(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        for number in state.numbers().filter(|number| state.is_active(*number)) {
            if left.writes > 0 {
                actions.push(Action::Write(number));
            }
            if left.reads > 0 && state.may_read(number) {
                actions.push(Action::Read(number));
            }
            if left.settings > 0 {
                actions.push(Action::Change(number));
            }
            if self.notices {
                actions.push(Action::Notice(number));
            }
        }
    }

    fn manager_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for manager in 0..self.managers {
            if state.left.elections > 0 {
                actions.push(Action::Begin(manager));
            }
            match state.manager(manager) {
                Manager::Idle => {
                    if self.left.losses > 0 && state.admission().is_some() {
                        actions.push(Action::Admit(manager));
                    }
                    if state.left.moves > 0 && state.next_move(self).is_some() {
                        actions.push(Action::Move(manager));
                    }
                    if state.finished().is_some() {
                        actions.push(Action::Hear(manager));
                    }
                    if state.left.reminders > 0 && state.record.leader.is_some() {
                        actions.push(Action::Remind(manager));
                    }
                }
                Manager::Finishing { .. } => actions.push(Action::Finish(manager)),
                Manager::Fencing { .. } => {
                    let fence = |number: &u8| state.may_fence(manager, *number);
                    actions.extend(state.numbers().filter(fence).map(|number| Action::Fence(manager, number)));
                    if state.choice(manager).is_some() {
                        actions.push(Action::Choose(manager));
                    }
                }
                Manager::Promoting { .. } => actions.push(Action::Promote(manager)),
                Manager::Telling(_) => actions.push(Action::Tell(manager)),
            }
        }
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Write(number) => state.write(self, number),
            Action::Read(number) => state.read(number),
            Action::Change(number) => {
                let next = usize::from(self.left.settings - state.left.settings);
                state.left.settings -= 1;
                let quorum = self.changes.get(next).copied().map(WriteQuorum);
                let patch = SettingsPatch { write_quorum: quorum, ..SettingsPatch::default() };
                state.input(self, number, Input::ChangeSettings { request: RequestId(9), patch });
            }
            Action::Connect(leader, follower) => state.connect(self, leader, follower),
            Action::Break(leader, follower) => {
                state.left.breaks -= 1;
                if let Some(link) = state.link(leader, follower).as_mut().map(Arc::make_mut) {
                    let stream = link.stream;
                    link.closed = true;
                    link.down.clear();
                    state.input(self, follower, Input::LeaderStreamDown { stream });
                }
            }
            Action::Down(leader, follower) => state.deliver_down(self, leader, follower),
            Action::Up(leader, follower) => state.deliver_up(self, leader, follower),
            // A moment passes on this node alone: too short to matter to anything else.
            Action::Notice(number) => {
                let now = Micros(state.now).after(COMMIT_NOTICE);
                state.input_at(self, number, Input::Tick, now);
            }
            Action::Persisted(number) => state.persisted(self, number),
            Action::Crash(number) => {
                state.left.crashes -= 1;
                state.crash(self, number, !self.disk);
            }
            Action::Lose(number) => {
                state.left.losses -= 1;
                state.crash(self, number, true);
            }
            Action::Wait => {
                state.left.waits -= 1;
                state.wait(self);
            }
            Action::Begin(manager) => state.begin(manager),
            Action::Fence(manager, number) => state.fence(self, manager, number),
            Action::Choose(manager) => state.choose(manager),
            Action::Promote(manager) => state.promote(self, manager),
            Action::Admit(manager) => state.admit(manager),
            Action::Tell(manager) => state.tell(self, manager),
            Action::Move(manager) => state.begin_move(self, manager),
            Action::Hear(manager) => state.hear_of_finished(manager),
            Action::Finish(manager) => state.finish_move(manager),
            Action::Remind(manager) => {
                state.left.reminders -= 1;
                state.remind(manager);
            }
        }
    }

    /// The checker's threads are its own: each learns of the bug when it comes here.
    fn plant(&self) {
        #[cfg(feature = "planted-bugs")]
        plant(self.bug);
        #[cfg(not(feature = "planted-bugs"))]
        assert!(self.bug.is_none(), "bugs need the feature planted-bugs");
    }
}

impl Model for Instance {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        self.plant();
        vec![self.begun()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.plant();
        self.network_actions(state, actions);
        self.client_actions(state, actions);
        self.manager_actions(state, actions);
        self.fault_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        self.plant();
        let mut state = last.clone();
        // An assertion of the core is a violation with a path to it, not the end of the search.
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.act(&mut state, action))).is_err() {
            return Some(State { violation: Some(Violation::CoreAssertion), ..last.clone() });
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(LINEARIZABLE, |_, state: &State| state.history.is_consistent()),
            Property::always(KEPT, |_, state: &State| {
                state.numbers().all(|number| state.holds_what_was_acknowledged(number))
            }),
            Property::always(ONE_LEADER, |_, state: &State| state.violation != Some(Violation::TwoLeaders)),
            Property::always(ONE_COMMIT, |_, state: &State| state.violation != Some(Violation::TwoCommits)),
            Property::always(COMMIT_STAYS, |_, state: &State| state.violation != Some(Violation::CommitUndone)),
            Property::always(ASSERTIONS, |_, state: &State| state.violation != Some(Violation::CoreAssertion)),
        ];
        let goal = |name: &&'static str| GOALS.iter().find(|(known, _)| known == name).expect("a known goal");
        properties.extend(self.goals.iter().map(goal).map(|(name, reached)| Property::sometimes(name, *reached)));
        properties
    }
}

const LINEARIZABLE: &str = "what clients see is linearizable";
const KEPT: &str = "a leader has what was acknowledged";
const ONE_LEADER: &str = "an epoch has one leader";
const ONE_COMMIT: &str = "a place has one committed entry";
const COMMIT_STAYS: &str = "what is committed stays";
const ASSERTIONS: &str = "no assertion of the core fails";

pub(crate) const FAILOVER: &str = "a write is acknowledged after a failover";
pub(crate) const SECOND_FAILOVER: &str = "a write is acknowledged after two failovers";
pub(crate) const CHANGED: &str = "the last quorum asked for is in force";
pub(crate) const CHANGED_THEN_LED: &str = "a later leader works under a changed quorum";
pub(crate) const READMITTED: &str = "a lost disk counts again";
pub(crate) const READ: &str = "a read is answered after a failover";
pub(crate) const RESTARTED: &str = "a node that kept its disk acknowledges again";
pub(crate) const SNAPSHOT: &str = "a new copy begins with a snapshot";
pub(crate) const JOINED: &str = "a node that has joined counts";
pub(crate) const LEFT: &str = "a write is acknowledged after a node has left";
pub(crate) const CHANGED_NODES_THEN_LED: &str = "a later leader works with the changed set of nodes";
pub(crate) const OVERTAKEN: &str = "a manager is overtaken by another";

type Goal = (&'static str, fn(&Instance, &State) -> bool);

const GOALS: &[Goal] = &[
    (FAILOVER, |_, state| state.acknowledged.iter().any(|write| write.epoch > Epoch(1))),
    (SECOND_FAILOVER, |_, state| state.acknowledged.iter().any(|write| write.epoch > Epoch(2))),
    (CHANGED, |instance, state| state.active_quorum(0) == instance.changes.last().copied()),
    (CHANGED_THEN_LED, |instance, state| {
        state.numbers().skip(1).any(|number| state.active_quorum(number) == instance.changes.last().copied())
    }),
    (READMITTED, |_, state| {
        let counted = |number| state.node(number).core.state().followers.into_iter().filter(|known| known.counted);
        let reborn = |name: &_| state.node(number_of(name)).disks > 0;
        state.numbers().any(|number| state.is_active(number) && counted(number).any(|known| reborn(&known.node)))
    }),
    (READ, |_, state| state.read_after_failover),
    (RESTARTED, |_, state| {
        let restarted = |number: u8| state.node(number).processes > 0 && state.node(number).disks == 0;
        let state_of = |number| state.node(number).core.state();
        state.numbers().filter(|number| restarted(*number)).any(|number| state_of(number).ready)
    }),
    (SNAPSHOT, |_, state| {
        state.nodes.iter().any(|node| node.disks > 0 && node.applied.0 > 0 && node.core.log().is_empty())
    }),
    (JOINED, |instance, state| {
        let counted = |number| state.node(number).core.state().followers.into_iter().filter(|known| known.counted);
        let new = |name: &_| number_of(name) >= instance.first;
        state.numbers().any(|number| state.is_active(number) && counted(number).any(|known| new(&known.node)))
    }),
    (LEFT, |instance, state| {
        let left = state.record.record.membership.nodes < usize::from(instance.first);
        left && !state.acknowledged.is_empty() && state.left.writes == 0
    }),
    (CHANGED_NODES_THEN_LED, |instance, state| {
        let membership = &state.record.record.membership;
        let changed = membership.change.is_none() && membership.nodes != usize::from(instance.first);
        let later = |number: u8| state.is_active(number) && state.node(number).core.view().epoch > Epoch(1);
        changed && state.numbers().any(later)
    }),
    (OVERTAKEN, |instance, state| {
        let fences = |manager| matches!(state.manager(manager), Manager::Fencing { .. });
        let late = |manager| fences(manager) && state.choice(manager).is_none();
        (0..instance.managers).any(late) && state.record.leader.is_some()
    }),
];

impl State {
    fn active_quorum(&self, number: u8) -> Option<u8> {
        let settings = self.node(number).core.view().settings.filter(|_| self.is_active(number))?;
        Some(settings.settings.write_quorum.0)
    }

    /// A leader has every write that was acknowledged in its own epoch and before, from when it is promoted: one that
    /// has not could never be active, and keep others from it.
    fn holds_what_was_acknowledged(&self, number: u8) -> bool {
        let core = &self.node(number).core;
        let View { role, epoch, .. } = core.view();
        if role != Role::Leader {
            return true;
        }
        self.acknowledged.iter().filter(|write| write.epoch <= epoch).all(|write| {
            let place = usize::try_from(write.seq.0).expect("small") - 1;
            core.log().epoch_at(write.seq) == self.committed.get(place).map(|(epoch, _)| *epoch)
        })
    }
}

//! One node: its replica and its role, and which input goes where.

use quorumkv_api::{
    Delay, Epoch, NodeId, Position, Seq, Settings,
    lab::Role,
    peer::{NodeState, PeerError, PromoteRequest, Refusal, SettingsEntry},
};

use crate::{
    Limits,
    follower::Follower,
    leader::{Leader, Verdict},
    log::Log,
    message::{
        Append, Effects, Entry, FollowerMessage, Hello, Input, Micros, ReplyBody, RequestId, SnapshotMeta,
        SnapshotSource, WriteOutcome,
    },
    planted::{Bug, planted},
    replica::{Identity, Recovered, Replica},
};

/// The whole state machine of one node.
///
/// A shell calls [`Node::step`] for each input that waits, then [`Node::flush`] once, then carries out the
/// effects in the order that [`Effects`] gives; and again. Batching comes from there being several inputs.
#[derive(Debug, Clone, Hash)]
pub struct Node {
    replica: Replica,
    follower: Follower,
    leader: Option<Leader>,
    stopping: bool,
}

/// What the shell shows to clients, cheap to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// What the node is.
    pub role: Role,
    /// The epoch it leads or follows; zero if none.
    pub epoch: Epoch,
    /// The leader's name, if known.
    pub leader: Option<NodeId>,
    /// Where clients reach the leader, if known.
    pub leader_url: Option<String>,
    /// Leader: active. Follower: has caught up.
    pub ready: bool,
    /// Leader: until when it may serve reads.
    pub lease_until: Option<Micros>,
    /// Last entry.
    pub last: Position,
    /// Last committed entry.
    pub commit: Seq,
    /// The settings known committed.
    pub settings: Option<SettingsEntry>,
    /// Writes that wait for an answer.
    pub pending_writes: usize,
}

impl Node {
    /// A node as its storage left it. It follows nobody yet and leads nothing: a restarted process never
    /// resumes leadership.
    #[must_use]
    pub fn new(identity: Identity, limits: Limits, recovered: Recovered, now: Micros) -> Self {
        let replica = Replica::new(identity, limits, recovered, now);
        Self { replica, follower: Follower::default(), leader: None, stopping: false }
    }

    /// Takes one input. Effects are complete only after [`Self::flush`].
    pub fn step(&mut self, now: Micros, input: Input, effects: &mut Effects) {
        match input {
            Input::Propose { write, operation, round_trips } => match &mut self.leader {
                None => effects.answers.push((write, WriteOutcome::NotLeader)),
                Some(_) if self.stopping => effects.answers.push((write, WriteOutcome::Stopping)),
                Some(leader) => leader.propose(&mut self.replica, now, write, operation, &round_trips, effects),
            },
            Input::ChangeSettings { request, patch } => match &mut self.leader {
                None => effects.replies.push((request, Err(self.not_leader()))),
                Some(leader) => leader.change_settings(&mut self.replica, now, request, patch, effects),
            },
            Input::Fence { request, epoch } => {
                let reply = self.fence(epoch, now, effects);
                effects.replies.push((request, reply));
            }
            Input::Promote { request, promote } => {
                let reply = self.promote(&promote, now, effects).map(|()| self.state_reply());
                effects.replies.push((request, reply));
            }
            Input::Members { request, members } => {
                let result = match &mut self.leader {
                    None => Err(self.not_leader()),
                    Some(leader) => leader.members(&mut self.replica, &members, effects),
                };
                effects.replies.push((request, result.map(|()| self.state_reply())));
            }
            Input::Replicate { request, leader, append } => {
                let reply = self.replicate(&leader, append).map(ReplyBody::Replicated);
                effects.replies.push((request, reply));
            }
            Input::Restore { request, meta, entries } => {
                let reply = self.restore(request, &meta, entries, effects);
                effects.replies.push((request, reply));
            }
            input => self.step_stream(now, input, effects),
        }
    }

    /// Inputs that come from streams, storage and time.
    fn step_stream(&mut self, now: Micros, input: Input, effects: &mut Effects) {
        match input {
            Input::StreamUp { peer, stream, epoch, welcome } => {
                if let Some(leader) = self.leader.as_mut().filter(|leader| leader.epoch == epoch) {
                    leader.stream_up(&self.replica, &peer, stream, &welcome);
                }
            }
            Input::FromFollower { peer, stream, message } => {
                if let Some(leader) = &mut self.leader
                    && leader.heed(&self.replica, &peer, stream, &message) == Verdict::StepDown
                {
                    self.step_down(effects);
                }
            }
            Input::StreamDown { peer, stream } => {
                if let Some(leader) = &mut self.leader {
                    leader.stream_down(&peer, stream);
                }
            }
            Input::Hello { stream, hello } => self.hello(stream, &hello, effects),
            Input::FromLeader { stream, message } => {
                self.follower.message(&mut self.replica, stream, message, now, effects);
            }
            Input::SnapshotReceived { stream, epoch, meta } => {
                self.follower.snapshot(&mut self.replica, stream, epoch, &meta, effects);
            }
            Input::LeaderStreamDown { stream } => self.follower.stream_down(stream),
            Input::Persisted(ticket) => self.replica.persisted(ticket),
            Input::Tick => {
                if let Some(leader) = &mut self.leader {
                    leader.tick(now, effects);
                }
            }
            Input::Stop => self.stopping = true,
            _ => unreachable!("requests were handled before"),
        }
    }

    /// Completes the effects of the inputs since the last flush.
    pub fn flush(&mut self, now: Micros, effects: &mut Effects) {
        self.replica.trim();
        if let Some(leader) = &mut self.leader {
            leader.flush(&mut self.replica, now, effects);
        }
        self.replica.flush(effects);
    }

    /// When to step [`Input::Tick`] and flush at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Micros> {
        self.leader.as_ref().map(Leader::next_deadline)
    }

    /// The log, from which the shell encodes and applies entries.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.replica.log
    }

    /// The outline and settings of the committed state.
    #[must_use]
    pub fn snapshot_meta(&self) -> SnapshotMeta {
        self.replica.snapshot_meta()
    }

    /// Whether a write was proposed here whose entry is at this place, and which is not answered yet.
    #[must_use]
    pub fn owes_answer(&self, seq: Seq) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.owes_answer(seq))
    }

    /// Followers of this leader; how many simulated round trips a write needs.
    #[must_use]
    pub fn follower_count(&self) -> usize {
        self.leader.as_ref().map_or(0, |leader| leader.peers.len())
    }

    /// The simulated delay that governs the next write.
    #[must_use]
    pub fn delay_in_force(&self) -> Delay {
        self.replica.log.settings_in_force().map_or(Delay::ZERO, |settings: Settings| settings.delay)
    }

    /// What clients may know.
    #[must_use]
    pub fn view(&self) -> View {
        let replica = &self.replica;
        let common = View {
            role: Role::Follower,
            epoch: self.follower.epoch,
            leader: None,
            leader_url: None,
            ready: self.follower.ready,
            lease_until: None,
            last: replica.log.last(),
            commit: replica.commit,
            settings: replica.log.committed_settings(),
            pending_writes: 0,
        };
        if let Some(leader) = &self.leader {
            let active = leader.is_active(replica);
            return View {
                role: Role::Leader,
                epoch: leader.epoch,
                leader: Some(replica.identity.node.clone()),
                leader_url: Some(replica.identity.client_url.clone()),
                ready: active && !self.stopping,
                lease_until: leader.lease_until(replica).filter(|_| active),
                pending_writes: leader.pending_writes(),
                ..common
            };
        }
        let followed = self.follower.followed.as_ref();
        View {
            leader: followed.map(|followed| followed.leader.clone()),
            leader_url: followed.and_then(|followed| followed.client_url.clone()),
            ..common
        }
    }

    /// What the manager may know.
    #[must_use]
    pub fn state(&self) -> NodeState {
        let View { role, epoch, leader, ready, last, commit, settings, .. } = self.view();
        let identity = &self.replica.identity;
        NodeState {
            node: identity.node.clone(),
            storage_id: identity.storage_id,
            process_id: identity.process_id,
            role,
            promised: self.replica.promised,
            epoch,
            leader,
            ready,
            last,
            commit,
            settings,
            followers: self.leader.as_ref().map(|leader| leader.peers.states()).unwrap_or_default(),
            configuration: Some(
                self.leader.as_ref().map(|leader| leader.configuration(&self.replica)).unwrap_or_default(),
            ),
        }
    }

    fn state_reply(&self) -> ReplyBody {
        ReplyBody::State(Box::new(self.state()))
    }

    fn not_leader(&self) -> PeerError {
        self.replica.refuse(Refusal::NotLeader, "only the leader does this")
    }

    fn step_down(&mut self, effects: &mut Effects) {
        if let Some(leader) = self.leader.take() {
            leader.give_up(&self.replica, effects);
            // Its log is at least that of every follower, so it was caught up by definition.
            self.follower.ready = true;
        }
    }

    fn fence(&mut self, epoch: Epoch, now: Micros, effects: &mut Effects) -> Result<ReplyBody, PeerError> {
        let previous = self.replica.promised;
        let led_or_followed = self.leader.as_ref().map(|leader| leader.epoch).max(Some(self.follower.epoch));
        if epoch < previous || epoch == Epoch(0) {
            return Err(self.replica.refuse_stale(epoch));
        }
        if led_or_followed == Some(epoch) {
            let text = format!("epoch {epoch} has a leader already; fence with a higher one");
            return Err(self.replica.refuse(Refusal::StaleEpoch, text));
        }
        self.replica.promise(epoch);
        self.step_down(effects);
        Ok(ReplyBody::Fenced(self.replica.fence_reply(previous, now)))
    }

    fn promote(&mut self, promote: &PromoteRequest, now: Micros, effects: &mut Effects) -> Result<(), PeerError> {
        let PromoteRequest {
            epoch,
            storage_id,
            process_id,
            peers,
            members,
            lease_wait_ms: _,
            bootstrap,
            configuration: _,
        } = promote;
        let replica = &self.replica;
        let identity = &replica.identity;
        if self.leader.as_ref().is_some_and(|leader| leader.epoch == *epoch) {
            return Ok(());
        }
        let unpromised = *epoch > replica.promised && !planted(Bug::PromoteChangedNode);
        if *epoch < replica.promised || unpromised {
            return Err(replica.refuse_stale(*epoch));
        }
        if *storage_id != identity.storage_id && !planted(Bug::PromoteChangedNode) {
            let text = format!("this node holds copy {}, not {storage_id}", identity.storage_id);
            return Err(replica.refuse(Refusal::OtherStorage, text));
        }
        if *process_id != identity.process_id && !planted(Bug::PromoteChangedNode) {
            let text = format!("this is process {}, not {process_id}: it started since", identity.process_id);
            return Err(replica.refuse(Refusal::OtherProcess, text));
        }
        if self.follower.epoch == *epoch {
            return Err(replica.refuse(Refusal::OtherLeader, format!("epoch {epoch} has another leader")));
        }
        let followers = peers.iter().filter(|peer| peer.node != identity.node).count();
        let named = peers.iter().any(|peer| peer.node == identity.node);
        let recorded = members.iter().any(|member| member.name == identity.node && member.storage_id == *storage_id);
        if !named || !recorded || followers == 0 || followers > usize::from(crate::MAX_FOLLOWERS) {
            let text = "the node must be among peers and members, with 1 to 64 other nodes";
            return Err(replica.refuse(Refusal::Invalid, text));
        }
        match bootstrap {
            Some(settings) => {
                settings.validate(followers).map_err(|invalid| replica.refuse(Refusal::Invalid, invalid.to_string()))?
            }
            None if replica.log.settings().is_empty() => {
                return Err(replica.refuse(Refusal::Invalid, "an empty store needs bootstrap settings"));
            }
            None => {}
        }
        let leader = Leader::new(&self.replica, promote, now);
        effects.leading = Some(leader.streams(&self.replica));
        self.leader = Some(leader);
        Ok(())
    }

    fn hello(&mut self, stream: crate::message::StreamId, hello: &Hello, effects: &mut Effects) {
        if let Some(leader) = &self.leader {
            if hello.epoch <= leader.epoch {
                let promised = self.replica.promised;
                effects.to_leader.push((stream, FollowerMessage::Rejected { promised }));
                effects.close.push(stream);
                return;
            }
            self.step_down(effects);
        }
        self.follower.hello(&mut self.replica, stream, hello, effects);
    }

    fn replicate(&mut self, leader: &NodeId, append: Append) -> Result<Seq, PeerError> {
        // Whatever its epoch: whoever may end a leadership fences or opens a stream, on the peer port.
        if self.leader.is_some() {
            return Err(self.replica.refuse(Refusal::NotLeader, "Only followers accept replication"));
        }
        self.follower.accept(&mut self.replica, append.epoch, leader, None)?;
        self.follower.append(&mut self.replica, append)
    }

    fn restore(
        &mut self,
        request: RequestId,
        meta: &SnapshotMeta,
        entries: Vec<Entry>,
        effects: &mut Effects,
    ) -> Result<ReplyBody, PeerError> {
        let refuse = |text: &str| Err(self.replica.refuse(Refusal::Invalid, text));
        if self.leader.is_some() || self.follower.stream.is_some() {
            return refuse("a node that leads or follows takes no other copy");
        }
        if meta.outline.last < self.replica.commit {
            return refuse("the other copy is behind this one");
        }
        let mut place = Position {
            epoch: meta.outline.starts.last().map_or(Epoch(0), |start| start.epoch),
            seq: meta.outline.last,
        };
        for entry in &entries {
            if entry.seq != place.seq.next() || entry.epoch < place.epoch {
                return refuse("the entries of the other copy do not follow its snapshot");
            }
            place = entry.position();
        }
        self.replica.install(meta);
        effects.install = Some(SnapshotSource::Request(request));
        for entry in entries {
            self.replica.log.append(entry);
        }
        Ok(ReplyBody::Restored)
    }
}

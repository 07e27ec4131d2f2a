//! The leader's side: order writes, stream them, count acknowledgements, answer.

use std::{collections::VecDeque, time::Duration};

use quorumkv_api::{
    Epoch, NodeId, Seq, Settings, SettingsPatch,
    peer::{
        Configuration, ConfigurationState, MembersRequest, NodeChange, PeerError, PromoteRequest, Refusal,
        SettingsReply,
    },
};

use crate::{
    COMMIT_NOTICE, HEARTBEAT_INTERVAL, LEASE, LEASE_MARGIN, MAX_FOLLOWERS,
    delay::DelayGate,
    message::{
        Effects, Entry, FollowerMessage, Hello, Leading, Micros, Operation, ReplyBody, RequestId, StreamId, ToFollower,
        Welcome, WriteId, WriteOutcome,
    },
    peers::Peers,
    planted::{Bug, planted},
    quorum,
    replica::Replica,
};

/// A write that is answered as soon as it is committed.
#[derive(Debug, Clone, Hash)]
struct PendingWrite {
    seq: Seq,
    write: WriteId,
    appended: Micros,
    deadline: Micros,
}

#[derive(Debug, Clone, Hash)]
struct PendingSettings {
    request: RequestId,
    seq: Seq,
    settings: Settings,
    deadline: Micros,
}

/// Whether this leader must give up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Lead,
    StepDown,
}

#[derive(Debug, Clone, Hash)]
pub(crate) struct Leader {
    pub(crate) epoch: Epoch,
    pub(crate) peers: Peers,
    /// Which set of nodes that is.
    configuration: Configuration,
    /// Once committed, all that the leaving peer may have been counted for lies on the others.
    cover: Option<Seq>,
    /// Until when an earlier leader may still serve reads.
    wait_until: Micros,
    bootstrap: Option<Settings>,
    /// First and last of the entries with which the epoch begins, once appended.
    opening: Option<(Seq, Seq)>,
    writes: VecDeque<PendingWrite>,
    delayed: DelayGate,
    settings_change: Option<PendingSettings>,
    /// No pending write is due before this.
    first_deadline: Option<Micros>,
    next_heartbeat: Micros,
    commit_notice: Option<Micros>,
}

impl Leader {
    pub(crate) fn new(replica: &Replica, promote: &PromoteRequest, now: Micros) -> Self {
        let own = &replica.identity.node;
        let mut peers = Peers::new(own, &promote.peers, &promote.members);
        // Where a quorum of the log needs the leaving node it still counts, and nothing is covered.
        if let Some(leaving) = leaving(&promote.configuration, own)
            && replica.log.largest_quorum().is_some_and(|quorum| usize::from(quorum.0) < peers.len())
        {
            peers.set_leaving(Some(leaving));
        }
        Self {
            epoch: promote.epoch,
            peers,
            configuration: promote.configuration.clone(),
            cover: None,
            wait_until: now.after(Duration::from_millis(promote.lease_wait_ms)),
            bootstrap: promote.bootstrap,
            opening: None,
            writes: VecDeque::new(),
            delayed: DelayGate::default(),
            settings_change: None,
            first_deadline: None,
            next_heartbeat: now,
            commit_notice: None,
        }
    }

    pub(crate) fn streams(&self, replica: &Replica) -> Leading {
        let hello = Hello {
            epoch: self.epoch,
            leader: replica.identity.node.clone(),
            client_url: replica.identity.client_url.clone(),
        };
        Leading::Streams { hello, peers: self.peers.addresses() }
    }

    /// Whether the epoch's opening entries are committed, so that clients may be served.
    pub(crate) fn is_active(&self, replica: &Replica) -> bool {
        self.opening.is_some_and(|(_, last)| replica.commit >= last || planted(Bug::ServeBeforeBarrier))
    }

    /// Until when reads are leased: as many followers as the largest quorum in force or uncommitted answered
    /// a heartbeat made a lease ago or later, so no recovery can have happened without one of them.
    pub(crate) fn lease_until(&self, replica: &Replica) -> Option<Micros> {
        if planted(Bug::IgnoreLease) {
            return Some(Micros(u64::MAX));
        }
        let mut quorum = replica.log.largest_quorum()?;
        if planted(Bug::LeaseOnSmallerQuorum) {
            quorum = replica.log.settings().iter().map(|entry| entry.settings.write_quorum).min()?;
        }
        let heartbeat = self.peers.heartbeat_answered_by(usize::from(quorum.0))?;
        Some(heartbeat.after(LEASE - LEASE_MARGIN))
    }

    pub(crate) fn pending_writes(&self) -> usize {
        self.writes.len() + self.delayed.len()
    }

    /// Whether the write at this place is not answered yet.
    pub(crate) fn owes_answer(&self, seq: Seq) -> bool {
        self.writes.binary_search_by_key(&seq, |write| write.seq).is_ok() || self.delayed.holds(seq)
    }

    pub(crate) fn propose(
        &mut self,
        replica: &mut Replica,
        now: Micros,
        write: WriteId,
        operation: Operation,
        round_trips: &[Duration],
        effects: &mut Effects,
    ) {
        let settings = replica.log.settings_in_force().filter(|_| self.is_active(replica));
        let Some(settings) = settings else {
            effects.answers.push((write, WriteOutcome::NotActive));
            return;
        };
        let seq = self.append(replica, operation);
        let deadline = now.after(settings.write_timeout);
        self.note_deadline(deadline);
        if round_trips.is_empty() {
            self.writes.push_back(PendingWrite { seq, write, appended: now, deadline });
        } else {
            let round_trips = self.peers.numbers().zip(round_trips.iter().copied());
            self.delayed.add(seq, write, settings.write_quorum.0, now, deadline, round_trips);
        }
    }

    pub(crate) fn change_settings(
        &mut self,
        replica: &mut Replica,
        now: Micros,
        request: RequestId,
        patch: SettingsPatch,
        effects: &mut Effects,
    ) {
        let change = match self.check_settings(replica, patch) {
            Ok(change) => change,
            Err(refusal) => {
                effects.replies.push((request, Err(refusal)));
                return;
            }
        };
        let Some(settings) = change else {
            let reply = replica
                .log
                .committed_settings()
                .map(|entry| SettingsReply { settings: entry.settings, version: entry.position.seq })
                .map(ReplyBody::Settings)
                .ok_or_else(|| replica.refuse(Refusal::NotNow, "no settings are committed yet"));
            effects.replies.push((request, reply));
            return;
        };
        let seq = self.append(replica, Operation::Settings(settings));
        let deadline = now.after(settings.write_timeout);
        self.note_deadline(deadline);
        self.settings_change = Some(PendingSettings { request, seq, settings, deadline });
    }

    /// The settings to append, none if they are in force already, or why not.
    fn check_settings(&self, replica: &Replica, patch: SettingsPatch) -> Result<Option<Settings>, PeerError> {
        let not_now = |text: String| replica.refuse(Refusal::NotNow, text);
        let current = replica.log.committed_settings().filter(|_| self.is_active(replica));
        let Some(current) = current else {
            return Err(not_now("the leader is not active yet".to_owned()));
        };
        let settings = patch.over(current.settings);
        let followers = self.peers.len() - usize::from(self.configuration.change.is_some());
        settings.validate(followers).map_err(|invalid| replica.refuse(Refusal::Invalid, invalid.to_string()))?;
        if replica.log.settings().len() > 1 {
            return Err(not_now("an earlier change of settings is not committed yet".to_owned()));
        }
        if settings == current.settings {
            return Ok(None);
        }
        let (quorum, connected) = (settings.write_quorum, self.peers.connected_counted());
        if quorum > current.settings.write_quorum && usize::from(quorum.0) > connected {
            return Err(not_now(format!(
                "raising writeQuorum to {quorum} needs that many connected followers that count, there are {connected}"
            )));
        }
        Ok(Some(settings))
    }

    /// What became of the set of nodes that this leader was last told.
    pub(crate) fn configuration(&self, replica: &Replica) -> ConfigurationState {
        let own = &replica.identity.node;
        let leaves = self.configuration.change == Some(NodeChange::Leaving(own.clone()));
        let covered = self.cover.is_some_and(|cover| replica.commit >= cover)
            || leaves && self.is_active(replica) && planted(Bug::CoveredByLeaver);
        ConfigurationState { number: self.configuration.number, covered }
    }

    pub(crate) fn members(
        &mut self,
        replica: &mut Replica,
        members: &MembersRequest,
        effects: &mut Effects,
    ) -> Result<(), PeerError> {
        if members.epoch != self.epoch {
            let text = format!("this node leads epoch {}, not {}", self.epoch, members.epoch);
            return Err(replica.refuse(Refusal::StaleEpoch, text));
        }
        self.check_nodes(replica, members)?;
        let (gone, changed) = self.peers.assign(&replica.identity.node, &members.peers);
        for number in gone {
            self.delayed.forget(number);
        }
        self.peers.record(&members.members);
        self.configuration = members.configuration.clone();
        self.set_leaving(replica);
        // What a copy acknowledged before it counted, it will not acknowledge again.
        for (follower, match_seq) in self.peers.counted_matches() {
            self.delayed.acknowledge(follower, Seq(0), match_seq);
        }
        if changed {
            effects.leading = Some(self.streams(replica));
        }
        Ok(())
    }

    /// Whether these may be the nodes from now on.
    fn check_nodes(&self, replica: &Replica, members: &MembersRequest) -> Result<(), PeerError> {
        let MembersRequest { peers, configuration, .. } = members;
        let own = &replica.identity.node;
        let (known, told) = (self.configuration.number, configuration.number);
        if told < known && !planted(Bug::IgnoreConfigurationNumber) {
            let text = format!("the set of nodes number {told} is out of date, this leader has heard of {known}");
            return Err(replica.refuse(Refusal::StaleConfiguration, text));
        }
        let same = self.peers.are_named_by(own, peers) && *configuration == self.configuration;
        if told == known && !same {
            let text = "the set of nodes changes only under a higher number";
            return Err(replica.refuse(Refusal::Invalid, text));
        }
        let followers = peers.iter().filter(|peer| peer.node != *own).count();
        if followers == peers.len() || followers == 0 || followers > usize::from(MAX_FOLLOWERS) {
            let text = "the leader must be among peers, with 1 to 64 other nodes";
            return Err(replica.refuse(Refusal::Invalid, text));
        }
        let quorum = replica.log.largest_quorum().map_or(0, |quorum| quorum.0);
        if let Some(leaving) = leaving(configuration, own)
            && followers <= usize::from(quorum)
        {
            let text = format!("without {leaving} {} followers are left, and writeQuorum is {quorum}", followers - 1);
            return Err(replica.refuse(Refusal::NotNow, text));
        }
        Ok(())
    }

    /// Stops counting the node that leaves, if one does, and lets an entry show when the others hold all.
    fn set_leaving(&mut self, replica: &mut Replica) {
        let leaving = leaving(&self.configuration, &replica.identity.node).cloned();
        if self.peers.leaving() == leaving.as_ref() {
            return;
        }
        self.peers.set_leaving(leaving.as_ref());
        self.cover = None;
        if leaving.is_some() {
            self.delayed.cap(self.peers.len() - 1);
            // Otherwise the epoch's first entry shows it.
            if self.opening.is_some() {
                self.cover = Some(self.append(replica, Operation::Barrier));
            }
        }
    }

    pub(crate) fn stream_up(&mut self, replica: &Replica, node: &NodeId, stream: StreamId, welcome: &Welcome) {
        let last = replica.log.last_seq();
        let Some((_, peer)) = self.peers.named(node) else { return };
        peer.disconnect();
        peer.stream = Some(stream);
        peer.present(welcome.storage_id, last);
        peer.next = replica.log.common(&welcome.outline).next();
        if planted(Bug::SkipPreviousCheck) {
            peer.next = welcome.outline.last.min(last).next();
        }
        peer.told_commit = Seq(0);
        // The follower's own word for its log does not count: the next message asks it to acknowledge.
        self.next_heartbeat = Micros(0);
    }

    pub(crate) fn stream_down(&mut self, node: &NodeId, stream: StreamId) {
        if let Some((_, peer)) = self.peers.on_stream(node, stream) {
            peer.disconnect();
        }
    }

    pub(crate) fn heed(
        &mut self,
        replica: &Replica,
        node: &NodeId,
        stream: StreamId,
        message: &FollowerMessage,
    ) -> Verdict {
        match message {
            FollowerMessage::Rejected { promised } => {
                return if *promised > self.epoch { Verdict::StepDown } else { Verdict::Lead };
            }

            FollowerMessage::Ack { epoch, match_seq, heartbeat } if *epoch == self.epoch => {
                let Some((number, peer)) = self.peers.on_stream(node, stream) else { return Verdict::Lead };
                // A follower cannot hold more than the leader ever appended; do not let it count as more.
                let match_seq = (*match_seq).min(replica.log.last_seq());
                let before = peer.acknowledge(match_seq, *heartbeat);
                if peer.counted().is_some() {
                    self.delayed.acknowledge(number, before, match_seq);
                }
            }
            FollowerMessage::Mismatch { epoch, outline } if *epoch == self.epoch => {
                if let Some((_, peer)) = self.peers.on_stream(node, stream) {
                    peer.next = replica.log.common(outline).next();
                    peer.in_flight.clear();
                }
            }
            // Of another epoch; or a welcome, which comes as an input of its own.
            FollowerMessage::Ack { .. } | FollowerMessage::Mismatch { .. } | FollowerMessage::Welcome(_) => {}
        }
        Verdict::Lead
    }

    pub(crate) fn tick(&mut self, now: Micros, effects: &mut Effects) {
        let peers = &self.peers;
        self.delayed.pass_time(now, |follower| peers.acknowledged_by(follower));
        if self.first_deadline.is_some_and(|deadline| deadline <= now) {
            self.expire(now, effects);
        }
    }

    pub(crate) fn next_deadline(&self) -> Micros {
        let opening = self.opening.is_none().then_some(self.wait_until);
        [opening, self.first_deadline, self.commit_notice, self.delayed.next_deadline()]
            .into_iter()
            .flatten()
            .fold(self.next_heartbeat, Micros::min)
    }

    /// Carries on after a batch of inputs: open the epoch, commit, answer, send.
    pub(crate) fn flush(&mut self, replica: &mut Replica, now: Micros, effects: &mut Effects) {
        if self.opening.is_none() && now >= self.wait_until {
            self.open(replica);
        }
        self.advance_commit(replica, now);
        self.answer(replica, effects);
        self.send(replica, now, effects);
    }

    /// Fails everything under way: the writes may still commit under the next leader.
    pub(crate) fn give_up(mut self, replica: &Replica, effects: &mut Effects) {
        let delayed = self.delayed.take_all().into_iter().map(|write| write.write);
        for write in self.writes.drain(..).map(|write| write.write).chain(delayed) {
            effects.answers.push((write, WriteOutcome::LeadershipLost));
        }
        if let Some(change) = self.settings_change {
            let text = "leadership was lost; whether the settings were changed is unknown";
            effects.replies.push((change.request, Err(replica.refuse(Refusal::LeadershipLost, text))));
        }
        effects.leading = Some(Leading::Stop);
    }

    fn append(&mut self, replica: &mut Replica, operation: Operation) -> Seq {
        let seq = replica.log.last_seq().next();
        replica.log.append(Entry { epoch: self.epoch, seq, operation });
        seq
    }

    fn open(&mut self, replica: &mut Replica) {
        let first = self.append(replica, Operation::Barrier);
        let mut last = first;
        if let Some(settings) = self.bootstrap.take().filter(|_| replica.log.settings().is_empty()) {
            last = self.append(replica, Operation::Settings(settings));
        }
        self.opening = Some((first, last));
        self.cover = self.peers.leaving().map(|_| first);
    }

    fn advance_commit(&mut self, replica: &mut Replica, now: Micros) {
        let Some((first, _)) = self.opening else { return };
        let settings = replica.log.settings();
        let commit = quorum::committed(self.peers.acknowledged(), settings, replica.commit, replica.durable);
        // An entry of an earlier epoch is safe only under one of this epoch (Raft, section 5.4.2).
        if (commit >= first || planted(Bug::CommitOldEpoch)) && commit > replica.commit {
            replica.set_commit(commit);
            self.commit_notice.get_or_insert(now.after(COMMIT_NOTICE));
        }
    }

    fn answer(&mut self, replica: &Replica, effects: &mut Effects) {
        let commit = replica.commit;
        while let Some(write) = self.writes.pop_front_if(|write| write.seq <= commit) {
            let PendingWrite { seq, write, appended, .. } = write;
            let replicas = self.peers.holders(seq);
            effects.answers.push((write, WriteOutcome::Committed { version: seq, replicas, appended }));
        }
        while let Some((seq, write)) = self.delayed.pop_answered(commit) {
            let replicas = write.replicas();
            let outcome = WriteOutcome::Committed { version: seq, replicas, appended: write.appended };
            effects.answers.push((write.write, outcome));
        }
        if let Some(change) = self.settings_change.take_if(|change| change.seq <= commit) {
            let reply = SettingsReply { settings: change.settings, version: change.seq };
            effects.replies.push((change.request, Ok(ReplyBody::Settings(reply))));
        }
    }

    fn send(&mut self, replica: &Replica, now: Micros, effects: &mut Effects) {
        let (epoch, commit) = (self.epoch, replica.commit);
        let heartbeat_due = now >= self.next_heartbeat;
        let notice_due = self.commit_notice.is_some_and(|due| now >= due);
        for peer in self.peers.iter_mut() {
            let Some(stream) = peer.stream else { continue };
            let node = &peer.address.node;
            let mut send = |message| effects.to_followers.push((node.clone(), stream, message));
            while peer.next <= replica.log.last_seq() && peer.in_flight.len() < replica.limits.max_in_flight {
                if peer.next <= replica.log.base() {
                    let meta = replica.snapshot_meta();
                    peer.next = meta.outline.last.next();
                    peer.in_flight.push_back(meta.outline.last);
                    send(ToFollower::Snapshot { epoch, meta });
                    continue;
                }
                let last = last_of_batch(replica, peer.next);
                let prev = replica.log.position_at(peer.next.prev()).expect("next is at most one past the end");
                send(ToFollower::Append { epoch, prev, commit, entries: peer.next..=last });
                peer.next = last.next();
                peer.in_flight.push_back(last);
                peer.told_commit = commit;
            }
            // A stream that came up with a complete log has nothing to acknowledge but this.
            let unheard = peer.told_commit == Seq(0);
            if (unheard || notice_due) && peer.told_commit < commit && peer.next > replica.log.base() {
                let prev = replica.log.position_at(peer.next.prev()).expect("next is at most one past the end");
                send(ToFollower::Append { epoch, prev, commit, entries: peer.next..=peer.next.prev() });
                peer.told_commit = commit;
            }
            if heartbeat_due {
                send(ToFollower::Heartbeat { epoch, commit, sent: now });
            }
        }
        if heartbeat_due {
            self.next_heartbeat = now.after(HEARTBEAT_INTERVAL);
        }
        if notice_due || self.peers.iter().all(|peer| peer.stream.is_none() || peer.told_commit == commit) {
            self.commit_notice = None;
        }
    }

    fn note_deadline(&mut self, deadline: Micros) {
        self.first_deadline = Some(self.first_deadline.map_or(deadline, |first| first.min(deadline)));
    }

    fn expire(&mut self, now: Micros, effects: &mut Effects) {
        let peers = &self.peers;
        self.writes.retain(|write| {
            let expired = write.deadline <= now;
            if expired {
                let replicas = peers.holders(write.seq);
                effects.answers.push((write.write, WriteOutcome::QuorumNotReached { replicas }));
            }
            !expired
        });
        for write in self.delayed.take_expired(now) {
            let replicas = write.replicas();
            effects.answers.push((write.write, WriteOutcome::QuorumNotReached { replicas }));
        }
        if let Some(change) = self.settings_change.take_if(|change| change.deadline <= now) {
            let refusal = PeerError {
                error: "too few followers confirmed the new settings in time; they may still come into force"
                    .to_owned(),
                reason: Refusal::QuorumNotReached,
                promised: self.epoch,
            };
            effects.replies.push((change.request, Err(refusal)));
        }
        let settings = self.settings_change.as_ref().map(|change| change.deadline);
        let writes = self.writes.iter().map(|write| write.deadline).min();
        self.first_deadline = [settings, writes, self.delayed.first_write_deadline()].into_iter().flatten().min();
    }
}

/// The other node that leaves, if one does.
fn leaving<'a>(configuration: &'a Configuration, own: &NodeId) -> Option<&'a NodeId> {
    match &configuration.change {
        Some(NodeChange::Leaving(node)) if node != own => Some(node),
        _ => None,
    }
}

/// Last entry of a message that starts at `first`: at least one entry, no more bytes than allowed.
fn last_of_batch(replica: &Replica, first: Seq) -> Seq {
    let mut weight = 0;
    let mut last = first;
    for entry in replica.log.entries(first..=replica.log.last_seq()) {
        weight += entry.weight();
        if weight > replica.limits.max_message_bytes && entry.seq > first {
            break;
        }
        last = entry.seq;
    }
    last
}

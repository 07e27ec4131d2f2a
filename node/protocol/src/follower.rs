//! The follower's side: accept what a leader of a promised epoch sends, and say how far the logs agree.

use quorumkv_api::{
    Epoch, NodeId, Seq,
    peer::{PeerError, Refusal},
};

use crate::{
    message::{
        Append, Effects, FollowerMessage, Hello, LeaderMessage, Micros, SnapshotMeta, SnapshotSource, StreamId, Welcome,
    },
    planted::{Bug, planted},
    replica::Replica,
};

/// Who is followed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Followed {
    pub(crate) leader: NodeId,
    /// Unknown while only single requests came from it.
    pub(crate) client_url: Option<String>,
}

#[derive(Debug, Clone, Default, Hash)]
pub(crate) struct Follower {
    /// The epoch whose leader is followed; zero if none was heard of.
    pub(crate) epoch: Epoch,
    pub(crate) followed: Option<Followed>,
    pub(crate) stream: Option<StreamId>,
    /// Last entry up to which this log is that of the followed leader.
    match_seq: Seq,
    /// What has to be committed for this node to have caught up.
    catch_up_to: Option<Seq>,
    pub(crate) ready: bool,
}

impl Follower {
    /// Follows the leader of an epoch, if that is allowed: its epoch is not below the promise, and no other
    /// leader was accepted in it.
    pub(crate) fn accept(
        &mut self,
        replica: &mut Replica,
        epoch: Epoch,
        leader: &NodeId,
        client_url: Option<&str>,
    ) -> Result<(), PeerError> {
        if epoch < replica.promised || epoch == Epoch(0) {
            return Err(replica.refuse_stale(epoch));
        }
        let same_epoch = self.epoch == epoch;
        if same_epoch && self.followed.as_ref().is_some_and(|followed| followed.leader != *leader) {
            return Err(replica.refuse(Refusal::OtherLeader, format!("epoch {epoch} has another leader than {leader}")));
        }
        if !planted(Bug::AcceptWithoutPromise) {
            replica.promise(epoch);
        }
        if !same_epoch {
            if planted(Bug::TruncateBelowCommit) {
                replica.truncate(Seq(replica.commit.0.saturating_sub(2)).max(replica.log.base()));
            }
            self.match_seq = Seq(0);
            self.stream = None;
        }
        self.epoch = epoch;
        let known_url = self.followed.take().filter(|_| same_epoch).and_then(|followed| followed.client_url);
        let client_url = client_url.map(str::to_owned).or(known_url);
        self.followed = Some(Followed { leader: leader.clone(), client_url });
        Ok(())
    }

    pub(crate) fn hello(&mut self, replica: &mut Replica, stream: StreamId, hello: &Hello, effects: &mut Effects) {
        if let Err(refusal) = self.accept(replica, hello.epoch, &hello.leader, Some(&hello.client_url)) {
            effects.to_leader.push((stream, FollowerMessage::Rejected { promised: refusal.promised }));
            effects.close.push(stream);
            return;
        }
        if let Some(earlier) = self.stream.replace(stream) {
            effects.close.push(earlier);
        }
        self.catch_up_to = None;
        let welcome = Welcome {
            storage_id: replica.identity.storage_id,
            process_id: replica.identity.process_id,
            outline: replica.log.outline(),
            commit: replica.commit,
        };
        effects.to_leader.push((stream, FollowerMessage::Welcome(welcome)));
    }

    pub(crate) fn message(
        &mut self,
        replica: &mut Replica,
        stream: StreamId,
        message: LeaderMessage,
        now: Micros,
        effects: &mut Effects,
    ) {
        let (LeaderMessage::Append(Append { epoch, .. }) | LeaderMessage::Heartbeat { epoch, .. }) = &message;
        if !self.is_current(replica, stream, *epoch, effects) {
            return;
        }
        let answer = match message {
            LeaderMessage::Append(append) => {
                let leader_commit = append.commit;
                match self.append(replica, append) {
                    Ok(match_seq) => {
                        self.note_leader_commit(replica, leader_commit);
                        FollowerMessage::Ack { epoch: self.epoch, match_seq, heartbeat: None }
                    }
                    Err(_) => FollowerMessage::Mismatch { epoch: self.epoch, outline: replica.log.outline() },
                }
            }
            LeaderMessage::Heartbeat { commit, sent, .. } => {
                replica.grant_lease(now);
                self.learn_commit(replica, commit);
                self.note_leader_commit(replica, commit);
                FollowerMessage::Ack { epoch: self.epoch, match_seq: self.match_seq, heartbeat: Some(sent) }
            }
        };
        match (answer, effects.to_leader.last_mut()) {
            // Acknowledgements are cumulative: one says what all of a batch would.
            (
                FollowerMessage::Ack { epoch, match_seq, heartbeat },
                Some((to, FollowerMessage::Ack { epoch: told, match_seq: up_to, heartbeat: latest })),
            ) if *to == stream && *told == epoch => {
                *up_to = match_seq.max(*up_to);
                *latest = heartbeat.max(*latest);
            }
            (answer, _) => effects.to_leader.push((stream, answer)),
        }
    }

    /// Appends what a leader sent, after [`Self::accept`]. Returns how far the logs agree now.
    pub(crate) fn append(&mut self, replica: &mut Replica, append: Append) -> Result<Seq, PeerError> {
        let Append { epoch, prev, commit, entries } = append;
        let mut place = prev;
        for entry in &entries {
            if entry.seq != place.seq.next() || entry.epoch < place.epoch || entry.epoch > epoch {
                let text = format!("entry {} does not follow {place} in epoch {epoch}", entry.position());
                return Err(replica.refuse(Refusal::Invalid, text));
            }
            place = entry.position();
        }
        let mismatch = |replica: &Replica| {
            let text = format!("this log does not hold entry {prev}; it ends at {}", replica.log.last());
            Err(replica.refuse(Refusal::LogMismatch, text))
        };
        let held = replica.log.epoch_at(prev.seq);
        if held != Some(prev.epoch) && !(planted(Bug::SkipPreviousCheck) && held.is_some()) {
            return mismatch(replica);
        }
        for entry in entries {
            match replica.log.epoch_at(entry.seq) {
                Some(held) if held == entry.epoch => continue,
                Some(_) if entry.seq <= replica.commit => return mismatch(replica),
                Some(_) => replica.truncate(entry.seq.prev()),
                None => {}
            }
            replica.log.append(entry);
        }
        self.match_seq = self.match_seq.max(place.seq);
        self.learn_commit(replica, commit);
        Ok(self.match_seq)
    }

    pub(crate) fn snapshot(
        &mut self,
        replica: &mut Replica,
        stream: StreamId,
        epoch: Epoch,
        meta: &SnapshotMeta,
        effects: &mut Effects,
    ) {
        if !self.is_current(replica, stream, epoch, effects) {
            return;
        }
        if meta.outline.last > replica.commit {
            replica.install(meta);
            effects.install = Some(SnapshotSource::Stream(stream));
            self.match_seq = self.match_seq.max(meta.outline.last);
        }
        effects.to_leader.push((stream, FollowerMessage::Ack { epoch, match_seq: self.match_seq, heartbeat: None }));
    }

    pub(crate) fn stream_down(&mut self, stream: StreamId) {
        if self.stream == Some(stream) {
            self.stream = None;
        }
    }

    /// Whether a message may be taken; answers and closes the stream where it may not.
    fn is_current(&mut self, replica: &Replica, stream: StreamId, epoch: Epoch, effects: &mut Effects) -> bool {
        if epoch < replica.promised {
            effects.to_leader.push((stream, FollowerMessage::Rejected { promised: replica.promised }));
            effects.close.push(stream);
            self.stream_down(stream);
            return false;
        }
        // A message of a replaced stream, or of an epoch that was never greeted.
        self.stream == Some(stream) && self.epoch == epoch
    }

    /// Commit never goes beyond what is known to agree with this leader.
    fn learn_commit(&mut self, replica: &mut Replica, leader_commit: Seq) {
        let commit = leader_commit.min(self.match_seq);
        if commit > replica.commit {
            replica.set_commit(commit);
        }
    }

    /// A follower has caught up when it committed what the leader had committed as the stream came up.
    fn note_leader_commit(&mut self, replica: &Replica, leader_commit: Seq) {
        let target = *self.catch_up_to.get_or_insert(leader_commit);
        if replica.commit >= target {
            self.ready = true;
        }
    }
}

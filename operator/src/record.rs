//! What the manager must remember to never lose a write, and the one way to change it.
//!
//! On Kubernetes the record is part of `KvCluster.status` and its version is the object's resourceVersion;
//! `local` keeps it in memory, or in a file where the data is on disk too. Everything that changes leadership or membership goes through
//! [`Platform::replace`], which refuses when the record has changed since it was read.

use std::future::Future;

use quorumkv_api::{
    Epoch, NodeId, Seq, StorageId, WriteQuorum,
    peer::{Member, NodeChange},
};
use quorumkv_protocol::{
    election,
    membership::{KnownQuorum, Membership},
};

use crate::{
    crd::{ConfigurationStatus, KvClusterStatus, MemberRole, MemberStatus, RecordedCopy},
    validate::MOST_NODES,
};

/// The memory of one store's manager.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// Number of the latest election.
    pub epoch: Epoch,
    /// The node named leader of `epoch`; none while it is being elected.
    pub leader: Option<NodeId>,
    /// The copy last named leader, of this epoch or an earlier one.
    pub last_leader: Option<Member>,
    /// The copies that count.
    pub members: Vec<Member>,
    /// How many nodes the store has, and which change of that is under way; no nodes before the first election.
    pub membership: Membership,
}

/// A status that does not hold a readable record. Guessing could lose writes, so the manager stops instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableRecord {
    /// The epoch is negative.
    #[error("status.epoch {0} is negative")]
    Epoch(i64),
    /// A storage id is no UUID.
    #[error("storageId {text:?} of {node} in status is no UUID")]
    StorageId {
        /// Whose copy.
        node: String,
        /// What stands there.
        text: String,
    },
    /// A number of the configuration is out of range, or two nodes change at once.
    #[error("status.configuration {0:?} makes no sense")]
    Configuration(Box<ConfigurationStatus>),
}

impl Record {
    /// Reads the record out of a status.
    ///
    /// # Errors
    /// See [`UnreadableRecord`].
    pub fn from_status(status: Option<&KvClusterStatus>) -> Result<Self, UnreadableRecord> {
        let Some(status) = status else { return Ok(Self::default()) };
        let copy = |node: &str, text: &str| match text.parse() {
            Ok(id) => Ok(Member { name: node.into(), storage_id: StorageId(id) }),
            Err(_) => Err(UnreadableRecord::StorageId { node: node.to_owned(), text: text.to_owned() }),
        };
        let epoch = status.epoch.unwrap_or(0);
        Ok(Self {
            epoch: Epoch(u64::try_from(epoch).map_err(|_| UnreadableRecord::Epoch(epoch))?),
            leader: status.leader.as_deref().map(NodeId::from),
            last_leader: status.last_leader.as_ref().map(|last| copy(&last.name, &last.storage_id)).transpose()?,
            members: status.members.iter().map(|one| copy(&one.name, &one.storage_id)).collect::<Result<_, _>>()?,
            membership: membership_in(status)?,
        })
    }

    /// The set of nodes as it stands in a status; none before the first election.
    #[must_use]
    pub fn configuration_status(&self) -> Option<ConfigurationStatus> {
        let Membership { number, nodes, change: _, known_quorum } = &self.membership;
        let small = |number: u64| i64::try_from(number).expect("counted one by one");
        let name = |node: Option<&NodeId>| node.map(|node| node.0.clone());
        (*nodes > 0).then(|| ConfigurationStatus {
            number: small(*number),
            nodes: i32::try_from(*nodes).expect("few nodes"),
            joining: name(self.membership.joining()),
            leaving: name(self.membership.leaving()),
            quorum_seq: known_quorum.map(|known| small(known.seq.0)),
            write_quorum: known_quorum.map(|known| i32::from(known.write_quorum.0)),
        })
    }

    /// The members as they stand in a status.
    #[must_use]
    pub fn member_statuses(&self) -> Vec<MemberStatus> {
        let role = |name: &NodeId| match self.leader.as_ref() == Some(name) {
            true => MemberRole::Leader,
            false => MemberRole::Follower,
        };
        self.members
            .iter()
            .map(|member| MemberStatus {
                name: member.name.0.clone(),
                storage_id: member.storage_id.to_string(),
                role: role(&member.name),
            })
            .collect()
    }

    /// The copy last named leader, as it stands in a status.
    #[must_use]
    pub fn last_leader_status(&self) -> Option<RecordedCopy> {
        let last = self.last_leader.as_ref()?;
        Some(RecordedCopy { name: last.name.0.clone(), storage_id: last.storage_id.to_string() })
    }

    /// The part of the record that an election reads.
    #[must_use]
    pub fn for_election(&self, nodes: usize) -> election::Record {
        let membership = self.membership_or(nodes);
        election::Record { membership, members: self.members.clone(), last_leader: self.last_leader.clone() }
    }

    /// The recorded set of nodes; the first one of so many, if none is.
    #[must_use]
    pub fn membership_or(&self, nodes: usize) -> Membership {
        if self.membership.nodes == 0 { Membership::first(nodes) } else { self.membership.clone() }
    }
}

/// What a status says of the set of nodes. Releases in which it could not change recorded no more than the number of
/// followers.
fn membership_in(status: &KvClusterStatus) -> Result<Membership, UnreadableRecord> {
    let Some(configuration) = &status.configuration else {
        let followers = status.followers.filter(|_| !status.members.is_empty());
        let nodes =
            followers.and_then(|followers| usize::try_from(followers).ok()).map_or(0, |followers| followers + 1);
        return Ok(if nodes == 0 { Membership::default() } else { Membership::first(nodes) });
    };
    let read = || {
        let ConfigurationStatus { number, nodes, joining, leaving, quorum_seq, write_quorum } = configuration;
        let change = match (joining, leaving) {
            (None, None) => None,
            (Some(node), None) => Some(NodeChange::Joining(node.as_str().into())),
            (None, Some(node)) => Some(NodeChange::Leaving(node.as_str().into())),
            (Some(_), Some(_)) => return None,
        };
        let known_quorum = match (quorum_seq, write_quorum) {
            (Some(seq), Some(quorum)) => Some(KnownQuorum {
                seq: Seq(u64::try_from(*seq).ok()?),
                write_quorum: WriteQuorum(u8::try_from(*quorum).ok()?),
            }),
            (None, None) => None,
            _ => return None,
        };
        let nodes = usize::try_from(*nodes).ok().filter(|nodes| (2..=MOST_NODES).contains(nodes))?;
        Some(Membership { number: u64::try_from(*number).ok()?, nodes, change, known_quorum })
    };
    read().ok_or_else(|| UnreadableRecord::Configuration(Box::new(configuration.clone())))
}

/// Why the record could not be read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Somebody changed it since it was read: read again and decide again.
    #[error("the record has changed since it was read")]
    Conflict,
    /// The store whose record it was is gone, or another one of its name is there.
    #[error("the KvCluster is gone")]
    Gone,
    /// What stands there cannot be understood.
    #[error(transparent)]
    Unreadable(#[from] UnreadableRecord),
    /// The file that holds it could not be written.
    #[error("the record could not be written: {0}")]
    File(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The Kubernetes API did not do it.
    #[error("the Kubernetes API did not answer for the record: {0}")]
    Kubernetes(#[source] Box<kube::Error>),
}

/// A record as it was read, with what identifies this version of it.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// The record.
    pub record: Record,
    /// Its version: a resourceVersion, or a counter.
    pub version: String,
}

/// The world that a store runs in, as far as its manager's memory is concerned.
pub trait Platform: Sync {
    /// Reads the record as it is now, never from a cache.
    fn record(&self) -> impl Future<Output = Result<Versioned, RecordError>> + Send;

    /// Replaces the record if it is still the version that was read.
    fn replace(&self, read: &Versioned, new: Record) -> impl Future<Output = Result<Versioned, RecordError>> + Send;

    /// Takes away the wish that this node shall lead. False if that is not the wish (any more).
    fn withdraw_switchover(&self, wanted: &NodeId) -> impl Future<Output = Result<bool, RecordError>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_way_through_the_status() {
        let member = |name: &str| Member { name: name.into(), storage_id: StorageId::random() };
        let record = Record {
            epoch: Epoch(7),
            leader: Some("demo-1".into()),
            last_leader: Some(member("demo-1")),
            members: vec![member("demo-0"), member("demo-1")],
            membership: Membership {
                number: 5,
                nodes: 2,
                change: Some(NodeChange::Joining("demo-2".into())),
                known_quorum: Some(KnownQuorum { seq: Seq(40), write_quorum: WriteQuorum(1) }),
            },
        };
        let status = KvClusterStatus {
            epoch: Some(7),
            leader: Some("demo-1".into()),
            last_leader: record.last_leader_status(),
            members: record.member_statuses(),
            configuration: record.configuration_status(),
            ..KvClusterStatus::default()
        };
        assert_eq!(Record::from_status(Some(&status)), Ok(record));
        assert_eq!(status.members[1].role, MemberRole::Leader);
    }

    #[test]
    fn a_record_of_a_release_that_could_not_scale_has_the_nodes_that_were_reported() {
        let member = MemberStatus {
            name: "demo-0".into(),
            storage_id: StorageId::random().to_string(),
            role: MemberRole::Leader,
        };
        let status = KvClusterStatus { members: vec![member], followers: Some(5), ..KvClusterStatus::default() };
        assert_eq!(Record::from_status(Some(&status)).expect("readable").membership, Membership::first(6));
        let unborn = KvClusterStatus { followers: Some(5), ..KvClusterStatus::default() };
        assert_eq!(Record::from_status(Some(&unborn)).expect("readable").membership, Membership::default());
    }

    #[test]
    fn a_garbled_configuration_is_refused() {
        let configuration = ConfigurationStatus { number: 1, nodes: 0, ..ConfigurationStatus::default() };
        let status = KvClusterStatus { configuration: Some(configuration), ..KvClusterStatus::default() };
        let error = Record::from_status(Some(&status)).expect_err("a store of no nodes");
        assert!(error.to_string().contains("makes no sense"), "{error}");
    }

    #[test]
    fn a_garbled_storage_id_is_named_and_not_dropped() {
        let copy = RecordedCopy { name: "demo-0".into(), storage_id: "lost".into() };
        let status = KvClusterStatus { last_leader: Some(copy), ..KvClusterStatus::default() };
        let error = Record::from_status(Some(&status)).expect_err("no UUID");
        assert_eq!(error.to_string(), "storageId \"lost\" of demo-0 in status is no UUID");
    }
}

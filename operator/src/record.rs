//! What the manager must remember to never lose a write, and the one way to change it.
//!
//! On Kubernetes the record is part of `KvCluster.status` and its version is the object's resourceVersion;
//! `local` keeps it in memory, or in a file where the data is on disk too. Everything that changes leadership or membership goes through
//! [`Platform::replace`], which refuses when the record has changed since it was read.

use std::future::Future;

use quorumkv_api::{Epoch, NodeId, StorageId, peer::Member};
use quorumkv_protocol::election;

use crate::crd::{KvClusterStatus, MemberRole, MemberStatus, RecordedCopy};

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
        election::Record { nodes, members: self.members.clone(), last_leader: self.last_leader.clone() }
    }
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
        };
        let status = KvClusterStatus {
            epoch: Some(7),
            leader: Some("demo-1".into()),
            last_leader: record.last_leader_status(),
            members: record.member_statuses(),
            ..KvClusterStatus::default()
        };
        assert_eq!(Record::from_status(Some(&status)), Ok(record));
        assert_eq!(status.members[1].role, MemberRole::Leader);
    }

    #[test]
    fn a_garbled_storage_id_is_named_and_not_dropped() {
        let copy = RecordedCopy { name: "demo-0".into(), storage_id: "lost".into() };
        let status = KvClusterStatus { last_leader: Some(copy), ..KvClusterStatus::default() };
        let error = Record::from_status(Some(&status)).expect_err("no UUID");
        assert_eq!(error.to_string(), "storageId \"lost\" of demo-0 in status is no UUID");
    }
}

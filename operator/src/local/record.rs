//! The record of a local store: one manager, one process, so a mutex is the compare-and-swap.
//!
//! With storage in memory it lives exactly as long as the data, which the child processes keep in theirs. With
//! Persistent storage it is in the store's directory, and durable before [`Platform::replace`] returns. The file
//! has the fields of a KvCluster's status. In it, nodes are called by their folders: a store may come back under
//! other ports.

use std::sync::{Mutex, MutexGuard};

use quorumkv_api::{
    NodeId,
    peer::{Member, NodeChange},
};
use quorumkv_protocol::membership::Membership;
use serde::{Deserialize, Serialize};

use super::data_dir::DataDir;
use crate::{
    crd::KvClusterStatus,
    record::{Platform, Record, RecordError, UnreadableRecord, Versioned},
};

/// Of stores whose set of nodes has never changed: releases in which it could not change read that, too.
const FIRST_FORMAT: u32 = 1;
const FORMAT: u32 = 2;

/// What the file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stored {
    format: u32,
    /// Name of the KvCluster.
    name: String,
    followers: usize,
    status: KvClusterStatus,
}

/// Why a record cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordFileError {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// It is no record.
    #[error("is no record: {0}. It says whose copies count, and nothing else does: bring back the file as it was")]
    Parse(#[from] serde_json::Error),
    /// Another version wrote it.
    #[error("has format {0}, this version reads {FIRST_FORMAT} and {FORMAT}")]
    Format(u32),
    /// It is another store's.
    #[error(
        "belongs to the store {found:?}, the manifest describes {wanted:?}: name another directory with --data-dir"
    )]
    OtherStore {
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// A field cannot be understood.
    #[error(transparent)]
    Unreadable(#[from] UnreadableRecord),
    /// It names a node that the store does not have.
    #[error("names a node {0}, which this store does not have")]
    Node(NodeId),
}

/// Where the record is kept.
#[derive(Debug)]
struct Keeper {
    directory: DataDir,
    name: String,
    /// All nodes that the store can have, in the order of their folders.
    nodes: Vec<NodeId>,
}

impl Keeper {
    fn read(&self) -> Result<Option<Record>, RecordFileError> {
        let Some(contents) = self.directory.read_record()? else { return Ok(None) };
        let Stored { format, name, followers, mut status } = serde_json::from_slice(&contents)?;
        if ![FIRST_FORMAT, FORMAT].contains(&format) {
            return Err(RecordFileError::Format(format));
        }
        status.followers = i32::try_from(followers).ok();
        if name != self.name {
            return Err(RecordFileError::OtherStore { found: name, wanted: self.name.clone() });
        }
        let record = Record::from_status(Some(&status))?;
        let of_folder = |folder: &NodeId| {
            let ordinal = (0..self.nodes.len()).find(|ordinal| DataDir::node_folder(*ordinal) == folder.0);
            ordinal.map(|ordinal| self.nodes[ordinal].clone()).ok_or_else(|| RecordFileError::Node(folder.clone()))
        };
        renamed(record, of_folder).map(Some)
    }

    fn write(&self, record: &Record) -> Result<(), RecordFileError> {
        let folder_of = |node: &NodeId| {
            let ordinal = self.nodes.iter().position(|known| known == node);
            let folder = ordinal.map(|ordinal| NodeId(DataDir::node_folder(ordinal)));
            folder.ok_or_else(|| RecordFileError::Node(node.clone()))
        };
        let record = renamed(record.clone(), folder_of)?;
        let status = KvClusterStatus {
            epoch: Some(i64::try_from(record.epoch.0).expect("epochs are counted one by one")),
            leader: record.leader.as_ref().map(|leader| leader.0.clone()),
            last_leader: record.last_leader_status(),
            members: record.member_statuses(),
            configuration: record.configuration_status().filter(|_| record.membership.number > 0),
            ..KvClusterStatus::default()
        };
        let followers = record.membership.nodes.saturating_sub(1);
        let format = if status.configuration.is_some() { FORMAT } else { FIRST_FORMAT };
        let stored = Stored { format, name: self.name.clone(), followers, status };
        let mut contents = serde_json::to_vec_pretty(&stored)?;
        contents.push(b'\n');
        Ok(self.directory.write_record(&contents)?)
    }
}

fn renamed<Error>(record: Record, name: impl Fn(&NodeId) -> Result<NodeId, Error>) -> Result<Record, Error> {
    let Record { epoch, leader, last_leader, members, membership } = record;
    let change = match membership.change {
        Some(NodeChange::Joining(node)) => Some(NodeChange::Joining(name(&node)?)),
        Some(NodeChange::Leaving(node)) => Some(NodeChange::Leaving(name(&node)?)),
        None => None,
    };
    let member = |Member { name: old, storage_id }: Member| Ok(Member { name: name(&old)?, storage_id });
    Ok(Record {
        epoch,
        leader: leader.as_ref().map(&name).transpose()?,
        last_leader: last_leader.map(member).transpose()?,
        members: members.into_iter().map(member).collect::<Result<_, _>>()?,
        membership: Membership { change, ..membership },
    })
}

/// The record, and who shall lead.
#[derive(Debug, Default)]
pub(super) struct LocalRecord {
    current: Mutex<(Record, u64)>,
    /// Who shall lead, until that is acted on. The manifest is not rewritten.
    wish: Mutex<Option<NodeId>>,
    keeper: Option<Keeper>,
}

impl LocalRecord {
    /// The record in a directory, as it was left there. A new directory becomes that of this store.
    pub(super) fn kept_in(directory: DataDir, name: String, nodes: Vec<NodeId>) -> Result<Self, RecordFileError> {
        let keeper = Keeper { directory, name, nodes };
        let record = match keeper.read()? {
            Some(record) => record,
            None => {
                keeper.write(&Record::default())?;
                Record::default()
            }
        };
        Ok(Self { current: Mutex::new((record, 0)), wish: Mutex::default(), keeper: Some(keeper) })
    }

    fn current(&self) -> MutexGuard<'_, (Record, u64)> {
        self.current.lock().expect("nobody panics while holding the record")
    }

    /// Who shall lead.
    pub(super) fn wish(&self) -> MutexGuard<'_, Option<NodeId>> {
        self.wish.lock().expect("nobody panics while holding the wish")
    }
}

impl Platform for LocalRecord {
    async fn record(&self) -> Result<Versioned, RecordError> {
        let (record, version) = self.current().clone();
        Ok(Versioned { record, version: version.to_string() })
    }

    /// Blocks until the record is on disk: nobody but this manager waits for it.
    async fn replace(&self, read: &Versioned, new: Record) -> Result<Versioned, RecordError> {
        let mut current = self.current();
        if current.1.to_string() != read.version {
            return Err(RecordError::Conflict);
        }
        if let Some(keeper) = &self.keeper {
            // If this fails, the file may be either one. The manager has done nothing yet that rests on the new
            // one, so it may be overwritten from the old.
            keeper.write(&new).map_err(|error| RecordError::File(Box::new(error)))?;
        }
        *current = (new.clone(), current.1 + 1);
        Ok(Versioned { record: new, version: current.1.to_string() })
    }

    async fn withdraw_switchover(&self, wanted: &NodeId) -> Result<bool, RecordError> {
        Ok(self.wish().take_if(|wish| wish == wanted).is_some())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use quorumkv_api::{Epoch, StorageId};
    use rstest::rstest;

    use super::*;

    fn nodes(port: usize) -> Vec<NodeId> {
        (0..3).map(|n| NodeId(format!("127.0.0.1:{}", port + n))).collect()
    }

    fn opened(root: &Path, name: &str, nodes: Vec<NodeId>) -> Result<LocalRecord, RecordFileError> {
        let directory = DataDir::lock(root).expect("free");
        LocalRecord::kept_in(directory, name.to_owned(), nodes)
    }

    fn led_by_the_second(nodes: &[NodeId]) -> Record {
        let members: Vec<Member> =
            nodes.iter().map(|name| Member { name: name.clone(), storage_id: StorageId::random() }).collect();
        Record {
            epoch: Epoch(7),
            leader: Some(nodes[1].clone()),
            last_leader: Some(members[1].clone()),
            membership: Membership::first(members.len()),
            members,
        }
    }

    #[tokio::test]
    async fn a_second_writer_is_refused() {
        let platform = LocalRecord::default();
        let read = platform.record().await.expect("read");
        platform.replace(&read, Record::default()).await.expect("first");
        let second = platform.replace(&read, Record::default()).await.expect_err("second");
        assert!(matches!(second, RecordError::Conflict));
    }

    #[tokio::test]
    async fn what_was_recorded_is_there_again_also_under_other_ports() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = opened(folder.path(), "demo", nodes(5000)).expect("a new directory");
        let read = first.record().await.expect("read");
        assert_eq!(read.record, Record::default());
        let record = led_by_the_second(&nodes(5000));
        first.replace(&read, record.clone()).await.expect("there is room");
        drop(first);
        let again = opened(folder.path(), "demo", nodes(5000)).expect("its own directory");
        assert_eq!(again.record().await.expect("read").record, record);
        drop(again);
        let moved = opened(folder.path(), "demo", nodes(7000)).expect("its own directory");
        let found = moved.record().await.expect("read").record;
        assert_eq!(found.leader, Some("127.0.0.1:7001".into()));
        assert_eq!(found.members[2].storage_id, record.members[2].storage_id);
        assert_eq!(found.members[2].name, "127.0.0.1:7002".into());
    }

    /// What earlier releases wrote, and read as before as long as the set of nodes has never changed.
    #[tokio::test]
    async fn a_change_of_the_nodes_is_kept_in_a_format_that_earlier_releases_refuse() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = opened(folder.path(), "demo", nodes(5000)).expect("a new directory");
        let format = || {
            let text = fs::read_to_string(folder.path().join("record.json")).expect("it was written");
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON")["format"].clone()
        };
        let mut record = led_by_the_second(&nodes(5000));
        let read = kept.record().await.expect("read");
        let read = kept.replace(&read, record.clone()).await.expect("there is room");
        assert_eq!(format(), 1);
        record.membership = record.membership.begin(NodeChange::Leaving(nodes(5000)[2].clone()));
        kept.replace(&read, record.clone()).await.expect("there is room");
        assert_eq!(format(), 2);
        drop(kept);
        let again = opened(folder.path(), "demo", nodes(7000)).expect("its own directory");
        let found = again.record().await.expect("read").record;
        assert_eq!(found.membership.leaving(), Some(&nodes(7000)[2]));
    }

    #[tokio::test]
    async fn what_cannot_be_written_is_not_taken_for_recorded() {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = opened(folder.path(), "demo", nodes(5000)).expect("a new directory");
        let read = kept.record().await.expect("read");
        // A directory in the place of the file that is about to be written.
        fs::create_dir(folder.path().join("record.json.new")).expect("there is room");
        let failed = kept.replace(&read, led_by_the_second(&nodes(5000))).await.expect_err("no file can be made");
        assert!(matches!(failed, RecordError::File(_)), "{failed}");
        assert_eq!(kept.record().await.expect("read").record, Record::default());
    }

    #[rstest]
    #[case::another_store("demo", "other", "belongs to the store \"demo\", the manifest describes \"other\"")]
    fn the_directory_of_another_store_is_refused(#[case] made_for: &str, #[case] wanted: &str, #[case] message: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        opened(folder.path(), made_for, nodes(5000)).expect("a new directory");
        let error = opened(folder.path(), wanted, nodes(5000)).expect_err("another's").to_string();
        assert!(error.contains(message), "{error}");
    }

    #[rstest]
    #[case::cut_off(|text: &str| text[..text.len() / 2].to_owned(), "is no record")]
    #[case::of_the_future(|text: &str| text.replace("\"format\": 1", "\"format\": 3"), "format 3")]
    #[case::a_strange_copy(|text: &str| text.replace("\"storageId\": \"", "\"storageId\": \"x"), "is no UUID")]
    #[case::a_strange_node(|text: &str| text.replace("node-1", "node-9"), "names a node node-9")]
    #[tokio::test]
    async fn a_record_that_cannot_be_understood_is_refused(#[case] spoil: fn(&str) -> String, #[case] message: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let kept = opened(folder.path(), "demo", nodes(5000)).expect("a new directory");
        let read = kept.record().await.expect("read");
        kept.replace(&read, led_by_the_second(&nodes(5000))).await.expect("there is room");
        drop(kept);
        let file = folder.path().join("record.json");
        let spoilt = spoil(&fs::read_to_string(&file).expect("it was written"));
        fs::write(&file, &spoilt).expect("there is room");
        let error = opened(folder.path(), "demo", nodes(5000)).expect_err("spoilt").to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fs::read_to_string(&file).expect("it is there"), spoilt, "nobody overwrites what a person may mend");
    }
}

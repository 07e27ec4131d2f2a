//! The directory of a local store that keeps its data: the record, and a folder for each node.
//!
//! ```text
//! lock          held while an operator uses the directory
//! record.json   epoch, leader, last leader, members, number of nodes
//! node-0/ …     one node's data each, locked by that node
//! ```

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::manifest::Manifest;

const LOCK: &str = "lock";
const RECORD: &str = "record.json";
/// Folder beside the manifest that holds the directories of stores for which no other was named.
const DEFAULT: &str = "quorumkv-data";

/// The directory, locked against other operators for as long as this lives.
#[derive(Debug)]
pub(super) struct DataDir {
    root: PathBuf,
    _lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum DataDirError {
    /// Another operator has it.
    #[error("another operator uses this directory: stop it, or name another one with --data-dir")]
    Taken,
    /// It cannot be made or written to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Where a store keeps its data unless it is told: beside its manifest, so that it is found again from anywhere.
pub(super) fn default_for(file: &Path, manifest: &Manifest) -> PathBuf {
    // The rules of the resource keep anything but a-z, 0-9 and '-' out of names; a path must not depend on that.
    let name: String = manifest.name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    file.parent().unwrap_or(Path::new("")).join(DEFAULT).join(name)
}

impl DataDir {
    /// Makes what is not there, and locks it.
    pub(super) fn lock(root: &Path) -> Result<Self, DataDirError> {
        let root = std::path::absolute(root)?;
        make(&root)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataDirError::Taken),
            Err(TryLockError::Error(source)) => return Err(source.into()),
        }
        let directory = Self { root, _lock: lock };
        Ok(directory)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// What a node's folder is called.
    pub(super) fn node_folder(ordinal: usize) -> String {
        format!("node-{ordinal}")
    }

    /// The file of the record.
    pub(super) fn record(&self) -> PathBuf {
        self.root.join(RECORD)
    }

    /// What is in that file, if it is there.
    pub(super) fn read_record(&self) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.record()) {
            Ok(contents) => Ok(Some(contents)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces that file as a whole. Once this returns, it is durable; until then the old one is there or the new.
    pub(super) fn write_record(&self, contents: &[u8]) -> io::Result<()> {
        let passing = self.record().with_extension("json.new");
        let mut file = File::create(&passing)?;
        file.write_all(contents)?;
        file.sync_all()?;
        fs::rename(&passing, self.record())?;
        sync(&self.root)
    }
}

/// A node's folder, made if need be: a node makes only the names within its folder durable.
pub(super) fn make_node(root: &Path, ordinal: usize) -> io::Result<PathBuf> {
    let folder = root.join(DataDir::node_folder(ordinal));
    make(&folder)?;
    Ok(folder)
}

/// Makes a directory and the missing ones above it, so that their names outlive a loss of power.
fn make(directory: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
    fs::create_dir_all(directory)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync)
}

fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_beside_the_manifest_unless_it_is_sent_elsewhere() {
        let manifest = |name: &str| Manifest {
            name: name.to_owned(),
            store: crate::testing::Scene::steady().store,
            storage: crate::crd::StorageKind::Persistent,
        };
        let default = |file: &str, name: &str| default_for(Path::new(file), &manifest(name));
        assert_eq!(default("examples/kvcluster.yaml", "demo"), Path::new("examples/quorumkv-data/demo"));
        assert_eq!(default("kvcluster.yaml", "demo"), Path::new("quorumkv-data/demo"));
        assert_eq!(default("/m.yaml", "../etc"), Path::new("/quorumkv-data/---etc"));
    }

    #[test]
    fn two_operators_do_not_share_a_directory() {
        let folder = tempfile::tempdir().expect("a folder");
        let root = folder.path().join("a/b");
        let first = DataDir::lock(&root).expect("free");
        assert!(matches!(DataDir::lock(&root), Err(DataDirError::Taken)));
        drop(first);
        DataDir::lock(&root).expect("free again");
    }

    #[test]
    fn the_record_is_replaced_as_a_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = DataDir::lock(folder.path()).expect("free");
        assert_eq!(directory.read_record().expect("readable"), None);
        for contents in ["a longer text", "short"] {
            directory.write_record(contents.as_bytes()).expect("there is room");
            assert_eq!(directory.read_record().expect("readable").as_deref(), Some(contents.as_bytes()));
        }
        // What a crash left half-written is not looked at, and does not stand in the way.
        fs::write(folder.path().join("record.json.new"), "half a rec").expect("there is room");
        assert_eq!(directory.read_record().expect("readable").as_deref(), Some(&b"short"[..]));
        directory.write_record(b"next").expect("there is room");
        assert_eq!(directory.read_record().expect("readable").as_deref(), Some(&b"next"[..]));
    }
}

//! What can go wrong on disk.

use std::io;

use super::disk::{LockError, is_full};

/// Why a batch could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// An operation on a file failed; what it should have made durable may not be.
    #[error("storage failed: cannot {action} {file}: {source}")]
    Io {
        /// What was attempted.
        action: Action,
        /// On which file.
        file: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// The thread that writes has ended.
    #[error("storage failed: the thread that writes has ended")]
    Ended,
}

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Make it.
    Create,
    /// Take room for it.
    Allocate,
    /// Write to it.
    Write,
    /// Make it durable.
    Sync,
    /// Give it its name.
    Rename,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Allocate => "take room for",
            Self::Write => "write",
            Self::Sync => "sync",
            Self::Rename => "rename",
        })
    }
}

impl StorageError {
    pub(super) fn io(action: Action, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, file: file.to_owned(), source }
    }

    /// Whether the same may be tried again once there is room. Never true of a sync: after one that failed,
    /// the operating system may have forgotten what it did not write.
    pub(super) fn is_full(&self) -> bool {
        matches!(self, Self::Io { action, source, .. } if *action != Action::Sync && is_full(source))
    }
}

/// Why what is on disk cannot be used. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("DATA_DIR={directory}: {problem}")]
pub struct OpenError {
    /// The directory.
    pub directory: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a data directory.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// It cannot be used at all.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// An operation failed.
    #[error("{file}: {source}")]
    Io {
        /// On which file.
        file: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// There is data, but not the file that says whose.
    #[error("there is data, but the file {file} is missing; restore it, or empty the directory to begin as a new copy")]
    NoIdentity {
        /// The missing file.
        file: &'static str,
    },
    /// A file of another version.
    #[error("{file} has format version {found}; this program reads versions up to {newest}")]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest one that is read.
        newest: u32,
    },
    /// A file of another copy.
    #[error("{file} belongs to copy {found}, this directory is copy {expected}")]
    OtherCopy {
        /// The file.
        file: String,
        /// Whose it is.
        found: quorumkv_api::StorageId,
        /// Whose it should be.
        expected: quorumkv_api::StorageId,
    },
    /// Bytes that were durable have changed.
    #[error(
        "{file} is damaged at offset {offset}: {what}; remove this copy's directory and let the node learn the data anew"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// Where.
        offset: u64,
        /// In which way.
        what: String,
    },
    /// A file that must be there is not.
    #[error("{file} is missing; restore it, or remove this copy's directory and let the node learn the data anew")]
    Missing {
        /// The file.
        file: String,
    },
}

impl Problem {
    pub(super) fn io(file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { file: file.to_owned(), source }
    }

    pub(super) fn corrupt(file: &str, offset: usize, what: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), offset: offset as u64, what: what.into() }
    }
}

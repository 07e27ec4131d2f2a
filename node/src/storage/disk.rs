//! The file system as storage uses it: one flat directory, a handful of operations, each of which may fail.
//!
//! It is a trait so that tests can lose what was not synced, at any byte, and fail any operation.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, IoSlice, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

/// A directory.
pub(super) trait Disk: Clone + Send + Sync + 'static {
    /// A file in it.
    type File: DiskFile;

    /// The directory's name, for people.
    fn name(&self) -> String;
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file in place of any of that name.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// A file that is there.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// Gives a file another name, in place of any file of that name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes names durable.
    fn sync_names(&self) -> io::Result<()>;
}

/// An open file.
pub(super) trait DiskFile: Send + 'static {
    /// Bytes in it.
    fn length(&self) -> io::Result<u64>;
    /// Fills `buffer` from `offset` on, as far as the file goes; the bytes read.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all parts, one after the other.
    fn write_at(&mut self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;
    /// Takes room for `length` bytes, which read as zeros where nothing was written: writing them later
    /// cannot fail for want of room.
    fn allocate(&mut self, length: u64) -> io::Result<()>;
    /// Makes contents durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// Whether a failure says that there is no room.
#[must_use]
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A directory of the operating system, locked against other processes.
#[derive(Debug, Clone)]
pub(super) struct OsDisk {
    root: Arc<PathBuf>,
    /// Held open for its lock, which ends with the last clone.
    _lock: Arc<File>,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("another process uses this directory")]
    Taken,
    /// It cannot be made or written to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl OsDisk {
    const LOCK: &str = "lock";

    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// When it cannot be made, written to, or is in use.
    pub(super) fn lock(root: &Path) -> Result<Self, LockError> {
        fs::create_dir_all(root)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(root.join(Self::LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root: Arc::new(root.to_owned()), _lock: Arc::new(lock) }),
            Err(TryLockError::WouldBlock) => Err(LockError::Taken),
            Err(TryLockError::Error(source)) => Err(source.into()),
        }
    }
}

impl Disk for OsDisk {
    type File = File;

    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&*self.root)? {
            // A name that is not UTF-8 is none of ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(self.root.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.root.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.root.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&*self.root)?.sync_all()
    }
}

impl DiskFile for File {
    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn write_at(&mut self, offset: u64, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.seek(SeekFrom::Start(offset))?;
        // Empty parts would look like a write that makes no progress.
        IoSlice::advance_slices(&mut parts, 0);
        while !parts.is_empty() {
            match self.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn allocate(&mut self, length: u64) -> io::Result<()> {
        match fallocate(&*self, FallocateFlags::empty(), 0, length) {
            Ok(()) => Ok(()),
            // Network file systems may not know it; zeros take the room as well.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeros(self, DiskFile::length(self)?, length),
            Err(errno) => Err(errno.into()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Writes zeros from `from` up to `to`.
///
/// # Errors
/// When writing fails.
pub(super) fn write_zeros(file: &mut impl DiskFile, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0_u8; 256 * 1024];
    let mut offset = from;
    while offset < to {
        let part = usize::try_from(to - offset).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_at(offset, &mut [IoSlice::new(&zeros[..part])])?;
        offset += part as u64;
    }
    Ok(())
}

/// The whole contents.
///
/// # Errors
/// When reading fails, or the file ends before its length.
pub(super) fn read_all(file: &mut impl DiskFile) -> io::Result<Vec<u8>> {
    let length = usize::try_from(file.length()?).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut contents = vec![0; length];
    let read = file.read_at(0, &mut contents)?;
    if read < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(contents) }
}

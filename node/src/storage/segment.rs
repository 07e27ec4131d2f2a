//! Files of the write-ahead log, one after the other, each with its room taken before it is used.
//!
//! ```text
//! | magic: 8 bytes | version: u32 | number: u64 | copy: 16 bytes | CRC32C of these: u32 | frames | zeros |
//! ```
//!
//! A segment is made under a passing name, with header and room, and gets its own name when its predecessor
//! has no room left. The predecessor then ends with a seal: a segment that is gone is noticed.

use std::io::IoSlice;

use bytes::{Buf as _, BufMut as _};
use quorumkv_api::StorageId;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile},
    error::{Action, Problem, StorageError},
};

/// Bytes before the first frame.
pub(super) const HEADER_BYTES: usize = 8 + 4 + 8 + 16 + 4;

/// Version of segments and their frames. The first knew no writes but plain ones; it may be written on, since
/// the directory as a whole tells older programs that there is more ([`super::identity`]).
pub(super) const VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"qkv-wal\n";
const SPARE: &str = "wal-next.tmp";

/// Name of a segment's file.
pub(super) fn file_name(number: u64) -> String {
    format!("wal-{number:016}")
}

/// The number in a segment's name.
pub(super) fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("wal-").filter(|digits| digits.len() == 16)?.parse().ok()
}

fn header(number: u64, copy: StorageId) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.put_slice(MAGIC);
    header.put_u32_le(VERSION);
    header.put_u64_le(number);
    header.put_slice(copy.0.as_bytes());
    let checksum = crc32c::crc32c(&header);
    header.put_u32_le(checksum);
    header
}

/// Checks that a file is that segment of that copy.
pub(super) fn check_header(bytes: &[u8], number: u64, copy: StorageId) -> Result<(), Problem> {
    let file = file_name(number);
    let Some(mut header) = bytes.get(..HEADER_BYTES) else {
        return Err(Problem::corrupt(&file, bytes.len(), "it ends within its header"));
    };
    let checksum = crc32c::crc32c(&header[..HEADER_BYTES - 4]);
    if &header[..8] != MAGIC {
        return Err(Problem::corrupt(&file, 0, "it is no segment"));
    }
    header.advance(8);
    let found = header.get_u32_le();
    if !(1..=VERSION).contains(&found) {
        return Err(Problem::Version { file, found, newest: VERSION });
    }
    let found_number = header.get_u64_le();
    let found_copy = StorageId(Uuid::from_u128(header.get_u128()));
    if header.get_u32_le() != checksum {
        return Err(Problem::corrupt(&file, 0, "its header has another checksum"));
    }
    if found_copy != copy {
        return Err(Problem::OtherCopy { file, found: found_copy, expected: copy });
    }
    if found_number != number {
        return Err(Problem::corrupt(&file, 12, format!("it is segment {found_number}")));
    }
    Ok(())
}

/// A segment that has room but no name yet, or that is written to.
#[derive(Debug)]
pub(super) struct Segment<File> {
    pub(super) file: File,
    pub(super) number: u64,
    /// Where the next frame goes.
    pub(super) position: u64,
    /// Bytes whose room is taken.
    pub(super) capacity: u64,
}

impl<File: DiskFile> Segment<File> {
    /// Makes a segment with room for `capacity` bytes, under a passing name.
    pub(super) fn prepare(
        disk: &impl Disk<File = File>,
        number: u64,
        copy: StorageId,
        capacity: u64,
    ) -> Result<Self, StorageError> {
        let made = Self::make(disk, number, copy, capacity);
        if made.is_err() {
            // Whatever room it took is needed elsewhere; recovery removes it too.
            disk.remove(SPARE).ok();
        }
        made
    }

    fn make(disk: &impl Disk<File = File>, number: u64, copy: StorageId, capacity: u64) -> Result<Self, StorageError> {
        let mut file = disk.create(SPARE).map_err(StorageError::io(Action::Create, SPARE))?;
        file.allocate(capacity).map_err(StorageError::io(Action::Allocate, SPARE))?;
        let header = header(number, copy);
        file.write_at(0, &mut [IoSlice::new(&header)]).map_err(StorageError::io(Action::Write, SPARE))?;
        file.sync().map_err(StorageError::io(Action::Sync, SPARE))?;
        Ok(Self { file, number, position: HEADER_BYTES as u64, capacity })
    }

    /// Gives a prepared segment its name, for good.
    pub(super) fn publish(&self, disk: &impl Disk<File = File>) -> Result<(), StorageError> {
        let name = file_name(self.number);
        disk.rename(SPARE, &name).map_err(StorageError::io(Action::Rename, &name))?;
        disk.sync_names().map_err(StorageError::io(Action::Sync, &disk.name()))
    }

    /// Bytes that still fit before a seal.
    pub(super) fn room(&self) -> u64 {
        self.capacity.saturating_sub(self.position + super::frame::HEADER_BYTES as u64)
    }

    /// Room for frames in a new segment of that capacity.
    pub(super) fn room_of(capacity: u64) -> u64 {
        capacity.saturating_sub((HEADER_BYTES + super::frame::HEADER_BYTES) as u64)
    }

    /// Writes at the end; not durable before [`Self::sync`].
    pub(super) fn write(&mut self, parts: &mut [IoSlice<'_>]) -> Result<(), StorageError> {
        let name = file_name(self.number);
        self.file.write_at(self.position, parts).map_err(StorageError::io(Action::Write, &name))
    }

    /// Makes what was written durable.
    pub(super) fn sync(&mut self) -> Result<(), StorageError> {
        let name = file_name(self.number);
        self.file.sync().map_err(StorageError::io(Action::Sync, &name))
    }
}

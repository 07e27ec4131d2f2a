//! The file that says which copy a directory is. It is made once, last of all, and never changes.

use std::io::IoSlice;

use quorumkv_api::StorageId;
use uuid::Uuid;

use super::{
    disk::{Disk, DiskFile, read_all},
    error::Problem,
};

/// Its name.
pub(super) const FILE: &str = "copy";

const PASSING: &str = "copy.tmp";
const VERSION: u32 = 1;
const TITLE: &str = "quorumkv data, format ";

/// The identity of the copy, unless there is none yet.
pub(super) fn read(disk: &impl Disk, names: &[String]) -> Result<Option<StorageId>, Problem> {
    if !names.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let contents = disk.open(FILE).and_then(|mut file| read_all(&mut file)).map_err(Problem::io(FILE))?;
    let text = String::from_utf8_lossy(&contents);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let version = title.strip_prefix(TITLE).and_then(|version| version.parse().ok());
    match version {
        Some(VERSION) => {}
        Some(found) => return Err(Problem::Version { file: FILE.to_owned(), found, expected: VERSION }),
        None => return Err(Problem::corrupt(FILE, 0, "it has no title")),
    }
    let copy = lines.next().and_then(|line| Uuid::try_parse(line).ok()).map(StorageId);
    match copy {
        Some(copy) if contents == render(copy).as_bytes() => Ok(Some(copy)),
        _ => Err(Problem::corrupt(FILE, title.len() + 1, "its checksum is another")),
    }
}

/// Makes it.
pub(super) fn write(disk: &impl Disk, copy: StorageId) -> Result<(), Problem> {
    let written = disk.create(PASSING).and_then(|mut file| {
        file.write_at(0, &mut [IoSlice::new(render(copy).as_bytes())])?;
        file.sync()?;
        disk.rename(PASSING, FILE)?;
        disk.sync_names()
    });
    written.map_err(Problem::io(FILE))
}

fn render(copy: StorageId) -> String {
    let text = format!("{TITLE}{VERSION}\n{copy}\n");
    format!("{text}{:08x}\n", crc32c::crc32c(text.as_bytes()))
}

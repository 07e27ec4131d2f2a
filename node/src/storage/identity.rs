//! The file that says which copy a directory is, and the version of what is in it. It is made once, last of
//! all; only a newer version ever replaces it, before anything is written that older programs do not know.

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
/// Version of the directory: not less than that of any file in it.
const VERSION: u32 = 2;
const TITLE: &str = "quorumkv data, format ";

/// The identity of the copy and the version of the directory, unless there is none yet.
pub(super) fn read(disk: &impl Disk, names: &[String]) -> Result<Option<(StorageId, u32)>, Problem> {
    if !names.iter().any(|name| name == FILE) {
        return Ok(None);
    }
    let contents = disk.open(FILE).and_then(|mut file| read_all(&mut file)).map_err(Problem::io(FILE))?;
    let text = String::from_utf8_lossy(&contents);
    let mut lines = text.lines();
    let title = lines.next().unwrap_or_default();
    let version = match title.strip_prefix(TITLE).and_then(|version| version.parse().ok()) {
        Some(known @ 1..=VERSION) => known,
        Some(found) => return Err(Problem::Version { file: FILE.to_owned(), found, newest: VERSION }),
        None => return Err(Problem::corrupt(FILE, 0, "it has no title")),
    };
    let copy = lines.next().and_then(|line| Uuid::try_parse(line).ok()).map(StorageId);
    let copy = copy.filter(|copy| contents == render(*copy, version).as_bytes());
    let copy = copy.ok_or_else(|| Problem::corrupt(FILE, title.len() + 1, "its checksum is another"))?;
    Ok(Some((copy, version)))
}

/// Makes a directory of an older version one of this.
pub(super) fn renew(disk: &impl Disk, copy: StorageId, version: u32) -> Result<(), Problem> {
    if version < VERSION { write(disk, copy) } else { Ok(()) }
}

/// Makes it.
pub(super) fn write(disk: &impl Disk, copy: StorageId) -> Result<(), Problem> {
    let written = disk.create(PASSING).and_then(|mut file| {
        file.write_at(0, &mut [IoSlice::new(render(copy, VERSION).as_bytes())])?;
        file.sync()?;
        disk.rename(PASSING, FILE)?;
        disk.sync_names()
    });
    written.map_err(Problem::io(FILE))
}

pub(super) fn render(copy: StorageId, version: u32) -> String {
    let text = format!("{TITLE}{version}\n{copy}\n");
    format!("{text}{:08x}\n", crc32c::crc32c(text.as_bytes()))
}

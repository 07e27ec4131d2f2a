//! What a directory holds, or why it cannot be used.
//!
//! The newest snapshot, then the log after it. Bytes after the last whole frame are cut off when they can be
//! what a crash left of the last group, which was never reported. They cannot when a group follows that began
//! only after they were durable, or another segment: then they were changed since, and the directory is
//! refused, because something acknowledged may be gone.

use std::collections::VecDeque;

use bytes::Bytes;
use quorumkv_api::{Epoch, StorageId};
use quorumkv_protocol::Recovered;
use tracing::{info, warn};

use super::{
    Options,
    disk::{Disk, DiskFile, read_all, write_zeros},
    error::{OpenError, Problem, StorageError},
    frame::{Kind, Seed, frame_at, group_after},
    identity,
    replay::Replay,
    segment::{self, Segment},
    snapshot,
    writer::Present,
};
use crate::store::Snapshot;

/// What was found, and how to go on.
pub(super) struct Found<File> {
    pub(super) copy: StorageId,
    pub(super) recovered: Recovered,
    pub(super) state: Snapshot,
    pub(super) resume: Resume<File>,
}

/// Where writing goes on.
pub(super) struct Resume<File> {
    pub(super) segment: Segment<File>,
    pub(super) segments: VecDeque<Present>,
    pub(super) next_batch: u64,
    pub(super) promised: Epoch,
    /// Batch of the snapshot; zero without one.
    pub(super) snapshot: u64,
    pub(super) snapshot_bytes: u64,
    /// Bytes of log after the snapshot.
    pub(super) log_bytes: u64,
}

/// Reads a directory, or makes a new copy in it if it is empty.
pub(super) fn recover<D: Disk>(disk: &D, options: &Options) -> Result<Found<D::File>, OpenError> {
    Recovery { disk, options }.run().map_err(|problem| OpenError { directory: disk.name(), problem })
}

struct Recovery<'a, D> {
    disk: &'a D,
    options: &'a Options,
}

/// Everything about the log but what it says.
struct Walk<File> {
    copy: StorageId,
    replay: Replay,
    segments: VecDeque<Present>,
    log_bytes: u64,
    last: Option<Segment<File>>,
}

/// How a segment ends.
enum End {
    /// With a seal: the next one follows.
    Sealed,
    /// At this offset; what follows is not whole.
    At(usize),
}

impl<D: Disk> Recovery<'_, D> {
    fn run(&self) -> Result<Found<D::File>, Problem> {
        let names = self.disk.list().map_err(Problem::io("its list of files"))?;
        for name in names.iter().filter(|name| name.ends_with(".tmp")) {
            self.disk.remove(name).map_err(Problem::io(name))?;
        }
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment::number_of(name)).collect();
        let mut snapshots: Vec<u64> = names.iter().filter_map(|name| snapshot::batch_of(name)).collect();
        numbers.sort_unstable();
        snapshots.sort_unstable();
        let Some((copy, version)) = identity::read(self.disk, &names)? else {
            return self.begin(&numbers, &snapshots);
        };
        let newest = snapshots.pop();
        let checkpoint = newest.map(|batch| snapshot::read(self.disk, batch, copy)).transpose()?;
        let snapshot_bytes = checkpoint.as_ref().map_or(0, |(_, bytes)| *bytes);
        let replay = Replay::new(checkpoint.map(|(checkpoint, _)| checkpoint));
        let walk = Walk { copy, replay, segments: VecDeque::new(), log_bytes: 0, last: None };
        let walk = self.walk(walk, &numbers)?;
        // Only now is it certain that nothing else is needed.
        for batch in snapshots {
            let name = snapshot::file_name(batch);
            self.disk.remove(&name).map_err(Problem::io(&name))?;
        }
        identity::renew(self.disk, copy, version)?;
        Ok(found(walk, newest.unwrap_or(0), snapshot_bytes))
    }

    /// A new copy, in an empty directory or one where making it was cut short.
    fn begin(&self, numbers: &[u64], snapshots: &[u64]) -> Result<Found<D::File>, Problem> {
        let first = segment::file_name(1);
        match (numbers, snapshots) {
            ([], []) => {}
            ([1], []) if self.is_unused(&first)? => {}
            _ => return Err(Problem::NoIdentity { file: identity::FILE }),
        }
        let copy = StorageId::random();
        let made = Segment::prepare(self.disk, 1, copy, self.options.segment_bytes)
            .and_then(|segment| segment.publish(self.disk).map(|()| segment));
        let segment = made.map_err(|error| match error {
            StorageError::Io { file, source, .. } => Problem::Io { file, source },
            StorageError::Ended => unreachable!("no thread writes yet"),
        })?;
        // Last: with it, the copy exists.
        identity::write(self.disk, copy)?;
        info!(%copy, "a new copy");
        let present = Present { number: 1, first_batch: None, bytes: segment.capacity };
        let segments = VecDeque::from([present]);
        Ok(found(Walk { copy, replay: Replay::new(None), segments, log_bytes: 0, last: Some(segment) }, 0, 0))
    }

    fn is_unused(&self, name: &str) -> Result<bool, Problem> {
        let contents = self.disk.open(name).and_then(|mut file| read_all(&mut file)).map_err(Problem::io(name))?;
        Ok(contents.iter().skip(segment::HEADER_BYTES).all(|byte| *byte == 0))
    }

    fn walk(&self, mut walk: Walk<D::File>, numbers: &[u64]) -> Result<Walk<D::File>, Problem> {
        let start = usable(numbers)?;
        // Left from before the snapshot, when removing them was cut short.
        let (superfluous, numbers) = numbers.split_at(start);
        let mut unused = None;
        let (mut last, mut before) = (numbers[numbers.len() - 1], numbers.len() - 1);
        if before > 0
            && self.is_unused(&segment::file_name(last))?
            && !self.is_sealed(numbers[before - 1], walk.copy)?
        {
            // Named for a group that was never written.
            unused = Some(last);
            before -= 1;
            last = numbers[before];
        }
        for number in &numbers[..before] {
            let name = segment::file_name(*number);
            let (_, contents) = self.load(*number, walk.copy)?;
            match walk.segment(*number, &contents)? {
                End::Sealed => {}
                End::At(offset) => return Err(Problem::corrupt(&name, offset, "the log goes on in a later segment")),
            }
        }
        let (file, contents) = self.load(last, walk.copy)?;
        let End::At(end) = walk.segment(last, &contents)? else {
            return Err(Problem::Missing { file: segment::file_name(last + 1) });
        };
        walk.last = Some(self.cut(file, last, &contents, end, walk.copy)?);
        for number in superfluous.iter().copied().chain(unused) {
            let name = segment::file_name(number);
            self.disk.remove(&name).map_err(Problem::io(&name))?;
        }
        self.disk.sync_names().map_err(Problem::io("its list of files"))?;
        Ok(walk)
    }

    fn load(&self, number: u64, copy: StorageId) -> Result<(D::File, Bytes), Problem> {
        let name = segment::file_name(number);
        let mut file = self.disk.open(&name).map_err(Problem::io(&name))?;
        let contents = read_all(&mut file).map_err(Problem::io(&name))?;
        segment::check_header(&contents, number, copy)?;
        Ok((file, contents.into()))
    }

    fn is_sealed(&self, number: u64, copy: StorageId) -> Result<bool, Problem> {
        let (_, contents) = self.load(number, copy)?;
        let mut offset = segment::HEADER_BYTES;
        while let Some(frame) = frame_at(&contents, offset, Seed::of(copy)) {
            if frame.kind == Kind::Seal {
                return Ok(true);
            }
            offset += frame.bytes();
        }
        Ok(false)
    }

    /// Makes the end of the log a place to go on from.
    fn cut(
        &self,
        mut file: D::File,
        number: u64,
        contents: &Bytes,
        end: usize,
        copy: StorageId,
    ) -> Result<Segment<D::File>, Problem> {
        let name = segment::file_name(number);
        let rest = &contents[end..];
        if let Some(used) = rest.iter().rposition(|byte| *byte != 0) {
            if let Some(group) = group_after(contents, end, Seed::of(copy)) {
                let what = format!("what was written later, from offset {group} on, is whole");
                return Err(Problem::corrupt(&name, end, what));
            }
            warn!(file = name, offset = end, bytes = used + 1, "cutting off what a crash left of the last write");
            // Not shortened: the room is taken, and a full disk might not give it again.
            let (from, to) = (end as u64, (end + used + 1) as u64);
            write_zeros(&mut file, from, to).and_then(|()| file.sync()).map_err(Problem::io(&name))?;
        }
        Ok(Segment { file, number, position: end as u64, capacity: contents.len() as u64 })
    }
}

impl<File> Walk<File> {
    fn segment(&mut self, number: u64, contents: &Bytes) -> Result<End, Problem> {
        let name = segment::file_name(number);
        let mut present = Present { number, first_batch: None, bytes: contents.len() as u64 };
        let mut offset = segment::HEADER_BYTES;
        let end = loop {
            let Some(frame) = frame_at(contents, offset, Seed::of(self.copy)) else { break End::At(offset) };
            let bytes = frame.bytes();
            match frame.kind {
                Kind::Seal => break End::Sealed,
                Kind::Group if frame.seq.0 == offset as u64 => {}
                Kind::Group => return Err(Problem::corrupt(&name, offset, format!("a group of offset {}", frame.seq))),
                _ => {
                    present.first_batch.get_or_insert(frame.batch);
                    if !self.replay.covers(frame.batch) {
                        self.log_bytes += bytes as u64;
                    }
                    self.replay.take(frame).map_err(|what| Problem::corrupt(&name, offset, what))?;
                }
            }
            offset += bytes;
        };
        self.segments.push_back(present);
        Ok(end)
    }
}

/// Where the segments begin that follow each other to the end.
fn usable(numbers: &[u64]) -> Result<usize, Problem> {
    if numbers.is_empty() {
        return Err(Problem::Missing { file: segment::file_name(1) });
    }
    let gap = numbers.windows(2).rposition(|pair| pair[0] + 1 != pair[1]);
    Ok(gap.map_or(0, |gap| gap + 1))
}

fn found<File>(walk: Walk<File>, snapshot: u64, snapshot_bytes: u64) -> Found<File> {
    let Walk { copy, replay, segments, log_bytes, last } = walk;
    let resume = Resume {
        segment: last.expect("a log has a last segment"),
        segments,
        next_batch: replay.batch + 1,
        promised: replay.promised(),
        snapshot,
        snapshot_bytes,
        log_bytes,
    };
    let (recovered, state) = replay.finish();
    Found { copy, recovered, state, resume }
}

//! A disk that loses what was not synced, at any byte, and fails when told to.

use std::{
    collections::BTreeMap,
    io::{self, IoSlice},
    sync::Arc,
};

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile};

/// One file: what is certain, and what was written since, in order.
#[derive(Debug, Clone, Default)]
struct Inode {
    durable: Vec<u8>,
    unsynced: Vec<(u64, Vec<u8>)>,
    now: Vec<u8>,
}

fn put(bytes: &mut Vec<u8>, offset: u64, part: &[u8]) {
    let offset = usize::try_from(offset).expect("small");
    let end = offset + part.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(part);
}

fn set_names(names: &mut BTreeMap<String, usize>, change: &[(String, Option<usize>)]) {
    for (name, inode) in change {
        match inode {
            Some(inode) => drop(names.insert(name.clone(), *inode)),
            None => drop(names.remove(name)),
        }
    }
}

/// What to do wrong, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// Operations that change something and still succeed.
    pub(super) after: usize,
    /// How the next ones fail.
    pub(super) kind: io::ErrorKind,
    /// How many fail.
    pub(super) times: usize,
}

#[derive(Debug, Clone, Default)]
struct World {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// What happened to names since they were synced: which one came to stand for which file, or for none.
    renamed: Vec<Vec<(String, Option<usize>)>>,
    capacity: Option<usize>,
    fault: Option<Fault>,
    /// Operations that changed something.
    operations: Vec<String>,
}

impl World {
    fn step(&mut self, operation: String) -> io::Result<()> {
        if let Some(fault) = &mut self.fault {
            match (fault.after, fault.times) {
                (0, 0) => {}
                (0, _) => {
                    fault.times -= 1;
                    return Err(io::Error::new(fault.kind, format!("injected into: {operation}")));
                }
                _ => fault.after -= 1,
            }
        }
        self.operations.push(operation);
        Ok(())
    }

    fn name(&mut self, change: Vec<(String, Option<usize>)>) {
        set_names(&mut self.names, &change);
        self.renamed.push(change);
    }

    /// The name that a file has now.
    fn name_of(&self, inode: usize) -> &str {
        self.names.iter().find(|(_, named)| **named == inode).map_or("a removed file", |(name, _)| name)
    }

    fn take_room(&self, more: usize) -> io::Result<()> {
        let used: usize = self.names.values().map(|inode| self.inodes[*inode].now.len()).sum();
        match self.capacity {
            Some(capacity) if used + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

/// A directory in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct SimDisk(Arc<Mutex<World>>);

impl SimDisk {
    /// What a crash leaves when so many of the unsynced bytes, in the order of writing, had reached the disk,
    /// and names that were not synced had, or had not.
    pub(super) fn crashed(&self, unsynced_kept: usize, names_kept: bool) -> Self {
        self.crash(
            |_| names_kept,
            |inode| {
                let mut left = unsynced_kept;
                for (offset, part) in &inode.unsynced {
                    let kept = left.min(part.len());
                    put(&mut inode.durable, *offset, &part[..kept]);
                    left -= kept;
                }
            },
        )
    }

    /// What a crash leaves when of the unsynced bytes only those at `spared` places had reached the disk, and
    /// of the unsynced changes of names only some.
    pub(super) fn torn(&self, spared: impl Fn(u64) -> bool, name_spared: impl Fn(usize) -> bool) -> Self {
        self.crash(name_spared, |inode| {
            for (offset, part) in &inode.unsynced {
                for (place, byte) in (*offset..).zip(part).filter(|(place, _)| spared(*place)) {
                    put(&mut inode.durable, place, &[*byte]);
                }
            }
        })
    }

    fn crash(&self, name_kept: impl Fn(usize) -> bool, keep: impl Fn(&mut Inode)) -> Self {
        let mut world = self.0.lock().clone();
        for inode in &mut world.inodes {
            keep(inode);
            inode.unsynced.clear();
            inode.now = inode.durable.clone();
        }
        world.names = world.durable_names.clone();
        for (_, change) in world.renamed.drain(..).enumerate().filter(|(index, _)| name_kept(*index)) {
            set_names(&mut world.names, &change);
        }
        world.durable_names = world.names.clone();
        world.fault = None;
        world.operations.clear();
        Self(Arc::new(Mutex::new(world)))
    }

    /// Bytes written and not synced.
    pub(super) fn unsynced(&self) -> usize {
        let world = self.0.lock();
        let unsynced = world.inodes.iter().flat_map(|inode| &inode.unsynced).map(|(_, part)| part.len());
        unsynced.sum()
    }

    pub(super) fn inject(&self, fault: Fault) {
        self.0.lock().fault = Some(fault);
    }

    pub(super) fn limit(&self, capacity: Option<usize>) {
        self.0.lock().capacity = capacity;
    }

    /// What was done, one line an operation.
    pub(super) fn operations(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().operations)
    }

    /// A copy whose file has one byte changed.
    pub(super) fn with_changed_byte(&self, name: &str, offset: usize, change: u8) -> Self {
        let changed = self.crashed(usize::MAX, true);
        {
            let mut world = changed.0.lock();
            let inode = world.names[name];
            world.inodes[inode].now[offset] ^= change;
            world.inodes[inode].durable[offset] ^= change;
        }
        changed
    }

    /// A copy without a file.
    pub(super) fn without(&self, name: &str) -> Self {
        let less = self.crashed(usize::MAX, true);
        less.remove(name).expect("it is there");
        less
    }

    /// Puts a file there.
    pub(super) fn plant(&self, name: &str, contents: Vec<u8>) {
        let mut world = self.0.lock();
        let inode = world.inodes.len();
        world.inodes.push(Inode { durable: contents.clone(), unsynced: Vec::new(), now: contents });
        world.names.insert(name.to_owned(), inode);
        world.durable_names = world.names.clone();
    }

    pub(super) fn contents(&self, name: &str) -> Vec<u8> {
        let world = self.0.lock();
        world.inodes[world.names[name]].now.clone()
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }
}

/// An open file of a [`SimDisk`].
#[derive(Debug)]
pub(super) struct SimFile {
    world: Arc<Mutex<World>>,
    inode: usize,
}

fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name.to_owned())
}

impl Disk for SimDisk {
    type File = SimFile;

    fn name(&self) -> String {
        "simulated".to_owned()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.names())
    }

    fn create(&self, name: &str) -> io::Result<SimFile> {
        let mut world = self.0.lock();
        world.step(format!("create {name}"))?;
        let inode = world.inodes.len();
        world.inodes.push(Inode::default());
        world.name(vec![(name.to_owned(), Some(inode))]);
        Ok(SimFile { world: self.0.clone(), inode })
    }

    fn open(&self, name: &str) -> io::Result<SimFile> {
        let inode = self.0.lock().names.get(name).copied().ok_or_else(|| not_found(name))?;
        Ok(SimFile { world: self.0.clone(), inode })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step(format!("rename {to}"))?;
        let inode = world.names.get(from).copied().ok_or_else(|| not_found(from))?;
        world.name(vec![(from.to_owned(), None), (to.to_owned(), Some(inode))]);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step(format!("remove {name}"))?;
        world.names.get(name).ok_or_else(|| not_found(name))?;
        world.name(vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step("sync names".to_owned())?;
        world.durable_names = world.names.clone();
        world.renamed.clear();
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.world.lock().inodes[self.inode].now.len() as u64)
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let world = self.world.lock();
        let from = usize::try_from(offset).expect("small");
        let rest = world.inodes[self.inode].now.get(from..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&mut self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut world = self.world.lock();
        let operation = format!("write {}", world.name_of(self.inode));
        world.step(operation)?;
        let bytes = parts.iter().map(|part| &**part).collect::<Vec<_>>().concat();
        let end = usize::try_from(offset).expect("small") + bytes.len();
        let grown = end.saturating_sub(world.inodes[self.inode].now.len());
        world.take_room(grown)?;
        let inode = &mut world.inodes[self.inode];
        put(&mut inode.now, offset, &bytes);
        inode.unsynced.push((offset, bytes));
        Ok(())
    }

    fn allocate(&mut self, length: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let operation = format!("allocate {}", world.name_of(self.inode));
        world.step(operation)?;
        let length = usize::try_from(length).expect("small");
        let grown = length.saturating_sub(world.inodes[self.inode].now.len());
        world.take_room(grown)?;
        world.inodes[self.inode].now.resize(length, 0);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut world = self.world.lock();
        let operation = format!("sync {}", world.name_of(self.inode));
        world.step(operation)?;
        let inode = &mut world.inodes[self.inode];
        inode.durable = inode.now.clone();
        inode.unsynced.clear();
        Ok(())
    }
}

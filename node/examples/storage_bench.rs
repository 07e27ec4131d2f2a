//! How fast storage is on this machine: `cargo run --release -p quorumkv-node --example storage_bench -- DIRECTORY`.
//!
//! `DIRECTORY` is on the disk in question. Printed are: a plain loop that appends to a file and syncs it;
//! writes through storage by 1 and by 64 writers, each of which waits until its write is durable; and how long
//! opening a million keys of 256 bytes takes, in a process of its own, with its peak of memory.

#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use quorumkv_api::{Epoch, Seq};
use quorumkv_node::{
    storage::{Opened, Options, Persistent, Storage as _},
    store::Store,
};
use quorumkv_protocol::{Entry, Limits, Log, Operation, Persist, Ticket};

const VALUE_BYTES: usize = 256;
const MEASURE: Duration = Duration::from_secs(5);
const KEYS: u64 = 1_000_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [directory] => measure(Path::new(directory)),
        [command, directory] if command == "open" => open(Path::new(directory)),
        _ => anyhow::bail!("usage: storage_bench DIRECTORY"),
    }
}

fn measure(directory: &Path) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in(directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let plain = plain_loop(&directory.path().join("plain"))?;
    println!("plain loop of write and fdatasync: {plain:>8.0} writes/s");
    for writers in [1, 64] {
        let data = directory.path().join(format!("writers-{writers}"));
        let writes = runtime.block_on(Bench::open(&data)?.closed_loop(writers))?;
        println!(
            "storage, {writers:>2} writers:               {writes:>8.0} writes/s, {:.1} times the loop",
            writes / plain
        );
    }
    let data = directory.path().join("million");
    let begun = Instant::now();
    runtime.block_on(Bench::open(&data)?.fill())?;
    println!("{KEYS} keys of {VALUE_BYTES} bytes: written in {:.2?}", begun.elapsed());
    let status = Command::new(std::env::current_exe()?).arg("open").arg(&data).status()?;
    ensure!(status.success(), "opening failed");
    Ok(())
}

fn plain_loop(path: &Path) -> anyhow::Result<f64> {
    let mut file = File::create(path)?;
    let record = [b'x'; VALUE_BYTES + 60];
    let begun = Instant::now();
    let mut writes = 0_u32;
    while begun.elapsed() < MEASURE {
        file.write_all(&record)?;
        file.sync_data()?;
        writes += 1;
    }
    Ok(f64::from(writes) / begun.elapsed().as_secs_f64())
}

/// Log, store and storage, as a driver has them.
struct Bench {
    storage: Persistent,
    log: Log,
    store: Store,
    ticket: Ticket,
}

impl Bench {
    fn open(data: &Path) -> anyhow::Result<Self> {
        let Opened { storage, .. } = Persistent::open(data, Options::default())?;
        Ok(Self { storage, log: Log::default(), store: Store::default(), ticket: Ticket(0) })
    }

    /// Appends, applies and hands over entries as one batch.
    fn write(&mut self, entries: u64) {
        let first = self.log.last_seq().next();
        for _ in 0..entries {
            let seq = self.log.last_seq().next();
            let key = format!("key-{:012}", seq.0 % KEYS).into_bytes();
            let value = format!("\"{:0width$}\"", seq.0, width = VALUE_BYTES - 2).into_bytes();
            let operation = Operation::Put { key: key.into(), value: value.into() };
            self.log.append(Entry { epoch: Epoch(1), seq, operation });
        }
        let last = self.log.last_seq();
        self.store.apply(self.log.entries(first..=last));
        self.log.commit(last);
        self.ticket = Ticket(self.ticket.0 + 1);
        let batch = [Persist::Append(first..=last), Persist::Commit(last)];
        self.storage.submit(self.ticket, &batch, &self.log, &self.store);
        let Limits { retain_bytes, retain_entries, .. } = Limits::default();
        self.log.trim(last, retain_bytes, retain_entries);
    }

    /// Every writer has one write under way at a time, each a batch of its own.
    async fn closed_loop(mut self, writers: u64) -> anyhow::Result<f64> {
        let begun = Instant::now();
        let mut durable = Ticket(0);
        while begun.elapsed() < MEASURE {
            while self.ticket.0 - durable.0 < writers {
                self.write(1);
            }
            durable = self.storage.durable().await?;
        }
        let writes = u32::try_from(durable.0)?;
        Ok(f64::from(writes) / begun.elapsed().as_secs_f64())
    }

    async fn fill(mut self) -> anyhow::Result<()> {
        let mut durable = Ticket(0);
        while self.log.last_seq().0 < KEYS {
            self.write(200);
            while self.ticket.0 - durable.0 > 16 {
                durable = self.storage.durable().await?;
            }
        }
        while durable < self.ticket {
            durable = self.storage.durable().await?;
        }
        Ok(())
    }
}

fn open(data: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    let Opened { recovered, state, .. } = Persistent::open(data, Options::default())?;
    let took = begun.elapsed();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no peak of memory")?;
    let disk: u64 = std::fs::read_dir(data)?
        .map(|entry| entry.and_then(|entry| entry.metadata()))
        .try_fold(0, |sum, metadata| metadata.map(|metadata| sum + metadata.len()))?;
    let (keys, entries) = (state.len(), recovered.entries.len());
    println!("opened in {took:.2?}: {keys} keys in the snapshot, {entries} entries after it");
    println!("peak of memory {}, {} MiB on disk", peak.trim(), disk >> 20);
    ensure!(recovered.commit == Seq(KEYS), "it ends at {}", recovered.commit);
    Ok(())
}

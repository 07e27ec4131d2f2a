//! How a node comes back while its leader goes on: how long it takes, and what that costs.
//!
//! [`measure`] fills a store, lets clients write to its leader, kills a follower and starts it again. With
//! Persistent storage the follower opens its log, in memory it gets everything from the leader. Meanwhile the
//! leader must go on: its writes and its memory are measured before and during it.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use quorumkv_api::Seq;
use rustix::process::Pid;
use tokio::time::sleep;

use crate::{
    fill::fill,
    history::Moment,
    load::{Load, Report, Running},
    processes::{Lab, LabOptions, Storage},
};

/// The follower that goes away.
const VICTIM: usize = 1;
/// Clients that write all the time.
const CLIENTS: usize = 4;
/// How long writes are measured while nothing happens.
const UNDISTURBED: Duration = Duration::from_secs(4);
/// How long the follower is away.
const AWAY: Duration = Duration::from_secs(1);
/// How long it may take to come back.
const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two looks at how far it is.
const INTERVAL: Duration = Duration::from_millis(20);

/// What a measurement is of.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Where the nodes keep their data.
    pub storage: Storage,
    /// Keys in the store.
    pub keys: usize,
    /// Size of each value.
    pub value_bytes: usize,
}

/// Writes during some time.
#[derive(Debug, Clone, Copy)]
pub struct Writes {
    /// How many were acknowledged, a second.
    pub a_second: f64,
    /// The longest time without one.
    pub longest_gap: Duration,
    /// What 99 of 100 took at most.
    pub p99: Duration,
}

/// How a follower came back: a row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Recovery {
    /// What was measured.
    pub setup: Setup,
    /// From the start of its process until it held what the leader's log held a moment before.
    pub caught_up: Duration,
    /// Most memory that it had, in MiB.
    pub follower_peak: u64,
    /// Most memory that the leader had before, in MiB.
    pub leader_before: u64,
    /// Most memory that the leader had during it, in MiB.
    pub leader_peak: u64,
    /// The leader's writes before.
    pub before: Writes,
    /// The leader's writes during it.
    pub during: Writes,
}

impl Recovery {
    /// Size of all keys' values, in MiB.
    #[must_use]
    pub const fn data(&self) -> u64 {
        (self.setup.keys * self.setup.value_bytes) as u64 >> 20
    }
}

/// Head of the table that [`Recovery`]s are rows of.
pub const TABLE_HEAD: &str = "| storage | keys | values | follower caught up after | its peak memory | leader's peak memory, before | \
                              writes/s, before | longest gap, before | p99, before |\n\
                              | --- | --- | --- | --- | --- | --- | --- | --- | --- |";

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { setup, caught_up, follower_peak, leader_before, leader_peak, before, during } = self;
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        write!(
            f,
            "| {:?} | {} | {} MiB | {:.2} s | {follower_peak} MiB | {leader_peak} MiB, {leader_before} MiB | {:.0}, {:.0} | \
             {:.0} ms, {:.0} ms | {:.1} ms, {:.1} ms |",
            setup.storage,
            setup.keys,
            self.data(),
            caught_up.as_secs_f64(),
            during.a_second,
            before.a_second,
            ms(during.longest_gap),
            ms(before.longest_gap),
            ms(during.p99),
            ms(before.p99),
        )
    }
}

/// Fills a store, takes a follower away, and watches it come back.
///
/// # Errors
/// When the follower does not come back, or does not hold what the leader holds.
pub async fn measure(setup: Setup) -> anyhow::Result<Recovery> {
    let Setup { storage, keys, value_bytes } = setup;
    // A quorum of one: writes go on with the other follower.
    let options = LabOptions { followers: 2, write_quorum: 1, storage, ..LabOptions::default() };
    let mut lab = Lab::start(options).await?;
    fill(&lab.url(0), "key", keys, value_bytes).await?;
    has_everything(&lab, Instant::now()).await.context("after the store was filled")?;

    let leader = lab.node(0).pid()?;
    let load = Load::new(lab.target()).clients(CLIENTS).keys("key", keys).value_bytes(value_bytes).start()?;
    let begun = Moment::now();
    forget_peak(leader)?;
    sleep(UNDISTURBED).await;
    let (leader_before, struck) = (peak(leader)?, Moment::now());
    forget_peak(leader)?;
    lab.node(VICTIM).kill()?;
    sleep(AWAY).await;
    lab.node(VICTIM).start()?;
    let (started, restarted) = (Instant::now(), Moment::now());
    let caught_up = watched(&lab, &load, started).await?;
    let (back, leader_peak) = (Moment::now(), peak(leader)?);
    let follower_peak = peak(lab.node(VICTIM).pid()?)?;

    let report = load.stop().await?;
    report.expect_no_failure()?;
    same_content(&lab, &report).await?;
    let (before, during) = (writes(&report, begun, struck), writes(&report, restarted, back));
    Ok(Recovery { setup, caught_up, follower_peak, leader_before, leader_peak, before, during })
}

async fn watched(lab: &Lab, load: &Running, started: Instant) -> anyhow::Result<Duration> {
    has_everything(lab, started).await.with_context(|| format!("{} writes meanwhile", load.acked()))
}

/// Waits until the follower holds all that the leader's log held at the look before; how long it took.
async fn has_everything(lab: &Lab, since: Instant) -> anyhow::Result<Duration> {
    let mut wanted = None;
    loop {
        let status = lab.status(0).await?;
        let name = lab.url(VICTIM);
        let follower = status.followers.iter().find(|follower| follower.url == name).context("a follower")?;
        if follower.connected && wanted.is_some_and(|wanted: Seq| follower.match_seq >= wanted) {
            return Ok(since.elapsed());
        }
        ensure!(since.elapsed() < PATIENCE, "not within {PATIENCE:?}: {follower:?} of {}", status.last_seq);
        wanted = Some(status.last_seq);
        sleep(INTERVAL).await;
    }
}

fn writes(report: &Report, from: Moment, to: Moment) -> Writes {
    let within = |returned: Moment| (from..to).contains(&returned);
    let operations = report.operations.iter().filter(|operation| within(operation.returned)).cloned().collect();
    let elapsed = to.since(from);
    let report = Report { operations, elapsed };
    let p99 = Duration::from_secs_f64(report.latencies().percentile_ms(99.0) / 1000.0);
    Writes { a_second: report.writes_per_second(), longest_gap: report.longest_gap(), p99 }
}

/// The follower has as many keys as the leader, and the last values that clients wrote.
async fn same_content(lab: &Lab, report: &Report) -> anyhow::Result<()> {
    has_everything(lab, Instant::now()).await?;
    let (leader, follower) = (lab.status(0).await?, lab.status(VICTIM).await?);
    ensure!(leader.keys == follower.keys, "the follower holds {} of {} keys", follower.keys, leader.keys);
    for operation in report.operations.iter().rev().take(100) {
        let ask = |node: usize| async move { lab.client().get(&lab.url(node), &operation.key, "").await };
        let (expected, found) = (ask(0).await?, ask(VICTIM).await?);
        ensure!(expected.body["version"] == found.body["version"], "{} differs: {}", operation.key, found.text);
        ensure!(expected.body["value"] == found.body["value"], "{} differs: {}", operation.key, found.text);
    }
    Ok(())
}

/// Most memory that a process had since its start, or since that was forgotten, in MiB.
fn peak(process: Pid) -> anyhow::Result<u64> {
    let status =
        fs::read_to_string(format!("/proc/{}/status", process.as_raw_nonzero())).context("a process's status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| format!("VmHWM:{line}"))?;
    Ok(kib >> 10)
}

/// Lets the peak begin with what the process has now.
fn forget_peak(process: Pid) -> anyhow::Result<()> {
    fs::write(format!("/proc/{}/clear_refs", process.as_raw_nonzero()), "5").context("a process's peak memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_can_be_forgotten() {
        let own = rustix::process::getpid();
        let many = vec![1_u8; 64 << 20];
        let high = peak(own).expect("a peak");
        assert!(high >= 64 && many.len() > 1);
        drop(many);
        forget_peak(own).expect("one's own peak");
        assert!(peak(own).expect("a peak") < high);
    }
}

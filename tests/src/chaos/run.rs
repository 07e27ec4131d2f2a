//! One run: a store, clients, rounds of faults, and the check of it all.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use quorumkv_api::{NodeId, peer::NodeState};

use super::{
    journal::Journal,
    schedule::{FIRST_QUORUM, FOLLOWERS, Planned, Schedule, Setup},
    strike::Striker,
};
use crate::{
    client::LabClient,
    follower_reads::FollowerReads,
    history::{Action, Outcome, check_with_content},
    load::{Load, Policy, Report, Running, Target},
    processes::{Hosts, LocalOperator, Manifest},
    wait,
};

/// How long the store may take until every copy counts again, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client waits for an answer: longer than the store lets a write wait.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(3);
/// Keys that are written; few, so that each is in use all the time.
const KEYS: usize = 20;

/// What a run did.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Seed of its schedule.
    pub seed: u64,
    /// What store and network were like.
    pub setup: Setup,
    /// Rounds of faults.
    pub rounds: usize,
    /// Faults in them, by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Writes that clients tried.
    pub attempted: usize,
    /// Writes that were acknowledged; none of them is lost.
    pub acked: usize,
    /// Writes of which no client knows whether they were done.
    pub unknown: usize,
    /// Linearizable reads that were answered.
    pub reads: usize,
    /// Reads as from a follower that were answered.
    pub follower_reads: usize,
    /// The longest time in which no write was acknowledged.
    pub longest_outage: Duration,
    /// Epochs begun.
    pub elections: u64,
    /// From the first write to the last.
    pub elapsed: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            setup,
            rounds,
            faults,
            attempted: _,
            acked,
            unknown,
            reads,
            follower_reads,
            longest_outage,
            elections,
            elapsed,
        } = self;
        write!(
            f,
            "{setup}, seed {seed}: {acked} writes acknowledged, lost 0, unknown {unknown}, {reads} linearizable reads, \
             {follower_reads} from followers, longest write outage {:.2} s, elections {elections}; {rounds} rounds in \
             {:.0} s:",
            longest_outage.as_secs_f64(),
            elapsed.as_secs_f64(),
        )?;
        for (number, (kind, times)) in faults.iter().enumerate() {
            let separator = if number == 0 { "" } else { "," };
            write!(f, "{separator} {times} {kind}")?;
        }
        Ok(())
    }
}

/// Runs the schedule of `seed` until `time` is over and the round under way is mended, and checks everything.
///
/// # Errors
/// When the store does not recover, or the history is none of a correct store; the message holds what was done,
/// the end of the operator's output, and `again`, which does it again.
pub async fn run(setup: Setup, seed: u64, time: Duration, again: &str) -> anyhow::Result<Summary> {
    let manifest = first_manifest(setup);
    let hosts = if setup.partitions { Hosts::Own } else { Hosts::Shared };
    let mut operator = LocalOperator::start_on(&manifest, hosts).await?;
    let striker = Striker::new(&operator, manifest)?;
    let outcome = strike_and_check(&striker, Schedule::new(setup, seed), (setup, seed), time).await;
    let told = |error: anyhow::Error| {
        anyhow::anyhow!(
            "chaos {setup}, seed {seed}: {error:#}\nThe same schedule again: {again}\n{}\n{}",
            striker.journal().text(),
            operator.output_end(60),
        )
    };
    let summary = outcome.map_err(told)?;
    let striker_journal = striker.journal().text();
    ensure!(operator.interrupt().await?.success(), "seed {seed}: the operator ends in good order");
    let left = operator.listeners()?;
    let programs: Vec<_> = left.iter().map(|(_, pid)| std::fs::read_link(format!("/proc/{pid}/exe")).ok()).collect();
    ensure!(
        left.is_empty(),
        "seed {seed}: the operator leaves behind {left:?} {programs:?}\n{}\n{}",
        striker_journal,
        operator.output_end(60)
    );
    Ok(summary)
}

fn first_manifest(setup: Setup) -> Manifest {
    Manifest {
        followers: usize::from(FOLLOWERS),
        write_quorum: FIRST_QUORUM,
        write_timeout: Duration::from_secs(2),
        storage: setup.storage,
        ..Manifest::default()
    }
}

/// A store that faults are carried out on.
pub(super) trait Arena {
    /// Speaks to client ports.
    fn client(&self) -> &LabClient;
    /// Client URLs of all nodes.
    fn urls(&self) -> Vec<String>;
    /// Client URL of one of them.
    fn url_of(&self, node: &NodeId) -> anyhow::Result<String>;
    /// Where a load writes.
    fn target(&self) -> anyhow::Result<Target>;
    /// Carries out a round, to its end.
    async fn strike(&self, round: &[Planned]) -> anyhow::Result<()>;
    /// Waits until every copy counts, under the settings that were asked for last; the leader's state.
    async fn whole(&self) -> anyhow::Result<NodeState>;
    /// What was done.
    fn journal(&self) -> &Journal;
}

/// Strikes with one round after the other until `time` is over, and checks everything.
pub(super) async fn strike_and_check(
    arena: &impl Arena,
    schedule: Schedule,
    (setup, seed): (Setup, u64),
    time: Duration,
) -> anyhow::Result<Summary> {
    let first = arena.whole().await?;
    let (clients, stubborn) = clients(arena)?;
    let readers = FollowerReads::start(&arena.urls(), "k", KEYS, CLIENT_TIMEOUT);
    clients.acked_more(50, PATIENCE).await?;

    let began = Instant::now();
    let mut rounds = 0;
    let mut last = first.clone();
    for round in schedule {
        if began.elapsed() >= time {
            break;
        }
        arena.strike(&round).await?;
        last = arena.whole().await?;
        clients.acked_more(30, PATIENCE).await.context("writes go on after a round")?;
        arena.journal().note(&format!("every copy counts in epoch {}", last.epoch));
        rounds += 1;
    }

    let mut report = clients.stop().await?;
    for one in stubborn {
        report.operations.extend(one.stop().await?.operations);
    }
    let follower_reads = readers.stop().await?;
    let summary = Summary {
        seed,
        setup,
        rounds,
        faults: arena.journal().kinds(),
        attempted: report.acked() + report.failed().count(),
        acked: report.acked(),
        unknown: report.operations.iter().filter(|operation| is_unknown(&operation.action)).count(),
        reads: report.reads(),
        follower_reads: follower_reads.len(),
        longest_outage: report.longest_gap(),
        elections: last.epoch.0 - first.epoch.0,
        elapsed: report.elapsed,
    };
    report.operations.extend(follower_reads);
    check(arena, &arena.url_of(&last.node)?, &report).await?;
    Ok(summary)
}

const fn is_unknown(action: &Action) -> bool {
    matches!(action, Action::Write { outcome: Outcome::Unknown { .. }, .. })
}

/// Clients that follow the leader, and for each node one that never leaves it: it is there when a leader that
/// was replaced without noticing wakes up.
fn clients(arena: &impl Arena) -> anyhow::Result<(Running, Vec<Running>)> {
    let following = Load::new(arena.target()?).clients(6).keys("k", KEYS).reads_percent(50).request_ids();
    let following = following.policy(Policy::Follow { patience: PATIENCE }).timeout(CLIENT_TIMEOUT).start()?;
    let stubborn = arena.urls().into_iter().map(|url| {
        let load = Load::new(Target::new(&url, [&url])).keys("k", KEYS).reads_percent(80);
        load.timeout(CLIENT_TIMEOUT).start()
    });
    Ok((following, stubborn.collect::<anyhow::Result<_>>()?))
}

/// No acknowledged write is lost, no read was stale, and all replicas are equal. The history comes first: it says
/// which write is lost where replicas only differ.
async fn check(arena: &impl Arena, leader: &str, report: &Report) -> anyhow::Result<()> {
    let content = arena.client().final_values(leader).await?;
    check_with_content(&report.operations, &content)?;
    wait::until("all replicas are equal", PATIENCE, || async {
        for url in arena.urls() {
            let found = arena.client().final_values(&url).await?;
            let differs = |key: &&String| found.get(*key) != content.get(*key);
            let keys: Vec<&String> = found.keys().chain(content.keys()).filter(differs).take(5).collect();
            ensure!(keys.is_empty(), "{url} differs from the leader {leader} in {keys:?}");
        }
        Ok(())
    })
    .await
}

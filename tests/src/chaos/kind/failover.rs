//! How long a KvCluster takes no writes when its leader goes away.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::future::join_all;
use reqwest::StatusCode;
use tokio::time::sleep;

use super::{down, strike::Striker, up};
use crate::{
    chaos::{failover::Outages, run::Arena as _},
    client::LabClient,
    kind::{filter::Filter, store::Store},
    processes::Storage,
    wait,
};

/// How long to wait for writes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the store lets a write wait.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause between two writes to the same node.
const INTERVAL: Duration = Duration::from_millis(10);
/// How long the leader takes writes before it goes.
const UNDISTURBED: Duration = Duration::from_millis(500);

/// How the leader goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// `kubectl delete pod`, with the time to end in good order.
    Deleted,
    /// SIGKILL to its process.
    Killed,
    /// SIGSTOP to its process, and SIGCONT when another leads.
    Halted,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deleted => "kubectl delete pod",
            Self::Killed => "kill -9",
            Self::Halted => "SIGSTOP",
        })
    }
}

/// Makes a store, takes its leader away so many times in each way, at least once, and removes the store.
///
/// # Errors
/// When the store does not recover; it is left as it is then.
pub async fn measure(store: &Store, system: &str, times: usize) -> anyhow::Result<Vec<Outages<Departure>>> {
    let settings = up(store, Storage::Memory, WRITE_TIMEOUT).await?;
    let filter = Filter::open(&store.kind).await?;
    let striker = Striker::new(store, system, &filter, settings).await?;
    let mut rows = Vec::new();
    for departure in [Departure::Deleted, Departure::Killed, Departure::Halted] {
        let mut times_of = Vec::new();
        for _ in 0..times.max(1) {
            times_of.push(outage(store, &striker, departure).await.with_context(|| departure.to_string())?);
        }
        times_of.sort_unstable();
        rows.push(Outages { departure, times: times_of });
    }
    filter.close().await?;
    down(store).await?;
    Ok(rows)
}

/// Writes to all nodes all the time and takes the leader away; from the last write that it acknowledged until another
/// node acknowledged one.
async fn outage(store: &Store, striker: &Striker<'_>, departure: Departure) -> anyhow::Result<Duration> {
    fresh(store, striker).await?;
    let leader = striker.whole().await?.node;
    let leads = striker.url_of(&leader)?;
    // A write that a node holds back must not count as answered late, so the wait ends long after any outage.
    let client = LabClient::new(PATIENCE)?;
    let written = Mutex::new(Vec::new());
    let urls = striker.urls();
    let writers = join_all(urls.iter().map(|url| write(&client, url, &written)));
    let taken = async {
        sleep(UNDISTURBED).await;
        let namespace = store.namespace;
        let container = store.kind.container(namespace, &leader.0).await?;
        match departure {
            Departure::Deleted => store.delete_pod(&leader.0).await?,
            Departure::Killed => store.kind.signal_container(&container, "SIGKILL").await?,
            Departure::Halted => store.kind.signal_container(&container, "SIGSTOP").await?,
        }
        let outage = wait::until("a write is acknowledged by another leader", PATIENCE, || async {
            between(&written.lock().expect("nobody panics while noting a write"), &leads)
        });
        let outage = outage.await;
        if departure == Departure::Halted {
            store.kind.signal_container(&container, "SIGCONT").await?;
        }
        outage
    };
    tokio::select! {
        outage = taken => outage,
        _ = writers => anyhow::bail!("writers never end"),
    }
}

/// No pod in which a container was started again: the next time that would be put off.
async fn fresh(store: &Store, striker: &Striker<'_>) -> anyhow::Result<()> {
    let leader = striker.whole().await?.node.0;
    for (pod, seen) in store.pods().await? {
        if seen.restarts > 0 && pod != leader {
            striker.renew(&pod).await?;
        }
    }
    Ok(())
}

/// Writes to one node for ever, and notes when it acknowledged.
async fn write<'a>(client: &LabClient, url: &'a str, written: &Mutex<Vec<(&'a str, Instant)>>) {
    loop {
        let answer = client.set(url, "probe", "written").await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            written.lock().expect("nobody panics while noting a write").push((url, Instant::now()));
        }
        sleep(INTERVAL).await;
    }
}

/// The time between the last write that the old leader acknowledged and the first one of another.
fn between(written: &[(&str, Instant)], old: &str) -> anyhow::Result<Duration> {
    let first = written.iter().position(|(url, _)| *url != old).context("not yet")?;
    let last = written[..first].iter().rev().find(|(url, _)| *url == old);
    let (_, last) = last.context("the old leader acknowledged none")?;
    ensure!(first > 0, "another node acknowledged the first write");
    Ok(written[first].1.saturating_duration_since(*last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_between_the_last_write_of_one_leader_and_the_first_of_another() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let written = [("a", at(0)), ("a", at(10)), ("b", at(1510)), ("b", at(1520))];
        assert_eq!(between(&written, "a").expect("an outage"), Duration::from_millis(1500));
        between(&written[..2], "a").expect_err("it is not over");
    }
}

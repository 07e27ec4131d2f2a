//! How long the store takes no writes when its leader goes away.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::future::{join, select_all};
use quorumkv_api::Settings;
use reqwest::StatusCode;
use rustix::process::{Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::copies::Copies;
use crate::{
    client::LabClient,
    processes::{LocalOperator, Manifest},
};

/// How long to wait for writes, and for every copy to count again, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two attempts at the same node.
const INTERVAL: Duration = Duration::from_millis(10);

/// How the leader goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// SIGKILL: the manager sees at once that the process is gone.
    Killed,
    /// SIGSTOP: the process is there and says nothing, until another leads.
    Halted,
    /// A switchover: it is well, and another one is asked for.
    Relieved,
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "kill -9",
            Self::Halted => "SIGSTOP",
            Self::Relieved => "switchover",
        })
    }
}

/// Outages of one kind: a row of the table.
#[derive(Debug, Clone)]
pub struct Outages<Way = Departure> {
    /// How the leader went away.
    pub departure: Way,
    /// From the signal (of a switchover: from the last write that the old leader acknowledged) until another node
    /// acknowledged a write, each time; sorted, never empty.
    pub times: Vec<Duration>,
}

impl<Way> Outages<Way> {
    /// Half of the outages were not longer; the longer of the two in the middle of an even number.
    #[must_use]
    pub fn median(&self) -> Duration {
        self.times[self.times.len() / 2]
    }

    /// The longest outage.
    #[must_use]
    pub fn worst(&self) -> Duration {
        self.times[self.times.len() - 1]
    }
}

/// Head of the table that [`Outages`] are rows of.
pub const TABLE_HEAD: &str = "| leader goes away by | times | median until a write is acknowledged | worst |\n\
                              | --- | --- | --- | --- |";

impl<Way: fmt::Display> fmt::Display for Outages<Way> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (median, worst) = (self.median().as_secs_f64(), self.worst().as_secs_f64());
        write!(f, "| {} | {} | {median:.2} s | {worst:.2} s |", self.departure, self.times.len())
    }
}

/// Starts a store and takes its leader away so many times, at least once.
///
/// # Errors
/// When the store does not recover; the message holds the end of the operator's output.
pub async fn measure(departure: Departure, times: usize) -> anyhow::Result<Outages> {
    let manifest = Manifest::default();
    let mut operator = LocalOperator::start(&manifest).await?;
    let measured = repeat(&operator, departure, times.max(1)).await;
    let times = measured.with_context(|| format!("{departure}: {}", operator.output_end(40)))?;
    anyhow::ensure!(operator.interrupt().await?.success(), "the operator ends in good order");
    Ok(Outages { departure, times })
}

async fn repeat(operator: &LocalOperator, departure: Departure, times: usize) -> anyhow::Result<Vec<Duration>> {
    let copies = Copies::of(operator);
    // A write that a node holds back must not count as answered late, so the wait ends long after any outage.
    let client = LabClient::new(PATIENCE)?;
    let mut outages = Vec::with_capacity(times);
    for _ in 0..times {
        copies.all_count(Settings::default(), PATIENCE).await?;
        outages.push(outage(operator, &client, departure).await?);
    }
    outages.sort_unstable();
    Ok(outages)
}

async fn outage(operator: &LocalOperator, client: &LabClient, departure: Departure) -> anyhow::Result<Duration> {
    let (leader, _) = operator.leader().await?;
    let others: Vec<String> = operator.urls().into_iter().filter(|url| *url != leader).collect();
    let writes = others.iter().map(|url| Box::pin(written(client, url)));
    let written = async {
        select_all(writes).await;
        Instant::now()
    };
    let late = || format!("no write was acknowledged within {PATIENCE:?}");
    if departure == Departure::Relieved {
        let wanted = others[0].trim_start_matches("http://").to_owned();
        operator.save(&Manifest { switchover_to: Some(wanted), ..Manifest::default() }.to_string())?;
        // The old leader takes writes until it is fenced: the gap between its last and the first of another counts.
        let both = timeout(PATIENCE, join(written, last_written(client, &leader))).await;
        let (first, last) = both.with_context(late)?;
        return Ok(first.saturating_duration_since(last?));
    }
    let pid = operator.node_pid(&leader)?;
    let signal = if departure == Departure::Killed { Signal::KILL } else { Signal::STOP };
    kill_process(pid, signal).context("the leader runs")?;
    let gone = Instant::now();
    let written = timeout(PATIENCE, written).await;
    if departure == Departure::Halted {
        kill_process(pid, Signal::CONT).context("the old leader is only halted")?;
    }
    Ok(written.with_context(late)?.saturating_duration_since(gone))
}

/// Writes to one node until it no longer acknowledges; when it last did.
async fn last_written(client: &LabClient, url: &str) -> anyhow::Result<Instant> {
    let mut last = None;
    loop {
        let answer = client.set(url, "probe", "written").await;
        if !answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return last.context("the leader takes writes before the switchover");
        }
        last = Some(Instant::now());
    }
}

/// Writes to one node until it acknowledges.
async fn written(client: &LabClient, url: &str) {
    loop {
        let answer = client.set(url, "probe", "written").await;
        if answer.is_ok_and(|answer| answer.status == StatusCode::OK) {
            return;
        }
        sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_tells_median_and_worst() {
        let times = [1, 2, 3, 9].map(Duration::from_secs).to_vec();
        let outages = Outages { departure: Departure::Halted, times };
        assert_eq!(outages.to_string(), "| SIGSTOP | 4 | 3.00 s | 9.00 s |");
    }
}

//! How long the store takes no writes when its leader goes away.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::Context;
use futures::future::select_all;
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
}

impl fmt::Display for Departure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Killed => "kill -9",
            Self::Halted => "SIGSTOP",
        })
    }
}

/// Outages of one kind: a row of the table.
#[derive(Debug, Clone)]
pub struct Outages {
    /// How the leader went away.
    pub departure: Departure,
    /// From the signal until another node acknowledged a write, each time; sorted, never empty.
    pub times: Vec<Duration>,
}

impl Outages {
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

impl fmt::Display for Outages {
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
    let copies = Copies::of(operator)?;
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
    let pid = operator.node_pid(&leader)?;
    let signal = match departure {
        Departure::Killed => Signal::KILL,
        Departure::Halted => Signal::STOP,
    };
    kill_process(pid, signal).context("the leader runs")?;
    let gone = Instant::now();
    let others = operator.urls().into_iter().filter(|url| *url != leader);
    let writes = others.map(|url| Box::pin(async move { written(client, &url).await }));
    let written = timeout(PATIENCE, select_all(writes)).await;
    let outage = gone.elapsed();
    if departure == Departure::Halted {
        kill_process(pid, Signal::CONT).context("the old leader is only halted")?;
    }
    written.with_context(|| format!("no write was acknowledged within {PATIENCE:?}"))?;
    Ok(outage)
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

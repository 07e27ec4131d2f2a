//! `quorum_analysis`: what each write quorum costs.
//!
//! Sets each quorum in turn while the store runs, waits until it is in force, and measures the lab's load. The
//! result is a picture ([`picture`]), a report that compares it with the lab's figures ([`published`]) and with
//! what no store can beat ([`limit`]), and JSON. What it changed it puts back.

pub mod limit;
pub mod picture;
pub mod published;
mod report;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Parser;
use quorumkv_api::Delay;
use serde::Serialize;

use self::{
    limit::{Limit, LimitFigures},
    published::Published,
};
use super::{
    checks::{Check, Checks, all_passed},
    consistency::{self, EXIT_CODES},
    integration::positive,
    options::{DelayOptions, Output, TargetOptions},
    program::{self, Failure, json_text},
    settings::Original,
    store::{Beginning, Store},
    workload::{Measured, Workload},
};
use crate::drawing;

/// Measures every write quorum, from one follower to all: by default 120 writes on 15 keys by 12 clients each.
#[derive(Debug, Parser)]
#[command(name = "quorum_analysis", version, after_help = EXIT_CODES)]
pub struct Options {
    #[command(flatten)]
    delay: DelayOptions,

    /// Quorums to measure [default: from 1 to the number of followers]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..))]
    quorums: Vec<u8>,

    /// Writes with each quorum, of all clients together
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    writes: u64,

    /// Keys that they are spread over
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = positive)]
    keys: usize,

    /// Clients, each with one write under way
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = positive)]
    clients: usize,

    /// Also check that mean latency is within 2 % + 1 ms of the limit, and throughput at least 97 % of clients /
    /// mean latency. Wants a calm machine and some thousand writes: with few, chance alone is larger
    #[arg(long)]
    strict: bool,

    /// Folder for picture, report and JSON
    #[arg(long, value_name = "FOLDER", default_value = "results")]
    results: PathBuf,

    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,

    #[command(flatten)]
    target: TargetOptions,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// What was measured.
    pub store: String,
    /// Whether every check held.
    pub passed: bool,
    /// Number of followers.
    pub followers: u8,
    /// Simulated round trip.
    pub delay: Delay,
    /// Clients, each with one write under way.
    pub clients: usize,
    /// Writes with each quorum.
    pub writes: u64,
    /// Keys that they were spread over.
    pub keys: usize,
    /// By quorum.
    pub levels: Vec<Level>,
    /// Each check, in order.
    pub checks: Vec<Check>,
    /// Files that were written; not yet known in those files themselves.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
}

/// What one quorum costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Level {
    /// The quorum.
    pub write_quorum: u8,
    /// What the writes cost.
    pub measured: Measured,
    /// What the simulated delay alone costs.
    pub limit: LimitFigures,
    /// What the lab published; nothing where something else was measured.
    pub published: Option<Published>,
}

impl program::Options for Options {
    fn output(&self) -> Output {
        self.output
    }
}

impl program::Report for Analysis {
    fn passed(&self) -> bool {
        self.passed
    }
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        report::terminal(self, f)
    }
}

/// What is measured with every quorum.
#[derive(Clone, Copy)]
struct Plan {
    delay: Delay,
    workload: Workload,
    followers: u8,
    strict: bool,
}

/// Does what the arguments say.
///
/// # Errors
/// When a signal ended it, a quorum could not be set, or the files cannot be written.
pub async fn run(options: Options, context: &program::Context) -> Result<Analysis, Failure> {
    let Options { target, delay, quorums, writes, keys, clients, strict, results, output: _ } = options;
    let delay = delay.delay().map_err(Failure::wrong_argument)?;
    // Known before anything is measured, or changed.
    fs::create_dir_all(&results)
        .with_context(|| format!("the folder {}", results.display()))
        .map_err(Failure::WrongUse)?;
    let store = Store::open(&target, Beginning { write_quorum: 1, delay }, context).await?;
    let followers = u8::try_from(store.followers().len()).context("so many followers").map_err(Failure::WrongUse)?;
    let quorums = if quorums.is_empty() { (1..=followers).collect() } else { quorums };
    if let Some(above) = quorums.iter().find(|quorum| **quorum > followers) {
        return Err(Failure::wrong_argument(format!("--quorums {above}: there are {followers} followers")));
    }
    let plan = Plan { delay, workload: Workload { writes, keys, clients }, followers, strict };
    let mut checks = Checks::new(context);
    let original = context.unless_interrupted(async { Ok(store.settings().await?) }).await?;
    let measuring = async {
        let mut levels = Vec::new();
        for quorum in quorums {
            levels.push(measure(&store, quorum, plan, &mut checks, context).await?);
        }
        Ok(levels)
    };
    let levels = store.restoring(context, measuring).await?;
    if !store.embedded {
        check_restored(&store, &original, &mut checks).await;
    }
    let checks = checks.finish();
    let mut analysis = Analysis {
        store: store.description.clone(),
        passed: all_passed(&checks),
        followers,
        delay,
        clients,
        writes,
        keys,
        levels,
        checks,
        files: Vec::new(),
    };
    analysis.files = analysis.write_files(&results)?;
    Ok(analysis)
}

/// Sets a quorum and measures it.
async fn measure(
    store: &Store,
    quorum: u8,
    plan: Plan,
    checks: &mut Checks<'_>,
    context: &program::Context,
) -> Result<Level, Failure> {
    let Plan { delay, workload, followers, strict } = plan;
    let before = store.change_settings(quorum, delay).await?;
    let mut measured = workload.run(store, "analysis", &format!("write quorum {quorum}"), context).await?;
    let after = store.status().await?;
    store.ensure_in_force(&after, quorum, delay)?;
    // The leader counts from the last change. Where nothing had to be changed, others' writes are in it too.
    if before.replication_latency.count == 0 {
        measured = measured.with_replication(store).await?;
    }
    let limit = Limit::new(delay, quorum, followers);
    let name = |what: &str| format!("quorum {quorum}: {what}");
    measured.check_success(name("writes"), workload.writes, checks);
    measured.check_replicas(name("replicas"), quorum, checks);
    check_latency(&name("mean latency"), &measured, limit, strict, checks);
    if strict {
        check_throughput(name("throughput"), &measured, workload.clients, checks);
    }
    consistency::check(store, name("consistency"), checks).await;
    let published = (delay == published::DELAY && workload.clients == published::CLIENTS && followers == 5)
        .then(|| published::figures_of(quorum))
        .flatten();
    Ok(Level { write_quorum: quorum, measured, limit: limit.figures(workload.clients), published })
}

/// A mean below the limit, by more than chance explains, means that writes were answered before their quorum
/// confirmed them. One above it is the store's and the machine's own time, which only a strict run judges.
fn check_latency(name: &str, measured: &Measured, limit: Limit, strict: bool, checks: &mut Checks<'_>) {
    let Some(latency) = measured.latency_ms else {
        return checks.record(name, "some latency", false, "no write was acknowledged");
    };
    let chance = 5.0 * limit.deviation_ms() / (latency.count as f64).sqrt();
    let least = limit.mean_ms() - chance;
    let most = limit.mean_ms() * 1.02 + 1.0;
    let expected = if strict {
        format!("{least:.1} to {most:.1} ms (the limit {:.1} ms; 2 % + 1 ms above)", limit.mean_ms())
    } else {
        format!("at least {least:.1} ms (the limit {:.1} ms less five standard errors)", limit.mean_ms())
    };
    let good = latency.mean >= least && (!strict || latency.mean <= most);
    checks.record(name, expected, good, format!("{:.1} ms", latency.mean));
}

fn check_throughput(name: String, measured: &Measured, clients: usize, checks: &mut Checks<'_>) {
    let possible = measured.latency_ms.map_or(0.0, |latency| clients as f64 * 1e3 / latency.mean);
    let share = 100.0 * measured.writes_per_second / possible.max(f64::MIN_POSITIVE);
    let expected = format!("97 % of {clients} clients / mean latency, {possible:.1} writes/s");
    checks.record(name, expected, share >= 97.0, format!("{:.1} writes/s, {share:.1} %", measured.writes_per_second));
}

async fn check_restored(store: &Store, original: &Original, checks: &mut Checks<'_>) {
    let seen = async {
        let now = store.settings().await?;
        anyhow::ensure!(now == *original, "{now:?}");
        Ok("as before".to_owned())
    };
    checks.observed("settings put back", format!("{original:?}"), seen.await);
}

impl Analysis {
    /// Writes picture, report and JSON.
    fn write_files(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let svg = picture::svg(self)?;
        let files: [(&str, Vec<u8>); 4] = [
            ("quorum_analysis.png", drawing::png(&svg)?),
            ("quorum_analysis.svg", svg.into_bytes()),
            ("quorum_analysis.md", report::markdown(self).into_bytes()),
            ("quorum_analysis.json", json_text(self).into_bytes()),
        ];
        let mut written = Vec::new();
        for (name, content) in files {
            let path = folder.join(name);
            fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
            written.push(path);
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests;

//! `bench`: what this store can do beside others, and what it costs as things grow.
//!
//! One load ([`generator`]) for all systems ([`system`]), which run as processes of this machine. [`compare`] asks
//! them in turn, [`growth`] lets one thing after the other grow, [`compression`] asks with large values over fast and
//! slow networks, [`bars`] says what is wanted, [`report`] writes it down, [`picture`] draws it. Speed never fails the
//! command: what is judged stands in the report.

pub mod answer;
pub mod bars;
pub mod compare;
pub mod compression;
pub mod connection;
pub mod figures;
pub mod generator;
pub mod growth;
pub mod machine;
mod measuring;
pub mod picture;
pub mod report;
pub mod request;
pub mod schedule;
pub mod spread;
pub mod system;
pub mod usage;

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use serde::Serialize;

use self::{
    bars::Bar,
    compare::Choice,
    figures::Rows,
    growth::{KeyMemory, Sizes},
    machine::Machine,
    system::{Storage, System},
};
pub use self::{measuring::Measuring, system::serve_bare};
use crate::lab::{
    analysis,
    checks::Check,
    options::Output,
    program::{self, Failure},
};

/// Size of a value where nothing else is said, in bytes.
pub const VALUE_BYTES: usize = 256;
/// Connections that fill a store.
const CONNECTIONS_OF_FILLING: usize = 64;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Systems beside each other.
    Compare,
    /// This store, as keys, values, followers and connections grow.
    Growth,
    /// This store with a simulated delay, beside what that alone costs.
    Delay,
    /// This store with large values, compressed on the way to followers or not.
    Compression,
}

/// Measures this store beside Redis, etcd and a bare HTTP server, all on this machine.
#[derive(Debug, Parser)]
#[command(name = "bench", version)]
pub struct Options {
    /// Parts to measure [default: all]
    #[arg(long = "part", value_name = "PART,…", value_delimiter = ',', value_enum)]
    parts: Vec<Part>,

    /// Systems to compare [default: all]
    #[arg(long, value_name = "SYSTEM,…", value_delimiter = ',', value_enum)]
    only: Vec<System>,

    /// Where the compared systems keep data [default: both]
    #[arg(long, value_name = "STORAGE,…", value_delimiter = ',', value_enum)]
    storage: Vec<Storage>,

    /// Quorums to compare with [default: 1,3,5]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = clap::value_parser!(u8).range(1..=5))]
    quorums: Vec<u8>,

    /// Connections to compare with [default: 1,64,256]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    connections: Vec<usize>,

    /// How long each measurement counts [default: 2]
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,

    /// How often each is repeated [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    repeats: Option<u8>,

    /// Tiny numbers, to see that it works. What it measures means nothing
    #[arg(long)]
    quick: bool,

    /// Folder for report and picture [default: results; results/tmp if anything was left out]
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,

    /// Measures compression alone and in this network namespace, where the leader's streams have so many Mbit/s
    #[arg(long, value_name = "MBIT", hide = true)]
    limit: Option<u32>,

    /// How to print the result
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found {
    /// The arguments of the program.
    pub command: String,
    /// Where.
    pub machine: Machine,
    /// What is missing, and what went wrong with other systems.
    pub notes: Vec<String>,
    /// What is wanted, and what of it was reached.
    pub bars: Vec<Bar>,
    /// All figures.
    pub rows: Rows,
    /// What a key takes.
    pub key_memory: Option<KeyMemory>,
    /// What the delay experiment checked.
    pub delay: Vec<Check>,
    /// What compression saves and costs.
    pub compression: Vec<compression::Sample>,
}

impl program::Options for Options {
    fn output(&self) -> Output {
        self.output
    }
}

impl program::Report for Found {
    fn passed(&self) -> bool {
        true
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&report::tables(self))
    }
}

/// Does what the arguments say.
///
/// # Errors
/// When this store fails, a signal ended it, or the report cannot be written.
pub async fn run(options: Options, context: &program::Context) -> Result<Found, Failure> {
    let Options { parts, only, storage, quorums, connections, seconds, repeats, quick, results, limit, output: _ } =
        options;
    let all = parts.is_empty() && only.is_empty() && storage.is_empty() && quorums.is_empty() && connections.is_empty();
    let folder = results.unwrap_or_else(|| if all && !quick { "results" } else { "results/tmp" }.into());
    let seconds = seconds.unwrap_or(if quick { 0.2 } else { 2.0 });
    let length = Duration::try_from_secs_f64(seconds).map_err(Failure::wrong_use)?;
    if length.is_zero() {
        return Err(Failure::wrong_argument("--seconds 0: nothing would be counted"));
    }
    let choice = choice(only, storage, quorums, connections, quick);
    let repeats = usize::from(repeats.unwrap_or(if quick { 1 } else { 3 }));
    let mut measuring = Measuring::new(context, repeats, length);
    measuring.look_for(&choice.systems);
    let has = |part: Part| parts.is_empty() || parts.contains(&part);
    let machine = Machine::look();
    if has(Part::Compare) {
        for repeat in 0..repeats {
            compare::repeat(&choice, repeat, &mut measuring).await?;
        }
    }
    if has(Part::Growth) {
        growth::run(&sizes(quick), &mut measuring).await?;
    }
    let delay = if has(Part::Delay) { delay(quick, context).await? } else { Vec::new() };
    let compression =
        if has(Part::Compression) { compression::run(quick, limit, &mut measuring).await? } else { Vec::new() };
    let Measuring { rows, notes, .. } = measuring;
    let (bars, key_memory) = (bars::judge(&rows, &delay), growth::key_memory(&rows));
    let found = Found { command: machine::command(), machine, notes, bars, rows, key_memory, delay, compression };
    let written = report::write(&found, &folder)?;
    context.progress(format!("written: {} in {}", written.join(", "), folder.display()));
    Ok(found)
}

fn choice(
    systems: Vec<System>,
    storages: Vec<Storage>,
    quorums: Vec<u8>,
    connections: Vec<usize>,
    quick: bool,
) -> Choice {
    fn or<T>(given: Vec<T>, usual: Vec<T>) -> Vec<T> {
        if given.is_empty() { usual } else { given }
    }
    Choice {
        systems: or(systems, System::value_variants().to_vec()),
        storages: or(storages, Storage::value_variants().to_vec()),
        quorums: or(quorums, if quick { vec![1, 3] } else { vec![1, 3, 5] }),
        connections: or(connections, if quick { vec![1, 4] } else { vec![1, 64, 256] }),
        keys: if quick { 100 } else { 10_000 },
    }
}

fn sizes(quick: bool) -> Sizes {
    if quick {
        return Sizes {
            keys: vec![100, 1000],
            values: vec![16, 4096],
            followers: vec![1, 2],
            connections: vec![1, 8],
            usual_connections: 4,
            usual_keys: 100,
            usual_followers: 2,
        };
    }
    Sizes {
        keys: vec![1000, 10_000, 100_000, 1_000_000],
        // The largest request is one of 1 MiB, in which there is more than the value.
        values: vec![16, 256, 4096, 64 << 10, (1 << 20) - 256],
        followers: vec![1, 3, 5, 7, 9],
        connections: vec![1, 4, 16, 64, 256, 1024],
        usual_connections: 64,
        usual_keys: 10_000,
        usual_followers: 5,
    }
}

/// The lab's own experiment, judged strictly. Its files stand elsewhere in full.
async fn delay(quick: bool, context: &program::Context) -> Result<Vec<Check>, Failure> {
    let folder = tempfile::tempdir().context("a folder for the analysis")?;
    let results = folder.path().display().to_string();
    let usual: &[&str] = &["quorum_analysis", "--strict", "--writes", "2400", "--results", &results];
    let few: &[&str] = &["quorum_analysis", "--max-delay", "12ms", "--writes", "24", "--results", &results];
    let options = analysis::Options::try_parse_from(if quick { few } else { usual }).map_err(Failure::wrong_use)?;
    let mut checks = analysis::run(options, context).await?.checks;
    checks.retain(|check| check.name.contains("mean latency") || check.name.contains("throughput"));
    Ok(checks)
}

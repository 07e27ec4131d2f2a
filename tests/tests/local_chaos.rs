//! Chaos on local processes: seeded faults under load, and how long a failover takes.
//!
//! Without settings it takes less than a minute; `make soak` and `make failover-table` run longer:
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `QUORUMKV_CHAOS_SECONDS` | 20 | time for faults, all runs together |
//! | `QUORUMKV_CHAOS_SEEDS` | 1 | seeds of the schedules, comma-separated, in turn; `random`: another one for each run |
//! | `QUORUMKV_FAILOVERS` | 5 | how often the leader goes away in each way |
//!
//! A run takes a minute at most; then the next one begins with a new store and the next seed.

use std::{
    env::VarError,
    process::ExitCode,
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_tests::chaos::{
    failover::{Departure, TABLE_HEAD, measure},
    run::run,
};

/// A run's history is kept in memory until it is checked.
const LONGEST_RUN: Duration = Duration::from_secs(60);
/// Less time than this is not worth another store.
const SHORTEST_RUN: Duration = Duration::from_secs(10);
/// No failover may take longer, even on a busy machine. What is aimed at is far below.
const LONGEST_FAILOVER: Duration = Duration::from_secs(15);

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Beside chaos, no time would mean anything.
    arguments.test_threads = Some(1);
    let trials = vec![
        Trial::test("faults_under_load_lose_no_acknowledged_write_and_show_no_stale_read", || {
            in_runtime(faults_under_load())
        }),
        Trial::test("a_leader_that_goes_away_is_replaced_in_good_time", || in_runtime(failover_table())),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn in_runtime(test: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failed::from)?;
    runtime.block_on(test).map_err(|error| Failed::from(format!("{error:#}")))
}

async fn faults_under_load() -> anyhow::Result<()> {
    let time = Duration::from_secs(number("QUORUMKV_CHAOS_SECONDS", 20)?);
    let seeds = Seeds::from_environment()?;
    let began = Instant::now();
    for number in 0.. {
        let left = time.saturating_sub(began.elapsed());
        if number > 0 && left < SHORTEST_RUN {
            break;
        }
        let summary = run(seeds.get(number), left.min(LONGEST_RUN)).await?;
        // The runner has begun a line.
        println!("\nchaos, {summary}");
        ensure!(summary.rounds > 0 && summary.acked > 100 && summary.reads > 100, "too little happened: {summary}");
    }
    Ok(())
}

async fn failover_table() -> anyhow::Result<()> {
    let times = number("QUORUMKV_FAILOVERS", 5)?;
    // Two stores that are idle most of the time: side by side they disturb each other less than they take.
    let (killed, halted) = tokio::try_join!(measure(Departure::Killed, times), measure(Departure::Halted, times))?;
    println!("\n{TABLE_HEAD}\n{killed}\n{halted}");
    for outages in [killed, halted] {
        let worst = outages.worst();
        ensure!(worst <= LONGEST_FAILOVER, "{}: {worst:?} is longer than {LONGEST_FAILOVER:?}", outages.departure);
    }
    Ok(())
}

enum Seeds {
    Random,
    Given(Vec<u64>),
}

impl Seeds {
    fn from_environment() -> anyhow::Result<Self> {
        let text = variable("QUORUMKV_CHAOS_SEEDS")?.unwrap_or_else(|| "1".to_owned());
        if text == "random" {
            return Ok(Self::Random);
        }
        let seeds = text.split(',').map(|seed| seed.trim().parse::<u64>());
        let seeds: Result<Vec<u64>, _> = seeds.collect();
        Ok(Self::Given(seeds.with_context(|| format!("QUORUMKV_CHAOS_SEEDS={text}: numbers with commas, or random"))?))
    }

    fn get(&self, number: usize) -> u64 {
        match self {
            Self::Random => u64::from(rand::random::<u32>()),
            Self::Given(seeds) => seeds[number % seeds.len()],
        }
    }
}

fn number<T: FromStr>(name: &str, default: T) -> anyhow::Result<T> {
    let Some(text) = variable(name)? else { return Ok(default) };
    text.parse().ok().with_context(|| format!("{name}={text}: a number is needed"))
}

fn variable(name: &str) -> anyhow::Result<Option<String>> {
    match std::env::var(name) {
        Ok(text) if text.is_empty() => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(VarError::NotPresent) => Ok(None),
        Err(error) => Err(error).context(name.to_owned()),
    }
}

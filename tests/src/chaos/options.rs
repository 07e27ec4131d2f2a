//! What a person may ask of runs, by variables of the environment: for how long, and with which seeds.

use std::{env::VarError, str::FromStr, time::Duration};

use anyhow::{Context, ensure};

use super::run::Summary;

/// A run's history is kept in memory until it is checked.
const LONGEST_RUN: Duration = Duration::from_secs(60);
/// Less time than this is not worth another store.
const SHORTEST_RUN: Duration = Duration::from_secs(10);

/// Runs with one seed after the other for `QUORUMKV_CHAOS_SECONDS` with `QUORUMKV_CHAOS_SEEDS`, in turn.
///
/// # Errors
/// When a run fails, does too little to mean anything, or a variable has no usable value.
pub async fn runs<Run: Future<Output = anyhow::Result<Summary>>>(
    seconds: u64,
    seeds: &str,
    run: impl Fn(u64, Duration) -> Run,
) -> anyhow::Result<Vec<Summary>> {
    let time = Duration::from_secs(number("QUORUMKV_CHAOS_SECONDS", seconds)?);
    let seeds = Seeds::from_environment(seeds)?;
    let longest = (time / seeds.count()).clamp(SHORTEST_RUN, LONGEST_RUN);
    let mut summaries: Vec<Summary> = Vec::new();
    loop {
        // Only the time under load counts, not what it takes to make stores.
        let left = time.saturating_sub(summaries.iter().map(|summary| summary.elapsed).sum());
        if !summaries.is_empty() && left < SHORTEST_RUN {
            return Ok(summaries);
        }
        let summary = run(seeds.get(summaries.len()), left.min(longest)).await?;
        let much = summary.rounds > 0 && summary.acked > 100 && summary.reads > 100 && summary.follower_reads > 100;
        ensure!(much, "too little happened: {summary}");
        summaries.push(summary);
    }
}

enum Seeds {
    Random,
    Given(Vec<u64>),
}

impl Seeds {
    fn from_environment(default: &str) -> anyhow::Result<Self> {
        let text = variable("QUORUMKV_CHAOS_SEEDS")?.unwrap_or_else(|| default.to_owned());
        if text == "random" {
            return Ok(Self::Random);
        }
        let seeds = text.split(',').map(|seed| seed.trim().parse::<u64>());
        let seeds: Result<Vec<u64>, _> = seeds.collect();
        Ok(Self::Given(seeds.with_context(|| format!("QUORUMKV_CHAOS_SEEDS={text}: numbers with commas, or random"))?))
    }

    fn count(&self) -> u32 {
        match self {
            Self::Random => 1,
            Self::Given(seeds) => u32::try_from(seeds.len()).unwrap_or(u32::MAX),
        }
    }

    fn get(&self, number: usize) -> u64 {
        match self {
            Self::Random => u64::from(rand::random::<u32>()),
            Self::Given(seeds) => seeds[number % seeds.len()],
        }
    }
}

/// The number in a variable.
///
/// # Errors
/// When something else is in it.
pub fn number<T: FromStr>(name: &str, default: T) -> anyhow::Result<T> {
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

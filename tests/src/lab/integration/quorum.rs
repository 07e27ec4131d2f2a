//! Quorum behaviour: no write is answered before its quorum confirmed it, and the quorum can be turned.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use quorumkv_api::Delay;
use serde_json::json;

use super::basics::{quorum_in_force, write};
use crate::lab::{checks::Checks, store::Store};

/// Writes with each quorum.
const WRITES: u32 = 6;

/// Makes some writes one after the other; gives their mean latency.
async fn some_writes(store: &Store, run: &str, least: usize) -> anyhow::Result<Duration> {
    let began = Instant::now();
    for number in 0..WRITES {
        let value = json!(format!("quorum {least}, write {number}"));
        write(store, &format!("{run}-quorum-{number}"), &value, least).await?;
    }
    Ok(began.elapsed() / WRITES)
}

/// Writes name at least as many replicas as the quorum in force demands.
pub(super) async fn in_force(store: &Store, run: &str, checks: &mut Checks<'_>) {
    let seen = async {
        let least = quorum_in_force(store).await?;
        let mean = some_writes(store, run, least).await?;
        Ok(format!("{WRITES} writes, each on {least} followers or more, {mean:.1?} each"))
    };
    checks.observed("quorum in force", "every write on at least as many followers", seen.await);
}

/// Turns the quorum from one to all followers, and sees each obeyed.
pub(super) async fn each(store: &Store, run: &str, checks: &mut Checks<'_>) {
    let mut delay = Delay::ZERO;
    let mut means = Vec::new();
    for quorum in 1..=u8::try_from(store.followers().len()).unwrap_or(u8::MAX) {
        let seen = async {
            delay = store.status().await?.delay;
            store.change_settings(quorum, delay).await?;
            let mean = some_writes(store, run, usize::from(quorum)).await?;
            means.push(mean);
            Ok(format!("{WRITES} writes, each on {quorum} followers or more, {mean:.1?} each"))
        };
        let expected = format!("in force at once, every write on at least {quorum}");
        checks.observed(format!("quorum {quorum}"), expected, seen.await);
    }
    // Without a simulated delay, who is faster is chance.
    if let ([first, .., last], false) = (means.as_slice(), delay.is_zero()) {
        let seen = format!("{first:.1?} and {last:.1?}");
        checks.record("quorum and latency", "one follower answers sooner than all of them", first < last, seen);
    }
    let above = u8::try_from(store.followers().len() + 1).unwrap_or(u8::MAX);
    let seen = async {
        let before = quorum_in_force(store).await?;
        let Err(refused) = store.control.ask(&store.control.change(above, delay)).await else {
            anyhow::bail!("it was taken");
        };
        let after = quorum_in_force(store).await.context("after it was refused")?;
        ensure!(after == before, "refused, and yet the quorum is {after} now, and was {before}");
        Ok(format!("refused: {refused:#}"))
    };
    checks.observed(format!("quorum {above}"), "refused: there are not so many followers", seen.await);
}

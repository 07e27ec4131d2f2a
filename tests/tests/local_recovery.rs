//! How a follower with many keys comes back while its leader takes writes, as a table.
//!
//! `make recovery-table` runs it with optimized programs and a million keys:
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `QUORUMKV_RECOVERY_KEYS` | 50000 | keys in the store, of 256 bytes each |

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_tests::{
    processes::Storage,
    recovery::{Recovery, Setup, TABLE_HEAD, measure},
};

const VALUE_BYTES: usize = 256;
/// No write may wait for so long, even on a busy machine.
const LONGEST_GAP: Duration = Duration::from_secs(3);
/// What a process has besides data, and what may change in it meanwhile.
const SLACK_MIB: u64 = 64;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Beside others, no time would mean anything.
    arguments.test_threads = Some(1);
    let trial = Trial::test("a_follower_comes_back_while_its_leader_goes_on", || {
        let runtime = tokio::runtime::Runtime::new().map_err(Failed::from)?;
        runtime.block_on(table()).map_err(|error| Failed::from(format!("{error:#}")))
    });
    libtest_mimic::run(&arguments, vec![trial]).exit_code()
}

async fn table() -> anyhow::Result<()> {
    let keys = match std::env::var("QUORUMKV_RECOVERY_KEYS") {
        Ok(text) if !text.is_empty() => {
            text.parse().with_context(|| format!("QUORUMKV_RECOVERY_KEYS={text}: a number is needed"))?
        }
        _ => 50_000,
    };
    let mut rows = Vec::new();
    for storage in [Storage::Persistent, Storage::Memory] {
        let setup = Setup { storage, keys, value_bytes: VALUE_BYTES };
        rows.push(measure(setup).await.with_context(|| format!("{storage:?}"))?);
    }
    // The runner has begun a line.
    println!("\n{TABLE_HEAD}");
    rows.iter().for_each(|row| println!("{row}"));
    rows.iter().try_for_each(check)
}

/// Nothing is held up, and nobody makes a copy of everything on the way.
fn check(row: &Recovery) -> anyhow::Result<()> {
    let Recovery { during, follower_peak, leader_before, leader_peak, .. } = *row;
    ensure!(during.longest_gap <= LONGEST_GAP, "no write for {:?}: {row}", during.longest_gap);
    let allowed = leader_before + row.data() + SLACK_MIB;
    ensure!(leader_peak <= allowed, "the leader took {leader_peak} MiB, {allowed} are allowed: {row}");
    let allowed = 2 * leader_before + SLACK_MIB;
    ensure!(follower_peak <= allowed, "the follower took {follower_peak} MiB, {allowed} are allowed: {row}");
    Ok(())
}

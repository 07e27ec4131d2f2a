//! Chaos on local processes: seeded faults under load, and how long a failover takes.
//!
//! Without settings it takes about a minute; `make soak` and `make failover-table` run longer:
//!
//! | variable | default | meaning |
//! | --- | --- | --- |
//! | `QUORUMKV_CHAOS_SECONDS` | 10 | time for faults of each of the three tests, all its runs together |
//! | `QUORUMKV_CHAOS_SEEDS` | 1 | seeds of the schedules, comma-separated, in turn; `random`: another one for each run |
//! | `QUORUMKV_FAILOVERS` | 3 | how often the leader goes away in each way |
//!
//! A run takes a minute at most; then the next one begins with a new store and the next seed. Partitions need a
//! network namespace of their own, and so root: without, that test is shown as ignored, and says why.

use std::{process::ExitCode, time::Duration};

use anyhow::ensure;
use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_tests::{
    chaos::{
        failover::{Departure, TABLE_HEAD, measure},
        network, options,
        run::run,
        schedule::Setup,
    },
    processes::Storage,
};

/// No failover may take longer, even on a busy machine. What is aimed at is far below.
const LONGEST_FAILOVER: Duration = Duration::from_secs(15);

const IN_MEMORY: &str = "faults_on_a_store_in_memory_lose_no_acknowledged_write_and_show_no_stale_read";
const ON_DISK: &str = "faults_on_a_store_on_disk_lose_no_acknowledged_write_and_show_no_stale_read";
const PARTITIONS: &str = "faults_with_partitions_lose_no_acknowledged_write_and_show_no_stale_read";

fn main() -> ExitCode {
    if network::is_inside() {
        return match in_runtime(faults(PARTITIONS, with_partitions)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failed) => {
                println!("{}", failed.message().unwrap_or("failed"));
                ExitCode::FAILURE
            }
        };
    }
    let mut arguments = Arguments::from_args();
    // Beside chaos, no time would mean anything.
    arguments.test_threads = Some(1);
    let without = |storage| move |_: u64| Setup { storage, partitions: false };
    let trials = vec![
        Trial::test(IN_MEMORY, move || in_runtime(faults(IN_MEMORY, without(Storage::Memory)))),
        Trial::test(ON_DISK, move || in_runtime(faults(ON_DISK, without(Storage::Persistent)))),
        partitions(arguments.list),
        Trial::test("a_leader_that_goes_away_is_replaced_in_good_time", || in_runtime(failover_table())),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn in_runtime(test: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new().map_err(Failed::from)?;
    runtime.block_on(test).map_err(|error| Failed::from(format!("{error:#}")))
}

/// The test with partitions, which runs in a process of its own.
fn partitions(only_listed: bool) -> Trial {
    let obstacle = if only_listed { Ok(None) } else { network::obstacle() };
    if let Ok(Some(reason)) = &obstacle {
        println!("IGNORED: {PARTITIONS}: no network namespace can be made ({reason}); run it as root");
    }
    let ignored = matches!(obstacle, Ok(Some(_)));
    Trial::test(PARTITIONS, move || {
        let inside = obstacle.and_then(|_| network::run_inside());
        inside.map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(ignored)
}

/// Memory and disk in turn, by the seed, so that a seed says everything.
fn with_partitions(seed: u64) -> Setup {
    let storage = if seed.is_multiple_of(2) { Storage::Memory } else { Storage::Persistent };
    Setup { storage, partitions: true }
}

async fn faults(test: &str, setup: impl Fn(u64) -> Setup) -> anyhow::Result<()> {
    let summaries = options::runs(10, "1", |seed, time| {
        let setup = setup(seed);
        async move {
            let again = format!(
                "QUORUMKV_CHAOS_SEEDS={seed} QUORUMKV_CHAOS_SECONDS={} cargo test --workspace \
                 --test local_chaos -- {test}",
                time.as_secs()
            );
            let summary = run(setup, seed, time, &again).await?;
            // The runner has begun a line.
            println!("\nchaos {summary}");
            Ok(summary)
        }
    });
    summaries.await.map(|_| ())
}

async fn failover_table() -> anyhow::Result<()> {
    let times = options::number("QUORUMKV_FAILOVERS", 3)?;
    // Stores that are idle most of the time: side by side they disturb each other less than they take.
    let (killed, halted, relieved) = tokio::try_join!(
        measure(Departure::Killed, times),
        measure(Departure::Halted, times),
        measure(Departure::Relieved, times)
    )?;
    println!("\n{TABLE_HEAD}\n{killed}\n{halted}\n{relieved}");
    for outages in [killed, halted, relieved] {
        let worst = outages.worst();
        ensure!(worst <= LONGEST_FAILOVER, "{}: {worst:?} is longer than {LONGEST_FAILOVER:?}", outages.departure);
    }
    Ok(())
}

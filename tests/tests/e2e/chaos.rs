//! Faults under load, and how long a failover takes.

use std::time::Duration;

use anyhow::ensure;
use quorumkv_tests::{
    chaos::{
        failover::TABLE_HEAD,
        kind::{failover, run},
        options,
    },
    kind::scenarios::Row,
};

use super::{
    store::Store,
    world::{ASIDE, SECOND, SYSTEM, World},
};

/// No failover may take longer, even on a busy machine. What is aimed at is far below.
const LONGEST_FAILOVER: Duration = Duration::from_secs(30);

pub(crate) async fn faults_under_load_lose_no_acknowledged_write_and_show_no_stale_read(
    world: &World,
) -> anyhow::Result<()> {
    let store = Store::new(world.operator().await?, SECOND, "chaos");
    let summaries = options::runs(20, "1,2", |seed, time| {
        let store = store.clone();
        async move {
            let again = format!("make soak-kind SEEDS={seed} SECONDS={}", time.as_secs());
            let summary = run(&store, SYSTEM, seed, time, &again).await?;
            // The runner has begun a line.
            println!("\nchaos on kind {summary}");
            Ok(summary)
        }
    });
    for summary in summaries.await? {
        world.row(Row::of_chaos(&summary));
        world.fact(format!("chaos on kind {summary}"));
    }
    Ok(())
}

pub(crate) async fn a_leader_that_goes_away_is_replaced_in_good_time(world: &World) -> anyhow::Result<()> {
    let store = Store::new(world.operator().await?, ASIDE, "failover");
    let rows = failover::measure(&store, SYSTEM, options::number("QUORUMKV_FAILOVERS", 2)?).await?;
    let table: String = rows.iter().map(|row| format!("\n{row}")).collect();
    println!("\n{TABLE_HEAD}{table}");
    world.fact(format!("failover on kind:\n{TABLE_HEAD}{table}"));
    for row in rows {
        let worst = row.worst();
        ensure!(worst <= LONGEST_FAILOVER, "{}: {worst:?} is longer than {LONGEST_FAILOVER:?}", row.departure);
    }
    Ok(())
}

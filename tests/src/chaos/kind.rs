//! The same on Kubernetes: a KvCluster in a kind cluster, struck in ways that only Kubernetes knows.
//!
//! [`run()`] is one run over a store of its own, which [`strike`] carries faults out on; clients reach each pod by a
//! port of its own, past the API server. [`failover`] measures how long such a store takes no writes when its
//! leader's pod is deleted, killed or halted.

pub mod failover;
mod strike;

use std::time::Duration;

use quorumkv_api::{Delay, Settings, WriteQuorum};
use serde_json::json;

use self::strike::Striker;
use super::{
    run::{Arena as _, Summary, strike_and_check},
    schedule::{FIRST_QUORUM, FOLLOWERS, Schedule, Setup},
};
use crate::{
    kind::{filter::Filter, node_ports::NodePorts, store::Store},
    processes::Storage,
};

/// How long a new store may take until it is Ready.
const UP_LIMIT: Duration = Duration::from_secs(120);

/// Whether copies survive their processes, by the seed, so that a seed says everything.
#[must_use]
pub const fn setup(seed: u64) -> Setup {
    let storage = if seed.is_multiple_of(2) { Storage::Memory } else { Storage::Persistent };
    Setup { storage, partitions: true }
}

/// Makes a store, runs the schedule of `seed` over it until `time` is over and the round under way is mended, checks
/// everything, and removes the store.
///
/// # Errors
/// When the store does not recover, or the history is none of a correct store; the message holds what was done, and
/// `again`, which does it again. Then the store is left as it is.
pub async fn run(store: &Store, system: &str, seed: u64, time: Duration, again: &str) -> anyhow::Result<Summary> {
    let setup = setup(seed);
    let settings = up(store, setup.storage, Duration::from_secs(2)).await?;
    let filter = Filter::open(&store.kind).await?;
    let striker = Striker::new(store, system, &filter, settings).await?;
    let schedule = Schedule::new(setup, seed).with_manager_apart();
    let outcome = strike_and_check(&striker, schedule, (setup, seed), time).await;
    filter.close().await?;
    let summary = outcome.map_err(|error| {
        let journal = striker.journal().text();
        anyhow::anyhow!("chaos on kind {setup}, seed {seed}: {error:#}\nThe same schedule again: {again}\n{journal}")
    })?;
    down(store).await?;
    Ok(summary)
}

/// Makes a store of [`FOLLOWERS`] with nothing in it; the settings that it begins with.
async fn up(store: &Store, storage: Storage, write_timeout: Duration) -> anyhow::Result<Settings> {
    // Of an earlier run that failed.
    down(store).await?;
    let settings = Settings { write_quorum: WriteQuorum(FIRST_QUORUM), delay: Delay::ZERO, write_timeout };
    let storage = match storage {
        Storage::Memory => json!({"type": "Memory"}),
        Storage::Persistent => json!({"type": "Persistent", "size": "64Mi"}),
    };
    let timeout = quorumkv_api::settings::format_duration(write_timeout);
    let spec =
        json!({"followers": FOLLOWERS, "writeQuorum": FIRST_QUORUM, "writeTimeout": timeout, "storage": storage});
    store.apply(spec).await?;
    store.until_complete(UP_LIMIT).await?;
    Ok(settings)
}

/// Removes a store and everything that it kept.
async fn down(store: &Store) -> anyhow::Result<()> {
    let instance = format!("--selector=app.kubernetes.io/instance={}", store.name);
    store.kubectl(&["delete", "kvc", store.name, "--ignore-not-found"]).await?;
    // In this order: a pod is not made anew then, nor a claim. Nothing in them is kept, so none ends in good order.
    let owned = "statefulsets,pods,persistentvolumeclaims";
    store.kubectl(&["delete", owned, &instance, "--grace-period=0", "--force"]).await?;
    NodePorts::close(store).await
}

//! The lease: which of several operators works.
//!
//! It keeps two from getting in each other's way and is no part of safety: that rests on the record and on the epochs
//! that nodes promise.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// Its name, and that of the reporter of events.
pub const NAME: &str = "quorumkv-operator";
/// How long it lasts, and how long before its end it is renewed, in seconds.
const SPAN: (u64, u64) = (15, 5);
/// How often those that wait look whether it was given back.
const LOOK: Duration = Duration::from_secs(1);

/// A lease that is held.
#[derive(Debug)]
pub struct Held {
    holds: watch::Receiver<bool>,
    manager: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

/// Waits for the lease. None, if it was told to stop before.
///
/// # Errors
/// When the lease can be neither read nor made.
pub async fn acquire(
    client: &Client,
    namespace: &str,
    identity: &str,
    stop: &CancellationToken,
) -> Result<Option<Held>, LeaseManagerError> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let (duration, grace) = SPAN;
    loop {
        let manager = LeaseManagerBuilder::new(client.clone(), NAME)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(duration)
            .with_grace(grace)
            .build()
            .await?;
        let (mut holds, manager) = manager.watch().await;
        let got = tokio::select! {
            got = holds.wait_for(|holds| *holds) => got.is_ok(),
            // The manager sleeps until the end that it last saw, also if the holder has stopped since and gave it back.
            () = given_back(&leases) => {
                manager.abort();
                continue;
            }
            () = stop.cancelled() => false,
        };
        let held = Held { holds, manager };
        if got {
            return Ok(Some(held));
        }
        held.give_back().await;
        return Ok(None);
    }
}

/// Ends when nobody holds the lease that somebody held before.
async fn given_back(leases: &Api<Lease>) {
    let mut was_held = false;
    loop {
        // A look that fails says nothing.
        if let Ok(lease) = leases.get_opt(NAME).await {
            let is_held = lease.and_then(|lease| lease.spec?.holder_identity).is_some();
            if was_held && !is_held {
                return;
            }
            was_held = is_held;
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Held {
    /// Ends when it is lost.
    pub async fn lost(&mut self) {
        // An error means that the manager has ended, and renews it no more.
        self.holds.wait_for(|holds| !*holds).await.ok();
    }

    /// So that another operator can work at once.
    pub async fn give_back(self) {
        let Self { holds, manager } = self;
        drop(holds);
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(5), manager).await {
            tracing::warn!(%error, "the lease could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::api::{Expected, server};

    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/system/leases/quorumkv-operator";

    fn lease(holder: Option<&str>) -> Value {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": NAME},
            "spec": {"holderIdentity": holder}})
    }

    #[tokio::test(start_paused = true)]
    async fn that_it_was_given_back_is_seen_and_that_nobody_ever_held_it_is_not() {
        let (client, task) = server(vec![
            Expected::missing(PATH),
            Expected::found(PATH, lease(None)),
            Expected::found(PATH, lease(Some("other"))),
            Expected::failing(http::Method::GET, PATH, http::StatusCode::SERVICE_UNAVAILABLE),
            Expected::found(PATH, lease(Some("other"))),
            Expected::found(PATH, lease(None)),
        ]);
        let began = tokio::time::Instant::now();
        given_back(&Api::namespaced(client, "system")).await;
        assert_eq!(began.elapsed().as_secs(), 5, "once a second");
        task.await.expect("as scripted");
    }
}

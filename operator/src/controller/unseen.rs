//! A store in a namespace of which not everything can be seen is left as it is.
//!
//! An object that is missing in the caches may exist there: pods that run look like pods that are gone, a claim that
//! somebody deleted like one that is kept. Whatever would be done for such a store could be wrong.

use std::time::Duration;

use kube::runtime::controller::Action;

use super::{ClusterMemory, Context, ReconcileError, refuse};
use crate::{crd::KvCluster, manage::Memory, reason::Reason, watching::Gap};

/// How long that may be so before it is told: a right may come a moment late, as an API server that has just started
/// gives it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits until everything can be seen, and says so after a while.
pub(super) async fn wait(
    cluster: &KvCluster,
    context: &Context,
    gap: &Gap,
    memory: &mut ClusterMemory,
) -> Result<Action, ReconcileError> {
    // Silence is counted anew afterwards.
    memory.pass = Memory::default();
    if gap.since().elapsed() >= PATIENCE {
        let message = format!("{gap}. Until it may, the store runs on as it is, and no leader is replaced");
        refuse(cluster, context, memory, Reason::NamespaceUnseen, &message).await?;
    }
    Ok(Action::requeue(PAUSE))
}

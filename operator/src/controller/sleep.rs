//! Putting a store to sleep, and waking it up.

use std::time::Duration;

use kube::{ResourceExt, runtime::controller::Action};
use quorumkv_api::{client::PeerClient, lab::Role};
use tokio::time::Instant;

use super::{ClusterMemory, Context, ReconcileError, Site, as_it_shall_be, growth, publish, report, tell, tls};
use crate::{
    apply,
    build::{self, names},
    crd::KvCluster,
    hibernation::{PATIENCE, Stage},
    manage::{self, KnownNode, Memory, PassError, Settling},
    observe::Observed,
    reason::Reason,
    record::Record,
    status::{self, HIBERNATED, HIBERNATING},
};

/// Pause between two looks while something is under way.
const PAUSE: Duration = Duration::from_millis(200);
/// The same of a store that sleeps: its volumes may still have to grow.
const ASLEEP: Duration = Duration::from_secs(60);

/// A store that falls asleep, or sleeps. Losing this costs time and a word in an event.
#[derive(Debug)]
pub(super) struct Falling {
    since: Instant,
    /// The nodes were told to stop, and held this then.
    told: Option<String>,
}

impl Falling {
    fn begins() -> Self {
        Self { since: Instant::now(), told: None }
    }

    /// Whether the nodes were told to stop.
    pub(super) const fn is_told(&self) -> bool {
        self.told.is_some()
    }
}

/// A store whose claims somebody has deleted does not fall asleep: its volumes would go with its pods.
pub(super) async fn unless_held(
    cluster: &KvCluster,
    context: &Context,
    observed: &Observed,
    stage: Stage,
    memory: &mut ClusterMemory,
) -> Stage {
    if stage != Stage::Settling || observed.doomed_claims.is_empty() {
        memory.sleep_held = false;
        return stage;
    }
    if !std::mem::replace(&mut memory.sleep_held, true) {
        let nodes: Vec<&str> = observed.doomed_claims.iter().map(|node| node.0.as_str()).collect();
        let note = format!(
            "The volume claims of {} are deleted, and the volumes would go with the pods: replace those pods one by one \
             first, so that each gets a new volume and fetches everything",
            nodes.join(", ")
        );
        publish(cluster, context, Reason::HibernationHeld, "Hibernate", &note).await;
    }
    Stage::Awake
}

/// Tells once that a store wakes up which slept before.
pub(super) async fn wake(site: &Site<'_>, memory: &mut ClusterMemory) {
    let slept = memory.sleep.take().is_some();
    // Another operator may have put it to sleep. What this one has reported since is not that any more.
    let by_status = status::ready_reason(site.cluster.status.as_ref());
    let by_status = !memory.awake && by_status.is_some_and(|reason| [HIBERNATING, HIBERNATED].contains(&reason));
    memory.awake = true;
    if slept || by_status {
        let note = "The nodes start; a leader is elected among what is on their volumes";
        publish(site.cluster, site.context, Reason::Waking, "Wake", note).await;
    }
}

/// One look at a store that shall sleep while its nodes still run.
pub(super) async fn settle(
    site: &Site<'_>,
    client: &PeerClient,
    nodes: Vec<KnownNode>,
    known: Record,
    memory: &mut ClusterMemory,
) -> Result<Action, ReconcileError> {
    let Site { cluster, context, valid, observed, platform } = *site;
    if memory.sleep.is_none() {
        let note = "The Service leads nowhere from now on; the nodes stop when all of them hold everything";
        publish(cluster, context, Reason::Hibernating, "Hibernate", note).await;
    }
    let falling = memory.sleep.get_or_insert_with(Falling::begins);
    memory.awake = false;
    show_no_leader(site).await?;
    let in_time = falling.since.elapsed() < PATIENCE;
    let pass_memory = &mut memory.pass;
    let settling = manage::settle(platform, client, &valid.store, nodes, known, pass_memory, in_time).await?;
    tell(cluster, context, &settling.pass.happenings).await;
    if settling.may_stop {
        let note = what_is_left(site, &settling).await;
        let stopped = build::objects(&as_it_shall_be(valid, observed, true));
        apply::apply(&context.client, valid, &stopped, observed).await?;
        falling.told = Some(note);
    }
    let message = "The store is about to sleep: no writes are taken, and the nodes stop when all hold everything";
    report_asleep(site, &settling.pass.record, HIBERNATING, message, memory).await?;
    Ok(Action::requeue(PAUSE))
}

/// What the nodes hold that stop; told at once where that is not the same.
async fn what_is_left(site: &Site<'_>, settling: &Settling) -> String {
    match &settling.remains {
        Some(remains) if remains.are_settled() => remains.to_string(),
        remains => {
            let note = remains.as_ref().map_or_else(|| "what each holds is not known".to_owned(), ToString::to_string);
            let sentence = format!("The nodes stop as they are, after {} s: {note}", PATIENCE.as_secs());
            publish(site.cluster, site.context, Reason::HibernatedUnsettled, "Hibernate", &sentence).await;
            note
        }
    }
}

/// Before anything else, so that new clients find nobody to write to.
async fn show_no_leader(site: &Site<'_>) -> Result<(), ReconcileError> {
    for pod in site.observed.pods.values() {
        if pod.labels().get(names::ROLE).is_some_and(|role| role == names::role_text(Role::Leader)) {
            apply::label_pod(&site.context.client, pod, Role::Follower).await?;
        }
    }
    Ok(())
}

/// One look at a store whose nodes are told to stop, or have stopped.
pub(super) async fn rest(
    site: &Site<'_>,
    stage: Stage,
    known: Record,
    memory: &mut ClusterMemory,
) -> Result<Action, ReconcileError> {
    // What was seen of the nodes is too old when they start again.
    memory.pass = Memory::default();
    memory.awake = false;
    let falling = memory.sleep.get_or_insert_with(Falling::begins);
    let told = falling.told.get_or_insert_default().clone();
    if known.leader.is_some() {
        manage::leave_nobody_leading(site.platform).await.map_err(PassError::Record)?;
    }
    if stage == Stage::Stopping {
        report_asleep(site, &known, HIBERNATING, "The store is about to sleep: its nodes stop", memory).await?;
        return Ok(Action::requeue(PAUSE));
    }
    if status::ready_reason(site.cluster.status.as_ref()) != Some(HIBERNATED) {
        let held = if told.is_empty() { String::new() } else { format!(": {told}") };
        let note = format!("No node runs any more{held}. hibernated: false wakes the store up");
        publish(site.cluster, site.context, Reason::Hibernated, "Hibernate", &note).await;
    }
    let message = "The store sleeps: its volumes keep what was written, and hibernated: false wakes it up";
    report_asleep(site, &known, HIBERNATED, message, memory).await?;
    Ok(Action::requeue(ASLEEP))
}

async fn report_asleep(
    site: &Site<'_>,
    record: &Record,
    reason: &'static str,
    message: &str,
    memory: &mut ClusterMemory,
) -> Result<(), ReconcileError> {
    let volumes = growth::grow(site, &mut memory.growth).await?;
    let summary = status::asleep(&site.valid.store, record, reason, message);
    report(site, summary, (volumes.as_ref(), tls::problem(memory.tls.as_ref()))).await
}

#[cfg(test)]
mod tests;

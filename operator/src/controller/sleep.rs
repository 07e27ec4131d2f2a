//! Putting a store to sleep, and waking it up.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use quorumkv_api::{client::PeerClient, lab::Role};
use tokio::time::Instant;

use super::{Chore, ClusterMemory, Context, ReconcileError, Site, as_it_shall_be, growth, publish, report, tell, tls};
use crate::{
    apply,
    build::{self, names},
    crd::KvCluster,
    hibernation::{self, PATIENCE, Stage},
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
    /// Whether people were told of pods that do not end.
    stuck_told: bool,
}

impl Falling {
    fn begins() -> Self {
        Self { since: Instant::now(), told: None, stuck_told: false }
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

/// One look at a store that shall sleep while its nodes still run; how long to wait before the next.
pub(super) async fn settle(
    site: &Site<'_>,
    client: &PeerClient,
    nodes: Vec<KnownNode>,
    known: Record,
    memory: &mut ClusterMemory,
) -> Result<Duration, ReconcileError> {
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
    grow(site, memory).await;
    Ok(PAUSE)
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

/// One look at a store whose nodes are told to stop, or have stopped; how long to wait before the next.
pub(super) async fn rest(
    site: &Site<'_>,
    stage: Stage,
    client: &PeerClient,
    known: Record,
    memory: &mut ClusterMemory,
) -> Result<Duration, ReconcileError> {
    // What was seen of the nodes is too old when they start again.
    memory.pass = Memory::default();
    memory.awake = false;
    let falling = memory.sleep.get_or_insert_with(Falling::begins);
    let told = falling.told.get_or_insert_default().clone();
    if known.leader.is_some() {
        manage::leave_nobody_leading(site.platform).await.map_err(PassError::Record)?;
    }
    if stage == Stage::Stopping {
        let message = what_is_waited_for(site, falling).await;
        report_asleep(site, &known, HIBERNATING, &message, memory).await?;
        grow(site, memory).await;
        return Ok(PAUSE);
    }
    if status::ready_reason(site.cluster.status.as_ref()) != Some(HIBERNATED) {
        let held = if told.is_empty() { String::new() } else { format!(": {told}") };
        let note = format!("No node runs any more{held}. hibernated: false wakes the store up");
        publish(site.cluster, site.context, Reason::Hibernated, "Hibernate", &note).await;
    }
    let message = "The store sleeps: its volumes keep what was written, and hibernated: false wakes it up";
    report_asleep(site, &known, HIBERNATED, message, memory).await?;
    let asked = grow(site, memory).await;
    // A long sleep outlasts a certificate, and nodes that wake up shall find a good one.
    let certificates =
        tls::go_on(site.cluster, site.context, (site.valid, site.observed, &[]), client, &mut memory.tls);
    memory.setbacks.attempt(site, Chore::Certificates, certificates).await;
    // What is answered is told, and what failed is tried again, long before there would be a look.
    let again = memory.setbacks.again_in().map_or(ASLEEP, |again| again.max(PAUSE));
    Ok(if asked { PAUSE } else { ASLEEP.min(again) })
}

/// What is told of a store whose nodes stop; of one that does not, also by an event.
async fn what_is_waited_for(site: &Site<'_>, falling: &mut Falling) -> String {
    let waiting = hibernation::waiting(site.observed, Timestamp::now());
    if let Some(stuck) = &waiting.stuck
        && !std::mem::replace(&mut falling.stuck_told, true)
    {
        publish(site.cluster, site.context, Reason::HibernationHeld, "Stop", stuck).await;
    }
    format!("The store is about to sleep: {waiting}")
}

/// Asks for a larger volume where one is wanted; whether it did.
async fn grow(site: &Site<'_>, memory: &mut ClusterMemory) -> bool {
    let ClusterMemory { setbacks, growth, .. } = memory;
    setbacks.attempt(site, Chore::Volumes, growth::ask(site, growth)).await.unwrap_or(false)
}

async fn report_asleep(
    site: &Site<'_>,
    record: &Record,
    reason: &'static str,
    message: &str,
    memory: &mut ClusterMemory,
) -> Result<(), ReconcileError> {
    memory.setbacks.forget(&Chore::OF_NODES);
    report(site, status::asleep(&site.valid.store, record, reason, message), memory).await
}

#[cfg(test)]
mod tests;

//! One reconcile of one KvCluster, as named steps. What has to do with certificates is in [`tls`].
//!
//! Reconciles come when a spec changes, when an object or a pod of it changes, and about once a second
//! besides: the operator is the prober of its leaders. An idle reconcile asks nodes and writes nothing.
//!
//! What the operator may do, and for what:
//!
//! | API group | resource | verbs | for |
//! | --- | --- | --- | --- |
//! | `quorumkv.io` | kvclusters | get, list, watch, patch | the spec; a live read before every election; taking the wish for a switchover away; what is wished for at a page that may change things |
//! | `quorumkv.io` | kvclusters/status | patch | the record (compare-and-swap) and the report |
//! | `apps` | statefulsets | get, list, watch, create, patch | server-side apply |
//! | (core) | services | get, list, watch, create, patch | server-side apply |
//! | `policy` | poddisruptionbudgets | get, list, watch, create, patch | server-side apply |
//! | (core) | secrets | get, create, update | the peer token, made once; certificates: read, and kept if self-signed; read for the page where clients need tokens |
//! | `networking.k8s.io` | networkpolicies | get, create, patch | server-side apply, where the operator makes policies |
//! | (core) | pods | get, list, watch, patch, delete | role labels; telling kubelets of new certificates; replacing outdated pods |
//! | (core) | pods/status | patch | the readiness gate: whether the leader counts the pod's copy |
//! | (core) | persistentvolumeclaims | get, list, watch, patch | making volumes larger |
//! | `events.k8s.io` | events | create, patch | what happened |
//! | `coordination.k8s.io` | leases, in its own namespace | get, create, patch, update | which operator works |

mod chores;
mod error;
mod growth;
mod sleep;
mod tls;
mod unseen;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Resource, ResourceExt,
    runtime::{
        controller::Action,
        events::{Event, EventType, Recorder},
        reflector::Store,
    },
};
use quorumkv_api::{client::PeerClient, lab::Role, tls::ClientTls};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use self::chores::{Chore, Setbacks};
pub use self::error::ReconcileError;
use crate::{
    apply::{self, StatusRecord, sent::Sent},
    build::{self, names, policy},
    counted,
    crd::KvCluster,
    decide::{self, Presence, Roll},
    hibernation::{self, Stage},
    manage::{self, ANSWER_TIMEOUT, Happening, KnownNode, Memory, Pass},
    metrics::Metrics,
    observe::{self, Caches, Observed},
    page::{News, StoreName},
    pause,
    reason::Reason,
    record::Record,
    status::{self, Summary},
    validate::{self, ValidCluster},
    volumes,
};

/// Longest reconcile: an election with slow nodes and a slow API server fits in, a hanging call does not.
const RECONCILE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often the Secret is looked after: without it no pod can start.
const TOKEN_CHECK: Duration = Duration::from_secs(60);
/// The same while a pod has not started, or a node refuses the token.
const URGENT_TOKEN_CHECK: Duration = Duration::from_secs(2);
/// How often the NetworkPolicy is looked after, where there is one.
const POLICY_CHECK: Duration = Duration::from_secs(60);
/// First and longest pause after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// What all reconciles share.
pub struct Context {
    /// Speaks to the API server.
    pub client: Client,
    /// What the watches saw.
    pub caches: Caches,
    /// The KvClusters that exist.
    pub clusters: Store<KvCluster>,
    /// Publishes events; one for all, as it recognizes repetitions.
    pub recorder: Recorder,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// What happened, for the page.
    pub news: News,
    /// Image of nodes whose KvCluster names none.
    pub node_image: String,
    /// Whom NetworkPolicies let reach nodes; none: none are made.
    pub policy: Option<policy::Allowed>,
    /// What is remembered of each KvCluster, by uid.
    pub memories: std::sync::Mutex<HashMap<String, Arc<Mutex<ClusterMemory>>>>,
}

/// What one reconcile leaves for the next. Losing it costs time, never safety.
#[derive(Debug, Default)]
pub struct ClusterMemory {
    place: Option<(String, String)>,
    pass: Memory,
    peer: Option<PeerAccess>,
    /// Roles with which pods were labelled.
    labelled: Sent<Role>,
    /// Readiness gates that were set.
    gated: Sent<bool>,
    /// Whether a node refused the token in the last pass.
    token_refused: bool,
    tls: Option<tls::TlsMemory>,
    failures: u32,
    refusal: Option<String>,
    /// When its NetworkPolicy was looked at.
    policy_checked: Option<Instant>,
    /// Whether it was left alone when it was last looked at.
    paused: bool,
    /// While it shall sleep: how far that is.
    sleep: Option<sleep::Falling>,
    /// Whether it was awake when it was last looked at.
    awake: bool,
    /// Whether people were told why it does not sleep.
    sleep_held: bool,
    /// Why a volume does not grow.
    growth: growth::Refused,
    /// What fails besides the passes.
    setbacks: Setbacks,
    /// While it is left alone: what becomes of its certificate.
    certificate: tls::Watched,
}

#[derive(Debug, Clone)]
struct PeerAccess {
    token: String,
    client: PeerClient,
    checked: Instant,
}

/// One reconcile.
///
/// # Errors
/// See [`ReconcileError`].
pub async fn reconcile(cluster: Arc<KvCluster>, context: Arc<Context>) -> Result<Action, Arc<ReconcileError>> {
    let started = Instant::now();
    let memory = context.memory_of(&cluster);
    let mut memory = memory.lock().await;
    let work = timeout(RECONCILE_TIMEOUT, steps(&cluster, &context, &mut memory));
    let outcome = work.await.unwrap_or(Err(ReconcileError::Timeout));
    let namespace = cluster.namespace().unwrap_or_default();
    context.metrics.reconciled(&namespace, &cluster.name_any(), started.elapsed());
    match outcome {
        Ok(action) => {
            memory.failures = 0;
            Ok(action)
        }
        Err(error) if error.is_passing() => {
            context.metrics.put_off(error.label());
            tracing::info!(namespace = ?cluster.namespace(), name = %cluster.name_any(), %error, "reconcile put off");
            if error.is_gone() { Ok(Action::await_change()) } else { Err(Arc::new(error)) }
        }
        Err(error) => {
            memory.failures += 1;
            context.metrics.failed(error.label());
            report_failure(&cluster, &context, &mut memory, &error).await;
            Err(Arc::new(error))
        }
    }
}

/// observe -> validate -> decide -> build -> apply -> status.
async fn steps(cluster: &KvCluster, context: &Context, memory: &mut ClusterMemory) -> Result<Action, ReconcileError> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // Owner references do the cleaning up.
        return Ok(Action::await_change());
    }
    if pause::is_paused(cluster) {
        return leave_alone(cluster, context, memory).await;
    }
    look_after_again(cluster, context, memory).await;
    if let Some(gap) = context.caches.gaps.of(&cluster.namespace().unwrap_or_default()) {
        return unseen::wait(cluster, context, &gap, memory).await;
    }
    let valid = match validate::validate(cluster, &context.node_image) {
        Ok(valid) => valid,
        Err(error) => return refuse(cluster, context, memory, Reason::InvalidSpec, &error.to_string()).await,
    };
    memory.refusal = None;
    let known = Record::from_status(cluster.status.as_ref())?;
    let mut valid = ValidCluster { store: valid.store.as_recorded(&known), ..valid };
    let observed = observe::observe(&context.caches, &valid);
    valid.store.settled = observe::is_settled(&context.caches, &valid, &observed);
    let nodes = observe::known_nodes(&valid, &observed);
    let stage = hibernation::stage(&valid, &observed, memory.sleep.as_ref().is_some_and(sleep::Falling::is_told));
    let stage = sleep::unless_held(cluster, context, &observed, stage, memory).await;
    // First: a pod that finds the Secret of an earlier KvCluster of this name would keep a token that nobody else has.
    let tls = tls::client(cluster, context, &valid, &mut memory.tls).await?;
    let client = peer_client(context, &valid, (&nodes, tls), memory).await?;
    look_after_policy(context, &valid, memory).await?;
    let wanted = as_it_shall_be(&valid, &observed, stage.is_stopped());
    apply::apply(&context.client, &valid, &build::objects(&wanted), &observed).await?;
    let platform = StatusRecord::new(&context.client, &valid);
    let site = Site { cluster, context, valid: &valid, observed: &observed, platform: &platform };
    let pause = match stage {
        Stage::Awake => {
            sleep::wake(&site, memory).await;
            work(&site, &client, nodes, known, memory).await?
        }
        Stage::Settling => sleep::settle(&site, &client, nodes, known, memory).await?,
        Stage::Stopping | Stage::Asleep => sleep::rest(&site, stage, &client, known, memory).await?,
    };
    Ok(Action::requeue(pause))
}

/// One look at a store that is awake; how long to wait before the next.
async fn work(
    site: &Site<'_>,
    client: &PeerClient,
    nodes: Vec<KnownNode>,
    known: Record,
    memory: &mut ClusterMemory,
) -> Result<Duration, ReconcileError> {
    let Site { cluster, context, valid, observed, platform } = *site;
    let pass = manage::pass(platform, client, &valid.store, nodes, known, &mut memory.pass).await?;
    memory.token_refused = pass.refusing().next().is_some();
    tell(cluster, context, &pass.happenings).await;
    let setbacks = &mut memory.setbacks;
    let labels = label_pods(context, valid, observed, &pass, &mut memory.labelled);
    let labelled = setbacks.attempt(site, Chore::Labels, labels).await;
    // While clients cannot be led elsewhere, no node is taken away.
    if labelled.is_some() {
        setbacks.attempt(site, Chore::Replacement, replace_outdated(context, observed, &pass)).await;
    }
    report(site, status::summarize(&valid.store, &pass), memory).await?;
    let ClusterMemory { setbacks, tls, growth, gated, .. } = memory;
    let situation = pass.situation(&valid.store);
    let gates = async {
        let failed = counted::mark(&context.client, observed, &situation, gated).await;
        failed.map_or(Ok(()), |error| Err(error.into()))
    };
    setbacks.attempt(site, Chore::Gates, gates).await;
    let certificates = tls::go_on(cluster, context, (valid, observed, &pass.nodes), client, tls);
    setbacks.attempt(site, Chore::Certificates, certificates).await;
    setbacks.attempt(site, Chore::Volumes, growth::ask(site, growth)).await;
    Ok(memory.pass.pause_after(&pass, &valid.store))
}

/// One KvCluster with what exists of it.
struct Site<'a> {
    cluster: &'a KvCluster,
    context: &'a Context,
    valid: &'a ValidCluster,
    observed: &'a Observed,
    platform: &'a StatusRecord,
}

/// The KvCluster as its objects shall be now.
fn as_it_shall_be(valid: &ValidCluster, observed: &Observed, stopped: bool) -> ValidCluster {
    let storage = volumes::as_claimed(&valid.storage, observed.stateful_set.as_deref());
    ValidCluster { storage, stopped, ..valid.clone() }
}

/// Writes nothing but, once, that nothing is written, and that a certificate expires because of that.
async fn leave_alone(
    cluster: &KvCluster,
    context: &Context,
    memory: &mut ClusterMemory,
) -> Result<Action, ReconcileError> {
    // What was seen before is too old afterwards: silence is counted anew.
    memory.pass = Memory::default();
    memory.sleep = None;
    memory.setbacks = Setbacks::default();
    let expiry = tls::while_paused(cluster, context, &mut memory.certificate).await;
    let generation = cluster.metadata.generation;
    let status = status::paused(cluster.status.as_ref(), generation, expiry.as_deref(), Timestamp::now());
    if let Some(status) = status {
        if !memory.paused {
            let note = "The operator changes nothing, and replaces no leader, while the annotation is there";
            publish(cluster, context, Reason::Paused, "Pause", note).await;
        }
        apply::patch_status(&context.client, cluster, &status).await?;
    }
    memory.paused = true;
    Ok(memory.certificate.next_look().map_or_else(Action::await_change, Action::requeue))
}

async fn look_after_again(cluster: &KvCluster, context: &Context, memory: &mut ClusterMemory) {
    memory.certificate = tls::Watched::default();
    if std::mem::take(&mut memory.paused) {
        publish(cluster, context, Reason::Resumed, "Resume", "The operator looks after the store again").await;
    }
}

/// Nothing is done for it: the API server let a spec through that cannot be built, or an older rule did, or not enough
/// is known.
async fn refuse(
    cluster: &KvCluster,
    context: &Context,
    memory: &mut ClusterMemory,
    reason: Reason,
    message: &str,
) -> Result<Action, ReconcileError> {
    memory.setbacks = Setbacks::default();
    if memory.refusal.as_deref() != Some(message) {
        memory.refusal = Some(message.to_owned());
        publish(cluster, context, reason, "Validate", message).await;
    }
    let generation = cluster.metadata.generation;
    let status = status::refused(cluster.status.as_ref(), generation, reason.as_str(), message, Timestamp::now());
    if let Some(status) = status {
        apply::patch_status(&context.client, cluster, &status).await?;
    }
    Ok(Action::await_change())
}

/// Before there are pods that it is for.
async fn look_after_policy(
    context: &Context,
    cluster: &ValidCluster,
    memory: &mut ClusterMemory,
) -> Result<(), ReconcileError> {
    let Some(allowed) = &context.policy else { return Ok(()) };
    if memory.policy_checked.is_none_or(|checked| checked.elapsed() >= POLICY_CHECK) {
        apply::network_policy(&context.client, cluster, allowed).await?;
        memory.policy_checked = Some(Instant::now());
    }
    Ok(())
}

async fn peer_client(
    context: &Context,
    cluster: &ValidCluster,
    (nodes, tls): (&[KnownNode], Option<ClientTls>),
    memory: &mut ClusterMemory,
) -> Result<PeerClient, ReconcileError> {
    let started = nodes.iter().all(|node| matches!(node.presence, Presence::Running | Presence::Stopping));
    let interval = if started && !memory.token_refused { TOKEN_CHECK } else { URGENT_TOKEN_CHECK };
    if let Some(access) = memory.peer.as_ref().filter(|access| access.checked.elapsed() < interval) {
        return Ok(access.client.clone());
    }
    let known = memory.peer.as_ref().map(|access| access.token.clone());
    let token = apply::peer_token(&context.client, cluster, known.as_deref()).await?;
    let client = match (&memory.peer, tls) {
        (Some(access), _) if access.token == token => access.client.clone(),
        (_, Some(tls)) => PeerClient::secured(Some(token.clone()), ANSWER_TIMEOUT, tls),
        (_, None) => PeerClient::new(Some(token.clone()), ANSWER_TIMEOUT)
            .map_err(|error| ReconcileError::PeerClient(Box::new(error)))?,
    };
    memory.peer = Some(PeerAccess { token, client: client.clone(), checked: Instant::now() });
    Ok(client)
}

/// Labels what differs, followers first: for a moment nobody is the leader, and never two.
async fn label_pods(
    context: &Context,
    cluster: &ValidCluster,
    observed: &Observed,
    pass: &Pass,
    sent: &mut Sent<Role>,
) -> Result<(), ReconcileError> {
    sent.keep(observed.pods.values().map(AsRef::as_ref));
    let roles = decide::roles(&pass.situation(&cluster.store), &pass.leadership);
    for wanted in [Role::Follower, Role::Leader] {
        for (name, _) in roles.iter().filter(|(_, role)| **role == wanted) {
            let Some(pod) = observed.pods.get(name) else { continue };
            let label = sent.unseen(pod.as_ref()).map(names::role_text);
            let label = label.or_else(|| pod.labels().get(names::ROLE).map(String::as_str));
            if label != Some(names::role_text(wanted)) {
                apply::label_pod(&context.client, pod, wanted).await?;
                sent.note(pod.as_ref(), wanted);
            }
        }
    }
    Ok(())
}

async fn replace_outdated(context: &Context, observed: &Observed, pass: &Pass) -> Result<(), ReconcileError> {
    let Roll::Replace(name) = &pass.roll else { return Ok(()) };
    if let Some(pod) = observed.pods.get(name).filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        tracing::info!(pod = %name, "replacing, for it was made from another description");
        apply::replace_pod(&context.client, pod).await?;
    }
    Ok(())
}

/// Tells of the pass, of what no node tells of, and of what came of all else the last time.
async fn report(site: &Site<'_>, mut summary: Summary, memory: &mut ClusterMemory) -> Result<(), ReconcileError> {
    let Site { cluster, context, valid, .. } = site;
    let volumes = growth::look(site, &memory.growth).await;
    if let Some((reason, message)) = tls::problem(memory.tls.as_ref()) {
        summary.degrade(reason.as_str(), message);
    }
    if let Some((reason, message)) = memory.setbacks.tell(site).await {
        summary.degrade_also(reason.as_str(), &message);
    }
    let selector = names::selector_text(&valid.name);
    let now = Timestamp::now();
    let next = status::after_pass(cluster.status.as_ref(), valid.generation, selector, &summary, volumes.as_ref(), now);
    if let Some(next) = next {
        apply::patch_status(&context.client, cluster, &next).await?;
    }
    Ok(())
}

/// Puts a failure that a person has to look at where people look.
async fn report_failure(cluster: &KvCluster, context: &Context, memory: &mut ClusterMemory, error: &ReconcileError) {
    tracing::warn!(namespace = ?cluster.namespace(), name = %cluster.name_any(), %error, "reconcile failed");
    let Some(reason) = error.for_people() else { return };
    let message = error.to_string();
    if memory.refusal.as_ref() == Some(&message) {
        return;
    }
    publish(cluster, context, reason, "Reconcile", &message).await;
    let generation = cluster.metadata.generation;
    let status = status::refused(cluster.status.as_ref(), generation, reason.as_str(), &message, Timestamp::now());
    memory.refusal = Some(message);
    if let Some(status) = status
        && let Err(error) = apply::patch_status(&context.client, cluster, &status).await
    {
        tracing::warn!(%error, "the failure could not be reported");
    }
}

async fn tell(cluster: &KvCluster, context: &Context, happenings: &[Happening]) {
    let store = StoreName { namespace: cluster.namespace().unwrap_or_default(), name: cluster.name_any() };
    context.news.tell_all(&store, happenings);
    for happening in happenings {
        if matches!(happening, Happening::Promoted { .. }) {
            context.metrics.promoted(&cluster.namespace().unwrap_or_default(), &cluster.name_any());
        }
        publish(cluster, context, happening.reason(), &happening.action(), &happening.to_string()).await;
    }
}

/// Events are for people; that one is missing stops nothing.
async fn publish(cluster: &KvCluster, context: &Context, reason: Reason, action: &str, note: &str) {
    let type_ = if reason.is_warning() { EventType::Warning } else { EventType::Normal };
    // The API server takes notes of up to 1024 bytes.
    let note: String = note.chars().take(250).collect();
    let event =
        Event { type_, reason: reason.to_string(), note: Some(note), action: action.to_owned(), secondary: None };
    let published = timeout(Duration::from_secs(2), context.recorder.publish(&event, &cluster.object_ref(&()))).await;
    if let Err(error) = published.map_err(|_| "no answer".to_owned()).and_then(|sent| sent.map_err(|e| e.to_string())) {
        tracing::warn!(%reason, error, "the event could not be published");
    }
}

/// How long to wait after a failure.
#[must_use]
pub fn error_policy(cluster: Arc<KvCluster>, error: &Arc<ReconcileError>, context: Arc<Context>) -> Action {
    if error.is_conflict() {
        return Action::requeue(Duration::from_millis(100));
    }
    let memory = context.memory_of(&cluster);
    let failures = memory.try_lock().map_or(1, |memory| memory.failures);
    Action::requeue(retry_after(failures))
}

fn retry_after(failures: u32) -> Duration {
    let (first, longest) = RETRY;
    first.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(longest)
}

impl Context {
    /// The memory of this KvCluster; what belongs to others that are gone is dropped.
    fn memory_of(&self, cluster: &KvCluster) -> Arc<Mutex<ClusterMemory>> {
        let uid = cluster.uid().unwrap_or_default();
        let mut memories = self.memories.lock().expect("nobody panics while holding the memories");
        if !memories.contains_key(&uid) {
            let existing: HashSet<String> = self.clusters.state().iter().filter_map(|cluster| cluster.uid()).collect();
            memories.retain(|uid, memory| {
                let stays = existing.contains(uid);
                if !stays
                    && let Ok(memory) = memory.try_lock()
                    && let Some((namespace, name)) = &memory.place
                {
                    self.metrics.forget(namespace, name);
                    self.news.forget(&StoreName { namespace: namespace.clone(), name: name.clone() });
                }
                stays
            });
            let place = cluster.namespace().map(|namespace| (namespace, cluster.name_any()));
            let memory = ClusterMemory { place, ..ClusterMemory::default() };
            memories.insert(uid.clone(), Arc::new(Mutex::new(memory)));
        }
        Arc::clone(&memories[&uid])
    }
}

#[cfg(test)]
mod tests;

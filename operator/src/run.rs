//! `quorumkv-operator run`: watches, the lease, the controller, and the ports for probes and metrics.
//!
//! Every operator fills its caches; the one that holds the [`lease`] works.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{PersistentVolumeClaim, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Client, Resource, ResourceExt,
    client::ClientBuilder,
    runtime::{
        Controller, Predicate, WatchStreamExt,
        events::{Recorder, Reporter},
        predicates,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use kube_lease_manager::LeaseManagerError;
use serde::de::DeserializeOwned;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    build::{names, policy::Allowed},
    controller::{self, Context},
    crd::KvCluster,
    health::{self, Readiness},
    lease::{self, NAME},
    metrics::Metrics,
    observe::Caches,
    page::{
        self, Hosts, News, Page,
        kubernetes::{Kubernetes, Tokens},
    },
    telemetry::LogFormat,
    watching::{self, Gaps},
};

/// How long a first list may take before the log says that it is waited for.
const LISTED_WITHIN: Duration = Duration::from_secs(30);
/// Triggers that may wait. One that finds no room is made up for by the next second's reconcile.
const TRIGGERS: usize = 4096;

/// Arguments of `quorumkv-operator run`.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Watch these namespaces only, separated by commas; by default all
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// The same for one namespace
    #[arg(long, env = "WATCH_NAMESPACE", default_value = "")]
    pub watch_namespace: String,
    /// Image of the nodes of KvClusters that name none
    #[arg(long, env = "NODE_IMAGE", default_value = concat!("ghcr.io/quorumkv/quorumkv-node:", env!("CARGO_PKG_VERSION")))]
    pub node_image: String,
    /// Port of /livez and /readyz
    #[arg(long, env = "HEALTH_PORT", default_value_t = 8081)]
    pub health_port: u16,
    /// Port of /metrics; 0 serves none
    #[arg(long, env = "METRICS_PORT", default_value_t = 9100)]
    pub metrics_port: u16,
    /// Port of the live page of the KvClusters; 0 serves none
    #[arg(long, env = "PAGE_PORT", default_value_t = 0)]
    pub page_port: u16,
    /// Let the page change writeQuorum and delay of KvClusters, and ask for switchovers
    #[arg(long, env = "PAGE_ALLOW_CHANGES", default_value_t = false, action = clap::ArgAction::Set)]
    pub page_allow_changes: bool,
    /// Host names under which the page is served, besides localhost and addresses
    #[arg(long, env = "PAGE_HOSTS", value_delimiter = ',')]
    pub page_hosts: Vec<String>,
    /// Make a NetworkPolicy for each KvCluster
    #[arg(long, env = "NETWORK_POLICIES", default_value_t = false, action = clap::ArgAction::Set)]
    pub network_policies: bool,
    /// Namespaces whose pods those policies let reach the nodes' client port, besides each store's own; by default all
    #[arg(long, env = "CLIENT_NAMESPACES", value_delimiter = ',')]
    pub client_namespaces: Vec<String>,
    /// How log lines look
    #[arg(long, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Name of this operator, for its lease
    #[arg(long, env = "POD_NAME", default_value = NAME)]
    pub pod_name: String,
    /// Namespace of the lease
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,
}

impl RunArgs {
    /// The namespaces to watch; none means all.
    #[must_use]
    pub fn namespaces(&self) -> Vec<String> {
        let named = self.watch_namespaces.iter().chain([&self.watch_namespace]).map(|name| name.trim());
        let unique: BTreeSet<String> = named.filter(|name| !name.is_empty()).map(str::to_owned).collect();
        unique.into_iter().collect()
    }
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No cluster is configured, or its configuration cannot be used.
    #[error("no Kubernetes cluster can be reached: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// The client cannot be set up.
    #[error("the Kubernetes client cannot be set up: {0}")]
    Client(#[from] kube::Error),
    /// The signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(#[source] std::io::Error),
    /// The page's HTTP client cannot be set up.
    #[error("the page's HTTP client cannot be set up: {0}")]
    Page(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A port cannot be served.
    #[error("port {port} cannot be served: {source}")]
    Port {
        /// Which.
        port: u16,
        /// Why.
        source: std::io::Error,
    },
    /// The lease cannot be kept.
    #[error("the lease cannot be kept: {0}")]
    Lease(#[from] LeaseManagerError),
    /// Another operator took over. This one starts afresh, with nothing in mind.
    #[error("the lease was lost to another operator")]
    LeaseLost,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// See [`RunError`].
pub async fn run(args: RunArgs) -> Result<(), RunError> {
    let mut config = kube::Config::infer().await?;
    // A failed reconcile is repeated by its own rules; below them, a call shall fail at once.
    config.default_retry = false;
    let (metrics, readiness) = (Arc::new(Metrics::default()), Readiness::default());
    let client = ClientBuilder::try_from(config)?.with_layer(&metrics.api_requests().layer()).build();
    let stop = CancellationToken::new();
    stop_on_signal(&stop).map_err(RunError::Signals)?;

    let mut servers = JoinSet::new();
    let probes = health::probes(readiness.clone());
    servers.spawn(serve(probes, args.health_port, stop.clone()));
    if args.metrics_port != 0 {
        servers.spawn(serve(health::metrics(Arc::clone(&metrics)), args.metrics_port, stop.clone()));
    }
    let outcome = tokio::select! {
        outcome = work(&args, client, metrics, readiness, &stop) => outcome,
        // A server that ends well was told to stop, and then the work still has a lease to give back.
        Some(Ok(Err(error))) = servers.join_next() => Err(error),
    };
    stop.cancel();
    while servers.join_next().await.is_some() {}
    outcome
}

async fn serve(router: axum::Router, port: u16, stop: CancellationToken) -> Result<(), RunError> {
    health::serve(router, port, stop).await.map_err(|source| RunError::Port { port, source })
}

fn stop_on_signal(stop: &CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        stop.cancel();
    });
    Ok(())
}

async fn work(
    args: &RunArgs,
    client: Client,
    metrics: Arc<Metrics>,
    readiness: Readiness,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let namespaces = args.namespaces();
    match namespaces.as_slice() {
        [] => tracing::info!("watching all namespaces"),
        some => tracing::info!(namespaces = %some.join(", "), "watching some namespaces"),
    }
    let (triggers, triggered) = mpsc::channel(TRIGGERS);
    let mut watches = JoinSet::new();
    let gaps = Gaps::default();
    let from = (namespaces.as_slice(), &gaps);
    let caches = Caches {
        stateful_sets: watch::<StatefulSet>(&client, from, &triggers, &mut watches),
        services: watch::<Service>(&client, from, &triggers, &mut watches),
        budgets: watch::<PodDisruptionBudget>(&client, from, &triggers, &mut watches),
        pods: watch::<Pod>(&client, from, &triggers, &mut watches),
        // They carry the labels that the StatefulSet selects its pods by.
        claims: watch::<PersistentVolumeClaim>(&client, from, &triggers, &mut watches),
        gaps: gaps.clone(),
    };
    tokio::select! {
        () = filled(&caches) => {}
        () = stop.cancelled() => return Ok(()),
    }
    readiness.reached();
    let news = News::default();
    // In every operator, also in one that waits for the lease: it asks nodes and steers none.
    let page = page(args, &client, &caches, &news, &mut watches, stop)?;
    tracing::info!("the caches are filled, waiting for the lease");
    tokio::select! {
        outcome = lead(args, client, caches, triggered, (metrics, news), stop) => outcome,
        Err(error) = page => Err(error),
    }
}

/// Serves the page, if it is wanted.
fn page(
    args: &RunArgs,
    client: &Client,
    caches: &Caches,
    news: &News,
    watches: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<impl Future<Output = Result<(), RunError>> + use<>, RunError> {
    let (clusters, writer) = reflector::store();
    let mut serving = None;
    if args.page_port != 0 {
        let stream = watch_clusters(client, args);
        let stream = stream.reflect(writer);
        watches.spawn(stream.for_each(async |event| {
            if let Err(error) = event {
                tracing::warn!(%error, "the page's watch failed and is repeated");
            }
        }));
        let source = Kubernetes {
            client: client.clone(),
            clusters,
            caches: caches.clone(),
            node_image: args.node_image.clone(),
            allow_changes: args.page_allow_changes,
            tokens: Tokens::default(),
        };
        let http = page::http_client().map_err(|error| RunError::Page(Box::new(error)))?;
        let page = Page::new(Arc::new(source), news.clone(), http, stop.clone());
        let router = page::router(Arc::new(page), Hosts::allowing(args.page_hosts.clone()));
        serving = Some(serve(router, args.page_port, stop.clone()));
    }
    Ok(async move {
        match serving {
            Some(serving) => serving.await,
            None => std::future::pending().await,
        }
    })
}

async fn filled(caches: &Caches) {
    let Caches { stateful_sets, services, budgets, pods, claims, gaps: _ } = caches;
    futures::join!(listed(stateful_sets), listed(services), listed(budgets), listed(pods), listed(claims));
}

/// Waits for the first list, and says from time to time that this is waited for.
async fn listed<K>(cache: &Store<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut waiting = tokio::time::interval_at(Instant::now() + LISTED_WITHIN, LISTED_WITHIN);
    let mut ready = std::pin::pin!(cache.wait_until_ready());
    loop {
        tokio::select! {
            outcome = &mut ready => {
                // That means that the watch has ended, and then the process ends with it.
                if let Err(error) = outcome {
                    tracing::error!(%error, "a cache was not filled");
                }
                return;
            }
            _ = waiting.tick() => tracing::warn!(
                kind = %K::plural(&()),
                "the operator is not ready before it has listed these once; the watch's errors say why it cannot"
            ),
        }
    }
}

/// A namespace whose KvClusters may not be listed has none to look after. What of the others is known is told by the
/// caches' own gaps.
fn watch_clusters(client: &Client, args: &RunArgs) -> watching::Events<KvCluster> {
    watching::watch(client, &args.namespaces(), &watcher::Config::default(), &Gaps::default())
}

/// Fills a cache with all objects of one kind that carry the operator's label, and triggers a reconcile of
/// their KvCluster at every change and deletion.
fn watch<K>(
    client: &Client,
    (namespaces, gaps): (&[String], &Gaps),
    triggers: &mpsc::Sender<ObjectRef<KvCluster>>,
    watches: &mut JoinSet<()>,
) -> Store<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let config = watcher::Config::default().labels(names::MANAGED);
    let stream = watching::watch::<K>(client, namespaces, &config, gaps).reflect(writer).touched_objects();
    let triggers = triggers.clone();
    watches.spawn(async move {
        let mut stream = std::pin::pin!(stream);
        while let Some(event) = stream.next().await {
            match event {
                Ok(object) => {
                    if let Some(cluster) = cluster_of(&object) {
                        // No room means that plenty of reconciles are waiting already.
                        triggers.try_send(cluster).ok();
                    }
                }
                Err(error) => tracing::warn!(kind = %K::kind(&()), %error, "the watch failed and is repeated"),
            }
        }
    });
    store
}

fn cluster_of(object: &impl Resource) -> Option<ObjectRef<KvCluster>> {
    let name = object.labels().get(names::INSTANCE)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn lead(
    args: &RunArgs,
    client: Client,
    caches: Caches,
    triggered: mpsc::Receiver<ObjectRef<KvCluster>>,
    (metrics, news): (Arc<Metrics>, News),
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let Some(mut lease) = lease::acquire(&client, &args.pod_namespace, &args.pod_name, stop).await? else {
        return Ok(());
    };
    tracing::info!(operator = %args.pod_name, "this operator holds the lease");
    metrics.leading(true);
    let shared = (Arc::clone(&metrics), news);
    let controller = control(args, client, caches, triggered, shared, stop.clone());
    let outcome = tokio::select! {
        () = controller => Ok(()),
        // Either way somebody else may work now, so this one has to end at once.
        () = lease.lost() => Err(RunError::LeaseLost),
    };
    metrics.leading(false);
    lease.give_back().await;
    outcome
}

async fn control(
    args: &RunArgs,
    client: Client,
    caches: Caches,
    triggered: mpsc::Receiver<ObjectRef<KvCluster>>,
    (metrics, news): (Arc<Metrics>, News),
    stop: CancellationToken,
) {
    let (clusters, writer) = reflector::store();
    // Status changes are the operator's own; only a new spec, and the wish for a switchover among the annotations,
    // need a reconcile before the next second.
    let stream = watch_clusters(&client, args).reflect(writer).applied_objects().predicate_filter(
        predicates::generation.combine(predicates::annotations).combine(predicates::finalizers),
        kube::runtime::PredicateConfig::default(),
    );
    metrics.show(clusters.clone());
    let reporter = Reporter { controller: NAME.to_owned(), instance: Some(args.pod_name.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        caches,
        clusters: clusters.clone(),
        metrics,
        news,
        node_image: args.node_image.clone(),
        policy: args.network_policies.then(|| Allowed {
            operator_namespace: args.pod_namespace.clone(),
            // An empty variable is no namespace.
            client_namespaces: args.client_namespaces.iter().filter(|name| !name.is_empty()).cloned().collect(),
        }),
        memories: std::sync::Mutex::new(HashMap::new()),
    });
    Controller::for_stream(stream, clusters)
        .reconcile_on(received(triggered))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(controller::reconcile, controller::error_policy, context)
        // Failures are logged where they are handled, in the reconcile itself.
        .for_each(|_| std::future::ready(()))
        .await;
}

fn received<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send {
    futures::stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|item| (item, receiver)))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        run: RunArgs,
    }

    #[rstest::rstest]
    #[case::all(&[], &[])]
    #[case::one(&["--watch-namespace=team"], &["team"])]
    #[case::several(&["--watch-namespaces=b,a"], &["a", "b"])]
    #[case::twice(&["--watch-namespaces=b, a,b,", "--watch-namespace=c"], &["a", "b", "c"])]
    fn namespaces_are_those_that_are_named(#[case] arguments: &[&str], #[case] expected: &[&str]) {
        let arguments = ["run"].iter().chain(arguments);
        assert_eq!(Program::parse_from(arguments).run.namespaces(), expected);
    }
}

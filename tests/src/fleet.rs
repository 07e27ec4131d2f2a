//! `fleet`: one operator and very many stores, on a real API server ([`control_plane`]) whose nodes are played.
//!
//! Pods are objects that kwok calls running; what answers on their addresses is the replication core ([`nodes`],
//! [`store`]). The operator is the real program. [`measure`] asks it and the API server, [`report`] writes it down. A
//! quiet minute in which the operator writes anything but its lease is a failure, also while some stores have lost every
//! copy and wait for a person.
//!
//! `tests/tests/e2e_killed.rs` uses the same parts for few stores, with [`volumes`], whose operators end at a write
//! ([`proxy`]).

pub mod control_plane;
pub mod install;
pub mod measure;
pub mod nodes;
pub mod operator;
pub mod proxy;
pub mod report;
pub mod store;
pub mod volumes;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Pod, Secret, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client,
    api::{DynamicObject, PostParams},
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use self::{
    control_plane::ControlPlane,
    install::install,
    measure::{Counters, until_all},
    nodes::{MANAGED, Nodes, StoreName},
    operator::{Operator, Setup},
    report::{Report, Span, Used},
};
use crate::{
    bench::{machine::Machine, usage},
    kind::objects,
};

/// Stores of one namespace.
const STORES_EACH: usize = 20;
/// Pods of one machine.
const PODS_EACH: usize = 60;
/// Of a store with everything by default.
const FOLLOWERS: usize = 5;
/// Objects of each kind that one store has.
const SERVICES: usize = 3;
/// KvClusters that are sent at the same time.
const AT_ONCE: usize = 16;
/// After everything is Ready, until what is left to do is done.
const SETTLING: Duration = Duration::from_secs(15);
/// One store in so many loses every copy, at the end.
const ONE_IN: usize = 10;
/// Below this, what was measured is only printed.
const WORTH_KEEPING: usize = 200;
/// Connections of the operator to all nodes, with room for the rest.
const FILES: u64 = 16_384;
/// Where the operator's lease is.
const OPERATOR_NAMESPACE: &str = "quorumkv-system";

/// One operator and very many stores, with nodes that are played.
#[derive(Debug, Parser)]
#[command(name = "fleet", version)]
pub struct Options {
    /// Stores
    #[arg(long, env = "CLUSTERS", default_value_t = WORTH_KEEPING, value_parser = clap::value_parser!(usize))]
    clusters: usize,

    /// How long nothing changes while requests are counted, in seconds
    #[arg(long, default_value_t = 60)]
    quiet: u64,

    /// How long all stores may take to become Ready, in minutes
    #[arg(long, default_value_t = 20)]
    patience: u64,

    /// Folder for the report [default: results with 200 stores or more; else none]
    #[arg(long, value_name = "FOLDER")]
    results: Option<PathBuf>,
}

/// Measures, prints the report, keeps it, and says what is wrong.
///
/// # Errors
/// When the control plane does not come up, stores do not become Ready, or the operator writes while nothing changes.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let Options { clusters, results, .. } = &options;
    ensure!(*clusters > 0, "no stores are nothing to measure");
    allow_many_files()?;
    let listener = nodes::listener().await?;
    let machines = (clusters * (FOLLOWERS + 1)).div_ceil(PODS_EACH);
    say(&format!("starting a control plane with {machines} nodes"));
    let mut plane = ControlPlane::start(machines).await?;
    let report = measure(&options, machines, &mut plane, listener).await;
    let report = report.with_context(|| plane.ends())?;
    println!("{report}");
    let folder = results.clone().or_else(|| (*clusters >= WORTH_KEEPING).then(|| repository().join("results")));
    if let Some(folder) = folder {
        fs::create_dir_all(&folder)?;
        let file = folder.join("fleet.md");
        fs::write(&file, report.to_string()).with_context(|| file.display().to_string())?;
        say(&format!("kept in {}", file.display()));
    }
    let faults = report.faults();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

async fn measure(
    options: &Options,
    machines: usize,
    plane: &mut ControlPlane,
    listener: TcpListener,
) -> anyhow::Result<Report> {
    let clusters = options.clusters;
    let client = plane.client.clone();
    let namespaces = (0..clusters).step_by(STORES_EACH).map(namespace).chain([OPERATOR_NAMESPACE.to_owned()]);
    install(&client, namespaces).await?;
    let nodes = Nodes::default();
    let _nodes_stay = [
        AbortOnDropHandle::new(spawn("following pods", nodes.clone().follow(client.clone()))),
        AbortOnDropHandle::new(spawn("serving nodes", {
            let nodes = nodes.clone();
            async { nodes.serve(listener).await.expect("it accepts") }
        })),
    ];
    let kubeconfig = &plane.operator_kubeconfig;
    let mut operator = Operator::new(&Setup {
        identity: operator::NAME,
        kubeconfig,
        watches: None,
        lives_in: OPERATOR_NAMESPACE,
        folder: plane.folder(),
    })?;
    operator.start().await?;
    let mut processes = vec![(operator::NAME.to_owned(), operator.process.pid()?)];
    processes.extend(plane.processes()?);
    processes.push(("simulated nodes, and this program".to_owned(), rustix::process::getpid()));

    say(&format!("making {clusters} stores"));
    let (before, used_before) = (operator.counters().await?, Usage::of(&processes)?);
    let began = Instant::now();
    let patience = Duration::from_secs(60 * options.patience);
    let making = tokio::time::timeout(patience, make(&client, clusters, began)).await;
    let Made { created, objects, ready } = match making {
        Ok(made) => made.with_context(|| operator.process.output_end(20))?,
        Err(_) => bail!(
            "not all stores were Ready after {patience:?}
{}",
            operator.process.output_end(20)
        ),
    };
    let (made, used_made) = (operator.counters().await?, Usage::of(&processes)?);
    let making = span(began.elapsed(), &made.since(&before));

    say(&format!("every store is Ready after {ready:.1?}; waiting until all is quiet, then for {} s", options.quiet));
    sleep(SETTLING).await;
    let calm = Quiet::for_a_while(options, &client, &operator, &processes).await?;

    let halted: Vec<StoreName> =
        (0..clusters).step_by(ONE_IN).map(|number| (namespace(number), name(number))).collect();
    say(&format!("every copy of {} stores is lost; the same again while they wait for a person", halted.len()));
    nodes.lose_copies(&halted);
    let stores: Api<DynamicObject> = Api::all_with(client.clone(), &objects::kvcluster());
    tokio::time::timeout(patience, until_all(stores, "", halted.len(), |store| !is_ready(store)))
        .await
        .with_context(|| operator.process.output_end(20))??;
    sleep(SETTLING).await;
    let waiting = Quiet::for_a_while(options, &client, &operator, &processes).await?;
    // Ended meanwhile would be an error.
    plane.processes()?;
    let used = processes.iter().enumerate().map(|(index, (name, _))| Used {
        name: name.clone(),
        busy: used_made.share(&used_before, index),
        idle: calm.used.1.share(&calm.used.0, index),
        waiting: waiting.used.1.share(&waiting.used.0, index),
        resident_mib: calm.used.1.resident_mib[index],
    });
    let machine = Machine::look();
    Ok(Report {
        clusters,
        nodes_each: FOLLOWERS + 1,
        machines,
        setting: format!("{} x {}, Linux {}", machine.cores, machine.processor, machine.kernel),
        created,
        objects,
        ready,
        making,
        elections: calm.counters.sum("elections_total"),
        failed: waiting.counters.series("reconcile_errors_total"),
        put_off: waiting.counters.sum("reconciles_put_off_total"),
        idle: calm.quiet,
        halted: halted.len(),
        waiting: waiting.quiet,
        used: used.collect(),
    })
}

/// A time in which nobody wishes for anything.
struct Quiet {
    quiet: report::Quiet,
    /// At its end.
    counters: Counters,
    /// At its beginning and at its end.
    used: (Usage, Usage),
}

impl Quiet {
    async fn for_a_while(
        options: &Options,
        client: &Client,
        operator: &Operator,
        processes: &[(String, Pid)],
    ) -> anyhow::Result<Self> {
        let versions = measure::versions(client).await?;
        let (before, used_before, began) = (operator.counters().await?, Usage::of(processes)?, Instant::now());
        sleep(Duration::from_secs(options.quiet)).await;
        let (counters, used, lasted) = (operator.counters().await?, Usage::of(processes)?, began.elapsed());
        let now = measure::versions(client).await?;
        let changed = now.iter().filter(|(name, version)| versions.get(*name) != Some(version));
        let gone = versions.keys().filter(|name| !now.contains_key(*name));
        let changed = changed.map(|(name, _)| name).chain(gone).cloned().collect();
        let quiet = report::Quiet { span: span(lasted, &counters.since(&before)), changed };
        Ok(Self { quiet, counters, used: (used_before, used) })
    }
}

fn span(lasted: Duration, added: &Counters) -> Span {
    Span { lasted, reconciles: added.sum("reconciles_total"), requests: added.requests() }
}

/// When what was there.
struct Made {
    created: Duration,
    objects: BTreeMap<&'static str, (usize, Duration)>,
    ready: Duration,
}

/// Sends all KvClusters and waits until everything of them is there and Ready.
async fn make(client: &Client, clusters: usize, began: Instant) -> anyhow::Result<Made> {
    let pods = clusters * (FOLLOWERS + 1);
    let everything = async {
        tokio::try_join!(
            until_all(Api::<StatefulSet>::all(client.clone()), MANAGED, clusters, |_| true),
            until_all(Api::<Service>::all(client.clone()), MANAGED, clusters * SERVICES, |_| true),
            until_all(Api::<PodDisruptionBudget>::all(client.clone()), MANAGED, clusters, |_| true),
            until_all(Api::<Secret>::all(client.clone()), MANAGED, clusters, |_| true),
            until_all(Api::<Pod>::all(client.clone()), MANAGED, pods, |_| true),
        )
    };
    let stores: Api<DynamicObject> = Api::all_with(client.clone(), &objects::kvcluster());
    let ready = until_all(stores, "", clusters, is_ready);
    let create = async {
        stream::iter(0..clusters)
            .map(|number| create(client, number))
            .buffer_unordered(AT_ONCE)
            .try_collect::<()>()
            .await?;
        Ok(Instant::now())
    };
    let (created, (sets, services, budgets, secrets, pods_there), ready) = tokio::try_join!(create, everything, ready)?;
    let since = |moment: Instant| moment.saturating_duration_since(began);
    let objects = [
        ("StatefulSet", (clusters, since(sets))),
        ("Service", (clusters * SERVICES, since(services))),
        ("PodDisruptionBudget", (clusters, since(budgets))),
        ("Secret", (clusters, since(secrets))),
        ("Pod", (pods, since(pods_there))),
    ];
    Ok(Made { created: since(created), objects: objects.into(), ready: since(ready) })
}

fn is_ready(cluster: &DynamicObject) -> bool {
    let [ready, ..] = objects::condition(cluster, "Ready");
    ready == "True" && cluster.data["status"]["readyFollowers"] == json!(FOLLOWERS)
}

fn namespace(number: usize) -> String {
    format!("fleet-{:02}", number / STORES_EACH)
}

fn name(number: usize) -> String {
    format!("store-{number:03}")
}

async fn create(client: &Client, number: usize) -> anyhow::Result<()> {
    let namespace = namespace(number);
    let stores = objects::kvclusters(client, &namespace);
    let store: DynamicObject = serde_json::from_value(json!({
        "apiVersion": "quorumkv.io/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": name(number), "namespace": namespace},
        "spec": {"followers": FOLLOWERS},
    }))?;
    stores.create(&PostParams::default(), &store).await.with_context(|| format!("make store {number}"))?;
    Ok(())
}

/// Of several processes, in their order, at one moment.
struct Usage {
    at: Instant,
    processor: Vec<Duration>,
    resident_mib: Vec<f64>,
}

impl Usage {
    fn of(processes: &[(String, Pid)]) -> anyhow::Result<Self> {
        let processor = processes.iter().map(|(_, pid)| usage::processor_time(*pid)).collect::<anyhow::Result<_>>()?;
        let resident = processes.iter().map(|(_, pid)| Ok(usage::resident_kib(*pid)? as f64 / 1024.0));
        Ok(Self { at: Instant::now(), processor, resident_mib: resident.collect::<anyhow::Result<_>>()? })
    }

    /// How much of one processor a process had since an earlier moment.
    fn share(&self, earlier: &Self, index: usize) -> f64 {
        let worked = self.processor[index].saturating_sub(earlier.processor[index]);
        worked.as_secs_f64() / (self.at - earlier.at).as_secs_f64()
    }
}

/// The operator keeps a connection to every node, and this program the other end of each. Children inherit the limit.
fn allow_many_files() -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < FILES) {
        let wanted = maximum.map_or(FILES, |maximum| maximum.min(FILES));
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).context("the limit of open files")?;
    }
    Ok(())
}

fn spawn(what: &'static str, work: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(async move {
        work.await;
        tracing::error!("{what} ended");
    })
}

#[expect(clippy::print_stderr, reason = "how far it is, beside the report")]
fn say(line: &str) {
    eprintln!("{line}");
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate stands in the repository")
}

//! An operator that is killed at any write of its reconciles leaves nothing that the next one cannot go on from.
//!
//! A store lives through what an operator does: it is made, leadership is handed over, its volumes grow, a follower is
//! added, every node is renewed, a follower goes. First in peace, which gives the writes to the API server and the state at
//! the end. Then once for each of these writes and each side of it: the operator gets SIGKILL just before the write
//! arrives or just after it is done, and is started again. All these lives must end as the peaceful one did, with
//! never more than one pod that is labelled as leader.
//!
//! One that is told to stop gives its lease back, and the next one works at once.
//!
//! The API server, StatefulSets, scheduler and operator are real, pods are played ([`quorumkv_tests::fleet`]). Runs
//! where `QUORUMKV_TEST_LAYERS` names `e2e` (as tests/run.sh does), or with `--include-ignored`. `QUORUMKV_LIVES=N`
//! goes through N of them, evenly spread (24); 0 through all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    pin::pin,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, PersistentVolumeClaim, Pod, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams, PostParams},
    runtime::{WatchStreamExt as _, watcher},
};
use libtest_mimic::{Arguments, Failed, Trial};
use quorumkv_tests::{
    fleet::{
        control_plane::{self, ControlPlane},
        install::install,
        nodes::{self, MANAGED, Nodes},
        operator::{Operator, Setup},
        proxy::{Moment, Proxy},
        volumes,
    },
    kind::{objects, store::is_complete},
    wait::until,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Lives at the same time.
const AT_ONCE: usize = 8;
/// Without `QUORUMKV_LIVES`.
const LIVES: usize = 24;
/// How long each change may take, the operator's new start and its lease included.
const PATIENCE: Duration = Duration::from_mins(3);
/// Between two looks at a store: many are looked at, and the API server has more to do.
const LOOK: Duration = Duration::from_millis(200);
/// The peaceful life is over when the operator has written nothing for so long.
const REST: Duration = Duration::from_secs(2);
const STORE: &str = "demo";
/// The most that it ever has.
const NODES: usize = 4;
/// Machines; more pods than they take are never there at once.
const MACHINES: usize = 12;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One of them takes time.
    arguments.test_threads = Some(1);
    let asked = std::env::var("QUORUMKV_TEST_LAYERS").is_ok_and(|layers| layers.split(',').any(|one| one == "e2e"));
    let tests = vec![
        Trial::test("an_operator_that_is_killed_at_any_write_goes_on_to_the_same_end", || done(every_life())),
        Trial::test("an_operator_that_stops_hands_over_before_its_lease_ends", || done(handover())),
    ];
    let tests = tests.into_iter().map(|test| test.with_ignored_flag(!asked)).collect();
    libtest_mimic::run(&arguments, tests).exit_code()
}

fn done(test: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failed::from(error.to_string()))?;
    runtime.block_on(test).map_err(|error| Failed::from(format!("{error:?}")))
}

/// A helm upgrade is that: one operator is there, and stops when the next one is.
#[expect(clippy::print_stdout, reason = "what was found, beside that it passed")]
async fn handover() -> anyhow::Result<()> {
    let plane = ControlPlane::start(0).await?;
    install(&plane.client, ["system".to_owned()]).await?;
    let named = |identity| {
        let kubeconfig = &plane.operator_kubeconfig;
        Operator::new(&Setup { identity, kubeconfig, watches: None, lives_in: "system", folder: plane.folder() })
    };
    let (mut old, mut new) = (named("old")?, named("new")?);
    old.start().await?;
    let works = async |operator: &Operator| Ok::<bool, anyhow::Error>(operator.counters().await?.sum("leading") > 0.0);
    new.process.start()?;
    until("the new one waits", PATIENCE, || works(&new)).await?;
    sleep(Duration::from_secs(3)).await;
    ensure!(works(&old).await? && !works(&new).await?, "not the old one alone works");
    old.process.signal(rustix::process::Signal::TERM)?;
    let told = Instant::now();
    until("the new one works", PATIENCE, || async {
        ensure!(works(&new).await?, "it does not yet");
        Ok(())
    })
    .await?;
    let took = told.elapsed();
    println!("\nmeasured: an operator that was told to stop handed over within {took:.1?}");
    // The lease was renewed a few seconds ago, and lasts 15.
    ensure!(took < Duration::from_secs(7), "only after {took:?}");
    Ok(())
}

/// What is left of a store's life.
struct Lived {
    /// The operator's writes, as verb and path.
    writes: Vec<String>,
    /// At which of them it was killed.
    killed_at: Option<String>,
    /// What is there at the end.
    end: BTreeMap<String, Value>,
    /// How long it lived.
    lasted: Duration,
}

async fn every_life() -> anyhow::Result<()> {
    let listener = nodes::listener().await?;
    let plane = ControlPlane::start(MACHINES).await?;
    let client = plane.client.clone();
    install(&client, []).await?;
    volumes::install(&client).await?;
    let nodes = Nodes::default();
    let _following = AbortOnDropHandle::new(tokio::spawn(nodes.clone().follow(client.clone())));
    let _serving = AbortOnDropHandle::new(tokio::spawn(nodes.serve(listener)));

    let peaceful = live(&plane, "life-0".to_owned(), None).await.context("a life in peace")?;
    let moments = chosen(peaceful.writes.len())?;
    let began = Instant::now();
    let lives = stream::iter(moments.iter().enumerate()).map(|(number, moment)| {
        let namespace = format!("life-{}", number + 1);
        let plane = &plane;
        async move { live(plane, namespace, Some(*moment)).await.with_context(|| format!("killed {moment:?}")) }
    });
    let lives: Vec<Lived> = lives.buffer_unordered(AT_ONCE).try_collect().await.with_context(|| plane.ends())?;
    for Lived { end, killed_at, .. } in &lives {
        // A life has one write more or less than another, and the last of them may not come.
        let differs = different(&peaceful.end, end);
        ensure!(differs.is_empty(), "killed at {killed_at:?}, and at the end other than in peace: {differs:#?}");
    }
    let killed = lives.iter().filter_map(|life| life.killed_at.clone()).map(|write| kind(&write));
    let killed: Vec<String> = killed.collect();
    ensure!(killed.len() * 10 >= lives.len() * 9, "only {} of {} operators were killed", killed.len(), lives.len());
    report(&peaceful, &lives, &killed, began.elapsed());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what was found, beside that it passed")]
fn report(peaceful: &Lived, lives: &[Lived], killed: &[String], lasted: Duration) {
    let longest = lives.iter().map(|life| life.lasted).max().unwrap_or_default();
    println!(
        "\nmeasured: {} writes in a life of {:.1?} without a kill; {} lives with one in {lasted:.1?}, the longest {longest:.1?}, \
         all with the same end",
        peaceful.writes.len(),
        peaceful.lasted,
        lives.len(),
    );
    let kinds: BTreeSet<&String> = killed.iter().collect();
    for kind in kinds {
        println!("measured: killed {} times at {kind}", killed.iter().filter(|one| *one == kind).count());
    }
}

/// Moments to die at, evenly spread over a life with so many writes.
fn chosen(writes: usize) -> anyhow::Result<Vec<Moment>> {
    let all: Vec<Moment> = (1..=writes).flat_map(|number| [Moment::Before(number), Moment::After(number)]).collect();
    let wanted = match std::env::var("QUORUMKV_LIVES") {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("QUORUMKV_LIVES={text}"))?,
        _ => LIVES,
    };
    if wanted == 0 || wanted >= all.len() {
        return Ok(all);
    }
    Ok((0..wanted).map(|number| all[number * all.len() / wanted]).collect())
}

/// Verb and kind of object of a write.
fn kind(write: &str) -> String {
    let (verb, path) = write.split_once(' ').unwrap_or((write, ""));
    let after = path.split_once("/namespaces/").map_or(path, |(_, rest)| rest);
    let mut parts = after.split('/').skip(1);
    let resource = parts.next().unwrap_or_default();
    match parts.nth(1) {
        Some(subresource) => format!("{verb} {resource}/{subresource}"),
        None => format!("{verb} {resource}"),
    }
}

/// One store from beginning to end, with an operator of its own.
async fn live(plane: &ControlPlane, namespace: String, moment: Option<Moment>) -> anyhow::Result<Lived> {
    let began = Instant::now();
    let client = &plane.client;
    let operator_client = control_plane::connect(&plane.operator_kubeconfig).await?;
    let proxy = Proxy::start(operator_client, moment).await?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
    namespaces.create(&PostParams::default(), &object).await.context("a namespace")?;
    let mut operator = Operator::new(&Setup {
        identity: &format!("operator-{namespace}"),
        kubeconfig: &proxy.kubeconfig(plane.folder(), &namespace)?,
        watches: Some(&namespace),
        lives_in: &namespace,
        folder: plane.folder(),
    })?;
    // All but the changes end only with an error.
    let outcome = tokio::select! {
        error = supervised(&mut operator, &proxy) => Err(error),
        error = no_two_leaders(client.clone(), namespace.clone()) => Err(error),
        error = volumes::grow(client.clone(), namespace.clone()) => Err(error),
        end = changes(client, &namespace, &proxy) => end,
    };
    let end = outcome.with_context(|| operator.process.output_end(20))?;
    Ok(Lived { writes: proxy.writes(), killed_at: proxy.ended_at(), end, lasted: began.elapsed() })
}

/// An operator that is killed when its time has come, and started again, as a Deployment would.
async fn supervised(operator: &mut Operator, proxy: &Proxy) -> anyhow::Error {
    let process = &mut operator.process;
    let mut started = process.start();
    while started.is_ok() {
        tokio::select! {
            () = proxy.struck() => {
                started = process.kill().and_then(|()| {
                    proxy.begin_anew();
                    process.start()
                });
            }
            () = sleep(Duration::from_millis(500)) => {
                if !process.is_running() {
                    return anyhow::anyhow!("the operator ended by itself");
                }
            }
        }
    }
    started.expect_err("it went on as long as it could be started")
}

/// Watches the labels that the Service of the leader goes by. Ends when two pods have it at once.
async fn no_two_leaders(client: Client, namespace: String) -> anyhow::Error {
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let mut leaders = BTreeSet::new();
    let mut events = pin!(watcher(pods, watcher::Config::default().labels(MANAGED)).default_backoff());
    while let Some(event) = events.next().await {
        let leads = |pod: &Pod| pod.labels().get("quorumkv.io/role").is_some_and(|role| role == "leader");
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) if leads(&pod) => {
                leaders.insert(pod.name_any());
            }
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) | watcher::Event::Delete(pod)) => {
                leaders.remove(&pod.name_any());
            }
            Ok(watcher::Event::Init) => leaders.clear(),
            Ok(watcher::Event::InitDone) | Err(_) => {}
        }
        if leaders.len() > 1 {
            return anyhow::anyhow!("{leaders:?} were labelled as leader at the same time");
        }
    }
    anyhow::anyhow!("the watch of pods ended")
}

/// What a person does with the store, and what is there when all is done.
async fn changes(client: &Client, namespace: &str, proxy: &Proxy) -> anyhow::Result<BTreeMap<String, Value>> {
    for node in 0..NODES {
        volumes::make(client, namespace, &format!("data-{STORE}-{node}"), "64Mi").await?;
    }
    let stores = objects::kvclusters(client, namespace);
    let storage = json!({"type": "Persistent", "size": "64Mi", "storageClassName": volumes::CLASS});
    let store = serde_json::from_value(json!({
        "apiVersion": "quorumkv.io/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": STORE, "namespace": namespace},
        "spec": {"followers": 2, "writeQuorum": 1, "image": "localhost/played:1", "storage": storage},
    }))?;
    stores.create(&PostParams::default(), &store).await.context("make the store")?;
    complete(client, namespace, "localhost/played:1").await.context("made")?;

    let patch = async |patch: Value| -> anyhow::Result<()> {
        stores.patch(STORE, &PatchParams::default(), &Patch::Merge(patch)).await?;
        Ok(())
    };
    // Not necessarily there: a wish whose operator dies amid the election is not wished again.
    patch(json!({"metadata": {"annotations": {"quorumkv.io/switchover-to": format!("{STORE}-2")}}})).await?;
    until("the wish is taken", PATIENCE, || async {
        sleep(LOOK).await;
        let wish = stores.get(STORE).await?.annotations().get("quorumkv.io/switchover-to").cloned();
        ensure!(wish.is_none(), "{wish:?}");
        Ok(())
    })
    .await?;
    complete(client, namespace, "localhost/played:1").await.context("handed over")?;
    patch(json!({"spec": {"storage": {"size": "128Mi"}}})).await?;
    until("the volumes grow", PATIENCE, || async {
        sleep(LOOK).await;
        let store = stores.get(STORE).await?;
        let size = &store.data["status"]["volumeSize"];
        ensure!(size == "128Mi", "the smallest has {size}: {:?}", objects::condition(&store, "VolumesResized"));
        Ok(())
    })
    .await?;
    // That of the follower that comes is made as small as the others were.
    patch(json!({"spec": {"followers": 3}})).await?;
    complete(client, namespace, "localhost/played:1").await.context("a follower more")?;
    patch(json!({"spec": {"image": "localhost/played:2"}})).await?;
    complete(client, namespace, "localhost/played:2").await.context("renewed")?;
    patch(json!({"spec": {"followers": 2}})).await?;
    complete(client, namespace, "localhost/played:2").await.context("a follower less")?;

    let deadline = Instant::now() + PATIENCE;
    loop {
        let (before, looked) = (proxy.writes().len(), Instant::now());
        sleep(REST).await;
        if proxy.writes().len() == before {
            return everything(client, namespace).await;
        }
        if looked > deadline {
            bail!("it never rests: {:?}", &proxy.writes()[before.saturating_sub(5)..]);
        }
    }
}

/// Waits until the store is what its spec says, and every pod runs this image.
async fn complete(client: &Client, namespace: &str, image: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    until("the store is complete", PATIENCE, || async {
        sleep(LOOK).await;
        let store = objects::kvclusters(client, namespace).get(STORE).await?;
        is_complete(&store, &objects::pods(client, namespace, STORE).await?)?;
        let [progressing, reason, message] = objects::condition(&store, "Progressing");
        ensure!(progressing == "False", "Progressing: {reason}: {message}");
        let found = pods.list(&ListParams::default().labels(MANAGED)).await?;
        let images: BTreeSet<Option<String>> =
            found.iter().flat_map(|pod| &pod.spec).map(|spec| spec.containers[0].image.clone()).collect();
        ensure!(images == [Some(image.to_owned())].into(), "pods run {images:?}");
        Ok(())
    })
    .await
}

/// All that belongs to the store, without what is another in every life: names of leaders and copies, addresses, times,
/// the namespace.
async fn everything(client: &Client, namespace: &str) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut all = BTreeMap::new();
    let spec = |object: Value| object["spec"].clone();
    all.extend(of_kind::<StatefulSet>(client, namespace, spec).await?);
    all.extend(of_kind::<PodDisruptionBudget>(client, namespace, spec).await?);
    let reachable = |object: Value| {
        let mut spec = object["spec"].clone();
        for address in ["clusterIP", "clusterIPs"] {
            if let Some(spec) = spec.as_object_mut() {
                spec.remove(address);
            }
        }
        spec
    };
    all.extend(of_kind::<Service>(client, namespace, reachable).await?);
    let size =
        |object: Value| json!({"asked": object["spec"]["resources"]["requests"], "has": object["status"]["capacity"]});
    all.extend(of_kind::<PersistentVolumeClaim>(client, namespace, size).await?);
    let keys = |object: Value| {
        object["data"].as_object().into_iter().flat_map(serde_json::Map::keys).map(String::as_str).collect::<Value>()
    };
    all.extend(of_kind::<Secret>(client, namespace, keys).await?);
    let gate = |object: Value| {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let counted = conditions.filter(|one| one["type"] == "quorumkv.io/counted");
        json!({"image": object["spec"]["containers"][0]["image"], "counted": counted.map(|one| one["status"].clone()).collect::<Value>()})
    };
    all.extend(of_kind::<Pod>(client, namespace, gate).await?);

    let store = objects::kvclusters(client, namespace).get(STORE).await?;
    let conditions = ["Ready", "Progressing", "Degraded", "QuorumAvailable", "VolumesResized"];
    let conditions: Value = conditions.iter().map(|kind| json!(objects::condition(&store, kind)[..2])).collect();
    let status = &store.data["status"];
    let names: Value =
        status["members"].as_array().into_iter().flatten().map(|member| member["name"].clone()).collect();
    let record = json!({
        "conditions": conditions, "members": names, "configuration": status["configuration"]["nodes"],
        "followers": status["followers"], "readyFollowers": status["readyFollowers"], "writeQuorum": status["writeQuorum"],
    });
    all.insert(format!("KvCluster/{STORE}"), record);
    let nowhere = |object: Value| serde_json::from_str(&object.to_string().replace(namespace, "NAMESPACE"));
    all.into_iter().map(|(name, object)| Ok((name, nowhere(object)?))).collect()
}

async fn of_kind<K>(
    client: &Client,
    namespace: &str,
    kept: impl Fn(Value) -> Value,
) -> anyhow::Result<Vec<(String, Value)>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Serialize,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let found = api.list(&ListParams::default()).await?;
    found
        .items
        .into_iter()
        .map(|object| {
            let owners: Vec<String> = object.owner_references().iter().map(|owner| owner.kind.clone()).collect();
            // Which pod leads is another in every life, and so is the hash of a name.
            let mut labels = object.labels().clone();
            labels.remove("quorumkv.io/role");
            labels.remove("controller-revision-hash");
            let name = format!("{}/{}", K::kind(&()), object.name_any());
            Ok((name, json!({"owners": owners, "labels": labels, "what": kept(serde_json::to_value(&object)?)})))
        })
        .collect()
}

/// What is missing, is there besides, or is not the same.
fn different(one: &BTreeMap<String, Value>, other: &BTreeMap<String, Value>) -> Vec<String> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let differs = names.into_iter().filter(|name| one.get(*name) != other.get(*name));
    let text = |side: Option<&Value>| side.map_or_else(|| "nothing".to_owned(), Value::to_string);
    differs.map(|name| format!("{name}: {} instead of {}", text(other.get(name)), text(one.get(name)))).collect()
}

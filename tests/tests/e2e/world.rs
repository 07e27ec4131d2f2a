//! What the steps share: the cluster, the operator in it, the store that most of them use. Each is set up when
//! the first step asks for it; if that fails, every step that needs it fails with the same words.

use std::{
    cmp::Reverse,
    ffi::OsString,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, ensure};
use futures::{FutureExt as _, future::BoxFuture};
use libtest_mimic::Failed;
use quorumkv_tests::{
    chaos::options,
    kind::{
        cluster::{Images, Kind},
        diagnose,
        scenarios::{self, Row, Setting},
    },
    load::Report,
};
use serde_json::{Value, json};
use tokio::{runtime::Runtime, sync::OnceCell};

use super::{failures::ensure_content, store::Store};

/// The kind cluster.
const CLUSTER: &str = "quorumkv-e2e";
/// The operator's namespace, and its helm release.
pub(crate) const SYSTEM: &str = "quorumkv-system";
pub(crate) const RELEASE: &str = "quorumkv";
/// Where the store is that most steps use.
pub(crate) const FIRST: &str = "e2e-first";
/// Where another store of the same name is.
pub(crate) const SECOND: &str = "e2e-second";
/// Where a store is made as the previous release made it.
pub(crate) const UPGRADE: &str = "e2e-upgrade";
/// Where a store is that asks clients for tokens.
pub(crate) const LOCKED: &str = "e2e-locked";
/// Where a store is whose nodes speak TLS.
pub(crate) const SECURED: &str = "e2e-secured";
/// Where a store is whose pods are renewed.
pub(crate) const ROLLED: &str = "e2e-rolled";
/// Where stores of single steps are.
pub(crate) const ASIDE: &str = "e2e-aside";
/// All of them.
const NAMESPACES: [&str; 7] = [FIRST, SECOND, LOCKED, SECURED, ROLLED, ASIDE, UPGRADE];
/// No step takes that long, unless something hangs.
const STEP_LIMIT: Duration = Duration::from_mins(6);
/// So many of the steps that took longest are named at the end.
const SLOWEST: usize = 15;
/// Setting up builds programs, the first time.
const SET_UP_LIMIT: Duration = Duration::from_mins(75);

/// A step, and its name.
pub(crate) type Step = (&'static str, fn(&'static World) -> BoxFuture<'static, anyhow::Result<()>>);

/// Set up at most once; failed once is failed for good.
type Once<T> = OnceCell<Result<T, String>>;

pub(crate) struct World {
    runtime: Runtime,
    kind: Once<(Kind, Images)>,
    operator: Once<()>,
    store: Once<(Store, Duration)>,
    facts: Mutex<Vec<String>>,
    /// Steps that ended, and how long each took.
    times: Mutex<Vec<(&'static str, Duration)>>,
    rows: Mutex<Vec<Row>>,
    described: AtomicBool,
}

impl World {
    /// Lives as long as the process: steps run on other threads, and borrow it.
    pub(crate) fn leaked() -> &'static Self {
        let runtime = Runtime::new().expect("a runtime");
        let world = Box::leak(Box::new(Self {
            runtime,
            kind: OnceCell::new(),
            operator: OnceCell::new(),
            store: OnceCell::new(),
            facts: Mutex::default(),
            times: Mutex::default(),
            rows: Mutex::default(),
            described: AtomicBool::new(false),
        }));
        let shared: &'static Self = world;
        shared.runtime.spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                println!("\ninterrupted");
                shared.clean_up().await;
                std::process::exit(130);
            }
        });
        shared
    }

    /// Runs one step; a failure tells what the cluster looked like.
    pub(crate) fn run(
        &'static self,
        name: &'static str,
        step: impl FnOnce(&'static Self) -> BoxFuture<'static, anyhow::Result<()>>,
    ) -> Result<(), Failed> {
        self.runtime.block_on(async {
            let set_up = async {
                // Within a limit of its own; the steps ask again and get the answer at once.
                let first = tokio::time::timeout(SET_UP_LIMIT, self.kind()).await;
                first.map_err(|_| anyhow!("setting up took longer than {SET_UP_LIMIT:?}"))?.map(|_| ())
            };
            if let Err(error) = set_up.await {
                return Err(format!("{error:#}").into());
            }
            let began = Instant::now();
            let limit = STEP_LIMIT + asked_for()?;
            let outcome = tokio::time::timeout(limit, AssertUnwindSafe(step(self)).catch_unwind()).await;
            let after = began.elapsed();
            self.times.lock().expect("nobody panics while holding it").push((name, after));
            let error = match outcome {
                Ok(Ok(Ok(()))) => return Ok(()),
                Ok(Ok(Err(error))) => format!("{error:#}"),
                Ok(Err(panic)) => text_of(&*panic),
                Err(_) => format!("the step did not end within {limit:?}"),
            };
            Err(format!("after {after:.1?}: {error}\n{}", self.describe().await).into())
        })
    }

    /// Remembers a measurement, shown when all is over.
    pub(crate) fn fact(&self, text: String) {
        self.facts.lock().expect("nobody panics while holding it").push(text);
    }

    /// One line of the table of scenarios: what the clients of a load met with, now that the store is at rest again.
    /// Fails when an acknowledged write is lost, when what clients saw is not linearizable, or when replicas differ.
    pub(crate) async fn scenario(&self, scenario: &str, store: &Store, report: &Report) -> anyhow::Result<()> {
        let service = store.service().await?;
        let content = store.client()?.final_values(&service.url()).await.context("what the store holds at the end")?;
        let row = Row::of(scenario, report, &content);
        let lost = row.lost;
        self.row(row);
        ensure!(lost == 0, "{scenario}: {lost} of {} acknowledged writes are lost", report.acked());
        ensure_content(store, report).await
    }

    /// A line of that table which was checked elsewhere.
    pub(crate) fn row(&self, row: Row) {
        self.rows.lock().expect("nobody panics while holding it").push(row);
    }

    /// The cluster, with the images loaded, without anything of an earlier run.
    pub(crate) async fn kind(&self) -> anyhow::Result<&Kind> {
        Ok(&self.kind_and_images().await?.0)
    }

    /// The images that were loaded.
    pub(crate) async fn images(&self) -> anyhow::Result<&Images> {
        Ok(&self.kind_and_images().await?.1)
    }

    async fn kind_and_images(&self) -> anyhow::Result<&(Kind, Images)> {
        get(&self.kind, "the cluster", async {
            let began = Instant::now();
            let kind = Kind::up(CLUSTER).await?;
            let up = began.elapsed();
            kind.delete_namespaces(&[&NAMESPACES[..], &[SYSTEM]].concat()).await?;
            // Kept by helm, and with it the schema of an earlier run.
            kind.kubectl(["delete", "customresourcedefinition", "kvclusters.quorumkv.io", "--ignore-not-found"])
                .output()
                .await?;
            let began = Instant::now();
            let binaries = std::env::var_os("QUORUMKV_BINARIES").map(PathBuf::from);
            let images = kind.load_images(binaries.as_deref()).await?;
            self.fact(format!("cluster up in {:.1?}, images built and loaded in {:.1?}", up, began.elapsed()));
            Ok((kind, images))
        })
        .await
    }

    /// The cluster with the operator in it.
    pub(crate) async fn operator(&self) -> anyhow::Result<&Kind> {
        let (kind, images) = self.kind_and_images().await?;
        get(&self.operator, "the operator", async {
            for namespace in [SYSTEM, FIRST, SECOND, SECURED, ROLLED, ASIDE] {
                kind.create_restricted_namespace(namespace).await?;
            }
            let began = Instant::now();
            kind.install(RELEASE, SYSTEM, images).await?;
            self.fact(format!("helm install, until the operator is up: {:.1?}", began.elapsed()));
            Ok(())
        })
        .await?;
        Ok(kind)
    }

    /// The spec of the store that most steps use, as it is made.
    pub(crate) fn first_spec() -> Value {
        json!({"delay": {"min": "10ms", "max": "150ms"}})
    }

    /// The store that most steps use, made but not necessarily Ready, and how long it took to become that.
    pub(crate) async fn first_store(&self) -> anyhow::Result<&(Store, Duration)> {
        let kind = self.operator().await?;
        get(&self.store, "the first store", async {
            let store = Store::new(kind, FIRST, "demo");
            let began = Instant::now();
            store.apply(Self::first_spec()).await?;
            store.until_complete(Duration::from_mins(3)).await?;
            Ok((store, began.elapsed()))
        })
        .await
    }

    /// The store that most steps use, Ready and with every follower: whatever the step before did to it.
    pub(crate) async fn ready_store(&self) -> anyhow::Result<&Store> {
        let (store, _) = self.first_store().await?;
        store.until_complete(Duration::from_mins(1)).await?;
        Ok(store)
    }

    /// Shows what was measured, writes the table of scenarios where that is asked for, and removes the cluster unless it
    /// shall stay. Whether that succeeded.
    pub(crate) fn end(&'static self, all_passed: bool) -> bool {
        for fact in self.facts.lock().expect("nobody panics while holding it").iter() {
            println!("measured: {fact}");
        }
        self.show_times();
        let rows = self.rows.lock().expect("nobody panics while holding it").clone();
        if !rows.is_empty() {
            println!("\n{}", scenarios::markdown(&rows));
        }
        self.runtime.block_on(async {
            let written = self.write_table(&rows, all_passed).await;
            if let Err(error) = &written {
                println!("the table of scenarios was not written: {error:#}");
            }
            self.clean_up().await && written.is_ok()
        })
    }

    /// The steps that took longest.
    fn show_times(&self) {
        let mut times = self.times.lock().expect("nobody panics while holding it").clone();
        if times.is_empty() {
            return;
        }
        let all: Duration = times.iter().map(|(_, time)| *time).sum();
        times.sort_by_key(|(_, time)| Reverse(*time));
        println!("{} steps took {:.1} s; the slowest:", times.len(), all.as_secs_f64());
        for (name, time) in times.iter().take(SLOWEST) {
            println!("{:>7.1} s  {name}", time.as_secs_f64());
        }
    }

    /// Where the table of scenarios shall be written, seen from the repository.
    pub(crate) fn table() -> Option<OsString> {
        std::env::var_os("QUORUMKV_E2E_TABLE").filter(|path| !path.is_empty())
    }

    async fn write_table(&self, rows: &[Row], all_passed: bool) -> anyhow::Result<()> {
        let Some(path) = Self::table() else { return Ok(()) };
        ensure!(all_passed, "a step failed");
        ensure!(!rows.is_empty(), "no step measured a scenario");
        let kind = self.kind().await?;
        let kubernetes = kind.client.apiserver_version().await.context("ask the version of Kubernetes")?.git_version;
        let machines = kind.machines().await?.len();
        let versions = vec![
            format!("quorumkv {}", env!("CARGO_PKG_VERSION")),
            format!("Kubernetes {kubernetes}, nodes: {machines}"),
            kind.version().await?,
        ];
        let path = kind.repository().join(path);
        let text = scenarios::document(rows, &Setting::here("make e2e-table", versions));
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        println!("written: {}", path.display());
        Ok(())
    }

    async fn clean_up(&self) -> bool {
        let Some(Ok((kind, _))) = self.kind.get() else { return true };
        if std::env::var("QUORUMKV_KEEP_CLUSTER").is_ok_and(|keep| keep == "1") {
            println!("kept: the kind cluster {CLUSTER}; tests/cluster/cluster.sh down --name {CLUSTER} removes it");
            return true;
        }
        match kind.down().await {
            Ok(()) => true,
            Err(error) => {
                println!("the kind cluster {CLUSTER} was not removed: {error}");
                false
            }
        }
    }

    async fn describe(&self) -> String {
        let Some(Ok((kind, _))) = self.kind.get() else { return String::new() };
        // When the operator or the store could not be set up, all later steps fail for the same reason.
        let failed_for_good = matches!(self.operator.get(), Some(Err(_))) || matches!(self.store.get(), Some(Err(_)));
        if failed_for_good && self.described.swap(true, Ordering::Relaxed) {
            return "(what the cluster looked like is shown with the first failure)".to_owned();
        }
        diagnose::describe(kind, SYSTEM, &NAMESPACES).await
    }
}

/// Time for more chaos and failovers than there are by default.
fn asked_for() -> Result<Duration, Failed> {
    let seconds: u32 = options::number("QUORUMKV_CHAOS_SECONDS", 0).map_err(Failed::from)?;
    let failovers: u32 = options::number("QUORUMKV_FAILOVERS", 0).map_err(Failed::from)?;
    Ok(2 * Duration::from_secs(1) * seconds + Duration::from_mins(1) * failovers)
}

async fn get<'a, T>(
    once: &'a Once<T>,
    what: &str,
    set_up: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<&'a T> {
    let done = once.get_or_init(|| async { set_up.await.map_err(|error| format!("{error:#}")) }).await;
    done.as_ref().map_err(|error| anyhow!("{what} could not be set up: {error}"))
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("the step panicked").to_owned()
}

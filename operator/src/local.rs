//! `quorumkv-operator local`: the operator's decisions over child processes, without Kubernetes.
//!
//! With storage in memory the record is kept in memory too: it lives exactly as long as the data. With Persistent
//! storage both are in one directory ([`data_dir`]), and the store goes on when it is started again. Children run
//! in process groups of their own and are stopped by their parent; the kernel kills them if that is killed.

mod data_dir;
mod fleet;
mod manifest;
mod page;
mod places;
mod process;
mod record;

use std::{
    io::Write,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Zoned;
use quorumkv_api::{NodeId, Settings, client::PeerClient, settings::format_duration};
use rand::RngExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::page::PageAt;
use self::{
    data_dir::{DataDir, DataDirError},
    fleet::Fleet,
    manifest::{Manifest, ManifestError},
    page::Desk,
    places::{Names, Place, places},
    process::{Keeping, Launch},
    record::{LocalRecord, RecordFileError},
};
use crate::{
    crd::StorageKind,
    decide::BOOTSTRAP_PATIENCE,
    manage::{self, ANSWER_TIMEOUT, Memory, Pass, PassError},
    record::{Platform, RecordError},
    status::{self, Summary},
    validate::Store,
};

/// Pause after a record could not be written.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// Arguments of `quorumkv-operator local`.
#[derive(Debug, Clone, clap::Args)]
pub struct LocalArgs {
    /// Manifest of the KvCluster to run; read again whenever it is saved
    #[arg(short, long)]
    pub file: PathBuf,
    /// Client port of the first node, which is the first leader; the others take the ports after it
    #[arg(long, default_value_t = quorumkv_api::CLIENT_PORT)]
    pub port: u16,
    /// Peer port of the first node; the others take the ports after it
    #[arg(long, default_value_t = quorumkv_api::PEER_PORT)]
    pub peer_port: u16,
    /// IPv4 addresses of the nodes, comma-separated, one for each, also for those that may join later: it listens
    /// there, and dials the others from there [default: 127.0.0.1 for all]
    #[arg(long, value_delimiter = ',')]
    pub hosts: Vec<Ipv4Addr>,
    /// With storage type Persistent: the directory that holds the record and each node's data; made if need be
    /// [default: quorumkv-data/<name> beside the manifest]
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
    /// The node's program; by default quorumkv-node beside this one
    #[arg(long)]
    pub node_binary: Option<PathBuf>,
    /// Which of the nodes' log lines to show: off, error, warn, info, debug, or a filter as in RUST_LOG
    #[arg(long, default_value = "warn")]
    pub log_level: String,
    /// Where to serve the live page: a loopback address, a port on 127.0.0.1, or off [default: 127.0.0.1:8080, if it
    /// is free]
    #[arg(long, value_name = "ADDR|off")]
    pub page: Option<PageAt>,
}

/// Why the local store cannot run.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// The manifest cannot be used.
    #[error("{} {reason}", .file.display())]
    Manifest {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The node's program is not there.
    #[error("{} is no file: build it with `cargo build`, or name it with --node-binary", .0.display())]
    NodeBinary(PathBuf),
    /// A port is taken.
    #[error(
        "port {port} on {host} ({what} of node {node}) cannot be used: {source}. Free the port, or choose others with --port and --peer-port"
    )]
    Port {
        /// The address.
        host: Ipv4Addr,
        /// The port.
        port: u32,
        /// What it is for.
        what: &'static str,
        /// Which node needs it.
        node: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The two ranges of ports overlap.
    #[error(
        "client ports {port}.. and peer ports {peer_port}.. overlap for {nodes} nodes: choose others with --port and --peer-port"
    )]
    Overlap {
        /// First client port.
        port: u16,
        /// First peer port.
        peer_port: u16,
        /// Number of nodes.
        nodes: usize,
    },
    /// The page's port is taken.
    #[error("the page cannot be served at {address}: {source}. Choose another with --page, or --page off")]
    Page {
        /// Where it was asked for.
        address: std::net::SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// Some nodes have an address of their own and some have not.
    #[error("--hosts names {hosts} addresses for {nodes} nodes: give one for each, or none")]
    Hosts {
        /// Addresses given.
        hosts: usize,
        /// Number of nodes.
        nodes: usize,
    },
    /// The directory of the data cannot be used.
    #[error("{}: {reason}", .directory.display())]
    DataDir {
        /// The directory.
        directory: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What was recorded there cannot be gone on with.
    #[error("{} {reason}", .file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The client for the peer ports cannot be set up.
    #[error("the HTTP client cannot be set up: {0}")]
    Client(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signals(#[from] std::io::Error),
    /// A pass failed.
    #[error(transparent)]
    Pass(#[from] PassError),
}

/// Runs the manifest until SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// See [`LocalError`]. By then every child is stopped.
pub async fn run(args: LocalArgs) -> Result<(), LocalError> {
    let named = |error: ManifestError| LocalError::Manifest { file: args.file.clone(), reason: error.to_string() };
    let manifest = manifest::read(&args.file, &Names::of(&args)).map_err(named)?;
    let launch = Launch { binary: node_binary(&args)?, token: random_token(), log_level: args.log_level.clone() };
    let directory = data_dir(&args, &manifest)?;
    let root = directory.as_ref().map(|directory| directory.root().to_owned());
    let platform = open_record(directory, &manifest)?;
    let recorded = platform.record().await.map_err(PassError::Record)?.record;
    let places = places(&args, &manifest.store.as_recorded(&recorded))?;
    let ports: Vec<u16> = places.iter().flat_map(|place| [place.port, place.peer_port]).collect();
    let bound = page::bind(args.page, &ports)?;
    let client = PeerClient::new(Some(launch.token.clone()), ANSWER_TIMEOUT)
        .map_err(|error| LocalError::Client(Box::new(error)))?;
    let mut stop_signals = StopSignals::new()?;

    let (lines, printed) = mpsc::channel(64);
    let keeping = Keeping { stop: CancellationToken::new(), changed: Arc::new(Notify::new()), lines };
    introduce(&args, &manifest, &places, root.as_deref(), &bound.place);
    let fleet = Fleet::start(&args, launch, keeping.clone(), root, places)?;
    let (desk, page) = page::serve(bound, &manifest.name, &args.file, fleet.controls(), &keeping.stop);
    let (changes, changed) = mpsc::channel(1);
    let watching = tokio::spawn(manifest::watch(args.file.clone(), Names::of(&args), changes));
    let local = Local {
        named: manifest.store.switchover_to.clone(),
        in_file: manifest.store.settings,
        args: &args,
        client,
        manifest,
        fleet: &fleet,
        memory: Memory::default(),
        platform: &platform,
        desk,
    };
    let outcome = tokio::select! {
        outcome = local.steer(&keeping.changed, changed, printed) => outcome,
        () = stop_signals.received() => Ok(()),
    };
    say("stopping");
    watching.abort();
    keeping.stop.cancel();
    fleet.stopped().await;
    if let Some(page) = page {
        page.await.ok();
    }
    say("stopped");
    outcome
}

fn node_binary(args: &LocalArgs) -> Result<PathBuf, LocalError> {
    let beside = || std::env::current_exe().ok()?.parent().map(|directory| directory.join("quorumkv-node"));
    let binary = args.node_binary.clone().or_else(beside).unwrap_or_else(|| "quorumkv-node".into());
    if binary.is_file() { Ok(binary) } else { Err(LocalError::NodeBinary(binary)) }
}

fn random_token() -> String {
    let token: u128 = rand::rng().random();
    format!("{token:032x}")
}

/// The directory of a store that keeps its data, locked.
fn data_dir(args: &LocalArgs, manifest: &Manifest) -> Result<Option<DataDir>, LocalError> {
    match manifest.storage {
        StorageKind::Memory => Ok(None),
        StorageKind::Persistent => {
            let directory = args.data_dir.clone().unwrap_or_else(|| data_dir::default_for(&args.file, manifest));
            let locked = DataDir::lock(&directory);
            let failed = |error: DataDirError| LocalError::DataDir { directory, reason: error.to_string() };
            locked.map(Some).map_err(failed)
        }
    }
}

fn open_record(directory: Option<DataDir>, manifest: &Manifest) -> Result<LocalRecord, LocalError> {
    let Some(directory) = directory else { return Ok(LocalRecord::default()) };
    let file = directory.record();
    let failed = |error: RecordFileError| LocalError::Record { file, reason: error.to_string() };
    LocalRecord::kept_in(directory, manifest.name.clone(), manifest.store.names.clone()).map_err(failed)
}

struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

struct Local<'a> {
    args: &'a LocalArgs,
    client: PeerClient,
    manifest: Manifest,
    fleet: &'a Fleet<'a>,
    memory: Memory,
    platform: &'a LocalRecord,
    /// Whom the manifest named when it was last read. Only a change of it is a wish.
    named: Option<NodeId>,
    /// The settings that the manifest had when it was last read. What is wished for at a page may differ.
    in_file: Settings,
    desk: Desk,
}

impl Local<'_> {
    /// Repeats passes until the select around it ends.
    async fn steer(
        mut self,
        process_changed: &Notify,
        mut manifest_changed: mpsc::Receiver<Result<Manifest, ManifestError>>,
        mut lines: mpsc::Receiver<String>,
    ) -> Result<(), LocalError> {
        let started = Instant::now();
        let mut shown = String::new();
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = process_changed.notified() => {}
                Some(change) = manifest_changed.recv() => self.follow(change),
                Some(wish) = self.desk.wishes.recv() => self.grant(wish),
                Some(line) = lines.recv() => {
                    say(&line);
                    let (news, store) = self.desk.news();
                    news.tell(store, "Process", true, line);
                    continue;
                }
            }
            let known = self.platform.record().await.map_err(PassError::Record)?.record;
            self.manifest.store.switchover_to = self.platform.wish().clone();
            let store = &mut self.manifest.store.as_recorded(&known);
            if let Err(error) = self.fleet.follow(store) {
                tell_once(&mut shown, error.to_string());
            }
            store.settled = self.fleet.is_settled();
            let store: &Store = store;
            let nodes = self.fleet.known(store);
            let pass = match manage::pass(self.platform, &self.client, store, nodes, known, &mut self.memory).await {
                Ok(pass) => pass,
                // What is not recorded was not done; the disk may take it the next time.
                Err(PassError::Record(error @ RecordError::File(_))) => {
                    tell_once(&mut shown, error.to_string());
                    pause = RECORD_RETRY;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            pass.happenings.iter().for_each(|happening| say(&happening.to_string()));
            let (news, name) = self.desk.news();
            news.tell_all(name, &pass.happenings);
            let summary = status::summarize(store, &pass);
            let line = status_line(&summary, &pass);
            self.desk.show(&summary, store.settings, self.remark(), self.fleet.known(store));
            // Nodes that are just starting are no news.
            let starting = pass.record.members.is_empty() && started.elapsed() < BOOTSTRAP_PATIENCE;
            if !starting {
                tell_once(&mut shown, line);
            }
            pause = self.memory.pause_after(&pass, store);
        }
    }

    /// Takes over from a saved manifest what can be changed while the store runs.
    fn follow(&mut self, change: Result<Manifest, ManifestError>) {
        let file = self.args.file.display();
        let new = match change {
            Ok(new) => new,
            Err(error) => {
                say(&format!("{file} {error}; the settings in force stay"));
                return;
            }
        };
        let old = &mut self.manifest;
        if new.storage != old.storage || new.name != old.name {
            say(&format!("{file} changes name or storage: start again for that"));
        }
        if let Err(error) = places::has_room(self.args, new.store.wanted) {
            say(&format!("{file}: {error}; followers and settings in force stay"));
            return;
        }
        // The manifest was found right for its own number of followers.
        let settings = new.store.settings;
        old.store.settings = settings;
        (old.store.nodes, old.store.wanted) = (new.store.nodes, new.store.wanted);
        self.in_file = settings;
        old.store.data_loss = new.store.data_loss;
        if self.named != new.store.switchover_to {
            self.named = new.store.switchover_to;
            self.platform.wish().clone_from(&self.named);
        }
    }
}

fn introduce(args: &LocalArgs, manifest: &Manifest, places: &[Place], data: Option<&Path>, page: &str) {
    let Manifest { name, store, .. } = manifest;
    say(&format!("{name} from {}: a leader and {} followers", args.file.display(), store.followers()));
    for place in places {
        say(&format!("  node {}  peer port {}", place.address.client_url, place.peer_port));
    }
    match data {
        Some(directory) => say(&format!("  data in {}, kept when this ends", directory.display())),
        None => say("  data in memory, gone when this ends"),
    }
    say(&format!("  page {page}"));
    let url = &places.first().expect("a store has a leader").address.client_url;
    say(&format!(
        "  try: curl -X POST {url}/set -H 'content-type: application/json' -d '{{\"key\":\"hello\",\"value\":\"world\"}}'"
    ));
    say("  save the manifest to change followers, writeQuorum, delay or writeTimeout; Ctrl-C stops everything");
}

fn status_line(summary: &Summary, pass: &Pass) -> String {
    let client_url = |node| {
        let view = pass.nodes.iter().find(|view| Some(&view.address.node) == node);
        view.map_or("none", |view| view.address.client_url.as_str())
    };
    let leader = client_url(summary.leader.as_ref());
    let applied = summary.applied.map_or_else(String::new, |settings| {
        let timeout = format_duration(settings.write_timeout);
        format!(", writeQuorum {}, delay {}, writeTimeout {timeout}", settings.write_quorum, settings.delay)
    });
    let state = if summary.ready.holds { "ready" } else { "NOT READY" };
    let Summary { ready, ready_followers, followers, .. } = summary;
    format!("{state}: leader {leader}, followers {ready_followers}/{followers}{applied}. {}", ready.message)
}

/// Prints a line unless it was the last one printed so.
fn tell_once(shown: &mut String, line: String) {
    if *shown != line {
        say(&line);
        *shown = line;
    }
}

/// Prints a line with the time. Whoever read the output may be gone; the store runs on.
fn say(line: &str) {
    let time = Zoned::now().strftime("%H:%M:%S%.3f").to_string();
    writeln!(std::io::stdout().lock(), "{time} {line}").ok();
}

/// Passes on what a child said.
fn complain(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

//! `quorumkv-operator local`: the operator's decisions over child processes, without Kubernetes.
//!
//! The record is kept in memory: it lives exactly as long as the data, which the child processes keep in
//! theirs. Children run in process groups of their own and are stopped by their parent; a parent that is
//! killed outright (SIGKILL) cannot stop them.

mod manifest;
mod page;
mod process;

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Zoned;
use quorumkv_api::{NodeId, Settings, client::PeerClient, peer::PeerAddress, settings::format_duration};
use rand::RngExt;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use self::page::PageAt;
use self::{
    manifest::{Manifest, ManifestError},
    page::Desk,
    process::{Keeping, Launch, Process},
};
use crate::{
    decide::BOOTSTRAP_PATIENCE,
    manage::{self, ANSWER_TIMEOUT, KnownNode, Memory, Pass, PassError},
    record::{Platform, Record, RecordError, Versioned},
    status::{self, Summary},
    validate::Store,
};

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
        "port {port} ({what} of node {node}) cannot be used: {source}. Free it, or choose others with --port and --peer-port"
    )]
    Port {
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
    let manifest = manifest::read(&args.file, args.port).map_err(named)?;
    let launch = Launch { binary: node_binary(&args)?, token: random_token(), log_level: args.log_level.clone() };
    let places = places(&args, &manifest.store)?;
    let ports: Vec<u16> = places.iter().flat_map(|place| [place.port, place.peer_port]).collect();
    let bound = page::bind(args.page, &ports)?;
    let client = PeerClient::new(Some(launch.token.clone()), ANSWER_TIMEOUT)
        .map_err(|error| LocalError::Client(Box::new(error)))?;
    let mut stop_signals = StopSignals::new()?;

    let (lines, printed) = mpsc::channel(64);
    let keeping = Keeping { stop: CancellationToken::new(), changed: Arc::new(Notify::new()), lines };
    introduce(&args, &manifest, &places, &bound.place);
    let processes: Vec<Process> = places
        .into_iter()
        .map(|place| Process::start(place.address, (place.port, place.peer_port), launch.clone(), keeping.clone()))
        .collect();
    let (desk, page) = page::serve(bound, &manifest.name, &args.file, &processes, &keeping.stop);
    let (changes, changed) = mpsc::channel(1);
    let watching = tokio::spawn(manifest::watch(args.file.clone(), args.port, changes));
    let local = Local {
        named: manifest.store.switchover_to.clone(),
        in_file: manifest.store.settings,
        args: &args,
        client,
        manifest,
        processes: &processes,
        memory: Memory::default(),
        platform: InMemory::default(),
        desk,
    };
    let outcome = tokio::select! {
        outcome = local.steer(&keeping.changed, changed, printed) => outcome,
        () = stop_signals.received() => Ok(()),
    };
    say("stopping");
    watching.abort();
    keeping.stop.cancel();
    futures::future::join_all(processes.into_iter().map(Process::stopped)).await;
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

#[derive(Debug, Clone)]
struct Place {
    address: PeerAddress,
    port: u16,
    peer_port: u16,
}

/// Where the nodes will serve, once every port has been found free.
fn places(args: &LocalArgs, store: &Store) -> Result<Vec<Place>, LocalError> {
    let count = store.nodes.len();
    let (first, second) = (usize::from(args.port.min(args.peer_port)), usize::from(args.port.max(args.peer_port)));
    if first + count > second {
        return Err(LocalError::Overlap { port: args.port, peer_port: args.peer_port, nodes: count });
    }
    let mut places = Vec::new();
    for (ordinal, node) in store.nodes.iter().enumerate() {
        let port = free_port(args.port, ordinal, "client port", &node.0)?;
        let peer_port = free_port(args.peer_port, ordinal, "peer port", &node.0)?;
        let address = PeerAddress {
            node: node.clone(),
            client_url: format!("http://127.0.0.1:{port}"),
            peer_url: format!("http://127.0.0.1:{peer_port}"),
        };
        places.push(Place { address, port, peer_port });
    }
    Ok(places)
}

fn free_port(first: u16, ordinal: usize, what: &'static str, node: &str) -> Result<u16, LocalError> {
    let number = u32::from(first).saturating_add(u32::try_from(ordinal).unwrap_or(u32::MAX));
    let refused = |source| LocalError::Port { port: number, what, node: node.to_owned(), source };
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| refused(std::io::Error::other("there are 65535 ports")))?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(refused)?;
    Ok(port)
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

/// The record of a local store: one manager, one process, so a mutex is the compare-and-swap.
#[derive(Debug, Default)]
struct InMemory {
    record: std::sync::Mutex<(Record, u64)>,
    /// Who shall lead, until that is acted on. The manifest is not rewritten.
    wish: std::sync::Mutex<Option<NodeId>>,
}

impl InMemory {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Record, u64)> {
        self.record.lock().expect("nobody panics while holding the record")
    }

    fn wish(&self) -> std::sync::MutexGuard<'_, Option<NodeId>> {
        self.wish.lock().expect("nobody panics while holding the wish")
    }
}

impl Platform for InMemory {
    async fn record(&self) -> Result<Versioned, RecordError> {
        let (record, version) = self.lock().clone();
        Ok(Versioned { record, version: version.to_string() })
    }

    async fn replace(&self, read: &Versioned, new: Record) -> Result<Versioned, RecordError> {
        let mut current = self.lock();
        if current.1.to_string() != read.version {
            return Err(RecordError::Conflict);
        }
        *current = (new.clone(), current.1 + 1);
        Ok(Versioned { record: new, version: current.1.to_string() })
    }

    async fn withdraw_switchover(&self, wanted: &NodeId) -> Result<bool, RecordError> {
        Ok(self.wish().take_if(|wish| wish == wanted).is_some())
    }
}

struct Local<'a> {
    args: &'a LocalArgs,
    client: PeerClient,
    manifest: Manifest,
    processes: &'a [Process],
    memory: Memory,
    platform: InMemory,
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
            let nodes = self.processes.iter().map(known).collect();
            let known = self.platform.record().await.map_err(PassError::Record)?.record;
            self.manifest.store.switchover_to = self.platform.wish().clone();
            let store = &self.manifest.store;
            let pass = manage::pass(&self.platform, &self.client, store, nodes, known, &mut self.memory).await?;
            pass.happenings.iter().for_each(|happening| say(&happening.to_string()));
            let (news, name) = self.desk.news();
            news.tell_all(name, &pass.happenings);
            let summary = status::summarize(store, &pass);
            let line = status_line(&summary, &pass);
            self.desk.show(&summary, store.settings, self.remark(), self.processes);
            // Nodes that are just starting are no news.
            let starting = pass.record.members.is_empty() && started.elapsed() < BOOTSTRAP_PATIENCE;
            if line != shown && !starting {
                say(&line);
                shown = line;
            }
            pause = pass.pause(store);
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
        if new.store.nodes.len() != old.store.nodes.len() || new.storage != old.storage || new.name != old.name {
            say(&format!("{file} changes name, followers or storage: start again for that"));
        }
        let settings = new.store.settings;
        if let Err(error) = settings.validate(old.store.followers()) {
            say(&format!("{file}: {error}; the settings in force stay"));
            return;
        }
        old.store.settings = settings;
        self.in_file = settings;
        old.store.data_loss = new.store.data_loss;
        if self.named != new.store.switchover_to {
            self.named = new.store.switchover_to;
            self.platform.wish().clone_from(&self.named);
        }
    }
}

fn known(process: &Process) -> KnownNode {
    KnownNode { address: process.address.clone(), presence: process.presence(), outdated: false }
}

fn introduce(args: &LocalArgs, manifest: &Manifest, places: &[Place], page: &str) {
    let Manifest { name, store, .. } = manifest;
    say(&format!("{name} from {}: a leader and {} followers", args.file.display(), store.followers()));
    for place in places {
        say(&format!("  node {}  peer port {}", place.address.client_url, place.peer_port));
    }
    say(&format!("  page {page}"));
    let url = &places.first().expect("a store has a leader").address.client_url;
    say(&format!(
        "  try: curl -X POST {url}/set -H 'content-type: application/json' -d '{{\"key\":\"hello\",\"value\":\"world\"}}'"
    ));
    say("  save the manifest to change writeQuorum, delay or writeTimeout; Ctrl-C stops everything");
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

/// Prints a line with the time. Whoever read the output may be gone; the store runs on.
fn say(line: &str) {
    let time = Zoned::now().strftime("%H:%M:%S%.3f").to_string();
    writeln!(std::io::stdout().lock(), "{time} {line}").ok();
}

/// Passes on what a child said.
fn complain(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(port: u16, peer_port: u16) -> LocalArgs {
        LocalArgs { file: "m.yaml".into(), port, peer_port, node_binary: None, log_level: "warn".into(), page: None }
    }

    fn store(nodes: usize) -> Store {
        Store {
            nodes: (0..nodes).map(|n| manifest::node_name(5000, n)).collect(),
            settings: quorumkv_api::Settings::default(),
            data_loss: crate::crd::DataLossPolicy::Halt,
            switchover_to: None,
        }
    }

    #[test]
    fn a_taken_port_is_named_with_its_node_before_anything_starts() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let error = free_port(port, 0, "client port", "127.0.0.1:7").expect_err("taken").to_string();
        assert!(error.contains(&format!("port {port} (client port of node 127.0.0.1:7)")), "{error}");
        assert!(error.contains("--port"), "{error}");
    }

    #[test]
    fn overlapping_ranges_are_refused() {
        let error = places(&args(5000, 5003), &store(6)).expect_err("overlap").to_string();
        assert!(error.contains("overlap for 6 nodes"), "{error}");
    }

    #[test]
    fn ports_end_at_65535() {
        let error = free_port(65_535, 1, "peer port", "n").expect_err("no such port").to_string();
        assert!(error.contains("port 65536"), "{error}");
    }

    #[tokio::test]
    async fn the_record_in_memory_refuses_a_second_writer() {
        let platform = InMemory::default();
        let read = platform.record().await.expect("read");
        platform.replace(&read, Record::default()).await.expect("first");
        let second = platform.replace(&read, Record::default()).await.expect_err("second");
        assert!(matches!(second, RecordError::Conflict));
    }
}

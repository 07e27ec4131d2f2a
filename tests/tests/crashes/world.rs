//! A store of three node processes, its record, and clients that write while others crash.

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures::future::join_all;
use quorumkv_api::{
    Delay, NodeId, Settings, WriteQuorum,
    client::PeerClient,
    lab::Role,
    peer::{NodeState, PeerAddress},
};
use quorumkv_operator::{crd::DataLossPolicy, decide::Presence, manage::KnownNode, validate::Store};
use quorumkv_tests::{
    client::LabClient,
    history::check_with_content,
    load::{Load, Policy, Running, Target},
    processes::{Launch, Process, ports::PortBlock, programs},
    wait,
};
use rustix::process::Signal;
use tempfile::TempDir;

use super::record::SharedRecord;

/// Nodes of each store.
pub(crate) const NODES: usize = 3;
/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Where the nodes keep their data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Storage {
    Memory,
    Persistent,
}

/// How a store is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) storage: Storage,
    /// Nodes that can be told where to abort.
    pub(crate) failpoints: bool,
    /// The first node leads without a manager, and its writes need all others.
    pub(crate) pinned_leader: bool,
    /// Entries kept for followers that fall behind.
    pub(crate) log_entries: u32,
}

/// The store.
pub(crate) struct World {
    processes: Arc<Vec<Mutex<Process>>>,
    /// Nodes that are to be replaced.
    outdated: Arc<Mutex<BTreeSet<usize>>>,
    /// Whether the store shall sleep.
    pub(crate) hibernated: AtomicBool,
    /// Whether none of its nodes shall run, as it is written down for whoever keeps them running.
    stopped: Arc<AtomicBool>,
    ports: PortBlock,
    options: Options,
    settings: Mutex<Settings>,
    /// How many of the nodes shall be the store's. The processes of the others go on, and nobody asks them anything.
    pub(crate) size: AtomicUsize,
    pub(crate) record: Arc<SharedRecord>,
    pub(crate) client: LabClient,
    peer: PeerClient,
    /// Holds logs and data; goes last.
    folder: TempDir,
}

/// The name of a node.
pub(crate) fn name(node: usize) -> NodeId {
    NodeId(format!("n{node}"))
}

impl World {
    /// Starts the processes and waits until each answers.
    pub(crate) async fn start(options: Options) -> anyhow::Result<Self> {
        let ports = PortBlock::take()?;
        let folder = tempfile::tempdir().context("a folder for logs and data")?;
        let program = if options.failpoints { programs::node_with_failpoints()? } else { programs::node()? };
        let launch = |node: usize| Launch {
            name: name(node).0,
            program: program.clone(),
            arguments: Vec::new(),
            environment: environment(&options, &ports, &folder, node),
        };
        let processes = (0..NODES).map(|node| Mutex::new(Process::new(launch(node), folder.path()))).collect();
        let write_quorum = WriteQuorum(if options.pinned_leader { 2 } else { 1 });
        let world = Self {
            processes: Arc::new(processes),
            outdated: Arc::default(),
            hibernated: AtomicBool::default(),
            stopped: Arc::default(),
            ports,
            options,
            settings: Mutex::new(Settings { write_quorum, delay: Delay::ZERO, write_timeout: Duration::from_secs(2) }),
            size: AtomicUsize::new(NODES),
            record: Arc::default(),
            client: LabClient::new(Duration::from_secs(5))?,
            peer: PeerClient::new(None, Duration::from_secs(5))?,
            folder,
        };
        for node in 0..NODES {
            world.spawn(node)?;
        }
        for node in 0..NODES {
            wait::until("the node answers", PATIENCE, || world.state(node)).await?;
        }
        Ok(world)
    }

    pub(crate) fn address(&self, node: usize) -> PeerAddress {
        PeerAddress { node: name(node), client_url: url(&self.ports, node), peer_url: url(&self.ports, 10 + node) }
    }

    /// The nodes as a platform knows them.
    pub(crate) fn known(&self) -> Vec<KnownNode> {
        let presence = |node| match self.process(node).is_running() {
            true => Presence::Running,
            false => Presence::NotRunning,
        };
        let known = |node| KnownNode {
            address: self.address(node),
            presence: presence(node),
            outdated: self.outdated(node),
            report: None,
        };
        (0..self.present()).map(known).collect()
    }

    /// How many nodes the store has, by the record, with one that joins.
    pub(crate) fn present(&self) -> usize {
        self.wanted().nodes.len()
    }

    /// What the store shall be.
    pub(crate) fn wanted(&self) -> Store {
        let store = Store {
            nodes: Vec::new(),
            names: (0..NODES).map(name).collect(),
            wanted: self.size.load(Ordering::Relaxed),
            settled: true,
            resting: false,
            settings: *self.settings(),
            data_loss: DataLossPolicy::Halt,
            switchover_to: self.record.wish(),
        };
        store.as_recorded(&self.record.read().record)
    }

    pub(crate) fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().expect("nobody panics while holding the settings")
    }

    fn process(&self, node: usize) -> MutexGuard<'_, Process> {
        self.processes[node].lock().expect("nobody panics while holding a process")
    }

    pub(crate) fn spawn(&self, node: usize) -> anyhow::Result<()> {
        self.process(node).start()
    }

    pub(crate) fn kill(&self, node: usize) -> anyhow::Result<()> {
        self.process(node).kill()
    }

    pub(crate) fn signal(&self, node: usize, signal: Signal) -> anyhow::Result<()> {
        self.process(node).signal(signal)
    }

    /// Wants every node replaced.
    pub(crate) fn outdate(&self) {
        self.outdated.lock().expect("nobody panics while holding the nodes").extend(0..NODES);
    }

    fn outdated(&self, node: usize) -> bool {
        self.outdated.lock().expect("nobody panics while holding the nodes").contains(&node)
    }

    /// Replaces a node, unless another manager did: what it was asked for is then no more.
    pub(crate) fn replace(&self, node: &NodeId) -> impl Future<Output = anyhow::Result<()>> + Send + 'static + use<> {
        let (processes, outdated) = (Arc::clone(&self.processes), Arc::clone(&self.outdated));
        let node = (0..NODES).find(|one| name(*one) == *node);
        async move {
            let node = node.context("one of the nodes")?;
            if !outdated.lock().expect("nobody panics while holding the nodes").remove(&node) {
                return Ok(());
            }
            let mut process = processes[node].lock().expect("nobody panics while holding a process");
            process.kill()?;
            process.start()
        }
    }

    /// Whether the store shall sleep, and whether its nodes are told to run.
    pub(crate) fn stage(&self) -> (bool, bool) {
        (self.hibernated.load(Ordering::SeqCst), !self.stopped.load(Ordering::SeqCst))
    }

    /// Tells all nodes to run, or none.
    pub(crate) fn scale(&self, run: bool) -> impl Future<Output = anyhow::Result<()>> + Send + 'static + use<> {
        let (processes, stopped) = (Arc::clone(&self.processes), Arc::clone(&self.stopped));
        async move {
            stopped.store(!run, Ordering::SeqCst);
            for process in processes.iter() {
                let mut process = process.lock().expect("nobody panics while holding a process");
                match (run, process.is_running()) {
                    (true, false) => process.start()?,
                    (false, true) => process.kill()?,
                    _ => {}
                }
            }
            Ok(())
        }
    }

    /// Nothing runs, and nobody is on record as leader.
    pub(crate) fn sleeps(&self) -> bool {
        let runs = (0..NODES).any(|node| self.process(node).is_running());
        !runs && self.stage() == (true, false) && self.record.read().record.leader.is_none()
    }

    /// Removes the data of a node that does not run.
    pub(crate) fn wipe(&self, node: usize) -> anyhow::Result<()> {
        match self.options.storage {
            Storage::Memory => Ok(()),
            Storage::Persistent => fs::remove_dir_all(self.folder.path().join(format!("data-{node}"))).context("data"),
        }
    }

    /// Lets a node abort when it gets to this point.
    pub(crate) fn arm(&self, node: usize, point: &str) -> anyhow::Result<()> {
        let file = arming_file(&self.folder, node);
        // A node must not read half a name.
        let new = file.with_extension("new");
        fs::write(&new, point).and_then(|()| fs::rename(&new, &file)).context("the file that arms a failpoint")
    }

    /// Lets no node abort any more.
    pub(crate) fn disarm(&self) {
        (0..NODES).for_each(|node| drop(fs::remove_file(arming_file(&self.folder, node))));
    }

    /// Which node has aborted at this point, and not in any other way; none while all run.
    pub(crate) fn aborted(&self, point: &str) -> anyhow::Result<Option<usize>> {
        use std::os::unix::process::ExitStatusExt as _;
        for node in 0..NODES {
            let mut process = self.process(node);
            let Some(status) = process.exit_status() else { continue };
            let said = process.output().contains(&format!("failpoint {point}: aborting"));
            if said && status.signal() == Some(Signal::ABORT.as_raw()) {
                return Ok(Some(node));
            }
            if status.signal() != Some(Signal::KILL.as_raw()) {
                bail!("n{node} ended otherwise: {status}\n{}", process.output_end(20));
            }
        }
        Ok(None)
    }

    pub(crate) async fn state(&self, node: usize) -> anyhow::Result<NodeState> {
        Ok(self.peer.state(&self.address(node).peer_url).await?)
    }

    /// The node on record as leader.
    pub(crate) fn leader(&self) -> anyhow::Result<usize> {
        let leader = self.record.read().record.leader.context("nobody is on record as leader")?;
        (0..NODES).find(|node| name(*node) == leader).context("the leader is one of the nodes")
    }

    /// The others, beginning with another one in each round.
    pub(crate) fn followers(&self, round: usize) -> anyhow::Result<[usize; 2]> {
        let leader = self.leader()?;
        let (one, other) = ((leader + 1) % NODES, (leader + 2) % NODES);
        Ok(if round.is_multiple_of(2) { [one, other] } else { [other, one] })
    }

    /// One client that follows the leader.
    pub(crate) fn load(&self, pause: Duration) -> anyhow::Result<Running> {
        let urls: Vec<String> = (0..NODES).map(|node| self.address(node).client_url).collect();
        let load = Load::new(Target::new(urls[0].clone(), urls)).keys("k", 20).reads_percent(20).value_bytes(500);
        load.policy(Policy::Follow { patience: PATIENCE }).timeout(Duration::from_secs(2)).pause(pause).start()
    }

    /// One node leads, and it is the one on record.
    pub(crate) async fn one_leads(&self) -> anyhow::Result<()> {
        wait::until("one node leads", PATIENCE, || async {
            let states = join_all((0..NODES).map(|node| self.state(node))).await;
            let states: Vec<NodeState> = states.into_iter().collect::<anyhow::Result<_>>()?;
            let leaders: Vec<&NodeState> = states.iter().filter(|state| state.role == Role::Leader).collect();
            let record = self.record.read().record;
            ensure!(leaders.len() == 1 && leaders[0].ready, "{leaders:?}");
            ensure!(Some(&leaders[0].node) == record.leader.as_ref() && leaders[0].epoch == record.epoch, "{record:?}");
            let copies: BTreeSet<_> = states[..self.present()].iter().map(|state| state.storage_id).collect();
            let recorded: BTreeSet<_> = record.members.iter().map(|member| member.storage_id).collect();
            ensure!(copies == recorded, "copies {copies:?}, recorded {recorded:?}");
            Ok(())
        })
        .await
    }

    /// Ends the load. No acknowledged write may be lost, no read stale, and all copies must be equal.
    pub(crate) async fn check(&self, load: Running) -> anyhow::Result<()> {
        let report = load.stop().await?;
        let leader = if self.options.pinned_leader { 0 } else { self.leader()? };
        let content = self.client.final_values(&self.address(leader).client_url).await?;
        check_with_content(&report.operations, &content)?;
        wait::until("all copies are equal", PATIENCE, || async {
            for node in 0..NODES {
                let found = self.client.final_values(&self.address(node).client_url).await?;
                ensure!(found == content, "n{node} holds something else than n{leader}");
            }
            Ok(())
        })
        .await?;
        ensure!(report.acked() > 0, "no write was acknowledged");
        self.record.check()
    }

    /// The last that the nodes said.
    pub(crate) fn output_end(&self) -> String {
        (0..NODES).map(|node| self.process(node).output_end(15)).collect()
    }
}

fn url(ports: &PortBlock, index: usize) -> String {
    format!("http://127.0.0.1:{}", ports.port(index))
}

fn arming_file(folder: &TempDir, node: usize) -> std::path::PathBuf {
    folder.path().join(format!("abort-{node}"))
}

fn environment(options: &Options, ports: &PortBlock, folder: &TempDir, node: usize) -> Vec<(String, String)> {
    let leads = options.pinned_leader && node == 0;
    let list = |first: usize| (1..NODES).map(|node| url(ports, first + node)).collect::<Vec<_>>().join(",");
    let path = |path: std::path::PathBuf| path.display().to_string();
    let storage = match options.storage {
        Storage::Memory => "memory",
        Storage::Persistent => "persistent",
    };
    let mut variables = vec![
        ("BIND_ADDRESS", "127.0.0.1".to_owned()),
        ("PORT", ports.port(node).to_string()),
        ("PEER_PORT", ports.port(10 + node).to_string()),
        ("METRICS_PORT", "0".to_owned()),
        ("NODE_ID", name(node).0),
        ("ADVERTISE_URL", url(ports, node)),
        ("NODE_TYPE", if leads { "leader" } else { "follower" }.to_owned()),
        ("STORAGE", storage.to_owned()),
        ("DATA_DIR", path(folder.path().join(format!("data-{node}")))),
        ("LOG_ENTRIES", options.log_entries.to_string()),
        ("QUORUMKV_FAILPOINT_FILE", path(arming_file(folder, node))),
    ];
    if leads {
        let pinned = [("FOLLOWERS", list(0)), ("FOLLOWER_PEERS", list(10)), ("WRITE_QUORUM", "2".to_owned())];
        variables.extend(pinned);
        variables.push(("WRITE_TIMEOUT", "2s".to_owned()));
    }
    variables.into_iter().map(|(variable, value)| (variable.to_owned(), value)).collect()
}

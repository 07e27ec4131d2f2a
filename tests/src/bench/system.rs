//! The systems that are measured beside each other, as processes of this machine.
//!
//! Each is one that takes writes and five that copy them, on loopback, on ports of its own, with nothing between
//! them. All are ended, by process id, with the [`Server`] that started them.

mod bare;
mod etcd;
mod quorumkv;
mod redis;

use std::{fmt, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::Context as _;
use clap::ValueEnum;
use rustix::process::Pid;
use serde::Serialize;
use tempfile::TempDir;

pub use self::bare::serve as serve_bare;
use super::{VALUE_BYTES, connection::Target};
use crate::processes::{self, Lab, Launch, Process, ports::PortBlock, programs};

/// How long a system may take to come up on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// This store.
    Quorumkv,
    /// Redis, with replicas and WAIT.
    Redis,
    /// etcd, by JSON.
    EtcdGateway,
    /// etcd, by gRPC.
    EtcdGrpc,
    /// A handler of axum that answers a constant: what a read can cost at least.
    Axum,
}

/// Where data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storage {
    /// In memory; with etcd, which has nothing of the kind, in files that it does not wait for.
    Memory,
    /// On disk, before a write is acknowledged.
    Persistent,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A write that so many followers must confirm.
    Write {
        /// How many.
        quorum: u8,
    },
    /// A read from the one that takes writes.
    Read,
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quorumkv => "quorumkv",
            Self::Redis => "Redis",
            Self::EtcdGateway => "etcd, JSON",
            Self::EtcdGrpc => "etcd, gRPC",
            Self::Axum => "bare axum",
        })
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { quorum } => write!(f, "write, q {quorum}"),
            Self::Read => f.write_str("read"),
        }
    }
}

impl fmt::Display for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory",
            Self::Persistent => "disk",
        })
    }
}

/// How a server is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// Where it keeps data.
    pub storage: Storage,
    /// How many copy what the first one takes.
    pub followers: usize,
}

/// A system that runs.
pub struct Server {
    setup: Setup,
    kind: Kind,
}

/// What there is of each.
enum Kind {
    Quorumkv(Box<Lab>),
    Redis(Group),
    Etcd(Group),
    Axum(Group),
}

/// Processes that end with this.
struct Group {
    /// Of the one that takes writes.
    address: SocketAddr,
    processes: Vec<Process>,
    _ports: PortBlock,
    /// Holds data and logs; goes last.
    _folder: TempDir,
}

impl Server {
    /// Starts the system and waits until all its processes work together.
    ///
    /// # Errors
    /// When it does not start; the message says what is missing.
    pub async fn start(system: System, setup: Setup) -> anyhow::Result<Self> {
        let kind = match system {
            System::Quorumkv => Kind::Quorumkv(Box::new(quorumkv::start(setup).await?)),
            System::Redis => Kind::Redis(redis::start(setup).await?),
            System::EtcdGateway | System::EtcdGrpc => Kind::Etcd(etcd::start(setup).await?),
            System::Axum => Kind::Axum(bare::start(VALUE_BYTES).await?),
        };
        Ok(Self { setup, kind })
    }

    /// How it was started.
    #[must_use]
    pub const fn setup(&self) -> Setup {
        self.setup
    }

    /// All its processes.
    ///
    /// # Errors
    /// When one does not run.
    pub fn processes(&mut self) -> anyhow::Result<Vec<Pid>> {
        match &mut self.kind {
            Kind::Quorumkv(lab) => lab.indices().map(|index| lab.node(index).pid()).collect(),
            Kind::Redis(group) | Kind::Etcd(group) | Kind::Axum(group) => {
                group.processes.iter().map(Process::pid).collect()
            }
        }
    }

    /// Makes it ready for an operation with values of so many bytes, and says how it is asked for. Nothing where the
    /// system does not have the operation.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn target(
        &mut self,
        system: System,
        operation: Operation,
        value_bytes: usize,
    ) -> anyhow::Result<Option<Target>> {
        let value = value(value_bytes);
        match (&mut self.kind, operation) {
            (Kind::Quorumkv(lab), _) => quorumkv::target(lab, operation, &value).await.map(Some),
            (Kind::Redis(group), _) => redis::target(group.address, operation, &value).map(Some),
            // It always waits for a majority of its six: the leader and three more.
            (Kind::Etcd(group), Operation::Write { quorum: 3 }) => {
                etcd::put(group.address, system == System::EtcdGrpc, &value).map(Some)
            }
            (Kind::Axum(group), Operation::Read) => bare::target(group.address, &value).map(Some),
            (Kind::Etcd(_) | Kind::Axum(_), _) => Ok(None),
        }
    }
}

/// A value of so many bytes, the same for every key.
#[must_use]
pub fn value(bytes: usize) -> String {
    "quorumkv".chars().cycle().take(bytes).collect()
}

/// What a system says of itself, or that it is missing.
#[must_use]
pub fn version(system: System) -> Option<String> {
    let program = match system {
        System::Quorumkv => programs::node().ok()?,
        System::Redis => redis::program()?,
        System::EtcdGateway | System::EtcdGrpc => etcd::program()?,
        System::Axum => return bare::version(),
    };
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Redis adds how it was compiled, etcd more lines.
    Some(text.lines().next()?.split(" sha=").next()?.to_owned())
}

/// A program in PATH, or among the tools that were built for the tests.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    let built = cache.map(|cache| cache.join("quorumkv/bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = built.into_iter().chain(std::env::split_paths(&path));
    places.map(|place| place.join(program)).find(|path| path.is_file())
}

/// A process that logs to the folder, not yet started.
fn process(name: String, program: PathBuf, arguments: Vec<String>, folder: &TempDir) -> Process {
    Process::new(Launch { name, program, arguments, environment: Vec::new() }, folder.path())
}

fn loopback(ports: &PortBlock, index: usize) -> SocketAddr {
    ([127, 0, 0, 1], ports.port(index)).into()
}

fn folder() -> anyhow::Result<TempDir> {
    tempfile::tempdir().context("a folder for data and logs")
}

impl From<Storage> for processes::Storage {
    fn from(storage: Storage) -> Self {
        match storage {
            Storage::Memory => Self::Memory,
            Storage::Persistent => Self::Persistent,
        }
    }
}

//! What a node is told at start: flags and environment, checked once.
//!
//! [`Arguments`] is what `clap` reads; [`Arguments::check`] turns it into a [`Config`], which later code can
//! trust. Every refusal names the variable, its value and what is allowed.

mod limits;
mod parse;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use quorumkv_api::{Delay, NodeId, Settings, WriteQuorum, peer::PeerAddress, settings::InvalidSettings};
use rand::random;

use self::{
    limits::LimitArguments,
    parse::{parse_compression, parse_optional_peer_url, parse_optional_url, parse_seconds, parse_url, with_port},
};
use crate::{
    auth::{ClientTokens, TokenFileError, TokenFiles},
    limits::Limits,
    tls::{PeerTls, PeerTlsError},
    wire::compression::Compression,
};

/// A node of quorumkv: leader or follower of a replicated key-value store.
#[derive(Debug, Parser)]
#[command(name = "quorumkv-node", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub arguments: Arguments,
}

/// What the program does when it does not serve.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Asks a node whether it serves: exit code 0 when it answers 200, 1 otherwise.
    Healthcheck {
        /// What to ask; by default /health of this machine's node on PORT.
        #[arg(long, env = "HEALTHCHECK_URL")]
        url: Option<String>,
        /// Client port of the node to ask.
        #[arg(long, env = "PORT", default_value_t = quorumkv_api::CLIENT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
        port: u16,
    },
}

/// Who takes leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NodeType {
    /// Takes leadership over FOLLOWERS by itself, on every start.
    Leader,
    /// Waits for a leader; whoever manages the store may promote it.
    Follower,
}

/// Where the data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StorageType {
    /// In memory: gone with the process, which then comes back as a new copy.
    Memory,
    /// On disk, in DATA_DIR: nothing is acknowledged before it is there.
    Persistent,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Flags of `serve`, each with its environment variable.
#[derive(Debug, Clone, Args)]
pub struct Arguments {
    /// leader: takes leadership over FOLLOWERS; follower: waits to be told.
    #[arg(long, env = "NODE_TYPE", value_enum, default_value_t = NodeType::Follower)]
    pub node_type: NodeType,
    /// Port for clients.
    #[arg(long, env = "PORT", default_value_t = quorumkv_api::CLIENT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// Port for control and replication.
    #[arg(long, env = "PEER_PORT", default_value_t = quorumkv_api::PEER_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub peer_port: u16,
    /// Port for Prometheus; 0: no metrics server.
    #[arg(long, env = "METRICS_PORT", default_value_t = quorumkv_api::METRICS_PORT)]
    pub metrics_port: u16,
    /// Address that all three ports listen on.
    #[arg(long, env = "BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Address that a leader's streams to its followers come from [default: the system's choice].
    #[arg(long, env = "SOURCE_ADDRESS")]
    pub source_address: Option<IpAddr>,
    /// Name of this node, unique in its store [default: the host name].
    #[arg(long, env = "NODE_ID")]
    pub node_id: Option<String>,
    /// Client URL told to others as "leader" [default: http://<host name>:<PORT>].
    #[arg(long, env = "ADVERTISE_URL", value_parser = parse_url)]
    pub advertise_url: Option<String>,
    /// With NODE_TYPE=leader: client URLs of the followers, comma-separated, such as http://follower1:5001.
    #[arg(long, env = "FOLLOWERS", value_delimiter = ',', value_parser = parse_optional_url)]
    pub followers: Vec<Option<String>>,
    /// With NODE_TYPE=leader: peer URLs of the followers in the order of FOLLOWERS [default: the hosts of
    /// FOLLOWERS with PEER_PORT].
    #[arg(long, env = "FOLLOWER_PEERS", value_delimiter = ',', value_parser = parse_optional_peer_url)]
    pub follower_peers: Vec<Option<String>>,
    /// With NODE_TYPE=leader: followers that confirm a write before it is answered.
    #[arg(long, env = "WRITE_QUORUM", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    pub write_quorum: u8,
    /// With NODE_TYPE=leader: shortest simulated round trip, in seconds (0.01) or with a unit (10ms).
    #[arg(long, env = "MIN_DELAY", default_value = "0", value_parser = parse_seconds)]
    pub min_delay: Duration,
    /// With NODE_TYPE=leader: longest simulated round trip, in seconds (0.15) or with a unit (150ms).
    #[arg(long, env = "MAX_DELAY", default_value = "0", value_parser = parse_seconds)]
    pub max_delay: Duration,
    /// With NODE_TYPE=leader: how long a write waits for its quorum, in seconds (5) or with a unit (5s).
    #[arg(long, env = "WRITE_TIMEOUT", default_value = "5s", value_parser = parse_seconds)]
    pub write_timeout: Duration,
    /// Bearer token that the peer port and POST /replicate require.
    #[arg(long, env = "PEER_TOKEN", hide_env_values = true, conflicts_with = "peer_token_file")]
    pub peer_token: Option<String>,
    /// File that holds that token.
    #[arg(long, env = "PEER_TOKEN_FILE")]
    pub peer_token_file: Option<PathBuf>,
    /// File with the tokens of clients that may only read, one a line; read again when it changes.
    #[arg(long, env = "READ_TOKEN_FILE", requires = "write_token_file")]
    pub read_token_file: Option<PathBuf>,
    /// File with the tokens of clients that may read and write, one a line; without it no client needs a token.
    #[arg(long, env = "WRITE_TOKEN_FILE")]
    pub write_token_file: Option<PathBuf>,
    /// Directory with tls.crt, tls.key and ca.crt: the peer port speaks TLS, and so do connections to others. The files
    /// are read again when they change.
    #[arg(long, env = "PEER_TLS_DIR", requires = "peer_tls_name")]
    pub peer_tls_dir: Option<PathBuf>,
    /// With PEER_TLS_DIR: DNS name that the certificates of all nodes carry.
    #[arg(long, env = "PEER_TLS_NAME", requires = "peer_tls_dir")]
    pub peer_tls_name: Option<String>,
    /// How log lines look; RUST_LOG filters them.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Seed of the simulated delays [default: random].
    #[arg(long, env = "DELAY_SEED")]
    pub delay_seed: Option<u64>,
    /// Where the data is kept.
    #[arg(long, env = "STORAGE", value_enum, default_value_t = StorageType::Memory)]
    pub storage: StorageType,
    /// With STORAGE=persistent: directory of this node's copy, made if need be, used by this node alone.
    #[arg(long, env = "DATA_DIR", default_value = "/data")]
    pub data_dir: PathBuf,
    /// Process that started this one and that it ends with: however that ends, this one is killed.
    #[arg(long, env = "PARENT_PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub parent_pid: Option<i32>,
    /// Threads that serve; 1 runs everything on one, which is fastest where nodes share cores.
    #[arg(long, env = "WORKER_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub worker_threads: u16,
    /// Recent log entries kept for followers that fall behind; who is further behind gets a snapshot.
    #[arg(long, env = "LOG_ENTRIES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(16..))]
    pub log_entries: u32,
    /// Frames of more bytes than this are sent to followers compressed, where that makes them smaller and they
    /// read it; off: none are, and this node asks for none.
    #[arg(long, env = "COMPRESS_ABOVE", default_value = "off", value_parser = parse_compression)]
    pub compress_above: Compression,
    /// How much others may take up.
    #[command(flatten)]
    pub limits: LimitArguments,
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port for clients.
    pub port: u16,
    /// Port for control and replication.
    pub peer_port: u16,
    /// Port for Prometheus, unless switched off.
    pub metrics_port: Option<u16>,
    /// Address that all three listen on.
    pub bind_address: IpAddr,
    /// Address that streams to followers come from, if not the system's choice.
    pub source_address: Option<IpAddr>,
    /// Name of this node.
    pub node: NodeId,
    /// Client URL told to others.
    pub advertise_url: String,
    /// What others present on the peer port, and what this node presents on theirs.
    pub peer_token: Option<String>,
    /// What clients have to present.
    pub client_tokens: ClientTokens,
    /// How much of this node others may take up, and for how long.
    pub limits: Limits,
    /// TLS on the peer port, and to those of others.
    pub peer_tls: Option<PeerTls>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Seed of the simulated delays.
    pub delay_seed: u64,
    /// Where the data is kept.
    pub storage: StorageType,
    /// Directory of a persistent copy.
    pub data_dir: PathBuf,
    /// Process that this one ends with.
    pub parent_pid: Option<i32>,
    /// Threads that serve.
    pub worker_threads: usize,
    /// Recent log entries kept.
    pub log_entries: usize,
    /// Whether frames to followers are compressed, and leaders hear that they may be.
    pub compression: Compression,
    /// Present when this node takes leadership by itself.
    pub static_leader: Option<StaticLeader>,
}

/// What a leader without an operator is told.
#[derive(Debug, Clone)]
pub struct StaticLeader {
    /// Every follower.
    pub followers: Vec<PeerAddress>,
    /// The settings to begin with, or to change to.
    pub settings: Settings,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A leader without followers could never confirm a write.
    #[error("FOLLOWERS is empty: with NODE_TYPE=leader it must hold at least one client URL")]
    NoFollowers,
    /// One follower is named twice.
    #[error("FOLLOWERS names {url} twice: every follower must be listed once")]
    SameFollower {
        /// The URL in question.
        url: String,
    },
    /// The lists do not match.
    #[error("FOLLOWER_PEERS has {peers} URLs but FOLLOWERS has {followers}: give one peer URL per follower")]
    PeerCount {
        /// URLs in FOLLOWER_PEERS.
        peers: usize,
        /// URLs in FOLLOWERS.
        followers: usize,
    },
    /// With TLS nothing goes without it, and without nothing could go with it.
    #[error("FOLLOWER_PEERS has {url}, which must begin with {scheme}: PEER_TLS_DIR is {}", if *.scheme == "https" { "set" } else { "not set" })]
    PeerScheme {
        /// The URL in question.
        url: String,
        /// What it must begin with.
        scheme: &'static str,
    },
    /// The files for TLS cannot be used.
    #[error("PEER_TLS_DIR={}, PEER_TLS_NAME={name}: {source}", .directory.display())]
    PeerTls {
        /// The directory.
        directory: PathBuf,
        /// The name.
        name: String,
        /// What is wrong.
        source: PeerTlsError,
    },
    /// The settings contradict each other or the number of followers.
    #[error(
        "WRITE_QUORUM={}, MIN_DELAY={}, MAX_DELAY={}, WRITE_TIMEOUT={}: {source}",
        .settings.write_quorum, .settings.delay.min.as_secs_f64(), .settings.delay.max.as_secs_f64(), .settings.write_timeout.as_secs_f64()
    )]
    Settings {
        /// What was asked for.
        settings: Settings,
        /// What is wrong with it.
        source: InvalidSettings,
    },
    /// Two servers cannot share a port.
    #[error("{first} and {second} are both {port}: each server needs a port of its own")]
    SamePort {
        /// One variable.
        first: &'static str,
        /// The other variable.
        second: &'static str,
        /// Their common value.
        port: u16,
    },
    /// The token file cannot be read.
    #[error("PEER_TOKEN_FILE={}: cannot be read: {source}", .path.display())]
    TokenFile {
        /// The file in question.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// A file with clients' tokens cannot be used.
    #[error("{variable}={}: {source}", .path.display())]
    ClientTokens {
        /// Which variable names it.
        variable: &'static str,
        /// The file in question.
        path: PathBuf,
        /// What is wrong with it.
        source: TokenFileError,
    },
    /// The token cannot be sent in a header.
    #[error("{variable} must hold one line of visible ASCII characters")]
    Token {
        /// Where the token came from.
        variable: &'static str,
    },
    /// The name is no name.
    #[error("NODE_ID={id:?} must have 1..253 characters, none of them spaces or control characters")]
    NodeId {
        /// What was asked for.
        id: String,
    },
    /// Nothing to call this node.
    #[error("the host name cannot be read ({source}): set NODE_ID and ADVERTISE_URL")]
    HostName {
        /// Why it cannot be read.
        source: std::io::Error,
    },
}

impl Arguments {
    /// Checks what `clap` cannot: values that depend on each other.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(self) -> Result<Config, ConfigError> {
        let Self {
            node_type,
            port,
            peer_port,
            metrics_port,
            bind_address,
            source_address,
            node_id,
            advertise_url,
            followers,
            follower_peers,
            write_quorum,
            min_delay,
            max_delay,
            write_timeout,
            peer_token,
            peer_token_file,
            read_token_file,
            write_token_file,
            peer_tls_dir,
            peer_tls_name,
            log_format,
            delay_seed,
            storage,
            data_dir,
            parent_pid,
            worker_threads,
            log_entries,
            compress_above,
            limits,
        } = self;
        check_ports(port, peer_port, metrics_port)?;
        let host = if node_id.is_some() && advertise_url.is_some() { String::new() } else { host_name()? };
        let node = check_node_id(node_id.unwrap_or_else(|| host.clone()))?;
        let advertise_url = advertise_url.unwrap_or_else(|| format!("http://{host}:{port}"));
        let peer_tls = peer_tls_dir.zip(peer_tls_name).map(load_peer_tls).transpose()?;
        let settings = Settings {
            write_quorum: WriteQuorum(write_quorum),
            delay: Delay { min: min_delay, max: max_delay },
            write_timeout,
        };
        let static_leader = match node_type {
            NodeType::Follower => None,
            NodeType::Leader => Some(check_static_leader(
                followers.into_iter().flatten().collect(),
                follower_peers.into_iter().flatten().collect(),
                (peer_port, peer_tls.is_some()),
                settings,
            )?),
        };
        Ok(Config {
            port,
            peer_port,
            metrics_port: (metrics_port != 0).then_some(metrics_port),
            bind_address,
            source_address,
            node,
            advertise_url,
            peer_token: read_token(peer_token, peer_token_file)?,
            client_tokens: open_client_tokens(read_token_file, write_token_file)?,
            limits: limits.into(),
            peer_tls,
            log_format,
            delay_seed: delay_seed.unwrap_or_else(random),
            storage,
            data_dir,
            parent_pid,
            worker_threads: usize::from(worker_threads),
            log_entries: usize::try_from(log_entries).expect("this system's pointers have 32 bits or more"),
            compression: compress_above,
            static_leader,
        })
    }
}

fn check_ports(port: u16, peer_port: u16, metrics_port: u16) -> Result<(), ConfigError> {
    let pairs = [
        ("PORT", port, "PEER_PORT", peer_port),
        ("PORT", port, "METRICS_PORT", metrics_port),
        ("PEER_PORT", peer_port, "METRICS_PORT", metrics_port),
    ];
    for (first, left, second, right) in pairs {
        if left == right {
            return Err(ConfigError::SamePort { first, second, port: left });
        }
    }
    Ok(())
}

fn check_static_leader(
    urls: Vec<String>,
    peer_urls: Vec<String>,
    (peer_port, tls): (u16, bool),
    settings: Settings,
) -> Result<StaticLeader, ConfigError> {
    if urls.is_empty() {
        return Err(ConfigError::NoFollowers);
    }
    let duplicate = urls.iter().enumerate().find(|(at, url)| urls[..*at].contains(url));
    if let Some((_, url)) = duplicate {
        return Err(ConfigError::SameFollower { url: url.clone() });
    }
    if !peer_urls.is_empty() && peer_urls.len() != urls.len() {
        return Err(ConfigError::PeerCount { peers: peer_urls.len(), followers: urls.len() });
    }
    let scheme = if tls { "https" } else { "http" };
    if let Some(url) = peer_urls.iter().find(|url| !url.starts_with(&format!("{scheme}://"))) {
        return Err(ConfigError::PeerScheme { url: url.clone(), scheme });
    }
    settings.validate(urls.len()).map_err(|source| ConfigError::Settings { settings, source })?;
    let peer_urls = if peer_urls.is_empty() {
        urls.iter().map(|url| with_port(url, scheme, peer_port)).collect()
    } else {
        peer_urls
    };
    let followers = urls
        .into_iter()
        .zip(peer_urls)
        .map(|(client_url, peer_url)| PeerAddress {
            node: NodeId(client_url.trim_start_matches("http://").to_owned()),
            client_url,
            peer_url,
        })
        .collect();
    Ok(StaticLeader { followers, settings })
}

fn load_peer_tls((directory, name): (PathBuf, String)) -> Result<PeerTls, ConfigError> {
    PeerTls::load(&directory, &name).map_err(|source| ConfigError::PeerTls { directory, name, source })
}

fn check_node_id(id: String) -> Result<NodeId, ConfigError> {
    let plain = id.chars().all(|c| !c.is_whitespace() && !c.is_control());
    if id.is_empty() || id.len() > 253 || !plain {
        return Err(ConfigError::NodeId { id });
    }
    Ok(NodeId(id))
}

fn read_token(token: Option<String>, file: Option<PathBuf>) -> Result<Option<String>, ConfigError> {
    let (variable, token) = match (token, file) {
        (Some(token), _) => ("PEER_TOKEN", token),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(&path).map_err(|source| ConfigError::TokenFile { path, source })?;
            ("PEER_TOKEN_FILE", text.trim_end().to_owned())
        }
        (None, None) => return Ok(None),
    };
    if token.is_empty() || !token.chars().all(|c| c.is_ascii_graphic()) {
        return Err(ConfigError::Token { variable });
    }
    Ok(Some(token))
}

fn open_client_tokens(read: Option<PathBuf>, write: Option<PathBuf>) -> Result<ClientTokens, ConfigError> {
    let Some(write) = write else { return Ok(ClientTokens::default()) };
    let files = TokenFiles { read, write };
    ClientTokens::open(files).map_err(|(variable, path, source)| ConfigError::ClientTokens { variable, path, source })
}

fn host_name() -> Result<String, ConfigError> {
    // The kernel's name is what `hostname` prints and what containers and pods set.
    let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
    match (read, std::env::var("HOSTNAME")) {
        (Ok(name), _) | (Err(_), Ok(name)) => Ok(name.trim().to_owned()),
        (Err(source), Err(_)) => Err(ConfigError::HostName { source }),
    }
}

#[cfg(test)]
mod tests;

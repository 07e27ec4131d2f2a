//! Starts a node's servers and tasks, and ends them in order.

use std::net::SocketAddr;

use quorumkv_api::{ProcessId, Settings, StorageId, peer::PeerAddress};
use quorumkv_protocol::{Identity, Node, Recovered};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use crate::{
    auth::Token,
    clock::Clock,
    config::{Config, StorageType},
    connections::{Door, http},
    delay::RoundTrips,
    driver::{Attached, Driver},
    handle::{Command, DriverHandle},
    links,
    metrics::{self, requests::Port},
    peer_router, router,
    shutdown::{GRACE, Shutdown},
    static_leader::{LeadError, Manager},
    storage::{self, Memory, OpenError, Opened, Persistent, Storage, StorageError},
    store::Snapshot,
    transport::Dial,
};

/// Why a node does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port is taken, or the address is not this machine's.
    #[error("{variable}={port}: cannot listen on {address}: {source}")]
    Listen {
        /// Which port.
        variable: &'static str,
        /// Its number.
        port: u16,
        /// The whole address.
        address: SocketAddr,
        /// What went wrong.
        source: std::io::Error,
    },
    /// What is on disk cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The manager of a static leader cannot be set up.
    #[error(transparent)]
    Manager(#[from] LeadError),
    /// A task panicked, which is a bug.
    #[error("a task ended: {0}")]
    Driver(#[from] tokio::task::JoinError),
}

/// The ports of a node, bound.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub client: TcpListener,
    /// For managers and other nodes.
    pub peer: TcpListener,
    /// For Prometheus.
    pub metrics: Option<TcpListener>,
}

impl Listeners {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// When one of the ports cannot be bound.
    pub async fn bind(config: &Config) -> Result<Self, ServeError> {
        let bind = async |variable, port| {
            let address = SocketAddr::new(config.bind_address, port);
            let listener = TcpListener::bind(address).await;
            listener.map_err(|source| ServeError::Listen { variable, port, address, source })
        };
        Ok(Self {
            client: bind("PORT", config.port).await?,
            peer: bind("PEER_PORT", config.peer_port).await?,
            metrics: match config.metrics_port {
                Some(port) => Some(bind("METRICS_PORT", port).await?),
                None => None,
            },
        })
    }
}

/// Serves until `shutdown.draining` is cancelled and everything under way is answered.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: Config, listeners: Listeners, shutdown: Shutdown) -> Result<(), ServeError> {
    match config.storage {
        StorageType::Memory => {
            let copy = StorageId::random();
            let (recovered, state) = <(Recovered, Snapshot)>::default();
            serve_on(Memory::default(), copy, recovered, state, config, listeners, shutdown).await
        }
        StorageType::Persistent => {
            let data_dir = config.data_dir.clone();
            let opening = tokio::task::spawn_blocking(move || Persistent::open(&data_dir, storage::Options::default()));
            let Opened { storage, copy, recovered, state } = opening.await??;
            serve_on(storage, copy, recovered, state, config, listeners, shutdown).await
        }
    }
}

async fn serve_on(
    storage: impl Storage,
    storage_id: StorageId,
    recovered: Recovered,
    state: Snapshot,
    config: Config,
    listeners: Listeners,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let clock = Clock::start();
    let identity = Identity {
        node: config.node.clone(),
        storage_id,
        process_id: ProcessId::random(),
        client_url: config.advertise_url.clone(),
    };
    info!(
        node = %identity.node,
        client_port = config.port,
        peer_port = config.peer_port,
        copy = %identity.storage_id,
        process = %identity.process_id,
        "serving"
    );
    let log = quorumkv_protocol::Limits { retain_entries: config.log_entries, ..quorumkv_protocol::Limits::default() };
    let node = Node::new(identity, log, recovered, clock.now());
    let round_trips = RoundTrips::seeded(config.delay_seed);
    let (driver, Attached { handle, commands, leading }) = Driver::new(node, storage, clock, round_trips);
    let limits = config.limits;
    let driver = driver.with_limits(limits);
    handle.store.install(state);
    let over = shutdown.over.clone();
    let mut driver = tokio::spawn(driver.run(commands, async move { over.cancelled().await }));

    let compression = config.compression;
    let peer_tls = config.peer_tls.clone();
    let tls = peer_tls.as_ref().map(|tls| tls.client().clone());
    let dial = Dial { token: config.peer_token.clone(), source: config.source_address, compression, tls };
    let _fresh = peer_tls.clone().map(|tls| spawn(tls.keep_fresh(handle.metrics.clone())));
    let _links = spawn(links::keep(handle.clone(), dial, leading));
    let _manager = start_manager(&config, &handle)?.map(|manager| spawn(manager.run()));
    let token = Token::new(config.peer_token.as_deref());
    let tokens = config.client_tokens.clone();
    let _tokens = spawn(tokens.clone().keep_up());
    let client_port = router::ClientPort::new(handle.clone(), token.clone(), shutdown.draining.clone());
    let client_port = client_port.guarded(tokens, &limits);
    let peer_router = peer_router::PeerPort { driver: handle.clone(), token, compression, tls: peer_tls.clone() };
    let peer_router = peer_router::router(peer_router);
    let metrics_router = metrics::router(handle.clone());
    let door = |port| Door::new(port, &limits, &handle.metrics);
    let mut client = spawn(router::serve(listeners.client, client_port, door(Port::Client), shutdown.draining.clone()));
    let mut peer = spawn(http::listen(listeners.peer, peer_tls, peer_router, door(Port::Peer), shutdown.over.clone()));
    let _metrics = listeners
        .metrics
        .map(|port| spawn(http::listen(port, None, metrics_router, door(Port::Metrics), shutdown.over.clone())));

    tokio::select! {
        // First: an idle client port ends at once when draining begins, and then `drain` has to be the one to see it.
        biased;
        () = shutdown.draining.cancelled() => {}
        ended = &mut driver => return Ok(ended??),
        ended = &mut client => return Ok(ended?),
        ended = &mut peer => return Ok(ended?),
    }
    drain(&handle, &mut client).await;
    shutdown.over.cancel();
    Ok(driver.await??)
}

fn start_manager(config: &Config, driver: &DriverHandle) -> Result<Option<Manager>, ServeError> {
    let Some(static_leader) = config.static_leader.clone() else { return Ok(None) };
    let own = PeerAddress {
        node: config.node.clone(),
        client_url: config.advertise_url.clone(),
        // Nobody dials the leader.
        peer_url: String::new(),
    };
    Ok(Some(Manager::new(driver.clone(), own, static_leader, config.peer_token.clone(), config.peer_tls.as_ref())?))
}

/// Lets requests under way finish. Writes wait for their quorum no longer than their timeout.
async fn drain(driver: &DriverHandle, client: &mut AbortOnDropHandle<()>) {
    // A driver that is gone has nothing to drain.
    driver.send(Command::Stop).await.ok();
    let settings = driver.view.borrow().settings.map_or_else(Settings::default, |entry| entry.settings);
    let longest = settings.write_timeout + GRACE;
    match tokio::time::timeout(longest, client).await {
        Ok(Ok(())) => info!("every request was answered"),
        Ok(Err(error)) => warn!(%error, "the client port failed while draining"),
        Err(_) => warn!(?longest, "some requests were still under way when time was up"),
    }
}

fn spawn<Output: Send + 'static>(task: impl Future<Output = Output> + Send + 'static) -> AbortOnDropHandle<Output> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

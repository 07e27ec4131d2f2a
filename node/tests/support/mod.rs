//! Nodes on ephemeral ports, and calls to them.

use std::{net::Ipv4Addr, thread::JoinHandle, time::Duration};

use quorumkv_api::{
    Delay, NodeId, Settings, SettingsPatch, WriteQuorum,
    client::{CallError, PeerClient},
    peer::{NodeState, PeerAddress, PeerError, SettingsReply},
};
use quorumkv_node::{
    Listeners,
    auth::ClientTokens,
    config::{Config, LogFormat, StaticLeader, StorageType},
    limits::Limits,
    serve,
    shutdown::Shutdown,
    wire::compression::Compression,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::oneshot};

const TOKEN: &str = "secret";

/// What a store begins with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    pub(crate) write_quorum: u8,
    pub(crate) log_entries: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { write_quorum: 1, log_entries: 65_536 }
    }
}

struct Running {
    shutdown: Shutdown,
    kill: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

/// One static leader (node 0) and its followers.
pub(crate) struct Cluster {
    configs: Vec<Config>,
    running: Vec<Option<Running>>,
    http: reqwest::Client,
    peers: PeerClient,
}

impl Cluster {
    /// Starts a store and waits until it takes writes and every follower has caught up.
    pub(crate) async fn start(followers: usize, options: Options) -> Self {
        let cluster = Self::start_apart(followers, options, |_, _| {}).await;
        for node in 0..=followers {
            eventually("the node is ready", async || cluster.get(node, "/readyz").await.0 == 200).await;
        }
        cluster
    }

    /// Starts nodes whose configurations `change` may spoil, and waits for nothing but their ports.
    pub(crate) async fn start_apart(followers: usize, options: Options, change: impl Fn(usize, &mut Config)) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..=followers {
            listeners.push(listen([0; 3]).await);
        }
        let mut configs: Vec<Config> =
            listeners.iter().enumerate().map(|(node, listeners)| config(node, listeners, options)).collect();
        let addresses = configs[1..].iter().map(|config| PeerAddress {
            node: NodeId(config.advertise_url.trim_start_matches("http://").to_owned()),
            client_url: config.advertise_url.clone(),
            peer_url: format!("http://127.0.0.1:{}", config.peer_port),
        });
        let settings = Settings {
            write_quorum: WriteQuorum(options.write_quorum),
            delay: Delay::ZERO,
            write_timeout: Duration::from_secs(1),
        };
        configs[0].static_leader = Some(StaticLeader { followers: addresses.collect(), settings });
        for (node, config) in configs.iter_mut().enumerate() {
            change(node, config);
        }
        let running =
            listeners.into_iter().zip(&configs).map(|(listeners, config)| Some(run(config.clone(), listeners)));
        Self {
            running: running.collect(),
            configs,
            http: reqwest::Client::new(),
            peers: PeerClient::new(Some(TOKEN.to_owned()), Duration::from_secs(5)).expect("a client"),
        }
    }

    /// Ends a node without telling it.
    pub(crate) fn kill(&mut self, node: usize) {
        let running = self.running[node].take().expect("it runs");
        running.kill.send(()).expect("its thread waits");
        running.thread.join().expect("it did not panic");
    }

    /// Ends a node as a signal would.
    pub(crate) async fn stop(&mut self, node: usize) {
        let running = self.running[node].take().expect("it runs");
        running.shutdown.draining.cancel();
        tokio::task::spawn_blocking(|| running.thread.join().expect("it did not panic")).await.expect("no panic");
    }

    /// Starts a node again, empty, on its ports.
    pub(crate) async fn restart(&mut self, node: usize) {
        let config = self.configs[node].clone();
        let ports = [config.port, config.peer_port, config.metrics_port.expect("tests have metrics")];
        let listeners = listen(ports).await;
        self.running[node] = Some(run(config, listeners));
        eventually("the node is ready again", async || self.get(node, "/readyz").await.0 == 200).await;
    }

    /// Ends all nodes at the same moment, without telling them.
    pub(crate) async fn kill_all(&mut self) {
        let running: Vec<Running> = self.running.iter_mut().filter_map(Option::take).collect();
        let (kills, threads): (Vec<_>, Vec<_>) = running.into_iter().map(|node| (node.kill, node.thread)).unzip();
        kills.into_iter().for_each(|kill| kill.send(()).expect("its thread waits"));
        let join = || threads.into_iter().for_each(|thread| thread.join().expect("it did not panic"));
        tokio::task::spawn_blocking(join).await.expect("no panic");
    }

    /// Starts all nodes again, and waits until every one is ready.
    pub(crate) async fn restart_all(&mut self) {
        for node in 0..self.configs.len() {
            let config = self.configs[node].clone();
            let ports = [config.port, config.peer_port, config.metrics_port.expect("tests have metrics")];
            let listeners = listen(ports).await;
            self.running[node] = Some(run(config, listeners));
        }
        for node in 0..self.configs.len() {
            eventually("the node is ready again", async || self.get(node, "/readyz").await.0 == 200).await;
        }
    }

    pub(crate) fn url(&self, node: usize) -> &str {
        &self.configs[node].advertise_url
    }

    pub(crate) async fn get(&self, node: usize, path: &str) -> (u16, Value) {
        answer(self.http.get(format!("{}{path}", self.url(node))).send().await).await
    }

    pub(crate) async fn set(&self, key: &str, value: Value) -> (u16, Value) {
        self.set_on(0, key, value).await
    }

    pub(crate) async fn set_on(&self, node: usize, key: &str, value: Value) -> (u16, Value) {
        let request = self.http.post(format!("{}/set", self.url(node)));
        answer(request.json(&json!({"key": key, "value": value})).send().await).await
    }

    /// `POST /set` of any body on the leader, possible by another task.
    pub(crate) fn post(&self, body: Value) -> impl Future<Output = (u16, Value)> + Send + use<> {
        let request = self.http.post(format!("{}/set", self.url(0))).json(&body);
        async { answer(request.send().await).await }
    }

    /// A write that can be made by another task.
    pub(crate) fn setter(&self, key: String, value: Value) -> impl Future<Output = (u16, Value)> + Send + use<> {
        self.post(json!({"key": key, "value": value}))
    }

    pub(crate) async fn settings(&self, patch: SettingsPatch) -> Result<SettingsReply, PeerError> {
        let url = self.peer_url(0);
        self.peers.settings(&url, &patch).await.map_err(|error| match error {
            CallError::Refused { refusal, .. } => refusal,
            CallError::Unreachable { .. } => panic!("{error}"),
        })
    }

    pub(crate) async fn state(&self, node: usize) -> NodeState {
        self.peers.state(&self.peer_url(node)).await.expect("an answer")
    }

    pub(crate) async fn metrics(&self, node: usize) -> String {
        let port = self.configs[node].metrics_port.expect("tests have metrics");
        let response = self.http.get(format!("http://127.0.0.1:{port}/metrics")).send().await.expect("an answer");
        response.text().await.expect("text")
    }

    fn peer_url(&self, node: usize) -> String {
        format!("http://127.0.0.1:{}", self.configs[node].peer_port)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for running in self.running.iter_mut().filter_map(Option::take) {
            // A node that ended by itself has nobody to tell.
            running.kill.send(()).ok();
            running.thread.join().ok();
        }
    }
}

/// Status 0 stands for no answer.
async fn answer(response: Result<reqwest::Response, reqwest::Error>) -> (u16, Value) {
    match response {
        Ok(response) => (response.status().as_u16(), response.json().await.unwrap_or(Value::Null)),
        Err(error) => (0, json!({"error": error.to_string()})),
    }
}

/// Waits until something holds, ten seconds at most.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within ten seconds: {what}");
}

async fn listen(ports: [u16; 3]) -> [std::net::TcpListener; 3] {
    let mut listeners = Vec::new();
    for port in ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.expect("the port is free");
        listeners.push(listener.into_std().expect("a plain listener"));
    }
    listeners.try_into().expect("three")
}

fn config(node: usize, listeners: &[std::net::TcpListener; 3], options: Options) -> Config {
    let [port, peer_port, metrics_port] =
        listeners.each_ref().map(|listener| listener.local_addr().expect("bound").port());
    Config {
        port,
        peer_port,
        metrics_port: Some(metrics_port),
        bind_address: Ipv4Addr::LOCALHOST.into(),
        source_address: None,
        node: NodeId(format!("n{node}")),
        advertise_url: format!("http://127.0.0.1:{port}"),
        peer_token: Some(TOKEN.to_owned()),
        client_tokens: ClientTokens::default(),
        limits: Limits::default(),
        peer_tls: None,
        log_format: LogFormat::Text,
        delay_seed: 7,
        storage: StorageType::Memory,
        data_dir: "/nonexistent".into(),
        parent_pid: None,
        worker_threads: 1,
        log_entries: options.log_entries,
        compression: Compression::Off,
        static_leader: None,
    }
}

/// Serves on a thread and a runtime of its own.
fn run(config: Config, listeners: [std::net::TcpListener; 3]) -> Running {
    let shutdown = Shutdown::default();
    let (kill, killed) = oneshot::channel();
    let thread = std::thread::spawn({
        let shutdown = shutdown.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let [client, peer, metrics] =
                    listeners.map(|listener| TcpListener::from_std(listener).expect("it does not block"));
                let listeners = Listeners { client, peer, metrics: Some(metrics) };
                tokio::select! {
                    served = serve(config, listeners, shutdown) => served.expect("served to the end"),
                    _ = killed => {}
                }
            });
        }
    });
    Running { shutdown, kill, thread }
}

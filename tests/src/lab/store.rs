//! The store that a program works on, however it was named.

use std::time::Duration;

use anyhow::Context as _;
use futures::future::try_join_all;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use quorumkv_api::{
    CLIENT_PORT, Delay,
    client::PeerClient,
    tls::{Authorities, ClientTls, PeerName},
};
pub use quorumkv_inspect::compare::Replica;

use super::{
    options::{ClusterName, TargetOptions, peer_of},
    program::{Context, Failure},
    settings::Control,
};
use crate::{
    client::LabClient,
    kind::{objects, tunnel::Tunnel},
    load::Target,
    processes::{Lab, LabOptions},
};

/// Longer than a write waits for its quorum by default, and longer than a read waits for a version.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Where docker compose publishes the leader; the followers are on the ports after it.
const COMPOSE_PORT: u16 = 5000;
/// How many followers it runs.
const COMPOSE_FOLLOWERS: u16 = 5;

/// What a store that the program starts begins with.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// Follower acknowledgements per write.
    pub write_quorum: u8,
    /// Simulated round trip.
    pub delay: Delay,
}

/// A store with one leader and at least one follower.
pub struct Store {
    /// What it is, for people.
    pub description: String,
    /// The leader first, then the followers.
    pub replicas: Vec<Replica>,
    /// Speaks to client ports.
    pub client: LabClient,
    /// What it presents.
    pub token: Option<String>,
    /// Changes its settings.
    pub control: Control,
    /// Whether the program started it, and ends it.
    pub embedded: bool,
    _kept: Kept,
}

/// What must live as long as the store is used.
enum Kept {
    Nothing,
    Processes { _lab: Box<Lab> },
    Tunnels { _tunnels: Vec<Tunnel> },
}

impl Store {
    /// Finds the store that `options` name, or starts one with `beginning`.
    ///
    /// # Errors
    /// [`Failure::WrongUse`] when there is none, or it cannot be started.
    pub async fn open(options: &TargetOptions, beginning: Beginning, context: &Context) -> Result<Self, Failure> {
        let opening = async {
            match (&options.leader, &options.cluster, options.compose) {
                (Some(leader), _, _) => Self::at_urls(leader, options).map_err(Failure::WrongUse),
                (None, Some(name), _) => Self::in_cluster(name, options).await.map_err(Failure::WrongUse),
                (None, None, true) => Self::of_compose(options).map_err(Failure::WrongUse),
                (None, None, false) => Self::start(beginning, context).await.map_err(Failure::WrongUse),
            }
        };
        context.unless_interrupted(opening).await
    }

    /// The leader.
    ///
    /// # Panics
    /// Never: every store has one.
    #[must_use]
    pub fn leader(&self) -> &Replica {
        self.replicas.first().expect("every store has a leader")
    }

    /// The followers.
    #[must_use]
    pub fn followers(&self) -> &[Replica] {
        self.replicas.get(1..).unwrap_or_default()
    }

    /// Where a load writes. Clients stay with the leader, wherever its answers send them.
    #[must_use]
    pub fn target(&self) -> Target {
        let leader = self.leader().url.clone();
        Target::new(leader.clone(), [leader]).translated(|_| None).presenting(self.token.clone())
    }

    pub(super) fn at_urls(leader: &str, options: &TargetOptions) -> anyhow::Result<Self> {
        let peer_url = match &options.peer {
            Some(url) => url.clone(),
            None => peer_of(leader).map_err(anyhow::Error::msg)?,
        };
        let description = format!("leader {leader} and {}", followers_text(options.followers.len()));
        Self::known(description, leader.to_owned(), options.followers.clone(), peer_url, options)
    }

    fn of_compose(options: &TargetOptions) -> anyhow::Result<Self> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let followers = (1..=COMPOSE_FOLLOWERS).map(|number| url(COMPOSE_PORT + number)).collect();
        let description = format!("docker compose, leader {}", url(COMPOSE_PORT));
        Self::known(description, url(COMPOSE_PORT), followers, url(COMPOSE_PORT + 100), options)
    }

    fn known(
        description: String,
        leader: String,
        followers: Vec<String>,
        peer_url: String,
        options: &TargetOptions,
    ) -> anyhow::Result<Self> {
        let (client, peer_url) = peer(options, peer_url)?;
        Ok(Self {
            description,
            replicas: replicas(leader, followers),
            client: LabClient::presenting(ANSWER_LIMIT, options.token.as_deref())?,
            token: options.token.clone(),
            control: Control::peer_port(peer_url, client),
            embedded: false,
            _kept: Kept::Nothing,
        })
    }

    async fn start(beginning: Beginning, context: &Context) -> anyhow::Result<Self> {
        let Beginning { write_quorum, delay } = beginning;
        context.progress("Starting a leader and five followers on this machine");
        let lab = Lab::start(LabOptions { write_quorum, delay, ..LabOptions::default() }).await?;
        Ok(Self {
            description: "six processes on this machine".to_owned(),
            replicas: replicas(lab.url(0), lab.followers().map(|index| lab.url(index)).collect()),
            client: LabClient::new(ANSWER_LIMIT)?,
            token: None,
            control: Control::peer_port(lab.peer_url(0), lab.peer().clone()),
            embedded: true,
            _kept: Kept::Processes { _lab: Box::new(lab) },
        })
    }

    /// The leader through its Service, which follows it through a failover; the followers pod by pod.
    async fn in_cluster(cluster: &ClusterName, options: &TargetOptions) -> anyhow::Result<Self> {
        let ClusterName { namespace, name } = cluster;
        let client = connect(options.context.clone()).await?;
        let api = objects::kvclusters(&client, namespace);
        let object = api.get(name).await.with_context(|| format!("KvCluster {namespace}/{name}"))?;
        let leader = object.data["status"]["leader"].as_str();
        let leader = leader.with_context(|| format!("KvCluster {namespace}/{name} has no leader now"))?;
        let pods = objects::pods(&client, namespace, name).await?;
        let followers: Vec<String> = pods.into_keys().filter(|pod| pod != leader).collect();
        anyhow::ensure!(!followers.is_empty(), "KvCluster {namespace}/{name} has no follower's pod now");
        let service = Tunnel::to_service(&client, namespace, name, CLIENT_PORT).await.context("a local port")?;
        let pods = try_join_all(followers.iter().map(|pod| Tunnel::to_pod(&client, namespace, pod, CLIENT_PORT)));
        let pods = pods.await.context("local ports")?;
        let mut replicas = vec![Replica { name: leader.to_owned(), url: service.url() }];
        replicas.extend(followers.into_iter().zip(&pods).map(|(name, tunnel)| Replica { name, url: tunnel.url() }));
        Ok(Self {
            description: format!("KvCluster {namespace}/{name}"),
            replicas,
            client: LabClient::presenting(ANSWER_LIMIT, options.token.as_deref())?,
            token: options.token.clone(),
            control: Control::kv_cluster(api, name.clone()),
            embedded: false,
            _kept: Kept::Tunnels { _tunnels: std::iter::once(service).chain(pods).collect() },
        })
    }
}

/// A client for the leader's peer port, and its URL: with TLS that begins with https.
fn peer(options: &TargetOptions, url: String) -> anyhow::Result<(PeerClient, String)> {
    let token = options.peer_token.clone();
    let (Some(file), Some(name)) = (&options.peer_ca, &options.peer_name) else {
        return Ok((PeerClient::new(token, ANSWER_LIMIT).context("an HTTP client")?, url));
    };
    let pem = std::fs::read(file).with_context(|| format!("--peer-ca {}", file.display()))?;
    let authorities = Authorities::parse(&pem).with_context(|| format!("--peer-ca {}", file.display()))?;
    let name = PeerName::parse(name).context("--peer-name")?;
    let client = PeerClient::secured(token, ANSWER_LIMIT, ClientTls::new(name, &authorities));
    Ok((client, url.replacen("http://", "https://", 1)))
}

fn followers_text(count: usize) -> String {
    if count == 1 { "one follower".to_owned() } else { format!("{count} followers") }
}

fn replicas(leader: String, followers: Vec<String>) -> Vec<Replica> {
    let leader = Replica { name: "leader".to_owned(), url: leader };
    let follower = |(number, url)| Replica { name: format!("follower{number}"), url };
    std::iter::once(leader).chain((1..).zip(followers).map(follower)).collect()
}

async fn connect(context: Option<String>) -> anyhow::Result<Client> {
    let config = match context {
        None => Config::infer().await.context("no kubeconfig")?,
        Some(context) => {
            let options = KubeConfigOptions { context: Some(context), ..KubeConfigOptions::default() };
            let kubeconfig = Kubeconfig::read().context("no kubeconfig")?;
            Config::from_custom_kubeconfig(kubeconfig, &options).await.context("the kubeconfig")?
        }
    };
    Client::try_from(config).context("the kubeconfig")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_comes_first() {
        let found = replicas("http://a".to_owned(), vec!["http://b".to_owned(), "http://c".to_owned()]);
        let names: Vec<&str> = found.iter().map(|replica| replica.name.as_str()).collect();
        assert_eq!(names, ["leader", "follower1", "follower2"]);
        assert_eq!(found[2].url, "http://c");
    }

    #[test]
    fn compose_publishes_the_leader_on_port_5000() {
        let store = Store::of_compose(&TargetOptions::default()).expect("an HTTP client");
        assert_eq!(store.leader().url, "http://127.0.0.1:5000");
        assert_eq!(store.followers().len(), 5);
        assert_eq!(store.followers()[4].url, "http://127.0.0.1:5005");
    }
}

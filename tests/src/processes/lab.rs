//! A leader with static followers, as in the classroom lab.

use std::{collections::BTreeMap, ops::Range, path::Path, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use quorumkv_api::{
    Delay, SettingsPatch, client::PeerClient, lab::StatusReply, peer::SettingsReply, settings::format_duration,
};
use serde_json::Value;
use tempfile::TempDir;

use super::{
    Storage,
    certificates::Certificates,
    ports::PortBlock,
    programs,
    running::{Launch, Process, print_on_failure},
};
use crate::{client::LabClient, load::Target, wait};

/// How long a node may take to become ready, or to notice something, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the lab is started with.
#[derive(Debug, Clone)]
pub struct LabOptions {
    /// Number of followers, at most nine.
    pub followers: usize,
    /// Follower acknowledgements per write.
    pub write_quorum: u8,
    /// Simulated round trip.
    pub delay: Delay,
    /// How long a write waits for its quorum.
    pub write_timeout: Duration,
    /// Entries kept for followers that fall behind.
    pub log_entries: Option<u32>,
    /// Token of the peer ports.
    pub peer_token: Option<String>,
    /// What the peer ports speak TLS with.
    pub certificates: Option<Certificates>,
    /// Where the nodes keep their data.
    pub storage: Storage,
    /// More variables of single nodes: which one, name and value.
    pub variables: Vec<(usize, &'static str, String)>,
}

impl Default for LabOptions {
    fn default() -> Self {
        Self {
            followers: 5,
            write_quorum: 3,
            delay: Delay::ZERO,
            write_timeout: Duration::from_secs(5),
            log_entries: None,
            peer_token: None,
            certificates: None,
            storage: Storage::Memory,
            variables: Vec::new(),
        }
    }
}

/// A running lab. Node 0 is the leader, nodes 1.. are the followers.
#[derive(Debug)]
pub struct Lab {
    nodes: Vec<Process>,
    ports: PortBlock,
    client: LabClient,
    peer: PeerClient,
    /// Scheme of peer URLs.
    scheme: &'static str,
    /// Holds logs and data; goes last.
    _folder: TempDir,
}

impl Lab {
    /// Starts every node and waits until all are ready.
    ///
    /// # Errors
    /// When a node does not start, or does not become ready; the message holds the end of the logs.
    pub async fn start(options: LabOptions) -> anyhow::Result<Self> {
        let mut lab = Self::prepare(&options)?;
        for node in &mut lab.nodes {
            node.start()?;
        }
        lab.all_ready().await?;
        Ok(lab)
    }

    /// A lab of which no node runs yet.
    ///
    /// # Errors
    /// When there are no ports or no programs.
    pub fn prepare(options: &LabOptions) -> anyhow::Result<Self> {
        let ports = PortBlock::take()?;
        let program = programs::node()?;
        let folder = tempfile::tempdir().context("a folder for logs and data")?;
        let launch = |index: usize| Launch {
            name: if index == 0 { "leader".to_owned() } else { format!("follower{index}") },
            program: program.clone(),
            arguments: Vec::new(),
            environment: environment(options, &ports, index, folder.path()),
        };
        let nodes = (0..=options.followers).map(|index| Process::new(launch(index), folder.path())).collect();
        let (token, limit) = (options.peer_token.clone(), Duration::from_secs(10));
        let peer = match &options.certificates {
            None => PeerClient::new(token, limit).context("an HTTP client")?,
            Some(certificates) => certificates.client(token, limit),
        };
        let scheme = scheme(options);
        Ok(Self { nodes, ports, client: LabClient::new(Duration::from_secs(10))?, peer, scheme, _folder: folder })
    }

    /// Indices of all nodes.
    #[must_use]
    pub fn indices(&self) -> Range<usize> {
        0..self.nodes.len()
    }

    /// Indices of the followers.
    #[must_use]
    pub fn followers(&self) -> Range<usize> {
        1..self.nodes.len()
    }

    /// The process of a node.
    pub fn node(&mut self, index: usize) -> &mut Process {
        &mut self.nodes[index]
    }

    /// Client URL of a node.
    #[must_use]
    pub fn url(&self, index: usize) -> String {
        client_url(&self.ports, index)
    }

    /// Peer URL of a node.
    #[must_use]
    pub fn peer_url(&self, index: usize) -> String {
        peer_url(self.scheme, &self.ports, index)
    }

    /// Metrics URL of a node.
    #[must_use]
    pub fn metrics_url(&self, index: usize) -> String {
        format!("http://127.0.0.1:{}/metrics", metrics_port(&self.ports, index))
    }

    /// Sum of a counter of a node, over all its labels that contain `label`; 0 where nothing was counted yet.
    ///
    /// # Errors
    /// When its metrics port does not answer.
    pub async fn counter(&self, index: usize, name: &str, label: &str) -> anyhow::Result<f64> {
        let answer = self.client.get_path(&self.metrics_url(index), "").await?;
        ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
        let samples = answer.text.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let wanted =
            samples.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{') && labels.contains(label));
        wanted.map(|(_, value)| value.parse::<f64>().with_context(|| format!("{name} {value}"))).sum()
    }

    /// Speaks to client ports.
    #[must_use]
    pub fn client(&self) -> &LabClient {
        &self.client
    }

    /// Speaks to peer ports, with the lab's token.
    #[must_use]
    pub fn peer(&self) -> &PeerClient {
        &self.peer
    }

    /// Where a load writes: the leader.
    #[must_use]
    pub fn target(&self) -> Target {
        Target::new(self.url(0), self.indices().map(|index| self.url(index)))
    }

    /// `GET /status` of a node.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn status(&self, index: usize) -> anyhow::Result<StatusReply> {
        self.client.status(&self.url(index)).await
    }

    /// Changes settings through the leader's peer port.
    ///
    /// # Errors
    /// When they are refused.
    pub async fn change_settings(&self, patch: &SettingsPatch) -> anyhow::Result<SettingsReply> {
        Ok(self.peer.settings(&self.peer_url(0), patch).await?)
    }

    /// Waits until a node is ready.
    ///
    /// # Errors
    /// When it does not become ready; the message holds the end of its log.
    pub async fn ready(&self, index: usize) -> anyhow::Result<()> {
        let (url, process) = (self.url(index), &self.nodes[index]);
        let what = format!("{} is ready", process.name());
        let waited = wait::until(&what, PATIENCE, || async {
            let answer = self.client.get_path(&url, "/readyz").await?;
            ensure!(answer.status.is_success(), "{} {}", answer.status, answer.text);
            Ok(())
        });
        waited.await.with_context(|| process.output_end(20))
    }

    /// Waits until every node is ready.
    ///
    /// # Errors
    /// As [`Self::ready`].
    pub async fn all_ready(&self) -> anyhow::Result<()> {
        try_join_all(self.indices().map(|index| self.ready(index))).await?;
        Ok(())
    }

    /// Waits until the leader's status satisfies `condition`, which says what is missing.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn leader_status(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&StatusReply) -> bool,
    ) -> anyhow::Result<StatusReply> {
        wait::until(what, within, || async {
            let status = self.status(0).await?;
            ensure!(condition(&status), "{status:?}");
            Ok(status)
        })
        .await
    }

    /// Waits until every node of `indices` holds what the leader holds, and gives that.
    ///
    /// # Errors
    /// When they stay different; the message names the difference.
    pub async fn equal_content(
        &self,
        indices: impl Iterator<Item = usize> + Clone,
    ) -> anyhow::Result<BTreeMap<String, Value>> {
        wait::until("all nodes hold the same", PATIENCE, || async {
            let (expected, version) = self.client.content(&self.url(0)).await?;
            for index in indices.clone() {
                let (content, _) = self.client.content(&self.url(index)).await?;
                let differs = |key: &&String| content.get(*key) != expected.get(*key);
                let different: Vec<&String> = expected.keys().chain(content.keys()).filter(differs).take(5).collect();
                ensure!(
                    different.is_empty(),
                    "node {index} differs from the leader at version {version} in {different:?}"
                );
            }
            Ok(expected)
        })
        .await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        print_on_failure(self.nodes.iter());
    }
}

fn client_url(ports: &PortBlock, index: usize) -> String {
    format!("http://127.0.0.1:{}", ports.port(index))
}

fn scheme(options: &LabOptions) -> &'static str {
    if options.certificates.is_some() { "https" } else { "http" }
}

fn peer_url(scheme: &str, ports: &PortBlock, index: usize) -> String {
    format!("{scheme}://127.0.0.1:{}", ports.port(10 + index))
}

fn metrics_port(ports: &PortBlock, index: usize) -> u16 {
    ports.port(20 + index)
}

/// Only the leader is told of settings and followers, as in the lab's compose file.
fn environment(options: &LabOptions, ports: &PortBlock, index: usize, folder: &Path) -> Vec<(String, String)> {
    let LabOptions { followers, write_quorum, delay, write_timeout, log_entries, .. } = options;
    let LabOptions { peer_token, certificates, storage, variables: more, .. } = options;
    let followers = 1..=*followers;
    let mut variables = vec![
        ("BIND_ADDRESS", "127.0.0.1".to_owned()),
        ("PORT", ports.port(index).to_string()),
        ("PEER_PORT", ports.port(10 + index).to_string()),
        ("METRICS_PORT", metrics_port(ports, index).to_string()),
        ("NODE_ID", format!("127.0.0.1:{}", ports.port(index))),
        ("ADVERTISE_URL", client_url(ports, index)),
        ("NODE_TYPE", if index == 0 { "leader" } else { "follower" }.to_owned()),
    ];
    if index == 0 {
        let list = |url: &dyn Fn(&PortBlock, usize) -> String| {
            followers.clone().map(|index| url(ports, index)).collect::<Vec<_>>().join(",")
        };
        variables.extend([
            ("FOLLOWERS", list(&client_url)),
            ("FOLLOWER_PEERS", list(&|ports, index| peer_url(scheme(options), ports, index))),
            ("WRITE_QUORUM", write_quorum.to_string()),
            ("MIN_DELAY", delay.min.as_secs_f64().to_string()),
            ("MAX_DELAY", delay.max.as_secs_f64().to_string()),
            ("WRITE_TIMEOUT", format_duration(*write_timeout)),
        ]);
    }
    if *storage == Storage::Persistent {
        let data = folder.join(format!("data{index}")).display().to_string();
        variables.extend([("STORAGE", "persistent".to_owned()), ("DATA_DIR", data)]);
    }
    variables.extend(log_entries.map(|entries| ("LOG_ENTRIES", entries.to_string())));
    variables.extend(peer_token.clone().map(|token| ("PEER_TOKEN", token)));
    variables.extend(certificates.iter().flat_map(Certificates::environment));
    let more = more.iter().filter(|(node, ..)| *node == index);
    variables.extend(more.map(|(_, name, value)| (*name, value.clone())));
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

//! Whether every copy counts, as the nodes' peer ports tell it.

use std::{fs, time::Duration};

use anyhow::{Context, ensure};
use futures::future::join_all;
use quorumkv_api::{Settings, client::PeerClient, lab::Role, peer::NodeState};

use crate::{processes::LocalOperator, wait};

/// A node that hangs must not hold up the look at the others for long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the nodes of a local store as their manager does.
#[derive(Debug)]
pub struct Copies<'a> {
    operator: &'a LocalOperator,
}

impl<'a> Copies<'a> {
    /// Of a store.
    #[must_use]
    pub const fn of(operator: &'a LocalOperator) -> Self {
        Self { operator }
    }

    /// The manager invents a token at each start, which its nodes have in their environment.
    fn client(&self) -> anyhow::Result<PeerClient> {
        let first = self.operator.urls().into_iter().next().context("a store has nodes")?;
        let pid = self.operator.node_pid(&first)?.as_raw_nonzero();
        let environment = fs::read(format!("/proc/{pid}/environ")).context("the environment of a node")?;
        let mut variables = environment.split(|byte| *byte == 0);
        let token = variables.find_map(|variable| variable.strip_prefix(b"PEER_TOKEN="));
        let token = String::from_utf8(token.context("a node has a token")?.to_vec()).context("a token is text")?;
        PeerClient::new(Some(token), ANSWER_TIMEOUT).context("an HTTP client")
    }

    /// Waits until one node leads and counts the copy that each of the others has now, under these settings.
    ///
    /// Unlike a status line or a node's `/status`, this cannot be left over from before a fault: a node that lost
    /// its copy does not answer, and then answers with another storage id.
    ///
    /// # Errors
    /// When that takes longer than `within`; the message says what is missing.
    pub async fn all_count(&self, settings: Settings, within: Duration) -> anyhow::Result<NodeState> {
        let peer_urls = self.operator.peer_urls();
        wait::until("every copy counts", within, || async {
            let client = self.client()?;
            let asked = peer_urls.iter().map(|url| {
                let client = &client;
                async move { client.state(url).await.with_context(|| format!("{url} does not answer")) }
            });
            let states: Vec<NodeState> = join_all(asked).await.into_iter().collect::<anyhow::Result<_>>()?;
            leader_of_all(&states, settings).cloned()
        })
        .await
    }
}

/// The leader, if it counts the copy that each of the others has now, under these settings.
pub(super) fn leader_of_all(states: &[NodeState], settings: Settings) -> anyhow::Result<&NodeState> {
    let leaders: Vec<&NodeState> = states.iter().filter(|state| state.role == Role::Leader).collect();
    let [leader] = leaders[..] else { anyhow::bail!("{} nodes believe that they lead", leaders.len()) };
    ensure!(leader.ready, "{} is not active yet", leader.node.0);
    let applied = leader.settings.map(|entry| entry.settings);
    ensure!(applied == Some(settings), "in force is {applied:?}, not yet {settings:?}");
    for state in states.iter().filter(|state| state.node != leader.node) {
        let name = &state.node.0;
        ensure!(state.epoch == leader.epoch && state.ready, "{name} does not follow {} yet", leader.node.0);
        let seen = leader.followers.iter().find(|follower| follower.node == state.node);
        let seen = seen.with_context(|| format!("the leader does not know {name}"))?;
        ensure!(seen.storage_id == Some(state.storage_id), "the leader does not know the copy of {name}");
        ensure!(seen.connected && seen.counted, "the copy of {name} does not count: {seen:?}");
    }
    Ok(leader)
}

//! Whom a fault hits, found out when it strikes.

use std::{collections::HashSet, sync::Mutex, time::Duration};

use anyhow::Context;
use futures::future::join_all;
use quorumkv_api::lab::{Role, StatusReply};

use super::faults::Victim;
use crate::client::LabClient;

/// Asks the nodes of a store which of them leads.
pub(super) struct Victims {
    /// Impatient: a halted node must not hold up the search.
    client: LabClient,
}

impl Victims {
    pub(super) fn new() -> anyhow::Result<Self> {
        Ok(Self { client: LabClient::new(Duration::from_millis(300))? })
    }

    /// Finds a node that this round has not hit yet, so that each of its losses is another copy's.
    pub(super) async fn choose(
        &self,
        urls: Vec<String>,
        victim: Victim,
        hit: &Mutex<HashSet<String>>,
    ) -> anyhow::Result<String> {
        let (leader, others) = self.leader_and_others(urls).await;
        let mut hit = hit.lock().expect("nobody panics while choosing");
        let free = |url: &String| !hit.contains(url);
        let others: Vec<String> = others.into_iter().filter(free).collect();
        let (chosen, number) = match victim {
            Victim::Leader => (leader.filter(free), 0),
            Victim::Follower(number) => (None, number),
        };
        let other = || others.get(number % others.len().max(1)).cloned();
        let chosen = chosen.or_else(other).context("a round hits fewer nodes than there are")?;
        hit.insert(chosen.clone());
        Ok(chosen)
    }

    /// Whoever leads the highest epoch, active or not yet, and the other nodes.
    pub(super) async fn leader_and_others(&self, mut urls: Vec<String>) -> (Option<String>, Vec<String>) {
        let statuses = join_all(urls.iter().map(|url| self.client.status(url))).await;
        let leader = leader_among(&urls, &statuses).cloned();
        urls.retain(|url| Some(url) != leader.as_ref());
        (leader, urls)
    }
}

fn leader_among<'a>(urls: &'a [String], statuses: &[anyhow::Result<StatusReply>]) -> Option<&'a String> {
    let answers = urls.iter().zip(statuses).filter_map(|(url, status)| Some((url, status.as_ref().ok()?)));
    let leaders = answers.filter(|(_, status)| status.role == Role::Leader);
    leaders.max_by_key(|(_, status)| status.epoch).map(|(url, _)| url)
}

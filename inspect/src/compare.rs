//! Whether every replica holds what the leader holds, at one place in the log.
//!
//! All replicas are listed at once, each no earlier than the leader's commit, and the listings are walked side
//! by side ([`listing`], [`side_by_side`]). While others write, replicas are listed at different versions, and a
//! key that differs may only have been written in between. Such keys are read one by one, with their versions,
//! until both sides tell of the same write ([`settle`]): two replicas hold different stores exactly if they
//! disagree about what one place in the log did to a key.

mod listing;
mod settle;
mod side_by_side;

use std::{fmt, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt as _, future::try_join_all, stream};
use quorumkv_api::lab::{ErrorReply, StatusReply};
use reqwest::{Client, StatusCode};
use serde::Serialize;

use self::{
    listing::Listing,
    settle::{Settled, Sides},
    side_by_side::{Difference, Kind},
};
use crate::{table::table, token, wait};

/// How long a node may be silent while it lists.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// Keys that are read one by one at the same time.
const READS_AT_ONCE: usize = 16;

/// A node, by name and client URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Short, for tables.
    pub name: String,
    /// Without a slash at its end.
    pub url: String,
}

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    /// What was compared.
    pub store: String,
    /// Whether every replica holds what the leader holds.
    pub passed: bool,
    /// Every replica holds the log at least up to here.
    pub position: u64,
    /// The leader first.
    pub replicas: Vec<ReplicaFound>,
}

/// What one replica holds, compared with the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaFound {
    /// Its name.
    pub name: String,
    /// Its client URL.
    pub url: String,
    /// The version at which it was listed.
    pub version: u64,
    /// How many keys it holds.
    pub keys: u64,
    /// Keys that the leader has and it has not.
    pub missing: Keys,
    /// Keys that it has and the leader has not.
    pub extra: Keys,
    /// Keys with other values, or whose last write differs.
    pub different: Keys,
    /// Keys that were written too often to be compared.
    pub unsettled: Keys,
    /// Keys that differed between listings of different versions, and turned out equal.
    pub settled: u64,
}

/// Some keys: how many, and the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Keys {
    /// How many there are.
    pub count: u64,
    /// The first ones.
    pub first: Vec<String>,
}

impl Keys {
    fn add(&mut self, key: &str, show: usize) {
        self.count += 1;
        if self.first.len() < show {
            self.first.push(key.to_owned());
        }
    }
}

/// Compares every replica of a store with the first, which is the leader. Waits so long for one that is behind, and
/// names so many of the keys that differ. `store` says what it is, for people.
///
/// # Errors
/// When there is no replica, or one could not be listed.
pub async fn compare(store: &str, replicas: &[Replica], patience: Duration, show: usize) -> anyhow::Result<Comparison> {
    compare_with(None, store, replicas, patience, show).await
}

/// The same with a token for nodes that ask for one.
///
/// # Errors
/// As [`compare`].
pub async fn compare_with(
    token: Option<&str>,
    store: &str,
    replicas: &[Replica],
    patience: Duration,
    show: usize,
) -> anyhow::Result<Comparison> {
    let leader = replicas.first().context("there is no replica to compare with")?;
    let http = Client::builder()
        .read_timeout(SILENCE_LIMIT)
        .connect_timeout(SILENCE_LIMIT)
        .tcp_nodelay(true)
        .no_proxy()
        .default_headers(token::headers(token)?)
        .build()
        .context("an HTTP client")?;
    let position = position(&http, leader).await.context("the leader's position")?;
    let answers = try_join_all(replicas.iter().map(|replica| list(&http, replica, position, patience))).await?;
    let compared = side_by_side::side_by_side(answers.into_iter().map(Listing::read).collect()).await;
    let mut found = Vec::with_capacity(replicas.len());
    let mut versions = Vec::with_capacity(replicas.len());
    for (replica, version) in replicas.iter().zip(compared.versions) {
        let version = version.with_context(|| format!("{} ({})", replica.name, replica.url))?;
        ensure!(version >= position, "{} was listed at version {version}, before {position}", replica.name);
        versions.push(version);
    }
    for ((replica, differences), (keys, version)) in
        replicas.iter().zip(compared.differences).zip(compared.keys.into_iter().zip(&versions))
    {
        let mut one = ReplicaFound::nothing(replica, *version, keys);
        if *version == versions[0] {
            one.add_all(differences, show);
        } else {
            let sides = Sides { http: &http, leader: &leader.url, replica: &replica.url };
            settle_all(sides, differences, patience, show, &mut one).await?;
        }
        found.push(one);
    }
    let passed = found.iter().all(ReplicaFound::is_equal);
    Ok(Comparison { store: store.to_owned(), passed, position, replicas: found })
}

async fn position(http: &Client, leader: &Replica) -> anyhow::Result<u64> {
    let answer = http.get(format!("{}/status", leader.url)).timeout(SILENCE_LIMIT).send().await?.error_for_status()?;
    Ok(answer.json::<StatusReply>().await?.commit_seq.0)
}

/// The answer to `GET /get_all` of a replica that holds the log up to `position`.
async fn list(
    http: &Client,
    replica: &Replica,
    position: u64,
    patience: Duration,
) -> anyhow::Result<reqwest::Response> {
    // Stale: what a node has, whether or not it holds a lease. It is compared, not believed.
    let url = format!("{}/get_all?consistency=stale&minVersion={position}", replica.url);
    wait::until(&format!("{} at version {position}", replica.name), patience, || async {
        let answer = http.get(&url).send().await?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let reply: ErrorReply = answer.json().await.unwrap_or_default();
        bail!("{url} answered {status} {}", reply.error)
    })
    .await
}

/// Finds out, key by key, what differs in listings of different versions.
async fn settle_all(
    sides: Sides<'_>,
    found: Vec<Difference>,
    patience: Duration,
    show: usize,
    one: &mut ReplicaFound,
) -> anyhow::Result<()> {
    let reads = found.into_iter().map(|difference| async move {
        let settled = settle::settle(sides, &difference.key, patience).await;
        settled.map(|settled| (difference.key, settled))
    });
    let mut settled: Vec<(String, Settled)> = Vec::new();
    let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
    while let Some(read) = reads.next().await {
        settled.push(read?);
    }
    for (key, settled) in settled {
        match settled {
            Settled::Equal => one.settled += 1,
            Settled::Differs(kind) => one.add(&Difference { key, kind }, show),
            Settled::Never => one.unsettled.add(&key, show),
        }
    }
    Ok(())
}

impl ReplicaFound {
    fn nothing(replica: &Replica, version: u64, keys: u64) -> Self {
        Self {
            name: replica.name.clone(),
            url: replica.url.clone(),
            version,
            keys,
            missing: Keys::default(),
            extra: Keys::default(),
            different: Keys::default(),
            unsettled: Keys::default(),
            settled: 0,
        }
    }

    fn add(&mut self, difference: &Difference, show: usize) {
        let keys = match difference.kind {
            Kind::Missing => &mut self.missing,
            Kind::Extra => &mut self.extra,
            Kind::Different => &mut self.different,
        };
        keys.add(&difference.key, show);
    }

    fn add_all(&mut self, differences: Vec<Difference>, show: usize) {
        differences.iter().for_each(|difference| self.add(difference, show));
    }

    fn kinds(&self) -> [(&'static str, &Keys); 4] {
        [
            ("missing", &self.missing),
            ("extra", &self.extra),
            ("different", &self.different),
            ("unsettled", &self.unsettled),
        ]
    }

    fn is_equal(&self) -> bool {
        self.kinds().iter().all(|(_, keys)| keys.count == 0)
    }
}

impl Comparison {
    /// What differs, in a line; how much was equal, if nothing does.
    #[must_use]
    pub fn summary(&self) -> String {
        let different: Vec<String> = self
            .replicas
            .iter()
            .filter(|replica| !replica.is_equal())
            .map(|replica| {
                let kinds = replica.kinds().into_iter().filter(|(_, keys)| keys.count > 0);
                let kinds = kinds.map(|(kind, keys)| format!("{} {kind} {:?}", keys.count, keys.first));
                format!("{}: {}", replica.name, kinds.collect::<Vec<_>>().join(", "))
            })
            .collect();
        if different.is_empty() {
            let keys = self.replicas.first().map_or(0, |leader| leader.keys);
            return format!("{} replicas equal, {keys} keys, version {}", self.replicas.len(), self.position);
        }
        different.join("; ")
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = ["replica", "", "version", "keys", "missing", "extra", "different", "unsettled"];
        let rows = self.replicas.iter().map(|replica| {
            let verdict = if replica.is_equal() { "equal" } else { "DIFFERS" };
            let mut row = vec![replica.name.clone(), verdict.to_owned()];
            row.extend([replica.version, replica.keys].map(|number| number.to_string()));
            row.extend(replica.kinds().map(|(_, keys)| keys.count.to_string()));
            row
        });
        write!(f, "{}", table(&header, 2, rows))?;
        for replica in &self.replicas {
            for (kind, keys) in replica.kinds().into_iter().filter(|(_, keys)| keys.count > 0) {
                let more = keys.count - keys.first.len() as u64;
                write!(f, "{} {kind}: {}", replica.name, keys.first.join(", "))?;
                if more > 0 {
                    write!(f, " and {more} more")?;
                }
                writeln!(f)?;
            }
        }
        let settled: u64 = self.replicas.iter().map(|replica| replica.settled).sum();
        if settled > 0 {
            writeln!(f, "{settled} keys were written meanwhile and compared one by one.")?;
        }
        let verdict = if self.passed { "All replicas are equal" } else { "The replicas DIFFER" };
        writeln!(f, "{verdict}: {} at version {} or later.", self.store, self.position)
    }
}

#[cfg(test)]
mod tests;

//! What is measured: when everything is there, what the operator sends to the API server, and what changes meanwhile.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    pin::pin,
    time::Instant,
};

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{Pod, Secret, Service},
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DynamicObject, ListParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;

use super::nodes::MANAGED;
use crate::kind::objects::kvcluster;

/// The operator's counters at one moment, by the name of the series with its labels.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counters(BTreeMap<String, f64>);

/// How many requests of one kind there were.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Requests {
    /// As in the audit log.
    pub verb: String,
    /// With its subresource.
    pub resource: String,
    /// How many.
    pub count: u64,
}

impl Requests {
    /// Whether they change something, other than the operator's own lease.
    #[must_use]
    pub fn are_writes(&self) -> bool {
        let reads = ["get", "list", "watch"].contains(&self.verb.as_str());
        !reads && !self.is_of_the_lease()
    }

    /// Whether they are about the lease that every operator renews, however many stores it has.
    #[must_use]
    pub fn is_of_the_lease(&self) -> bool {
        self.resource == "leases"
    }
}

impl Counters {
    /// Reads the text of a metrics port.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .filter_map(|line| line.rsplit_once(' '))
                .filter_map(|(name, value)| {
                    Some((name.strip_prefix("quorumkv_operator_")?.to_owned(), value.parse().ok()?))
                })
                .collect(),
        )
    }

    /// Asks a metrics port.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ask(http: &reqwest::Client, url: &str) -> anyhow::Result<Self> {
        let text = http.get(url).send().await.with_context(|| url.to_owned())?.error_for_status()?.text().await?;
        Ok(Self::parse(&text))
    }

    /// What was added since an earlier moment.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let added = |(name, value): (&String, &f64)| (name.clone(), value - earlier.0.get(name).unwrap_or(&0.0));
        Self(self.0.iter().map(added).collect())
    }

    /// The sum of all series of this name, whatever their labels.
    #[must_use]
    pub fn sum(&self, name: &str) -> f64 {
        let of_the_name =
            |series: &str| series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.0
            .iter()
            .filter(|(series, _)| of_the_name(series))
            .map(|(_, value)| value)
            .fold(0.0, |sum, value| sum + value)
    }

    /// The series of this name, as they are written, that are above zero.
    #[must_use]
    pub fn series(&self, name: &str) -> Vec<String> {
        let those = self.0.iter().filter(|(series, value)| series.starts_with(name) && **value > 0.0);
        those.map(|(series, value)| format!("{series} {value}")).collect()
    }

    /// Requests to the API server, most first.
    #[must_use]
    pub fn requests(&self) -> Vec<Requests> {
        let label = |series: &str, name: &str| {
            let (_, rest) = series.split_once(&format!("{name}=\""))?;
            Some(rest.split_once('"')?.0.to_owned())
        };
        let sent = |(series, value): (&String, &f64)| {
            let labels = series.strip_prefix("api_requests_total{")?;
            // A counter, far below what a float can tell apart.
            let count = format!("{value:.0}").parse().ok().filter(|count| *count > 0)?;
            Some(Requests { verb: label(labels, "verb")?, resource: label(labels, "resource")?, count })
        };
        let mut requests: Vec<Requests> = self.0.iter().filter_map(sent).collect();
        requests.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.cmp(other)));
        requests
    }
}

/// When so many objects were seen of which `holds` is true.
///
/// # Errors
/// When the watch cannot go on.
pub async fn until_all<K>(
    api: Api<K>,
    labels: &str,
    wanted: usize,
    holds: impl Fn(&K) -> bool,
) -> anyhow::Result<Instant>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut events = pin!(watcher(api, watcher::Config::default().labels(labels)).default_backoff());
    let mut those: HashSet<(Option<String>, String)> = HashSet::new();
    while let Some(event) = events.next().await {
        let key = |object: &K| (object.namespace(), object.name_any());
        match event {
            Ok(watcher::Event::Init) => those.clear(),
            Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                if holds(&object) {
                    those.insert(key(&object))
                } else {
                    those.remove(&key(&object))
                };
            }
            Ok(watcher::Event::Delete(object)) => drop(those.remove(&key(&object))),
            Ok(watcher::Event::InitDone) => {}
            Err(error) => tracing::warn!(%error, "a watch failed and is repeated"),
        }
        if those.len() == wanted {
            return Ok(Instant::now());
        }
    }
    anyhow::bail!("a watch ended while {} of {wanted} were there", those.len())
}

/// Versions of everything that the operator makes or changes: they change with every write, whoever makes it.
///
/// # Errors
/// When the API server does not answer.
pub async fn versions(client: &Client) -> anyhow::Result<BTreeMap<String, String>> {
    let mut versions = BTreeMap::new();
    versions.extend(versions_of::<StatefulSet>(client).await?);
    versions.extend(versions_of::<Service>(client).await?);
    versions.extend(versions_of::<PodDisruptionBudget>(client).await?);
    versions.extend(versions_of::<Secret>(client).await?);
    versions.extend(versions_of::<Pod>(client).await?);
    let clusters: Api<DynamicObject> = Api::all_with(client.clone(), &kvcluster());
    let clusters = clusters.list_metadata(&ListParams::default()).await.context("list KvClusters")?;
    versions.extend(clusters.items.iter().map(|cluster| version("KvCluster", cluster)));
    Ok(versions)
}

async fn versions_of<K>(client: &Client) -> anyhow::Result<Vec<(String, String)>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::all(client.clone());
    let kind = K::kind(&());
    let found = api.list_metadata(&ListParams::default().labels(MANAGED)).await;
    let found = found.with_context(|| format!("list objects of kind {kind}"))?;
    Ok(found.items.iter().map(|object| version(&kind, object)).collect())
}

fn version(kind: &str, object: &impl kube::ResourceExt) -> (String, String) {
    let name = format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any());
    (name, object.resource_version().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# HELP quorumkv_operator_reconciles Reconciles.\n\
        quorumkv_operator_reconciles_total 100\n\
        quorumkv_operator_reconciles_put_off_total{reason=\"conflict\"} 3\n\
        quorumkv_operator_api_requests_total{verb=\"get\",resource=\"secrets\"} 7\n\
        quorumkv_operator_api_requests_total{verb=\"update\",resource=\"leases\"} 2\n\
        # EOF\n";

    #[test]
    fn what_was_sent_since_is_told_apart_by_verb_and_resource() {
        let before = Counters::parse(BEFORE);
        let after = Counters::parse(
            &(BEFORE.replace("total 100", "total 160").replace("leases\"} 2", "leases\"} 6")
                + "quorumkv_operator_api_requests_total{verb=\"patch\",resource=\"kvclusters/status\"} 5\n"),
        );
        let added = after.since(&before);
        assert!((added.sum("reconciles_total") - 60.0).abs() < f64::EPSILON, "{added:?}");
        let requests = added.requests();
        let seen: Vec<(&str, &str, u64, bool)> = requests
            .iter()
            .map(|one| (one.verb.as_str(), one.resource.as_str(), one.count, one.are_writes()))
            .collect();
        assert_eq!(seen, [("patch", "kvclusters/status", 5, true), ("update", "leases", 4, false)]);
    }
}

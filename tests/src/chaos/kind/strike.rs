//! One round of faults on a KvCluster, carried out.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Mutex,
    time::Duration,
};

use anyhow::{Context, ensure};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use quorumkv_api::{NodeId, ProcessId, Settings, WriteQuorum, peer::NodeState, settings::format_duration};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    chaos::{
        copies::leader_of_all,
        faults::{Fault, Others, Victim, Way},
        journal::Journal,
        run::Arena,
        schedule::Planned,
        victims::Victims,
    },
    client::LabClient,
    kind::{
        filter::{Filter, Lost},
        node_ports::NodePorts,
        operator,
        store::Store,
    },
    load::Target,
    wait,
};

/// How long the store may take until every copy counts again: pods that crash more than once wait for ten seconds,
/// and a new operator for the Lease of one that could not give it back.
const PATIENCE: Duration = Duration::from_secs(120);
/// A node that hangs must not hold up the look at the others for long.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// Strikes one store, and keeps a journal of it.
pub(super) struct Striker<'a> {
    store: &'a Store,
    /// Namespace of the operator.
    system: &'a str,
    ports: NodePorts,
    filter: &'a Filter,
    /// What was asked for last.
    settings: Mutex<Settings>,
    token: String,
    peer: reqwest::Client,
    client: LabClient,
    victims: Victims,
    journal: Journal,
}

impl<'a> Striker<'a> {
    /// Of a store that is up.
    pub(super) async fn new(
        store: &'a Store,
        system: &'a str,
        filter: &'a Filter,
        settings: Settings,
    ) -> anyhow::Result<Self> {
        // A connection for each look: the process at its other end changes.
        let peer = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).pool_max_idle_per_host(0).no_proxy().build();
        Ok(Self {
            store,
            system,
            ports: NodePorts::open(store).await?,
            filter,
            settings: Mutex::new(settings),
            token: store.peer_token().await?,
            peer: peer.context("an HTTP client")?,
            client: LabClient::new(CLIENT_TIMEOUT)?,
            victims: Victims::new()?,
            journal: Journal::default(),
        })
    }

    /// What the node in a pod says of itself.
    async fn state(&self, pod: &str) -> anyhow::Result<NodeState> {
        let url = format!("{}/state", self.ports.peer_url(pod)?);
        let asked = self.peer.get(url).bearer_auth(&self.token).send().await;
        let response = asked.with_context(|| format!("{pod} does not answer"))?;
        let status = response.status();
        let text = response.text().await.with_context(|| format!("{pod} does not end its answer"))?;
        ensure!(status.is_success(), "{pod} answers {status} {text}");
        serde_json::from_str(&text).with_context(|| format!("{pod} answers {text:?}"))
    }

    fn settings(&self) -> Settings {
        *self.settings.lock().expect("nobody panics while holding it")
    }

    /// Notes a fault, and counts it by what it is here.
    fn note(&self, kind: &'static str, whom: &str) {
        self.journal.count(kind);
        self.journal.note(&format!("{kind}: {whom}"));
    }

    /// A pod that this round has not hit yet.
    async fn choose(&self, victim: Victim, hit: &Mutex<HashSet<String>>) -> anyhow::Result<String> {
        self.pod_at(&self.victims.choose(self.urls(), victim, hit).await?)
    }

    fn pod_at(&self, url: &str) -> anyhow::Result<String> {
        let found = self.ports.pods().find(|pod| self.ports.client_url(pod).is_ok_and(|known| known == url));
        found.cloned().with_context(|| format!("no pod is at {url}"))
    }

    /// The pod that leads, if there is one, and the others.
    async fn leader_and_others(&self) -> anyhow::Result<Vec<String>> {
        let (leader, others) = self.victims.leader_and_others(self.urls()).await;
        leader.iter().chain(&others).map(|url| self.pod_at(url)).collect()
    }

    async fn carry_out(&self, fault: Fault, hit: &Mutex<HashSet<String>>) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(victim) => self.kill(&self.choose(victim, hit).await?).await,
            Fault::Terminate(victim) => {
                let pod = self.choose(victim, hit).await?;
                self.note("pod deleted", &pod);
                self.end(vec![pod], &[], &[]).await
            }
            Fault::LoseVolume(victim) => {
                let pod = self.choose(victim, hit).await?;
                self.note("volume lost", &pod);
                self.end(vec![pod.clone()], &[pod], &NOW).await
            }
            Fault::KillAll { volumes } => {
                let pods = self.leader_and_others().await?;
                let lost: Vec<String> = pods.iter().take(usize::from(volumes)).cloned().collect();
                self.note("all pods deleted", &format!("and the volumes of {lost:?}"));
                self.end(pods, &lost, &NOW).await
            }
            Fault::KillManager => {
                self.note("operator killed", self.system);
                operator::kill(&self.store.kind, self.system).await?;
                operator::until_up(&self.store.kind, self.system).await
            }
            Fault::Halt(victim, time) => {
                let pod = self.choose(victim, hit).await?;
                self.halt("SIGSTOP", self.store.namespace, &pod, time).await
            }
            Fault::PauseManager(time) => {
                let pod = operator::pod(&self.store.kind, self.system).await?;
                self.halt("operator halted", self.system, &pod, time).await
            }
            Fault::Cut { victim, from, way, time } => self.cut(victim, from, way, time).await,
            Fault::Change { write_quorum, delay } => {
                self.note("settings changed", &fault.to_string());
                let (min, max) = (format_duration(delay.min), format_duration(delay.max));
                self.store.patch(json!({"writeQuorum": write_quorum, "delay": {"min": min, "max": max}})).await?;
                let mut settings = self.settings.lock().expect("nobody panics while holding it");
                *settings = Settings { write_quorum: WriteQuorum(write_quorum), delay, ..*settings };
                Ok(())
            }
            Fault::SwitchOver(number) => {
                let pods = self.leader_and_others().await?;
                let wanted = &pods[1 + number % (pods.len() - 1)];
                self.note("switchover", wanted);
                let annotation = format!("quorumkv.io/switchover-to={wanted}");
                let kvc = format!("kvc/{}", self.store.name);
                self.store.kubectl(&["annotate", "--overwrite", &kvc, &annotation]).await?;
                Ok(())
            }
        }
    }

    /// SIGKILL. The container is started again at once the first time, and then only after pauses that double, so
    /// that a pod in which that has happened goes itself.
    async fn kill(&self, pod: &str) -> anyhow::Result<()> {
        let restarts = self.store.pods().await?.get(pod).map_or(1, |pod| pod.restarts);
        if restarts > 0 {
            self.note("pod deleted at once", pod);
            return self.end(vec![pod.to_owned()], &[], &NOW).await;
        }
        // What the API server says of a pod comes a moment after what happens in it.
        let container = wait::until(&format!("a container in {pod}"), PATIENCE, || async {
            self.store.kind.container(self.store.namespace, pod).await
        })
        .await?;
        let before = self.process(pod).await;
        self.note("kill -9", pod);
        if self.store.kind.signal_container(&container, "SIGKILL").await.is_err() {
            self.journal.note(&format!("{pod} has ended already"));
            return Ok(());
        }
        self.replaced(pod, before).await
    }

    /// Lets another pod take the place of this one.
    pub(super) async fn renew(&self, pod: &str) -> anyhow::Result<()> {
        self.end(vec![pod.to_owned()], &[], &NOW).await
    }

    /// Deletes pods, and claims of volumes with them, and waits until other processes have taken their places.
    async fn end(&self, pods: Vec<String>, volumes: &[String], how: &[&str]) -> anyhow::Result<()> {
        let before = join_all(pods.iter().map(|pod| self.process(pod))).await;
        let names: Vec<&str> = pods.iter().map(String::as_str).collect();
        let mut claims: Vec<String> = volumes.iter().map(|pod| format!("data-{pod}")).collect();
        let ended = async {
            if !claims.is_empty() {
                // It goes when its pod has gone.
                claims.splice(0..0, ["delete", "persistentvolumeclaim", "--wait=false"].map(str::to_owned));
                let claims: Vec<&str> = claims.iter().map(String::as_str).collect();
                self.store.kubectl(&claims).await?;
            }
            let delete = ["delete", "pod", "--ignore-not-found", "--wait=false"];
            self.store.kubectl(&[&delete[..], how, &names[..]].concat()).await
        };
        ended.await?;
        try_join_all(pods.iter().zip(before).map(|(pod, before)| self.replaced(pod, before))).await?;
        Ok(())
    }

    /// The process in a pod; none if it cannot say.
    async fn process(&self, pod: &str) -> Option<ProcessId> {
        self.state(pod).await.ok().map(|state| state.process_id)
    }

    async fn replaced(&self, pod: &str, before: Option<ProcessId>) -> anyhow::Result<()> {
        wait::until(&format!("another process in {pod}"), PATIENCE, || async {
            let state = self.state(pod).await?;
            ensure!(Some(state.process_id) != before, "it is still {}", state.process_id);
            Ok(())
        })
        .await
    }

    /// SIGSTOP, and SIGCONT to the same container, if it is there then.
    async fn halt(&self, kind: &'static str, namespace: &str, pod: &str, time: Duration) -> anyhow::Result<()> {
        let Ok(container) = self.store.kind.container(namespace, pod).await else { return Ok(()) };
        self.note(kind, &format!("{pod} for {time:?}"));
        self.store.kind.signal_container(&container, "SIGSTOP").await.context("SIGSTOP")?;
        sleep(time).await;
        let woken = self.store.kind.signal_container(&container, "SIGCONT").await;
        // It may have been deleted meanwhile, and what is deleted is not woken.
        let same = self.store.kind.container(namespace, pod).await.is_ok_and(|now| now == container);
        if same { woken.context("SIGCONT") } else { Ok(()) }
    }

    async fn cut(&self, victim: Victim, from: Others, way: Way, time: Duration) -> anyhow::Result<()> {
        // Who is cut off loses nothing, so it may be hit by another fault as well.
        let victim = self.choose(victim, &Mutex::default()).await?;
        let addresses = self.addresses(self.store.namespace).await?;
        let Some(ours) = addresses.get(&victim) else { return Ok(()) };
        let others = addresses.iter().filter(|(pod, _)| self.ports.pods().any(|known| known == *pod));
        let mut others: Vec<&String> = others.filter(|(pod, _)| **pod != victim).map(|(_, address)| address).collect();
        if let Others::Nodes(count) = from {
            // Another choice each time the victim is another.
            let ordinal = self.ports.pods().position(|pod| *pod == victim).unwrap_or_default();
            let middle = ordinal % others.len().max(1);
            others.rotate_left(middle);
            others.truncate(count);
        }
        let operators = self.addresses(self.system).await?;
        match from {
            Others::Nodes(_) => {}
            Others::Manager => others = operators.values().collect(),
            Others::Everybody => others.extend(operators.values()),
        }
        let kind = if way == Way::Both { "partition" } else { "partition one way" };
        self.note(kind, &format!("{victim} from {from:?}, {way:?}, for {time:?}"));
        let cut = self.filter.cut(lost(ours, &others, way)).await?;
        sleep(time).await;
        self.filter.mend(cut).await
    }

    /// Addresses of the pods in a namespace, by name.
    async fn addresses(&self, namespace: &str) -> anyhow::Result<BTreeMap<String, String>> {
        let pods: Api<Pod> = Api::namespaced(self.store.kind.client.clone(), namespace);
        let pods = pods.list(&ListParams::default()).await.context("list pods")?;
        Ok(pods.into_iter().filter_map(|pod| Some((pod.metadata.name?, pod.status?.pod_ip?))).collect())
    }
}

/// How pods are deleted without time to end in good order.
const NOW: [&str; 2] = ["--grace-period=0", "--force"];

fn lost(ours: &str, others: &[&String], way: Way) -> Vec<Lost> {
    let (deaf, mute) = (way != Way::Mute, way != Way::Deaf);
    let mut lost = Vec::new();
    for other in others {
        lost.extend(deaf.then(|| ((*other).clone(), ours.to_owned())));
        lost.extend(mute.then(|| (ours.to_owned(), (*other).clone())));
    }
    lost
}

impl Arena for Striker<'_> {
    fn client(&self) -> &LabClient {
        &self.client
    }

    fn urls(&self) -> Vec<String> {
        self.ports.pods().filter_map(|pod| self.ports.client_url(pod).ok()).collect()
    }

    fn url_of(&self, node: &NodeId) -> anyhow::Result<String> {
        self.ports.client_url(&node.0)
    }

    fn target(&self) -> anyhow::Result<Target> {
        let urls = self.urls();
        let first = urls.first().context("a store has pods")?.clone();
        let ports = self.ports.clone();
        Ok(Target::new(first, urls).translated(move |advertised| ports.translate(advertised)))
    }

    /// Carries out a round. Afterwards every halted process goes on, no packet is lost, and other processes have
    /// taken the places of all that ended.
    async fn strike(&self, round: &[Planned]) -> anyhow::Result<()> {
        let hit = Mutex::new(HashSet::new());
        let faults = round.iter().map(|planned| async {
            sleep(planned.after).await;
            self.carry_out(planned.fault, &hit).await.with_context(|| planned.fault.to_string())
        });
        try_join_all(faults).await?;
        Ok(())
    }

    async fn whole(&self) -> anyhow::Result<NodeState> {
        let leader = wait::until("every copy counts", PATIENCE, || async {
            let states = join_all(self.ports.pods().map(|pod| self.state(pod))).await;
            let states: Vec<NodeState> = states.into_iter().collect::<anyhow::Result<_>>()?;
            leader_of_all(&states, self.settings()).cloned()
        })
        .await?;
        // What people and Services go by says the same.
        self.store.until_complete(PATIENCE).await?;
        Ok(leader)
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_names_the_directions_in_which_packets_are_lost() {
        let other = "10.0.0.2".to_owned();
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let (to_us, from_us) = (pair("10.0.0.2", "10.0.0.1"), pair("10.0.0.1", "10.0.0.2"));
        assert_eq!(lost("10.0.0.1", &[&other], Way::Deaf), std::slice::from_ref(&to_us));
        assert_eq!(lost("10.0.0.1", &[&other], Way::Mute), std::slice::from_ref(&from_us));
        assert_eq!(lost("10.0.0.1", &[&other], Way::Both), [to_us, from_us]);
    }
}

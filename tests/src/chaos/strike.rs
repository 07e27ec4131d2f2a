//! One round of faults, carried out.

use std::{
    collections::HashSet,
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures::future::{join_all, try_join_all};
use quorumkv_api::lab::{Role, StatusReply};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::schedule::{Fault, Planned, Victim};
use crate::{
    client::LabClient,
    processes::{LocalOperator, Manifest},
    wait,
};

/// How long a node may take to end after SIGTERM: it answers its writes under way.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// Strikes one store, and keeps a journal of it.
pub(super) struct Striker<'a> {
    operator: &'a LocalOperator,
    manager: Pid,
    /// Impatient: a halted node must not hold up the search for a victim.
    client: LabClient,
    began: Instant,
    journal: Mutex<Vec<String>>,
}

impl<'a> Striker<'a> {
    pub(super) fn new(operator: &'a LocalOperator, manager: Pid) -> anyhow::Result<Self> {
        let client = LabClient::new(Duration::from_millis(300))?;
        Ok(Self { operator, manager, client, began: Instant::now(), journal: Mutex::default() })
    }

    /// What was done so far, a line each.
    pub(super) fn journal(&self) -> String {
        self.journal.lock().expect("nobody panics while writing it").join("\n")
    }

    pub(super) fn note(&self, what: &str) {
        let line = format!("{:8.3} s  {what}", self.began.elapsed().as_secs_f64());
        self.journal.lock().expect("nobody panics while writing it").push(line);
    }

    /// Carries out a round. Afterwards every halted process goes on, and those that lose their copy have ended.
    /// Gives the manifest that is saved last.
    pub(super) async fn strike(&self, round: &[Planned], manifest: &Manifest) -> anyhow::Result<Manifest> {
        let hit = Mutex::new(HashSet::new());
        let faults = round.iter().map(|planned| async {
            sleep(planned.after).await;
            self.carry_out(planned.fault, manifest, &hit).await
        });
        let saved = try_join_all(faults).await?;
        Ok(saved.into_iter().flatten().next().unwrap_or_else(|| manifest.clone()))
    }

    async fn carry_out(
        &self,
        fault: Fault,
        manifest: &Manifest,
        hit: &Mutex<HashSet<String>>,
    ) -> anyhow::Result<Option<Manifest>> {
        match fault {
            Fault::Kill(victim) => self.end(victim, Signal::KILL, fault, hit).await?,
            Fault::Terminate(victim) => self.end(victim, Signal::TERM, fault, hit).await?,
            Fault::Halt(victim, time) => {
                let url = self.choose(victim, hit).await?;
                self.note(&format!("{fault}: {url}"));
                halt(self.operator.node_pid(&url)?, time).await.with_context(|| format!("{fault}: {url}"))?;
            }
            Fault::PauseManager(time) => {
                self.note(&fault.to_string());
                halt(self.manager, time).await.context("the manager")?;
            }
            Fault::Change { write_quorum, delay } => {
                self.note(&fault.to_string());
                let changed = Manifest { write_quorum, delay, ..manifest.clone() };
                self.operator.save(&changed.to_string())?;
                return Ok(Some(changed));
            }
        }
        Ok(None)
    }

    /// Sends a signal that ends a node, and waits until it has.
    async fn end(
        &self,
        victim: Victim,
        signal: Signal,
        fault: Fault,
        hit: &Mutex<HashSet<String>>,
    ) -> anyhow::Result<()> {
        let url = self.choose(victim, hit).await?;
        self.note(&format!("{fault}: {url}"));
        let pid = self.operator.node_pid(&url)?;
        kill_process(pid, signal).with_context(|| format!("{fault}: {url}"))?;
        wait::until(&format!("the end of {url} after {signal:?}"), END_PATIENCE, || async {
            ensure!(has_ended(pid), "process {} runs", pid.as_raw_nonzero());
            Ok(())
        })
        .await
    }

    /// Finds a node that this round has not hit yet, so that each of its losses is another copy's.
    async fn choose(&self, victim: Victim, hit: &Mutex<HashSet<String>>) -> anyhow::Result<String> {
        let urls = self.operator.urls();
        let statuses = join_all(urls.iter().map(|url| self.client.status(url))).await;
        let leader = leader_among(&urls, &statuses);
        let mut hit = hit.lock().expect("nobody panics while choosing");
        let free = |url: &&String| !hit.contains(*url);
        let followers: Vec<&String> = urls.iter().filter(|url| Some(*url) != leader).filter(free).collect();
        let chosen = match victim {
            Victim::Leader => leader.filter(free),
            Victim::Follower(_) => None,
        };
        let number = if let Victim::Follower(number) = victim { number } else { 0 };
        let other = || followers.get(number % followers.len().max(1)).copied();
        let chosen = chosen.or_else(other).context("a round hits fewer nodes than there are")?;
        hit.insert(chosen.clone());
        Ok(chosen.clone())
    }
}

/// Whoever leads the highest epoch, active or not yet.
fn leader_among<'a>(urls: &'a [String], statuses: &[anyhow::Result<StatusReply>]) -> Option<&'a String> {
    let answers = urls.iter().zip(statuses).filter_map(|(url, status)| Some((url, status.as_ref().ok()?)));
    let leaders = answers.filter(|(_, status)| status.role == Role::Leader);
    leaders.max_by_key(|(_, status)| status.epoch).map(|(url, _)| url)
}

async fn halt(pid: Pid, time: Duration) -> anyhow::Result<()> {
    kill_process(pid, Signal::STOP)?;
    sleep(time).await;
    kill_process(pid, Signal::CONT)?;
    Ok(())
}

/// Whether a process is gone, or only waits for a paused parent to hear of it.
fn has_ended(pid: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else { return true };
    // pid (name) state ...; the name may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

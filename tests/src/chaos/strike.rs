//! One round of faults, carried out.

use std::{collections::HashSet, fs, path::Path, sync::Mutex, time::Duration};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use quorumkv_api::{NodeId, Settings, WriteQuorum, peer::NodeState};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use tokio::time::sleep;

use super::{
    copies::Copies,
    faults::{Fault, Others, Victim, Way},
    journal::Journal,
    network::{Network, Place},
    run::{self, Arena},
    schedule::Planned,
    victims::Victims,
};
use crate::{
    client::LabClient,
    load::Target,
    processes::{LocalOperator, Manifest},
    wait,
};

/// How long a node may take to end after SIGTERM (it answers its writes under way), or to be there again.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longer than the operator takes to look at its manifest again.
const MANIFEST_IS_READ: Duration = Duration::from_millis(500);

/// Strikes one store, and keeps a journal of it.
pub(super) struct Striker<'a> {
    operator: &'a LocalOperator,
    network: Network,
    /// What was saved last.
    manifest: tokio::sync::Mutex<Manifest>,
    victims: Victims,
    journal: Journal,
}

impl<'a> Striker<'a> {
    pub(super) fn new(operator: &'a LocalOperator, manifest: Manifest) -> anyhow::Result<Self> {
        let (network, journal, manifest) = (Network::default(), Journal::default(), tokio::sync::Mutex::new(manifest));
        Ok(Self { operator, network, manifest, victims: Victims::new()?, journal })
    }

    fn note(&self, what: &str) {
        self.journal.note(what);
    }
}

impl Arena for Striker<'_> {
    fn client(&self) -> &LabClient {
        self.operator.client()
    }

    fn urls(&self) -> Vec<String> {
        self.operator.urls()
    }

    fn url_of(&self, node: &NodeId) -> anyhow::Result<String> {
        Ok(format!("http://{}", node.0))
    }

    fn target(&self) -> anyhow::Result<Target> {
        Ok(self.operator.target())
    }

    async fn whole(&self) -> anyhow::Result<NodeState> {
        let settings = settings(&*self.manifest.lock().await);
        Copies::of(self.operator).all_count(settings, run::PATIENCE).await
    }

    fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Carries out a round. Afterwards every halted process goes on, no packet is lost, and whatever was killed
    /// has ended.
    async fn strike(&self, round: &[Planned]) -> anyhow::Result<()> {
        let hit = Mutex::new(HashSet::new());
        let faults = round.iter().map(|planned| async {
            sleep(planned.after).await;
            let fault = planned.fault;
            self.journal.count(fault.kind());
            self.carry_out(fault, &hit).await.with_context(|| fault.to_string())
        });
        try_join_all(faults).await?;
        Ok(())
    }
}

impl Striker<'_> {
    async fn carry_out(&self, fault: Fault, hit: &Mutex<HashSet<String>>) -> anyhow::Result<()> {
        match fault {
            Fault::Kill(victim) => self.end(&self.choose(victim, hit).await?, Signal::KILL, fault).await,
            Fault::Terminate(victim) => self.end(&self.choose(victim, hit).await?, Signal::TERM, fault).await,
            Fault::LoseVolume(victim) => {
                let url = self.choose(victim, hit).await?;
                self.process_at(&url).await?;
                self.kill_halted(vec![url], 1, fault).await
            }
            Fault::KillAll { volumes } => {
                let (leader, others) = self.victims.leader_and_others(self.urls()).await;
                let urls = leader.into_iter().chain(others).collect();
                self.kill_halted(urls, usize::from(volumes), fault).await
            }
            Fault::KillManager => {
                self.note(&fault.to_string());
                self.operator.kill_and_start().await
            }
            Fault::Halt(victim, time) => {
                let url = self.choose(victim, hit).await?;
                self.note(&format!("{fault}: {url}"));
                halt(self.process_at(&url).await?, time).await
            }
            Fault::PauseManager(time) => {
                self.note(&fault.to_string());
                halt(self.operator.pid()?, time).await
            }
            Fault::Cut { victim, from, way, time } => self.cut(victim, from, way, time, fault).await,
            Fault::Change { write_quorum, delay } => {
                self.note(&fault.to_string());
                let mut manifest = self.manifest.lock().await;
                *manifest = Manifest { write_quorum, delay, ..manifest.clone() };
                self.operator.save(&manifest.to_string())
            }
            Fault::SwitchOver(number) => self.switch_over(number, fault).await,
        }
    }

    /// Sends a signal that ends a node, and waits until it has.
    async fn end(&self, url: &str, signal: Signal, fault: Fault) -> anyhow::Result<()> {
        self.note(&format!("{fault}: {url}"));
        let pid = self.process_at(url).await?;
        send(pid, signal)?;
        ended(pid).await.with_context(|| url.to_owned())
    }

    /// Kills nodes at one moment; the first ones come back with nothing on disk. They are halted before, so that
    /// none writes while its folder is emptied, and emptied before, so that none comes back earlier.
    async fn kill_halted(&self, urls: Vec<String>, volumes: usize, fault: Fault) -> anyhow::Result<()> {
        // One that is down just now would come back from its disk in the middle of this.
        let running = urls.into_iter().filter_map(|url| Some((self.operator.node_pid(&url).ok()?, url)));
        let running: Vec<(Pid, String)> = running.collect();
        for (pid, _) in &running {
            send(*pid, Signal::STOP)?;
        }
        for (pid, url) in running.iter().take(volumes) {
            wait::until("a process stands still", PATIENCE, || async { stands_still(*pid) }).await?;
            self.note(&format!("{fault}: the volume of {url}"));
            empty(&self.operator.node_folder(url)?)?;
        }
        self.note(&format!("{fault}: {} nodes", running.len()));
        for (pid, _) in &running {
            send(*pid, Signal::KILL)?;
        }
        for (pid, url) in running {
            ended(pid).await.with_context(|| url.clone())?;
        }
        Ok(())
    }

    async fn cut(&self, victim: Victim, from: Others, way: Way, time: Duration, fault: Fault) -> anyhow::Result<()> {
        // Who is cut off loses nothing, so it may be hit by another fault as well.
        let url = self.choose(victim, &Mutex::default()).await?;
        let urls = self.operator.urls();
        let places = self.operator.peer_urls();
        let places: Vec<Place> = places.iter().map(|url| Place::of(url)).collect::<anyhow::Result<_>>()?;
        let index = urls.iter().position(|known| *known == url).context("a node of the store")?;
        // Another choice of others each time the victim is another.
        let others: Vec<Place> = (1..places.len()).map(|n| places[(index + n) % places.len()].clone()).collect();
        self.note(&format!("{fault}: {url}"));
        let cut = self.network.cut(&places[index], &others, from, way)?;
        sleep(time).await;
        self.network.mend(cut)
    }

    /// Saves the wish that another node leads. It may be refused: much else goes on.
    async fn switch_over(&self, number: usize, fault: Fault) -> anyhow::Result<()> {
        let (_, others) = self.victims.leader_and_others(self.urls()).await;
        let url = &others[number % others.len()];
        self.note(&format!("{fault}: to {url}"));
        let wanted = Some(url.trim_start_matches("http://").to_owned());
        let mut manifest = self.manifest.lock().await;
        if manifest.switchover_to == wanted {
            // The same wish again is none.
            manifest.switchover_to = None;
            self.operator.save(&manifest.to_string())?;
            sleep(MANIFEST_IS_READ).await;
        }
        manifest.switchover_to = wanted;
        self.operator.save(&manifest.to_string())
    }

    /// A node that this round has not hit yet.
    async fn choose(&self, victim: Victim, hit: &Mutex<HashSet<String>>) -> anyhow::Result<String> {
        self.victims.choose(self.urls(), victim, hit).await
    }

    /// The process of a node, awaited if it is just being started again.
    async fn process_at(&self, url: &str) -> anyhow::Result<Pid> {
        wait::until("the process of a node", PATIENCE, || async { self.operator.node_pid(url) }).await
    }
}

/// Sends a signal; a process that another fault has ended needs none.
fn send(pid: Pid, signal: Signal) -> anyhow::Result<()> {
    match kill_process(pid, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{signal:?} to process {}", pid.as_raw_nonzero())),
    }
}

async fn halt(pid: Pid, time: Duration) -> anyhow::Result<()> {
    send(pid, Signal::STOP)?;
    sleep(time).await;
    send(pid, Signal::CONT)
}

async fn ended(pid: Pid) -> anyhow::Result<()> {
    wait::until("the end of a process", PATIENCE, || async {
        let ended =
            state(Path::new(&format!("/proc/{}", pid.as_raw_nonzero()))).is_none_or(|state| "ZX".contains(state));
        ensure!(ended, "process {} runs", pid.as_raw_nonzero());
        Ok(())
    })
    .await
}

/// A signal reaches each thread when it next comes back from the kernel.
fn stands_still(pid: Pid) -> anyhow::Result<()> {
    let threads = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    for thread in threads {
        let still = state(&thread.path()).is_none_or(|state| "TtZX".contains(state));
        ensure!(still, "{} runs", thread.path().display());
    }
    Ok(())
}

/// What the system says of a process or thread, in one letter; nothing if it is gone.
fn state(folder: &Path) -> Option<char> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    // pid (name) state ...; the name may hold anything.
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Removes everything in a folder, and leaves the folder.
fn empty(folder: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        fs::remove_file(entry?.path()).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

fn settings(manifest: &Manifest) -> Settings {
    let Manifest { write_quorum, delay, write_timeout, .. } = manifest;
    Settings { write_quorum: WriteQuorum(*write_quorum), delay: *delay, write_timeout: *write_timeout }
}

//! `quorumkv-operator local` over a manifest of its own.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use futures::future::join_all;
use quorumkv_api::lab::{Role, StatusReply};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{
    manifest::{Manifest, Storage},
    ports::{PortBlock, listeners},
    programs,
    running::{Launch, Process, print_on_failure},
};
use crate::{client::LabClient, load::Target, wait};

/// How long the store may take to come up, or to come back, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long the nodes of an operator that was killed may take to follow it.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Which addresses the nodes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosts {
    /// All that of the operator and of clients, 127.0.0.1.
    Shared,
    /// Each its own, so that packets show from whom they come and for whom they are.
    Own,
}

/// The operator's local mode with the nodes it runs.
#[derive(Debug)]
pub struct LocalOperator {
    process: Mutex<Process>,
    ports: PortBlock,
    /// How many there shall be, by the manifest as it was last saved.
    nodes: AtomicUsize,
    hosts: Hosts,
    manifest: PathBuf,
    client: LabClient,
    /// Holds manifest, log and data; goes last.
    folder: TempDir,
}

impl LocalOperator {
    /// Starts it and waits until a leader is active and every follower counts.
    ///
    /// # Errors
    /// When the store does not come up; the message holds the end of the output.
    pub async fn start(manifest: &Manifest) -> anyhow::Result<Self> {
        Self::start_on(manifest, Hosts::Shared).await
    }

    /// The same with these addresses.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(manifest: &Manifest, hosts: Hosts) -> anyhow::Result<Self> {
        let operator = Self::prepare_on(manifest, hosts)?;
        operator.lock().start()?;
        operator.whole(PATIENCE).await?;
        Ok(operator)
    }

    /// The operator, not yet started.
    ///
    /// # Errors
    /// When there are no ports or no programs.
    pub fn prepare(manifest: &Manifest) -> anyhow::Result<Self> {
        Self::prepare_on(manifest, Hosts::Shared)
    }

    fn prepare_on(manifest: &Manifest, hosts: Hosts) -> anyhow::Result<Self> {
        let ports = PortBlock::take()?;
        let folder = tempfile::tempdir().context("a folder for the manifest")?;
        let file = folder.path().join("kvcluster.yaml");
        fs::write(&file, manifest.to_string()).context("the manifest")?;
        let nodes = manifest.followers + 1;
        let text = |value: &dyn fmt::Display| value.to_string();
        let mut arguments = vec![
            "local".to_owned(),
            "-f".to_owned(),
            text(&file.display()),
            "--port".to_owned(),
            text(&ports.port(0)),
            "--peer-port".to_owned(),
            text(&ports.port(10)),
            "--node-binary".to_owned(),
            text(&programs::node()?.display()),
            "--page".to_owned(),
            text(&ports.port(20)),
        ];
        if hosts == Hosts::Own {
            let addresses: Vec<String> = (0..nodes).map(|index| host(hosts, index).to_string()).collect();
            arguments.extend(["--hosts".to_owned(), addresses.join(",")]);
        }
        if manifest.storage == Storage::Persistent {
            arguments.extend(["--data-dir".to_owned(), text(&data_dir(&folder).display())]);
        }
        let launch =
            Launch { name: "operator".to_owned(), program: programs::operator()?, arguments, environment: Vec::new() };
        let process = Mutex::new(Process::new(launch, folder.path()));
        let client = LabClient::new(Duration::from_secs(10))?;
        Ok(Self { process, ports, nodes: AtomicUsize::new(nodes), hosts, manifest: file, client, folder })
    }

    fn lock(&self) -> MutexGuard<'_, Process> {
        self.process.lock().expect("nobody panics while holding the process")
    }

    /// The operator's own process.
    pub fn process(&mut self) -> &mut Process {
        self.process.get_mut().expect("nobody panics while holding the process")
    }

    /// Its process id; another one after it was killed and started again.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pid(&self) -> anyhow::Result<Pid> {
        self.lock().pid()
    }

    /// Kills the operator, waits until its nodes have followed it, and starts it again.
    ///
    /// # Errors
    /// When it does not run, or nodes stay behind.
    pub async fn kill_and_start(&self) -> anyhow::Result<()> {
        self.lock().kill()?;
        wait::until("nodes end with their operator", END_PATIENCE, || async {
            let left = self.listeners()?;
            ensure!(left.is_empty(), "left behind: {left:?}");
            Ok(())
        })
        .await?;
        self.lock().start()
    }

    /// Where a store on disk keeps the record and its nodes' data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        data_dir(&self.folder)
    }

    /// Where the node at this client URL keeps its data.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node_folder(&self, url: &str) -> anyhow::Result<PathBuf> {
        let index = self.urls().iter().position(|known| known == url).with_context(|| format!("no node at {url}"))?;
        Ok(self.data_dir().join(format!("node-{index}")))
    }

    /// The last lines that it and its nodes printed.
    #[must_use]
    pub fn output_end(&self, lines: usize) -> String {
        self.lock().output_end(lines)
    }

    /// Client URLs of all nodes.
    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.first_urls(self.nodes.load(Ordering::Relaxed))
    }

    /// Client URLs of so many nodes, whether they are there or not.
    #[must_use]
    pub fn first_urls(&self, nodes: usize) -> Vec<String> {
        (0..nodes).map(|index| format!("http://{}:{}", host(self.hosts, index), self.ports.port(index))).collect()
    }

    /// Saves the manifest with another number of followers, whatever else it changes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn scale(&self, manifest: &Manifest) -> anyhow::Result<()> {
        self.nodes.store(manifest.followers + 1, Ordering::Relaxed);
        self.save(&manifest.to_string())
    }

    /// Peer URLs of all nodes, in the order of [`Self::urls`].
    #[must_use]
    pub fn peer_urls(&self) -> Vec<String> {
        (0..self.nodes.load(Ordering::Relaxed))
            .map(|index| format!("http://{}:{}", host(self.hosts, index), self.ports.port(10 + index)))
            .collect()
    }

    /// Where its page is.
    #[must_use]
    pub fn page_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.port(20))
    }

    /// Speaks to client ports.
    #[must_use]
    pub fn client(&self) -> &LabClient {
        &self.client
    }

    /// Where a load writes.
    #[must_use]
    pub fn target(&self) -> Target {
        let urls = self.urls();
        Target::new(urls[0].clone(), urls)
    }

    /// First client port of the nodes.
    #[must_use]
    pub fn first_port(&self) -> u16 {
        self.ports.port(0)
    }

    /// Saves another manifest, as an editor does: a new file that takes the old one's place.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save(&self, text: &str) -> anyhow::Result<()> {
        let new = self.manifest.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &self.manifest)).context("the manifest")
    }

    /// Everything that listens on the store's ports, by port.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn listeners(&self) -> anyhow::Result<Vec<(u16, i32)>> {
        // The ports of the nodes; after them comes the page.
        listeners(self.ports.port(0)..self.ports.port(20))
    }

    /// Process id of the node at this client URL.
    ///
    /// # Errors
    /// When no process listens there.
    pub fn node_pid(&self, url: &str) -> anyhow::Result<Pid> {
        let port: u16 = url.rsplit(':').next().and_then(|port| port.parse().ok()).context("a URL with a port")?;
        let found = self.listeners()?.into_iter().find(|(listening, _)| *listening == port);
        let (_, pid) = found.with_context(|| format!("nobody listens at {url}"))?;
        Pid::from_raw(pid).context("a process id is above zero")
    }

    /// Sends a signal to the node at this client URL.
    ///
    /// # Errors
    /// When no process listens there.
    pub fn signal_node(&self, url: &str, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.node_pid(url)?, signal).with_context(|| format!("{signal:?} to the node at {url}"))
    }

    /// The active leader of the highest epoch, with its URL.
    ///
    /// # Errors
    /// When no node says that it leads.
    pub async fn leader(&self) -> anyhow::Result<(String, StatusReply)> {
        let urls = self.urls();
        let answers = join_all(urls.iter().map(|url| async move { (url, self.client.status(url).await) })).await;
        let mut seen = String::new();
        let mut leaders = Vec::new();
        for (url, answer) in answers {
            match answer {
                Ok(status) if status.role == Role::Leader && status.ready => leaders.push((url.clone(), status)),
                Ok(status) => {
                    seen += &format!("{url} {:?} epoch {} ready {}; ", status.role, status.epoch, status.ready)
                }
                Err(error) => seen += &format!("{url} {error:#}; "),
            }
        }
        match leaders.into_iter().max_by_key(|(_, status)| status.epoch) {
            Some(leader) => Ok(leader),
            None => bail!("no leader: {seen}"),
        }
    }

    /// Waits until the leader's status satisfies `condition`.
    ///
    /// # Errors
    /// When it does not in time; the message holds the end of the output.
    pub async fn leader_status(
        &self,
        what: &str,
        within: Duration,
        condition: impl Fn(&str, &StatusReply) -> bool,
    ) -> anyhow::Result<(String, StatusReply)> {
        let waited = wait::until(what, within, || async {
            let (url, status) = self.leader().await?;
            ensure!(condition(&url, &status), "{url}: {status:?}");
            Ok((url, status))
        });
        waited.await.with_context(|| self.output_end(30))
    }

    /// Waits until a leader is active and the operator reports every follower ready.
    ///
    /// # Errors
    /// As [`Self::leader_status`].
    pub async fn whole(&self, within: Duration) -> anyhow::Result<(String, StatusReply)> {
        let followers = self.nodes.load(Ordering::Relaxed) - 1;
        let all = format!("followers {followers}/{followers}");
        self.says("every follower counts", within, |line| line.contains("ready: leader") && line.contains(&all))
            .await?;
        self.leader_status("every follower has caught up", within, |_, status| {
            status.followers.iter().filter(|follower| follower.connected && follower.lag == 0).count() == followers
        })
        .await
    }

    /// Waits until the last status line the operator printed satisfies `condition`.
    ///
    /// # Errors
    /// When it does not in time; the message holds the end of the output.
    pub async fn says(&self, what: &str, within: Duration, condition: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let waited = wait::until(what, within, || async {
            let output = self.lock().output();
            let last = output.lines().rev().find(|line| line.contains("ready: leader") || line.contains("NOT READY"));
            let last = last.context("no status line")?.to_owned();
            ensure!(condition(&last), "{last}");
            Ok(last)
        });
        waited.await.with_context(|| self.output_end(30))
    }

    /// Waits until the operator has printed a line that contains `text`.
    ///
    /// # Errors
    /// When it does not in time; the message holds the end of the output.
    pub async fn printed(&self, text: &str, within: Duration) -> anyhow::Result<String> {
        let what = format!("the operator prints {text:?}");
        let waited = wait::until(&what, within, || async {
            let output = self.lock().output();
            output.lines().find(|line| line.contains(text)).map(str::to_owned).context("not yet")
        });
        waited.await.with_context(|| self.output_end(30))
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn interrupt(&mut self) -> anyhow::Result<std::process::ExitStatus> {
        self.process().signal(Signal::INT)?;
        self.process().ended(Duration::from_secs(20)).await
    }
}

impl Drop for LocalOperator {
    fn drop(&mut self) {
        // Whoever panicked while holding it holds it no more.
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        print_on_failure(std::iter::once(&*process));
        if !process.is_running() {
            return;
        }
        let Ok(own) = process.pid() else { return };
        // Halted first, so that it starts nothing while its children are being ended.
        process.signal(Signal::STOP).ok();
        for child in children_of(own) {
            kill_process(child, Signal::KILL).ok();
        }
        process.kill().ok();
    }
}

/// Address of a node. Clients and the operator have 127.0.0.1.
fn host(hosts: Hosts, index: usize) -> Ipv4Addr {
    match hosts {
        Hosts::Shared => Ipv4Addr::LOCALHOST,
        Hosts::Own => Ipv4Addr::new(127, 0, 1, u8::try_from(index + 1).expect("a store has ten nodes at most")),
    }
}

fn data_dir(folder: &TempDir) -> PathBuf {
    folder.path().join("data")
}

/// The processes that `parent` started and that have not been reaped.
fn children_of(parent: Pid) -> Vec<Pid> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // pid (name) state parent ...; the name may hold anything, so what follows is counted from its end.
            let of: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            (of == parent.as_raw_nonzero().get()).then_some(Pid::from_raw(pid)?)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep is everywhere");
        let found = children_of(rustix::process::getpid());
        child.kill().expect("it runs");
        child.wait().expect("it was killed");
        assert!(
            found.contains(&Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("above zero")),
            "{found:?}"
        );
    }
}

//! Child processes: started, restarted with a growing pause when they end, and stopped with the parent.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quorumkv_api::peer::PeerAddress;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::{Notify, mpsc},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::places::Place;
use crate::decide::Presence;

/// How long a child may take to answer its last writes after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(8);
/// First pause before a restart; doubled each time.
const RESTART_PAUSE: Duration = Duration::from_millis(250);
/// Longest pause before a restart.
const RESTART_PAUSE_LIMIT: Duration = Duration::from_secs(5);
/// A child that ran this long is restarted with the first pause again.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// How the nodes of a local store are started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// The node's program.
    pub(super) binary: PathBuf,
    /// What all nodes present to each other.
    pub(super) token: String,
    /// Filter of their logs.
    pub(super) log_level: String,
}

/// Variables that would give a child another role or another store than the manifest says.
const FOREIGN_VARIABLES: [&str; 11] = [
    "FOLLOWERS",
    "FOLLOWER_PEERS",
    "WRITE_QUORUM",
    "MIN_DELAY",
    "MAX_DELAY",
    "WRITE_TIMEOUT",
    "PEER_TOKEN_FILE",
    "PEER_TLS_DIR",
    "PEER_TLS_NAME",
    "DATA_DIR",
    "LOG_FORMAT",
];

/// A node's process, kept running.
#[derive(Debug)]
pub(super) struct Process {
    /// Where it serves.
    pub(super) address: PeerAddress,
    control: Control,
    /// Ends this one alone.
    stop: CancellationToken,
    keeper: JoinHandle<()>,
}

/// What the keepers share.
#[derive(Debug, Clone)]
pub(super) struct Keeping {
    /// Ends all of them.
    pub(super) stop: CancellationToken,
    /// Rung when a process starts or ends.
    pub(super) changed: Arc<Notify>,
    /// Lines to print.
    pub(super) lines: mpsc::Sender<String>,
}

/// What others know of a process and may do to it.
#[derive(Debug, Clone)]
pub(super) struct Control {
    running: Arc<AtomicBool>,
    halted: Arc<AtomicBool>,
    /// To the keeper, which knows whether the process is still the one that was meant.
    signals: mpsc::Sender<Signal>,
}

impl Control {
    /// Whether the process is there.
    pub(super) fn presence(&self) -> Presence {
        if self.running.load(Ordering::Acquire) { Presence::Running } else { Presence::NotRunning }
    }

    /// Whether it was halted through this, and not continued.
    pub(super) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire)
    }

    /// Sends it a signal; false if it does not run.
    pub(super) fn send(&self, signal: Signal) -> bool {
        self.running.load(Ordering::Acquire) && self.signals.try_send(signal).is_ok()
    }
}

impl Process {
    /// Starts a node and keeps it running until `keeping.stop`, or [`Self::stop`].
    ///
    /// Its data is in `folder`, or else in its memory.
    pub(super) fn start(place: Place, folder: Option<PathBuf>, launch: Launch, keeping: Keeping) -> Self {
        let (signals, wanted) = mpsc::channel(8);
        let control = Control { running: Arc::default(), halted: Arc::default(), signals };
        let address = place.address.clone();
        let stop = keeping.stop.child_token();
        let keeping = Keeping { stop: stop.clone(), ..keeping };
        let keeper = tokio::spawn(keep(place, folder, launch, keeping, control.clone(), wanted));
        Self { address, control, stop, keeper }
    }

    /// Lets it end; the others go on.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Whether its process is there.
    pub(super) fn presence(&self) -> Presence {
        self.control.presence()
    }

    /// For whoever wants to do something to its process.
    pub(super) fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until its process is gone, after `stop`.
    pub(super) async fn stopped(self) {
        if let Err(error) = self.keeper.await {
            tracing::warn!(node = %self.address.node, %error, "a keeper failed");
        }
    }
}

async fn keep(
    place: Place,
    folder: Option<PathBuf>,
    launch: Launch,
    keeping: Keeping,
    Control { running, halted, .. }: Control,
    mut signals: mpsc::Receiver<Signal>,
) {
    let name = place.address.node.0.clone();
    let mut pause = RESTART_PAUSE;
    loop {
        let started = Instant::now();
        let ending = match command(&place, folder.as_deref(), &launch).spawn() {
            Ok(mut child) => {
                forward(&name, child.stdout.take());
                forward(&name, child.stderr.take());
                running.store(true, Ordering::Release);
                keeping.changed.notify_one();
                let ending = loop {
                    tokio::select! {
                        () = keeping.stop.cancelled() => {
                            stop(&name, &mut child).await;
                            return;
                        }
                        Some(wanted) = signals.recv() => {
                            halted.store(wanted == Signal::STOP, Ordering::Release);
                            signal(&name, &child, wanted);
                        }
                        status = child.wait() => {
                            break status.map_or_else(|error| error.to_string(), |status| status.to_string());
                        }
                    }
                };
                running.store(false, Ordering::Release);
                halted.store(false, Ordering::Release);
                // What came too late was not meant for the next process.
                while signals.try_recv().is_ok() {}
                keeping.changed.notify_one();
                ending
            }
            Err(error) => format!("{} cannot be started: {error}", launch.binary.display()),
        };
        if started.elapsed() > STEADY_AFTER {
            pause = RESTART_PAUSE;
        }
        // A full queue of lines means that nobody reads them.
        keeping.lines.try_send(format!("{name} ended ({ending}); starting it again in {pause:?}")).ok();
        tokio::select! {
            () = keeping.stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART_PAUSE_LIMIT);
    }
}

fn command(place: &Place, folder: Option<&Path>, launch: &Launch) -> Command {
    let Place { address, host, port, peer_port } = place;
    let mut command = Command::new(&launch.binary);
    for variable in FOREIGN_VARIABLES {
        command.env_remove(variable);
    }
    command
        .env("NODE_TYPE", "follower")
        .env("BIND_ADDRESS", host.to_string())
        .env("SOURCE_ADDRESS", host.to_string())
        .env("PORT", port.to_string())
        .env("PEER_PORT", peer_port.to_string())
        .env("METRICS_PORT", "0")
        .env("NODE_ID", &address.node.0)
        .env("ADVERTISE_URL", &address.client_url)
        .env("PEER_TOKEN", &launch.token)
        // Nobody else would end a node whose operator was killed, and it would keep its ports.
        .env("PARENT_PID", std::process::id().to_string())
        .env("RUST_LOG", &launch.log_level)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C reaches the parent alone, which then stops the children in its own order.
        .process_group(0)
        .kill_on_drop(true);
    match folder {
        Some(folder) => command.env("STORAGE", "persistent").env("DATA_DIR", folder),
        None => command.env("STORAGE", "memory"),
    };
    command
}

async fn stop(name: &str, child: &mut Child) {
    signal(name, child, Signal::TERM);
    // One that is halted hears of it only then.
    signal(name, child, Signal::CONT);
    match timeout(STOP_PATIENCE, child.wait()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(node = name, %error, "its end could not be awaited"),
        Err(_) => {
            tracing::warn!(node = name, "did not stop in time and is killed");
            if let Err(error) = child.kill().await {
                tracing::warn!(node = name, %error, "could not be killed");
            }
        }
    }
}

fn signal(name: &str, child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        tracing::debug!(node = name, %error, "already gone");
    }
}

/// Passes a child's output on to this process's stderr, line by line, under the child's name.
fn forward(name: &str, output: Option<impl AsyncRead + Unpin + Send + 'static>) {
    let Some(output) = output else { return };
    let name = name.to_owned();
    tokio::spawn(async move {
        let mut lines = BufReader::new(output).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            super::complain(&format!("[{name}] {line}"));
        }
    });
}

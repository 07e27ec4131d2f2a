//! The child processes of a local store: as many as there are nodes on record, whatever that is at the moment.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
};

use quorumkv_api::NodeId;
use tokio::task::JoinHandle;

use super::{
    LocalArgs, LocalError, data_dir,
    places::{self, Place},
    process::{Control, Keeping, Launch, Process},
};
use crate::{decide::Presence, manage::KnownNode, validate::Store};

/// What may be done to each process.
pub(super) type Controls = Arc<Mutex<HashMap<NodeId, Control>>>;

/// The processes, by ordinal.
pub(super) struct Fleet<'a> {
    args: &'a LocalArgs,
    launch: Launch,
    keeping: Keeping,
    /// Directory of the data, if it is kept.
    root: Option<PathBuf>,
    processes: Mutex<Vec<Process>>,
    /// Processes that are told to end, until they have.
    ending: Mutex<Vec<JoinHandle<()>>>,
    controls: Controls,
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().expect("nobody panics while holding the processes")
}

impl<'a> Fleet<'a> {
    /// Starts a process in each of these places.
    pub(super) fn start(
        args: &'a LocalArgs,
        launch: Launch,
        keeping: Keeping,
        root: Option<PathBuf>,
        places: Vec<Place>,
    ) -> Result<Self, LocalError> {
        let (processes, ending) = (Mutex::default(), Mutex::default());
        let fleet = Self { args, launch, keeping, root, processes, ending, controls: Controls::default() };
        for (ordinal, place) in places.into_iter().enumerate() {
            fleet.add(ordinal, place)?;
        }
        Ok(fleet)
    }

    /// For whoever wants to do something to a process.
    pub(super) fn controls(&self) -> Controls {
        Arc::clone(&self.controls)
    }

    /// Makes the processes those of these nodes: starts what is missing, and lets end what is beyond. One whose port is
    /// taken, or whose folder cannot be made, is absent until the next time.
    pub(super) fn follow(&self, store: &Store) -> Result<(), LocalError> {
        loop {
            let mut processes = lock(&self.processes);
            let ordinal = processes.len();
            if ordinal > store.nodes.len() {
                let process = processes.pop().expect("there are more than none");
                drop(processes);
                lock(&self.controls).remove(&process.address.node);
                process.stop();
                lock(&self.ending).push(tokio::spawn(process.stopped()));
                continue;
            }
            drop(processes);
            let Some(node) = store.nodes.get(ordinal) else { return Ok(()) };
            self.add(ordinal, places::place(self.args, ordinal, node)?)?;
        }
    }

    fn add(&self, ordinal: usize, place: Place) -> Result<(), LocalError> {
        let folder = self.root.as_ref().map(|root| {
            data_dir::make_node(root, ordinal)
                .map_err(|error| LocalError::DataDir { directory: root.clone(), reason: error.to_string() })
        });
        let process = Process::start(place, folder.transpose()?, self.launch.clone(), self.keeping.clone());
        lock(&self.controls).insert(process.address.node.clone(), process.control());
        lock(&self.processes).push(process);
        Ok(())
    }

    /// Whether every process that was told to end has.
    pub(super) fn is_settled(&self) -> bool {
        let mut ending = lock(&self.ending);
        ending.retain(|task| !task.is_finished());
        ending.is_empty()
    }

    /// The nodes, as far as that can be told without asking them.
    pub(super) fn known(&self, store: &Store) -> Vec<KnownNode> {
        let processes = lock(&self.processes);
        let known = |(ordinal, node): (usize, &NodeId)| match processes.get(ordinal) {
            Some(process) => {
                let (address, presence) = (process.address.clone(), process.presence());
                KnownNode { address, presence, outdated: false, report: None }
            }
            None => KnownNode {
                address: places::address(self.args, ordinal, node),
                presence: Presence::Absent,
                outdated: false,
                report: None,
            },
        };
        store.nodes.iter().enumerate().map(known).collect()
    }

    /// Waits until all are gone, after `keeping.stop`.
    pub(super) async fn stopped(self) {
        let processes = self.processes.into_inner().expect("nobody panics while holding the processes");
        let ending = self.ending.into_inner().expect("nobody panics while holding the processes");
        futures::future::join_all(processes.into_iter().map(Process::stopped)).await;
        futures::future::join_all(ending).await;
    }
}

//! What a page shows and may change, wherever the store runs.

use axum::http::StatusCode;
use quorumkv_api::{NodeId, Settings, SettingsPatch};
use serde::{Deserialize, Serialize};

use crate::decide::Presence;

/// Which store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreName {
    /// The namespace of its KvCluster; `local` for processes.
    pub namespace: String,
    /// The name of its KvCluster.
    pub name: String,
}

/// One node, as the platform knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub node: NodeId,
    /// Base URL of its client port, as it is reached from here.
    pub url: String,
    /// Whether its process can be there at all.
    pub presence: Presence,
    /// Whether its process was halted from the page.
    pub halted: bool,
}

/// One store, as its manager knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreView {
    /// Whether it takes writes as it should.
    pub ready: bool,
    /// Why, or why not.
    pub message: String,
    /// The settings that are wished for.
    pub wanted: Settings,
    /// What else should be said of them.
    pub remark: Option<String>,
    /// Its nodes.
    pub nodes: Vec<NodeInfo>,
}

/// What may be changed from a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Abilities {
    /// Write quorum and delay.
    pub settings: bool,
    /// Who leads.
    pub switchover: bool,
    /// Whether processes run.
    pub nodes: bool,
    /// Writing to the store.
    pub load: bool,
}

/// What is done to a node's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeAction {
    /// SIGSTOP.
    Halt,
    /// SIGCONT.
    Continue,
    /// SIGKILL.
    Kill,
}

/// A wish of a person at a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Other settings.
    Settings(SettingsPatch),
    /// Another leader.
    Switchover(NodeId),
    /// Something done to a process.
    Node {
        /// Whose.
        node: NodeId,
        /// What.
        action: NodeAction,
    },
}

/// Why a wish is not granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// For programs.
    pub status: StatusCode,
    /// For people.
    pub error: String,
}

impl Refused {
    /// A refusal.
    pub fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

/// The world that a page shows.
pub trait Source: Send + Sync + 'static {
    /// What may be changed.
    fn abilities(&self) -> Abilities;

    /// What people should know about changes.
    fn hint(&self) -> String;

    /// All stores.
    fn stores(&self) -> Vec<StoreName>;

    /// One store; none if there is no such store.
    fn view(&self, store: &StoreName) -> Option<StoreView>;

    /// What is to be presented to its nodes' client ports, if anything.
    fn token(&self, _store: &StoreName) -> impl Future<Output = Option<String>> + Send {
        std::future::ready(None)
    }

    /// Grants a wish, or says why not. What comes of it shows in the next views.
    fn change(&self, store: &StoreName, change: Change) -> impl Future<Output = Result<(), Refused>> + Send;
}

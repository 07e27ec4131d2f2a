//! What is worth telling people, once: as an event on the KvCluster, or as a line of the local operator.

use std::fmt;

use quorumkv_api::{Epoch, NodeId, Settings, peer::NodeChange};

use crate::{
    decide::{ElectionReason, Hold, Trouble},
    reason::Reason,
    switchover::Refusal,
};

/// Something worth telling people, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happening {
    /// An election begins.
    Electing {
        /// Why.
        reason: ElectionReason,
        /// The epoch tried.
        epoch: Epoch,
    },
    /// A leader was promoted.
    Promoted {
        /// Who.
        leader: NodeId,
        /// Of which epoch.
        epoch: Epoch,
    },
    /// An election ended without a leader.
    ElectionFailed {
        /// Why.
        error: String,
    },
    /// A switchover led to whom it was asked for.
    SwitchedOver {
        /// Who leads.
        to: NodeId,
    },
    /// A switchover is not tried.
    SwitchoverRefused {
        /// Why.
        refusal: Refusal,
    },
    /// A switchover was begun, and the node that it was asked for does not lead.
    SwitchoverMissed {
        /// Who should lead.
        wanted: NodeId,
        /// Who was elected instead, if anybody was.
        leader: Option<NodeId>,
    },
    /// A copy that had to learn counts from now on.
    Recorded {
        /// Whose.
        node: NodeId,
    },
    /// Nodes are replaced by ones of the present description.
    Rolling {
        /// Which.
        nodes: Vec<NodeId>,
    },
    /// All of them were.
    Rolled,
    /// None of those that are left can be replaced now.
    RollHeld {
        /// What it waits for.
        hold: Hold,
        /// What keeps one of the nodes that are waited for from running, if the platform says so.
        trouble: Option<(NodeId, Trouble)>,
    },
    /// A node shall be one of the store's.
    NodeJoining {
        /// Who.
        node: NodeId,
    },
    /// It is.
    NodeJoined {
        /// Who.
        node: NodeId,
    },
    /// A node shall be none of the store's.
    NodeLeaving {
        /// Who.
        node: NodeId,
    },
    /// It is none any more.
    NodeLeft {
        /// Who.
        node: NodeId,
    },
    /// A node neither joins nor leaves after all.
    ScalingGivenUp {
        /// What does not happen.
        change: NodeChange,
    },
    /// The number of nodes cannot be changed yet.
    ScalingWaits {
        /// Why.
        reason: String,
    },
    /// New settings are in force.
    SettingsApplied {
        /// Which.
        settings: Settings,
    },
    /// New settings are refused for now.
    SettingsRefused {
        /// Why.
        reason: String,
    },
    /// Every node that answers refuses the manager's token.
    LockedOut {
        /// How many.
        nodes: usize,
    },
    /// Every copy was lost, and the store starts again with nothing.
    Reset,
}

impl Happening {
    /// What happened, as one word for programs.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Electing { .. } => Reason::Electing,
            Self::Promoted { .. } => Reason::Promoted,
            Self::ElectionFailed { .. } => Reason::ElectionFailed,
            Self::SwitchedOver { .. } => Reason::SwitchedOver,
            Self::SwitchoverRefused { refusal: Refusal::LeadsAlready(_) } => Reason::SwitchoverNotNeeded,
            Self::SwitchoverRefused { .. } => Reason::SwitchoverRefused,
            Self::SwitchoverMissed { .. } => Reason::SwitchoverMissed,
            Self::Recorded { .. } => Reason::MemberRecorded,
            Self::Rolling { .. } => Reason::Rolling,
            Self::Rolled => Reason::Rolled,
            Self::RollHeld { .. } => Reason::RollHeld,
            Self::NodeJoining { .. } => Reason::NodeJoining,
            Self::NodeJoined { .. } => Reason::NodeJoined,
            Self::NodeLeaving { .. } => Reason::NodeLeaving,
            Self::NodeLeft { .. } => Reason::NodeLeft,
            Self::ScalingGivenUp { .. } => Reason::ScalingGivenUp,
            Self::ScalingWaits { .. } => Reason::ScalingWaits,
            Self::SettingsApplied { .. } => Reason::SettingsApplied,
            Self::SettingsRefused { .. } => Reason::SettingsRefused,
            Self::LockedOut { .. } => Reason::NodesRefuseToken,
            Self::Reset => Reason::DataLost,
        }
    }

    /// Whether somebody should look at it.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        self.reason().is_warning()
    }

    /// What was done. Events with the same reason and action are counted as one, under the first one's note.
    #[must_use]
    pub fn action(&self) -> String {
        match self {
            Self::Electing { epoch, .. } => format!("ElectEpoch{epoch}"),
            Self::Promoted { epoch, .. } => format!("PromoteEpoch{epoch}"),
            Self::ElectionFailed { .. } => "Elect".to_owned(),
            Self::SwitchedOver { to } => format!("SwitchOver-{to}"),
            Self::SwitchoverMissed { wanted, .. } => format!("SwitchOver-{wanted}"),
            // Each reason is news. The API server takes up to 128 bytes, and a wish is any text.
            Self::SwitchoverRefused { refusal } => {
                format!("SwitchOver: {refusal}").chars().filter(char::is_ascii).take(100).collect()
            }
            Self::Recorded { node } => format!("Record-{node}"),
            Self::Rolling { .. } | Self::Rolled | Self::RollHeld { .. } => "Roll".to_owned(),
            Self::NodeJoining { node } => format!("Join-{node}"),
            Self::NodeJoined { node } => format!("Joined-{node}"),
            Self::NodeLeaving { node } => format!("Leave-{node}"),
            Self::NodeLeft { node } => format!("Left-{node}"),
            Self::ScalingGivenUp { change } => format!("GiveUp-{}", change.node()),
            Self::ScalingWaits { .. } => "Scale".to_owned(),
            Self::SettingsApplied { settings } => format!("Apply-{}-{}", settings.write_quorum, settings.delay),
            Self::SettingsRefused { .. } => "ApplySettings".to_owned(),
            Self::LockedOut { .. } => "Probe".to_owned(),
            Self::Reset => "Reset".to_owned(),
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Electing { reason, epoch } => write!(f, "Electing a leader for epoch {epoch}: {reason}"),
            Self::Promoted { leader, epoch } => write!(f, "{leader} leads epoch {epoch}"),
            Self::ElectionFailed { error } => write!(f, "The election did not succeed: {error}"),
            Self::SwitchedOver { to } => write!(f, "{to} takes over, as was asked for"),
            Self::SwitchoverRefused { refusal } => write!(f, "No switchover: {refusal}"),
            Self::SwitchoverMissed { wanted, leader: Some(leader) } => {
                write!(f, "{leader} leads, not {wanted}: once fenced, too few nodes had a log that {wanted}'s covers")
            }
            Self::SwitchoverMissed { wanted, leader: None } => {
                write!(f, "The switchover to {wanted} was cut short; ask again when the store is Ready")
            }
            Self::Recorded { node } => write!(f, "{node} has caught up and counts from now on"),
            Self::Rolling { nodes } => {
                let names = nodes.iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ");
                write!(f, "To be replaced, one after the other, the leader last: {names}")
            }
            Self::Rolled => f.write_str("Every node is of the present description"),
            Self::RollHeld { hold, trouble: None } => write!(f, "No node is replaced: {hold}"),
            Self::RollHeld { hold, trouble: Some((node, trouble)) } => {
                write!(f, "No node is replaced: {hold} ({node}: {trouble})")
            }
            Self::NodeJoining { node } => write!(f, "{node} joins: it learns, and counts once it has caught up"),
            Self::NodeJoined { node } => write!(f, "{node} has joined and counts from now on"),
            Self::NodeLeaving { node } => {
                write!(
                    f,
                    "{node} leaves: it counts no longer, and goes once the others hold all that it was counted for"
                )
            }
            Self::NodeLeft { node } => write!(f, "{node} has left"),
            Self::ScalingGivenUp { change: NodeChange::Joining(node) } => write!(f, "{node} does not join after all"),
            Self::ScalingGivenUp { change: NodeChange::Leaving(node) } => write!(f, "{node} stays after all"),
            Self::ScalingWaits { reason } => write!(f, "The number of followers cannot be changed yet: {reason}"),
            Self::SettingsApplied { settings: Settings { write_quorum, delay, write_timeout } } => {
                let timeout = quorumkv_api::settings::format_duration(*write_timeout);
                write!(f, "In force now: writeQuorum {write_quorum}, delay {delay}, writeTimeout {timeout}")
            }
            Self::SettingsRefused { reason } => write!(f, "The leader does not take the new settings yet: {reason}"),
            Self::LockedOut { nodes } => write!(f, "{nodes} nodes answer, and none takes the operator's token"),
            Self::Reset => f.write_str("Every copy of the data was lost; starting again with an empty store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_text_as_a_wish_makes_an_event_that_the_api_server_takes() {
        let wanted = NodeId("démo-2 ".repeat(99));
        let refused = Happening::SwitchoverRefused { refusal: Refusal::Unknown { wanted, nodes: String::new() } };
        assert!(refused.is_warning());
        assert!((1..=128).contains(&refused.action().len()), "{}", refused.action());
    }

    #[test]
    fn that_the_wanted_node_leads_already_is_no_warning() {
        let leads = Happening::SwitchoverRefused { refusal: Refusal::LeadsAlready("demo-2".into()) };
        assert_eq!((leads.reason(), leads.is_warning()), (Reason::SwitchoverNotNeeded, false));
    }
}

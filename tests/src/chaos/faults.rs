//! What can go wrong, or be changed.

use std::{fmt, time::Duration};

use quorumkv_api::Delay;

/// Whom a fault hits; found out when it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// Whoever leads then.
    Leader,
    /// One of the others: the so-many-th of those that were not hit in this round, counted around.
    Follower(usize),
}

/// From whom a node is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// So many of the other nodes.
    Nodes(usize),
    /// The manager alone.
    Manager,
    /// All other nodes and the manager. Clients still reach it.
    Everybody,
}

/// In which directions packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In both.
    Both,
    /// It hears nothing, and is heard.
    Deaf,
    /// It hears, and is not heard.
    Mute,
}

/// One thing that goes wrong, or is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL: a copy in memory is lost, one on disk is not.
    Kill(Victim),
    /// SIGTERM: the node answers what is under way and ends; what is in memory is lost too.
    Terminate(Victim),
    /// SIGKILL, and what the node had on disk is gone.
    LoseVolume(Victim),
    /// SIGKILL to all nodes at once; so many of them, the leader first, lose what they had on disk.
    KillAll {
        /// Volumes lost.
        volumes: u8,
    },
    /// SIGKILL to the manager, which its nodes follow, and a new start.
    KillManager,
    /// SIGSTOP, and SIGCONT after so long: nothing is lost, but the node believes that no time has passed.
    Halt(Victim, Duration),
    /// The manager is stopped and goes on after so long.
    PauseManager(Duration),
    /// Packets between this node and others are lost for so long.
    Cut {
        /// Whose.
        victim: Victim,
        /// From or to whom.
        from: Others,
        /// In which directions.
        way: Way,
        /// For so long.
        time: Duration,
    },
    /// The manifest is saved with another quorum and delay.
    Change {
        /// New write quorum.
        write_quorum: u8,
        /// New simulated round trip.
        delay: Delay,
    },
    /// The manifest is saved with the wish that another node leads: the so-many-th follower.
    SwitchOver(usize),
}

impl Fault {
    /// How many copies of the data are lost by it, where a copy is as durable as this.
    #[must_use]
    pub const fn copies_lost(&self, on_disk: bool) -> u8 {
        match self {
            Self::Kill(_) | Self::Terminate(_) => !on_disk as u8,
            Self::LoseVolume(_) => 1,
            Self::KillAll { volumes } => *volumes,
            _ => 0,
        }
    }

    /// Its kind, in a summary.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kill",
            Self::Terminate(_) => "terminate",
            Self::LoseVolume(_) => "lose volume",
            Self::KillAll { .. } => "kill all",
            Self::KillManager => "kill manager",
            Self::Halt(..) => "halt",
            Self::PauseManager(_) => "pause manager",
            Self::Cut { way: Way::Both, .. } => "cut",
            Self::Cut { .. } => "cut one way",
            Self::Change { .. } => "change",
            Self::SwitchOver(_) => "switchover",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(victim) => write!(f, "kill {victim:?}"),
            Self::Terminate(victim) => write!(f, "terminate {victim:?}"),
            Self::LoseVolume(victim) => write!(f, "kill {victim:?}, its volume is lost"),
            Self::KillAll { volumes } => write!(f, "kill all nodes, {volumes} volumes are lost"),
            Self::KillManager => write!(f, "kill the manager, and all nodes with it"),
            Self::Halt(victim, time) => write!(f, "halt {victim:?} for {time:?}"),
            Self::PauseManager(time) => write!(f, "pause the manager for {time:?}"),
            Self::Cut { victim, from, way, time } => {
                write!(f, "cut {victim:?} off from {from:?} for {time:?}, {way:?}")
            }
            Self::Change { write_quorum, delay } => write!(f, "writeQuorum {write_quorum}, delay {delay}"),
            Self::SwitchOver(_) => write!(f, "switch over"),
        }
    }
}

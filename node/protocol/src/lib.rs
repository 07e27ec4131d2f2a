//! The replication and failover rules of quorumkv, without clock, randomness or IO.
//!
//! One log is ordered by one leader per epoch and streamed to followers; an entry is committed when as many
//! counted followers hold it as the write quorum in force at its place demands. [`Node`] is the whole state
//! machine of one node: inputs go into [`Node::step`], what the shell has to do comes out of [`Node::flush`].
//! [`election`] is the manager's side: which node may lead next.
//!
//! Time is handed in as [`Micros`]; the shell also draws the simulated round trips and hands them in with
//! each write, so that a run is determined by its inputs.

use std::time::Duration;

pub mod election;

/// How long a follower that answered a heartbeat lets the leader serve reads: counted by the follower from
/// the moment it heard the heartbeat.
pub const LEASE: Duration = Duration::from_secs(1);

//! Faults on a store while clients write and read, and what must hold afterwards.
//!
//! [`schedule`] draws the faults ([`faults`]) from a seed: kill -9, SIGTERM and SIGSTOP of leader and followers, lost
//! volumes, all nodes or the manager killed, pauses of the manager, lost packets, edits of the manifest, switchovers;
//! several at once, but never more lost copies than the quorum covers. [`run`] strikes with them, waits after each
//! round until every copy counts again ([`copies`]), and checks the whole history at the end. [`network`] is where
//! packets are lost. [`failover`] measures how long the store takes no writes when its leader goes away.
//! [`kind`] does both to a KvCluster in a kind cluster. [`options`] is what a person may ask for.

pub mod copies;
pub mod failover;
pub mod faults;
mod journal;
pub mod kind;
pub mod network;
pub mod options;
pub mod run;
pub mod schedule;
mod strike;
mod victims;

//! Nodes, and the operator's local mode, as processes of this machine.
//!
//! [`Lab`] is a leader with static followers, [`LocalOperator`] is `quorumkv-operator local`. Both listen on
//! loopback only, on a block of ports of their own ([`ports`]), write their output to files, print its end when
//! a test fails, and end every process they started when they are dropped.

mod certificates;
mod lab;
mod manifest;
mod operator;
pub mod ports;
pub mod programs;
mod running;

pub use certificates::{Authority, Certificates};
pub use lab::{Lab, LabOptions};
pub use manifest::{Manifest, Storage};
pub use operator::{Hosts, LocalOperator};
pub use running::{Launch, Process};

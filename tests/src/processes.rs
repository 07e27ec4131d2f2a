//! Nodes, and the operator's local mode, as processes of this machine.
//!
//! [`Lab`] is a leader with static followers, [`LocalOperator`] is `quorumkv-operator local`. Both listen on
//! loopback only, on a block of ports of their own ([`ports`]), write their output to files, print its end when
//! a test fails, and end every process they started when they are dropped.

mod lab;
mod operator;
pub mod ports;
pub mod programs;
mod running;

pub use lab::{Lab, LabOptions};
pub use operator::{LocalOperator, Manifest};
pub use running::{Launch, Process};

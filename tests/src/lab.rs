//! The classroom lab's four programs: what each does, and what they share.
//!
//! [`integration`], [`performance`], [`analysis`] and [`consistency`] are the programs. Each takes its
//! arguments and a [`program::Context`], opens a [`store::Store`] and gives a report, which
//! [`program::main`] prints as a table or as JSON and turns into an exit code.

pub mod analysis;
pub mod checks;
pub mod consistency;
pub mod integration;
pub mod options;
pub mod performance;
pub mod program;
pub mod settings;
pub mod statistics;
pub mod store;
mod workload;

pub(crate) use quorumkv_inspect::table;

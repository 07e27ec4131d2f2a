//! The node.

pub mod config;
pub mod delay;
pub mod healthcheck;
pub mod store;

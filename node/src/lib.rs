//! The node.

pub mod codec;
pub mod config;
pub mod delay;
pub mod healthcheck;
pub mod store;
pub mod wire;

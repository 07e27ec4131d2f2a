//! A node of quorumkv: the shell around the replication core.
//!
//! A write's way is one line: [`router`] -> [`driver`] (one task: take what waits, step the core, persist,
//! apply, send) -> [`outbox`] -> [`transport`] -> the followers' drivers, which persist and acknowledge ->
//! [`transport`] -> [`driver`] -> the answer. Reads go from [`router`] to the [`store`] and pass nobody. A
//! manager (the operator, or [`static_leader`] in this process) decides over the [`peer_router`] who leads;
//! [`links`] keeps a leader's streams up. The core itself, `quorumkv-protocol`, has neither clock nor IO:
//! all that is here only carries things to it and does what it says.

pub mod acknowledgements;
pub mod answer;
pub mod auth;
pub mod clock;
pub mod codec;
pub mod config;
pub mod connections;
pub mod delay;
pub mod driver;
pub mod failpoint;
#[cfg(test)]
mod fuzz;
pub mod handle;
pub mod healthcheck;
pub mod latency;
pub mod limits;
pub mod links;
pub mod metrics;
pub mod outbox;
pub mod peer_router;
pub mod program;
pub mod recover;
pub mod router;
pub mod serve;
pub mod shutdown;
pub mod static_leader;
pub mod storage;
pub mod store;
pub mod timer;
pub mod tls;
pub mod transport;
pub mod wire;

pub use serve::{Listeners, ServeError, serve};

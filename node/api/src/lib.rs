//! Wire types, newtypes and clients of the quorumkv node.
//!
//! What is seen of a node, one module each:
//! [`lab`] and [`kv`] are what clients see on the client port (`PORT`, 5000), [`peer`] what the operator and other
//! nodes see on the peer port (`PEER_PORT`, 5100), and [`settings`] the values that can be turned while
//! the store runs. [`ids`] holds the newtypes that all of them are written in. With the feature `client`
//! there is an HTTP client for the peer port in [`client`], and what it needs for TLS in [`tls`].

#[cfg(feature = "client")]
pub mod client;
pub mod ids;
pub mod kv;
pub mod lab;
pub mod peer;
pub mod settings;
#[cfg(feature = "client")]
pub mod tls;

pub use ids::{Epoch, NodeId, Position, ProcessId, Seq, StorageId};
pub use settings::{Delay, Settings, SettingsPatch, WriteQuorum};

/// Port on which a node serves clients unless told otherwise.
pub const CLIENT_PORT: u16 = 5000;
/// Port on which a node serves the operator and other nodes unless told otherwise.
pub const PEER_PORT: u16 = 5100;
/// Port on which a node serves Prometheus metrics unless told otherwise.
pub const METRICS_PORT: u16 = 9100;
/// Longest key, in bytes of UTF-8. The shortest is one byte.
pub const MAX_KEY_BYTES: usize = 1024;
/// Longest request id, in bytes of printable ASCII. The shortest is one byte.
pub const MAX_REQUEST_ID_BYTES: usize = 128;
/// Largest body of a client request, in bytes.
pub const MAX_BODY_BYTES: usize = 1024 * 1024;

//! How much of this node others may take up, and for how long.
//!
//! What is not here is fixed: a key has 1..1024 bytes, a body at most 1 MiB, a head at most [`MAX_HEAD_BYTES`].

use std::time::Duration;

/// Largest head of a request, in bytes: its first line and its headers.
pub const MAX_HEAD_BYTES: usize = 32 * 1024;

/// Limits that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections to the client port at once.
    pub connections: usize,
    /// Connections to the peer port at once, streams of leaders included.
    pub peer_connections: usize,
    /// Writes that may wait for their quorum at once.
    pub waiting_writes: usize,
    /// Bytes of keys and values of those writes; also of the bodies of requests that the router works on.
    pub waiting_bytes: usize,
    /// How long the first line and the headers of a request may take.
    pub head_timeout: Duration,
    /// How long the body of a request may take.
    pub body_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub idle_timeout: Duration,
    /// How long a client may take nothing of its answer.
    pub answer_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            peer_connections: 256,
            waiting_writes: 16_384,
            waiting_bytes: 128 * 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(300),
            answer_timeout: Duration::from_secs(30),
        }
    }
}

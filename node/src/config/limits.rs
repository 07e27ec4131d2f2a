//! Flags of the limits, each with its environment variable.

use std::time::Duration;

use clap::Args;

use super::parse::parse_timeout;
use crate::limits::Limits;

/// How much of this node others may take up, and for how long.
#[derive(Debug, Clone, Args)]
pub struct LimitArguments {
    /// Connections to the client port at once; beyond them health checks are answered, all else gets 503.
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Connections to the peer port at once, streams of leaders included.
    #[arg(long, env = "MAX_PEER_CONNECTIONS", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub max_peer_connections: u32,
    /// Writes that may wait for their quorum at once; further ones get 503 with Retry-After.
    #[arg(long, env = "MAX_WAITING_WRITES", default_value_t = 16_384, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub max_waiting_writes: u32,
    /// Bytes of those writes, and of bodies of requests under way; further ones get 503 with Retry-After.
    #[arg(long, env = "MAX_WAITING_BYTES", default_value_t = 134_217_728, value_parser = clap::value_parser!(u32).range(2_097_152..))]
    pub max_waiting_bytes: u32,
    /// How long the head of a request may take, in seconds (10) or with a unit (10s).
    #[arg(long, env = "HEAD_TIMEOUT", default_value = "10s", value_parser = parse_timeout)]
    pub head_timeout: Duration,
    /// How long the body of a request may take after its head.
    #[arg(long, env = "BODY_TIMEOUT", default_value = "30s", value_parser = parse_timeout)]
    pub body_timeout: Duration,
    /// How long a connection is kept between two requests.
    #[arg(long, env = "IDLE_TIMEOUT", default_value = "300s", value_parser = parse_timeout)]
    pub idle_timeout: Duration,
    /// How long a client may take nothing of its answer before its connection is closed.
    #[arg(long, env = "ANSWER_TIMEOUT", default_value = "30s", value_parser = parse_timeout)]
    pub answer_timeout: Duration,
}

impl From<LimitArguments> for Limits {
    fn from(arguments: LimitArguments) -> Self {
        let LimitArguments {
            max_connections,
            max_peer_connections,
            max_waiting_writes,
            max_waiting_bytes,
            head_timeout,
            body_timeout,
            idle_timeout,
            answer_timeout,
        } = arguments;
        let count = |number: u32| usize::try_from(number).expect("this system's pointers have 32 bits or more");
        Self {
            connections: count(max_connections),
            peer_connections: count(max_peer_connections),
            waiting_writes: count(max_waiting_writes),
            waiting_bytes: count(max_waiting_bytes),
            head_timeout,
            body_timeout,
            idle_timeout,
            answer_timeout,
        }
    }
}

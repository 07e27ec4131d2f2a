//! Clients that read from every node, each read as good as a follower's, on connections that they know.
//!
//! What such a read promises depends on the process it comes from, so these clients keep one connection at a time to
//! each node and never share or silently replace it: whatever goes wrong on it, the next read has a new number.
//! A part of the reads asks for the highest version that any node has shown so far.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1::SendRequest, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::history::{Action, Moment, Operation};

/// Pause between two reads from a node: many nodes share few cores.
const PAUSE: Duration = Duration::from_millis(15);
/// Pause before another connection.
const RECONNECT: Duration = Duration::from_millis(50);
/// So many of a hundred reads ask for a version.
const MIN_VERSION_PERCENT: u32 = 30;

struct Shared {
    keys: usize,
    key_prefix: String,
    timeout: Duration,
    stop: AtomicBool,
    connections: AtomicU64,
    /// The highest version that any node has shown.
    highest: AtomicU64,
}

/// Readers at work. Dropped without being stopped, they are aborted.
pub struct FollowerReads {
    shared: Arc<Shared>,
    readers: Vec<JoinHandle<Vec<Operation>>>,
}

impl FollowerReads {
    /// Starts a reader for each of these nodes, of `keys` keys `prefix-0` and on. An answer that takes longer than
    /// `patience` is given up, and its connection with it.
    #[must_use]
    pub fn start(nodes: &[String], key_prefix: &str, keys: usize, patience: Duration) -> Self {
        let shared = Arc::new(Shared {
            keys,
            key_prefix: key_prefix.to_owned(),
            timeout: patience,
            stop: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            highest: AtomicU64::new(0),
        });
        let reader = |(number, node): (usize, &String)| {
            let (shared, node) = (Arc::clone(&shared), node.clone());
            tokio::spawn(async move { shared.read_on(number, &node).await })
        };
        let readers = nodes.iter().enumerate().map(reader).collect();
        Self { shared, readers }
    }

    /// Ends them, and gives what they saw.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Operation>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut operations = Vec::new();
        for reader in &mut self.readers {
            operations.extend(reader.await.context("a reader panicked")?);
        }
        Ok(operations)
    }
}

impl Drop for FollowerReads {
    fn drop(&mut self) {
        self.readers.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    async fn read_on(&self, number: usize, node: &str) -> Vec<Operation> {
        let mut history = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
            // However it ended: nodes are killed, halted and cut off here.
            self.read_on_one_connection(number, node, connection, &mut history).await.ok();
            sleep(RECONNECT).await;
        }
        history
    }

    async fn read_on_one_connection(
        &self,
        number: usize,
        node: &str,
        connection: u64,
        history: &mut Vec<Operation>,
    ) -> anyhow::Result<()> {
        let authority = node.trim_start_matches("http://");
        let tcp = timeout(self.timeout, TcpStream::connect(authority)).await??;
        tcp.set_nodelay(true)?;
        let (mut sender, driving) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let driving = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(driving));
        while !self.stop.load(Ordering::Relaxed) {
            let key = format!("{}-{}", self.key_prefix, rand::random_range(0..self.keys.max(1)));
            let highest = self.highest.load(Ordering::Relaxed);
            let asks = highest > 0 && rand::random_range(0..100) < MIN_VERSION_PERCENT;
            let min_version = asks.then_some(highest);
            let invoked = Moment::now();
            let answer = timeout(self.timeout, get(&mut sender, authority, &key, min_version)).await??;
            let returned = Moment::now();
            if let Some((value, version)) = answer {
                self.highest.fetch_max(version.unwrap_or(0), Ordering::Relaxed);
                let action = Action::FollowerRead { value, version, min_version, connection };
                history.push(Operation { client: number, key, action, invoked, returned });
            }
            sleep(PAUSE).await;
        }
        drop(driving);
        Ok(())
    }
}

/// Value and version of a key; nothing if the node does not answer the question now.
async fn get(
    sender: &mut SendRequest<Empty<Bytes>>,
    authority: &str,
    key: &str,
    min_version: Option<u64>,
) -> anyhow::Result<Option<(Option<String>, Option<u64>)>> {
    let query = min_version.map_or_else(String::new, |version| format!("?minVersion={version}"));
    let request = Request::get(format!("/get/{key}{query}")).header(header::HOST, authority).body(Empty::new())?;
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    match status {
        StatusCode::OK => {
            let body: Value = serde_json::from_slice(&body)?;
            let value = body["value"].as_str().map_or_else(|| body["value"].to_string(), str::to_owned);
            let version = body["version"].as_u64();
            ensure!(version.is_some(), "no version: {body}");
            Ok(Some((Some(value), version)))
        }
        StatusCode::NOT_FOUND => Ok(Some((None, None))),
        _ => Ok(None),
    }
}

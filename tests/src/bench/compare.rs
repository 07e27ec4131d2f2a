//! Systems beside each other.
//!
//! Whoever is compared runs at the same time and is asked in turn, case by case, so that noise of the machine hits all
//! alike; who is not asked is idle. etcd, whose members are never quite idle, runs alone, once in every repeat.

use anyhow::Context as _;

use super::{
    CONNECTIONS_OF_FILLING, Measuring, VALUE_BYTES,
    figures::{Point, Series},
    generator::{Pace, fill},
    system::{Operation, Server, Setup, Storage, System},
};
use crate::lab::program::Failure;

/// Copies besides the first.
const FOLLOWERS: usize = 5;
/// The quorum that the persistent systems and the open loop are asked for, and etcd has.
const QUORUM: u8 = 3;
/// Of the most that a system takes, in an open loop.
const SHARE: f64 = 0.7;

/// What is compared.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Who.
    pub systems: Vec<System>,
    /// Where data is kept.
    pub storages: Vec<Storage>,
    /// Followers that must confirm a write.
    pub quorums: Vec<u8>,
    /// Connections.
    pub connections: Vec<usize>,
    /// Keys.
    pub keys: u64,
}

/// One case: what is asked and by how many.
#[derive(Debug, Clone, Copy)]
struct Case {
    series: Series,
    operation: Operation,
    connections: usize,
}

/// Runs one repeat.
///
/// # Errors
/// When this store fails, or a signal asks for the end. What happens to other systems is noted.
pub async fn repeat(choice: &Choice, number: usize, measuring: &mut Measuring<'_>) -> Result<(), Failure> {
    for storage in &choice.storages {
        let cases = cases(choice, *storage);
        let (alone, mut together): (Vec<System>, Vec<System>) =
            choice.systems.iter().copied().partition(|system| is_etcd(*system));
        // A constant is kept nowhere.
        together.retain(|system| *system != System::Axum || *storage == Storage::Memory);
        // Nobody is always the first.
        let first = number % together.len().max(1);
        together.rotate_left(first);
        let mut servers = Vec::new();
        for system in together {
            if let Some(server) = started(choice, system, *storage, measuring).await? {
                servers.push((system, server));
            }
        }
        for case in &cases {
            for (system, server) in &mut servers {
                measured(choice, *case, (*system, number), server, measuring).await?;
            }
        }
        drop(servers);
        if let Some(one) = alone.first()
            && let Some(mut server) = started(choice, *one, *storage, measuring).await?
        {
            for case in cases.iter().filter(|case| case.series == Series::Compare) {
                for system in &alone {
                    measured(choice, *case, (*system, number), &mut server, measuring).await?;
                }
            }
        }
    }
    Ok(())
}

const fn is_etcd(system: System) -> bool {
    matches!(system, System::EtcdGateway | System::EtcdGrpc)
}

fn cases(choice: &Choice, storage: Storage) -> Vec<Case> {
    let by_connections = |operation: Operation| {
        let case = move |connections: &usize| Case { series: Series::Compare, operation, connections: *connections };
        choice.connections.iter().map(case)
    };
    let has = |quorum: &&u8| storage == Storage::Memory || **quorum == QUORUM;
    let writes = choice.quorums.iter().filter(has).map(|quorum| Operation::Write { quorum: *quorum });
    let mut cases: Vec<Case> = writes.flat_map(by_connections).collect();
    if storage == Storage::Memory {
        cases.extend(by_connections(Operation::Read));
    }
    let most = choice.connections.iter().max().filter(|_| choice.quorums.contains(&QUORUM));
    cases.extend(most.map(|connections| Case {
        series: Series::OpenLoop,
        operation: Operation::Write { quorum: QUORUM },
        connections: *connections,
    }));
    cases
}

/// A server with all keys, unless the system is missing.
async fn started(
    choice: &Choice,
    system: System,
    storage: Storage,
    measuring: &mut Measuring<'_>,
) -> Result<Option<Server>, Failure> {
    if measuring.is_missing(system) {
        return Ok(None);
    }
    let starting = async {
        let mut server = Server::start(system, Setup { storage, followers: FOLLOWERS }).await?;
        let reads = storage == Storage::Memory && !is_etcd(system);
        let target = server.target(system, Operation::Write { quorum: 1 }, VALUE_BYTES).await?;
        if let Some(target) = target.filter(|_| reads) {
            fill(target, choice.keys, CONNECTIONS_OF_FILLING).await.context("filling it")?;
        }
        Ok(server)
    };
    let started = starting.await;
    measuring.unless_noted(system, &format!("{system}, {storage}"), started)
}

async fn measured(
    choice: &Choice,
    case: Case,
    (system, repeat): (System, usize),
    server: &mut Server,
    measuring: &mut Measuring<'_>,
) -> Result<(), Failure> {
    let Case { series, operation, connections } = case;
    let Setup { storage, followers } = server.setup();
    let (keys, value_bytes) = (choice.keys, VALUE_BYTES);
    let point = Point { series, system, storage, operation, connections, keys, value_bytes, followers };
    let pace = match series {
        Series::OpenLoop => measuring.most(point, repeat).map(|most| Pace::Open(SHARE * most)),
        _ => Some(Pace::Closed),
    };
    let Some(pace) = pace else { return Ok(()) };
    measuring.point(point, pace, repeat, server).await
}

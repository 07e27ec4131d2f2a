//! The leader's streams: one task per follower that keeps dialling while this node leads.

use std::{collections::HashMap, time::Duration};

use quorumkv_api::{NodeId, peer::PeerAddress};
use quorumkv_protocol::{Hello, Leading};
use rand::RngExt as _;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use crate::{
    handle::DriverHandle,
    transport::{self, Dial, StreamError},
};

/// First pause after a failure; doubles up to the longest.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

struct Link {
    hello: Hello,
    address: PeerAddress,
    _task: AbortOnDropHandle<()>,
}

/// Keeps the streams that `leading` asks for until the driver is gone.
pub async fn keep(driver: DriverHandle, dial: Dial, mut leading: watch::Receiver<Option<Leading>>) {
    let mut links: HashMap<NodeId, Link> = HashMap::new();
    while leading.changed().await.is_ok() {
        let wanted = leading.borrow_and_update().clone();
        let Some(Leading::Streams { hello, peers }) = wanted else {
            links.clear();
            continue;
        };
        // Dropping a link ends its stream, which the core hears of.
        links.retain(|_, link| link.hello == hello && peers.contains(&link.address));
        for address in peers {
            links.entry(address.node.clone()).or_insert_with(|| {
                let task = redial(driver.clone(), address.clone(), hello.clone(), dial.clone());
                Link { hello: hello.clone(), address, _task: AbortOnDropHandle::new(tokio::spawn(task)) }
            });
        }
    }
}

async fn redial(driver: DriverHandle, address: PeerAddress, hello: Hello, dial: Dial) {
    let follower = &address.node;
    let mut pause = SHORTEST_PAUSE;
    let mut warned = false;
    loop {
        match transport::run(&driver, &address, &hello, &dial).await {
            Err((_, StreamError::Stopped(_))) => return,
            Ok(()) => {
                warn!(%follower, "the follower closed the stream");
                (pause, warned) = (SHORTEST_PAUSE, false);
            }
            Err((true, error)) => {
                warn!(%follower, %error, "the stream broke");
                (pause, warned) = (SHORTEST_PAUSE, true);
            }
            // Once is enough: a follower that is down stays down for a while.
            Err((false, error)) if !warned => {
                warn!(%follower, url = address.peer_url, %error, "cannot open a stream, trying again");
                warned = true;
            }
            Err((false, error)) => debug!(%follower, %error, "still cannot open a stream"),
        }
        // Jitter keeps many followers of a leader, and many leaders on a machine, from dialling in step.
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(pause.mul_f64(jitter)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

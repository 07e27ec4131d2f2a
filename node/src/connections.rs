//! Open connections: how many there may be, and which have to go.
//!
//! A port has a [`Door`]. Who enters gets a [`Seat`], which is given back by being dropped. Each connection notes on
//! its [`Pulse`] what it waits for, which costs a store to memory and no timer; the door looks at all of them four
//! times a second ([`Door::watch`]) and ends those that waited too long for their client.
//!
//! Beyond the limit a few more connections are let in for one request each: on the client port for health checks, so
//! that nobody who opens connections can make a node look dead, on the peer port for whoever has the token. All
//! others are told to come again.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    time::{MissedTickBehavior, interval},
};
use tracing::warn;

use self::pulse::Waits;
pub(crate) use self::pulse::{Phase, Pulse};
use crate::{
    limits::Limits,
    metrics::{
        Metrics,
        connections::{ConnectionMetrics, Ended},
        requests::Port,
    },
};

pub(crate) mod http;
mod pulse;
#[cfg(test)]
mod tests;

/// How often connections are looked at. Deadlines are kept to within so much.
const TICK: Duration = Duration::from_millis(250);

/// Connections beyond the limit that get an answer.
const RESERVE: usize = 64;

/// How long those have for their one request.
const HURRY: Duration = Duration::from_secs(2);

/// Ticks between two complaints of the same port.
const COMPLAINT_TICKS: u64 = 40;

/// What is told to those who do not even find a place in the reserve.
const TURNED_AWAY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
    connection: close\r\ncontent-length: 55\r\n\r\n{\"error\":\"This node has as many connections as it can\"}";

/// What all connections of one port share.
#[derive(Debug)]
pub struct Door {
    port: Port,
    most: usize,
    waits: Waits,
    open: AtomicUsize,
    /// Ticks that went by, only those in which this node could listen: one that was held up ends nobody for that.
    ticks: Arc<AtomicU64>,
    complain_at: AtomicU64,
    pulses: Mutex<Vec<Weak<Pulse>>>,
    metrics: ConnectionMetrics,
}

impl Door {
    /// The door of a port.
    #[must_use]
    pub fn new(port: Port, limits: &Limits, metrics: &Metrics) -> Arc<Self> {
        Arc::new(Self {
            port,
            most: match port {
                Port::Client => limits.connections,
                Port::Peer | Port::Metrics => limits.peer_connections,
            },
            waits: Waits::new(limits, TICK),
            open: AtomicUsize::new(0),
            ticks: Arc::default(),
            complain_at: AtomicU64::new(0),
            pulses: Mutex::default(),
            metrics: metrics.connections.of(port),
        })
    }

    /// Lets a connection in, or tells it to come again. What comes over `tcp` in clear text can be told so; none where
    /// it is TLS, and there who finds no place is closed.
    pub(crate) fn enter(self: &Arc<Self>, tcp: Option<&TcpStream>) -> Option<Seat> {
        let before = self.open.fetch_add(1, Ordering::Relaxed);
        if before >= self.most {
            self.complain();
        }
        if before >= self.most + RESERVE {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.metrics.ended(Ended::full);
            if let Some(tcp) = tcp {
                // A new connection takes that at once, or is gone.
                tcp.try_write(TURNED_AWAY).ok();
            }
            return None;
        }
        self.metrics.open.inc();
        let beyond = before >= self.most;
        if beyond {
            self.metrics.ended(Ended::full);
        }
        let pulse = Arc::new(Pulse::new(Arc::clone(&self.ticks), beyond));
        self.pulses.lock().push(Arc::downgrade(&pulse));
        Some(Seat { pulse, door: Arc::clone(self) })
    }

    fn complain(&self) {
        let now = self.ticks.load(Ordering::Relaxed);
        let due = self.complain_at.load(Ordering::Relaxed);
        let next = now + COMPLAINT_TICKS;
        // Where two see it at once, one of them complains.
        if now >= due && self.complain_at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let (port, limit) = (self.port.name(), self.most);
            warn!(port, limit, "as many connections are open as may be; further ones are refused");
        }
    }

    /// Ends connections that are overdue, for as long as it is polled.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look();
        }
    }

    fn look(&self) {
        let now = self.ticks.fetch_add(1, Ordering::Relaxed) + 1;
        self.pulses.lock().retain(|pulse| {
            let Some(pulse) = pulse.upgrade() else { return false };
            if let Some(why) = pulse.overdue(now, &self.waits) {
                self.metrics.ended(why);
                pulse.end();
                return false;
            }
            true
        });
    }
}

/// A connection's place.
#[derive(Debug)]
pub(crate) struct Seat {
    pulse: Arc<Pulse>,
    door: Arc<Door>,
}

impl Seat {
    /// Where it notes what it waits for.
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.door.open.fetch_sub(1, Ordering::Relaxed);
        self.door.metrics.open.dec();
    }
}

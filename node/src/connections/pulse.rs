//! What a connection waits for, and since when.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::task::AbortHandle;

use super::HURRY;
use crate::{limits::Limits, metrics::connections::Ended};

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// The next request, if there is one.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body.
    Body,
    /// This node.
    Working,
    /// Nothing that has to be watched here: the connection speaks another protocol.
    Free,
}

/// Bits of a phase beside a tick.
const PHASE_BITS: u32 = 3;

/// A phase and the tick in which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Since(u64);

impl Since {
    const fn new(phase: Phase, tick: u64) -> Self {
        Self(tick << PHASE_BITS | phase as u64)
    }

    pub(crate) const fn is(self, phase: Phase) -> bool {
        self.0 & ((1 << PHASE_BITS) - 1) == phase as u64
    }

    const fn tick(self) -> u64 {
        self.0 >> PHASE_BITS
    }
}

/// One connection's. Only that connection writes to it.
#[derive(Debug)]
pub(crate) struct Pulse {
    since: AtomicU64,
    /// Tick, plus one, since which the client has taken nothing of what is written; 0 while nothing waits for it.
    stalled: AtomicU64,
    clock: Arc<AtomicU64>,
    /// Whether the connection was let in beyond the limit.
    beyond: bool,
    task: OnceLock<AbortHandle>,
}

impl Pulse {
    /// Of a new connection, which has to send the head of its first request soon.
    pub(super) fn new(clock: Arc<AtomicU64>, beyond: bool) -> Self {
        let since = Since::new(Phase::Head, clock.load(Ordering::Relaxed));
        Self { since: AtomicU64::new(since.0), stalled: AtomicU64::new(0), clock, beyond, task: OnceLock::new() }
    }

    /// Whether the connection was let in beyond the limit, for one request.
    pub(crate) fn is_beyond(&self) -> bool {
        self.beyond
    }

    /// Names the task that is to be ended with the connection.
    pub(crate) fn belongs_to(&self, task: AbortHandle) {
        // There is one task for each connection.
        self.task.set(task).ok();
    }

    /// What it waits for.
    pub(crate) fn now(&self) -> Since {
        Since(self.since.load(Ordering::Relaxed))
    }

    /// From now on it waits for this.
    pub(crate) fn set(&self, phase: Phase) {
        self.since.store(Since::new(phase, self.clock.load(Ordering::Relaxed)).0, Ordering::Relaxed);
    }

    /// It still waits for what it waited for then, if that is this; else from now on.
    pub(crate) fn still(&self, then: Since, phase: Phase) {
        if then.is(phase) { self.since.store(then.0, Ordering::Relaxed) } else { self.set(phase) }
    }

    /// The client has to take something before more can be written.
    pub(crate) fn offer(&self) {
        self.stalled.store(self.clock.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Whether the client has to take something.
    pub(crate) fn is_offering(&self) -> bool {
        self.stalled.load(Ordering::Relaxed) != 0
    }

    /// The client took something.
    pub(crate) fn taken(&self) {
        self.stalled.store(0, Ordering::Relaxed);
    }

    /// Why the connection has to go at this tick, if it has.
    pub(super) fn overdue(&self, now: u64, waits: &Waits) -> Option<Ended> {
        let since = self.now();
        if since.is(Phase::Free) {
            return None;
        }
        let hurried = |ticks: u64| if self.beyond { ticks.min(waits.hurry) } else { ticks };
        let (longest, why) = if since.is(Phase::Idle) {
            (hurried(waits.idle), Some(Ended::idle))
        } else if since.is(Phase::Head) {
            (hurried(waits.head), Some(Ended::head))
        } else if since.is(Phase::Body) {
            (hurried(waits.body), Some(Ended::body))
        } else {
            (u64::MAX, None)
        };
        // More than the limit went by only after one tick more.
        let over = |from: u64, longest: u64| now.saturating_sub(from) > longest;
        let stalled = self.stalled.load(Ordering::Relaxed);
        if stalled != 0 && over(stalled - 1, hurried(waits.answer)) {
            return Some(Ended::answer);
        }
        // One that still has an answer to take does not idle.
        why.filter(|_| over(since.tick(), longest) && stalled == 0)
    }

    /// Ends the connection's task, and with it the connection.
    pub(super) fn end(&self) {
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }
}

/// Deadlines in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waits {
    head: u64,
    body: u64,
    idle: u64,
    answer: u64,
    hurry: u64,
}

impl Waits {
    pub(super) fn new(limits: &Limits, tick: Duration) -> Self {
        let ticks =
            |duration: Duration| u64::try_from(duration.as_micros() / tick.as_micros().max(1)).unwrap_or(u64::MAX);
        Self {
            head: ticks(limits.head_timeout),
            body: ticks(limits.body_timeout),
            idle: ticks(limits.idle_timeout),
            answer: ticks(limits.answer_timeout),
            hurry: ticks(HURRY),
        }
    }
}

//! Time as the core counts it: microseconds since this process started, never set back.

use std::time::{Duration, Instant};

use quorumkv_protocol::Micros;

/// Reads the monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that shows zero now.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Time since the start.
    #[must_use]
    pub fn now(&self) -> Micros {
        Micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// The moment that `time` stands for.
    #[must_use]
    pub fn instant(&self, time: Micros) -> Instant {
        self.start + Duration::from_micros(time.0)
    }
}

//! Wakes the driver at a moment, more exactly than the runtime's own timers.
//!
//! Those count whole milliseconds, rounded up: a simulated round trip would take one millisecond too long on the
//! average of the fast ones, more than everything else that a write costs. The kernel's own timer (`timerfd_create(2)`)
//! is as exact as its scheduling.

use std::{io, os::fd::OwnedFd};

use quorumkv_protocol::Micros;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::clock::Clock;

/// Waits for moments, one at a time.
#[derive(Debug)]
pub struct Timer {
    clock: Clock,
    /// None where the kernel gave no timer: then the runtime's do.
    kernel: Option<AsyncFd<OwnedFd>>,
    /// When the kernel's timer will ring, if it has not rung yet.
    armed: Option<Micros>,
}

impl Timer {
    /// A timer that shows nothing yet. Needs a runtime.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        #[allow(
            deprecated,
            reason = "its successor is unsafe for the sake of types that are not owners of what they name"
        )]
        let register = AsyncFd::new;
        let created = timerfd_create(TimerfdClockId::Monotonic, flags).map_err(io::Error::from).and_then(register);
        let kernel = created.inspect_err(|error| warn!(%error, "delays are rounded up to milliseconds")).ok();
        Self { clock, kernel, armed: None }
    }

    /// Waits until `deadline`; for ever, if there is none. May be dropped and called again.
    pub async fn until(&mut self, deadline: Option<Micros>) {
        match deadline {
            None => std::future::pending().await,
            Some(deadline) => {
                if self.ring_at(deadline).await.is_err() {
                    tokio::time::sleep_until(self.clock.instant(deadline).into()).await;
                }
            }
        }
    }

    async fn ring_at(&mut self, deadline: Micros) -> io::Result<()> {
        let Self { clock, kernel, armed } = self;
        let kernel = kernel.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        loop {
            let now = clock.now();
            if now >= deadline {
                return Ok(());
            }
            // One that rings too early costs a wake-up; setting it for every batch would cost a call each.
            if armed.is_none_or(|armed| armed > deadline) {
                let left = Timespec::try_from(deadline.since(now)).map_err(|_| io::ErrorKind::InvalidInput)?;
                let once = Itimerspec { it_interval: Timespec::default(), it_value: left };
                timerfd_settime(kernel, TimerfdTimerFlags::empty(), &once)?;
                *armed = Some(deadline);
            }
            let mut rung = kernel.readable().await?;
            let mut count = [0; 8];
            match rustix::io::read(kernel, &mut count) {
                Ok(_) => *armed = None,
                Err(rustix::io::Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
            rung.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn it_never_rings_early_and_mostly_at_once() {
        let clock = Clock::start();
        let mut timer = Timer::new(clock);
        let mut late = Vec::new();
        for _ in 0..50 {
            let deadline = clock.now().after(Duration::from_micros(300));
            timer.until(Some(deadline)).await;
            let now = clock.now();
            assert!(now >= deadline, "{now:?} is before {deadline:?}");
            late.push(now.since(deadline));
        }
        late.sort_unstable();
        // A timer that counts milliseconds is late by 700 us and more, each time.
        assert!(late[10] < Duration::from_micros(500), "the best of 50 were late by {:?}", &late[..10]);
    }

    #[tokio::test]
    async fn a_nearer_deadline_replaces_one_that_was_given_up() {
        let clock = Clock::start();
        let mut timer = Timer::new(clock);
        let far = clock.now().after(Duration::from_secs(60));
        let given_up = tokio::time::timeout(Duration::from_millis(5), timer.until(Some(far))).await;
        assert!(given_up.is_err(), "a minute has not passed");
        let near = clock.now().after(Duration::from_millis(2));
        tokio::time::timeout(Duration::from_secs(30), timer.until(Some(near))).await.expect("it rings");
        let later = near.after(Duration::from_millis(3));
        tokio::time::timeout(Duration::from_secs(30), timer.until(Some(later))).await.expect("it rings again");
        assert!(clock.now() >= later);
    }

    #[tokio::test]
    async fn without_a_deadline_it_never_rings() {
        let mut timer = Timer::new(Clock::start());
        assert!(tokio::time::timeout(Duration::from_millis(5), timer.until(None)).await.is_err());
    }
}

//! When the operations of an open loop are meant to begin.
//!
//! The times follow from the rate alone, never from earlier answers: what a slow server keeps waiting counts from
//! when it was meant to begin, so that a pause of the server shows in all operations that fall into it.

use std::{
    cell::Cell,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// How often operations that are due are let go.
const TICK: Duration = Duration::from_micros(250);

/// Times at a fixed rate, handed out in order.
#[derive(Debug)]
pub struct Schedule {
    times: Times,
    taken: Cell<u64>,
    released: Arc<Semaphore>,
}

/// `total` times, `per_second` of them in a second.
#[derive(Debug, Clone, Copy)]
struct Times {
    begun: Instant,
    per_second: f64,
    total: u64,
}

impl Times {
    fn intended(&self, number: u64) -> Instant {
        self.begun + Duration::from_secs_f64(number as f64 / self.per_second)
    }

    /// How many are due by `now`.
    fn due(&self, now: Instant) -> u64 {
        let elapsed = now.saturating_duration_since(self.begun).as_secs_f64();
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a measurement times a rate")]
        let due = (elapsed * self.per_second) as u64 + 1;
        due.min(self.total)
    }
}

impl Schedule {
    /// Begins now and goes on for `length`. A thread of its own lets operations go: the timers of the runtime count
    /// in milliseconds.
    #[must_use]
    pub fn start(per_second: f64, length: Duration, connections: usize) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "seconds of a measurement times a rate")]
        let total = (per_second * length.as_secs_f64()) as u64;
        let times = Times { begun: Instant::now(), per_second, total };
        let released = Arc::new(Semaphore::new(0));
        let releasing = released.clone();
        thread::spawn(move || release(times, &releasing, connections));
        Self { times, taken: Cell::new(0), released }
    }

    /// Waits for the next operation that is due; when it was meant to begin. Nothing after the last one.
    pub async fn next(&self) -> Option<Instant> {
        // It is never closed.
        self.released.acquire().await.ok()?.forget();
        let number = self.taken.get();
        self.taken.set(number + 1);
        (number < self.times.total).then(|| self.times.intended(number))
    }
}

/// Lets operations go as they are due, and at the end every connection once more, to find that there is nothing left.
fn release(times: Times, released: &Semaphore, connections: usize) {
    let mut before = 0;
    while before < times.total {
        let due = times.due(Instant::now());
        released.add_permits(usize::try_from(due - before).unwrap_or(usize::MAX));
        before = due;
        thread::sleep(TICK);
    }
    released.add_permits(connections);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::{sleep, timeout};

    use super::*;

    proptest! {
        #[test]
        fn an_operation_is_due_from_its_intended_time_on(per_second in 0.5_f64..1e6, number in 0_u64..100_000) {
            let times = Times { begun: Instant::now(), per_second, total: u64::MAX };
            let intended = times.intended(number);
            // A nanosecond of rounding is allowed.
            let nanosecond = Duration::from_nanos(1);
            prop_assert!(times.due(intended + nanosecond) > number);
            prop_assert!(number == 0 || times.due(intended - nanosecond) <= number);
        }
    }

    #[tokio::test]
    async fn times_stay_as_intended_while_nobody_takes_them() {
        let schedule = Schedule::start(1000.0, Duration::from_millis(100), 2);
        // Nobody is there for longer than the schedule goes.
        sleep(Duration::from_millis(150)).await;
        let mut taken = Vec::new();
        while let Some(intended) = schedule.next().await {
            taken.push(intended);
        }
        assert_eq!(taken.len(), 100);
        let steps: Vec<Duration> = taken.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.iter().all(|step| step.abs_diff(Duration::from_millis(1)).as_micros() < 2), "{steps:?}");
    }

    #[tokio::test]
    async fn nothing_is_let_go_early_and_every_connection_hears_of_the_end() {
        let schedule = Schedule::start(200.0, Duration::from_millis(50), 3);
        while let Some(intended) = schedule.next().await {
            assert!(intended <= Instant::now());
        }
        for _ in 1..3 {
            let next = timeout(Duration::from_secs(5), schedule.next()).await;
            assert_eq!(next.expect("it hears"), None);
        }
    }
}

//! The load: many connections on one thread.
//!
//! In a closed loop every connection sends its next request when the last one is answered. In an open loop requests
//! have times at which they are meant to begin ([`Schedule`]), and latency counts from those. Every answer is
//! checked.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use futures::future::try_join_all;
use hdrhistogram::Histogram;
use rustix::process::{Pid, getpid};
use tokio::{
    runtime::Builder,
    task::{LocalSet, spawn_local},
    time::{sleep, timeout},
};

use super::{
    connection::{Connection, Target},
    schedule::Schedule,
    usage::{Usage, processor_time},
};

/// How long the last answers may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longest latency that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(60);
/// Steps from one key to the next. Prime to every number of keys in use, so that all have their turn.
const STRIDE: u64 = 7919;

/// How requests follow each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As soon as the last one is answered.
    Closed,
    /// So many a second, over all connections.
    Open(f64),
}

/// What is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Requests and who gets them: the first connection has the first one, and so on in turn.
    pub targets: Vec<Target>,
    /// Keys that it goes through.
    pub keys: u64,
    /// Connections.
    pub connections: usize,
    /// How requests follow each other.
    pub pace: Pace,
    /// How long it goes on before it counts.
    pub warm_up: Duration,
    /// How long it counts.
    pub length: Duration,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Operations that succeeded.
    pub operations: u64,
    /// Operations that did not.
    pub failed: u64,
    /// What the first of them was answered with.
    pub failure: Option<String>,
    /// How long it counted.
    pub elapsed: Duration,
    /// Latencies of operations that succeeded, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Processor time of the servers.
    pub servers: Duration,
    /// Processor time of this process.
    pub client: Duration,
    /// Memory of the servers at the end, in KiB.
    pub resident_kib: u64,
}

/// What the connections share.
struct Shared {
    keys: u64,
    next: Cell<u64>,
    /// Whether what ends now counts.
    counts: Cell<bool>,
    ended: Cell<bool>,
    operations: Cell<u64>,
    failed: Cell<u64>,
    failure: RefCell<Option<String>>,
    latencies: RefCell<Histogram<u64>>,
}

impl Shared {
    fn new(keys: u64) -> anyhow::Result<Self> {
        let longest = u64::try_from(LONGEST.as_nanos()).context("a latency")?;
        Ok(Self {
            keys,
            next: Cell::new(0),
            counts: Cell::new(false),
            ended: Cell::new(false),
            operations: Cell::new(0),
            failed: Cell::new(0),
            failure: RefCell::new(None),
            latencies: RefCell::new(Histogram::new_with_bounds(1, longest, 3).context("a histogram")?),
        })
    }

    fn next_key(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        number.wrapping_mul(STRIDE) % self.keys
    }

    fn record(&self, latency: Duration, failure: Option<String>) {
        match failure {
            None => {
                self.operations.set(self.operations.get() + 1);
                let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
                self.latencies.borrow_mut().saturating_record(nanoseconds);
            }
            Some(failure) => {
                self.failed.set(self.failed.get() + 1);
                self.failure.borrow_mut().get_or_insert(failure);
            }
        }
    }
}

/// Carries a plan out, on a thread of its own, while the resources of `servers` are watched.
///
/// # Errors
/// When connections break or answers do not come. Answers that are wrong are counted instead.
pub async fn measure(plan: Plan, servers: Vec<Pid>) -> anyhow::Result<Sample> {
    let measured = tokio::task::spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime")?;
        LocalSet::new().block_on(&runtime, drive(plan, &servers))
    });
    measured.await.context("the load")?
}

async fn drive(plan: Plan, servers: &[Pid]) -> anyhow::Result<Sample> {
    let Plan { targets, keys, connections, pace, warm_up, length } = plan;
    let shared = Rc::new(Shared::new(keys)?);
    let opened = try_join_all(targets.iter().cycle().take(connections).map(Connection::open));
    let opened = timeout(PATIENCE, opened).await.context("connections")??;
    let begun = Instant::now();
    let counted = begun + warm_up..begun + warm_up + length;
    let schedule = match pace {
        Pace::Closed => None,
        Pace::Open(per_second) => Some(Rc::new(Schedule::start(per_second, warm_up + length, connections))),
    };
    let workers: Vec<_> = opened
        .into_iter()
        .map(|connection| match &schedule {
            None => spawn_local(closed(connection, shared.clone())),
            Some(schedule) => spawn_local(open(connection, shared.clone(), schedule.clone(), counted.clone())),
        })
        .collect();
    sleep(warm_up).await;
    let (from, servers_before, client_before) = (Instant::now(), Usage::of(servers)?, processor_time(getpid())?);
    shared.counts.set(true);
    sleep(length).await;
    shared.counts.set(false);
    let (elapsed, servers_after, client_after) = (from.elapsed(), Usage::of(servers)?, processor_time(getpid())?);
    shared.ended.set(true);
    for worker in timeout(PATIENCE, try_join_all(workers)).await.context("the last answers")?? {
        worker?;
    }
    Ok(Sample {
        operations: shared.operations.get(),
        failed: shared.failed.get(),
        failure: shared.failure.take(),
        elapsed,
        latencies: shared.latencies.borrow().clone(),
        servers: servers_after.processor.saturating_sub(servers_before.processor),
        client: client_after.saturating_sub(client_before),
        resident_kib: servers_after.resident_kib,
    })
}

/// Counts what ends while it counts: then operations in a time are a rate, whenever they began.
async fn closed(mut connection: Connection, shared: Rc<Shared>) -> anyhow::Result<()> {
    while !shared.ended.get() {
        let begun = Instant::now();
        let failure = connection.exchange(shared.next_key()).await?;
        if shared.counts.get() {
            shared.record(begun.elapsed(), failure);
        }
    }
    Ok(())
}

/// Counts what was meant to begin while it counts, however late it ends: the slow ones would be left out otherwise.
async fn open(
    mut connection: Connection,
    shared: Rc<Shared>,
    schedule: Rc<Schedule>,
    counted: std::ops::Range<Instant>,
) -> anyhow::Result<()> {
    while let Some(intended) = schedule.next().await {
        let failure = connection.exchange(shared.next_key()).await?;
        if counted.contains(&intended) {
            shared.record(intended.elapsed(), failure);
        }
    }
    Ok(())
}

/// Sends the request for every key once.
///
/// # Errors
/// As [`measure`], and when an answer is wrong.
pub async fn fill(target: Target, keys: u64, connections: usize) -> anyhow::Result<()> {
    let filled = tokio::task::spawn_blocking(move || {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime")?;
        LocalSet::new().block_on(&runtime, async move {
            let next = Rc::new(Cell::new(0));
            let workers = (0..connections).map(|_| fill_some(&target, keys, next.clone()));
            try_join_all(workers).await.map(|_| ())
        })
    });
    filled.await.context("the load")?
}

async fn fill_some(target: &Target, keys: u64, next: Rc<Cell<u64>>) -> anyhow::Result<()> {
    let mut connection = Connection::open(target).await?;
    while next.get() < keys {
        let key = next.replace(next.get() + 1);
        let failure = connection.exchange(key).await?;
        ensure!(failure.is_none(), "key {key}: {}", failure.unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        sync::watch,
    };

    use super::*;
    use crate::bench::{answer::Expected, request::Request};

    const GOOD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood";
    const BAD: &str = "HTTP/1.1 500 No\r\nContent-Length: 3\r\n\r\nbad";

    /// A server that gives these answers in turn, and none while it is halted.
    async fn server(answers: &'static [&'static str], halted: watch::Receiver<bool>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a port");
        let given = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (mut halted, given) = (halted.clone(), given.clone());
                tokio::spawn(async move {
                    while read_request(&mut stream).await {
                        halted.wait_for(|halted| !halted).await.expect("the test goes on");
                        let number = given.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        let answer = answers[number % answers.len()];
                        stream.write_all(answer.as_bytes()).await.expect("the client reads");
                    }
                });
            }
        });
        address
    }

    async fn read_request(stream: &mut TcpStream) -> bool {
        let mut input = Vec::new();
        while !input.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut input).await.unwrap_or(0) == 0 {
                return false;
            }
        }
        true
    }

    fn plan(address: SocketAddr, pace: Pace) -> Plan {
        let request = Request::get(address, "/get/k00000000").expect("one key");
        let target = Target { address, request, expected: Expected::http("good") };
        let (warm_up, length) = (Duration::from_millis(20), Duration::from_millis(400));
        Plan { targets: vec![target], keys: 10, connections: 4, pace, warm_up, length }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_closed_loop_counts_good_answers_and_wrong_ones() {
        let (_go_on, halted) = watch::channel(false);
        let address = server(&[GOOD, GOOD, GOOD, BAD], halted).await;
        let sample = measure(plan(address, Pace::Closed), vec![getpid()]).await.expect("it answers");
        assert!(sample.operations > 10 && sample.failed > 1, "{sample:?}");
        let share = sample.failed as f64 / (sample.operations + sample.failed) as f64;
        assert!((share - 0.25).abs() < 0.1, "{sample:?}");
        assert_eq!(sample.latencies.len(), sample.operations);
        assert_eq!(sample.failure.as_deref(), Some("500 bad"));
        assert!(sample.elapsed >= Duration::from_millis(400) && sample.resident_kib > 0, "{sample:?}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_open_loop_keeps_its_rate_and_a_pause_shows_in_everything_that_falls_into_it() {
        let (halt, halted) = watch::channel(false);
        let address = server(&[GOOD], halted).await;
        let pausing = tokio::spawn(async move {
            sleep(Duration::from_millis(120)).await;
            halt.send_replace(true);
            sleep(Duration::from_millis(200)).await;
            halt.send_replace(false);
            // As long as the server answers.
            halt
        });
        let sample = measure(plan(address, Pace::Open(500.0)), vec![getpid()]).await.expect("it answers");
        assert_eq!(sample.failed, 0);
        assert!((195..=201).contains(&sample.operations), "400 ms at 500 a second: {}", sample.operations);
        // Half of the time the server was halted, so half of all operations were held up; in a closed loop it would
        // have been one for each connection. The first ones waited for nearly all of the pause.
        let long = sample.latencies.count_between(20_000_000, u64::MAX);
        assert!(long > 60, "{long} took long");
        assert!(sample.latencies.max() > 150_000_000, "{}", sample.latencies.max());
        pausing.await.expect("it paused");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn filling_asks_for_every_key_once_and_tells_of_a_wrong_answer() {
        let (_go_on, halted) = watch::channel(false);
        let good = server(&[GOOD], halted.clone()).await;
        let target = |address| plan(address, Pace::Closed).targets.remove(0);
        fill(target(good), 25, 4).await.expect("all are good");
        let bad = server(&[GOOD, BAD], halted).await;
        let error = fill(target(bad), 25, 4).await.expect_err("some are bad");
        assert!(error.to_string().contains("500 bad"), "{error:#}");
    }

    #[test]
    fn all_keys_have_their_turn() {
        for keys in [1, 10, 64, 1000, 10_000, 16_384] {
            let shared = Shared::new(keys).expect("bounds");
            let mut seen: Vec<u64> = (0..keys).map(|_| shared.next_key()).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..keys).collect::<Vec<_>>());
        }
    }
}

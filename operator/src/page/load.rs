//! A small load, so that a person sees something move: some clients, each with one write under way.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::http::StatusCode;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::source::Refused;

/// The most clients there can be.
pub(super) const MOST_CLIENTS: usize = 64;
/// The keys that are written, over and over.
const KEYS: u64 = 100;
/// How long a client waits after a write that was not taken.
const PAUSE: Duration = Duration::from_millis(100);

/// What the load does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct LoadState {
    clients: usize,
    acked: u64,
    failed: u64,
    /// Why the last write that failed did.
    error: Option<String>,
}

#[derive(Debug)]
struct Running {
    clients: usize,
    /// Ends the clients when dropped.
    _stop: DropGuard,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    next: AtomicU64,
    acked: AtomicU64,
    failed: AtomicU64,
    error: Mutex<Option<String>>,
}

/// The load on one store.
#[derive(Debug, Default)]
pub(super) struct Load(Mutex<Option<Running>>);

impl Load {
    /// So many clients from now on; none ends it.
    pub(super) fn set(
        &self,
        clients: usize,
        http: &reqwest::Client,
        leader: &watch::Receiver<Option<String>>,
    ) -> Result<(), Refused> {
        if clients > MOST_CLIENTS {
            let error = format!("{clients} clients are too many: 0 to {MOST_CLIENTS}");
            return Err(Refused::new(StatusCode::BAD_REQUEST, error));
        }
        let mut running = self.lock();
        *running = None;
        if clients > 0 {
            let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
            for _ in 0..clients {
                let client = Client { http: http.clone(), leader: leader.clone(), counts: Arc::clone(&counts) };
                let stopped = stop.clone();
                tokio::spawn(async move { stopped.run_until_cancelled(client.run()).await });
            }
            *running = Some(Running { clients, _stop: stop.drop_guard(), counts });
        }
        Ok(())
    }

    /// Ends it.
    pub(super) fn stop(&self) {
        *self.lock() = None;
    }

    pub(super) fn state(&self) -> LoadState {
        let running = self.lock();
        let Some(Running { clients, counts, .. }) = &*running else { return LoadState::default() };
        let (acked, failed) = (counts.acked.load(Ordering::Relaxed), counts.failed.load(Ordering::Relaxed));
        LoadState { clients: *clients, acked, failed, error: counts.error().clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.0.lock().expect("nobody panics while holding the load")
    }
}

impl Counts {
    fn error(&self) -> MutexGuard<'_, Option<String>> {
        self.error.lock().expect("nobody panics while holding the last error")
    }
}

struct Client {
    http: reqwest::Client,
    leader: watch::Receiver<Option<String>>,
    counts: Arc<Counts>,
}

impl Client {
    async fn run(self) {
        loop {
            let number = self.counts.next.fetch_add(1, Ordering::Relaxed);
            match self.write(number).await {
                Ok(()) => {
                    self.counts.acked.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    self.counts.failed.fetch_add(1, Ordering::Relaxed);
                    *self.counts.error() = Some(error);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn write(&self, number: u64) -> Result<(), String> {
        let leader = self.leader.borrow().clone().ok_or("there is no leader to write to")?;
        let body = json!({"key": format!("page-load-{}", number % KEYS), "value": number});
        let sent = self.http.post(format!("{leader}/set")).json(&body).send().await;
        let answer = sent.map_err(|error| error.without_url().to_string())?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| error.without_url().to_string())?;
        if status.is_success() { Ok(()) } else { Err(format!("{} {text}", status.as_u16())) }
    }
}

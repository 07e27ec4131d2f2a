//! What stands between an operator and its API server, and ends the operator at one of its writes.
//!
//! The operator is told to call it instead of the API server, without TLS. Writes are counted in the order in which
//! they come; that of the lease is not among them, which comes by the clock.

use std::{
    fs,
    future::pending,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::Context as _;
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use kube::{Client, client};
use serde_json::json;
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::task::AbortOnDropHandle;

use super::control_plane::kubeconfig;

/// Bodies of requests are objects.
const LARGEST: usize = 4 << 20;

/// When an operator ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the write with this number, counted from one, reaches the API server.
    Before(usize),
    /// After the API server has done it, and before the operator hears of it.
    After(usize),
}

/// A proxy for one operator. Ends when it is dropped.
pub struct Proxy {
    inner: Arc<Inner>,
    address: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

struct Inner {
    client: Client,
    moment: Option<Moment>,
    counted: Mutex<Counted>,
    struck: Notify,
}

#[derive(Default)]
struct Counted {
    /// Every write, as verb and path.
    writes: Vec<String>,
    /// The operator is about to end, and gets no answer any more.
    ending: bool,
    /// The write at which it ended.
    ended_at: Option<String>,
}

impl Proxy {
    /// One that sends on with this client. Without a moment it only counts.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(client: Client, moment: Option<Moment>) -> anyhow::Result<Self> {
        let inner = Arc::new(Inner { client, moment, counted: Mutex::default(), struck: Notify::new() });
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port of loopback")?;
        let address = listener.local_addr()?;
        let router = Router::new().fallback(handle).with_state(Arc::clone(&inner));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("it accepts") });
        Ok(Self { inner, address, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Writes a kubeconfig that leads here.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, folder: &Path, name: &str) -> anyhow::Result<PathBuf> {
        let path = folder.join(format!("{name}.kubeconfig"));
        let config = kubeconfig(&json!({"server": format!("http://{}", self.address)}), &json!({}));
        fs::write(&path, config).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Waits until the operator has to end. It gets no answer until it [may begin anew](Self::begin_anew).
    pub async fn struck(&self) {
        self.inner.struck.notified().await;
    }

    /// Lets another operator in, or the same one again.
    pub fn begin_anew(&self) {
        self.inner.lock().ending = false;
    }

    /// Every write so far, as verb and path.
    #[must_use]
    pub fn writes(&self) -> Vec<String> {
        self.inner.lock().writes.clone()
    }

    /// The write at which the operator was ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<String> {
        self.inner.lock().ended_at.clone()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().expect("nobody panics while counting")
    }

    /// Counts a request, and says whether it is the one; none while the operator is about to end.
    fn count(&self, request: &Request) -> Option<Option<Moment>> {
        let mut counted = self.lock();
        if counted.ending {
            return None;
        }
        let path = request.uri().path();
        if request.method() == Method::GET || path.contains("/leases") {
            return Some(None);
        }
        let write = format!("{} {path}", request.method());
        counted.writes.push(write.clone());
        let number = counted.writes.len();
        let moment = self.moment.filter(|(Moment::Before(at) | Moment::After(at))| *at == number);
        if moment.is_some() {
            counted.ending = true;
            counted.ended_at = Some(write);
        }
        Some(moment)
    }

    async fn send_on(&self, request: Request) -> Result<Response, StatusCode> {
        let (mut parts, body) = request.into_parts();
        for name in [header::HOST, header::CONNECTION, header::AUTHORIZATION] {
            parts.headers.remove(name);
        }
        let body = to_bytes(body, LARGEST).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
        let request = Request::from_parts(parts, client::Body::from(body.to_vec()));
        let answer = self.client.send(request).await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        Ok(answer.map(Body::new))
    }
}

async fn handle(State(inner): State<Arc<Inner>>, request: Request) -> Response {
    let Some(moment) = inner.count(&request) else { return pending().await };
    if let Some(Moment::Before(_)) = moment {
        inner.struck.notify_one();
        return pending().await;
    }
    let answer = inner.send_on(request).await.unwrap_or_else(|status| status.into_response());
    if moment.is_some() {
        // All of it, for the write to be over.
        to_bytes(answer.into_body(), LARGEST).await.ok();
        inner.struck.notify_one();
        return pending().await;
    }
    answer
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kube::Config;
    use tokio::time::timeout;

    use super::*;

    /// A server that takes everything, and remembers what came.
    async fn server() -> (Client, Arc<Mutex<Vec<String>>>) {
        let came = Arc::new(Mutex::new(Vec::new()));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let remembered = Arc::clone(&came);
        let router = Router::new().fallback(async move |request: Request| {
            remembered.lock().expect("not poisoned").push(format!("{} {}", request.method(), request.uri()));
            "done"
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = Config::new(format!("http://{address}").parse().expect("an address"));
        (Client::try_from(config).expect("a client"), came)
    }

    async fn call(proxy: &Proxy, method: Method, path: &str) -> Option<String> {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let sent = http.request(method, format!("http://{}{path}", proxy.address)).send();
        let answer = timeout(Duration::from_millis(300), sent).await.ok()?.expect("an answer");
        answer.text().await.ok()
    }

    #[tokio::test]
    async fn an_operator_ends_before_or_after_the_write_and_hears_of_neither() {
        for (moment, arrived) in [(Moment::Before(2), false), (Moment::After(2), true)] {
            let (client, came) = server().await;
            let proxy = Proxy::start(client, Some(moment)).await.expect("it listens");
            assert_eq!(call(&proxy, Method::GET, "/pods?watch=1").await.as_deref(), Some("done"));
            assert_eq!(call(&proxy, Method::POST, "/secrets").await.as_deref(), Some("done"));
            assert_eq!(call(&proxy, Method::PATCH, "/leases/one").await.as_deref(), Some("done"), "no reconcile's");
            assert_eq!(call(&proxy, Method::PATCH, "/services/one").await, None);
            assert_eq!(call(&proxy, Method::GET, "/pods").await, None, "a process that ends hears nothing");
            timeout(Duration::from_secs(5), proxy.struck()).await.expect("told");
            let last = came.lock().expect("not poisoned").last().cloned();
            assert_eq!(last.as_deref() == Some("PATCH /services/one"), arrived, "{last:?}");
            assert_eq!(proxy.ended_at().as_deref(), Some("PATCH /services/one"));
            proxy.begin_anew();
            assert_eq!(call(&proxy, Method::PATCH, "/services/one").await.as_deref(), Some("done"), "once");
            assert_eq!(proxy.writes().len(), 3);
        }
    }
}

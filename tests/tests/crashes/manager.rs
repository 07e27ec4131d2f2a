//! The operator's passes over a store, with a gate before every effect they have.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::Response,
};
use quorumkv_api::{MAX_BODY_BYTES, NodeId, client::PeerClient, peer::Member};
use quorumkv_operator::{
    decide::{self, Leadership, NodeView, Roll},
    manage::{self, ANSWER_TIMEOUT, Memory, Pass, PassError},
    record::{Platform, Record, RecordError, Versioned},
    scale::Scale,
};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{
    gate::{Fate, Gate},
    record::SharedRecord,
    world::{PATIENCE, World},
};

/// Pause between two passes; while only time can help, longer, since each pass there is like the one before.
const PAUSE: Duration = Duration::from_millis(150);
const LONG_PAUSE: Duration = Duration::from_millis(600);

/// How long nodes may take to hold the same before they stop as they are.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// How a manager ended its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// What was waited for has come.
    Done,
    /// Its gate let it die.
    Died,
}

/// One manager with a memory of its own. Dropped, it is gone in the middle of whatever it did.
pub(crate) struct Manager<'a> {
    world: &'a World,
    gate: Arc<Gate>,
    platform: Gated,
    client: PeerClient,
    memory: Memory,
    began: Instant,
    /// Before its first pass it has seen nothing of the record; later it has a cache that is told of changes.
    passed: bool,
    journal: Vec<String>,
    _proxy: AbortOnDropHandle<()>,
}

impl<'a> Manager<'a> {
    pub(crate) async fn start(world: &'a World, fate: Fate) -> anyhow::Result<Self> {
        let gate = Gate::new(fate);
        let (proxy, task) = start_proxy(Arc::clone(&gate)).await?;
        let http = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).proxy(reqwest::Proxy::http(proxy)?).build()?;
        Ok(Self {
            world,
            platform: Gated { gate: Arc::clone(&gate), record: Arc::clone(&world.record) },
            gate,
            client: PeerClient::over(http, None),
            memory: Memory::default(),
            began: Instant::now(),
            passed: false,
            journal: Vec::new(),
            _proxy: task,
        })
    }

    pub(crate) const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Makes passes until one of them finds everything as it shall be.
    pub(crate) async fn until_good(&mut self) -> anyhow::Result<End> {
        let world = self.world;
        self.work(PATIENCE, |pass| is_good(world, pass)).await
    }

    /// Makes passes until `done`, or until it dies.
    pub(crate) async fn work(&mut self, within: Duration, done: impl Fn(&Pass) -> bool) -> anyhow::Result<End> {
        let began = Instant::now();
        let gate = Arc::clone(&self.gate);
        let mut seen = String::new();
        loop {
            let pass = tokio::select! {
                biased;
                () = gate.died().cancelled() => return Ok(End::Died),
                pass = self.look() => pass,
            };
            let mut pause = PAUSE;
            match pass {
                Ok(None) => {}
                Ok(Some(pass)) => {
                    let told = pass.happenings.iter().map(|happening| format!("{:?} {happening}", began.elapsed()));
                    self.journal.extend(told);
                    if done(&pass) {
                        return Ok(End::Done);
                    }
                    if matches!(pass.leadership, Leadership::Settling | Leadership::Suspect) {
                        pause = LONG_PAUSE;
                    }
                    seen = format!("{:?}, {:?}", pass.leadership, pass.record);
                }
                Err(error) => match error.downcast_ref() {
                    Some(PassError::Record(RecordError::Conflict)) => self.journal.push("conflict".to_owned()),
                    _ => bail!(error),
                },
            }
            ensure!(
                began.elapsed() < within,
                "the manager does not get there within {within:?}: {seen}\n{}\n{}",
                self.journal.join("\n"),
                self.world.output_end()
            );
            tokio::select! {
                biased;
                () = gate.died().cancelled() => return Ok(End::Died),
                () = sleep(pause) => {}
            }
        }
    }

    /// A pass with what it asks for; none while nodes are told not to run. How far a store is that shall sleep stands in
    /// the world.
    async fn look(&mut self) -> anyhow::Result<Option<Pass>> {
        let world = self.world;
        match world.stage() {
            (false, false) => {
                self.memory = Memory::default();
                self.gate.step("start", true, world.scale(true)).await?;
                Ok(None)
            }
            (true, false) => {
                if !world.sleeps() {
                    manage::leave_nobody_leading(&self.platform).await.map_err(PassError::Record)?;
                    self.gate.step("stop", true, world.scale(false)).await?;
                }
                Ok(None)
            }
            (true, true) => {
                let (store, nodes, known) = (world.wanted(), world.known(), world.record.read().record);
                let (memory, in_time) = (&mut self.memory, self.began.elapsed() < SETTLES_WITHIN);
                let settling =
                    manage::settle(&self.platform, &self.client, &store, nodes, known, memory, in_time).await?;
                if settling.may_stop {
                    self.gate.step("stop", true, world.scale(false)).await?;
                }
                Ok(Some(settling.pass))
            }
            (false, true) => {
                let pass = self.pass().await?;
                if let Roll::Replace(node) = &pass.roll {
                    self.gate.step("renew", true, world.replace(node)).await?;
                }
                Ok(Some(pass))
            }
        }
    }

    async fn pass(&mut self) -> Result<Pass, PassError> {
        let (store, nodes) = (self.world.wanted(), self.world.known());
        let known = std::mem::replace(&mut self.passed, true).then(|| self.world.record.read().record);
        let known = known.unwrap_or_default();
        manage::pass(&self.platform, &self.client, &store, nodes, known, &mut self.memory).await
    }
}

/// An active leader, every copy recorded and counted, the wanted settings in force, no wish open, no node outdated,
/// and nothing asleep.
fn is_good(world: &World, pass: &Pass) -> bool {
    let store = world.wanted();
    let situation = pass.situation(&store);
    let recorded = |view: &NodeView| {
        let copy = |storage_id| Member { name: view.address.node.clone(), storage_id };
        view.state.as_ref().is_some_and(|state| pass.record.members.contains(&copy(state.storage_id)))
    };
    let in_force = situation.leader_state().and_then(|state| state.settings).map(|entry| entry.settings);
    pass.leadership == Leadership::Active
        && decide::is_whole(&situation)
        && pass.nodes.iter().all(recorded)
        && in_force == Some(store.settings)
        && pass.scale == Scale::Done
        && store.switchover_to.is_none()
        && pass.roll == Roll::Done
        && world.stage() == (false, true)
}

/// The shared record behind a gate.
struct Gated {
    gate: Arc<Gate>,
    record: Arc<SharedRecord>,
}

impl Platform for Gated {
    async fn record(&self) -> Result<Versioned, RecordError> {
        let record = Arc::clone(&self.record);
        self.gate.step("read", false, async move { Ok(record.read()) }).await
    }

    async fn replace(&self, read: &Versioned, new: Record) -> Result<Versioned, RecordError> {
        let (record, read) = (Arc::clone(&self.record), read.clone());
        self.gate.step("replace", true, async move { record.replace(&read, new) }).await
    }

    async fn withdraw_switchover(&self, wanted: &NodeId) -> Result<bool, RecordError> {
        let (record, wanted) = (Arc::clone(&self.record), wanted.clone());
        self.gate.step("withdraw", true, async move { Ok(record.withdraw(&wanted)) }).await
    }
}

#[derive(Clone)]
struct Proxy {
    gate: Arc<Gate>,
    http: reqwest::Client,
}

/// Starts an HTTP proxy that carries a manager's calls through its gate; its URL.
async fn start_proxy(gate: Arc<Gate>) -> anyhow::Result<(String, AbortOnDropHandle<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let http = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).no_proxy().build()?;
    let router = Router::new().fallback(carry).with_state(Proxy { gate, http });
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap_or_default() });
    Ok((url, AbortOnDropHandle::new(serving)))
}

/// A call that gets no answer is answered by something that no node says, which the manager takes for none.
async fn carry(State(Proxy { gate, http }): State<Proxy>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let what = ["state", "fence", "promote", "members", "settings"]
        .into_iter()
        .find(|path| parts.uri.path().trim_start_matches('/') == *path)
        .expect("a manager calls nothing else");
    let changes = parts.method != Method::GET;
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
    let call = async move {
        let request = http.request(parts.method, parts.uri.to_string());
        let response = request.header(header::CONTENT_TYPE, "application/json").body(body).send().await?;
        Ok::<_, reqwest::Error>((response.status(), response.bytes().await?))
    };
    let (status, body) = gate.step(what, changes, call).await.unwrap_or((StatusCode::BAD_GATEWAY, Default::default()));
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
}

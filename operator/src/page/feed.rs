//! One store, watched while somebody looks: its nodes are asked four times a second, once for all pages.
//!
//! Every node is asked by a request of its own, so that one that is slow or dead holds nothing up; a frame is
//! made of what has been answered by then. A page that takes frames too slowly gets the whole history again
//! instead of a queue that grows.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use quorumkv_api::{NodeId, lab::StatusReply};
use serde::Serialize;
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{
    frame::{self, Frame, NodeState, Nodes, Point},
    load::Load,
    news::{Item, News, now_ms},
    source::{NodeInfo, Source, StoreName, StoreView},
    window::Window,
};
use crate::decide::Presence;

/// Time from one frame to the next.
const TICK: Duration = Duration::from_millis(250);
/// A node that has not answered for so long does not answer.
const FRESH: Duration = Duration::from_millis(1500);
/// How long a node may take to answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a store is watched after the last page was closed: somebody may just have loaded it again.
const LINGER: Duration = Duration::from_secs(10);
/// Frames a page may be behind.
const BEHIND: usize = 16;
/// How many pages may be open on one store.
const MOST_PAGES: usize = 100;
/// How far the lines reach back: five minutes of every second frame.
const POINTS: usize = 600;

/// What a page begins with.
#[derive(Debug, Serialize)]
struct History<'a> {
    points: &'a VecDeque<Point>,
    news: Vec<Item>,
}

/// One store.
#[derive(Debug)]
pub(super) struct Feed {
    store: StoreName,
    http: reqwest::Client,
    news: News,
    frames: broadcast::Sender<Arc<str>>,
    leader: watch::Sender<Option<String>>,
    load: Load,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Whether the store is being watched.
    running: bool,
    points: VecDeque<Point>,
    /// The last line that frames have told.
    told: u64,
}

/// The history, and the frames that come after it.
pub(super) type Subscription = (String, broadcast::Receiver<Arc<str>>);

impl Feed {
    pub(super) fn new(store: StoreName, http: reqwest::Client, news: News) -> Self {
        let (frames, leader) = (broadcast::Sender::new(BEHIND), watch::Sender::new(None));
        Self { store, http, news, frames, leader, load: Load::default(), kept: Mutex::default() }
    }

    /// For a page; none if there are too many.
    pub(super) fn subscribe<S: Source>(self: &Arc<Self>, source: &Arc<S>) -> Option<Subscription> {
        if self.frames.receiver_count() >= MOST_PAGES {
            return None;
        }
        let mut kept = self.kept();
        let receiver = self.frames.subscribe();
        if !kept.running {
            kept.running = true;
            let (_, last) = self.news.since(&self.store, 0);
            kept.told = last;
            let watcher = Watcher { feed: Arc::clone(self), source: Arc::clone(source) };
            tokio::spawn(watcher.run());
        }
        Some((self.history(&kept), receiver))
    }

    /// For a page that was too slow.
    pub(super) fn subscribe_again(&self) -> Subscription {
        let kept = self.kept();
        (self.history(&kept), self.frames.subscribe())
    }

    fn history(&self, kept: &Kept) -> String {
        // What has not been told comes with the next frame.
        let (mut news, _) = self.news.since(&self.store, 0);
        news.retain(|item| item.id() <= kept.told);
        let history = History { points: &kept.points, news };
        serde_json::to_string(&history).expect("text and numbers serialize")
    }

    pub(super) fn load(&self, clients: usize) -> Result<(), super::Refused> {
        self.load.set(clients, &self.http, &self.leader.subscribe())
    }

    /// Whether a page is open, or was a moment ago.
    pub(super) fn is_watched(&self) -> bool {
        self.kept().running
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("nobody panics while holding what is kept")
    }
}

#[derive(Debug)]
struct Answer {
    at: Instant,
    status: StatusReply,
}

struct Watcher<S> {
    feed: Arc<Feed>,
    source: Arc<S>,
}

impl<S: Source> Watcher<S> {
    async fn run(self) {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut picture = Picture::default();
        let (mut asking, mut requests) = (HashSet::new(), JoinSet::new());
        let mut watched = Instant::now();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Some(answered) = requests.join_next() => {
                    let Ok((node, status)) = answered else { continue };
                    asking.remove(&node);
                    if let Some(status) = status {
                        picture.answers.insert(node, Answer { at: Instant::now(), status });
                    }
                    continue;
                }
            }
            if self.feed.frames.receiver_count() > 0 {
                watched = Instant::now();
            }
            let view = self.source.view(&self.feed.store);
            if self.ended(watched, view.is_none()) {
                return;
            }
            // A store that is gone shows its last picture until its pages are closed.
            let Some(view) = view else { continue };
            for NodeInfo { node, url, presence, .. } in &view.nodes {
                // The name of a pod that is not there takes long to be looked up in vain.
                let runs = matches!(presence, Presence::Running | Presence::Stopping);
                if runs && asking.insert(node.clone()) {
                    let (feed, source) = (Arc::clone(&self.feed), Arc::clone(&self.source));
                    requests.spawn(ask(feed, source, node.clone(), url.clone()));
                }
            }
            self.show(&mut picture, &view);
        }
    }

    /// Whether nobody looks any more. Decided under the lock, as is whether a new page needs a watcher.
    fn ended(&self, watched: Instant, gone: bool) -> bool {
        let mut kept = self.feed.kept();
        let unwatched = self.feed.frames.receiver_count() == 0;
        if unwatched && (gone || watched.elapsed() >= LINGER) {
            kept.running = false;
            self.feed.load.stop();
        }
        !kept.running
    }

    fn show(&self, picture: &mut Picture, view: &StoreView) {
        let Feed { store, news, frames, leader, load, .. } = &*self.feed;
        let (now, at) = (Instant::now(), now_ms());
        let nodes = picture.nodes(view, now);
        for (warning, line) in picture.changes(&nodes) {
            news.tell(store, "Connection", warning, line);
        }
        let url = nodes.leader.as_ref().and_then(|leader| view.nodes.iter().find(|info| info.node == *leader));
        leader.send_replace(url.map(|info| info.url.clone()));
        let (rate, mean_ms) = picture.window.moment(now);
        let point = Point { at, rate, mean_ms, theory_ms: nodes.theory_ms };
        let mut kept = self.feed.kept();
        picture.frames += 1;
        if picture.frames.is_multiple_of(2) {
            if kept.points.len() == POINTS {
                kept.points.pop_front();
            }
            kept.points.push_back(point);
        }
        let (news, told) = news.since(store, kept.told);
        kept.told = told;
        let frame = Frame {
            at,
            ready: view.ready,
            message: view.message.clone(),
            remark: view.remark.clone(),
            wanted: view.wanted.into(),
            nodes,
            point,
            latency: picture.window.distribution(now),
            load: load.state(),
            news,
        };
        let text = serde_json::to_string(&frame).expect("text and numbers serialize");
        // Nobody may be looking just now.
        frames.send(text.into()).ok();
    }
}

async fn ask<S: Source>(feed: Arc<Feed>, source: Arc<S>, node: NodeId, url: String) -> (NodeId, Option<StatusReply>) {
    let mut request = feed.http.get(format!("{url}/status?latencyBuckets=true")).timeout(ANSWER_TIMEOUT);
    if let Some(token) = source.token(&feed.store).await {
        request = request.bearer_auth(token);
    }
    let answer = async { request.send().await?.error_for_status()?.json::<StatusReply>().await };
    let status = answer.await.inspect_err(|error| tracing::debug!(%node, %error, "no status")).ok();
    // Another node may have got the address of one that is gone.
    let status = status.filter(|status| status.node == node);
    (node, status)
}

/// What has been seen of a store.
#[derive(Debug, Default)]
struct Picture {
    answers: HashMap<NodeId, Answer>,
    window: Window,
    frames: u64,
    states: HashMap<NodeId, NodeState>,
}

impl Picture {
    fn nodes(&mut self, view: &StoreView, now: Instant) -> Nodes {
        self.answers.retain(|_, answer| now.saturating_duration_since(answer.at) < FRESH);
        let fresh = self.answers.iter().map(|(node, answer)| (node.clone(), &answer.status)).collect();
        let nodes = frame::nodes(view, &fresh);
        if let Some(Answer { at, status }) = nodes.leader.as_ref().and_then(|leader| self.answers.get(leader)) {
            self.window.note(status, *at);
        }
        nodes
    }

    /// What the manager does not tell: who was lost from sight, and who is back.
    fn changes(&mut self, nodes: &Nodes) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        for node in &nodes.nodes {
            let before = self.states.insert(node.node.clone(), node.state);
            let line = match (before, node.state) {
                (Some(before), state) if before == state => None,
                (Some(_), NodeState::Silent) => Some((true, "does not answer")),
                (Some(_), NodeState::Down) => Some((true, "does not run")),
                (Some(_), NodeState::Disconnected) => Some((true, "is not connected to the leader")),
                (Some(NodeState::CatchingUp | NodeState::Disconnected), NodeState::Follows) => {
                    Some((false, "follows again"))
                }
                (Some(NodeState::Silent | NodeState::Down | NodeState::Halted), NodeState::Follows) => {
                    Some((false, "is back and follows"))
                }
                _ => None,
            };
            lines.extend(line.map(|(warning, text)| (warning, format!("{} {text}", node.node))));
        }
        lines
    }
}

//! The page of a local store: where it is served, what it shows, and what becomes of a wish made there.

use std::{
    future::IntoFuture as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::http::StatusCode;
use quorumkv_api::{NodeId, Settings};
use rustix::process::Signal;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{Local, LocalError, fleet::Controls, process::Control};
use crate::{
    manage::KnownNode,
    page::{
        Abilities, Change, Hosts, News, NodeAction, NodeInfo, Page, Refused, Source, StoreName, StoreView, http_client,
        router,
    },
    status::Summary,
};

/// Where the page is served if nobody says otherwise.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// How long a wish may wait for the pass that is under way.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last answers may take when everything ends.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// Where to serve the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageAt {
    /// Nowhere.
    Off,
    /// At this loopback address.
    Address(SocketAddr),
}

impl FromStr for PageAt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let port = text.parse().map(|port: u16| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let address = port.or_else(|_| text.parse());
        let address: SocketAddr = address.map_err(|_| "write off, a port, or an address such as 127.0.0.1:8080")?;
        if !address.ip().is_loopback() {
            return Err("only loopback: whoever reaches the page can stop nodes".to_owned());
        }
        Ok(Self::Address(address))
    }
}

/// What a page is served with.
#[derive(Debug)]
pub(super) struct Bound {
    /// Where, or why not.
    pub(super) place: String,
    port: Option<(tokio::net::TcpListener, reqwest::Client)>,
}

/// Takes the page's port. A port that nobody asked for and that is taken is no reason to run no store: then there
/// is no page, and a line says why.
pub(super) fn bind(asked: Option<PageAt>, taken_by_nodes: &[u16]) -> Result<Bound, LocalError> {
    let address = match asked {
        Some(PageAt::Off) => return Ok(Bound { place: "off".to_owned(), port: None }),
        Some(PageAt::Address(address)) => address,
        None => DEFAULT,
    };
    let listen = || {
        if taken_by_nodes.contains(&address.port()) {
            return Err(std::io::Error::other("a node of this store has it"));
        }
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok((format!("http://{}", listener.local_addr()?), tokio::net::TcpListener::from_std(listener)?))
    };
    match (listen(), asked) {
        (Ok((place, listener)), _) => {
            let http = http_client().map_err(|error| LocalError::Client(Box::new(error)))?;
            Ok(Bound { place, port: Some((listener, http)) })
        }
        (Err(source), Some(_)) => Err(LocalError::Page { address, source }),
        (Err(error), None) => {
            let place = format!("off: {address} cannot be used ({error}); --page ADDR serves it elsewhere");
            Ok(Bound { place, port: None })
        }
    }
}

/// A wish that only the manager can grant.
pub(super) type Wish = (Change, oneshot::Sender<Result<(), Refused>>);

/// The manager's side of the page.
pub(super) struct Desk {
    store: StoreName,
    news: News,
    shown: Arc<Mutex<Option<StoreView>>>,
    /// What people at pages wish for.
    pub(super) wishes: mpsc::Receiver<Wish>,
}

impl Desk {
    /// Shows what a pass found.
    pub(super) fn show(&self, summary: &Summary, wanted: Settings, remark: Option<String>, nodes: Vec<KnownNode>) {
        let nodes = nodes.into_iter().map(|KnownNode { address, presence, .. }| NodeInfo {
            node: address.node,
            url: address.client_url,
            presence,
            halted: false,
        });
        let (ready, message) = (summary.ready.holds, summary.ready.message.clone());
        *lock(&self.shown) = Some(StoreView { ready, message, wanted, remark, nodes: nodes.collect() });
    }

    /// For the page's log.
    pub(super) fn news(&self) -> (&News, &StoreName) {
        (&self.news, &self.store)
    }
}

impl Local<'_> {
    /// What a person at a page wishes for counts like a change of the manifest: the latest one wins.
    pub(super) fn grant(&mut self, (change, answer): Wish) {
        let store = &mut self.manifest.store;
        let outcome = match change {
            Change::Settings(patch) => {
                let settings = patch.over(store.settings);
                let valid = settings.validate(store.followers());
                valid.map(|()| store.settings = settings).map_err(|invalid| invalid.to_string())
            }
            Change::Switchover(node) if !store.nodes.contains(&node) => Err(format!("there is no node {node}")),
            Change::Switchover(node) => {
                *self.platform.wish() = Some(node);
                Ok(())
            }
            Change::Node { .. } => Err("processes are not changed here".to_owned()),
        };
        // Whoever wished may be gone.
        answer.send(outcome.map_err(|error| Refused::new(StatusCode::BAD_REQUEST, error))).ok();
    }

    /// What the manifest says, where a page was used to wish for something else.
    pub(super) fn remark(&self) -> Option<String> {
        let Settings { write_quorum, delay, write_timeout: _ } = self.in_file;
        let file = self.args.file.display();
        (self.in_file != self.manifest.store.settings)
            .then(|| format!("Changed here. {file} says writeQuorum {write_quorum}, delay {delay}."))
    }
}

/// The pages' side.
struct Processes {
    store: StoreName,
    file: String,
    news: News,
    shown: Arc<Mutex<Option<StoreView>>>,
    wishes: mpsc::Sender<Wish>,
    controls: Controls,
}

fn lock(shown: &Mutex<Option<StoreView>>) -> MutexGuard<'_, Option<StoreView>> {
    shown.lock().expect("nobody panics while holding the view")
}

/// A page that is served until `stop`, if it has a port.
pub(super) fn serve(
    bound: Bound,
    name: &str,
    file: &Path,
    controls: Controls,
    stop: &CancellationToken,
) -> (Desk, Option<JoinHandle<()>>) {
    let store = StoreName { namespace: "local".to_owned(), name: name.to_owned() };
    let (wishes, received) = mpsc::channel(8);
    let (news, shown) = (News::default(), Arc::default());
    let desk = Desk { store: store.clone(), news: news.clone(), shown: Arc::clone(&shown), wishes: received };
    let Some((listener, http)) = bound.port else { return (desk, None) };
    let source = Processes { store, file: file.display().to_string(), news: news.clone(), shown, wishes, controls };
    let page = Page::new(Arc::new(source), news, http, stop.clone());
    let (router, stop) = (router(Arc::new(page), Hosts::default()), stop.clone());
    let server = tokio::spawn(async move {
        let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        let serving = tokio::spawn(serving.into_future());
        stop.cancelled().await;
        // A client that keeps its connection open keeps nobody from ending.
        if let Ok(Ok(Err(error))) = timeout(LAST_ANSWERS, serving).await {
            tracing::warn!(%error, "the page could not be served");
        }
    });
    (desk, Some(server))
}

impl Processes {
    fn control(&self, node: &NodeId) -> Option<Control> {
        self.controls.lock().expect("nobody panics while holding the processes").get(node).cloned()
    }

    fn signal(&self, node: &NodeId, action: NodeAction) -> Result<(), Refused> {
        let unknown = || Refused::new(StatusCode::NOT_FOUND, format!("there is no node {node}"));
        let control = self.control(node).ok_or_else(unknown)?;
        let (signal, done) = match action {
            NodeAction::Halt => (Signal::STOP, "is halted (SIGSTOP)"),
            NodeAction::Continue => (Signal::CONT, "goes on (SIGCONT)"),
            NodeAction::Kill => (Signal::KILL, "is killed (SIGKILL)"),
        };
        if !control.send(signal) {
            return Err(Refused::new(StatusCode::CONFLICT, format!("{node} does not run")));
        }
        self.news.tell(&self.store, "Process", action != NodeAction::Continue, format!("{node} {done}, from the page"));
        Ok(())
    }
}

impl Source for Processes {
    fn abilities(&self) -> Abilities {
        Abilities { settings: true, switchover: true, nodes: true, load: true }
    }

    fn hint(&self) -> String {
        format!(
            "A change made here counts like a change of {}: the latest one wins. The file is not rewritten, and its \
             next change puts all of its settings in force.",
            self.file
        )
    }

    fn stores(&self) -> Vec<StoreName> {
        vec![self.store.clone()]
    }

    fn view(&self, store: &StoreName) -> Option<StoreView> {
        let mut view = lock(&self.shown).clone().filter(|_| *store == self.store)?;
        // Processes are looked at now; the rest is as the last pass found it.
        for info in &mut view.nodes {
            if let Some(control) = self.control(&info.node) {
                (info.presence, info.halted) = (control.presence(), control.is_halted());
            }
        }
        Some(view)
    }

    async fn change(&self, _: &StoreName, change: Change) -> Result<(), Refused> {
        if let Change::Node { node, action } = &change {
            return self.signal(node, *action);
        }
        let busy = |_| Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the manager is busy; try again");
        let (answer, answered) = oneshot::channel();
        self.wishes.send((change, answer)).await.map_err(|_| busy(()))?;
        timeout(PATIENCE, answered).await.map_err(|_| busy(()))?.map_err(|_| busy(()))?
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("off", Ok(PageAt::Off))]
    #[case("8090", Ok(PageAt::Address(([127, 0, 0, 1], 8090).into())))]
    #[case("127.0.0.1:0", Ok(PageAt::Address(([127, 0, 0, 1], 0).into())))]
    #[case("[::1]:8080", Ok(PageAt::Address((std::net::Ipv6Addr::LOCALHOST, 8080).into())))]
    #[case("0.0.0.0:8080", Err("only loopback"))]
    #[case("192.168.1.7:8080", Err("only loopback"))]
    #[case("localhost", Err("write off, a port"))]
    fn a_page_is_off_or_at_a_loopback_address(#[case] text: &str, #[case] expected: Result<PageAt, &str>) {
        match (text.parse::<PageAt>(), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_only_if_it_was_asked_for() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let asked = PageAt::Address(taken.local_addr().expect("bound"));
        let error = bind(Some(asked), &[]).expect_err("taken").to_string();
        assert!(error.contains("--page"), "{error}");
        let Bound { place, port } = bind(None, &[8080]).expect("no reason to give up");
        assert!(place.contains("127.0.0.1:8080") && place.contains("--page ADDR"), "{place}");
        assert!(port.is_none(), "a node has it");
        let Bound { place, port } = bind(Some(PageAt::Address((Ipv4Addr::LOCALHOST, 0).into())), &[]).expect("free");
        assert!(place.starts_with("http://127.0.0.1:") && port.is_some(), "{place}");
    }
}

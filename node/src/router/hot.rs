//! Connections of clients: `POST /set` and `GET /get/<key>` answered where they are read, all else by the router.
//!
//! Almost every request that matters for throughput is one of these two, whole in one read. Such a request is
//! recognized in the connection's buffer ([`request`]), checked and answered by the same functions as on the
//! router, and written out with every other answer that is ready ([`answer`]). The first request that is
//! anything else hands the connection over, with what was read of it, to hyper and the router, for good.
//!
//! Requests that are pipelined are begun together: writes stand in the log in the order in which they were
//! sent, a read waits for the answers to the writes before it, and answers leave in the order of the requests.

use std::{
    io::{self, Cursor},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use axum::{
    Router,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, join},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use self::{
    answer::Answers,
    request::{Hot, Seen, Wanted, has_head, look_at},
};
use super::{ClientPort, Connection, Undelayed, busy, reads, writes};
use crate::{
    answer::{ApiError, panicked},
    auth::Access,
    connections::{Door, Phase, Pulse, Seat, http},
    handle::Begun,
    metrics::requests::{Port, RouteMetrics, UnderWay},
};

mod answer;
mod request;

/// Bytes that are read at once, unless a request is larger.
const READ_BYTES: usize = 8 * 1024;

/// Buffers that grew beyond this shrink again.
const KEPT_BYTES: usize = 64 * 1024;

/// Answers are written when there are so many bytes of them, also while more could be made.
const WRITE_BYTES: usize = 64 * 1024;

/// Writes of one connection that may be under way.
const MOST_UNDER_WAY: usize = 256;

/// Serves clients until `until` is cancelled, and then until every request under way is answered.
pub(crate) async fn serve(listener: TcpListener, port: ClientPort, door: Arc<Door>, until: CancellationToken) {
    let watching = Arc::clone(&door).watch();
    tokio::select! {
        biased;
        () = accept(listener, port, door, until) => {}
        () = watching => {}
    }
}

async fn accept(listener: TcpListener, port: ClientPort, door: Arc<Door>, until: CancellationToken) {
    let mut listener = Undelayed(listener);
    let routers = Routers { all: super::router(port.clone()), busy: busy::router(port.clone()) };
    let requests = &port.driver.metrics.requests;
    let routes = Routes {
        set: requests.route(Port::Client, &Method::POST, "/set"),
        get: requests.route(Port::Client, &Method::GET, "/get/{key}"),
    };
    let connections = TaskTracker::new();
    loop {
        let (tcp, _) = tokio::select! {
            biased;
            () = until.cancelled() => break,
            accepted = axum::serve::Listener::accept(&mut listener) => accepted,
        };
        let Some(seat) = door.enter(Some(&tcp)) else { continue };
        let pulse = Arc::clone(seat.pulse());
        let (port, routers, until, routes) = (port.clone(), routers.clone(), until.clone(), routes.clone());
        let task = connections.spawn(async move {
            let client = Client { port, connection: Connection::default(), until, routes, seat };
            // A client may go at any time, and nobody else has to know.
            if let Err(error) = client.serve(tcp, routers).await {
                debug!(%error, "a connection broke");
            }
        });
        pulse.belongs_to(task.abort_handle());
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// The answer in place of what was asked for.
type Refused = Box<Response>;

/// A write that was begun, or refused before that.
type Asked = (UnderWay, Result<Begun, Refused>);

/// Counts the two requests as the router counts all others.
#[derive(Clone)]
struct Routes {
    set: RouteMetrics,
    get: RouteMetrics,
}

/// Who goes on with a connection.
#[derive(Clone)]
struct Routers {
    all: Router,
    /// For connections beyond the limit.
    busy: Router,
}

/// One connection.
struct Client {
    port: ClientPort,
    connection: Connection,
    until: CancellationToken,
    routes: Routes,
    seat: Seat,
}

impl Client {
    async fn serve(self, mut tcp: TcpStream, routers: Routers) -> io::Result<()> {
        if self.seat.pulse().is_beyond() {
            return self.hand_over(tcp, Vec::new(), routers.busy).await.map_err(io::Error::other);
        }
        match self.answer_hot(&mut tcp).await? {
            Some(unread) => self.hand_over(tcp, unread, routers.all).await.map_err(io::Error::other),
            None => tcp.shutdown().await,
        }
    }

    /// Answers requests as long as they are hot; what was read of one that is not, or none when the
    /// connection has to be closed.
    async fn answer_hot(&self, tcp: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
        let mut input = Vec::with_capacity(READ_BYTES);
        let mut answers = Answers::default();
        let mut cancelled = std::pin::pin!(self.until.cancelled());
        let pulse = self.seat.pulse();
        loop {
            input.reserve(READ_BYTES);
            let read = if input.is_empty() {
                tokio::select! {
                    biased;
                    read = tcp.read_buf(&mut input) => read?,
                    () = &mut cancelled => return Ok(None),
                }
            } else {
                tcp.read_buf(&mut input).await?
            };
            if read == 0 {
                return Ok(None);
            }
            let (before, continued) = (pulse.now(), read < input.len());
            pulse.set(Phase::Working);
            let (taken, cold) = self.answer_read(&input, &mut answers, tcp).await?;
            write(tcp, &mut answers, pulse).await?;
            if answers.is_last_given() {
                return Ok(None);
            }
            input.drain(..taken);
            let missing = if has_head(&input) { Phase::Body } else { Phase::Head };
            match (input.is_empty(), continued && taken == 0) {
                (true, _) => {
                    pulse.set(Phase::Idle);
                    input.shrink_to(KEPT_BYTES);
                }
                // What trickles in does not begin anew with every byte.
                (false, true) => pulse.still(before, missing),
                (false, false) => pulse.set(missing),
            }
            if cold {
                return Ok(Some(input));
            }
        }
    }

    /// Answers what is whole in `input`: the bytes that were taken from it, and whether what follows is for
    /// the router.
    async fn answer_read(&self, input: &[u8], answers: &mut Answers, tcp: &mut TcpStream) -> io::Result<(usize, bool)> {
        let mut under_way: Vec<Asked> = Vec::new();
        let mut taken = 0;
        let cold = loop {
            let (hot, bytes) = match look_at(&input[taken..]) {
                Seen::Part => break false,
                Seen::Cold => break true,
                Seen::Hot(hot, bytes) => (hot, bytes),
            };
            taken += bytes;
            self.connection.note(&self.port);
            let Hot { asked, authorization } = hot;
            match asked {
                Wanted::Set(body) => {
                    let request = self.routes.set.begin();
                    under_way.push((request, self.begin(body, authorization).await));
                }
                Wanted::Get(key) => {
                    self.settle(&mut under_way, answers).await;
                    self.get(key, authorization, answers).await;
                }
            }
            if under_way.len() >= MOST_UNDER_WAY {
                self.settle(&mut under_way, answers).await;
            }
            if answers.is_last_given() {
                break false;
            }
            if answers.bytes() >= WRITE_BYTES {
                write(tcp, answers, self.seat.pulse()).await?;
            }
        };
        self.settle(&mut under_way, answers).await;
        Ok((taken, cold))
    }

    async fn begin(&self, body: &[u8], authorization: Option<&[u8]>) -> Result<Begun, Refused> {
        let wish = guarded(|| {
            self.port.allows(authorization, Access::Write)?;
            writes::wish(&HeaderMap::new(), body).map(writes::Wish::operation)
        })?;
        Ok(self.port.driver.begin_write(wish).await)
    }

    /// Waits for the writes that were begun, and answers them in their order.
    async fn settle(&self, under_way: &mut Vec<Asked>, answers: &mut Answers) {
        for (request, begun) in under_way.drain(..) {
            let settled = match begun {
                Ok(begun) => {
                    let answer = begun.answer().await;
                    guarded(|| writes::settle(&self.port.driver, answer))
                }
                Err(refused) => Err(refused),
            };
            let closing = self.until.is_cancelled();
            request.answered(status(&settled));
            match settled {
                Ok(done) => answers.put_json(closing, |body| done.put(body)),
                Err(response) => answers.put(closing, *response).await,
            }
        }
    }

    async fn get(&self, key: &str, authorization: Option<&[u8]>, answers: &mut Answers) {
        let closing = self.until.is_cancelled();
        let request = self.routes.get.begin();
        let found = guarded(|| {
            self.port.allows(authorization, Access::Read)?;
            reads::found(&self.port.driver, &self.connection, key, &reads::ReadQuery::default())
        });
        request.answered(status(&found));
        match found {
            Ok(found) => answers.put_json(closing, |body| reads::put_found(body, key, &found)),
            Err(response) => answers.put(closing, *response).await,
        }
    }

    /// Lets hyper and the router go on with a connection of which `unread` was read.
    async fn hand_over(self, tcp: TcpStream, unread: Vec<u8>, router: Router) -> hyper::Result<()> {
        let Self { port: _, connection, until, routes: _, seat } = self;
        let (read, write) = tcp.into_split();
        http::serve(join(Cursor::new(unread).chain(read), write), seat, router, connection, until).await
    }
}

async fn write(tcp: &mut TcpStream, answers: &mut Answers, pulse: &Pulse) -> io::Result<()> {
    let mut left = answers.written();
    while !left.is_empty() {
        pulse.offer();
        let written = tcp.write(left).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        left = &left[written..];
    }
    pulse.taken();
    answers.clear();
    Ok(())
}

fn status<Given>(done: &Result<Given, Refused>) -> StatusCode {
    done.as_ref().map_or_else(|refused| refused.status(), |_| StatusCode::OK)
}

/// What `work` gives, or the answer in place of it, also when it panics.
fn guarded<Given>(work: impl FnOnce() -> Result<Given, ApiError>) -> Result<Given, Refused> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(worked) => worked.map_err(|refused| Box::new(refused.into_response())),
        Err(panic) => Err(Box::new(panicked(panic))),
    }
}

#[cfg(test)]
mod tests;

//! Connections that hyper serves, watched from below and from above: the bytes that go through, and where a request
//! begins, is whole and is answered.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode, header},
};
use bytes::Bytes;
use hyper::{
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use pin_project_lite::pin_project;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;
use tracing::debug;

use super::{Door, Phase, Pulse, Seat};
use crate::{
    limits::MAX_HEAD_BYTES,
    router::{Connection, Undelayed},
    tls::PeerTls,
};

/// Serves a router on a port, over TLS if that is given, until `until` is cancelled, and then until every request under
/// way is answered.
pub(crate) async fn listen(
    listener: TcpListener,
    tls: Option<PeerTls>,
    router: Router,
    door: Arc<Door>,
    until: CancellationToken,
) {
    let mut listener = Undelayed(listener);
    let connections = TaskTracker::new();
    let accepting = async {
        loop {
            let (tcp, _) = tokio::select! {
                biased;
                () = until.cancelled() => break,
                accepted = axum::serve::Listener::accept(&mut listener) => accepted,
            };
            let Some(seat) = door.enter(tls.is_none().then_some(&tcp)) else { continue };
            let pulse = Arc::clone(seat.pulse());
            let (tls, router, until) = (tls.clone(), router.clone(), until.clone());
            let task = connections.spawn(async move {
                let served = match tls {
                    None => serve(tcp, seat, router, Connection::default(), until).await,
                    Some(tls) => serve_secured(tcp, tls, seat, router, until).await,
                };
                // A client may go at any time, and nobody else has to know.
                if let Err(error) = served {
                    debug!(%error, "a connection broke");
                }
            });
            pulse.belongs_to(task.abort_handle());
        }
    };
    // Until the last connection has ended, deadlines hold.
    let watching = Arc::clone(&door).watch();
    tokio::select! {
        biased;
        () = async {
            accepting.await;
            connections.close();
            connections.wait().await;
        } => {}
        () = watching => {}
    }
}

/// The same over TLS. A connection's handshake and the head of its first request have the time of one head together.
async fn serve_secured(
    tcp: TcpStream,
    tls: PeerTls,
    seat: Seat,
    router: Router,
    until: CancellationToken,
) -> hyper::Result<()> {
    let opened = tokio::select! {
        biased;
        () = until.cancelled() => return Ok(()),
        opened = tls.accept(tcp) => opened,
    };
    match opened {
        Ok(stream) => serve(stream, seat, router, Connection::default(), until).await,
        Err(error) => {
            debug!(%error, "a connection was refused");
            Ok(())
        }
    }
}

/// Serves one connection, upgrades included.
pub(crate) async fn serve<Io>(
    io: Io,
    seat: Seat,
    router: Router,
    connection: Connection,
    until: CancellationToken,
) -> hyper::Result<()>
where
    Io: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let pulse = Arc::clone(seat.pulse());
    let service = service_fn(move |request: Request<Incoming>| {
        pulse.set(if request.body().is_end_stream() { Phase::Working } else { Phase::Body });
        let mut request = request.map(|body| Body::new(Asked { body, pulse: Arc::clone(&pulse) }));
        request.extensions_mut().insert(ConnectInfo(connection.clone()));
        answer(router.clone(), request, Arc::clone(&pulse))
    });
    let io = TokioIo::new(Watched { io, seat });
    let serving = http1::Builder::new().max_buf_size(MAX_HEAD_BYTES).serve_connection(io, service).with_upgrades();
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        biased;
        served = serving.as_mut() => return served,
        () = until.cancelled() => serving.as_mut().graceful_shutdown(),
    }
    serving.await
}

async fn answer(router: Router, request: Request<Body>, pulse: Arc<Pulse>) -> Result<Response<Body>, Infallible> {
    let mut response = router.oneshot(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        pulse.set(Phase::Free);
        return Ok(response);
    }
    if pulse.is_beyond() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response.map(|body| Body::new(Answered { body, pulse })))
}

/// A connection that notes what goes through it.
struct Watched<Io> {
    io: Io,
    seat: Seat,
}

impl<Io: AsyncRead + Unpin> AsyncRead for Watched<Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(context, buffer))?;
        let pulse = self.seat.pulse();
        if buffer.filled().len() > before && pulse.now().is(Phase::Idle) {
            pulse.set(Phase::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl<Io: AsyncWrite + Unpin> Watched<Io> {
    fn noted<Written>(&self, written: Poll<io::Result<Written>>) -> Poll<io::Result<Written>> {
        let pulse = self.seat.pulse();
        match (&written, pulse.is_offering()) {
            (Poll::Pending, false) => pulse.offer(),
            (Poll::Ready(_), true) => pulse.taken(),
            (Poll::Pending, true) | (Poll::Ready(_), false) => {}
        }
        written
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for Watched<Io> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.noted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        self.noted(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

pin_project! {
    /// The body of a request. Whoever drops it, read or not, waits for it no more.
    struct Asked {
        #[pin]
        body: Incoming,
        pulse: Arc<Pulse>,
    }

    impl PinnedDrop for Asked {
        fn drop(this: Pin<&mut Self>) {
            whole(&this.pulse);
        }
    }
}

fn whole(pulse: &Pulse) {
    if pulse.now().is(Phase::Body) {
        pulse.set(Phase::Working);
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(context));
        if frame.is_none() || this.body.is_end_stream() {
            whole(this.pulse);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// The body of an answer. Once it is dropped the next request may come.
    struct Answered {
        #[pin]
        body: Body,
        pulse: Arc<Pulse>,
    }

    impl PinnedDrop for Answered {
        fn drop(this: Pin<&mut Self>) {
            this.pulse.set(Phase::Idle);
        }
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

//! Which way from node to node costs least.
//!
//! The same batches go over one connection of loopback, each acknowledged before the next is sent: as frames, which is
//! what nodes do; as requests of HTTP/1.1; as streams of HTTP/2, one each, as a gRPC call would be; as messages on one
//! stream of HTTP/2, as gRPC streaming would be. Client and server have a thread each. Prints a table.
//!
//! `cargo run --release --package quorumkv-node --example transports`

use std::{
    fmt,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::{
    body::Body,
    http::{Request, Response},
};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use h2::{RecvStream, SendStream};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use quorumkv_node::codec::{FrameDecoder, frame};
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    runtime::Builder,
};
use tokio_util::codec::FramedRead;

/// Of one write of 256 bytes, of sixteen, and of two hundred.
const BATCH_BYTES: [usize; 3] = [300, 4800, 60_000];
/// As an acknowledgement.
const ACK_BYTES: usize = 26;
const WARM_UP: Duration = Duration::from_millis(300);
const LENGTH: Duration = Duration::from_secs(2);
const REPEATS: usize = 3;
/// Of HTTP/2, for a stream and for a connection: no batch waits for it.
const WINDOW: u32 = 1 << 20;

#[derive(Debug, Clone, Copy)]
enum Way {
    Frames,
    Http1,
    Http2Streams,
    Http2Stream,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Frames => "frames",
            Self::Http1 => "HTTP/1.1, a request each",
            Self::Http2Streams => "HTTP/2, a stream each",
            Self::Http2Stream => "HTTP/2, one stream",
        })
    }
}

fn main() -> anyhow::Result<()> {
    println!("Medians of {REPEATS} runs of {} s, one batch under way.\n", LENGTH.as_secs());
    println!("| {:24} | bytes | batches/s | CPU µs per batch |", "way");
    println!("| {:-<24} | ----: | --------: | ---------------: |", "");
    for bytes in BATCH_BYTES {
        for way in [Way::Frames, Way::Http1, Way::Http2Streams, Way::Http2Stream] {
            let mut runs = (0..REPEATS).map(|_| measure(way, bytes)).collect::<anyhow::Result<Vec<_>>>()?;
            runs.sort_by(|one, other| one.0.total_cmp(&other.0));
            let (per_second, cpu_us) = runs[REPEATS / 2];
            println!("| {way:24} | {bytes:5} | {per_second:9.0} | {cpu_us:16.1} |");
        }
    }
    Ok(())
}

/// Batches a second, and microseconds of processor time for each, of both ends together.
fn measure(way: Way, bytes: usize) -> anyhow::Result<(f64, f64)> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("a port")?;
    listener.set_nonblocking(true).context("a port")?;
    let address = listener.local_addr().context("a port")?;
    let server: JoinHandle<anyhow::Result<()>> = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            serve(way, listener, bytes).await
        })
    });
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let tcp = TcpStream::connect(address).await.context("a connection")?;
        tcp.set_nodelay(true).context("a connection")?;
        let batch = Bytes::from(vec![b'x'; bytes]);
        match way {
            Way::Frames => {
                let (read, mut write) = tcp.into_split();
                let mut acks = FramedRead::new(read, FrameDecoder);
                let send = async || {
                    write.write_all(&frame(batch.len(), |out| out.extend_from_slice(&batch))).await?;
                    ack(acks.next().await.context("an acknowledgement")??.len())
                };
                timed(send).await
            }
            Way::Http1 => {
                let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
                tokio::spawn(connection);
                let send = async || {
                    let request =
                        Request::post("/append").header("host", "localhost").body(Body::from(batch.clone()))?;
                    sender.ready().await?;
                    let body = sender.send_request(request).await?.into_body();
                    ack(axum::body::to_bytes(Body::new(body), usize::MAX).await?.len())
                };
                timed(send).await
            }
            Way::Http2Streams => {
                let mut sender = http2(tcp).await?;
                let send = async || {
                    sender = sender.clone().ready().await?;
                    let (response, mut body) = sender.send_request(request()?, false)?;
                    body.send_data(batch.clone(), true)?;
                    ack(received(response.await?.body_mut(), ACK_BYTES).await?)
                };
                timed(send).await
            }
            Way::Http2Stream => {
                let mut sender = http2(tcp).await?.ready().await?;
                let (response, mut body) = sender.send_request(request()?, false)?;
                let mut acks = response.await?.into_body();
                let send = async || {
                    put(&mut body, batch.clone()).await?;
                    ack(received(&mut acks, ACK_BYTES).await?)
                };
                timed(send).await
            }
        }
    })?;
    drop(runtime);
    server.join().expect("the server does not panic")?;
    Ok(measured)
}

async fn timed(mut send: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<(f64, f64)> {
    let warm = Instant::now() + WARM_UP;
    while Instant::now() < warm {
        send().await?;
    }
    let (begun, used) = (Instant::now(), processor_time());
    let mut batches = 0_u32;
    while begun.elapsed() < LENGTH {
        send().await?;
        batches += 1;
    }
    let batches = f64::from(batches);
    Ok((batches / begun.elapsed().as_secs_f64(), (processor_time() - used) * 1e6 / batches))
}

/// Of this process, in seconds.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Serves one connection until it ends.
async fn serve(way: Way, listener: TcpListener, bytes: usize) -> anyhow::Result<()> {
    let (tcp, _) = listener.accept().await.context("a connection")?;
    tcp.set_nodelay(true).context("a connection")?;
    let answer = Bytes::from_static(&[b'a'; ACK_BYTES]);
    match way {
        Way::Frames => {
            let (read, mut write) = tcp.into_split();
            let mut batches = FramedRead::with_capacity(read, FrameDecoder, 64 * 1024);
            while let Some(Ok(batch)) = batches.next().await {
                ensure!(batch.len() == bytes, "a batch of {} bytes", batch.len());
                write.write_all(&frame(ACK_BYTES, |out| out.extend_from_slice(&answer))).await?;
            }
        }
        Way::Http1 => {
            let service = service_fn(|request: Request<Incoming>| async {
                axum::body::to_bytes(Body::new(request.into_body()), usize::MAX).await?;
                Ok::<_, axum::Error>(Response::new(Body::from(Bytes::from_static(&[b'a'; ACK_BYTES]))))
            });
            // The client's end is not always an orderly one.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service).await.ok();
        }
        Way::Http2Streams | Way::Http2Stream => {
            let mut builder = h2::server::Builder::new();
            let mut connection =
                builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).handshake(tcp).await?;
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut batches = request.into_body();
                    let mut acks = respond.send_response(Response::new(()), false)?;
                    while received(&mut batches, bytes).await? == bytes {
                        let last = matches!(way, Way::Http2Streams);
                        acks.send_data(answer.clone(), last)?;
                        if last {
                            break;
                        }
                    }
                    anyhow::Ok(())
                });
            }
        }
    }
    Ok(())
}

async fn http2(tcp: TcpStream) -> anyhow::Result<h2::client::SendRequest<Bytes>> {
    let mut builder = h2::client::Builder::new();
    let builder = builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake(tcp).await?;
    tokio::spawn(connection);
    Ok(sender)
}

fn request() -> anyhow::Result<Request<()>> {
    Request::post("http://localhost/append").body(()).context("a request")
}

/// Sends data as far as the window lets it, and the rest when it does.
async fn put(body: &mut SendStream<Bytes>, mut data: Bytes) -> anyhow::Result<()> {
    while !data.is_empty() {
        body.reserve_capacity(data.len());
        let room = match body.capacity() {
            0 => std::future::poll_fn(|context| body.poll_capacity(context)).await.context("the stream ended")??,
            room => room,
        };
        body.send_data(data.split_to(room.min(data.len())), false)?;
    }
    Ok(())
}

/// Waits for so many bytes; how many came before the end.
async fn received(body: &mut RecvStream, bytes: usize) -> anyhow::Result<usize> {
    let mut gathered = BytesMut::new();
    while gathered.len() < bytes {
        let Some(data) = body.data().await else { break };
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        gathered.extend_from_slice(&data);
    }
    Ok(gathered.len())
}

fn ack(bytes: usize) -> anyhow::Result<()> {
    ensure!(bytes == ACK_BYTES, "an acknowledgement of {bytes} bytes");
    Ok(())
}

//! The follower's end of a stream.

use quorumkv_api::{Epoch, lab::Role};
use quorumkv_protocol::{Hello, SnapshotMeta, StreamId};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tracing::{info, warn};

use super::{Payloads, SnapshotBuilder, StreamError, write_all};
use crate::{
    failpoint::{Failpoint, reached},
    handle::{Command, DriverHandle},
    metrics::Direction,
    outbox,
    wire::{LeaderFrame, compression::Compression, read_leader_frame},
};

/// Serves an upgraded connection until it ends.
pub async fn serve(driver: DriverHandle, io: impl AsyncRead + AsyncWrite + Unpin) {
    let stream = driver.next_stream();
    let (read, write) = tokio::io::split(io);
    let mut payloads = Payloads::new(read, driver.metrics.stream_bytes(Direction::Received));
    let hello = match first_hello(&mut payloads).await {
        Ok(hello) => hello,
        Err(error) => {
            warn!(%error, "refused a stream");
            driver.metrics.stream_broke(Role::Follower);
            return;
        }
    };
    let (leader, epoch) = (hello.leader.clone(), hello.epoch);
    info!(%leader, %epoch, "a leader opened a stream");
    let (outbound, queue) = mpsc::channel(outbox::QUEUE);
    reached(Failpoint::HelloReceived);
    if driver.send(Command::Hello { stream, hello, outbound }).await.is_err() {
        return;
    }
    let sent = driver.metrics.stream_bytes(Direction::Sent);
    let ended = tokio::select! {
        read = read_all(&driver, stream, &mut payloads) => read,
        written = write_all(write, queue, Compression::Off, sent) => written,
    };
    match ended {
        Ok(()) => info!(%leader, %epoch, "the stream was closed"),
        Err(StreamError::Stopped(_)) => return,
        Err(error) => {
            warn!(%leader, %epoch, %error, "the stream broke");
            driver.metrics.stream_broke(Role::Follower);
        }
    }
    // Without a driver there is nobody to tell.
    driver.send(Command::LeaderStreamDown { stream }).await.ok();
}

async fn first_hello(payloads: &mut Payloads<impl AsyncRead + Unpin>) -> Result<Hello, StreamError> {
    match read_leader_frame(payloads.first().await?)? {
        LeaderFrame::Hello(hello) => Ok(hello),
        _ => Err(StreamError::Unexpected("a stream must begin with a hello")),
    }
}

async fn read_all(
    driver: &DriverHandle,
    stream: StreamId,
    payloads: &mut Payloads<impl AsyncRead + Unpin>,
) -> Result<(), StreamError> {
    let mut arriving: Option<(Epoch, SnapshotMeta, SnapshotBuilder)> = None;
    while let Some(payload) = payloads.next().await? {
        match read_leader_frame(payload)? {
            LeaderFrame::Message(message) => driver.send(Command::FromLeader { stream, message }).await?,
            LeaderFrame::Alive => {}
            LeaderFrame::SnapshotStart { epoch, meta } => arriving = Some((epoch, meta, SnapshotBuilder::default())),
            LeaderFrame::SnapshotPart(part) => {
                let (.., builder) =
                    arriving.as_mut().ok_or(StreamError::Unexpected("a part of a snapshot that never began"))?;
                builder.part(part);
            }
            LeaderFrame::SnapshotEnd { records } => {
                let (epoch, meta, builder) =
                    arriving.take().ok_or(StreamError::Unexpected("the end of a snapshot that never began"))?;
                let snapshot = builder.end(records, meta.outline.last)?;
                reached(Failpoint::SnapshotReceived);
                driver.send(Command::SnapshotReceived { stream, epoch, meta, snapshot }).await?;
            }
            LeaderFrame::Hello(_) => return Err(StreamError::Unexpected("a second hello")),
        }
    }
    Ok(())
}

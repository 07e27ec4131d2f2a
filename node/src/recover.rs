//! A whole copy of the data over `GET /recover`, for a static leader that came back with less than others.
//!
//! The body is frames as on a stream: a snapshot, then appends with the entries after it. It is handed out
//! only between fencing and promotion, while nothing can change it.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use quorumkv_api::{
    Epoch, ProcessId,
    client::{CallError, PeerClient},
};
use quorumkv_protocol::{Entry, LeaderMessage, SnapshotMeta};
use serde::{Deserialize, Serialize};
use tokio_util::{codec::FramedRead, io::StreamReader};

use crate::{
    codec::{FrameDecoder, FrameError},
    failpoint::{Failpoint, reached},
    handle::Recovery,
    store::Snapshot,
    transport::{SnapshotBuilder, SnapshotParts, StreamError},
    wire::{self, LeaderFrame, Malformed, read_leader_frame},
};

/// Whose copy is meant.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RecoverQuery {
    /// The epoch that was fenced.
    pub epoch: Epoch,
    /// The process that was fenced.
    pub process_id: ProcessId,
}

/// A copy as it arrived.
#[derive(Debug)]
pub struct Copy {
    /// What the snapshot stands for.
    pub meta: SnapshotMeta,
    /// Its keys and values.
    pub snapshot: Snapshot,
    /// The entries after it.
    pub entries: Vec<Entry>,
}

/// Why no copy could be fetched.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// The node did not answer, or refuses.
    #[error(transparent)]
    Call(#[from] CallError),
    /// What it sent are no frames.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// What it sent says nothing.
    #[error("malformed message: {0}")]
    Malformed(#[from] Malformed),
    /// What it sent is no copy.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// It sent less than a copy.
    #[error("the copy is incomplete")]
    Incomplete,
}

/// The frames of a copy.
pub fn frames(recovery: Recovery) -> impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static {
    reached(Failpoint::CopyHandedOut);
    let Recovery { promised, meta, snapshot, tail } = recovery;
    let start = wire::snapshot_start(promised, &meta);
    stream::iter(std::iter::once(start).chain(SnapshotParts::new(snapshot)).chain(tail).map(Ok))
}

/// Fetches a copy.
///
/// # Errors
/// See [`RecoverError`].
pub async fn fetch(client: &PeerClient, peer_url: &str, query: RecoverQuery) -> Result<Copy, RecoverError> {
    let path = format!("recover?epoch={}&processId={}", query.epoch, query.process_id);
    let bytes = client.download(peer_url, &path).await?;
    let mut frames = FramedRead::new(StreamReader::new(bytes), FrameDecoder);
    let mut builder = SnapshotBuilder::default();
    let mut meta = None;
    let mut complete = None;
    let mut entries = Vec::new();
    while let Some(payload) = frames.next().await {
        match read_leader_frame(payload?)? {
            LeaderFrame::SnapshotStart { meta: announced, .. } => meta = Some(announced),
            LeaderFrame::SnapshotPart(part) => builder.part(part),
            LeaderFrame::SnapshotEnd { records } => {
                let meta: SnapshotMeta = meta.take().ok_or(RecoverError::Incomplete)?;
                let snapshot = std::mem::take(&mut builder).end(records, meta.outline.last)?;
                complete = Some((meta, snapshot));
            }
            LeaderFrame::Message(LeaderMessage::Append(append)) => entries.extend(append.entries),
            _ => return Err(StreamError::Unexpected("not part of a copy").into()),
        }
    }
    let (meta, snapshot) = complete.ok_or(RecoverError::Incomplete)?;
    Ok(Copy { meta, snapshot, entries })
}

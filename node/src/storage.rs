//! Where promises and the log are kept.
//!
//! The driver hands over one batch at a time and learns later, by its ticket, that storage holds it; nothing
//! that rests on a batch leaves the node before that. A failed save stops the process: a node that cannot
//! keep its promises must not make any.
//!
//! [`Memory`] keeps nothing. [`Persistent`] keeps a write-ahead log and snapshots in one directory:
//!
//! | file | what it is |
//! | --- | --- |
//! | `copy` | which copy of the data this is; made once |
//! | `lock` | keeps a second process out |
//! | `wal-<number>` | a segment of the log: batches in order, one checksum a frame |
//! | `snapshot-<batch>` | everything up to that batch; segments before it are removed |
//! | `*.tmp` | not complete; removed at start |
//!
//! A batch's way: `submit` encodes it (`frame`) and queues it (`queue`); a thread writes all that waits with
//! one write and one sync (`writer`, `segment`) and reports the newest ticket. Another thread writes snapshots
//! beside it (`snapshot`). `recovery` and `replay` are the way back.
//!
//! **A full disk** loses nothing and ends nothing. The log is written only where room was taken before, one
//! segment ahead. While no room can be had for the next one, [`Storage::room`] says [`Room::Full`] before what
//! is left of the last is used up: the driver answers clients' writes with an error, before the core has seen
//! them, and puts off what a leader sends; promises, barriers and settings still fit. Should even that be used
//! up, batches wait in memory, unreported, and with them whoever waits for this node. It goes on when there
//! is room again. Memory in use is bounded by the room that was taken: nothing is let in beyond it.

use std::future::{Future, pending};

use quorumkv_protocol::{Log, Persist, Ticket};

use crate::store::Store;

mod disk;
mod error;
mod frame;
mod identity;
mod metrics;
mod persistent;
mod queue;
mod recovery;
mod replay;
mod segment;
mod snapshot;
mod writer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use self::{
    disk::LockError,
    error::{Action, OpenError, Problem, StorageError},
    metrics::StorageMetrics,
    persistent::{Opened, Options, Persistent},
};

/// Whether something of a certain size may be handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// Yes.
    Enough,
    /// Not now, but the disk is only slow.
    Soon,
    /// No, and nobody knows until when: the disk is full.
    Full,
}

/// Keeps batches in order.
pub trait Storage: Send + 'static {
    /// Takes a batch and begins to keep it. Entries are read from `log` and an installed snapshot from
    /// `store` before this returns, as both change afterwards.
    fn submit(&mut self, ticket: Ticket, batch: &[Persist], log: &Log, store: &Store);

    /// Waits until more is kept than before; the newest ticket that is kept. May be dropped and called again.
    fn durable(&mut self) -> impl Future<Output = Result<Ticket, StorageError>> + Send;

    /// Whether there is room for entries of so many bytes, beside what was handed over.
    fn room(&self, _bytes: usize) -> Room {
        Room::Enough
    }

    /// Waits until [`Self::room`] may say something else. May be dropped and called again.
    fn room_changed(&self) -> impl Future<Output = ()> + Send + 'static {
        pending()
    }

    /// Where to count from now on.
    fn observe(&mut self, _metrics: &StorageMetrics) {}
}

/// Keeps nothing beyond the process: what was submitted is already in memory.
#[derive(Debug, Default)]
pub struct Memory {
    submitted: Option<Ticket>,
}

impl Storage for Memory {
    fn submit(&mut self, ticket: Ticket, _batch: &[Persist], _log: &Log, _store: &Store) {
        self.submitted = Some(ticket);
    }

    async fn durable(&mut self) -> Result<Ticket, StorageError> {
        match self.submitted.take() {
            Some(ticket) => Ok(ticket),
            None => pending().await,
        }
    }
}

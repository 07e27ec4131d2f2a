//! Where promises and the log are kept.
//!
//! The driver hands over one batch at a time and learns later, by its ticket, that storage holds it; nothing
//! that rests on a batch leaves the node before that. A failed save stops the process: a node that cannot
//! keep its promises must not make any.

use std::future::{Future, pending};

use quorumkv_protocol::{Log, Persist, Ticket};

use crate::store::Store;

/// Why a batch could not be kept.
#[derive(Debug, thiserror::Error)]
#[error("storage failed: {0}")]
pub struct StorageError(#[from] std::io::Error);

/// Keeps batches in order.
pub trait Storage: Send + 'static {
    /// Takes a batch and begins to keep it. Entries are read from `log` and an installed snapshot from
    /// `store` before this returns, as both change afterwards.
    fn submit(&mut self, ticket: Ticket, batch: &[Persist], log: &Log, store: &Store);

    /// Waits until more is kept than before; the newest ticket that is kept. May be dropped and called again.
    fn durable(&mut self) -> impl Future<Output = Result<Ticket, StorageError>> + Send;
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn memory_holds_a_batch_at_once_and_reports_it_once() {
        let mut memory = Memory::default();
        assert!(memory.durable().now_or_never().is_none(), "nothing was submitted");
        memory.submit(Ticket(1), &[], &Log::default(), &Store::default());
        memory.submit(Ticket(2), &[], &Log::default(), &Store::default());
        assert_eq!(memory.durable().now_or_never().map(Result::unwrap), Some(Ticket(2)));
        assert!(memory.durable().now_or_never().is_none(), "reported before");
    }
}

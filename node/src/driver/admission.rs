//! Which commands reach the core while storage is short of room.
//!
//! A write that storage has no room for is refused before the core appends it, because what the core has
//! appended must be kept. What a leader sends waits here, in order, and is not acknowledged meanwhile, so the
//! leader soon sends no more; heartbeats, promises and everything else pass.

use std::collections::VecDeque;

use quorumkv_api::{
    Epoch,
    peer::{PeerError, Refusal},
};
use quorumkv_protocol::{Entry, LeaderMessage, Micros, StreamId};

use super::Driver;
use crate::{
    handle::{Command, NotTaken, PeerRequest},
    limits::Limits,
    storage::{Room, Storage},
};

/// Writes that may wait for a disk that is only slow. A client that writes waits for its answer, so this is
/// more than a bound on memory: it is how many clients there may be.
const WAITING_WRITES: usize = 16 * 1024;

/// Commands that wait, and bytes that were let in but are not handed to storage yet.
#[derive(Debug, Default)]
pub(super) struct Admission {
    waiting: VecDeque<Command>,
    bytes: usize,
}

impl Admission {
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// What was let in is storage's to count now.
    pub(super) fn handed_over(&mut self) {
        self.bytes = 0;
    }

    fn is_stream_waiting(&self) -> bool {
        self.waiting.iter().any(|command| matches!(command, Command::FromLeader { .. }))
    }

    /// Forgets what came on streams that have ended.
    fn forget(&mut self, ended: impl Fn(StreamId) -> bool) {
        self.waiting.retain(|command| !matches!(command, Command::FromLeader { stream, .. } if ended(*stream)));
    }
}

impl<S: Storage> Driver<S> {
    /// Takes what waited, then what came, as far as there is room.
    pub(super) fn let_in(&mut self, batch: &mut Vec<Command>, now: Micros) {
        for command in std::mem::take(&mut self.admission.waiting) {
            self.admit(command, now);
        }
        for command in batch.drain(..) {
            match &command {
                Command::LeaderStreamDown { stream } => self.admission.forget(|waiting| waiting == *stream),
                Command::Hello { stream, .. } => self.admission.forget(|waiting| waiting != *stream),
                _ => {}
            }
            self.admit(command, now);
        }
    }

    /// Steps the core with a command, lets it wait, or refuses it.
    fn admit(&mut self, command: Command, now: Micros) {
        let Some(bytes) = self.bytes_to_keep(&command) else {
            self.take(command, now);
            return;
        };
        if self.is_overloaded(&command, bytes) {
            self.refuse(command, NotTaken::Overloaded);
            return;
        }
        let streamed = matches!(command, Command::FromLeader { .. });
        // On a stream nothing overtakes what came before.
        let behind = streamed && self.admission.is_stream_waiting();
        match self.storage.room(self.admission.bytes + bytes) {
            Room::Enough if !behind => {
                self.admission.bytes += bytes;
                self.take(command, now);
            }
            Room::Enough | Room::Soon | Room::Full if streamed => self.admission.waiting.push_back(command),
            Room::Soon if self.admission.waiting.len() < WAITING_WRITES => self.admission.waiting.push_back(command),
            Room::Enough | Room::Soon | Room::Full => self.refuse(command, NotTaken::StorageFull),
        }
    }

    /// Bytes of entries that the core would append; none where it takes no room worth asking for.
    fn bytes_to_keep(&self, command: &Command) -> Option<usize> {
        let weight = |entries: &[Entry]| entries.iter().map(Entry::weight).sum();
        match command {
            // Only a leader appends; anybody else answers that it is none.
            Command::Write { operation, .. } if self.node.follower_count() > 0 => {
                Some(operation.weight() + size_of::<Entry>())
            }
            Command::Batch { writes } if self.node.follower_count() > 0 => {
                Some(writes.iter().map(|(operation, _)| operation.weight() + size_of::<Entry>()).sum())
            }
            Command::FromLeader { message: LeaderMessage::Append(append), .. } if !append.entries.is_empty() => {
                Some(weight(&append.entries))
            }
            Command::Peer { request: PeerRequest::Replicate { append, .. }, .. } if !append.entries.is_empty() => {
                Some(weight(&append.entries))
            }
            _ => None,
        }
    }

    /// Whether so many writes of clients wait for their answers that this one would have to wait for them. What comes
    /// while nothing waits is taken, however large.
    fn is_overloaded(&self, command: &Command, bytes: usize) -> bool {
        let writes = match command {
            Command::Write { .. } => 1,
            Command::Batch { writes } => writes.len(),
            _ => return false,
        };
        let waiting = self.writes.len();
        let Limits { waiting_writes, waiting_bytes, .. } = self.limits;
        waiting > 0 && (waiting + writes > waiting_writes || self.waiting_bytes + bytes > waiting_bytes)
    }

    fn refuse(&mut self, command: Command, why: NotTaken) {
        match why {
            NotTaken::StorageFull => self.handle.metrics.write_refused_for_room(),
            NotTaken::Overloaded => self.handle.metrics.write_refused_for_load(),
        }
        match command {
            Command::Write { answer, .. } => drop(answer.send(Err(why))),
            Command::Batch { writes } => writes.into_iter().for_each(|(_, answer)| drop(answer.send(Err(why)))),
            Command::Peer { answer, .. } => {
                let error = why.to_string();
                drop(answer.send(Err(PeerError { error, reason: Refusal::Unavailable, promised: Epoch(0) })));
            }
            _ => unreachable!("only these ask for room and can be refused"),
        }
    }
}

#[cfg(test)]
mod tests;

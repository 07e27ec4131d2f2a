//! Request ids that were seen, and what became of the writes that carried them.
//!
//! The table is part of the applied state: it follows from the log alone, and travels with snapshots. It keeps
//! the ids that came last in the log, [`REMEMBERED`] of them, and forgets older ones in that order; so two
//! replicas at the same place in the log have the same table.

use std::ops::Bound;

use bytes::Bytes;
use imbl::OrdMap;
use quorumkv_api::Seq;
use quorumkv_protocol::{Digest, RequestKey};

/// Ids that are remembered. One takes a few hundred bytes at most.
pub const REMEMBERED: usize = 65_536;

/// What became of a write with a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// Its condition did not hold, and nothing was done.
    ConditionFailed {
        /// Version of the key's value then, if it had one.
        current: Option<Seq>,
    },
}

/// A write with a request id, as it is remembered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// The id and what else there was.
    pub request: RequestKey,
    /// What became of it.
    pub outcome: Outcome,
}

/// Everything remembered. Cloning is O(1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requests {
    /// By place in the log, which is the order in which they are forgotten.
    by_place: OrdMap<Seq, Remembered>,
    places: OrdMap<Bytes, Seq>,
}

/// What is known of a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing: it is new, or forgotten.
    No,
    /// The same write was here before, at that place in the log.
    Same(Seq, Outcome),
    /// Another write has it.
    Other,
}

impl Requests {
    /// What is known of an id.
    #[must_use]
    pub fn look_up(&self, request: &RequestKey) -> Known {
        let RequestKey { id, digest } = request;
        let Some((place, remembered)) = self.places.get(id).and_then(|place| Some((*place, self.by_place.get(place)?)))
        else {
            return Known::No;
        };
        if remembered.request.digest == *digest { Known::Same(place, remembered.outcome) } else { Known::Other }
    }

    /// Remembers an id that is not known, of the entry at `place`, which must be later than all before.
    ///
    /// The id is copied: what comes from the log is a slice of a network frame, which must not stay for it.
    pub fn remember(&mut self, place: Seq, request: &RequestKey, outcome: Outcome) {
        let id = Bytes::copy_from_slice(&request.id);
        let digest: Digest = request.digest;
        self.places.insert(id.clone(), place);
        self.by_place.insert(place, Remembered { request: RequestKey { id, digest }, outcome });
        while self.by_place.len() > REMEMBERED {
            let Some(oldest) = self.by_place.get_min().map(|(place, _)| *place) else { break };
            if let Some(forgotten) = self.by_place.remove(&oldest) {
                self.places.remove(&forgotten.request.id);
            }
        }
    }

    /// Number of ids remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_place.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_place.is_empty()
    }

    /// Those of entries after `last` in the order of the log.
    pub fn after(&self, last: Seq) -> impl Iterator<Item = (Seq, &Remembered)> {
        self.by_place.range((Bound::Excluded(last), Bound::Unbounded)).map(|(place, found)| (*place, found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u64, digest: u8) -> RequestKey {
        RequestKey { id: id.to_string().into(), digest: Digest([digest; 16]) }
    }

    #[test]
    fn the_oldest_id_makes_room_for_the_newest() {
        let mut requests = Requests::default();
        for place in 1..=REMEMBERED as u64 + 3 {
            requests.remember(Seq(place), &request(place, 1), Outcome::Done);
        }
        assert_eq!(requests.len(), REMEMBERED);
        assert_eq!(requests.look_up(&request(3, 1)), Known::No);
        assert_eq!(requests.look_up(&request(4, 1)), Known::Same(Seq(4), Outcome::Done));
        assert_eq!(requests.after(Seq(0)).next().map(|(place, _)| place), Some(Seq(4)));
        assert_eq!(requests.places.len(), REMEMBERED, "both sides forget the same");
    }

    #[test]
    fn an_id_stands_for_one_write() {
        let mut requests = Requests::default();
        let failed = Outcome::ConditionFailed { current: Some(Seq(2)) };
        requests.remember(Seq(7), &request(1, 1), failed);
        assert_eq!(requests.look_up(&request(1, 1)), Known::Same(Seq(7), failed));
        assert_eq!(requests.look_up(&request(1, 2)), Known::Other);
        assert_eq!(requests.look_up(&request(2, 1)), Known::No);
    }
}

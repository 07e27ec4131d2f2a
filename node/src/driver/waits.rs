//! How long what a leader appends waits for its commit: for storage and for the quorum.
//!
//! Batches are followed, not writes: that costs two comparisons a batch.

use std::{collections::VecDeque, time::Duration};

use quorumkv_api::Seq;
use quorumkv_protocol::Micros;

/// Batches that are followed at the same time. Without a quorum none would ever leave; those beyond are not followed.
const MOST: usize = 4096;

/// Batches that are appended and not committed.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// Last entry of each, and when it was appended.
    batches: VecDeque<(Seq, Micros)>,
    /// Up to where the log was seen; none before this node leads.
    seen: Option<Seq>,
}

impl Waits {
    /// The leader's log reaches up to `last`.
    pub(super) fn appended(&mut self, last: Seq, now: Micros) {
        // What a leader begins with others may have appended, long ago.
        let seen = self.seen.replace(last).unwrap_or(last);
        if last > seen && self.batches.len() < MOST {
            self.batches.push_back((last, now));
        }
    }

    /// Everything up to `commit` is committed; `waited` is called with what each batch waited for that.
    pub(super) fn committed(&mut self, commit: Seq, now: Micros, mut waited: impl FnMut(Duration)) {
        while let Some((_, appended)) = self.batches.pop_front_if(|(last, _)| *last <= commit) {
            waited(now.since(appended));
        }
    }

    /// This node does not lead; what it appended is for another leader to commit.
    pub(super) fn clear(&mut self) {
        self.batches.clear();
        self.seen = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waited(waits: &mut Waits, commit: u64, now_ms: u64) -> Vec<u128> {
        let mut found = Vec::new();
        waits.committed(Seq(commit), Micros(now_ms * 1000), |took| found.push(took.as_millis()));
        found
    }

    /// Of a leader that began with this entry.
    fn waits(last: u64) -> Waits {
        let mut waits = Waits::default();
        waits.appended(Seq(last), Micros(0));
        waits
    }

    #[test]
    fn each_batch_waits_until_its_last_entry_is_committed() {
        let mut waits = waits(1);
        waits.appended(Seq(3), Micros(1000));
        // Nothing new: no batch.
        waits.appended(Seq(3), Micros(1500));
        waits.appended(Seq(5), Micros(2000));
        assert_eq!(waited(&mut waits, 2, 3), []);
        assert_eq!(waited(&mut waits, 4, 6), [5]);
        assert_eq!(waited(&mut waits, 9, 12), [10]);
        assert_eq!(waited(&mut waits, 9, 20), []);
    }

    #[test]
    fn a_leader_that_steps_down_waits_no_more() {
        let mut waits = waits(1);
        waits.appended(Seq(3), Micros(1000));
        waits.clear();
        assert_eq!(waited(&mut waits, 9, 20), []);
        // Of its next epoch, for which its log may have become shorter.
        waits.appended(Seq(2), Micros(30_000));
        waits.appended(Seq(3), Micros(31_000));
        assert_eq!(waited(&mut waits, 3, 33), [2]);
    }

    #[test]
    fn without_a_quorum_no_more_than_so_many_batches_are_remembered() {
        let mut waits = waits(0);
        for seq in 1..=2 * MOST as u64 {
            waits.appended(Seq(seq), Micros(seq));
        }
        assert_eq!(waits.batches.len(), MOST);
    }
}

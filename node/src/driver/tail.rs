//! What watchers are shown: the committed part of the log that is held, without the entries that did nothing.

use std::collections::BTreeSet;

use quorumkv_api::Seq;
use quorumkv_protocol::{Entry, Log};
use tokio::sync::oneshot;

use crate::handle::{Forgotten, LogPart};

/// Entries shown at once; they may hold back memory as long as their reader likes.
const PART_ENTRIES: usize = 512;

/// Bytes of entries shown at once, unless a single one is larger.
const PART_BYTES: usize = 256 * 1024;

type Answer = oneshot::Sender<Result<LogPart, Forgotten>>;

/// Requests that wait for the end of their batch, and which entries to leave out.
#[derive(Debug, Default)]
pub(super) struct Tail {
    asked: Vec<(Seq, Answer)>,
    /// Entries still held that did not do what they say.
    idle: BTreeSet<Seq>,
}

impl Tail {
    pub(super) fn ask(&mut self, from: Seq, answer: Answer) {
        self.asked.push((from, answer));
    }

    /// These entries did nothing; those up to `base` are not held any more.
    pub(super) fn leave_out(&mut self, entries: impl Iterator<Item = Seq>, base: Seq) {
        self.idle.extend(entries);
        while self.idle.first().is_some_and(|first| *first <= base) {
            self.idle.pop_first();
        }
    }

    /// Answers everything asked since the last time.
    pub(super) fn answer(&mut self, log: &Log, applied: Seq) {
        for (from, answer) in std::mem::take(&mut self.asked) {
            drop(answer.send(self.part(log, applied, from)));
        }
    }

    fn part(&self, log: &Log, applied: Seq, from: Seq) -> Result<LogPart, Forgotten> {
        if from <= log.base() {
            return Err(Forgotten { oldest: log.base().next() });
        }
        let mut part = LogPart { entries: Vec::new(), next: from };
        if from > applied {
            return Ok(part);
        }
        let mut bytes = 0;
        for entry in log.entries(from..=applied).take(PART_ENTRIES) {
            bytes += entry.weight();
            if bytes > PART_BYTES && !part.entries.is_empty() {
                break;
            }
            part.next = entry.seq.next();
            if !self.idle.contains(&entry.seq) {
                part.entries.push(Entry::clone(entry));
            }
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use quorumkv_api::Epoch;
    use quorumkv_protocol::Operation;

    use super::*;

    fn log(entries: u64, value_bytes: usize) -> Log {
        let mut log = Log::default();
        for seq in 1..=entries {
            let operation = Operation::Put { key: "k".into(), value: vec![b'1'; value_bytes].into() };
            log.append(Entry { epoch: Epoch(1), seq: Seq(seq), operation });
        }
        log
    }

    fn places(part: &LogPart) -> Vec<u64> {
        part.entries.iter().map(|entry| entry.seq.0).collect()
    }

    #[test]
    fn only_what_is_committed_and_did_something_is_shown() {
        let mut tail = Tail::default();
        tail.leave_out([Seq(2), Seq(4)].into_iter(), Seq(0));
        let part = tail.part(&log(9, 1), Seq(5), Seq(1)).expect("held");
        assert_eq!((places(&part), part.next), (vec![1, 3, 5], Seq(6)));
        for from in [6, 7, 100] {
            let part = tail.part(&log(9, 1), Seq(5), Seq(from)).expect("not yet");
            assert_eq!((places(&part), part.next), (vec![], Seq(from)));
        }
    }

    #[test]
    fn what_is_not_held_is_refused_and_not_remembered() {
        let mut log = log(9, 1);
        log.trim(Seq(4), 0, 0);
        let mut tail = Tail::default();
        tail.leave_out([Seq(2), Seq(5)].into_iter(), log.base());
        assert_eq!(tail.idle, BTreeSet::from([Seq(5)]));
        assert_eq!(tail.part(&log, Seq(9), Seq(4)).expect_err("gone"), Forgotten { oldest: Seq(5) });
        assert_eq!(places(&tail.part(&log, Seq(9), Seq(5)).expect("held")), [6, 7, 8, 9]);
    }

    #[test]
    fn parts_are_bounded_and_one_entry_at_least() {
        let tail = Tail::default();
        let part = tail.part(&log(PART_ENTRIES as u64 + 9, 1), Seq(PART_ENTRIES as u64 + 9), Seq(1)).expect("held");
        assert_eq!(part.entries.len(), PART_ENTRIES);
        let large = log(3, PART_BYTES);
        let part = tail.part(&large, Seq(3), Seq(2)).expect("held");
        assert_eq!((places(&part), part.next), (vec![2], Seq(3)));
    }
}

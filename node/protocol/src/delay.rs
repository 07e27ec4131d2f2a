//! Simulated round trips: which writes wait for which followers' delayed confirmations.
//!
//! A follower's confirmation of a write counts once its acknowledgement arrived *and* the round trip drawn
//! for that write and follower has passed since the append. Only the answer to the client waits for it; the
//! stream, commit, heartbeats and leases do not. So a write's latency is the quorum's order statistic of the
//! drawn round trips, at any concurrency.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    hash::{Hash, Hasher},
    time::Duration,
};

use quorumkv_api::Seq;

use crate::message::{Micros, WriteId};

/// A write that waits for delayed confirmations.
#[derive(Debug, Clone, Hash)]
pub(crate) struct DelayedWrite {
    pub(crate) write: WriteId,
    pub(crate) appended: Micros,
    pub(crate) deadline: Micros,
    need: u32,
    /// Bit per follower: its round trip has passed.
    passed: u64,
    /// Bit per follower: passed, and it acknowledged.
    confirmed: u64,
}

impl DelayedWrite {
    pub(crate) fn replicas(&self) -> usize {
        self.confirmed.count_ones() as usize
    }

    fn is_confirmed(&self) -> bool {
        self.confirmed.count_ones() >= self.need
    }
}

/// All writes that wait for delayed confirmations, and the times at which something changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct DelayGate {
    writes: BTreeMap<Seq, DelayedWrite>,
    timers: BinaryHeap<Reverse<(Micros, Seq, u8)>>,
    /// Writes that have their quorum and wait only for commit.
    confirmed: BTreeSet<Seq>,
}

/// A heap has no order of its own: its timers count sorted.
impl Hash for DelayGate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { writes, timers, confirmed } = self;
        (writes, confirmed, timers.clone().into_sorted_vec()).hash(state);
    }
}

impl DelayGate {
    /// Adds a write; `round_trips` holds one duration per follower, with its number.
    pub(crate) fn add(
        &mut self,
        seq: Seq,
        write: WriteId,
        need: u8,
        appended: Micros,
        deadline: Micros,
        round_trips: impl Iterator<Item = (u8, Duration)>,
    ) {
        for (follower, round_trip) in round_trips {
            self.timers.push(Reverse((appended.after(round_trip), seq, follower)));
        }
        let write = DelayedWrite { write, appended, deadline, need: u32::from(need), passed: 0, confirmed: 0 };
        self.writes.insert(seq, write);
    }

    /// When [`Self::pass_time`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Micros> {
        self.timers.peek().map(|Reverse((due, ..))| *due)
    }

    /// Lets round trips end; `acknowledged(follower)` is how far a counted follower acknowledged.
    pub(crate) fn pass_time(&mut self, now: Micros, acknowledged: impl Fn(u8) -> Option<Seq>) {
        while let Some(Reverse((due, seq, follower))) = self.timers.peek().copied() {
            if due > now {
                return;
            }
            self.timers.pop();
            // The write may have been answered or timed out meanwhile.
            let Some(write) = self.writes.get_mut(&seq) else { continue };
            write.passed |= 1 << follower;
            if acknowledged(follower).is_some_and(|match_seq| match_seq >= seq) {
                write.confirmed |= 1 << follower;
                if write.is_confirmed() {
                    self.confirmed.insert(seq);
                }
            }
        }
    }

    /// A counted follower acknowledged the entries after `before` up to `match_seq`.
    pub(crate) fn acknowledge(&mut self, follower: u8, before: Seq, match_seq: Seq) {
        if before >= match_seq {
            return;
        }
        for (seq, write) in self.writes.range_mut(before.next()..=match_seq) {
            if write.passed & (1 << follower) != 0 {
                write.confirmed |= 1 << follower;
                if write.is_confirmed() {
                    self.confirmed.insert(*seq);
                }
            }
        }
    }

    /// Writes need no more confirmations than this: there are no more followers to give them.
    pub(crate) fn cap(&mut self, followers: usize) {
        let most = u32::try_from(followers).unwrap_or(u32::MAX);
        for (seq, write) in &mut self.writes {
            write.need = write.need.min(most);
            if write.is_confirmed() {
                self.confirmed.insert(*seq);
            }
        }
    }

    /// A follower is none any more; its number may become another's.
    pub(crate) fn forget(&mut self, follower: u8) {
        self.timers.retain(|Reverse((.., of))| *of != follower);
        for write in self.writes.values_mut() {
            write.passed &= !(1 << follower);
            write.confirmed &= !(1 << follower);
        }
    }

    /// Takes out one write that is confirmed and committed.
    pub(crate) fn pop_answered(&mut self, commit: Seq) -> Option<(Seq, DelayedWrite)> {
        let seq = self.confirmed.first().copied().filter(|seq| *seq <= commit)?;
        self.confirmed.remove(&seq);
        self.writes.remove(&seq).map(|write| (seq, write))
    }

    /// Takes out every write whose deadline has passed.
    pub(crate) fn take_expired(&mut self, now: Micros) -> Vec<DelayedWrite> {
        let expired: Vec<Seq> =
            self.writes.iter().filter(|(_, write)| write.deadline <= now).map(|(seq, _)| *seq).collect();
        expired.into_iter().filter_map(|seq| self.remove(seq)).collect()
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<DelayedWrite> {
        self.timers.clear();
        self.confirmed.clear();
        std::mem::take(&mut self.writes).into_values().collect()
    }

    /// The earliest deadline of a waiting write.
    pub(crate) fn first_write_deadline(&self) -> Option<Micros> {
        self.writes.values().map(|write| write.deadline).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.writes.len()
    }

    pub(crate) fn holds(&self, seq: Seq) -> bool {
        self.writes.contains_key(&seq)
    }

    fn remove(&mut self, seq: Seq) -> Option<DelayedWrite> {
        self.confirmed.remove(&seq);
        self.writes.remove(&seq)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEADLINE: Micros = Micros(10_000_000);

    proptest! {
        /// Whatever the order of acknowledgements, a write is answered when the need-th confirmation is in.
        #[test]
        fn a_write_is_answered_at_its_order_statistic(
            trips in prop::collection::vec(0_u64..1000, 5),
            acks in prop::collection::vec(0_u64..1000, 5),
            need in 1_u8..=5,
        ) {
            let mut gate = DelayGate::default();
            let durations = (0_u8..).zip(trips.iter().map(|trip| Duration::from_micros(*trip)));
            gate.add(Seq(1), WriteId(7), need, Micros(0), DEADLINE, durations);
            let mut confirmations: Vec<u64> = trips.iter().zip(&acks).map(|(trip, ack)| *trip.max(ack)).collect();
            confirmations.sort_unstable();
            let expected = confirmations[usize::from(need) - 1];
            let mut answered = None;
            for now in 0..=1000_u64 {
                for (follower, ack) in (0_u8..).zip(&acks) {
                    if *ack == now {
                        gate.acknowledge(follower, Seq(0), Seq(1));
                    }
                }
                let acknowledged = |follower: u8| (acks[usize::from(follower)] <= now).then_some(Seq(1));
                gate.pass_time(Micros(now), acknowledged);
                if let Some((_, write)) = gate.pop_answered(Seq(1)) {
                    prop_assert!(write.replicas() >= usize::from(need));
                    answered = Some(now);
                    break;
                }
            }
            prop_assert_eq!(answered, Some(expected));
        }
    }

    #[test]
    fn an_uncommitted_write_is_not_answered() {
        let mut gate = DelayGate::default();
        gate.add(Seq(4), WriteId(1), 1, Micros(0), DEADLINE, [(0, Duration::ZERO)].into_iter());
        gate.pass_time(Micros(1), |_| Some(Seq(4)));
        assert!(gate.pop_answered(Seq(3)).is_none());
        assert!(gate.pop_answered(Seq(4)).is_some());
    }

    #[test]
    fn expired_writes_leave_nothing_behind() {
        let mut gate = DelayGate::default();
        gate.add(Seq(4), WriteId(1), 2, Micros(0), Micros(50), [0, 1, 2].map(|n| (n, Duration::ZERO)).into_iter());
        assert_eq!(gate.take_expired(Micros(49)).len(), 0);
        assert_eq!(gate.take_expired(Micros(50)).len(), 1);
        gate.pass_time(Micros(60), |_| Some(Seq(9)));
        assert!(gate.pop_answered(Seq(9)).is_none());
        assert_eq!(gate.len(), 0);
    }

    #[test]
    fn a_write_does_not_wait_for_followers_that_are_gone_nor_count_their_number_for_others() {
        let mut gate = DelayGate::default();
        let round_trips = (0..3).map(|n| (n, Duration::ZERO));
        gate.add(Seq(4), WriteId(1), 3, Micros(0), DEADLINE, round_trips);
        gate.pass_time(Micros(1), |follower| (follower < 2).then_some(Seq(4)));
        assert!(gate.pop_answered(Seq(4)).is_none());
        gate.forget(1);
        gate.acknowledge(1, Seq(0), Seq(4));
        gate.cap(2);
        assert!(gate.pop_answered(Seq(4)).is_none(), "the follower that is now number one was drawn no round trip");
        gate.acknowledge(2, Seq(0), Seq(4));
        assert!(gate.pop_answered(Seq(4)).is_some());
    }
}

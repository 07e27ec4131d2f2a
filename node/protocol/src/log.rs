//! The log: entries that may still be needed, and the outline of all that ever were.

use std::{collections::VecDeque, ops::RangeInclusive};

use quorumkv_api::{Epoch, Position, Seq, Settings, WriteQuorum, peer::SettingsEntry};

use crate::message::{Entry, EpochStart, Operation, Outline, SnapshotMeta};

/// Entries after `base`, in memory. Entries up to `base` are committed and live on in the applied state.
#[derive(Debug, Clone, Default, Hash)]
pub struct Log {
    base: Seq,
    starts: Vec<EpochStart>,
    entries: VecDeque<Entry>,
    weight: usize,
    /// Settings entries in log order; the first one is the last known committed (see `settings_committed`).
    settings: Vec<SettingsEntry>,
    settings_committed: bool,
}

impl Log {
    /// The last entry; position zero when there is none.
    #[must_use]
    pub fn last(&self) -> Position {
        let seq = self.last_seq();
        Position { epoch: self.epoch_at(seq).unwrap_or_default(), seq }
    }

    /// Place of the last entry.
    #[must_use]
    pub fn last_seq(&self) -> Seq {
        Seq(self.base.0 + self.entries.len() as u64)
    }

    /// Last place whose entry is no longer held.
    #[must_use]
    pub fn base(&self) -> Seq {
        self.base
    }

    /// Bytes held.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Number of entries held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Epoch of the entry at `seq`, also of one no longer held; zero for place zero, none past the end.
    #[must_use]
    pub fn epoch_at(&self, seq: Seq) -> Option<Epoch> {
        if seq > self.last_seq() {
            return None;
        }
        let after = self.starts.partition_point(|start| start.first <= seq);
        Some(after.checked_sub(1).map_or(Epoch(0), |index| self.starts[index].epoch))
    }

    /// Position of the entry at `seq`.
    #[must_use]
    pub fn position_at(&self, seq: Seq) -> Option<Position> {
        self.epoch_at(seq).map(|epoch| Position { epoch, seq })
    }

    /// The outline up to and including `last`.
    #[must_use]
    pub fn outline_to(&self, last: Seq) -> Outline {
        let starts = self.starts.iter().take_while(|start| start.first <= last).copied().collect();
        Outline { starts, last }
    }

    /// The outline of the whole log.
    #[must_use]
    pub fn outline(&self) -> Outline {
        self.outline_to(self.last_seq())
    }

    /// Entries at these places, which must be held.
    pub fn entries(&self, places: RangeInclusive<Seq>) -> impl ExactSizeIterator<Item = &Entry> + Clone {
        let from = usize::try_from(places.start().0 - self.base.0 - 1).expect("held entries fit in memory");
        let end = usize::try_from(places.end().0.saturating_sub(self.base.0)).expect("held entries fit in memory");
        self.entries.range(from..end.max(from))
    }

    /// Appends the next entry.
    pub fn append(&mut self, entry: Entry) {
        debug_assert_eq!(entry.seq, self.last_seq().next(), "the log has no gaps");
        debug_assert!(self.starts.last().is_none_or(|start| start.epoch <= entry.epoch), "epochs never go back");
        if self.starts.last().is_none_or(|start| start.epoch != entry.epoch) {
            self.starts.push(EpochStart { epoch: entry.epoch, first: entry.seq });
        }
        if let Operation::Settings(settings) = &entry.operation {
            self.settings.push(SettingsEntry { position: entry.position(), settings: *settings });
        }
        self.weight += entry.weight();
        self.entries.push_back(entry);
    }

    /// Forgets the entries after `last`.
    pub fn truncate(&mut self, last: Seq) {
        while self.last_seq() > last {
            let Some(entry) = self.entries.pop_back() else { break };
            self.weight -= entry.weight();
        }
        self.starts.retain(|start| start.first <= last);
        self.settings.retain(|entry| entry.position.seq <= last);
    }

    /// Notes that entries up to `commit` are committed: settings before the last of them are superseded.
    pub fn commit(&mut self, commit: Seq) {
        let committed = self.settings.partition_point(|entry| entry.position.seq <= commit);
        if committed > 0 {
            self.settings.drain(..committed - 1);
            self.settings_committed = true;
        }
    }

    /// Drops the oldest entries up to `last_dropped`, which must be committed, while more is held than allowed.
    pub fn trim(&mut self, last_dropped: Seq, retain_bytes: usize, retain_entries: usize) {
        while self.base < last_dropped && (self.weight > retain_bytes || self.entries.len() > retain_entries) {
            let Some(entry) = self.entries.pop_front() else { break };
            self.weight -= entry.weight();
            self.base = entry.seq;
        }
    }

    /// Starts again after a snapshot.
    pub fn reset(&mut self, meta: &SnapshotMeta) {
        let SnapshotMeta { outline: Outline { starts, last }, settings } = meta;
        *self = Self {
            base: *last,
            starts: starts.clone(),
            entries: VecDeque::new(),
            weight: 0,
            settings: settings.iter().copied().collect(),
            settings_committed: settings.is_some(),
        };
    }

    /// The last entry that this log and another have in common.
    ///
    /// Two entries with the same epoch and place are the same, and so is everything before them; so the
    /// logs part after the shorter end of the last epoch that both have.
    #[must_use]
    pub fn common(&self, other: &Outline) -> Seq {
        let ours = self.outline();
        let end_of = |outline: &Outline, index: usize| {
            outline.starts.get(index + 1).map_or(outline.last, |next| next.first.prev())
        };
        for (index, start) in ours.starts.iter().enumerate().rev() {
            if let Some(theirs) = other.starts.iter().position(|other| other == start) {
                return end_of(&ours, index).min(end_of(other, theirs));
            }
        }
        Seq(0)
    }

    /// Settings entries from the last known committed one onward.
    #[must_use]
    pub fn settings(&self) -> &[SettingsEntry] {
        &self.settings
    }

    /// The last settings entry known committed.
    #[must_use]
    pub fn committed_settings(&self) -> Option<SettingsEntry> {
        self.settings_committed.then(|| self.settings.first().copied()).flatten()
    }

    /// Whether the first of [`Self::settings`] is known committed.
    #[must_use]
    pub fn settings_committed(&self) -> bool {
        self.settings_committed && !self.settings.is_empty()
    }

    /// The settings that govern the next entry.
    #[must_use]
    pub fn settings_in_force(&self) -> Option<Settings> {
        self.settings.last().map(|entry| entry.settings)
    }

    /// The largest quorum in force or waiting to be.
    #[must_use]
    pub fn largest_quorum(&self) -> Option<WriteQuorum> {
        self.settings.iter().map(|entry| entry.settings.write_quorum).max()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn put(epoch: u64, seq: u64) -> Entry {
        let operation = Operation::Put { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"1") };
        Entry { epoch: Epoch(epoch), seq: Seq(seq), operation }
    }

    fn log_of(epochs: &[u64]) -> Log {
        let mut log = Log::default();
        for (index, epoch) in epochs.iter().enumerate() {
            log.append(put(*epoch, index as u64 + 1));
        }
        log
    }

    proptest! {
        #[test]
        fn the_common_prefix_is_found_from_outlines(
            shared in prop::collection::vec(1_u64..4, 0..8),
            ours in prop::collection::vec(4_u64..7, 0..6),
            theirs in prop::collection::vec(7_u64..9, 0..6),
        ) {
            // Leaders of different epochs diverge; one epoch has one leader and so one sequence.
            let sorted = |mut tail: Vec<u64>| { tail.sort_unstable(); tail };
            let shared = sorted(shared);
            let a: Vec<u64> = shared.iter().copied().chain(sorted(ours)).collect();
            let b: Vec<u64> = shared.iter().copied().chain(sorted(theirs)).collect();
            let (a, b) = (log_of(&a), log_of(&b));
            prop_assert_eq!(a.common(&b.outline()), Seq(shared.len() as u64));
            prop_assert_eq!(b.common(&a.outline()), Seq(shared.len() as u64));
        }

        #[test]
        fn trimming_loses_no_position(epochs in prop::collection::vec(1_u64..5, 1..20), dropped in 0_u64..20) {
            let mut epochs = epochs;
            epochs.sort_unstable();
            let whole = log_of(&epochs);
            let mut trimmed = whole.clone();
            let dropped = dropped.min(epochs.len() as u64);
            trimmed.trim(Seq(dropped), 0, 0);
            prop_assert_eq!(trimmed.base(), Seq(dropped));
            prop_assert_eq!(trimmed.outline(), whole.outline());
            for (index, epoch) in epochs.iter().enumerate() {
                prop_assert_eq!(trimmed.epoch_at(Seq(index as u64 + 1)), Some(Epoch(*epoch)));
            }
        }

        #[test]
        fn truncating_then_appending_is_as_if_never_there(keep in 0_u64..10) {
            let mut log = log_of(&[1, 1, 2, 2, 2, 3, 3, 3, 4, 4]);
            log.truncate(Seq(keep));
            prop_assert_eq!(log.last_seq(), Seq(keep));
            log.append(put(9, keep + 1));
            prop_assert_eq!(log.last(), Position { epoch: Epoch(9), seq: Seq(keep + 1) });
            prop_assert_eq!(log.weight(), log.entries(Seq(1)..=log.last_seq()).map(Entry::weight).sum::<usize>());
        }
    }

    #[test]
    fn commit_supersedes_older_settings() {
        let mut log = Log::default();
        for (seq, quorum) in [(1, 3), (2, 1), (3, 5)] {
            let settings = Settings { write_quorum: WriteQuorum(quorum), ..Settings::default() };
            log.append(Entry { epoch: Epoch(1), seq: Seq(seq), operation: Operation::Settings(settings) });
        }
        assert!(log.committed_settings().is_none());
        log.commit(Seq(2));
        assert_eq!(log.committed_settings().map(|entry| entry.settings.write_quorum), Some(WriteQuorum(1)));
        assert_eq!(log.settings().len(), 2);
        assert_eq!(log.settings_in_force().map(|settings| settings.write_quorum), Some(WriteQuorum(5)));
        log.truncate(Seq(2));
        assert_eq!(log.settings_in_force().map(|settings| settings.write_quorum), Some(WriteQuorum(1)));
    }
}

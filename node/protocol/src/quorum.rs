//! How far the log is committed, and until when reads are leased: order statistics over followers.

use quorumkv_api::{Seq, peer::SettingsEntry};

use crate::planted::{Bug, planted};

/// The `quorum`-th largest of `values`: as many followers have at least this. None when there are too few.
///
/// Sorts `values` in place, descending.
#[must_use]
pub fn reached_by<T: Ord + Copy>(values: &mut [T], quorum: usize) -> Option<T> {
    values.sort_unstable_by(|a, b| b.cmp(a));
    quorum.checked_sub(1).and_then(|index| values.get(index)).copied()
}

/// The last entry that may be committed, given how far each counted follower acknowledged.
///
/// `settings` are the settings entries from the last committed one onward, so they say which quorum governs
/// each entry after `commit`: an ordinary entry needs the quorum last set before it, a settings entry needs
/// the larger of the old quorum and its own. Commit is contiguous, so the first entry that lacks its quorum
/// stops it. Before any settings entry the first one's quorum holds.
#[must_use]
pub fn committed(acknowledged: &mut [Seq], settings: &[SettingsEntry], commit: Seq, durable: Seq) -> Seq {
    let Some(first) = settings.first() else { return commit };
    let mut reached = |quorum: u8| reached_by(acknowledged, usize::from(quorum)).unwrap_or_default().min(durable);
    let uncommitted = settings.partition_point(|entry| entry.position.seq <= commit);
    let mut governing = uncommitted.checked_sub(1).map_or(first, |index| &settings[index]).settings.write_quorum.0;
    let mut commit = commit;
    for entry in &settings[uncommitted..] {
        let before = entry.position.seq.prev();
        commit = commit.max(reached(governing).min(before));
        let next = entry.settings.write_quorum.0;
        let need = if planted(Bug::LowerQuorumEarly) { next } else { governing.max(next) };
        if commit < before || reached(need) < entry.position.seq {
            return commit;
        }
        commit = entry.position.seq;
        governing = next;
    }
    commit.max(reached(governing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use quorumkv_api::{Epoch, Position, Settings, WriteQuorum};

    fn settings_at(seq: u64, quorum: u8) -> SettingsEntry {
        SettingsEntry {
            position: Position { epoch: Epoch(1), seq: Seq(seq) },
            settings: Settings { write_quorum: WriteQuorum(quorum), ..Settings::default() },
        }
    }

    /// One line per case of `testdata/quorum.txt`: a reviewer needs no Rust to check the rules.
    #[test]
    fn quorum_rules_hold_as_written_down() {
        let mut cases = 0;
        for line in include_str!("../testdata/quorum.txt").lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let mut fields = line.split('|').map(str::trim);
            let mut field = || fields.next().unwrap_or_else(|| panic!("too few fields: {line}"));
            let mut acks: Vec<Seq> = field().split_whitespace().map(|ack| Seq(ack.parse().expect("number"))).collect();
            let settings: Vec<SettingsEntry> = field()
                .split_whitespace()
                .map(|entry| {
                    let (seq, quorum) = entry.split_once(":q").expect("place:qN");
                    settings_at(seq.parse().expect("number"), quorum.parse().expect("number"))
                })
                .collect();
            let commit = Seq(field().parse().expect("number"));
            let durable = Seq(field().parse().expect("number"));
            let expected = Seq(field().parse().expect("number"));
            assert_eq!(committed(&mut acks, &settings, commit, durable), expected, "{line}");
            cases += 1;
        }
        assert!(cases >= 15, "only {cases} cases were read");
    }

    /// The same rule said the slow way: entry by entry.
    fn committed_by_definition(acks: &[Seq], settings: &[SettingsEntry], commit: Seq, durable: Seq) -> Seq {
        let mut commit = commit;
        loop {
            let next = commit.next();
            let before = settings.iter().rev().find(|entry| entry.position.seq < next).or(settings.first());
            let Some(before) = before else { return commit };
            let own = settings.iter().find(|entry| entry.position.seq == next).unwrap_or(before);
            let need = before.settings.write_quorum.max(own.settings.write_quorum).0;
            let holders = acks.iter().filter(|ack| **ack >= next).count();
            if holders < usize::from(need) || durable < next {
                return commit;
            }
            commit = next;
        }
    }

    proptest! {
        #[test]
        fn the_fast_rule_is_the_definition(
            acks in prop::collection::vec(0_u64..30, 0..6),
            quorums in prop::collection::vec((1_u64..25, 1_u8..6), 1..4),
            commit in 0_u64..10,
            durable in 0_u64..30,
        ) {
            let mut entries: Vec<SettingsEntry> = quorums.iter().map(|(seq, quorum)| settings_at(*seq, *quorum)).collect();
            entries.sort_by_key(|entry| entry.position.seq);
            entries.dedup_by_key(|entry| entry.position.seq);
            let acks: Vec<Seq> = acks.into_iter().map(Seq).collect();
            let slow = committed_by_definition(&acks, &entries, Seq(commit), Seq(durable));
            prop_assert_eq!(committed(&mut acks.clone(), &entries, Seq(commit), Seq(durable)), slow);
        }

        #[test]
        fn as_many_as_asked_for_have_reached_it(values in prop::collection::vec(0_u32..50, 0..8), quorum in 0_usize..9) {
            match reached_by(&mut values.clone(), quorum) {
                Some(reached) => {
                    prop_assert!(values.iter().filter(|value| **value >= reached).count() >= quorum);
                    prop_assert!(values.iter().filter(|value| **value > reached).count() < quorum);
                }
                None => prop_assert!(quorum == 0 || values.len() < quorum),
            }
        }
    }
}

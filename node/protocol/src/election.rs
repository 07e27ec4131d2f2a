//! Which node leads next: a pure choice from what is recorded and what fenced nodes answered.
//!
//! The manager (the operator, `local`, or a static leader) raises the epoch by compare-and-swap, fences every
//! node it can reach, and brings the answers here. It never chooses before it has fenced: a position read
//! from an unfenced node may already be out of date. The rules are those of flexible quorums (Howard,
//! Malkhi, Spiegelman: "Flexible Paxos", 2016) with primary-backup and an external configuration manager
//! (Lin et al.: "PacificA", 2008).

use std::{collections::BTreeSet, time::Duration};

use quorumkv_api::{
    Epoch, NodeId, Position, ProcessId, Seq, StorageId,
    peer::{FenceReply, Member, SettingsEntry},
};

use crate::{
    LEASE,
    membership::Membership,
    planted::{Bug, planted},
};

/// What the manager has on record, read live and never from a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Record {
    /// How many nodes the store has, and what is known of its quorum.
    pub membership: Membership,
    /// Whose copies count; empty before the first election.
    pub members: Vec<Member>,
    /// The copy that was last named leader, kept while no leader is named.
    pub last_leader: Option<Member>,
}

/// The node to promote, and what goes into the record with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Choice {
    /// The node.
    pub node: NodeId,
    /// Its copy: promotion is refused if it has another one by then.
    pub storage_id: StorageId,
    /// Its process: promotion is refused if it runs another one by then.
    pub process_id: ProcessId,
    /// Where its log ends.
    pub last: Position,
    /// How long leases granted to earlier leaders may still run.
    pub lease_wait: Duration,
    /// The members to record, together with the leader and in the same compare-and-swap.
    pub members: Vec<Member>,
    /// Whether the chosen log holds no settings yet, so that the leader needs its first ones: the store is
    /// new, or an earlier manager or leader ended before they were written.
    pub bootstrap: bool,
}

/// Why no node may lead yet. Waiting for the missing ones is safe; choosing without them is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// A new store starts when all nodes but one are there.
    #[error("a new store needs {required} of {nodes} nodes to start, {answered} answered; missing: {}", names(.missing))]
    Bootstrap {
        /// Nodes needed.
        required: usize,
        /// Nodes of the store.
        nodes: usize,
        /// Nodes that answered.
        answered: usize,
        /// Recorded or expected nodes that did not, as far as they are known by name.
        missing: Vec<NodeId>,
    },
    /// Nothing is recorded but nodes hold data: only hearing all of them proves that nothing is missed.
    #[error("data was found but no members are recorded: all {nodes} nodes must answer, {answered} did; missing: {}", names(.missing))]
    UnrecordedData {
        /// Nodes of the store.
        nodes: usize,
        /// Nodes that answered.
        answered: usize,
        /// Expected nodes that did not.
        missing: Vec<NodeId>,
    },
    /// Too few recorded copies answered to be sure of seeing every acknowledged write.
    #[error("{counted} recorded copies answered, {required} are needed to be sure of every acknowledged write; missing: {}", names(.missing))]
    Recovery {
        /// Recorded copies that answered.
        counted: usize,
        /// Recorded copies needed.
        required: usize,
        /// Recorded nodes whose recorded copy did not answer.
        missing: Vec<NodeId>,
    },
}

fn names(nodes: &[NodeId]) -> String {
    if nodes.is_empty() {
        return "unknown".to_owned();
    }
    nodes.iter().map(|node| node.0.as_str()).collect::<Vec<_>>().join(", ")
}

/// Chooses the next leader.
///
/// `expected` names every node of the store, for messages; `preference` lists nodes to prefer among equally
/// complete logs, best first.
///
/// # Errors
/// See [`Shortfall`].
pub fn elect(
    record: &Record,
    expected: &[NodeId],
    answers: &[FenceReply],
    preference: &[NodeId],
) -> Result<Choice, Shortfall> {
    if record.members.is_empty() {
        return elect_unrecorded(record.membership.nodes, expected, answers, preference);
    }
    let counted: Vec<&FenceReply> =
        answers.iter().filter(|answer| record.members.contains(&member_of(answer))).collect();
    let required = required_answers(&record.membership, &counted);
    if counted.len() >= required || planted(Bug::ElectWithoutQuorum) && !counted.is_empty() {
        return Ok(choose(&counted, answers, preference, record.members.clone()));
    }
    // The last named leader holds every acknowledged write of its own epoch and all before it, so its copy
    // alone is enough. Its leases have no witness here, hence the full wait.
    let leader_answered =
        record.last_leader.as_ref().is_some_and(|leader| counted.iter().any(|answer| member_of(answer) == *leader));
    if leader_answered {
        let choice = choose(&counted, answers, preference, record.members.clone());
        return Ok(Choice { lease_wait: LEASE, ..choice });
    }
    let heard: BTreeSet<&NodeId> = counted.iter().map(|answer| &answer.node).collect();
    let missing = record.members.iter().map(|member| &member.name).filter(|name| !heard.contains(name));
    Err(Shortfall::Recovery { counted: counted.len(), required, missing: missing.cloned().collect() })
}

/// Chooses when nothing is recorded: a new store, a lost record, or a static leader, which records nothing
/// and therefore asks only once every node has answered.
fn elect_unrecorded(
    nodes: usize,
    expected: &[NodeId],
    answers: &[FenceReply],
    preference: &[NodeId],
) -> Result<Choice, Shortfall> {
    let heard: BTreeSet<&NodeId> = answers.iter().map(|answer| &answer.node).collect();
    let missing: Vec<NodeId> = expected.iter().filter(|node| !heard.contains(node)).cloned().collect();
    let empty = answers.iter().all(|answer| answer.last.seq == Seq(0));
    let required = nodes.saturating_sub(1).max(1);
    if !empty && answers.len() < nodes {
        return Err(Shortfall::UnrecordedData { nodes, answered: answers.len(), missing });
    }
    if answers.len() < required {
        return Err(Shortfall::Bootstrap { required, nodes, answered: answers.len(), missing });
    }
    let all: Vec<&FenceReply> = answers.iter().collect();
    let choice = choose(&all, answers, preference, answers.iter().map(member_of).collect());
    // Nobody ever led an empty store, so nobody can hold a lease on it.
    let lease_wait = if empty { Duration::ZERO } else { choice.lease_wait };
    Ok(Choice { lease_wait, ..choice })
}

fn member_of(answer: &FenceReply) -> Member {
    Member { name: answer.node.clone(), storage_id: answer.storage_id }
}

/// How many recorded copies must answer: `N - q` for every quorum that may have acknowledged a write.
///
/// An entry is acknowledged by the leader and `q` followers, so `N - q` answers include one of them. Which
/// quorums may have been in force is in the log itself. Settings older than one known committed are
/// superseded, whether an answer knows it or the record; if none is known committed, only all nodes but one are
/// enough.
fn required_answers(membership: &Membership, counted: &[&FenceReply]) -> usize {
    let nodes = membership.nodes;
    let known = membership.known_quorum.filter(|_| !planted(Bug::IgnoreKnownQuorum));
    let committed = counted
        .iter()
        .filter(|answer| answer.settings_committed)
        .filter_map(|answer| answer.settings.first())
        .map(|entry| entry.position.seq)
        .chain(known.map(|known| known.seq))
        .max();
    let Some(committed) = committed else {
        return nodes.saturating_sub(1).max(1);
    };
    let in_force = |entry: &&SettingsEntry| entry.position.seq >= committed;
    if planted(Bug::IgnoreSettingsInRecovery) {
        let newest = counted.iter().flat_map(|answer| &answer.settings).max_by_key(|entry| entry.position);
        return newest.map_or(nodes, |entry| nodes.saturating_sub(usize::from(entry.settings.write_quorum.0)));
    }
    counted
        .iter()
        .flat_map(|answer| answer.settings.iter().filter(in_force))
        .map(|entry| entry.settings.write_quorum)
        .chain(known.filter(|known| known.seq >= committed).map(|known| known.write_quorum))
        .map(|quorum| nodes.saturating_sub(usize::from(quorum.0)))
        .max()
        .unwrap_or(nodes)
        .max(1)
}

fn choose(eligible: &[&FenceReply], answers: &[FenceReply], preference: &[NodeId], members: Vec<Member>) -> Choice {
    let rank = |node: &NodeId| preference.iter().position(|preferred| preferred == node).unwrap_or(usize::MAX);
    let best = eligible
        .iter()
        .max_by(|a, b| a.last.cmp(&b.last).then_with(|| rank(&b.node).cmp(&rank(&a.node))).then(b.node.cmp(&a.node)))
        .expect("the caller counted at least one answer");
    let lease_ms = answers.iter().map(|answer| answer.lease_remaining_ms).max().unwrap_or(0);
    Choice {
        node: best.node.clone(),
        storage_id: best.storage_id,
        process_id: best.process_id,
        last: best.last,
        lease_wait: Duration::from_millis(lease_ms),
        members,
        bootstrap: best.settings.is_empty(),
    }
}

/// The epoch to try next, above the recorded one and above every promise a node refused with.
#[must_use]
pub fn next_epoch(recorded: Epoch, promises: impl IntoIterator<Item = Epoch>) -> Epoch {
    promises.into_iter().fold(recorded, Epoch::max).next()
}

#[cfg(test)]
mod tests {
    use quorumkv_api::{Settings, WriteQuorum};
    use rstest::rstest;

    use super::*;
    use crate::membership::KnownQuorum;

    fn answer(name: &str, epoch: u64, seq: u64) -> FenceReply {
        FenceReply {
            node: name.into(),
            storage_id: storage(name),
            process_id: ProcessId::random(),
            previous_promise: Epoch(epoch),
            last: Position { epoch: Epoch(epoch), seq: Seq(seq) },
            commit: Seq(seq.min(2)),
            settings: if seq == 0 { Vec::new() } else { vec![settings_at(2, 3)] },
            settings_committed: seq > 0,
            lease_remaining_ms: 0,
        }
    }

    fn settings_at(seq: u64, quorum: u8) -> SettingsEntry {
        SettingsEntry {
            position: Position { epoch: Epoch(1), seq: Seq(seq) },
            settings: Settings { write_quorum: WriteQuorum(quorum), ..Settings::default() },
        }
    }

    fn storage(name: &str) -> StorageId {
        let digit: u128 = name.trim_start_matches('n').parse().expect("names are n0..n5");
        StorageId(uuid::Uuid::from_u128(digit))
    }

    fn all() -> Vec<NodeId> {
        (0..6).map(|n| NodeId(format!("n{n}"))).collect()
    }

    fn record(last_leader: &str) -> Record {
        let member = |node: NodeId| Member { storage_id: storage(&node.0), name: node };
        Record {
            membership: Membership::first(6),
            members: all().into_iter().map(member).collect(),
            last_leader: Some(Member { name: last_leader.into(), storage_id: storage(last_leader) }),
        }
    }

    #[test]
    fn the_longest_log_of_the_newest_epoch_leads() {
        let answers = [answer("n1", 1, 90), answer("n2", 2, 50), answer("n3", 2, 60)];
        let choice = elect(&record("n0"), &all(), &answers, &[]).expect("three of six are enough at quorum three");
        assert_eq!(choice.node, "n3".into(), "a newer epoch beats a longer log");
    }

    #[test]
    fn among_equal_logs_the_preferred_node_leads() {
        let answers = [answer("n1", 1, 9), answer("n2", 1, 9), answer("n3", 1, 9)];
        let choice = elect(&record("n0"), &all(), &answers, &["n2".into()]).expect("enough");
        assert_eq!(choice.node, "n2".into());
    }

    #[rstest]
    #[case::quorum_one_needs_five(1, 4, false)]
    #[case::quorum_one_has_five(1, 5, true)]
    #[case::quorum_three_needs_three(3, 2, false)]
    #[case::quorum_three_has_three(3, 3, true)]
    #[case::quorum_five_needs_one(5, 1, true)]
    fn a_recovery_hears_enough_to_meet_every_acknowledged_write(
        #[case] quorum: u8,
        #[case] answering: usize,
        #[case] elected: bool,
    ) {
        let answers: Vec<FenceReply> = (1..=answering)
            .map(|n| FenceReply { settings: vec![settings_at(2, quorum)], ..answer(&format!("n{n}"), 1, 9) })
            .collect();
        assert_eq!(elect(&record("n0"), &all(), &answers, &[]).is_ok(), elected);
    }

    #[test]
    fn an_uncommitted_lowering_already_demands_more_answers() {
        let mut answers: Vec<FenceReply> = (1..=3).map(|n| answer(&format!("n{n}"), 1, 9)).collect();
        answers[1].settings.push(settings_at(8, 1));
        let refused = elect(&record("n0"), &all(), &answers, &[]).expect_err("quorum one may have been in force");
        assert!(matches!(refused, Shortfall::Recovery { counted: 3, required: 5, .. }), "{refused}");
        assert!(refused.to_string().contains("n0, n4, n5"), "{refused}");
    }

    #[test]
    fn a_committed_raise_supersedes_the_lower_quorum_before_it() {
        let mut answers: Vec<FenceReply> = (1..=3)
            .map(|n| FenceReply { settings: vec![settings_at(2, 1)], ..answer(&format!("n{n}"), 1, 9) })
            .collect();
        answers[2].settings = vec![settings_at(7, 3)];
        assert!(elect(&record("n0"), &all(), &answers, &[]).is_ok(), "n3 knows that quorum three is committed");
    }

    /// Quorum four was lowered to one, which n4 has not heard, and a node has been taken out since.
    #[test]
    fn the_quorum_on_record_supersedes_what_answers_know() {
        let known_quorum = KnownQuorum { seq: Seq(7), write_quorum: WriteQuorum(1) };
        let membership = Membership { known_quorum: Some(known_quorum), ..Membership::first(5) };
        let record = Record { membership, ..record("n0") };
        let of =
            |n: usize, quorum| FenceReply { settings: vec![settings_at(2, quorum)], ..answer(&format!("n{n}"), 1, 9) };
        let refused = elect(&record, &all(), &[of(4, 4)], &[]).expect_err("it would suffice at quorum four");
        assert!(matches!(refused, Shortfall::Recovery { counted: 1, required: 4, .. }), "{refused}");
        let raised = FenceReply { settings: vec![settings_at(8, 4)], ..of(4, 4) };
        assert!(elect(&record, &all(), &[raised], &[]).is_ok(), "a later raise supersedes the record");
    }

    #[test]
    fn without_any_committed_settings_all_but_one_must_answer() {
        let unknown = |n: usize| FenceReply {
            settings_committed: false,
            settings: vec![settings_at(2, 5)],
            ..answer(&format!("n{n}"), 1, 9)
        };
        let four: Vec<FenceReply> = (1..=4).map(unknown).collect();
        let five: Vec<FenceReply> = (1..=5).map(unknown).collect();
        assert!(elect(&record("n0"), &all(), &four, &[]).is_err());
        assert!(elect(&record("n0"), &all(), &five, &[]).is_ok());
    }

    #[test]
    fn a_copy_that_is_not_recorded_does_not_count() {
        let mut answers: Vec<FenceReply> = (1..=3).map(|n| answer(&format!("n{n}"), 1, 9)).collect();
        answers[0].storage_id = StorageId::random();
        answers[0].last.seq = Seq(99);
        assert!(elect(&record("n0"), &all(), &answers, &[]).is_err(), "two recorded copies are too few");
        answers.push(answer("n4", 1, 9));
        let choice = elect(&record("n0"), &all(), &answers, &[]).expect("three recorded copies");
        assert_ne!(choice.node, "n1".into(), "the unrecorded copy is not chosen, however long its log");
    }

    #[test]
    fn the_last_leader_alone_suffices_after_a_full_lease() {
        let choice = elect(&record("n0"), &all(), &[answer("n0", 1, 9)], &[]).expect("its copy has everything");
        assert_eq!((choice.node, choice.lease_wait), ("n0".into(), LEASE));
        let mut reborn = answer("n0", 0, 0);
        reborn.storage_id = StorageId::random();
        assert!(elect(&record("n0"), &all(), &[reborn], &[]).is_err(), "not with another disk");
    }

    #[test]
    fn a_new_store_starts_with_all_nodes_but_one() {
        let new = Record { membership: Membership::first(6), members: Vec::new(), last_leader: None };
        let four: Vec<FenceReply> = (0..4).map(|n| answer(&format!("n{n}"), 0, 0)).collect();
        let refused = elect(&new, &all(), &four, &[]).expect_err("two are missing");
        assert!(refused.to_string().contains("n4, n5"), "{refused}");
        let five: Vec<FenceReply> = (0..5).map(|n| answer(&format!("n{n}"), 0, 0)).collect();
        let choice = elect(&new, &all(), &five, &["n0".into()]).expect("five of six");
        assert!(choice.bootstrap);
        assert_eq!((choice.node, choice.members.len()), ("n0".into(), 5));
    }

    #[test]
    fn a_start_that_was_cut_short_still_gets_its_first_settings() {
        let answers: Vec<FenceReply> = (0..5).map(|n| answer(&format!("n{n}"), 0, 0)).collect();
        let choice = elect(&record("n0"), &all(), &answers, &[]).expect("five recorded, empty copies");
        assert!(choice.bootstrap);
    }

    #[test]
    fn unrecorded_data_needs_every_node() {
        let lost = Record { membership: Membership::first(6), members: Vec::new(), last_leader: None };
        let mut answers: Vec<FenceReply> = (0..5).map(|n| answer(&format!("n{n}"), 0, 0)).collect();
        answers[3] = answer("n3", 4, 70);
        assert!(matches!(elect(&lost, &all(), &answers, &[]), Err(Shortfall::UnrecordedData { .. })));
        answers.push(answer("n5", 4, 71));
        let choice = elect(&lost, &all(), &answers, &[]).expect("all answered");
        assert_eq!((choice.node, choice.bootstrap), ("n5".into(), false));
    }

    #[test]
    fn the_longest_remaining_lease_is_waited_out() {
        let mut answers: Vec<FenceReply> = (1..=3).map(|n| answer(&format!("n{n}"), 1, 9)).collect();
        answers[2].lease_remaining_ms = 640;
        let choice = elect(&record("n0"), &all(), &answers, &[]).expect("enough");
        assert_eq!(choice.lease_wait, Duration::from_millis(640));
    }

    #[test]
    fn the_next_epoch_is_above_every_promise() {
        assert_eq!(next_epoch(Epoch(3), [Epoch(1), Epoch(7)]), Epoch(8));
        assert_eq!(next_epoch(Epoch(3), []), Epoch(4));
    }
}

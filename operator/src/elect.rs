//! One election, in the order that makes it safe: record the epoch, fence, choose, record the leader,
//! promote. A crash between any two steps costs nothing but a higher epoch: the next pass finds no leader
//! that leads and begins again.

use std::time::Duration;

use futures::future::join_all;
use quorumkv_api::{
    Epoch, NodeId, Settings,
    client::{CallError, PeerClient},
    peer::{Configuration, FenceReply, FenceRequest, Member, NodeState, PeerAddress, PromoteRequest},
};
use quorumkv_protocol::election::{self, Choice, Shortfall};

use crate::record::{Platform, Record, RecordError, Versioned};

/// What an election is about.
#[derive(Debug, Clone)]
pub struct Candidacy<'a> {
    /// Every node of the store.
    pub peers: &'a [PeerAddress],
    /// Those worth asking: a process may be there.
    pub reachable: &'a [PeerAddress],
    /// The epoch to try.
    pub epoch: Epoch,
    /// Whom to prefer among equally complete logs.
    pub preference: &'a [NodeId],
    /// Who shall lead if that is safe: a person asked for it.
    pub wanted: Option<&'a NodeId>,
    /// Who shall not lead unless nobody else can: it is about to stop.
    pub avoid: Option<&'a NodeId>,
    /// The first settings of a store that has none.
    pub settings: Settings,
}

/// A leader that was elected and promoted.
#[derive(Debug, Clone)]
pub struct Elected {
    /// The record that names it.
    pub versioned: Versioned,
    /// What it said when it was promoted.
    pub state: NodeState,
    /// How long it waits for leases of earlier leaders before it is active.
    pub lease_wait: Duration,
}

/// Why an election ended without a leader. The record may be at a higher epoch; the next try goes above it.
#[derive(Debug, thiserror::Error)]
pub enum ElectionError {
    /// The record could not be replaced.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A node has promised a higher epoch than the one tried.
    #[error("{node} has already promised epoch {promised}")]
    Outrun {
        /// Who.
        node: NodeId,
        /// What.
        promised: Epoch,
    },
    /// Too few answered.
    #[error(transparent)]
    Short(#[from] Shortfall),
    /// The chosen node did not take the promotion.
    #[error("{node} was not promoted: {source}")]
    Promote {
        /// Who.
        node: NodeId,
        /// Why.
        source: CallError,
    },
}

/// Elects and promotes a leader, starting from the record as it was just read.
///
/// # Errors
/// See [`ElectionError`].
pub async fn run<P: Platform>(
    platform: &P,
    client: &PeerClient,
    read: &Versioned,
    candidacy: &Candidacy<'_>,
) -> Result<Elected, ElectionError> {
    let Candidacy { peers, reachable, epoch, settings, .. } = *candidacy;
    let opened = platform.replace(read, Record { epoch, leader: None, ..read.record.clone() }).await?;
    // The wanted node last: while the others stop one after the other it still takes in what the leader sends, so
    // that its log is not the shorter one for having been asked first.
    let (last, first): (Vec<&PeerAddress>, Vec<&PeerAddress>) =
        reachable.iter().partition(|node| Some(&node.node) == candidacy.wanted);
    let mut answers = fence(client, &first, epoch).await?;
    answers.extend(fence(client, &last, epoch).await?);
    let choice = choose(&opened.record, &answers, candidacy)?;
    let chosen = Member { name: choice.node.clone(), storage_id: choice.storage_id };
    // With the first members on record the number of nodes is, too: from then on it changes one by one.
    let named = Record {
        epoch,
        leader: Some(choice.node.clone()),
        last_leader: Some(chosen),
        members: choice.members.clone(),
        membership: opened.record.membership_or(peers.len()),
    };
    let configuration = named.membership.configuration();
    let versioned = platform.replace(&opened, named).await?;
    let state = promote(client, peers, epoch, &choice, settings, configuration).await?;
    Ok(Elected { versioned, state, lease_wait: choice.lease_wait })
}

/// The first half of an election, and no second one: nobody leads, and every node that answers has promised an epoch
/// that nobody leads in. What is recorded then, and what the nodes hold.
///
/// # Errors
/// See [`ElectionError`].
pub async fn stand_down<P: Platform>(
    platform: &P,
    client: &PeerClient,
    read: &Versioned,
    reachable: &[PeerAddress],
    epoch: Epoch,
) -> Result<(Versioned, Vec<FenceReply>), ElectionError> {
    let opened = platform.replace(read, Record { epoch, leader: None, ..read.record.clone() }).await?;
    let answers = fence(client, &reachable.iter().collect::<Vec<_>>(), epoch).await?;
    Ok((opened, answers))
}

async fn fence(client: &PeerClient, nodes: &[&PeerAddress], epoch: Epoch) -> Result<Vec<FenceReply>, ElectionError> {
    let request = &FenceRequest { epoch };
    let asked = nodes.iter().map(async |node| (*node, client.fence(&node.peer_url, request).await));
    let mut answers = Vec::new();
    for (node, answer) in join_all(asked).await {
        match answer {
            // The address may have gone to another pod meanwhile; its answer would be counted twice.
            Ok(answer) if answer.node == node.node => answers.push(answer),
            Ok(answer) => tracing::warn!(expected = %node.node, answered = %answer.node, "another node answered"),
            Err(CallError::Refused { refusal, .. }) if refusal.promised > epoch => {
                return Err(ElectionError::Outrun { node: node.node.clone(), promised: refusal.promised });
            }
            Err(error) => tracing::info!(node = %node.node, %error, "not fenced"),
        }
    }
    Ok(answers)
}

/// Any set of answers that is large enough is a safe base for the choice, as if the others had been lost on
/// their way. So answers are left out where those that remain are enough: the longer logs, for the sake of the
/// wanted node; the log of the node to avoid. What makes a log longer than all of a sufficient set has been
/// confirmed to nobody.
fn choose(record: &Record, answers: &[FenceReply], candidacy: &Candidacy<'_>) -> Result<Choice, Shortfall> {
    let Candidacy { peers, preference, wanted, avoid, .. } = *candidacy;
    let record = record.for_election(peers.len());
    let expected: Vec<NodeId> = peers.iter().map(|peer| peer.node.clone()).collect();
    let among = |stays: &dyn Fn(&FenceReply) -> bool, preference: &[NodeId]| -> Result<Choice, Shortfall> {
        let some: Vec<FenceReply> = answers.iter().filter(|answer| stays(answer)).cloned().collect();
        let choice = election::elect(&record, &expected, &some, preference)?;
        // Whoever was left out for its log may still have witnessed a lease.
        let witnessed = answers.iter().map(|answer| answer.lease_remaining_ms).max().unwrap_or(0);
        Ok(Choice { lease_wait: choice.lease_wait.max(Duration::from_millis(witnessed)), ..choice })
    };
    let own = wanted.and_then(|wanted| answers.iter().find(|answer| answer.node == *wanted));
    if let Some(own) = own
        && let Ok(choice) = among(&|answer| answer.last <= own.last, std::slice::from_ref(&own.node))
        && choice.node == own.node
    {
        return Ok(choice);
    }
    if let Some(avoid) = avoid
        && let Ok(choice) = among(&|answer| answer.node != *avoid, preference)
    {
        return Ok(choice);
    }
    election::elect(&record, &expected, answers, preference)
}

async fn promote(
    client: &PeerClient,
    peers: &[PeerAddress],
    epoch: Epoch,
    choice: &Choice,
    settings: Settings,
    configuration: Configuration,
) -> Result<NodeState, ElectionError> {
    let request = PromoteRequest {
        epoch,
        storage_id: choice.storage_id,
        process_id: choice.process_id,
        peers: peers.to_vec(),
        members: choice.members.clone(),
        lease_wait_ms: u64::try_from(choice.lease_wait.as_millis()).unwrap_or(u64::MAX),
        bootstrap: choice.bootstrap.then_some(settings),
        configuration,
    };
    let node = choice.node.clone();
    let peer = peers.iter().find(|peer| peer.node == node).expect("only nodes of the store are fenced");
    client.promote(&peer.peer_url, &request).await.map_err(|source| ElectionError::Promote { node, source })
}

#[cfg(test)]
mod tests {
    use quorumkv_api::Seq;
    use rstest::rstest;

    use super::*;
    use crate::testing::{Scene, name};

    /// Whom the nodes of a steady store choose whose logs end here, if n2 is wanted and n0 has led.
    fn chosen(ends: [u64; 6], silent: &[usize], lease_of: usize) -> Choice {
        let mut scene = Scene::steady();
        let answers: Vec<FenceReply> = (0..6)
            .filter(|n| !silent.contains(n))
            .map(|n| {
                let state = scene.state(n);
                FenceReply {
                    node: state.node.clone(),
                    storage_id: state.storage_id,
                    process_id: state.process_id,
                    previous_promise: state.promised,
                    last: quorumkv_api::Position { seq: Seq(ends[n]), ..state.last },
                    commit: state.commit,
                    settings: state.settings.into_iter().collect(),
                    settings_committed: true,
                    lease_remaining_ms: if n == lease_of { 640 } else { 0 },
                }
            })
            .collect();
        let peers: Vec<PeerAddress> = scene.nodes.iter().map(|view| view.address.clone()).collect();
        let (wanted, led) = (name(2), name(0));
        let candidacy = Candidacy {
            peers: &peers,
            reachable: &peers,
            epoch: Epoch(4),
            preference: &scene.store.nodes,
            wanted: Some(&wanted),
            avoid: Some(&led),
            settings: Settings::default(),
        };
        choose(&scene.record, &answers, &candidacy).expect("enough answers")
    }

    #[rstest]
    #[case::all_equal([9; 6], &[], 2)]
    #[case::the_leader_was_ahead([15, 9, 9, 9, 9, 9], &[], 2)]
    #[case::three_are_ahead_and_three_are_enough([15, 12, 9, 9, 9, 12], &[], 2)]
    #[case::four_are_ahead_so_it_may_lack_what_was_acknowledged([15, 12, 9, 12, 9, 12], &[], 1)]
    #[case::those_it_covers_do_not_answer([15, 12, 9, 9, 9, 12], &[3, 4], 1)]
    #[case::it_does_not_answer([9; 6], &[2], 1)]
    fn the_wanted_node_leads_where_enough_logs_are_no_longer(
        #[case] ends: [u64; 6],
        #[case] silent: &[usize],
        #[case] leads: usize,
    ) {
        assert_eq!(chosen(ends, silent, 5).node, name(leads));
    }

    #[test]
    fn a_lease_that_a_node_left_out_has_granted_is_waited_for_too() {
        assert_eq!(chosen([15, 12, 9, 9, 9, 12], &[], 5).lease_wait, Duration::from_millis(640));
        assert_eq!(chosen([15, 9, 9, 9, 9, 9], &[], 0).lease_wait, Duration::from_millis(640));
    }
}

//! One election, in the order that makes it safe: record the epoch, fence, choose, record the leader,
//! promote. A crash between any two steps costs nothing but a higher epoch: the next pass finds no leader
//! that leads and begins again.

use std::time::Duration;

use futures::future::join_all;
use quorumkv_api::{
    Epoch, NodeId, Settings,
    client::{CallError, PeerClient},
    peer::{FenceReply, FenceRequest, Member, NodeState, PeerAddress, PromoteRequest},
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
    let Candidacy { peers, reachable, epoch, preference, avoid, settings } = *candidacy;
    let opened = platform.replace(read, Record { epoch, leader: None, ..read.record.clone() }).await?;
    let answers = fence(client, reachable, epoch).await?;
    let choice = choose(&opened.record, peers, &answers, preference, avoid)?;
    let chosen = Member { name: choice.node.clone(), storage_id: choice.storage_id };
    let named =
        Record { epoch, leader: Some(choice.node.clone()), last_leader: Some(chosen), members: choice.members.clone() };
    let versioned = platform.replace(&opened, named).await?;
    let state = promote(client, peers, epoch, &choice, settings).await?;
    Ok(Elected { versioned, state, lease_wait: choice.lease_wait })
}

async fn fence(client: &PeerClient, nodes: &[PeerAddress], epoch: Epoch) -> Result<Vec<FenceReply>, ElectionError> {
    let request = &FenceRequest { epoch };
    let asked = nodes.iter().map(async |node| (node, client.fence(&node.peer_url, request).await));
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

/// Any set of answers that is large enough is a safe base for the choice, so the node to avoid is left out
/// where the others are enough: its log may be the longest only by entries nobody confirmed.
fn choose(
    record: &Record,
    peers: &[PeerAddress],
    answers: &[FenceReply],
    preference: &[NodeId],
    avoid: Option<&NodeId>,
) -> Result<Choice, Shortfall> {
    let record = record.for_election(peers.len());
    let expected: Vec<NodeId> = peers.iter().map(|peer| peer.node.clone()).collect();
    if let Some(avoid) = avoid {
        let others: Vec<FenceReply> = answers.iter().filter(|answer| answer.node != *avoid).cloned().collect();
        if let Ok(choice) = election::elect(&record, &expected, &others, preference) {
            return Ok(choice);
        }
    }
    election::elect(&record, &expected, answers, preference)
}

async fn promote(
    client: &PeerClient,
    peers: &[PeerAddress],
    epoch: Epoch,
    choice: &Choice,
    settings: Settings,
) -> Result<NodeState, ElectionError> {
    let request = PromoteRequest {
        epoch,
        storage_id: choice.storage_id,
        process_id: choice.process_id,
        peers: peers.to_vec(),
        members: choice.members.clone(),
        lease_wait_ms: u64::try_from(choice.lease_wait.as_millis()).unwrap_or(u64::MAX),
        bootstrap: choice.bootstrap.then_some(settings),
    };
    let node = choice.node.clone();
    let peer = peers.iter().find(|peer| peer.node == node).expect("only nodes of the store are fenced");
    client.promote(&peer.peer_url, &request).await.map_err(|source| ElectionError::Promote { node, source })
}

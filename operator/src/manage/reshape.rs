//! Letting nodes join and leave: each step is on record before the leader hears of it.

use quorumkv_api::{NodeId, client::PeerClient, peer::NodeChange};

use super::{Happening, Memory, Pass, PassError, elect_leader, reread};
use crate::{
    decide::ElectionReason,
    record::{Platform, Record},
    scale::{self, Scale},
    validate::Store,
};

/// Takes the next step, if one is due. Whether the record changed: the pass ends then, and the next one tells the
/// leader, with the addresses of the nodes that there are by then.
pub(super) async fn reshape<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    pass: &mut Pass,
    memory: &mut Memory,
) -> Result<bool, PassError> {
    pass.scale = scale::scale(&memory.situation(store, pass), &pass.leadership, &pass.roll);
    let hindrance = match &pass.scale {
        Scale::Wait(hindrance) if !hindrance.passes => Some(hindrance.to_string()),
        _ => None,
    };
    if let Some(reason) = hindrance.clone().filter(|_| memory.scaling_waits != hindrance) {
        pass.happenings.push(Happening::ScalingWaits { reason });
    }
    memory.scaling_waits = hindrance;
    match pass.scale.clone() {
        Scale::Done | Scale::UnderWay(_) | Scale::Wait(_) => Ok(false),
        Scale::HandOver(node) => hand_over(platform, client, store, &node, pass, memory).await,
        Scale::Begin(change) => {
            let begun =
                |record: &Record| Record { membership: record.membership.begin(change.clone()), ..record.clone() };
            let happening = match &change {
                NodeChange::Joining(node) => Happening::NodeJoining { node: node.clone() },
                NodeChange::Leaving(node) => Happening::NodeLeaving { node: node.clone() },
            };
            replace(platform, pass, begun, happening).await
        }
        Scale::GiveUp(change) => {
            let given_up = |record: &Record| Record { membership: record.membership.give_up(), ..record.clone() };
            replace(platform, pass, given_up, Happening::ScalingGivenUp { change }).await
        }
        Scale::Finish { change, membership, members } => {
            let finished = |record: &Record| Record { membership, members, ..record.clone() };
            let happening = match change {
                NodeChange::Joining(node) => Happening::NodeJoined { node },
                NodeChange::Leaving(node) => Happening::NodeLeft { node },
            };
            replace(platform, pass, finished, happening).await
        }
    }
}

/// Replaces the record, if it is still what the decision was made from.
async fn replace<P: Platform>(
    platform: &P,
    pass: &mut Pass,
    next: impl FnOnce(&Record) -> Record,
    happening: Happening,
) -> Result<bool, PassError> {
    let Some(live) = reread(platform, pass).await? else { return Ok(true) };
    let record = next(&live.record);
    pass.record = platform.replace(&live, record).await?.record;
    pass.happenings.push(happening);
    Ok(true)
}

async fn hand_over<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    to: &NodeId,
    pass: &mut Pass,
    memory: &mut Memory,
) -> Result<bool, PassError> {
    let wishing = Store { switchover_to: Some(to.clone()), ..store.clone() };
    elect_leader(platform, client, &wishing, ElectionReason::Scaling, pass, memory).await?;
    Ok(true)
}

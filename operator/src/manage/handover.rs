//! Handing leadership over because a person asked for it.

use quorumkv_api::{NodeId, client::PeerClient};
use tokio::time::Instant;

use super::{Happening, Memory, Pass, PassError, elect_leader, reread};
use crate::{
    decide::ElectionReason,
    record::Platform,
    switchover::{self, Step},
    validate::Store,
};

/// Grants or refuses the wish for a switchover, if there is one and it need not wait. Whether it was tried.
///
/// The wish is taken away *before* anything else: whatever ends a manager afterwards, leadership is handed over at
/// most once for it, and no store is fenced again and again. A manager that dies between the two leaves a wish
/// that is gone and not granted, and a person who has to ask again; one that dies later leaves an election that
/// was cut short, which the next pass begins anew as always, without a wish.
///
/// The new leader waits for the lease of the old one, although that answers its fence itself and has stepped down by
/// then: a node lets an answer out a moment before it tells its readers that the lease is over.
pub(super) async fn switch_over<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    pass: &mut Pass,
    memory: &mut Memory,
) -> Result<bool, PassError> {
    let now = Instant::now();
    let Some(wanted) = &store.switchover_to else {
        memory.wish = None;
        return Ok(false);
    };
    let (_, since) = memory.wish.take().filter(|(node, _)| node == wanted).unwrap_or((wanted.clone(), now));
    memory.wish = Some((wanted.clone(), since));
    let waited = now.saturating_duration_since(since);
    match switchover::step(&memory.situation(store, pass), &pass.leadership, wanted, waited) {
        Step::Wait => return Ok(false),
        Step::Refuse(refusal) => {
            if withdraw(platform, wanted).await {
                pass.happenings.push(Happening::SwitchoverRefused { refusal });
            }
            return Ok(false);
        }
        Step::HandOver => {}
    }
    if memory.next_election.is_some_and(|at| now < at) {
        return Ok(false);
    }
    // Nobody would be handed over from if another leads by now.
    if reread(platform, pass).await?.is_none() {
        return Ok(true);
    }
    if !withdraw(platform, wanted).await {
        return Ok(false);
    }
    memory.untold = Some(Happening::SwitchoverMissed { wanted: wanted.clone(), leader: None });
    elect_leader(platform, client, store, ElectionReason::Switchover, pass, memory).await?;
    memory.untold = None;
    let promoted = |happening: &Happening| matches!(happening, Happening::Promoted { .. });
    let leader = pass.record.leader.clone().filter(|_| pass.happenings.iter().any(promoted));
    pass.happenings.push(match leader {
        Some(leader) if leader == *wanted => Happening::SwitchedOver { to: leader },
        leader => Happening::SwitchoverMissed { wanted: wanted.clone(), leader },
    });
    Ok(true)
}

/// Takes the wish away; whether it was there. That this fails must not keep the manager from its work.
async fn withdraw<P: Platform>(platform: &P, wanted: &NodeId) -> bool {
    platform.withdraw_switchover(wanted).await.unwrap_or_else(|error| {
        tracing::warn!(%wanted, %error, "the wish for a switchover cannot be taken away, so it is not granted");
        false
    })
}

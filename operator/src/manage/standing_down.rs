//! The end of a store's work, in order, before its nodes stop.

use quorumkv_api::{client::PeerClient, peer::FenceReply};

use super::{KnownNode, Memory, Pass, PassError, pass, reachable, reread};
use crate::{
    decide::{self, Leadership},
    elect::{self, ElectionError},
    hibernation::{Remains, remains},
    record::{Platform, Record, RecordError},
    validate::Store,
};

/// What one look at a store found that is about to stop.
#[derive(Debug, Clone)]
pub struct Settling {
    /// The pass, and with it the record.
    pub pass: Pass,
    /// What the nodes hold, if they promised to write nothing more.
    pub remains: Option<Remains>,
    /// Whether there is nothing more to wait for.
    pub may_stop: bool,
}

/// Makes a pass over a store that is about to stop. When every follower is caught up, or the time for that is over,
/// the nodes stand down; when all of them hold the same then, or the time is over, they may stop. Otherwise the next
/// pass elects a leader once more, from whom the others fetch what they lack.
///
/// A wish for another leader waits until there is one again, and so do another description of the nodes and another
/// number of them. A node that was joining or leaving does not, unless that is as good as done.
///
/// # Errors
/// See [`PassError`]. A node that does not answer is no error.
pub async fn settle<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    mut nodes: Vec<KnownNode>,
    known: Record,
    memory: &mut Memory,
    in_time: bool,
) -> Result<Settling, PassError> {
    let store = &Store { switchover_to: None, resting: true, ..store.clone() };
    nodes.iter_mut().for_each(|node| node.outdated = false);
    memory.rolling = Default::default();
    let mut pass = pass(platform, client, store, nodes, known, memory).await?;
    let whole = pass.leadership == Leadership::Active && decide::is_whole(&pass.situation(store));
    if in_time && !whole {
        return Ok(Settling { pass, remains: None, may_stop: false });
    }
    let answers = stand_down(platform, client, store, &mut pass, memory).await?;
    let remains = answers.map(|answers| remains(store, &answers));
    let may_stop = !in_time || remains.as_ref().is_some_and(Remains::are_settled);
    Ok(Settling { pass, remains, may_stop })
}

/// Nobody leads any more, and every node that answers promises so. What they hold then stays as it is; their answers
/// tell what that is. None when the record is not what the pass was made from, or a node knows a later epoch: the next
/// pass sees it.
async fn stand_down<P: Platform>(
    platform: &P,
    client: &PeerClient,
    store: &Store,
    pass: &mut Pass,
    memory: &mut Memory,
) -> Result<Option<Vec<FenceReply>>, PassError> {
    // What is watched may not show this change yet: the next pass reads the record first.
    memory.record = None;
    let Some(live) = reread(platform, pass).await? else { return Ok(None) };
    let epoch = decide::next_epoch(&pass.situation(store), live.record.epoch);
    let reachable = reachable(pass);
    match elect::stand_down(platform, client, &live, &reachable, epoch).await {
        Ok((left, answers)) => {
            pass.record = left.record;
            Ok(Some(answers))
        }
        Err(ElectionError::Record(error)) => Err(error.into()),
        Err(error) => {
            tracing::info!(%epoch, %error, "the nodes do not stand down yet");
            Ok(None)
        }
    }
}

/// Takes the leader off the record of a store whose nodes stop, or have stopped: one that could not be asked to stand
/// down may still stand there.
///
/// # Errors
/// See [`RecordError`].
pub async fn leave_nobody_leading<P: Platform>(platform: &P) -> Result<(), RecordError> {
    let live = platform.record().await?;
    if live.record.leader.is_some() {
        let nobody = Record { leader: None, ..live.record.clone() };
        platform.replace(&live, nobody).await?;
    }
    Ok(())
}

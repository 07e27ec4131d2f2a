//! Making a store's volumes larger: how far that is, and the next step of it.

use std::time::Duration;

use tokio::time::Instant;

use super::{ReconcileError, Site, publish};
use crate::{
    apply,
    reason::Reason,
    status::{self, VolumeReport},
    validate::ValidStorage,
    volumes::{self, AS_SPECIFIED, CANNOT_GROW, GROWING, Plan, Step},
};

/// How long to wait before the API server is asked again for what it refused.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What the API server refused last. Losing it costs a request.
#[derive(Debug, Default)]
pub(super) struct Refused(Option<Refusal>);

#[derive(Debug)]
struct Refusal {
    size: String,
    message: String,
    at: Instant,
}

impl Refused {
    /// The answer to the last request for a volume of this size, if that was no.
    fn of(&self, size: &str) -> Option<&Refusal> {
        self.0.as_ref().filter(|refusal| refusal.size == size)
    }
}

/// The plan for volumes of the size that is wanted; none for a store without volumes.
fn plan<'a>(site: &Site<'a>) -> Option<(&'a str, Plan)> {
    let ValidStorage::Persistent { size, .. } = &site.valid.storage else { return None };
    Some((size, volumes::plan(size, &site.observed.claims)?))
}

/// How far it is; what is news of that is told.
pub(super) async fn look(site: &Site<'_>, refused: &Refused) -> Option<VolumeReport> {
    let (size, plan) = plan(site)?;
    let refusal = refused.of(size).map(|refusal| refusal.message.as_str());
    let report = if matches!(plan.step, Step::Ask(_)) && refusal.is_none() {
        // It is about to be asked for, and may be refused: until that is known there is no news.
        let resized = status::volumes_verdict(site.cluster.status.as_ref(), &[AS_SPECIFIED, GROWING, CANNOT_GROW])?;
        VolumeReport { resized, smallest: Some(plan.smallest) }
    } else {
        volumes::report(size, &plan, refusal)
    };
    tell(site, &report).await;
    Some(report)
}

/// Asks for the next larger volume, if there is one to ask for; whether it did.
pub(super) async fn ask(site: &Site<'_>, refused: &mut Refused) -> Result<bool, ReconcileError> {
    let Some((size, Plan { step: Step::Ask(node), .. })) = plan(site) else { return Ok(false) };
    let Some(claim) = site.observed.claims.get(&node) else { return Ok(false) };
    if refused.of(size).is_some_and(|refusal| refusal.at.elapsed() < AGAIN_AFTER) {
        return Ok(false);
    }
    tracing::info!(%node, %size, "asking for a larger volume");
    let message = apply::grow_claim(&site.context.client, claim, size).await?;
    refused.0 = message.map(|message| Refusal { size: size.to_owned(), message, at: Instant::now() });
    Ok(true)
}

/// Tells what is news by what was reported before.
async fn tell(site: &Site<'_>, report: &VolumeReport) {
    let before = status::volumes_reason(site.cluster.status.as_ref());
    let (now, note) = (report.resized.reason, report.resized.message.as_str());
    if before == Some(now) {
        return;
    }
    let reason = match (before, now) {
        (_, GROWING) => Reason::VolumesGrowing,
        (_, CANNOT_GROW) => Reason::VolumesCannotGrow,
        (Some(GROWING | CANNOT_GROW), AS_SPECIFIED) => Reason::VolumesGrown,
        // Of a new store nobody expected anything else.
        _ => return,
    };
    publish(site.cluster, site.context, reason, "GrowVolumes", note).await;
}

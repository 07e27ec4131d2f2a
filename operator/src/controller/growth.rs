//! One step of making a store's volumes larger.

use std::time::Duration;

use tokio::time::Instant;

use super::{ReconcileError, Site, publish};
use crate::{
    apply,
    reason::Reason,
    status::{self, VolumeReport},
    validate::ValidStorage,
    volumes::{self, AS_SPECIFIED, CANNOT_GROW, GROWING, Step},
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
    /// Why a volume of this size cannot be had, if that was asked for just now.
    fn lately(&self, size: &str) -> Option<&str> {
        let refusal = self.0.as_ref().filter(|one| one.size == size && one.at.elapsed() < AGAIN_AFTER)?;
        Some(&refusal.message)
    }
}

/// Makes a step if there is one to make, and says how far it is; none for a store without volumes.
pub(super) async fn grow(site: &Site<'_>, refused: &mut Refused) -> Result<Option<VolumeReport>, ReconcileError> {
    let ValidStorage::Persistent { size, .. } = &site.valid.storage else { return Ok(None) };
    let Some(plan) = volumes::plan(size, &site.observed.claims) else { return Ok(None) };
    if let Step::Ask(node) = &plan.step
        && refused.lately(size).is_none()
        && let Some(claim) = site.observed.claims.get(node)
    {
        tracing::info!(%node, %size, "asking for a larger volume");
        let message = apply::grow_claim(&site.context.client, claim, size).await?;
        refused.0 = message.map(|message| Refusal { size: size.clone(), message, at: Instant::now() });
    }
    let report = volumes::report(size, &plan, refused.lately(size));
    tell(site, &report).await;
    Ok(Some(report))
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

//! The certificate of a store that is left alone: nobody renews it, and that is told while something can be done.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};

use super::{SHORT, name};
use crate::{
    apply::secrets,
    controller::{Context, publish},
    crd::KvCluster,
    reason::Reason,
    tls::rotation::{self, Contents},
    validate::{self, ValidCluster, ValidTls},
};

/// How often the Secret is looked at. A sixth of a certificate's life is weeks.
const CHECK: Duration = Duration::from_secs(3600);
/// The same after one that failed.
const URGENT_CHECK: Duration = Duration::from_secs(60);
/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What is remembered from one look to the next. Losing it costs a repeated event.
#[derive(Debug, Default)]
pub(in crate::controller) struct Watched {
    /// When the next look is due; never, where there is nothing to look at.
    due: Option<Instant>,
    /// What was told.
    told: Option<String>,
}

impl Watched {
    /// In how long to look again.
    pub(in crate::controller) fn next_look(&self) -> Option<Duration> {
        self.due.map(|due| due.saturating_duration_since(Instant::now()))
    }
}

/// What to tell of the certificate that the operator would renew; nothing while that has time. Only reads.
pub(in crate::controller) async fn while_paused(
    cluster: &KvCluster,
    context: &Context,
    watched: &mut Watched,
) -> Option<String> {
    // A spec that cannot be built may stand there while it is paused; it has no certificate.
    let valid = validate::validate(cluster, &context.node_image).ok();
    let Some((valid, tls)) = valid.as_ref().and_then(|valid| Some((valid, valid.tls.as_ref()?))) else {
        *watched = Watched::default();
        return None;
    };
    if watched.due.is_some_and(|due| Instant::now() < due) {
        return watched.told.clone();
    }
    let looked = timeout(LIMIT, look(context, valid, tls)).await.unwrap_or_else(|_| Err("no answer".to_owned()));
    watched.due = Some(Instant::now() + if looked.is_ok() { CHECK } else { URGENT_CHECK });
    let (reason, note) = match looked {
        Ok(news) => news.unzip(),
        Err(error) => {
            tracing::warn!(namespace = valid.namespace, name = valid.name, error, "the certificate was not looked at");
            return watched.told.clone();
        }
    };
    if let (Some(reason), Some(note)) = (reason, &note)
        && watched.told.as_ref() != Some(note)
    {
        publish(cluster, context, reason, "CheckCertificate", note).await;
    }
    watched.told.clone_from(&note);
    note
}

async fn look(context: &Context, valid: &ValidCluster, tls: &ValidTls) -> Result<Option<(Reason, String)>, String> {
    let secret = secrets::tls_secret(&context.client, valid, tls).await.map_err(|error| error.to_string())?;
    let Some(secret) = secret else { return Ok(None) };
    let (name, now) = (name(valid).map_err(|error| error.to_string())?, Timestamp::now());
    let whose = if tls.self_signed { "and is not renewed during the pause" } else { "and nobody has renewed it" };
    Ok(match Contents::of(&secret).check(&name, now).map_err(|error| error.to_string())? {
        Some(credentials) if rotation::left(&credentials, now) < SHORT => {
            let note =
                format!("The certificate in Secret {} expires at {}, {whose}", tls.secret, credentials.not_after);
            Some((Reason::CertificateExpiring, note))
        }
        Some(_) => None,
        None => {
            Some((Reason::CertificateExpired, format!("The certificate in Secret {} has expired, {whose}", tls.secret)))
        }
    })
}

//! The certificates of one KvCluster, as far as a reconcile has to do with them.

mod paused;

use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;
use quorumkv_api::{
    client::PeerClient,
    peer::TlsReport,
    tls::{Authorities, ClientTls, PeerName},
};
use tokio::time::Instant;

use super::{Context, ReconcileError, publish};
use crate::{
    apply::{
        ApplyError,
        secrets::{self, PEER_TLS},
    },
    build::names,
    crd::KvCluster,
    decide::{NodeView, Presence},
    observe::Observed,
    reason::Reason,
    tls::{
        make,
        rotation::{self, Contents, Step},
    },
    validate::{ValidCluster, ValidTls},
};
pub(super) use paused::{Watched, while_paused};

/// How often the Secret is looked at.
const CHECK: Duration = Duration::from_secs(10);
/// The same while certificates are being replaced, or cannot be used.
const URGENT_CHECK: Duration = Duration::from_secs(2);
/// How often nodes are asked what they have loaded, while that is waited for.
const ASK: Duration = Duration::from_secs(1);
/// From here on little of a certificate's life is left.
const SHORT: f64 = 1.0 / 6.0;

/// What one reconcile leaves for the next.
#[derive(Debug)]
pub(super) struct TlsMemory {
    client: ClientTls,
    /// The last that could be used.
    contents: Contents,
    /// Of the Secret it was read from.
    version: Option<String>,
    asked: bool,
    /// Whether every node shows this certificate, as far as that was ever waited for.
    settled: bool,
    checked: Instant,
    reports_asked: Option<Instant>,
    /// Why what is in the Secret now is not used.
    problem: Option<(Reason, String)>,
    /// What people were told of the end of the certificate.
    told: Option<String>,
}

/// What is wrong with the Secret, for the status.
pub(super) fn problem(memory: Option<&TlsMemory>) -> Option<&(Reason, String)> {
    memory?.problem.as_ref()
}

/// A certificate that cannot be used.
fn unusable(reason: Reason, message: String) -> ReconcileError {
    ReconcileError::Tls { reason, message }
}

/// Whom the operator accepts as a node of this store; none if the store does not speak TLS.
///
/// The Secret is read now and then. One that the operator keeps is made if it is missing, and made again if it was
/// spoilt or has expired. Of one that is somebody else's, what could be used last stays in force.
pub(super) async fn client(
    cluster: &KvCluster,
    context: &Context,
    valid: &ValidCluster,
    memory: &mut Option<TlsMemory>,
) -> Result<Option<ClientTls>, ReconcileError> {
    let Some(tls) = &valid.tls else { return Ok(None) };
    if let Some(known) = memory {
        let calm = known.settled && known.problem.is_none();
        if known.checked.elapsed() < if calm { CHECK } else { URGENT_CHECK } {
            return Ok(Some(known.client.clone()));
        }
    }
    let name = name(valid)?;
    let secret = secrets::tls_secret(&context.client, valid, tls).await?;
    let missing = || format!("Secret {} does not exist", tls.secret);
    let read = match &secret {
        None => Err((Reason::TlsSecretInvalid, missing())),
        Some(secret) => {
            let contents = Contents::of(secret);
            match contents.check(&name, Timestamp::now()) {
                Ok(Some(_)) => Ok(contents),
                Ok(None) => {
                    let message = format!("The certificate in Secret {} has expired", tls.secret);
                    Err((Reason::CertificateExpired, message))
                }
                Err(error) => Err((Reason::TlsSecretInvalid, format!("Secret {}: {error}", tls.secret))),
            }
        }
    };
    match read {
        Ok(contents) => take_over((tls, secret.as_ref()), contents, &name, memory)?,
        Err(problem) if tls.self_signed => {
            if secret.is_some() {
                publish(cluster, context, problem.0, "CheckCertificate", &problem.1).await;
            }
            remake(cluster, context, (valid, tls), secret.as_ref(), memory).await?;
        }
        Err((reason, message)) => {
            let Some(known) = memory else { return Err(unusable(reason, message)) };
            known.checked = Instant::now();
            if known.problem.as_ref() != Some(&(reason, message.clone())) {
                publish(cluster, context, reason, "CheckCertificate", &message).await;
                known.problem = Some((reason, message));
            }
        }
    }
    Ok(memory.as_ref().map(|known| known.client.clone()))
}

fn name(valid: &ValidCluster) -> Result<PeerName, ReconcileError> {
    let name = PeerName::parse(&names::tls_name(&valid.name, &valid.namespace));
    name.map_err(|error| unusable(Reason::TlsSecretInvalid, error.to_string()))
}

/// What is in the Secret is in force from now on.
fn take_over(
    (tls, secret): (&ValidTls, Option<&Secret>),
    contents: Contents,
    name: &PeerName,
    memory: &mut Option<TlsMemory>,
) -> Result<(), ReconcileError> {
    let authorities = Authorities::parse(&contents.bundle.authorities);
    let authorities = authorities.map_err(|error| unusable(Reason::TlsSecretInvalid, error.to_string()))?;
    let several = authorities.fingerprints().len() > 1;
    let version = secret.and_then(|secret| secret.metadata.resource_version.clone());
    let asked = secret.is_some_and(rotation::is_asked);
    match memory {
        Some(known) => {
            if known.contents.bundle != contents.bundle {
                known.client.trust(&authorities);
                known.settled = false;
            }
            known.contents = contents;
            (known.version, known.asked) = (version, asked);
            known.checked = Instant::now();
            known.problem = None;
        }
        None => {
            *memory = Some(TlsMemory {
                client: ClientTls::new(name.clone(), &authorities),
                // Several authorities: an earlier operator may have left a rotation to go on with.
                settled: !tls.self_signed || (contents.next.is_none() && !several),
                contents,
                version,
                asked,
                checked: Instant::now(),
                reports_asked: None,
                problem: None,
                told: None,
            });
        }
    }
    Ok(())
}

/// Makes a certificate anew. Where nodes have one in force that is still good, it stays until they trust the new one.
async fn remake(
    cluster: &KvCluster,
    context: &Context,
    (valid, tls): (&ValidCluster, &ValidTls),
    secret: Option<&Secret>,
    memory: &mut Option<TlsMemory>,
) -> Result<(), ReconcileError> {
    let (name, now) = (name(valid)?, Timestamp::now());
    let good = |contents: &Contents| matches!(contents.check(&name, now), Ok(Some(_)));
    let last = memory.as_ref().map(|known| &known.contents).filter(|contents| good(contents));
    let contents = Contents::renewed(made(valid, now)?, last);
    let replaces = secret.and_then(|secret| secret.metadata.resource_version.clone());
    let kept = keep(context, (valid, tls), &contents, replaces).await?;
    let note = match last {
        None => format!("Made a certificate for the nodes, in Secret {}", tls.secret),
        Some(_) => format!(
            "Made a new certificate for the nodes, in Secret {}; the last one stays until all trust it",
            tls.secret
        ),
    };
    take_over((tls, Some(&kept)), contents, &name, memory)?;
    publish(cluster, context, Reason::CertificateMade, "MakeCertificate", &note).await;
    Ok(())
}

fn made(valid: &ValidCluster, now: Timestamp) -> Result<make::Made, ReconcileError> {
    make::make(&names::tls_name(&valid.name, &valid.namespace), now)
        .map_err(|error| unusable(Reason::TlsSecretInvalid, format!("no certificate can be made: {error}")))
}

async fn keep(
    context: &Context,
    (valid, tls): (&ValidCluster, &ValidTls),
    contents: &Contents,
    replaces: Option<String>,
) -> Result<Secret, ApplyError> {
    secrets::keep_tls_secret(&context.client, valid, &contents.secret(valid, tls, replaces)).await
}

/// After a pass: makes kubelets bring new certificates to their pods, and takes the next step of a rotation once every
/// node has loaded what the last one brought. Of a store that sleeps no node has to.
pub(super) async fn go_on(
    cluster: &KvCluster,
    context: &Context,
    (valid, observed, nodes): (&ValidCluster, &Observed, &[NodeView]),
    client: &PeerClient,
    memory: &mut Option<TlsMemory>,
) -> Result<(), ReconcileError> {
    let (Some(tls), Some(known)) = (&valid.tls, memory.as_ref()) else { return Ok(()) };
    // Without a word its kubelet looks by itself, only later: nothing else waits for that.
    let untold = refresh(context, observed, &known.contents.version()).await;
    rotate(cluster, context, (valid, tls, nodes), client, memory).await?;
    untold.map_or(Ok(()), |error| Err(error.into()))
}

/// Tells every pod of this version; the first error, if there was one.
async fn refresh(context: &Context, observed: &Observed, version: &str) -> Option<ApplyError> {
    let mut first = None;
    for pod in observed.pods.values() {
        if pod.annotations().get(PEER_TLS).map(String::as_str) != Some(version)
            && let Err(error) = secrets::refresh_pod(&context.client, pod, version).await
        {
            first.get_or_insert(error);
        }
    }
    first
}

async fn rotate(
    cluster: &KvCluster,
    context: &Context,
    (valid, tls, nodes): (&ValidCluster, &ValidTls, &[NodeView]),
    client: &PeerClient,
    memory: &mut Option<TlsMemory>,
) -> Result<(), ReconcileError> {
    let Some(known) = memory.as_mut() else { return Ok(()) };
    let (name, now) = (name(valid)?, Timestamp::now());
    tell_validity(cluster, context, tls, &name, known).await;
    let reports = if known.settled {
        Vec::new()
    } else {
        if known.reports_asked.is_some_and(|at| at.elapsed() < ASK) {
            return Ok(());
        }
        known.reports_asked = Some(Instant::now());
        loaded(client, nodes).await
    };
    if !tls.self_signed {
        if !known.settled && shows_all(&known.contents, &name, &reports, now) {
            known.settled = true;
            // Nodes that start later find it.
            if !reports.is_empty() {
                let note = format!("Every node shows the certificate that is now in Secret {}", tls.secret);
                publish(cluster, context, Reason::CertificateRotated, "RotateCertificate", &note).await;
            }
        }
        return Ok(());
    }
    let unusable = |error: quorumkv_api::tls::TlsError| unusable(Reason::TlsSecretInvalid, error.to_string());
    let (contents, done) = match known.contents.step(&name, known.asked, &reports, now).map_err(unusable)? {
        Step::Stay => {
            known.settled = true;
            return Ok(());
        }
        Step::Wait => return Ok(()),
        Step::Begin => (Contents::renewed(made(valid, now)?, Some(&known.contents)), None),
        Step::Switch => (known.contents.clone().switched(), None),
        Step::Finish => {
            let who = if reports.is_empty() { "No node runs" } else { "Every node shows the new certificate" };
            let note = format!("{who}, and the one before in Secret {} is trusted no more", tls.secret);
            (known.contents.clone().finished(), Some(note))
        }
    };
    // A step that would leave nodes without a usable certificate is not taken.
    contents.check(&name, now).map_err(unusable)?;
    let kept = keep(context, (valid, tls), &contents, known.version.clone()).await?;
    let begun = contents.next.is_some();
    tracing::info!(namespace = %valid.namespace, name = %valid.name, version = contents.version(), "certificates changed");
    take_over((tls, Some(&kept)), contents, &name, memory)?;
    if let Some(note) = done {
        publish(cluster, context, Reason::CertificateRotated, "RotateCertificate", &note).await;
    } else if begun {
        let note = format!(
            "Made a new certificate for the nodes, in Secret {}; the last one stays until all trust it",
            tls.secret
        );
        publish(cluster, context, Reason::CertificateMade, "MakeCertificate", &note).await;
    }
    Ok(())
}

/// What every node that runs has in force.
async fn loaded(client: &PeerClient, nodes: &[NodeView]) -> Vec<Option<TlsReport>> {
    let running = nodes.iter().filter(|view| view.presence == Presence::Running);
    let asked = running.map(async |view| match client.tls(&view.address.peer_url).await {
        Ok(report) => Some(report),
        Err(error) => {
            tracing::debug!(node = %view.address.node, %error, "no word of certificates");
            None
        }
    });
    join_all(asked).await
}

fn shows_all(contents: &Contents, name: &PeerName, reports: &[Option<TlsReport>], now: Timestamp) -> bool {
    let Ok(Some(credentials)) = contents.check(name, now) else { return false };
    let own = credentials.report();
    reports.iter().all(|report| {
        let same = |report: &TlsReport| report.certificate == own.certificate && report.authorities == own.authorities;
        report.as_ref().is_some_and(same)
    })
}

/// Warns of a certificate that nobody renews.
async fn tell_validity(cluster: &KvCluster, context: &Context, tls: &ValidTls, name: &PeerName, known: &mut TlsMemory) {
    let now = Timestamp::now();
    let told = match known.contents.check(name, now) {
        Ok(Some(credentials)) if !tls.self_signed && rotation::left(&credentials, now) < SHORT => {
            Some(format!("The certificate in Secret {} expires at {}", tls.secret, credentials.not_after))
        }
        _ => None,
    };
    if let Some(note) = told.as_ref().filter(|_| known.told != told) {
        publish(cluster, context, Reason::CertificateExpiring, "CheckCertificate", note).await;
    }
    known.told = told;
}

#[cfg(test)]
mod tests;

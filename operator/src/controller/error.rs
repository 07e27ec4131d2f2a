//! Why a reconcile fails, and what that means for the next one.

use std::time::Duration;

use super::RECONCILE_TIMEOUT;
use crate::{
    apply::ApplyError,
    manage::PassError,
    reason::Reason,
    record::{RecordError, UnreadableRecord},
};

/// Why a reconcile failed. The variant is the metric's label.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Objects could not be made what they should be.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The pass over the nodes failed.
    #[error(transparent)]
    Pass(#[from] PassError),
    /// The record in the status cannot be understood.
    #[error("the record in the status cannot be understood, and guessing could lose writes: {0}")]
    Record(#[from] UnreadableRecord),
    /// The HTTP client for nodes cannot be set up.
    #[error("the HTTP client for nodes cannot be set up: {0}")]
    PeerClient(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No certificates to speak to nodes with.
    #[error("{message}")]
    Tls {
        /// For the event.
        reason: Reason,
        /// What is wrong.
        message: String,
    },
    /// It took too long.
    #[error("not finished within {RECONCILE_TIMEOUT:?}")]
    Timeout,
    /// A part of it took too long.
    #[error("not done within {0:?}")]
    Stuck(Duration),
}

impl ReconcileError {
    /// Its name in metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Apply(ApplyError::Foreign { .. }) => "foreign_object",
            Self::Apply(ApplyError::BeingDeleted { .. }) => "being_deleted",
            Self::Apply(ApplyError::Gone) => "gone",
            Self::Apply(ApplyError::NoToken(_)) => "no_token",
            Self::Apply(ApplyError::OutOfDate { .. }) => "record_conflict",
            Self::Apply(ApplyError::Record(error)) => record_label(error),
            Self::Apply(ApplyError::Kubernetes { source, .. }) => kubernetes_label(source),
            Self::Pass(PassError::Record(error)) => record_label(error),
            Self::Record(_) => "record_unreadable",
            Self::PeerClient(_) => "peer_client",
            Self::Tls { .. } => "tls_secret",
            Self::Timeout | Self::Stuck(_) => "timeout",
        }
    }

    /// Whether trying again at once is right: somebody else was faster.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Pass(PassError::Record(RecordError::Conflict)) | Self::Apply(ApplyError::OutOfDate { .. }) => true,
            Self::Apply(ApplyError::Kubernetes { source, .. }) => code_of(source) == Some(409),
            _ => false,
        }
    }

    /// Whether the KvCluster was deleted meanwhile, and there is nothing to be done for it.
    pub(super) const fn is_gone(&self) -> bool {
        matches!(
            self,
            Self::Apply(ApplyError::Gone | ApplyError::Record(RecordError::Gone))
                | Self::Pass(PassError::Record(RecordError::Gone))
        )
    }

    /// The reason to tell it under at once: nothing but a person helps.
    pub(super) const fn for_people(&self) -> Option<Reason> {
        match self {
            Self::Apply(ApplyError::Foreign { .. }) => Some(Reason::ForeignObject),
            Self::Apply(ApplyError::NoToken(_)) => Some(Reason::NoToken),
            Self::Record(_) => Some(Reason::UnreadableRecord),
            Self::Tls { reason, .. } => Some(*reason),
            _ => None,
        }
    }

    /// Whether it belongs to a world in which others write and delete too: it is tried again, and is no failure.
    pub(super) fn is_passing(&self) -> bool {
        self.is_conflict() || self.is_gone() || matches!(self, Self::Apply(ApplyError::BeingDeleted { .. }))
    }
}

fn record_label(error: &RecordError) -> &'static str {
    match error {
        RecordError::Conflict => "record_conflict",
        RecordError::Gone => "gone",
        RecordError::File(_) => "record_file",
        RecordError::Unreadable(_) => "record_unreadable",
        RecordError::Kubernetes(source) => kubernetes_label(source),
    }
}

fn kubernetes_label(source: &kube::Error) -> &'static str {
    match code_of(source) {
        Some(409) => "conflict",
        // It understood and said no; otherwise it could not answer, and may the next time.
        Some(400..=428 | 430..=499) => "kubernetes_refused",
        _ => "kubernetes_unavailable",
    }
}

/// The status code of an answer of the API server.
const fn code_of(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

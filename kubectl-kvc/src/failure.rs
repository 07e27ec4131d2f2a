//! Why a command did not do what it was asked to, in words that say what to do.

use quorumkv_operator::pause;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no kubeconfig, or none that can be used.
    #[error("no Kubernetes cluster to ask: {0}")]
    Config(String),
    /// The user may not.
    #[error("no permission to {attempt}: {message}")]
    Forbidden { attempt: String, message: String },
    /// The resource is unknown.
    #[error("this Kubernetes cluster knows no KvClusters: the operator's chart is not installed")]
    NotInstalled,
    /// There is nothing to choose from.
    #[error("there is no KvCluster in namespace {namespace}; -n names another namespace")]
    NoCluster { namespace: String },
    /// There is more than one.
    #[error("namespace {namespace} has {} KvClusters: {}; name one with -c", .names.len(), .names.join(", "))]
    SeveralClusters { namespace: String, names: Vec<String> },
    /// The one that was named is not there.
    #[error("there is no KvCluster {name} in namespace {namespace}")]
    UnknownCluster { namespace: String, name: String },
    /// There is no token to present, or none that can be.
    #[error("the nodes ask for a token: {0}; --token or QUORUMKV_TOKEN gives one")]
    Token(String),
    /// Nobody leads.
    #[error("{cluster} has no leader now: {reason}")]
    NoLeader { cluster: String, reason: String },
    /// The operator was told to keep its hands off.
    #[error(
        "{0} is paused, so the operator changes nothing: take the annotation {annotation} away first",
        annotation = pause::ANNOTATION
    )]
    Paused(String),
    /// The API server does not take the change.
    #[error("the change was refused: {0}")]
    Refused(String),
    /// The API server failed otherwise.
    #[error("{attempt}: {source}")]
    Kubernetes { attempt: String, source: Box<kube::Error> },
    /// It did not come about in time.
    #[error("{what}: not within {limit:?}; {seen}")]
    TooLate { what: String, limit: std::time::Duration, seen: String },
    /// The key has no value.
    #[error("there is no key {0}")]
    NoKey(String),
    /// A node answered otherwise than hoped for.
    #[error("{node} answered {status}: {error}")]
    Node { node: String, status: u16, error: String },
    /// A write may have been done.
    #[error(
        "{node} answered: {error}. Whether the write was done is unknown; to find out, write it again with \
         --request-id {request_id}"
    )]
    Unknown { node: String, error: String, request_id: String },
    /// Leadership did not go where it was asked to.
    #[error("{0}")]
    Switchover(String),
    /// Replicas differ; what was printed says where.
    #[error("the replicas differ")]
    Differs,
    /// Replicas could not be compared.
    #[error("nothing was compared: {0:#}")]
    Compare(anyhow::Error),
    /// No local port, or no HTTP client.
    #[error("no connection can be made: {0}")]
    Connection(String),
    /// Standard output cannot be written.
    #[error("the output cannot be written: {0}")]
    Output(std::io::Error),
}

impl Failure {
    /// What an error of the API server means for what was attempted.
    pub(crate) fn of(attempt: impl Into<String>, error: kube::Error) -> Self {
        let attempt = attempt.into();
        match error {
            kube::Error::Api(status) if status.code == 403 => {
                Self::Forbidden { attempt, message: status.message.clone() }
            }
            kube::Error::Api(status) if matches!(status.code, 400 | 409 | 422) => Self::Refused(status.message.clone()),
            source => Self::Kubernetes { attempt, source: Box::new(source) },
        }
    }
}

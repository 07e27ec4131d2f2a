//! Open connections by port, and those that a limit ended.

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use super::{Number, requests::Port};

/// Which limit ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the label's values")]
pub enum Ended {
    /// There were as many as there may be.
    full,
    /// The head of a request took too long.
    head,
    /// The body of a request took too long.
    body,
    /// No request came.
    idle,
    /// The client did not take its answer.
    answer,
}

impl Ended {
    /// In the order of their declaration.
    pub(crate) const ALL: [Self; 5] = [Self::full, Self::head, Self::body, Self::idle, Self::answer];
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PortLabel {
    port: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    port: &'static str,
    limit: Ended,
}

/// The connections to all ports. Clones share their values.
#[derive(Debug, Clone, Default)]
pub struct Connections {
    open: Family<PortLabel, Number>,
    ended: Family<EndLabels, Counter>,
}

impl Connections {
    /// Shows everything in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("open_connections", "Open connections, streams of leaders included", self.open.clone());
        let help = "Connections that were refused or closed because of a limit, by limit";
        registry.register("limited_connections", help, self.ended.clone());
    }

    /// The series of one port. They are shown from now on.
    #[must_use]
    pub fn of(&self, port: Port) -> ConnectionMetrics {
        let port = port.name();
        ConnectionMetrics {
            open: self.open.get_or_create_owned(&PortLabel { port }),
            ended: Ended::ALL.map(|limit| self.ended.get_or_create_owned(&EndLabels { port, limit })),
        }
    }
}

/// What is counted of the connections to one port. Clones share their values.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    /// Those that are open.
    pub open: Number,
    ended: [Counter; Ended::ALL.len()],
}

impl ConnectionMetrics {
    /// How many a limit ended.
    #[must_use]
    pub fn count(&self, limit: Ended) -> u64 {
        self.ended[limit as usize].get()
    }

    /// A limit ended one.
    pub fn ended(&self, limit: Ended) {
        self.ended[limit as usize].inc();
    }
}

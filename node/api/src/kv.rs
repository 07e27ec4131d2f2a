//! The client port's native API beside the lab's: values as bytes, conditions, batches.

use serde::{Deserialize, Serialize};

use crate::lab::{ErrorReply, SetReply};

/// `POST /batch` answered 200: each write has an answer of its own, in the order of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchReply {
    /// The answers.
    pub results: Vec<BatchResult>,
}

/// What became of one write of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchResult {
    /// The status that it would have been answered with by itself.
    pub status: u16,
    /// And the body.
    #[serde(flatten)]
    pub outcome: BatchOutcome,
}

/// The body of one answer within a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum BatchOutcome {
    /// It was done.
    Done(SetReply),
    /// It was not, or that is unknown.
    Failed(ErrorReply),
}

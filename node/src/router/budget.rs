//! How much memory the bodies of requests may take together, from their first byte until the answer.

use std::sync::Arc;

use axum::{extract::Request, http::StatusCode};
use hyper::body::Body as _;
use quorumkv_api::MAX_BODY_BYTES;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{answer::ApiError, metrics::Metrics};

/// Smaller bodies are bounded by the number of connections alone.
const SMALL_BYTES: u64 = 64 * 1024;

/// What one permit stands for.
const PERMIT_BYTES: usize = 1024;

/// Room for bodies. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Budget(Arc<Semaphore>);

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new((bytes / PERMIT_BYTES).min(Semaphore::MAX_PERMITS))))
    }

    /// Room for the body of this request, if it needs any.
    ///
    /// # Errors
    /// 503 when there is not enough.
    pub(super) fn take(&self, request: &Request, metrics: &Metrics) -> Result<Option<OwnedSemaphorePermit>, ApiError> {
        // A body in chunks does not say how long it is.
        let announced = request.body().size_hint().upper().unwrap_or(u64::MAX);
        if announced <= SMALL_BYTES {
            return Ok(None);
        }
        // No more than that is ever read.
        let bytes = usize::try_from(announced).map_or(MAX_BODY_BYTES, |announced| announced.min(MAX_BODY_BYTES));
        let permits = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).expect("a body has at most 1 MiB");
        let room = Arc::clone(&self.0).try_acquire_many_owned(permits);
        room.map(Some).map_err(|_| {
            metrics.write_refused_for_load();
            let error = "Too many large requests are under way; nothing was written, try again later";
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn large_bodies_share_what_there_is_and_small_ones_need_none() {
        let (budget, metrics) = (Budget::new(2 * MAX_BODY_BYTES), Metrics::default());
        let request = |bytes: usize| Request::new(Body::from(vec![b'x'; bytes]));
        let endless = || Request::new(Body::from_stream(futures::stream::empty::<Result<bytes::Bytes, axum::Error>>()));
        let first = budget.take(&request(MAX_BODY_BYTES), &metrics).expect("room");
        let second = budget.take(&endless(), &metrics).expect("room");
        assert!(first.is_some() && second.is_some());
        let refused = budget.take(&request(100_000), &metrics).expect_err("no room");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(budget.take(&request(64 * 1024), &metrics).expect("none is needed").is_none());
        drop(first);
        assert!(budget.take(&request(100_000), &metrics).expect("room again").is_some());
    }
}

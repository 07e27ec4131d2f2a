//! Waiting for a condition: bounded, and with what was last seen in the failure.

use std::{
    fmt::Write,
    future::Future,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio::time::{sleep, timeout};

/// Pause between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// Looks until `probe` gives `Ok`, at most for `within`. What it gives as `Err` is what it saw instead.
///
/// # Errors
/// When time is up: `what` was waited for, how long, and what was seen last.
pub async fn until<T, Probe, Look>(what: &str, within: Duration, mut probe: Probe) -> anyhow::Result<T>
where
    Probe: FnMut() -> Look,
    Look: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + within;
    let mut seen = "nothing yet".to_owned();
    loop {
        // A look that hangs must not hide what was seen before.
        match timeout(deadline.saturating_duration_since(Instant::now()), probe()).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) => seen = format!("{error:#}"),
            Err(_) => {}
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {within:?}; last seen: {seen}");
        }
        sleep(INTERVAL).await;
    }
}

/// An error with everything that caused it, on one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        write!(text, ": {error}").expect("a String takes everything");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::ensure;

    use super::*;

    #[tokio::test]
    async fn a_condition_that_comes_true_is_noticed() {
        let mut looks = 0;
        let found = until("three looks", Duration::from_secs(5), || {
            looks += 1;
            let now = looks;
            async move {
                ensure!(now >= 3, "only {now}");
                Ok(now)
            }
        });
        assert_eq!(found.await.expect("comes true"), 3);
    }

    #[tokio::test]
    async fn a_failure_tells_what_was_seen_last() {
        let waited: anyhow::Result<()> =
            until("the moon", Duration::from_millis(30), || async { bail!("only clouds") }).await;
        let text = waited.expect_err("never true").to_string();
        assert!(text.contains("the moon: not within 30ms; last seen: only clouds"), "{text}");
    }

    #[tokio::test]
    async fn a_look_that_hangs_ends_too() {
        let waited: anyhow::Result<()> = until("an answer", Duration::from_millis(30), std::future::pending).await;
        waited.expect_err("nobody answers");
    }
}

//! Ending in order: writes under way are answered before anything is torn down.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long requests under way may take to finish after the end was asked for, beyond the write timeout.
pub const GRACE: Duration = Duration::from_secs(2);

/// The end of a server, in two steps: first no more new requests, then nothing at all.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled when new requests are no longer wanted.
    pub draining: CancellationToken,
    /// Cancelled when everything has to end.
    pub over: CancellationToken,
}

/// Cancels `draining` on SIGTERM or SIGINT.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signals(draining: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal = name, "stopping");
        draining.cancel();
    });
    Ok(())
}

//! SIGTERM and SIGINT: the first asks the broker to stop, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a process that was told twice.
const EXIT_AT_ONCE: i32 = 1;

/// Watches for signals from now on. The token is cancelled by the first one.
pub fn watch() -> std::io::Result<CancellationToken> {
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    tokio::spawn(follow(terminate, interrupt, stop.clone()));
    Ok(stop)
}

async fn follow(mut terminate: Signal, mut interrupt: Signal, stop: CancellationToken) {
    loop {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        if stop.is_cancelled() {
            tracing::warn!(signal = name, "told a second time: ending at once, without committing what is open");
            std::process::exit(EXIT_AT_ONCE);
        }
        tracing::info!(signal = name, "stopping: committing what is open; a second signal ends the process at once");
        stop.cancel();
    }
}

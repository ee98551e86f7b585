//! Floor 7: `/healthz`, `/readyz` and `/metrics` over HTTP/1.1.
//!
//! `/healthz` answers 200 as long as the process can answer at all. `/readyz` answers 200 when clients may come, else 503
//! with the reason. `/metrics` is the registry in OpenMetrics text.
//!
//! Invariant: at most `http.max_connections` connections are open (more wait in the listen queue), and one that sends
//! nothing for [`IDLE_TIMEOUT_MS`] is closed, so a stuck client cannot keep health checks out.
//!
//! Nothing is stored: a crash or a cancelled request leaves nothing behind.

mod listener;
mod process;
mod readiness;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use listener::IDLE_TIMEOUT_MS;
pub use process::register_process_metrics;
pub use readiness::Readiness;

use listener::LimitedListener;

#[derive(Clone)]
struct Shared {
    registry: Arc<OnceLock<Registry>>,
    readiness: Readiness,
}

/// Serves until `stop`, `/metrics` from when `registry` is set; at the end open requests are answered and the connections closed.
pub async fn serve(
    listener: TcpListener,
    max_connections: usize,
    registry: Arc<OnceLock<Registry>>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/", get(index))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "no such page; there are /healthz /readyz /metrics\n") })
        .with_state(Shared { registry, readiness });
    let listener = LimitedListener::new(listener, max_connections);
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = serving.await {
        tracing::error!(%error, "the HTTP server ended");
    }
}

async fn index() -> &'static str {
    "Esker\n\n/healthz  is the process alive\n/readyz   may clients come\n/metrics  OpenMetrics text\n"
}

async fn ready(State(shared): State<Shared>) -> Response {
    match shared.readiness.reason() {
        None => (StatusCode::OK, "ready\n".to_owned()).into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

async fn metrics(State(shared): State<Shared>) -> Response {
    let Some(registry) = shared.registry.get() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "no metrics yet: starting\n").into_response();
    };
    let mut text = String::with_capacity(64 * 1024);
    match prometheus_client::encoding::text::encode(&mut text, registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("metrics cannot be written: {error}\n")).into_response()
        }
    }
}

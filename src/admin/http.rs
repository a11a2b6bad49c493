//! Metrics and health over HTTP, for machines. No password, so nothing secret, and nothing that changes anything.
//!
//! `/metrics` is for Prometheus, `/healthz` says that the process lives, `/readyz` whether it can do its work, `/status` what it knows.
//! `listener.rs` bounds how many may ask at once and for how long.

mod listener;
mod metrics;
mod status;

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::{Access, Request};
use crate::resharding::language::Statement;
use crate::resharding::report::{Answer, PlanStatus};
use crate::session::report::WorkerReport;
use listener::Bounded;

/// How long the threads of the proxy may take to tell of themselves.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long may be waited for what is known of plans that move data. Other metrics do not wait longer for it.
const PLANS_PATIENCE: Duration = Duration::from_secs(1);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";

/// Answers for ever.
pub async fn serve(listener: TcpListener, access: Access) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/status", get(status))
        .with_state(access);
    if let Err(error) = axum::serve(Bounded::new(listener), router).await {
        tracing::error!(%error, "metrics and health are no longer served");
    }
}

async fn metrics(State(access): State<Access>) -> Response {
    let (reports, plans) = tokio::join!(reports(&access), plans(&access));
    let Some(reports) = reports else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the proxy does not answer in time\n",
        )
            .into_response();
    };
    match metrics::text(
        &access.shared.snapshot(),
        &reports,
        &access.topology,
        &access.recovery.ledger(),
        &plans,
        access.shared.clients(),
    ) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn reports(access: &Access) -> Option<Vec<WorkerReport>> {
    tokio::time::timeout(PATIENCE, access.ask(Request::Report))
        .await
        .ok()?
        .ok()
}

/// None where nothing is known of them now: then their metrics are absent, as without plans.
async fn plans(access: &Access) -> Vec<PlanStatus> {
    let asked = access.ask(|answer| Request::Reshard(Statement::Status(None), answer));
    match tokio::time::timeout(PLANS_PATIENCE, asked).await {
        Ok(Ok(Ok(Answer::Status(plans)))) => plans,
        _ => Vec::new(),
    }
}

async fn readiness(State(access): State<Access>) -> Response {
    let readiness = status::Readiness::of(
        &access.shared.snapshot(),
        &access.topology.nodes(),
        *access.phase.borrow(),
    );
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(code, &readiness)
}

async fn status(State(access): State<Access>) -> Response {
    json(
        StatusCode::OK,
        &status::Status::of(
            &access.shared.snapshot(),
            &access.topology.nodes(),
            access.shared.clients(),
        ),
    )
}

fn json(code: StatusCode, body: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => (code, [(CONTENT_TYPE, JSON)], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

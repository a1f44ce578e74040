//! Owns the HTTP API for people and programs, beside the one for boards: jobs, their logs and reports, boards, reservations.
//! Described by `openapi.json`. Never talks to a board.

mod access;
mod boards;
mod follow;
mod jobs;
mod lookup;
mod problem;
mod uploads;

use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use axum::middleware;
use axum::routing::get;
use serde_json::json;

use self::access::{Access, admit};
use self::lookup::People;
use super::service::Lab;

/// Every route below `/api/v1` that is for people, as OpenAPI writes it.
pub const ROUTES: [&str; 17] = [
    "/api/v1/lab",
    "/api/v1/jobs",
    "/api/v1/jobs/{id}",
    "/api/v1/jobs/{id}/log",
    "/api/v1/jobs/{id}/events",
    "/api/v1/jobs/{id}/cancel",
    "/api/v1/jobs/{id}/retry",
    "/api/v1/jobs/{id}/report",
    "/api/v1/jobs/{id}/report/{file}",
    "/api/v1/boards",
    "/api/v1/boards/{name}",
    "/api/v1/boards/{name}/history",
    "/api/v1/boards/{name}/reserve",
    "/api/v1/boards/{name}/release",
    "/api/v1/boards/{name}/health",
    "/api/v1/leases/{token}",
    "/api/v1/leases/{token}/beat",
];

/// The routes of a lab at `address`. Whoever calls from the lab's own host may use them, and others with the operator's
/// token.
pub fn people(lab: Arc<Lab>, name: &str, address: Ipv4Addr, operator: &str) -> Router {
    let people = People {
        uploads: lab.directories().submissions(),
        lab,
        name: name.into(),
    };
    let access = Arc::new(Access::new(address, operator));
    Router::new()
        .route("/api/v1/lab", get(lab_status))
        .merge(jobs::routes())
        .merge(boards::routes())
        .layer(middleware::from_fn_with_state(access, admit))
        .with_state(people)
}

async fn lab_status(
    axum::extract::State(people): axum::extract::State<People>,
) -> Result<axum::Json<serde_json::Value>, problem::Problem> {
    let (lab, name) = (Arc::clone(&people.lab), people.name.clone());
    problem::blocking(move || {
        let (waiting, running) = lab.store().counts()?;
        Ok(axum::Json(json!({
            "name": name,
            "hearth": env!("CARGO_PKG_VERSION"),
            "boards": lab.file().boards.len(),
            "waiting": waiting,
            "running": running,
            "held": lab.directories().full(),
        })))
    })
    .await
}

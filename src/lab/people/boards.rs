//! Owns the boards in the API for people: their states, their history, reservations and their health.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Submitter;
use super::lookup::People;
use super::problem::{Problem, blocking};
use crate::lab::queue::Health;
use crate::lab::service::{BoardStatus, Held, ReserveRequest};
use crate::lab::store::{BoardEvent, Granted};

pub(super) fn routes() -> Router<People> {
    Router::new()
        .route("/api/v1/boards", get(list))
        .route("/api/v1/boards/{name}", get(show))
        .route("/api/v1/boards/{name}/history", get(history))
        .route("/api/v1/boards/{name}/reserve", post(reserve))
        .route("/api/v1/boards/{name}/release", post(release_board))
        .route("/api/v1/boards/{name}/health", post(set_health))
        .route("/api/v1/leases/{token}", delete(release))
        .route("/api/v1/leases/{token}/beat", post(beat))
}

async fn list(State(people): State<People>) -> Result<Json<Vec<BoardStatus>>, Problem> {
    blocking(move || Ok(Json(people.lab.boards()?))).await
}

async fn show(
    State(people): State<People>,
    Path(name): Path<String>,
) -> Result<Json<BoardStatus>, Problem> {
    blocking(move || {
        let found = people.lab.boards()?.into_iter().find(|it| it.name == name);
        found.map(Json).ok_or_else(|| Problem::no_board(&name))
    })
    .await
}

#[derive(Deserialize)]
struct Limit {
    #[serde(default = "hundred")]
    limit: u32,
}

fn hundred() -> u32 {
    100
}

async fn history(
    State(people): State<People>,
    Path(name): Path<String>,
    Query(limit): Query<Limit>,
) -> Result<Json<Vec<BoardEvent>>, Problem> {
    blocking(move || {
        if !people.lab.file().boards.iter().any(|it| it.name == name) {
            return Err(Problem::no_board(&name));
        }
        Ok(Json(people.lab.store().board_events(&name, limit.limit)?))
    })
    .await
}

async fn reserve(
    State(people): State<People>,
    Path(name): Path<String>,
    Extension(Submitter(who)): Extension<Submitter>,
    Json(request): Json<ReserveRequest>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let seconds = request.seconds;
    let lab = Arc::clone(&people.lab);
    let refused = |detail: String| Problem::new(StatusCode::CONFLICT, detail);
    match lab.reserve(name.clone(), who, request).await? {
        Held::Granted(Granted::Token(token)) => {
            let lease = json!({ "board": name, "token": token, "seconds": seconds });
            Ok((StatusCode::CREATED, Json(lease)))
        }
        Held::Granted(Granted::Reserved(lease)) => Err(refused(format!(
            "board `{name}` is reserved by {}, for {:.0} more seconds",
            lease.holder, lease.left
        ))),
        Held::Granted(Granted::Busy(job)) => Err(refused(format!("board `{name}` runs job {job}"))),
        Held::NoBoard => Err(Problem::no_board(&name)),
        Held::Invalid(why) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
    }
}

async fn release_board(
    State(people): State<People>,
    Path(name): Path<String>,
    Extension(Submitter(who)): Extension<Submitter>,
) -> Result<StatusCode, Problem> {
    blocking(move || match people.lab.release_board(&name, &who)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Problem::new(
            StatusCode::NOT_FOUND,
            format!("board `{name}` is not reserved"),
        )),
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewHealth {
    health: Health,
    #[serde(default)]
    why: String,
}

async fn set_health(
    State(people): State<People>,
    Path(name): Path<String>,
    Extension(Submitter(who)): Extension<Submitter>,
    Json(new): Json<NewHealth>,
) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let set = people.lab.set_health(&name, new.health, &new.why, &who)?;
        let set = set.ok_or_else(|| Problem::no_board(&name))?;
        Ok(Json(json!(set)))
    })
    .await
}

async fn release(
    State(people): State<People>,
    Path(token): Path<String>,
) -> Result<StatusCode, Problem> {
    blocking(move || match people.lab.release(&token)? {
        Some(_) => Ok(StatusCode::NO_CONTENT),
        None => Err(over()),
    })
    .await
}

async fn beat(
    State(people): State<People>,
    Path(token): Path<String>,
) -> Result<StatusCode, Problem> {
    blocking(move || match people.lab.beat(&token)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(over()),
    })
    .await
}

fn over() -> Problem {
    Problem::new(StatusCode::GONE, "the reservation has ended")
}

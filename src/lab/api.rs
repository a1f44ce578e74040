//! Owns the HTTP API that boards call: check in, fetch a job, send its output, say that it is done.
//! Described by `openapi.json` beside this file. A board only ever calls out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::identity::{Claim, Known, check};
use super::store::{Boot, LabStore, StoreError};
use super::waiters::Waiters;
use super::warnings::Warnings;

/// The description of this API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// How large a piece of output may be, in bytes; the agent sends 64 KiB.
const LARGEST_PIECE: usize = 1 << 20;
/// How long a board may wait for a job in one request, in seconds.
const LONGEST_WAIT: u64 = 60;
/// How large a check-in may be, in bytes; the agent's has some 400.
const LARGEST_CLAIM: usize = 4 << 10;
/// How often a request that waits counts as a sign of life.
const BEAT: Duration = Duration::from_secs(15);
/// What a board is told whose console the lab follows and whose identity is wrong. What is wrong is for the lab's log. A boot
/// that no console confirmed is told nothing at all: it could be any host that tries out names.
const NOT_KNOWN: &str = "the lab does not take this board for what it says: see the lab's log";

/// Tells what the lab knows of its boards, as it is now.
pub type Roster = Arc<dyn Fn() -> Vec<Known> + Send + Sync>;

#[derive(Clone)]
struct Lab {
    store: Arc<LabStore>,
    roster: Roster,
    idle: f64,
    waiters: Arc<Waiters>,
    warnings: Arc<Warnings>,
}

/// The routes below `/api/v1`.
/// `idle`: how long, in seconds, a board that has nothing to do may stay on.
pub fn router(store: Arc<LabStore>, roster: Roster, idle: f64) -> Router {
    Router::new()
        .route("/api/v1/openapi.json", get(openapi))
        .route(
            "/api/v1/checkin",
            post(check_in).layer(DefaultBodyLimit::max(LARGEST_CLAIM)),
        )
        .route("/api/v1/job", get(job))
        .route("/api/v1/jobs/{id}/output", post(output))
        .route("/api/v1/jobs/{id}/done", post(done))
        .route("/api/v1/heartbeat", post(heartbeat))
        .layer(DefaultBodyLimit::max(LARGEST_PIECE))
        .with_state(Lab {
            store,
            roster,
            idle,
            waiters: Arc::default(),
            warnings: Arc::default(),
        })
}

/// What went wrong, as `{"error": …}`.
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        log::error!("{error:#}");
        Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the lab's store failed".into(),
        )
    }
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

/// A board's first call. It gets a token even if its identity is wrong, so that the lab keeps hearing of it; but no
/// job.
async fn check_in(
    State(lab): State<Lab>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    body: Bytes,
) -> Result<Response, Refusal> {
    let claim: Claim = serde_json::from_slice(&body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("not a check-in: {error}")))?;
    if claim.boot.is_empty() {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "a check-in needs a boot id".into(),
        ));
    }
    let is_own_host =
        peer.is_some_and(|Extension(ConnectInfo(peer))| peer.ip().to_canonical().is_loopback());
    let (store, roster) = (Arc::clone(&lab.store), Arc::clone(&lab.roster));
    let boot = blocking(move || {
        let problem = check(&claim, &roster());
        if is_own_host && !claim.secret.is_empty() {
            store.came_from_own_host(&claim.secret)?;
        }
        store.check_in(&claim, problem.as_deref())
    })
    .await?;
    if let Some(problem) = &boot.problem {
        lab.warnings.warn(&boot.claim.board, problem);
    }
    let told = boot.problem.as_ref().filter(|_| boot.confirmed);
    let problem = told.map(|_| NOT_KNOWN);
    Ok(Json(json!({ "token": boot.token, "problem": problem })).into_response())
}

/// What the lab has for a boot at this moment.
enum Found {
    /// The token is no boot's any more.
    Unknown,
    Refused,
    Job(i64, Vec<u8>),
    Dismissed,
    Nothing,
}

impl Lab {
    /// Notes a sign of life, and looks for a job. Waits for the disk.
    fn look(&self, token: &str) -> Result<Found, StoreError> {
        let Some(boot) = self.store.boot(token)? else {
            return Ok(Found::Unknown);
        };
        self.store.beat(&boot)?;
        if let Some(problem) = self.problem(&boot)? {
            self.warnings.warn(&boot.claim.board, &problem);
            return Ok(match boot.confirmed {
                true => Found::Refused,
                false => Found::Nothing,
            });
        }
        if let Some((id, payload)) = self.store.take(&boot)? {
            return Ok(Found::Job(id, payload));
        }
        Ok(match self.store.is_dismissed(&boot)? {
            true => Found::Dismissed,
            false => Found::Nothing,
        })
    }

    /// What is wrong with a boot by now: it may have been adopted, or a twin have come.
    fn problem(&self, boot: &Boot) -> Result<Option<String>, StoreError> {
        if self.store.twin(boot)? {
            let name = &boot.claim.board;
            return Ok(Some(format!(
                "two boards are `{name}`: one with MAC {} goes on talking after another with this name",
                boot.claim.mac
            )));
        }
        Ok(match boot.problem {
            Some(_) => check(&boot.claim, &(self.roster)()),
            None => None,
        })
    }
}

#[derive(Deserialize)]
struct Wait {
    #[serde(default)]
    wait: u64,
}

/// 200 with the job's tar and its number in `Hearth-Job`; 204 if none came while the board waited; 410, at once when the
/// board's run is over, if none will come and the board may power off.
async fn job(
    State(lab): State<Lab>,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let boot = authenticate(&lab, &headers).await?;
    lab.waiters.watch(&lab.store);
    let mut woken = lab.waiters.wait_for(boot.id);
    let end = Instant::now() + Duration::from_secs(wait.wait.min(LONGEST_WAIT));
    loop {
        let (here, token) = (lab.clone(), boot.token.clone());
        match blocking(move || here.look(&token)).await? {
            Found::Unknown => return Err(unknown()),
            Found::Refused => return Err(Refusal(StatusCode::CONFLICT, NOT_KNOWN.into())),
            Found::Job(id, payload) => return Ok(job_response(id, payload)),
            Found::Dismissed => return Ok(StatusCode::GONE.into_response()),
            Found::Nothing => {}
        }
        // Until there is something for this boot, only signs of life are to be noted.
        while timeout_at(end.min(Instant::now() + BEAT), woken.changed())
            .await
            .is_err()
        {
            if Instant::now() >= end {
                return idle_response(lab, boot).await;
            }
            let (store, boot) = (Arc::clone(&lab.store), boot.clone());
            blocking(move || store.beat(&boot)).await?;
        }
    }
}

/// What a board is told that waited in vain: to ask again, or that it may power off.
async fn idle_response(lab: Lab, boot: Boot) -> Result<Response, Refusal> {
    let wanted = blocking(move || lab.store.is_wanted(&boot, lab.idle)).await?;
    let status = match wanted {
        true => StatusCode::NO_CONTENT,
        false => StatusCode::GONE,
    };
    Ok(status.into_response())
}

fn job_response(id: i64, payload: Vec<u8>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/x-tar".to_string()),
        (
            header::HeaderName::from_static("hearth-job"),
            id.to_string(),
        ),
    ];
    (headers, payload).into_response()
}

#[derive(Deserialize)]
struct Offset {
    start: u64,
}

/// Output of the job from byte `start` on. Answers how many bytes the lab has; a resend is harmless.
async fn output(
    State(lab): State<Lab>,
    Path(id): Path<i64>,
    Query(offset): Query<Offset>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let boot = authenticate(&lab, &headers).await?;
    let have = blocking(move || lab.store.append(&boot, id, offset.start, &body)).await?;
    match have {
        Some(have) => Ok(Json(json!({ "have": have })).into_response()),
        None => Err(not_yours(id)),
    }
}

async fn done(
    State(lab): State<Lab>,
    Path(id): Path<i64>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let boot = authenticate(&lab, &headers).await?;
    if blocking(move || lab.store.finish(&boot, id)).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(not_yours(id))
    }
}

async fn heartbeat(State(lab): State<Lab>, headers: HeaderMap) -> Result<Response, Refusal> {
    let boot = authenticate(&lab, &headers).await?;
    blocking(move || lab.store.beat(&boot)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn not_yours(id: i64) -> Refusal {
    Refusal(StatusCode::CONFLICT, format!("job {id} is not this boot's"))
}

/// The boot whose token the request carries.
async fn authenticate(lab: &Lab, headers: &HeaderMap) -> Result<Boot, Refusal> {
    let token = bearer(headers).ok_or_else(unknown)?.to_string();
    let store = Arc::clone(&lab.store);
    blocking(move || store.boot(&token))
        .await?
        .ok_or_else(unknown)
}

fn unknown() -> Refusal {
    Refusal(StatusCode::UNAUTHORIZED, "check in first".into())
}

/// The token of an `Authorization: Bearer` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?;
    value.to_str().ok()?.strip_prefix("Bearer ")
}

/// Runs a call to the store where it may wait for the disk.
async fn blocking<T: Send + 'static, E: Into<anyhow::Error> + Send + 'static>(
    call: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => Ok(result.map_err(Into::into)?),
        Err(_) => Err(Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the lab stops".into(),
        )),
    }
}

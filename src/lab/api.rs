//! Owns the HTTP API that boards call: check in, fetch a job, send its output, say that it is done.
//! Described by `openapi.json` beside this file. A board only ever calls out.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, timeout_at};

use super::identity::{Claim, Known, check};
use super::store::{Boot, LabStore};

/// The description of this API, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// How large a piece of output may be, in bytes; the agent sends 64 KiB.
const LARGEST_PIECE: usize = 1 << 20;
/// How long a board may wait for a job in one request, in seconds.
const LONGEST_WAIT: u64 = 60;
/// How large a check-in may be, in bytes; the agent's has some 400.
const LARGEST_CLAIM: usize = 4 << 10;
/// How often the lab looks whether another process, such as `hearth test`, changed the store: once for all boards.
const LOOK: Duration = Duration::from_millis(50);
/// How often a request that waits counts as a sign of life.
const BEAT: Duration = Duration::from_secs(15);
/// What a board is told when the lab does not take it for what it says. What is wrong is the lab's to know.
const NOT_KNOWN: &str = "the lab does not take this board for what it says: see the lab's log";

/// Tells what the lab knows of its boards, as it is now.
pub type Roster = Arc<dyn Fn() -> Vec<Known> + Send + Sync>;

#[derive(Clone)]
struct Lab {
    store: Arc<LabStore>,
    roster: Roster,
    idle: f64,
    /// Set once the store is being watched.
    watched: Arc<OnceLock<()>>,
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
            watched: Arc::default(),
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
        log::error!("the lab's store failed: {error:#}");
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
async fn check_in(State(lab): State<Lab>, body: Bytes) -> Result<Response, Refusal> {
    let claim: Claim = serde_json::from_slice(&body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, format!("not a check-in: {error}")))?;
    if claim.boot.is_empty() {
        return Err(Refusal(
            StatusCode::BAD_REQUEST,
            "a check-in needs a boot id".into(),
        ));
    }
    let boot = identify(&lab, claim).await?;
    if let Some(problem) = &boot.problem {
        log::warn!("{problem}");
    }
    let problem = boot.problem.as_ref().map(|_| NOT_KNOWN);
    Ok(Json(json!({ "token": boot.token, "problem": problem })).into_response())
}

/// Compares who a board says it is with what the lab knows by now.
async fn identify(lab: &Lab, claim: Claim) -> Result<Boot, Refusal> {
    let known = (lab.roster)();
    let store = Arc::clone(&lab.store);
    blocking(move || {
        let problem = check(&claim, &known);
        store.check_in(&claim, problem.as_deref())
    })
    .await
}

/// What is wrong with a boot by now: it may have been adopted, or its twin have come.
fn problem(store: &LabStore, boot: &Boot, known: &[Known]) -> Result<Option<String>> {
    if store.twin(boot)? {
        let name = &boot.claim.board;
        return Ok(Some(format!(
            "two boards are `{name}`: one with MAC {} goes on talking after another with this name",
            boot.claim.mac
        )));
    }
    Ok(match boot.problem {
        Some(_) => check(&boot.claim, known),
        None => None,
    })
}

/// Wakes waiting requests when another process has changed the store, until the lab is gone.
fn watch_store(lab: &Lab) {
    if lab.watched.set(()).is_err() {
        return;
    }
    let store = Arc::downgrade(&lab.store);
    tokio::spawn(async move {
        let mut seen = None;
        while let Some(store) = store.upgrade() {
            let asked = Arc::clone(&store);
            let version = blocking(move || asked.version()).await.ok();
            if version != seen {
                seen = version;
                store.changed();
            }
            drop(store);
            sleep(LOOK).await;
        }
    });
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
    watch_store(&lab);
    let mut changes = lab.store.changes();
    let (store, known, asks) = (Arc::clone(&lab.store), (lab.roster)(), boot.clone());
    let problem = blocking(move || {
        store.beat(&asks)?;
        problem(&store, &asks, &known)
    })
    .await?;
    if let Some(problem) = problem {
        log::warn!("{problem}");
        return Err(Refusal(StatusCode::CONFLICT, NOT_KNOWN.into()));
    }
    let end = Instant::now() + Duration::from_secs(wait.wait.min(LONGEST_WAIT));
    loop {
        let (store, taker) = (Arc::clone(&lab.store), boot.clone());
        let taken = blocking(move || {
            store.beat(&taker)?;
            Ok((store.take(&taker)?, store.is_dismissed(&taker)?))
        })
        .await?;
        let (taken, dismissed) = taken;
        if let Some((id, payload)) = taken {
            let headers = [
                (header::CONTENT_TYPE, "application/x-tar".to_string()),
                (
                    header::HeaderName::from_static("hearth-job"),
                    id.to_string(),
                ),
            ];
            return Ok((headers, payload).into_response());
        }
        if dismissed {
            return Ok(StatusCode::GONE.into_response());
        }
        if Instant::now() >= end {
            let store = Arc::clone(&lab.store);
            let wanted = blocking(move || store.is_wanted(&boot, lab.idle)).await?;
            let status = if wanted {
                StatusCode::NO_CONTENT
            } else {
                StatusCode::GONE
            };
            return Ok(status.into_response());
        }
        // Ends with a change, or with the time that the board waits.
        let _ = timeout_at(end.min(Instant::now() + BEAT), changes.changed()).await;
    }
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
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .map(str::to_string);
    let unknown = || Refusal(StatusCode::UNAUTHORIZED, "check in first".into());
    let token = token.ok_or_else(unknown)?;
    let store = Arc::clone(&lab.store);
    blocking(move || store.boot(&token))
        .await?
        .ok_or_else(unknown)
}

/// Runs a call to the store where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(Refusal(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the lab stops".into(),
        )),
    }
}

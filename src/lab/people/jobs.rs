//! Owns the jobs in the API for people: submission, lists, cancellation, and what their attempts left behind.

use std::fs;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::Submitter;
use super::follow;
use super::lookup::{People, Which, attempt_directory, find, told};
use super::problem::{Problem, blocking};
use super::uploads::spool;
use crate::input;
use crate::lab::queue::{JobHealth, JobPhase, Kind};
use crate::lab::service::Lab;
use crate::lab::store::{Cancelled, Filter};

/// What of an attempt's directory is for its readers.
const FILES: [(&str, &str); 6] = [
    ("report.json", "application/json"),
    ("report.html", "text/html; charset=utf-8"),
    ("report.tap", "text/plain; charset=utf-8"),
    ("junit.xml", "application/xml"),
    ("console.log", "text/plain; charset=utf-8"),
    ("runner.log", "text/plain; charset=utf-8"),
];

pub(super) fn routes() -> Router<People> {
    Router::new()
        .route("/api/v1/jobs", get(list).post(submit))
        .route("/api/v1/jobs/{id}", get(show))
        .route("/api/v1/jobs/{id}/log", get(follow::log))
        .route("/api/v1/jobs/{id}/events", get(follow::events))
        .route("/api/v1/jobs/{id}/cancel", post(cancel))
        .route("/api/v1/jobs/{id}/retry", post(retry))
        .route("/api/v1/jobs/{id}/report", get(report))
        .route("/api/v1/jobs/{id}/report/{file}", get(report_file))
}

/// The body is a tar with `job.json`, a submission, and the definitions' files below `files/`.
async fn submit(
    State(people): State<People>,
    Extension(Submitter(who)): Extension<Submitter>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let kind = headers.get(header::CONTENT_TYPE);
    if kind.is_none_or(|kind| kind.as_bytes() != b"application/x-tar") {
        return Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "a submission is an application/x-tar",
        ));
    }
    let upload = spool(body, &people.uploads).await?;
    blocking(move || {
        let id = people.lab.submit(upload.path(), &who)?;
        created(&people.lab, id)
    })
    .await
}

fn created(lab: &Lab, id: i64) -> Result<Response, Problem> {
    let job = lab
        .store()
        .lab_job(id)?
        .ok_or_else(|| Problem::no_job(id))?;
    let location = [(header::LOCATION, format!("/api/v1/jobs/{id}"))];
    Ok((StatusCode::CREATED, location, Json(told(lab, &job)?)).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Wanted {
    state: Option<JobPhase>,
    health: Option<JobHealth>,
    board: Option<String>,
    #[serde(rename = "type")]
    board_type: Option<String>,
    submitter: Option<String>,
    kind: Option<Kind>,
    before: Option<i64>,
    limit: Option<u32>,
}

async fn list(
    State(people): State<People>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(wanted) =
        wanted.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let filter = Filter {
        state: wanted.state,
        health: wanted.health,
        board: wanted.board,
        board_type: wanted.board_type,
        submitter: wanted.submitter,
        kind: wanted.kind,
        before: wanted.before,
        limit: wanted.limit.unwrap_or(50),
    };
    blocking(move || Ok(Json(json!(people.lab.store().lab_jobs(&filter)?)))).await
}

async fn show(
    State(people): State<People>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let job = find(&people.lab, &id)?;
        Ok(Json(told(&people.lab, &job)?))
    })
    .await
}

async fn cancel(
    State(people): State<People>,
    Path(id): Path<String>,
    Extension(Submitter(who)): Extension<Submitter>,
) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let job = find(&people.lab, &id)?;
        if people.lab.cancel(job.id, &who)? == Cancelled::TooLate {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("job {} has ended: {}", job.id, job.health),
            ));
        }
        Ok(Json(told(&people.lab, &find(&people.lab, &id)?)?))
    })
    .await
}

async fn retry(
    State(people): State<People>,
    Path(id): Path<String>,
    Extension(Submitter(who)): Extension<Submitter>,
) -> Result<Response, Problem> {
    blocking(move || {
        let job = find(&people.lab, &id)?;
        if job.state != JobPhase::Finished {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("job {} has not ended: it is {}", job.id, job.state),
            ));
        }
        let new = people.lab.retry(&job, &who)?;
        created(&people.lab, new)
    })
    .await
}

/// The names and sizes of the files that an attempt has left.
async fn report(
    State(people): State<People>,
    Path(id): Path<String>,
    Query(which): Query<Which>,
) -> Result<Json<Value>, Problem> {
    blocking(move || {
        let job = find(&people.lab, &id)?;
        let directory = attempt_directory(&people.lab, &job, which.attempt)?;
        let files: Vec<Value> = FILES
            .iter()
            .filter_map(|(name, kind)| {
                let size = fs::metadata(directory.join(name)).ok()?.len();
                Some(json!({ "name": name, "size": size, "type": kind }))
            })
            .collect();
        Ok(Json(json!({ "files": files })))
    })
    .await
}

async fn report_file(
    State(people): State<People>,
    Path((id, name)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> Result<Response, Problem> {
    let known = FILES.iter().find(|(known, _)| *known == name);
    let missing = Problem::new(StatusCode::NOT_FOUND, format!("there is no file {name:?}"));
    let Some((name, kind)) = known else {
        return Err(missing);
    };
    let file = blocking(move || {
        let job = find(&people.lab, &id)?;
        let directory = attempt_directory(&people.lab, &job, which.attempt)?;
        input::open(&directory.join(name)).map_err(|_| missing)
    })
    .await?;
    let size = file.metadata().map_or(0, |meta| meta.len());
    let headers = [
        (header::CONTENT_TYPE, kind.to_string()),
        (header::CONTENT_LENGTH, size.to_string()),
        // What a board prints is data: not even a report's page may run a script here.
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; sandbox".into(),
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    Ok((headers, follow::whole(file, size)).into_response())
}

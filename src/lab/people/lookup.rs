//! Owns finding what a request names: a job by its number, the directory of one of its attempts.
//! Never writes.

use std::path::PathBuf;
use std::sync::Arc;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::problem::Problem;
use crate::lab::queue::{Job, JobPhase, explain};
use crate::lab::service::Lab;

/// What the handlers share.
#[derive(Clone)]
pub(super) struct People {
    pub lab: Arc<Lab>,
    /// The lab's name.
    pub name: String,
    /// Where submissions are taken.
    pub uploads: PathBuf,
}

/// A job, with what it waits for.
pub(super) fn told(lab: &Lab, job: &Job) -> Result<Value, Problem> {
    let mut value = json!(job);
    if job.state == JobPhase::Submitted
        && let Some(what) = explain(&lab.input()?, job.id)
    {
        value["waits-for"] = json!(what);
    }
    Ok(value)
}

/// The job with the number in a path.
pub(super) fn find(lab: &Lab, id: &str) -> Result<Job, Problem> {
    let unknown = || Problem::new(StatusCode::NOT_FOUND, format!("the lab has no job {id}"));
    let number: i64 = id.parse().map_err(|_| unknown())?;
    lab.store().lab_job(number)?.ok_or_else(unknown)
}

#[derive(Deserialize)]
pub(super) struct Which {
    /// The attempt's number; by default the last.
    pub attempt: Option<u32>,
}

/// The directory of an attempt at a job.
pub(super) fn attempt_directory(
    lab: &Arc<Lab>,
    job: &Job,
    attempt: Option<u32>,
) -> Result<PathBuf, Problem> {
    let chosen = match attempt {
        Some(number) => job.attempts.iter().find(|it| it.number == number),
        None => job.attempts.last(),
    };
    let none = || {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!("job {} has no such attempt", job.id),
        )
    };
    let chosen = chosen.ok_or_else(none)?;
    Ok(lab.directories().attempt(job.id, chosen.number))
}

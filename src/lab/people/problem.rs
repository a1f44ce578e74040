//! Owns errors of the API as RFC 9457 has them: `application/problem+json` with title, status and detail.
//! Never shows what is secret.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::lab::service::{Refused, RefusedKind};

/// What went wrong, for the caller.
#[derive(Debug)]
pub(super) struct Problem {
    pub status: StatusCode,
    pub detail: String,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Problem {
            status,
            detail: detail.into(),
        }
    }

    pub fn no_job(id: i64) -> Self {
        Problem::new(StatusCode::NOT_FOUND, format!("the lab has no job {id}"))
    }

    pub fn no_board(name: &str) -> Self {
        Problem::new(
            StatusCode::NOT_FOUND,
            format!("the lab has no board `{name}`"),
        )
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let headers = [(header::CONTENT_TYPE, "application/problem+json")];
        (self.status, headers, body.to_string()).into_response()
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let status = match refused.kind {
            RefusedKind::Malformed => StatusCode::BAD_REQUEST,
            RefusedKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
            RefusedKind::NoBoard => StatusCode::CONFLICT,
            RefusedKind::Full => StatusCode::INSUFFICIENT_STORAGE,
            RefusedKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Problem::new(status, refused.sentence)
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        log::error!("{error:#}");
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the lab failed: its log says more",
        )
    }
}

impl From<crate::lab::store::StoreError> for Problem {
    fn from(error: crate::lab::store::StoreError) -> Self {
        anyhow::Error::new(error).into()
    }
}

/// Runs what may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the lab stops",
        )),
    }
}

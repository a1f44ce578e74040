//! Owns taking a request's body into a file, within a bound. Never looks into it.

use std::future::poll_fn;
use std::io::Write;
use std::path::Path;
use std::pin::Pin;

use anyhow::Context;
use axum::body::{Body, HttpBody};
use axum::http::StatusCode;
use tempfile::NamedTempFile;

use super::problem::Problem;

/// How large a submission may be, in bytes.
const LARGEST: u64 = 256 << 20;

/// Takes the body into a file in `directory`.
pub(super) async fn spool(mut body: Body, directory: &Path) -> Result<NamedTempFile, Problem> {
    let mut file = tempfile::Builder::new()
        .prefix(".upload-")
        .tempfile_in(directory)
        .context("cannot keep the submission")?;
    let mut size = 0;
    while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
        let frame = frame.map_err(|error| {
            Problem::new(StatusCode::BAD_REQUEST, format!("the body ended: {error}"))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        size += data.len() as u64;
        if size > LARGEST {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("a submission may have {} MiB", LARGEST >> 20),
            ));
        }
        // Into the page cache, in pieces of some KiB.
        file.write_all(&data).map_err(|error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            let status = match full {
                true => StatusCode::INSUFFICIENT_STORAGE,
                false => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Problem::new(status, format!("the submission cannot be kept: {error}"))
        })?;
    }
    Ok(file)
}

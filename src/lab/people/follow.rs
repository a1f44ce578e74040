//! Owns following a job: its console's log as it grows, and its events by server-sent events (HTML, 9.2). A follower is woken
//! when there is something new, and reads it from the attempt's files. Never polls the store.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path as FilePath, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::lookup::{People, find, told};
use super::problem::{Problem, blocking};
use crate::input;
use crate::lab::queue::{Job, JobPhase};
use crate::lab::service::{EVENTS, Lab};

/// How much is read at once, in bytes.
const CHUNK: usize = 64 << 10;
/// After so long without anything new a comment is sent, so that a reader that is gone is noticed.
const ALIVE: Duration = Duration::from_secs(15);
/// Followers look no more often than this, however much comes.
const PAUSE: Duration = Duration::from_millis(50);
/// The name of the console's log.
const LOG: &str = "console.log";

#[derive(Deserialize)]
pub(super) struct LogQuery {
    attempt: Option<u32>,
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    start: u64,
}

/// The console's log of an attempt, from byte `start` on; with `follow=true` to the attempt's end.
pub(super) async fn log(
    State(people): State<People>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Problem> {
    let lab = Arc::clone(&people.lab);
    let job = blocking(move || find(&lab, &id)).await?;
    let (sender, receiver) = mpsc::channel(4);
    let follower = Follower {
        changed: people.lab.signals().follow_job(job.id),
        lab: Arc::clone(&people.lab),
        job: job.id,
        sender,
    };
    tokio::spawn(async move {
        // The reader has gone, or the lab stops: nobody is left to tell.
        let _ = follower.send_log(query).await;
    });
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    Ok((kind, Body::new(Pieces(receiver))).into_response())
}

/// The job's events to its end, as server-sent events: `job` (its state), `attempt`, `stage`, `case`, `note`, and `end` with
/// the job as it is then.
pub(super) async fn events(
    State(people): State<People>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let lab = Arc::clone(&people.lab);
    let job = blocking(move || find(&lab, &id)).await?;
    let (sender, receiver) = mpsc::channel(16);
    let follower = Follower {
        changed: people.lab.signals().follow_job(job.id),
        lab: Arc::clone(&people.lab),
        job: job.id,
        sender,
    };
    tokio::spawn(async move {
        let _ = follower.send_events().await;
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Body::new(Pieces(receiver))).into_response())
}

/// A file of known size as a body.
pub(super) fn whole(file: File, size: u64) -> Body {
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut file = file.take(size);
        loop {
            let mut piece = vec![0; CHUNK];
            match file.read(&mut piece) {
                Ok(count) if count > 0 => {
                    piece.truncate(count);
                    if sender.blocking_send(piece.into()).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    Body::new(Pieces(receiver))
}

/// Nobody listens any more, or what is followed cannot be read.
struct Gone;

impl<E: std::error::Error> From<E> for Gone {
    fn from(_: E) -> Self {
        Gone
    }
}

struct Follower {
    lab: Arc<Lab>,
    job: i64,
    changed: watch::Receiver<()>,
    sender: mpsc::Sender<Bytes>,
}

impl Follower {
    async fn job(&self) -> Result<Job, Gone> {
        let (lab, id) = (Arc::clone(&self.lab), self.job);
        tokio::task::spawn_blocking(move || lab.store().lab_job(id))
            .await??
            .ok_or(Gone)
    }

    async fn send(&self, piece: impl Into<Bytes>) -> Result<(), Gone> {
        Ok(self.sender.send(piece.into()).await?)
    }

    /// Waits for something new. Gives `false` if there was nothing for a while.
    async fn wait(&mut self) -> Result<bool, Gone> {
        tokio::select! {
            () = self.sender.closed() => Err(Gone),
            changed = timeout(ALIVE, self.changed.changed()) => match changed {
                Ok(changed) => {
                    changed?;
                    tokio::time::sleep(PAUSE).await;
                    Ok(true)
                }
                Err(_) => Ok(false),
            }
        }
    }

    async fn send_log(mut self, query: LogQuery) -> Result<(), Gone> {
        let mut at = query.start;
        let mut number = query.attempt;
        loop {
            self.changed.mark_unchanged();
            let job = self.job().await?;
            number = number.or(job.attempts.last().map(|it| it.number));
            let attempt = job.attempts.iter().find(|it| Some(it.number) == number);
            let over = attempt.map_or(job.state == JobPhase::Finished, |it| it.ended.is_some());
            if let Some(attempt) = attempt {
                let path = self.lab.directories().attempt(job.id, attempt.number);
                self.send_from(path.join(LOG), &mut at).await?;
            }
            if over || !query.follow {
                return Ok(());
            }
            // Without news no byte is sent: the log has no place for it.
            self.wait().await?;
        }
    }

    async fn send_from(&self, path: PathBuf, at: &mut u64) -> Result<(), Gone> {
        loop {
            let (path, start) = (path.clone(), *at);
            let piece = tokio::task::spawn_blocking(move || piece(&path, start)).await?;
            let Ok(piece) = piece else {
                // Not there yet.
                return Ok(());
            };
            if piece.is_empty() {
                return Ok(());
            }
            *at += piece.len() as u64;
            self.send(piece).await?;
        }
    }

    async fn send_events(mut self) -> Result<(), Gone> {
        let mut told_state = None;
        let mut attempt = 0;
        let mut lines = Lines::default();
        loop {
            self.changed.mark_unchanged();
            let job = self.job().await?;
            while let Some(current) = job.attempts.get(attempt) {
                if lines.path.is_none() {
                    let directory = self.lab.directories().attempt(job.id, current.number);
                    lines = Lines::of(directory.join(EVENTS));
                    self.send(event("attempt", &json!(current))).await?;
                }
                for line in lines.fresh().await? {
                    let name = serde_json::from_slice::<Named>(&line);
                    let name = name.map_or_else(|_| "note".into(), |named| named.event);
                    self.send(raw_event(&name, &line)).await?;
                }
                if current.ended.is_none() {
                    break;
                }
                self.send(event("attempt", &json!(current))).await?;
                lines = Lines::default();
                attempt += 1;
            }
            if told_state != Some(job.state) {
                told_state = Some(job.state);
                let shown = self.told(&job).await?;
                self.send(event("job", &shown)).await?;
            }
            if job.state == JobPhase::Finished {
                return self.send(event("end", &json!(job))).await;
            }
            if !self.wait().await? {
                self.send(&b": alive\n\n"[..]).await?;
            }
        }
    }

    async fn told(&self, job: &Job) -> Result<serde_json::Value, Gone> {
        let (lab, job) = (Arc::clone(&self.lab), job.clone());
        tokio::task::spawn_blocking(move || told(&lab, &job))
            .await?
            .map_err(|_| Gone)
    }
}

#[derive(Deserialize)]
struct Named {
    event: String,
}

/// The lines of a growing file.
#[derive(Default)]
struct Lines {
    path: Option<PathBuf>,
    at: u64,
    partial: Vec<u8>,
}

impl Lines {
    fn of(path: PathBuf) -> Self {
        Lines {
            path: Some(path),
            ..Lines::default()
        }
    }

    /// The whole lines that have come since the last call.
    async fn fresh(&mut self) -> Result<VecDeque<Vec<u8>>, Gone> {
        let mut lines = VecDeque::new();
        while let Some(path) = self.path.clone() {
            let at = self.at;
            let piece = tokio::task::spawn_blocking(move || piece(&path, at)).await?;
            let piece = piece.unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            self.at += piece.len() as u64;
            for byte in piece {
                match byte {
                    b'\n' => lines.push_back(std::mem::take(&mut self.partial)),
                    byte => self.partial.push(byte),
                }
            }
        }
        Ok(lines)
    }
}

/// What of a file comes after byte `start`, up to a bound.
fn piece(path: &FilePath, start: u64) -> io::Result<Vec<u8>> {
    let mut file = input::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut piece = Vec::new();
    file.take(CHUNK as u64).read_to_end(&mut piece)?;
    Ok(piece)
}

fn event(name: &str, value: &serde_json::Value) -> Bytes {
    raw_event(name, value.to_string().as_bytes())
}

/// `data` is JSON, which has no line break.
fn raw_event(name: &str, data: &[u8]) -> Bytes {
    let mut text = format!("event: {name}\ndata: ").into_bytes();
    text.extend(data);
    text.extend(b"\n\n");
    text.into()
}

/// A body whose pieces come from elsewhere.
struct Pieces(mpsc::Receiver<Bytes>);

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0
            .poll_recv(context)
            .map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

//! Owns single calls to a lab's API: one request, one answer, and what went wrong as the lab says it.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use ureq::http::Response;
use ureq::{Agent, Body, SendBody};

use crate::error::{Class, Fault};
use crate::lab::queue::{BoardHealth, Health, Job};
use crate::lab::service::{BoardStatus, ReserveRequest};
use crate::lab::store::BoardEvent;

/// How long a lab may take to answer the question whether it is there, and to accept a connection.
const PROBE: Duration = Duration::from_secs(2);
const CONNECT: Duration = Duration::from_secs(10);
/// The largest answer that is read whole, in bytes.
const LARGEST: u64 = 64 << 20;

/// A lab that is spoken to over HTTP.
#[derive(Clone)]
pub struct Client {
    agent: Agent,
    url: String,
    user: String,
    token: Option<String>,
}

/// What a lab says of itself.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct LabShown {
    pub name: String,
    pub hearth: String,
    pub waiting: u64,
    pub running: u64,
    /// Why no job begins.
    pub held: Option<String>,
}

/// A job, with what it waits for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobShown {
    #[serde(flatten)]
    pub job: Job,
    #[serde(rename = "waits-for", default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
}

/// A granted lease.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct LeaseToken {
    pub token: String,
}

/// An error of the API (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

impl Client {
    /// `url`: as `http://HOST:PORT`. `user`: who calls, for a lab on this host. `token`: for another host's.
    pub fn new(url: &str, user: &str, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            // A lab is never behind a proxy that was meant for package mirrors.
            .proxy(None);
        Client {
            agent: config.build().into(),
            url: url.trim_end_matches('/').into(),
            user: user.into(),
            token,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where a job is found.
    pub fn address_of(&self, job: i64) -> String {
        format!("{}/api/v1/jobs/{job}", self.url)
    }

    /// The lab, if one answers there at once and lets this caller in.
    pub fn probe(&self) -> Option<LabShown> {
        let request = self.get_request("lab");
        let request = request.config().timeout_global(Some(PROBE)).build();
        read(request.call().ok()?).ok()
    }

    pub fn lab(&self) -> Result<LabShown> {
        self.get("lab")
    }

    /// Submits a tar.
    pub fn submit(&self, tar: impl Read) -> Result<JobShown> {
        let request = self.post_request("jobs");
        let request = request.header("content-type", "application/x-tar");
        let answer = request.send(SendBody::from_reader(&mut { tar }));
        read(self.reached(answer)?)
    }

    /// `query` as of the list's filters: `state=running&limit=5`.
    pub fn jobs(&self, query: &str) -> Result<Vec<Job>> {
        self.get(&format!("jobs?{query}"))
    }

    pub fn job(&self, id: i64) -> Result<JobShown> {
        self.get(&format!("jobs/{id}"))
    }

    pub fn cancel(&self, id: i64) -> Result<JobShown> {
        self.post(&format!("jobs/{id}/cancel"), &())
    }

    pub fn retry(&self, id: i64) -> Result<JobShown> {
        self.post(&format!("jobs/{id}/retry"), &())
    }

    /// Copies an attempt's console log; with `follow` until the attempt ends.
    pub fn log(&self, id: i64, follow: bool, out: &mut dyn Write) -> Result<()> {
        let answer = self.reached(
            self.get_request(&format!("jobs/{id}/log?follow={follow}"))
                .call(),
        )?;
        let mut body = checked(answer)?.into_body().into_reader();
        let mut buffer = [0; 16 << 10];
        loop {
            match body.read(&mut buffer).map_err(|_| self.lost())? {
                0 => return Ok(()),
                count => {
                    out.write_all(&buffer[..count])?;
                    out.flush()?;
                }
            }
        }
    }

    /// Fetches the files of the job's last attempt into a directory; gives their names.
    pub fn report(&self, id: i64, directory: &Path) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Files {
            files: Vec<File>,
        }
        #[derive(Deserialize)]
        struct File {
            name: String,
        }
        let found: Files = self.get(&format!("jobs/{id}/report"))?;
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        let mut names = Vec::new();
        for File { name } in found.files {
            anyhow::ensure!(
                !name.contains('/') && !name.starts_with('.'),
                "{name:?} is no file's name"
            );
            let answer =
                self.reached(self.get_request(&format!("jobs/{id}/report/{name}")).call())?;
            let mut body = checked(answer)?.into_body().into_reader();
            let path = directory.join(&name);
            let mut file = std::fs::File::create(&path)
                .with_context(|| format!("cannot write {}", path.display()))?;
            io::copy(&mut body, &mut file).map_err(|_| self.lost())?;
            names.push(name);
        }
        Ok(names)
    }

    pub fn boards(&self) -> Result<Vec<BoardStatus>> {
        self.get("boards")
    }

    pub fn board(&self, name: &str) -> Result<BoardStatus> {
        self.get(&format!("boards/{}", escaped(name)))
    }

    pub fn history(&self, board: &str) -> Result<Vec<BoardEvent>> {
        self.get(&format!("boards/{}/history", escaped(board)))
    }

    pub fn set_health(&self, board: &str, health: Health, why: &str) -> Result<BoardHealth> {
        let body = serde_json::json!({ "health": health, "why": why });
        self.post(&format!("boards/{}/health", escaped(board)), &body)
    }

    /// Ends a board's lease, whoever has it.
    pub fn release_board(&self, board: &str) -> Result<()> {
        self.call_post(&format!("boards/{}/release", escaped(board)), &())
            .map(drop)
    }

    pub(super) fn reserve(&self, board: &str, request: &ReserveRequest) -> Result<LeaseToken> {
        self.post(&format!("boards/{}/reserve", escaped(board)), request)
    }

    pub(super) fn beat(&self, token: &str) -> Result<()> {
        self.call_post(&format!("leases/{token}/beat"), &())
            .map(drop)
    }

    pub(super) fn release(&self, token: &str) -> Result<()> {
        let request = self.agent.delete(self.path(&format!("leases/{token}")));
        let request = self.signed(request);
        checked(self.reached(request.call())?).map(drop)
    }

    pub(super) fn open_events(&self, id: i64) -> Result<Body> {
        let answer = self.reached(self.get_request(&format!("jobs/{id}/events")).call())?;
        Ok(checked(answer)?.into_body())
    }

    /// What is said of a connection that ended.
    pub(super) fn lost(&self) -> Fault {
        Fault::infrastructure(format!(
            "the connection to the lab at {} was lost",
            self.url
        ))
        .remedy("the job goes on: `hearth jobs` shows it when the lab is back")
    }

    fn path(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.url)
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        let request = request.header("hearth-user", &self.user);
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn get_request(&self, path: &str) -> ureq::RequestBuilder<ureq::typestate::WithoutBody> {
        self.signed(self.agent.get(self.path(path)))
    }

    fn post_request(&self, path: &str) -> ureq::RequestBuilder<ureq::typestate::WithBody> {
        self.signed(self.agent.post(self.path(path)))
    }

    fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        read(self.reached(self.get_request(path).call())?)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        read(self.call_post(path, body)?)
    }

    fn call_post(&self, path: &str, body: &impl Serialize) -> Result<Response<Body>> {
        let body = serde_json::to_vec(body)?;
        let request = self.post_request(path);
        let request = request.header("content-type", "application/json");
        checked(self.reached(request.send(&body[..]))?)
    }

    fn reached(&self, answer: Result<Response<Body>, ureq::Error>) -> Result<Response<Body>> {
        answer.map_err(|error| {
            Fault::infrastructure(format!("no lab answers at {}: {error}", self.url))
                .remedy("start one with `hearth serve`, or name it with --lab-url")
                .into()
        })
    }
}

/// The answer, unless it is a refusal.
fn checked(answer: Response<Body>) -> Result<Response<Body>> {
    let status = answer.status().as_u16();
    if status < 400 {
        return Ok(answer);
    }
    let text = answer
        .into_body()
        .with_config()
        .limit(1 << 20)
        .read_to_string();
    let detail = text
        .ok()
        .and_then(|text| serde_json::from_str::<Problem>(&text).ok())
        .map_or_else(
            || format!("the lab answered {status}"),
            |problem| problem.detail,
        );
    let class = match status {
        500.. => Class::Infrastructure,
        _ => Class::Input,
    };
    let fault = Fault::new(class, detail).because(Status(status));
    Err(match status {
        401 | 403 => fault.remedy(
            "`hearth lab token` on the lab's host prints a token; give its file with --token-file",
        ),
        _ => fault,
    }
    .into())
}

/// The status of a refusal, as the cause of its error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status(pub u16);

fn read<T: DeserializeOwned>(answer: Response<Body>) -> Result<T> {
    let mut body = checked(answer)?.into_body();
    let text = body.with_config().limit(LARGEST).read_to_string();
    let text = text.map_err(|_| Fault::infrastructure("the lab's answer was cut off"))?;
    serde_json::from_str(&text)
        .map_err(|error| {
            Fault::infrastructure(format!("the lab's answer is not understood: {error}"))
                .remedy("is it a lab of another version of hearth?")
        })
        .map_err(Into::into)
}

impl Client {
    /// A name as a part of a path or a query (RFC 3986, 2.1).
    pub fn escaped(name: &str) -> String {
        escaped(name)
    }
}

fn escaped(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_is_one_part_of_it() {
        assert_eq!(escaped("neo1"), "neo1");
        assert_eq!(escaped("../a b?<é"), "..%2Fa%20b%3F%3C%C3%A9");
    }

    #[test]
    fn where_no_lab_is_the_error_says_so_with_a_remedy() {
        let client = Client::new("http://127.0.0.1:9", "a", None);
        assert!(client.probe().is_none());
        let error = client.jobs("").unwrap_err();
        assert_eq!(crate::error::class_of(&error), Class::Infrastructure);
        assert!(
            error
                .to_string()
                .contains("no lab answers at http://127.0.0.1:9"),
            "{error}"
        );
        assert!(crate::error::help_of(&error).is_some());
    }
}

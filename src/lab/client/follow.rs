//! Owns reading a job's events as the lab sends them (server-sent events; HTML, 9.2.6).
//! Never decides what becomes of them.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;

use super::calls::{Client, JobShown};
use crate::job::Case;
use crate::lab::queue::{AttemptInfo, Job};

/// How often a connection that was lost is made again, and after how long: a lab that is started again takes its jobs up.
const RECONNECTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);
/// A line longer than this, in bytes, is none of a lab's.
const LONGEST: u64 = 4 << 20;

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It has come to another state.
    Job(Box<JobShown>),
    /// An attempt has begun, or has ended.
    Attempt(AttemptInfo),
    Stage {
        stage: String,
        at: f64,
    },
    Case {
        suite: String,
        case: Box<Case>,
    },
    Note(String),
    End(Box<Job>),
}

/// The events of one job, from its first to its end.
pub struct Events {
    client: Client,
    job: i64,
    body: Option<BufReader<Box<dyn Read + Send>>>,
    /// How many events were given, and how many of a new connection are known already.
    given: usize,
    known: usize,
    over: bool,
}

impl Events {
    pub fn new(client: &Client, job: i64) -> Self {
        Events {
            client: client.clone(),
            job,
            body: None,
            given: 0,
            known: 0,
            over: false,
        }
    }

    /// The next event; `None` after the last one. Waits for it.
    ///
    /// # Errors
    /// If the lab does not come back.
    pub fn next_event(&mut self) -> Result<Option<Event>> {
        let mut lost = 0;
        while !self.over {
            match self.read() {
                Ok(Some((name, data))) => {
                    if let Some(event) = self.fresh(&name, &data)? {
                        return Ok(Some(event));
                    }
                }
                Ok(None) | Err(_) if lost < RECONNECTS => {
                    self.body = None;
                    self.known = self.given;
                    lost += 1;
                    std::thread::sleep(PAUSE);
                }
                Ok(None) => return Err(self.client.lost().into()),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What an event is, unless it was given before. States are told anew on each connection.
    fn fresh(&mut self, name: &str, data: &str) -> Result<Option<Event>> {
        let event = parse(name, data)?;
        match event {
            Some(Event::End(_)) => self.over = true,
            Some(Event::Job(_)) | None => return Ok(event),
            Some(_) if self.known > 0 => {
                self.known -= 1;
                return Ok(None);
            }
            Some(_) => self.given += 1,
        }
        Ok(event)
    }

    /// One event's name and data; `None` at the connection's end.
    fn read(&mut self) -> Result<Option<(String, String)>> {
        if self.body.is_none() {
            let body = self.client.open_events(self.job)?;
            self.body = Some(BufReader::new(Box::new(body.into_reader())));
        }
        let Some(body) = &mut self.body else {
            return Ok(None);
        };
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let mut line = String::new();
            let count = body.by_ref().take(LONGEST).read_line(&mut line);
            if count.map_err(|_| self.client.lost())? == 0 {
                return Ok(None);
            }
            let line = line.trim_end();
            if let Some(text) = line.strip_prefix("event: ") {
                name = text.into();
            } else if let Some(text) = line.strip_prefix("data: ") {
                data = text.into();
            } else if line.is_empty() && !name.is_empty() {
                return Ok(Some((name, data)));
            }
        }
    }
}

fn parse(name: &str, data: &str) -> Result<Option<Event>> {
    #[derive(Deserialize)]
    struct Stage {
        stage: String,
        at: f64,
    }
    #[derive(Deserialize)]
    struct OfCase {
        suite: String,
        case: Case,
    }
    #[derive(Deserialize)]
    struct Note {
        text: String,
    }
    Ok(match name {
        "job" => Some(Event::Job(serde_json::from_str(data)?)),
        "attempt" => Some(Event::Attempt(serde_json::from_str(data)?)),
        "stage" => {
            let Stage { stage, at } = serde_json::from_str(data)?;
            Some(Event::Stage { stage, at })
        }
        "case" => {
            let OfCase { suite, case } = serde_json::from_str(data)?;
            Some(Event::Case {
                suite,
                case: Box::new(case),
            })
        }
        "note" => Some(Event::Note(serde_json::from_str::<Note>(data)?.text)),
        "end" => Some(Event::End(serde_json::from_str(data)?)),
        // Of a newer lab.
        _ => None,
    })
}

//! Owns the tests of a board that has no agent: a login on its console, the job given to its shell, its lines asked for again
//! where the console tore them.
//! Never reads a clock or a console: bytes and times are given to it, and what it says is to be written.

mod asked;
mod login;
mod reader;
mod script;
mod upload;
mod words;

use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use self::asked::{Asked, Due};
use self::login::{Dialogue, Step};
use self::reader::Reader;
use self::upload::{Next, Upload};
use self::words::{Refusal, answer};
use super::failure::FailureClass;
use crate::recipe::Login;

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ShellState {
    /// No shell has answered yet.
    Waiting,
    /// A shell takes the job.
    LoggedIn,
    /// The job runs.
    Running,
    /// All of the job's lines have come, and the board was told to power off.
    Over,
}

/// How often the same lines are asked for.
const ASKED_AGAIN: u32 = 20;
/// How many lines are asked for at once.
const LINES: u64 = 50;

/// A board's console on which a job is run. Times are seconds since the run began.
#[derive(Debug)]
pub struct ShellSession {
    reader: Reader,
    phase: Phase,
    job: (Vec<u8>, Vec<u8>),
    name: String,
    /// How long an answer may take, in seconds.
    limit: f64,
    /// When something came last.
    heard: f64,
    out: Vec<u8>,
    failure: Option<(FailureClass, String)>,
    /// Whether the board told that it cannot power itself off.
    stays: bool,
}

#[derive(Debug)]
enum Phase {
    Login(Dialogue),
    Upload(Box<Upload>),
    Running(Running),
    Bye(Asked),
    Over,
}

/// A job that runs.
#[derive(Debug, Default)]
struct Running {
    /// How many lines it has printed, once it has ended.
    lines: Option<u64>,
    asked: Option<Asked>,
    /// Whether lines were asked for as often as they may be, in vain.
    gave_up: bool,
}

impl ShellSession {
    /// `tar`: the job. `name`: of the directory on the board that it is unpacked in. `limit`: how long, in seconds, an answer
    /// of the board may take.
    ///
    /// # Errors
    /// If the prompt is no regular expression.
    pub fn new(login: &Login, tar: &[u8], name: &str, limit: f64) -> Result<Self> {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(tar)?;
        Ok(ShellSession {
            reader: Reader::default(),
            phase: Phase::Login(Dialogue::new(login).context("the prompt of the board's shell")?),
            job: (tar.to_vec(), gzip.finish()?),
            name: name.into(),
            limit,
            heard: 0.0,
            out: Vec::new(),
            failure: None,
            stays: false,
        })
    }

    pub fn state(&self) -> ShellState {
        match self.phase {
            Phase::Login(_) => ShellState::Waiting,
            Phase::Upload(_) => ShellState::LoggedIn,
            Phase::Running(_) | Phase::Bye(_) => ShellState::Running,
            Phase::Over => ShellState::Over,
        }
    }

    /// Whether the board told that it cannot power itself off.
    pub fn stays(&self) -> bool {
        self.stays
    }

    /// Why the job cannot be run, told once.
    pub fn failure(&mut self) -> Option<(FailureClass, String)> {
        self.failure.take()
    }

    /// Takes what the console showed since the kernel started.
    pub fn heard(&mut self, bytes: &[u8], at: f64) {
        if bytes.is_empty() {
            return;
        }
        self.heard = at;
        self.reader.feed(bytes);
        if let Phase::Login(dialogue) = &mut self.phase {
            dialogue.heard();
        }
    }

    /// Acts on what was heard and on the time that passed. `gap`: the lines of the job that are missing among those that came,
    /// first and last; the second is none where all that are missing come behind them.
    pub fn act(&mut self, gap: (u64, Option<u64>), at: f64) {
        if self.failure.is_some() {
            return;
        }
        if let Err(refusal) = self.step(gap, at) {
            self.failure = Some(refusal.told());
        }
    }

    /// What is to be written to the console now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    fn step(&mut self, gap: (u64, Option<u64>), at: f64) -> Result<(), Refusal> {
        if let Phase::Login(dialogue) = &mut self.phase {
            match dialogue.look(&mut self.reader, self.heard, at)? {
                Step::Wait => {}
                Step::Type(line) => self.out.extend(format!("{line}\n").bytes()),
                Step::Shell => {
                    let (tar, gzip) = std::mem::take(&mut self.job);
                    let (upload, text) =
                        Upload::begin(tar, gzip, self.name.clone(), dialogue.probes(), at);
                    self.out.extend(text.bytes());
                    self.phase = Phase::Upload(Box::new(upload));
                }
            }
            return Ok(());
        }
        while let Some(line) = self.reader.take_line() {
            self.line(&line, at)?;
        }
        match &mut self.phase {
            Phase::Upload(upload) => {
                let next = upload.due(at, self.limit)?;
                self.next(next);
            }
            Phase::Running(running) => {
                if let Some(text) = running.ask(gap, at) {
                    self.out.extend(text.bytes());
                }
                if running.is_complete(gap) {
                    self.out.extend(b"bye\n");
                    self.phase = Phase::Bye(Asked::new("bye\n".into(), at));
                }
            }
            Phase::Bye(asked) => match asked.due(at, self.limit) {
                Due::Wait => {}
                Due::Again => self.out.extend(asked.text.bytes()),
                // All results are here.
                Due::GiveUp => self.phase = Phase::Over,
            },
            Phase::Login(_) | Phase::Over => {}
        }
        Ok(())
    }

    fn line(&mut self, line: &str, at: f64) -> Result<(), Refusal> {
        match &mut self.phase {
            Phase::Upload(upload) => {
                let next = upload.line(line, at)?;
                self.next(next);
            }
            Phase::Running(running) => match answer(line) {
                Some(("end", lines @ Some(_))) => running.lines = lines,
                Some(("again", _)) => running.answered(),
                _ => {}
            },
            Phase::Bye(_) if matches!(answer(line), Some(("bye", _))) => self.phase = Phase::Over,
            Phase::Over if matches!(answer(line), Some(("stays", _))) => self.stays = true,
            _ => {}
        }
        Ok(())
    }

    fn next(&mut self, next: Next) {
        match next {
            Next::Wait => {}
            Next::Write(text) => self.out.extend(text.bytes()),
            Next::Runs => self.phase = Phase::Running(Running::default()),
        }
    }
}

impl Running {
    /// The request for lines that are missing, if one is due.
    fn ask(&mut self, (next, last): (u64, Option<u64>), at: f64) -> Option<String> {
        let last = last.or(self.lines.filter(|lines| *lines >= next))?;
        let text = format!("again {next} {}\n", last.min(next + LINES - 1));
        let Some(asked) = self.asked.as_mut().filter(|asked| asked.text == text) else {
            self.asked = Some(Asked::new(text.clone(), at));
            return Some(text);
        };
        if asked.due(at, f64::INFINITY) == Due::Wait {
            return None;
        }
        self.gave_up = asked.times > ASKED_AGAIN;
        (!self.gave_up).then_some(text)
    }

    /// The lines that were asked for were printed again: those that still miss may be asked for at once.
    fn answered(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.hurry();
        }
    }

    /// Whether the job is over and all its lines are there, or were asked for in vain.
    fn is_complete(&self, (next, last): (u64, Option<u64>)) -> bool {
        let Some(lines) = self.lines else {
            return false;
        };
        (next > lines && last.is_none()) || self.gave_up
    }
}

/// A login on a board's console, for a user who takes over then. Times are seconds since the run began.
#[derive(Debug)]
pub struct ShellLogin {
    reader: Reader,
    dialogue: Dialogue,
    heard: f64,
    out: Vec<u8>,
}

impl ShellLogin {
    /// # Errors
    /// If the prompt is no regular expression.
    pub fn new(login: &Login) -> Result<Self> {
        Ok(ShellLogin {
            reader: Reader::default(),
            dialogue: Dialogue::new(login).context("the prompt of the board's shell")?,
            heard: 0.0,
            out: Vec::new(),
        })
    }

    /// Takes what the console showed since the kernel started.
    pub fn heard(&mut self, bytes: &[u8], at: f64) {
        if !bytes.is_empty() {
            self.heard = at;
            self.reader.feed(bytes);
            self.dialogue.heard();
        }
    }

    /// Acts on what was heard and on the time that passed; gives whether a shell answers.
    ///
    /// # Errors
    /// If the board lets nobody in, or what answers is no shell.
    pub fn act(&mut self, at: f64) -> Result<bool, (FailureClass, String)> {
        match self
            .dialogue
            .look(&mut self.reader, self.heard, at)
            .map_err(Refusal::told)?
        {
            Step::Wait => Ok(false),
            Step::Type(line) => {
                self.out.extend(format!("{line}\n").bytes());
                Ok(false)
            }
            Step::Shell => Ok(true),
        }
    }

    /// What is to be written to the console now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

#[cfg(test)]
mod tests;

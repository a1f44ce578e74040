//! Owns what a step inside tells hearth outside: progress, log messages, its result or its failure.
//! Never decides what is shown.
//!
//! One JSON object a line, from the step's standard output.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow};
use log::{Level, Log, Metadata, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::cause::Cause;
use crate::error::{self, Class, Fault};
use crate::progress::{Progress, Stage, Unit};

/// One line of the stream.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    Stage {
        id: u64,
        name: String,
        total: Option<u64>,
        bytes: bool,
    },
    Advance(u64, u64),
    Message(u64, String),
    /// The stage with that number is done; without a summary, it failed.
    End(u64, Option<String>),
    /// Level and text.
    Log(String, String),
    Done(Value),
    Failed(StepFailure),
}

/// An error on its way between processes.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepFailure {
    exit_code: u8,
    sentence: String,
    help: Option<String>,
    /// By which the caller decides what to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<Cause>,
}

impl From<&anyhow::Error> for StepFailure {
    fn from(error: &anyhow::Error) -> Self {
        StepFailure {
            exit_code: error::class_of(error).exit_code(),
            sentence: format!("{error:#}"),
            help: error::help_of(error).map(str::to_owned),
            cause: error::cause_of(error).cloned(),
        }
    }
}

impl From<StepFailure> for anyhow::Error {
    fn from(failure: StepFailure) -> Self {
        let class = Class::of_exit_code(failure.exit_code);
        let mut fault = Fault::new(class, failure.sentence);
        if let Some(help) = failure.help {
            fault = fault.remedy(help);
        }
        if let Some(cause) = failure.cause {
            fault = fault.because(cause);
        }
        fault.into()
    }
}

/// The inner end: progress and log messages become events.
#[derive(Clone)]
pub struct Sender {
    sink: Arc<Mutex<Box<dyn Write + Send>>>,
    stages: Arc<AtomicU64>,
}

impl Sender {
    pub fn new(sink: impl Write + Send + 'static) -> Self {
        Sender {
            sink: Arc::new(Mutex::new(Box::new(sink))),
            stages: Arc::default(),
        }
    }

    /// Takes over the process's log messages, of all levels that `level` lets through.
    pub fn take_log(&self, level: log::LevelFilter) {
        static LOGGER: OnceLock<Sender> = OnceLock::new();
        if log::set_logger(LOGGER.get_or_init(|| self.clone())).is_ok() {
            log::set_max_level(level);
        }
    }

    /// A reader that went away means that hearth outside has died, and we are about to.
    pub fn send(&self, event: &Event) {
        let Ok(mut line) = serde_json::to_vec(event) else {
            return;
        };
        line.push(b'\n');
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = sink.write_all(&line).and_then(|()| sink.flush());
    }
}

impl Log for Sender {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) && record.target().starts_with("hearth") {
            self.send(&Event::Log(
                record.level().to_string(),
                record.args().to_string(),
            ));
        }
    }

    fn flush(&self) {}
}

impl Progress for Sender {
    fn stage(&self, name: &str, total: Option<u64>, unit: Unit) -> Box<dyn Stage> {
        let id = self.stages.fetch_add(1, Ordering::Relaxed);
        self.send(&Event::Stage {
            id,
            name: name.to_owned(),
            total,
            bytes: unit == Unit::Bytes,
        });
        Box::new(SentStage {
            sender: self.clone(),
            id,
            summary: None,
        })
    }
}

struct SentStage {
    sender: Sender,
    id: u64,
    summary: Option<String>,
}

impl Stage for SentStage {
    fn advance(&self, amount: u64) {
        self.sender.send(&Event::Advance(self.id, amount));
    }

    fn message(&self, text: &str) {
        self.sender.send(&Event::Message(self.id, text.to_owned()));
    }

    fn finish(mut self: Box<Self>, summary: &str) {
        self.summary = Some(summary.to_owned());
    }
}

impl Drop for SentStage {
    fn drop(&mut self) {
        self.sender.send(&Event::End(self.id, self.summary.take()));
    }
}

/// Starts a process that runs a step, gives it its input, and waits for the answer.
///
/// # Errors
/// The step's own error, or that it ended without saying anything.
pub fn exchange<I, O>(
    mut command: Command,
    name: &str,
    input: &I,
    progress: &dyn Progress,
) -> Result<O>
where
    I: Serialize,
    O: DeserializeOwned,
{
    let input = serde_json::to_vec(input)?;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run hearth again")?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that failed early does not read it, and says why in its answer.
        let _ = stdin.write_all(&input);
    }
    let answer = match child.stdout.take() {
        Some(stdout) => receive(BufReader::new(stdout), progress),
        None => Err(anyhow!("the sandbox has no standard output")),
    };
    child.wait()?;
    serde_json::from_value(answer?).with_context(|| format!("the answer of step {name}"))
}

/// The outer end: passes events on until the stream ends, and gives the result.
///
/// # Errors
/// The step's own error, or that it ended without saying anything.
fn receive(stream: impl BufRead, progress: &dyn Progress) -> Result<Value> {
    let mut stages: HashMap<u64, Box<dyn Stage>> = HashMap::new();
    let mut outcome = None;
    for line in stream.lines() {
        let line = line.context("cannot hear from the sandbox")?;
        let event = serde_json::from_str(&line)
            .with_context(|| format!("the sandbox said something unexpected: {line}"))?;
        match event {
            Event::Stage {
                id,
                name,
                total,
                bytes,
            } => {
                let unit = if bytes { Unit::Bytes } else { Unit::Items };
                stages.insert(id, progress.stage(&name, total, unit));
            }
            Event::Advance(id, amount) => {
                if let Some(stage) = stages.get(&id) {
                    stage.advance(amount);
                }
            }
            Event::Message(id, text) => {
                if let Some(stage) = stages.get(&id) {
                    stage.message(&text);
                }
            }
            Event::End(id, summary) => {
                if let (Some(stage), Some(summary)) = (stages.remove(&id), summary) {
                    stage.finish(&summary);
                }
            }
            Event::Log(level, text) => {
                log::log!(level.parse().unwrap_or(Level::Warn), "{text}");
            }
            Event::Done(value) => outcome = Some(Ok(value)),
            Event::Failed(failure) => outcome = Some(Err(failure.into())),
        }
    }
    outcome.unwrap_or_else(|| {
        Err(
            Fault::host("the sandbox was ended from outside before it was done")
                .remedy("look for `Out of memory` in the kernel's log; then run the command again")
                .into(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::NoProgress;
    use std::sync::mpsc;

    #[derive(Clone)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(data)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Recorder(Mutex<mpsc::Sender<String>>);

    impl Progress for Recorder {
        fn stage(&self, name: &str, total: Option<u64>, unit: Unit) -> Box<dyn Stage> {
            let tell = self.0.lock().unwrap().clone();
            tell.send(format!("{name} {total:?} {unit:?}")).unwrap();
            Box::new(RecordedStage(Mutex::new(tell)))
        }
    }

    struct RecordedStage(Mutex<mpsc::Sender<String>>);

    impl Stage for RecordedStage {
        fn advance(&self, amount: u64) {
            self.0.lock().unwrap().send(format!("+{amount}")).unwrap();
        }
        fn message(&self, text: &str) {
            self.0.lock().unwrap().send(text.to_owned()).unwrap();
        }
        fn finish(self: Box<Self>, summary: &str) {
            self.0
                .lock()
                .unwrap()
                .send(format!("done: {summary}"))
                .unwrap();
        }
    }

    #[test]
    fn progress_and_the_result_arrive_as_they_were_sent() {
        let buffer = Buffer(Arc::default());
        let sender = Sender::new(buffer.clone());
        let stage = sender.stage("unpack", Some(3), Unit::Items);
        stage.message("busybox");
        stage.advance(2);
        stage.finish("3 packages");
        sender.send(&Event::Done(Value::from(7)));
        let sent = buffer.0.lock().unwrap().clone();
        let (tell, told) = mpsc::channel();
        let result = receive(&sent[..], &Recorder(Mutex::new(tell))).unwrap();
        assert_eq!(result, 7);
        let told: Vec<String> = told.try_iter().collect();
        assert_eq!(
            told,
            ["unpack Some(3) Items", "busybox", "+2", "done: 3 packages"]
        );
    }

    #[test]
    fn a_failure_keeps_its_class_remedy_and_cause() {
        let fault = Fault::infrastructure("mirror gone").remedy("try another");
        let error = anyhow::Error::new(fault.because(Cause::Program)).context("fetching");
        let text = serde_json::to_string(&Event::Failed(StepFailure::from(&error))).unwrap();
        let error = receive(text.as_bytes(), &NoProgress).unwrap_err();
        assert_eq!(error.to_string(), "fetching: mirror gone");
        assert_eq!(error::class_of(&error), Class::Infrastructure);
        assert_eq!(error::help_of(&error), Some("try another"));
        assert_eq!(error::cause_of(&error), Some(&Cause::Program));
    }

    #[test]
    fn silence_is_a_failure() {
        assert!(receive(&b""[..], &NoProgress).is_err());
        assert!(receive(&b"nonsense\n"[..], &NoProgress).is_err());
    }
}

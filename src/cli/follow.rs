//! Owns what a person sees of a job that a lab runs: what `hearth test` shows, as the lab tells it, and what Ctrl-C does.

use std::io::{self, BufRead, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::Result;
use hearth::error::Class;
use hearth::lab::client::{Client, Event, Events};
use hearth::lab::queue::{Job, JobPhase};

use super::live::Live;
use super::terminal::Terminal;

/// How often it is looked whether the user pressed Ctrl-C.
const LOOK: Duration = Duration::from_millis(100);

/// What Ctrl-C does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Asks whether to cancel the job or to leave it; without a terminal leaves it.
    Ask,
    /// Cancels the job.
    Cancel,
}

/// How following ended.
pub enum Followed {
    /// With the job.
    Ended(Box<Job>),
    /// The job goes on.
    Left,
}

/// Shows the job to its end.
pub fn follow(
    client: &Client,
    job: i64,
    interrupt: Interrupt,
    interrupted: &Arc<AtomicBool>,
    terminal: &Terminal,
) -> Result<Followed> {
    let events = receive(client, job);
    let mut shown = Shown {
        live: Live::new(terminal),
        terminal,
        waits_for: None,
    };
    let mut cancelled = false;
    loop {
        if interrupted.swap(false, Ordering::Relaxed) && !cancelled {
            match interrupt == Interrupt::Cancel || asked_to_cancel(job)? {
                true => {
                    terminal.say(&format!("cancelling job {job}"));
                    // It may have ended meanwhile.
                    if let Err(error) = client.cancel(job) {
                        terminal.say(&format!("{error:#}"));
                    }
                    cancelled = true;
                }
                false => return Ok(Followed::Left),
            }
        }
        match events.recv_timeout(LOOK) {
            Ok(Ok(Event::End(job))) => return Ok(Followed::Ended(job)),
            Ok(Ok(event)) => shown.show(event),
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                anyhow::bail!("the job's events ended without its end")
            }
        }
    }
}

/// The exit code of a job that has ended: that of `hearth test`.
pub fn exit_code(job: &Job) -> u8 {
    job.exit.unwrap_or(Class::Infrastructure.exit_code())
}

fn receive(client: &Client, job: i64) -> Receiver<Result<Event>> {
    let (sender, receiver) = channel();
    let mut events = Events::new(client, job);
    std::thread::spawn(move || {
        while let Some(event) = events.next_event().transpose() {
            let failed = event.is_err();
            if sender.send(event).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// Asks at the terminal. Without one the job is left.
fn asked_to_cancel(job: i64) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(false);
    }
    write!(
        io::stderr(),
        "\ncancel job {job}? [y: cancel it, Enter: leave it running] "
    )?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

struct Shown<'a> {
    live: Live<'a>,
    terminal: &'a Terminal,
    waits_for: Option<String>,
}

impl Shown<'_> {
    fn show(&mut self, event: Event) {
        match event {
            Event::Job(job) if job.job.state == JobPhase::Submitted => {
                if job.waits_for != self.waits_for
                    && let Some(what) = &job.waits_for
                {
                    self.terminal.say(&format!("         waiting: {what}"));
                }
                self.waits_for = job.waits_for;
            }
            Event::Job(_) | Event::End(_) => {}
            Event::Attempt(attempt) if attempt.ended.is_none() => {
                let number = match attempt.number {
                    1 => String::new(),
                    number => format!(", attempt {number}"),
                };
                self.terminal
                    .say(&format!("         on {}{number}", attempt.board));
            }
            Event::Attempt(attempt) => {
                if let Some(message) = attempt
                    .message
                    .filter(|_| attempt.outcome.as_deref() != Some("test"))
                {
                    let outcome = attempt.outcome.unwrap_or_default();
                    self.terminal.say(&format!(
                        "         ! {outcome} on {}: {message}",
                        attempt.board
                    ));
                }
            }
            Event::Stage { stage, at } => self.live.stage_named(&stage, at),
            Event::Case { suite, case } => {
                hearth::lab::Observer::case(&mut self.live, &suite, &case)
            }
            Event::Note(text) => hearth::lab::Observer::note(&mut self.live, &text),
        }
    }
}

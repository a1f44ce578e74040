//! Owns the way from a console's first words to a shell that answers: user, password, prompt.
//! Never gives the shell anything to do.
//!
//! A prompt is only a hint: what counts is that a command typed there is run.

use std::sync::LazyLock;

use regex::Regex;

use super::reader::Reader;
use super::words::{Refusal, answer, probe};
use crate::recipe::Login;

/// How long, in seconds, nothing may come before what stands behind the last line is taken for a prompt.
const SETTLED: f64 = 0.2;
/// How long, in seconds, a silent console is waited for before an empty line asks for a new prompt: a message of the kernel
/// may have come behind the first.
const QUIET: f64 = 5.0;
/// How often a login may be refused: a getty drops what comes too early, and a byte may be lost.
const REFUSALS: u32 = 3;
/// How often a user's name or a command is typed in vain.
const TRIES: u32 = 12;

/// The user where none is named.
const ROOT: &str = "root";
/// The end of a prompt where none is described.
const ANY_PROMPT: &str = r"[#$] ?$";

static USER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)(^|\W)(login|username): *$"));
static PASSWORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)password[^:]*: *$"));
static REFUSED: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?i)(login incorrect|login failed|permission denied|authentication failure)")
});
/// busybox's init, `askfirst`.
static ENTER: LazyLock<Regex> =
    LazyLock::new(|| pattern("(?i)press enter to activate this console"));

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("the pattern is a constant")
}

/// A login under way. Times are seconds since the run began.
#[derive(Debug)]
pub(super) struct Dialogue {
    login: Login,
    prompt: Regex,
    /// When something was typed last.
    typed: f64,
    /// Whether what stands there now was answered already.
    answered: bool,
    refused: u32,
    named: u32,
    probes: u32,
}

impl Dialogue {
    /// # Errors
    /// If the prompt is no regular expression.
    pub(super) fn new(login: &Login) -> Result<Self, regex::Error> {
        Ok(Dialogue {
            prompt: Regex::new(login.prompt.as_deref().unwrap_or(ANY_PROMPT))?,
            login: login.clone(),
            typed: 0.0,
            answered: false,
            refused: 0,
            named: 0,
            probes: 0,
        })
    }

    /// Something came over the console.
    pub(super) fn heard(&mut self) {
        self.answered = false;
    }

    /// Looks at what the console shows; gives what is to be typed. `heard`: when something came last.
    ///
    /// # Errors
    /// If the board lets nobody in, or what answers is no shell.
    pub(super) fn look(
        &mut self,
        reader: &mut Reader,
        heard: f64,
        at: f64,
    ) -> Result<Step, Refusal> {
        while let Some(line) = reader.take_line() {
            if self.is_answered_by(&line) {
                return Ok(Step::Shell);
            }
            if REFUSED.is_match(&line) {
                self.refused += 1;
                if self.refused == REFUSALS {
                    let user = self.user();
                    return Err(Refusal::Settings(format!(
                        "the board refused the login of `{user}`: user or password is wrong"
                    )));
                }
            }
        }
        if at - heard < SETTLED {
            return Ok(Step::Wait);
        }
        if !self.answered {
            self.answered = true;
            if let Some(text) = self.reply(&reader.tail())? {
                self.typed = at;
                return Ok(Step::Type(text));
            }
        }
        if at - self.typed.max(heard) >= QUIET {
            self.typed = at;
            return Ok(Step::Type(String::new()));
        }
        Ok(Step::Wait)
    }

    /// Whether a line is what one of the commands printed that were typed.
    fn is_answered_by(&self, line: &str) -> bool {
        answer(line).is_some_and(|(status, serial)| {
            status.parse::<u32>().is_ok()
                && serial.is_some_and(|serial| (1..=self.probes()).contains(&serial))
        })
    }

    /// How many commands were typed.
    pub(super) fn probes(&self) -> u64 {
        self.probes.into()
    }

    fn user(&self) -> &str {
        self.login.user.as_deref().unwrap_or(ROOT)
    }

    /// What to type where the console waits with this text, if it is known to wait.
    fn reply(&mut self, tail: &str) -> Result<Option<String>, Refusal> {
        if ENTER.is_match(tail) {
            return Ok(Some(String::new()));
        }
        if USER.is_match(tail) {
            self.named += 1;
            if self.named > TRIES {
                return Err(Refusal::Board(format!(
                    "the board asks for a user over and over: `{}` did not get in",
                    self.user()
                )));
            }
            return Ok(Some(self.user().to_string()));
        }
        if PASSWORD.is_match(tail) {
            return match &self.login.password {
                Some(password) => Ok(Some(password.clone())),
                None => Err(Refusal::Settings(format!(
                    "the board asks for the password of `{}`, and none is given (--password, or `login` in the lab file)",
                    self.user()
                ))),
            };
        }
        if self.prompt.is_match(tail) {
            self.probes += 1;
            if self.probes > TRIES {
                return Err(Refusal::Settings(format!(
                    "what waits with `{}` is no POSIX shell: it did not run `echo`",
                    tail.trim()
                )));
            }
            return Ok(Some(probe(self.probes.into())));
        }
        Ok(None)
    }
}

/// What a look at the console leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// A line to type, without its end.
    Type(String),
    /// A shell answers.
    Shell,
}

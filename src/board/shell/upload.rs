//! Owns giving a job to a board's shell: a directory, the tools that are there, the receiver, then the job line by line.
//! Never types before the last line was answered, so that a UART without flow control loses little, and what it lost is
//! written again.

use super::asked::{Asked, Due};
use super::script::{Sum, Tools, print_into};
use super::words::{Refusal, answer, length, probe};

/// Where the job's directory may be: what is first in the list is where LAVA has it.
const PLACES: [&str; 4] = ["", "/tmp", "/run", "/dev/shm"];
/// The programs that are looked for, before those of [`Sum::ALL`].
const PROGRAMS: [&str; 3] = ["tar", "base64", "gzip"];
/// How long what a typed command prints is made, in characters: shells on small boards may take no more than 255 in all.
/// Where that does not arrive, half of it may.
const TYPED: usize = 150;
const TYPED_LEAST: usize = 100;
/// Ctrl-C.
const INTERRUPT: char = '\u{3}';
/// How long a line for the receiver is at most and at least, in characters.
const LONGEST: usize = 240;
const SHORTEST: usize = 16;
/// After how many lines that arrived the next ones are made longer again.
const GOOD: u32 = 16;
/// How often a command whose status is not 0 is typed: a byte of it may have been lost.
const TRIES: u32 = 3;
/// The same for one that can fail by the console alone: what it prints may be torn as well.
const CHECKED_TRIES: u32 = 10;
/// How often all of the job may arrive damaged.
const DAMAGED: u32 = 3;

/// A job on its way to a board. Times are seconds since the run began.
#[derive(Debug)]
pub(super) struct Upload {
    /// The job's tar, and the same compressed.
    tar: Vec<u8>,
    gzip: Vec<u8>,
    /// Names the job's directory.
    name: String,
    step: Step,
    asked: Asked,
    serial: u64,
    /// How often the step was tried and failed.
    failed: u32,
    /// What the console showed since the last command was written.
    shown: Vec<String>,
    tools: Tools,
    /// The receiver's script, and the same cut into pieces.
    receiver: String,
    pieces: Vec<String>,
    typed: usize,
    /// The line that waits for its answer, from 1, and where in the job it begins.
    line: u64,
    from: usize,
    /// The ends of the texts that were sent as this line, by their length in characters.
    sent: Vec<(u64, usize)>,
    length: usize,
    good: u32,
    /// How often all of the job has arrived damaged.
    damaged: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Place(usize),
    Look(usize),
    Piece(usize),
    Join,
    Start,
    Line,
    Sum,
    Run,
}

/// What comes of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Wait,
    /// Text to write, with its end.
    Write(String),
    /// The job runs.
    Runs,
}

impl Upload {
    /// Begins at a shell that answers. Gives what to write first.
    pub(super) fn begin(
        tar: Vec<u8>,
        gzip: Vec<u8>,
        name: String,
        serial: u64,
        at: f64,
    ) -> (Self, String) {
        let mut upload = Upload {
            tar,
            gzip,
            name,
            step: Step::Place(0),
            asked: Asked::new(String::new(), at),
            serial,
            failed: 0,
            shown: Vec::new(),
            tools: Tools {
                base64: false,
                gzip: false,
                sum: Sum::Wc,
            },
            receiver: String::new(),
            pieces: Vec::new(),
            typed: TYPED,
            line: 1,
            from: 0,
            sent: Vec::new(),
            length: LONGEST,
            good: 0,
            damaged: 0,
        };
        let text = upload.write(at);
        (upload, text)
    }

    /// Takes a line that the console showed.
    ///
    /// # Errors
    /// If the board cannot take the job.
    pub(super) fn line(&mut self, line: &str, at: f64) -> Result<Next, Refusal> {
        let Some((word, number)) = answer(line) else {
            if self.shown.len() < 100 {
                self.shown.push(line.to_string());
            }
            return Ok(Next::Wait);
        };
        match self.step {
            Step::Place(_) | Step::Look(_) | Step::Piece(_) | Step::Join => {
                // Of another command, or of none.
                let Ok(status) = word.parse::<u32>() else {
                    return Ok(Next::Wait);
                };
                if number != Some(self.serial) {
                    return Ok(Next::Wait);
                }
                self.has_ended(status, at)
            }
            // Also when it was started already, and did not know what that line was.
            Step::Start if matches!(word, "have" | "lost") && number == Some(0) => {
                self.step = Step::Line;
                Ok(Next::Write(self.write(at)))
            }
            Step::Line => Ok(self.received(line, word, number, at)),
            Step::Sum if word == "sum" => self.summed(at),
            Step::Run if matches!(word, "run" | "alive" | "end") => Ok(Next::Runs),
            Step::Run if word == "unpack" => Err(Refusal::Board(
                "the board could not unpack the job: is its memory or disk full?".into(),
            )),
            Step::Start | Step::Sum | Step::Run => Ok(Next::Wait),
        }
    }

    /// What is to be written now because the answer has not come.
    ///
    /// # Errors
    /// If it has not come for `limit` seconds.
    pub(super) fn due(&mut self, at: f64, limit: f64) -> Result<Next, Refusal> {
        Ok(match self.asked.due(at, limit) {
            Due::Wait => Next::Wait,
            Due::Again if self.is_typed() => {
                // Under a new number: once that is told, nothing that was typed before can be run any more. And what has lost
                // a part may wait for its end, or for input of its own.
                let asked = std::mem::replace(&mut self.asked, Asked::new(String::new(), at));
                let text = self.write(at);
                self.asked = asked.with(text);
                Next::Write(format!("{INTERRUPT}\n{}", self.asked.text))
            }
            Due::Again => Next::Write(self.asked.text.clone()),
            Due::GiveUp => return Err(self.silent(limit)),
        })
    }

    fn silent(&self, limit: f64) -> Refusal {
        let times = self.asked.times;
        Refusal::Board(match self.step {
            Step::Line => format!(
                "the board's shell did not take line {} of the job ({} of {} bytes arrived): written {times} times in {limit:.0} s",
                self.line,
                self.from,
                self.job().len()
            ),
            _ => format!(
                "the board's shell does not answer: `{}` was written {times} times in {limit:.0} s",
                self.asked.text.trim()
            ),
        })
    }

    fn is_typed(&self) -> bool {
        !matches!(self.step, Step::Line | Step::Sum | Step::Run)
    }

    fn job(&self) -> &[u8] {
        match self.tools.gzip {
            true => &self.gzip,
            false => &self.tar,
        }
    }

    /// The text of the step, as it is written to the board now.
    fn write(&mut self, at: f64) -> String {
        self.shown.clear();
        let text = match self.step {
            Step::Place(index) => {
                // What is typed with a byte lost may leave files of any name there: the job has a directory of its own beside it.
                let place = format!("{}/{}.in", PLACES[index], self.name);
                self.command(&format!("mkdir -p {place}&&cd {place}&&:>w"))
            }
            Step::Look(index) => {
                let program = PROGRAMS
                    .get(index)
                    .copied()
                    .unwrap_or_else(|| Sum::ALL[index - PROGRAMS.len()].program());
                self.command(&format!("command -v {program}>w"))
            }
            Step::Piece(index) => {
                // With a digit lost it is no other piece's name.
                let file = format!("r{index:03}");
                let print = print_into(self.pieces[index].as_bytes(), &file);
                self.command(&format!("{print};{} {file}", self.tools.sum.command()))
            }
            Step::Join => self.command(&format!("cat r???>s;{} s", self.tools.sum.command())),
            Step::Start => "sh ./s\n".into(),
            Step::Line => self.next_line(),
            Step::Sum => "sum\n".into(),
            Step::Run => "run\n".into(),
        };
        self.asked = Asked::new(text.clone(), at);
        text
    }

    /// A command with its status, which is told with a number that no other command has.
    fn command(&mut self, command: &str) -> String {
        self.serial += 1;
        format!("{command};{}\n", probe(self.serial))
    }

    fn go(&mut self, step: Step, at: f64) -> Next {
        self.step = step;
        self.failed = 0;
        Next::Write(self.write(at))
    }

    /// A typed command has ended.
    fn has_ended(&mut self, status: u32, at: f64) -> Result<Next, Refusal> {
        if !self.worked(status) {
            self.failed += 1;
            if self.failed < self.tries() {
                return Ok(Next::Write(self.write(at)));
            }
            return self.cannot(at);
        }
        let next = match self.step {
            Step::Place(_) => Step::Look(0),
            Step::Look(index) => self.found(index, true),
            Step::Piece(index) if index + 1 < self.pieces.len() => Step::Piece(index + 1),
            Step::Piece(_) => Step::Join,
            _ => Step::Start,
        };
        Ok(self.go(next, at))
    }

    fn tries(&self) -> u32 {
        match self.step {
            Step::Place(_) | Step::Look(_) | Step::Join => TRIES,
            _ => CHECKED_TRIES,
        }
    }

    fn worked(&self, status: u32) -> bool {
        let expected = match self.step {
            Step::Piece(index) => &self.pieces[index],
            Step::Join => &self.receiver,
            _ => return status == 0,
        };
        let sum = self.tools.sum.of(expected.as_bytes());
        status == 0
            && self
                .shown
                .iter()
                .any(|line| self.tools.sum.is_shown(line, &sum))
    }

    /// A command failed as often as it was typed.
    fn cannot(&mut self, at: f64) -> Result<Next, Refusal> {
        let step = match self.step {
            Step::Place(index) if index + 1 < PLACES.len() => Step::Place(index + 1),
            Step::Place(_) => {
                return Err(Refusal::Board(
                    "the board's shell can make a directory in none of /, /tmp, /run and /dev/shm"
                        .into(),
                ));
            }
            Step::Look(0) => {
                return Err(Refusal::Settings(
                    "the board has no `tar`, which unpacks the job".into(),
                ));
            }
            Step::Look(index) => self.found(index, false),
            // A piece that was written twice, because its answer came late, may have lost something at the second time.
            Step::Piece(_) | Step::Join if self.typed > TYPED_LEAST => {
                self.typed /= 2;
                self.cut_receiver();
                Step::Piece(0)
            }
            _ => {
                return Err(Refusal::Board(format!(
                    "what is typed at the board's shell does not arrive whole, or it lacks `printf`: `{}` failed {} times",
                    self.asked.text.trim(),
                    self.failed
                )));
            }
        };
        Ok(self.go(step, at))
    }

    /// Notes whether a program is there; gives the step that follows.
    fn found(&mut self, index: usize, is_there: bool) -> Step {
        match index {
            0 => {}
            1 => self.tools.base64 = is_there,
            2 => self.tools.gzip = is_there,
            _ if is_there => {
                self.tools.sum = Sum::ALL[index - PROGRAMS.len()];
                self.cut_receiver();
                return Step::Piece(0);
            }
            _ if index + 1 == PROGRAMS.len() + Sum::ALL.len() => {
                // Not even `wc`: its answers will be missed where the first piece is checked.
                self.cut_receiver();
                return Step::Piece(0);
            }
            _ => {}
        }
        Step::Look(index + 1)
    }

    /// Cuts the receiver's script into pieces, of each of which a typed command is no longer than it may be.
    fn cut_receiver(&mut self) {
        self.receiver = self.tools.receiver(&self.name);
        self.pieces = vec![String::new()];
        for c in self.receiver.chars() {
            let last = self.pieces.len() - 1;
            let grown = format!("{}{c}", self.pieces[last]);
            if print_into(grown.as_bytes(), "r").len() > self.typed {
                self.pieces.push(c.to_string());
            } else {
                self.pieces[last] = grown;
            }
        }
    }

    fn next_line(&mut self) -> String {
        let job = self.job();
        let mut end = (self.from + self.tools.capacity(self.length)).min(job.len());
        let mut text = self.tools.encode(&job[self.from..end]);
        // What octal digits leave of the line is filled, where it is more than half of it.
        while !self.tools.base64 && end < job.len() && text.len() < self.length - 4 {
            end += 1;
            text = self.tools.encode(&job[self.from..end]);
        }
        self.sent.push((text.len() as u64, end));
        format!("{} {} {text}\n", self.line, text.len())
    }

    /// The receiver told what it has.
    fn received(&mut self, shown: &str, word: &str, number: Option<u64>, at: f64) -> Next {
        match (word, number) {
            ("have", Some(number)) if number == self.line => {
                let length = length(shown);
                let Some((_, end)) = self.sent.iter().find(|(sent, _)| Some(*sent) == length)
                else {
                    return Next::Wait;
                };
                self.from = *end;
                self.line += 1;
                self.sent.clear();
                self.good += 1;
                if self.good == GOOD {
                    (self.good, self.length) = (0, (self.length * 2).min(LONGEST));
                }
                match self.from == self.job().len() {
                    true => self.go(Step::Sum, at),
                    false => Next::Write(self.write(at)),
                }
            }
            // Part of it was lost on the way: a shorter one may pass.
            ("lost", Some(number)) if number + 1 == self.line => {
                (self.good, self.length) = (0, (self.length / 2).max(SHORTEST));
                self.asked.text = self.next_line();
                Next::Write(self.asked.text.clone())
            }
            _ => Next::Wait,
        }
    }

    /// The receiver told the sum of what it has.
    fn summed(&mut self, at: f64) -> Result<Next, Refusal> {
        let sum = self.tools.sum.of(self.job());
        if self
            .shown
            .iter()
            .any(|line| self.tools.sum.is_shown(line, &sum))
        {
            return Ok(self.go(Step::Run, at));
        }
        // A message of the kernel may have torn the sum.
        self.failed += 1;
        if self.failed < TRIES {
            return Ok(Next::Write(self.write(at)));
        }
        self.damaged += 1;
        if self.damaged == DAMAGED {
            return Err(Refusal::Board(format!(
                "the job arrived damaged {DAMAGED} times: the console changes what is written to it"
            )));
        }
        (self.line, self.from) = (1, 0);
        self.sent.clear();
        self.step = Step::Start;
        self.failed = 0;
        self.shown.clear();
        self.asked = Asked::new("new\n".into(), at);
        Ok(Next::Write("new\n".into()))
    }
}

//! `hearth console`: a board's console on this terminal.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use hearth::board::console::{self, Console};
use hearth::board::{ConsoleEvent, ConsoleLog, ConsoleParser, Timeouts};
use hearth::error::Fault;
use hearth::ops::target::run_that_has;
use hearth::recipe::board_or_type;
use hearth::sanitise;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::board_actions::again_reserved;
use super::lab_arguments::lab_of;
use super::terminal::Terminal;

/// How long one look at the console or the keyboard may last.
const LOOK: Duration = Duration::from_millis(20);

/// Talk to a board on its console
///
/// `~.` at the beginning of a line leaves. While a test runs on the board, its
/// console is shown and cannot be typed into. While a lab runs, the board is
/// reserved for as long.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A board of the lab
    board: String,
    /// Show control characters instead of letting the board control this terminal
    #[arg(long)]
    safe: bool,
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    if let Some((client, board)) = lab_of(arguments.lab.as_deref(), &arguments.board)? {
        let Some(job) = board.job else {
            return again_reserved(&client, &board.name, "hearth console", false, terminal);
        };
        terminal.say(&format!(
            "job {job} has {}: showing its console; Ctrl-C leaves",
            board.name
        ));
        client.log(job, true, &mut Output(shown(arguments.safe)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (lab, board) = board_or_type(arguments.lab.as_deref(), &arguments.board)?;
    if lab.path.is_some()
        && let Some(directory) = run_that_has(&lab, &board.name)?
    {
        terminal.say(&format!(
            "a run has {}: showing its console; Ctrl-C leaves",
            board.name
        ));
        return follow(&directory.join("console.log"), shown(arguments.safe));
    }
    let entry = board.console.as_ref().ok_or_else(|| {
        Fault::input(format!(
            "the lab file gives board `{}` no console",
            board.name
        ))
        .remedy("`hearth files recipes/lab-example.toml` shows some")
    })?;
    let mut console = console::open(entry)?;
    let directory = hearth::dirs::state().join("console");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let mut log = ConsoleLog::create(&directory.join(format!("{}.log", board.name)))?;
    terminal.say("~. at the beginning of a line leaves");
    let patience = Timeouts::default().with(&board.timeouts).silence;
    interact(
        console.as_mut(),
        &mut log,
        Instant::now(),
        patience,
        &mut shown(arguments.safe),
        &mut |_| Ok(()),
    )?;
    Ok(ExitCode::SUCCESS)
}

/// What a person sees of a console.
pub enum Shown {
    /// All of it: the board may control the terminal.
    Raw,
    /// What only writes text.
    Safe(sanitise::Stream),
}

impl Shown {
    fn bytes<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        match self {
            Shown::Raw => Cow::Borrowed(bytes),
            Shown::Safe(stream) => Cow::Owned(stream.feed(bytes).into_bytes()),
        }
    }
}

fn shown(safe: bool) -> Shown {
    if safe {
        Shown::Safe(sanitise::Stream::default())
    } else {
        Shown::Raw
    }
}

/// Standard output, as the user wants to see it.
struct Output(Shown);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write_all(&self.0.bytes(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

/// Shows a growing file until the run that writes it is over.
fn follow(path: &Path, mut shown: Shown) -> Result<ExitCode> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    file.seek(SeekFrom::End(-4096))
        .or_else(|_| file.rewind().map(|()| 0))?;
    let mut buffer = [0; 16 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => sleep(Duration::from_millis(200)),
            count => io::stdout().write_all(&shown.bytes(&buffer[..count]))?,
        }
    }
}

/// Connects the console with this terminal until the user leaves with `~.`, or standard input ends. A console that is
/// lost is waited for, `patience` seconds. `on_line` gets each line of the board's own.
pub fn interact(
    console: &mut dyn Console,
    log: &mut ConsoleLog,
    begun: Instant,
    patience: f64,
    shown: &mut Shown,
    on_line: &mut dyn FnMut(&str) -> Result<()>,
) -> Result<()> {
    let _raw = RawTerminal::enter()?;
    let mut parser = ConsoleParser::default();
    let mut gone: Option<Instant> = None;
    let mut escape = Escape::default();
    let mut buffer = [0; 16 << 10];
    loop {
        let count = console
            .read(&mut buffer, LOOK)
            .map_err(|error| Fault::infrastructure(format!("the console was lost: {error}")))?;
        let at = begun.elapsed().as_secs_f64();
        if let Some(missed) = console.missed() {
            tell_aside(&missed);
            log_lines(log, at, &parser.finish())?;
            log.line(at, &format!("hearth: {missed}"))?;
        }
        await_return(console, &mut gone, patience)?;
        let mut stdout = io::stdout().lock();
        stdout.write_all(&shown.bytes(&buffer[..count]))?;
        stdout.flush()?;
        let events = parser.feed(&buffer[..count]);
        log_lines(log, at, &events)?;
        for event in &events {
            if let ConsoleEvent::Line {
                text,
                of_job: false,
                ..
            } = event
            {
                on_line(text)?;
            }
        }
        if count > 0 {
            log.flush()?;
        }
        if keyboard_has_something()? {
            let count = io::stdin().read(&mut buffer)?;
            let typed = escape.filter(&buffer[..count]);
            console.write(&typed)?;
            if count == 0 || escape.left {
                return Ok(());
            }
        }
    }
}

fn log_lines(log: &mut ConsoleLog, at: f64, events: &[ConsoleEvent]) -> io::Result<()> {
    for event in events {
        if let ConsoleEvent::Line { text, .. } = event {
            log.line(at, text)?;
        }
    }
    Ok(())
}

/// Tells the user that the console is gone, once, and gives up when it was so for `patience` seconds.
fn await_return(console: &dyn Console, since: &mut Option<Instant>, patience: f64) -> Result<()> {
    let Some(why) = console.gone() else {
        *since = None;
        return Ok(());
    };
    match since {
        None => {
            *since = Some(Instant::now());
            tell_aside(&format!("{why}; waiting for it, ~. leaves"));
            Ok(())
        }
        Some(since) if since.elapsed().as_secs_f64() > patience => {
            Err(Fault::infrastructure(format!("{why}; given up after {patience:.0} s")).into())
        }
        Some(_) => Ok(()),
    }
}

/// Says something beside what the board prints; the terminal is raw.
fn tell_aside(text: &str) {
    eprint!("\r\nhearth: {text}\r\n");
}

fn keyboard_has_something() -> Result<bool> {
    let stdin = io::stdin();
    let mut ready = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ready, PollTimeout::ZERO).unwrap_or(0) > 0)
}

/// Recognises `~.` after a line ending, as ssh and cu do; `~~` sends one tilde.
#[derive(Debug)]
struct Escape {
    line_begins: bool,
    tilde: bool,
    left: bool,
}

impl Default for Escape {
    fn default() -> Self {
        Escape {
            line_begins: true,
            tilde: false,
            left: false,
        }
    }
}

impl Escape {
    fn filter(&mut self, typed: &[u8]) -> Vec<u8> {
        let mut sent = Vec::new();
        for &byte in typed {
            match (self.tilde, byte) {
                (true, b'.') => {
                    self.left = true;
                    break;
                }
                (true, b'~') => sent.push(b'~'),
                (true, _) => sent.extend([b'~', byte]),
                (false, b'~') if self.line_begins => {
                    self.tilde = true;
                    continue;
                }
                (false, _) => sent.push(byte),
            }
            self.tilde = false;
            self.line_begins = matches!(byte, b'\r' | b'\n');
        }
        sent
    }
}

/// The terminal without echo, line editing and signals, until this is dropped.
struct RawTerminal(Option<Termios>);

impl RawTerminal {
    fn enter() -> Result<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(RawTerminal(None));
        }
        let before = tcgetattr(&stdin).context("cannot read the terminal's settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).context("cannot set the terminal")?;
        Ok(RawTerminal(Some(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no settings.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tilde_dot_leaves_at_the_beginning_of_a_line_only() {
        let typed = |keys: &[&str]| {
            let mut escape = Escape::default();
            let sent: Vec<u8> = keys
                .iter()
                .flat_map(|key| escape.filter(key.as_bytes()))
                .collect();
            (String::from_utf8(sent).unwrap(), escape.left)
        };
        assert_eq!(typed(&["~", "."]), (String::new(), true));
        assert_eq!(typed(&["ls ~.\r~.x"]), ("ls ~.\r".into(), true));
        assert_eq!(typed(&["~~a\r~b"]), ("~a\r~b".into(), false));
    }
}

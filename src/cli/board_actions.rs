//! `hearth boards reserve` and its siblings: what an operator does with a board of a running lab.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Subcommand;
use hearth::error::Class;
use hearth::lab::client::Client;
use hearth::lab::queue::Health;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

use super::lab_arguments::{LabArguments, RESERVED};
use super::table::{Table, time};
use super::terminal::Terminal;

/// How long a board is reserved by default, in seconds.
const USUAL: f64 = 2.0 * 3600.0;
/// How long one is at most while a command runs.
const LONGEST: f64 = 30.0 * 24.0 * 3600.0;

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Keep a board of a running lab for yourself
    ///
    /// The reservation ends by its time, by `hearth boards release`, or with
    /// the command of --while, also when that is killed or its host goes down.
    Reserve {
        /// The board
        name: String,
        /// For how long, as 90s, 30m, 2h or 1d [default: 2h]
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        time: Option<f64>,
        /// What for; others see it
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        why: String,
        /// Fail at once if the board is in use, instead of waiting
        #[arg(long)]
        no_wait: bool,
        #[command(flatten)]
        lab: LabArguments,
        /// Reserve it only while this command runs; ends with its exit code
        #[arg(long = "while", value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// End a reservation, whoever has it
    Release {
        /// The board
        name: String,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Give a board no more jobs
    Maintenance {
        /// The board
        name: String,
        /// Why; others see it
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        why: String,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Give a board jobs again
    Good {
        /// The board
        name: String,
        /// Why; others see it
        #[arg(
            long,
            value_name = "TEXT",
            default_value = "",
            hide_default_value = true
        )]
        why: String,
        #[command(flatten)]
        lab: LabArguments,
    },
    /// Show what happened to a board
    History {
        /// The board
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        lab: LabArguments,
    },
}

fn duration(text: &str) -> Result<f64, String> {
    let wrong = || format!("`{text}` is not a time: write 90s, 30m, 2h or 1d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3600.0,
        'd' => 86400.0,
        _ => return Err(wrong()),
    };
    let number: f64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    let seconds = number * factor;
    match seconds.is_finite() && seconds >= 1.0 {
        true => Ok(seconds),
        false => Err(wrong()),
    }
}

pub fn run(action: &Action, terminal: &Terminal) -> Result<ExitCode> {
    match action {
        Action::Reserve {
            name,
            time,
            why,
            no_wait,
            lab,
            command,
        } => return reserve(name, *time, why, !no_wait, lab, command, terminal),
        Action::Release { name, lab } => {
            lab.client()?.release_board(name)?;
            terminal.say(&format!("{name} is released"));
        }
        Action::Maintenance { name, why, lab } => {
            set(lab, name, Health::Maintenance, why, terminal)?;
        }
        Action::Good { name, why, lab } => set(lab, name, Health::Good, why, terminal)?,
        Action::History { name, json, lab } => history(lab, name, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn reserve(
    name: &str,
    time: Option<f64>,
    why: &str,
    wait: bool,
    lab: &LabArguments,
    command: &[OsString],
    terminal: &Terminal,
) -> Result<ExitCode> {
    let client = lab.client()?;
    let Some((program, rest)) = command.split_first() else {
        let seconds = time.unwrap_or(USUAL);
        client.reserve_for(name, seconds, why, wait)?;
        terminal.say(&format!(
            "{name} is reserved for {:.0} min; `hearth boards release {name}` ends it",
            seconds / 60.0
        ));
        return Ok(ExitCode::SUCCESS);
    };
    let mut command = Command::new(program);
    command.args(rest);
    let reserved = Reserve {
        name,
        seconds: time.unwrap_or(LONGEST),
        why,
        wait,
    };
    run_reserved(&client, &reserved, &mut command, terminal)
}

/// A reservation for as long as a command runs.
struct Reserve<'a> {
    name: &'a str,
    seconds: f64,
    why: &'a str,
    wait: bool,
}

/// Runs this very command again while the board is reserved for it.
pub fn again_reserved(
    client: &Client,
    board: &str,
    why: &str,
    wait: bool,
    terminal: &Terminal,
) -> Result<ExitCode> {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1));
    let reserve = Reserve {
        name: board,
        seconds: LONGEST,
        why,
        wait,
    };
    run_reserved(client, &reserve, &mut command, terminal)
}

/// Runs a command while a board is reserved; ends with its exit code. Signals are the command's.
fn run_reserved(
    client: &Client,
    reserve: &Reserve<'_>,
    command: &mut Command,
    terminal: &Terminal,
) -> Result<ExitCode> {
    let name = reserve.name;
    let mut note = |text: &str| terminal.say(text);
    let reservation =
        client.reserve_while(name, reserve.seconds, reserve.why, reserve.wait, &mut note)?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT])?;
    let mut child = command
        .env(RESERVED, name)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let handle = signals.handle();
    let forwarder = std::thread::spawn(move || {
        for signal in signals.forever() {
            if let Ok(signal) = Signal::try_from(signal) {
                let _ = kill(pid, signal);
            }
        }
    });
    let status = child.wait();
    handle.close();
    let _ = forwarder.join();
    if reservation.is_lost() {
        terminal.say(&format!(
            "the reservation of {name} had ended before the command did"
        ));
    }
    drop(reservation);
    let code = status?.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(
        code.unwrap_or(Class::Infrastructure.exit_code()),
    ))
}

fn set(
    lab: &LabArguments,
    name: &str,
    health: Health,
    why: &str,
    terminal: &Terminal,
) -> Result<()> {
    let now = lab.client()?.set_health(name, health, why)?;
    terminal.say(&format!("{name} is {}: {}", now.health, now.why));
    Ok(())
}

fn history(lab: &LabArguments, name: &str, json: bool) -> Result<()> {
    let events = lab.client()?.history(name)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&events)?);
        return Ok(());
    }
    let mut table = Table::new(["WHEN", "WHO", "WHAT"]);
    for event in &events {
        table.row([&time(event.at), &event.who, &event.what]);
    }
    write!(io::stdout(), "{table}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(duration("90s"), Ok(90.0));
        assert_eq!(duration("1.5h"), Ok(5400.0));
        assert_eq!(duration("1d"), Ok(86400.0));
        for wrong in ["", "h", "2", "-1h", "0s", "1w", "nanh", "infd", "2 h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}

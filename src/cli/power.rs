//! `hearth power`: switches a board's power and its lights.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use hearth::board::power::{self, Ask, Power};
use hearth::error::Fault;
use hearth::recipe::board_or_type;

/// How long a board stays off in a power cycle, so that its capacitors are empty.
const DRAIN: Duration = Duration::from_secs(2);

/// Switch a board's power
#[derive(Debug, Args)]
#[command(subcommand_value_name = "ACTION", subcommand_help_heading = "Actions")]
pub struct Arguments {
    /// A board of the lab
    board: String,
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Action {
    /// Switch it on
    On,
    /// Switch it off
    Off,
    /// Switch it off, and on again
    Cycle,
    /// Say whether it is on
    Status,
    /// Switch a light of the power switch
    Led {
        /// Its number, from 1
        number: u8,
        #[arg(value_enum)]
        state: OnOff,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum OnOff {
    On,
    Off,
}

pub fn run(arguments: &Arguments) -> Result<ExitCode> {
    let (_, board) = board_or_type(arguments.lab.as_deref(), &arguments.board)?;
    let entry = board.power.as_ref().ok_or_else(|| {
        Fault::input(format!(
            "the lab file gives {} no power switch",
            arguments.board
        ))
        .remedy("add `power = { driver = \"…\" }` to the board; `manual` asks you")
    })?;
    let mut switch = power::open(entry, asking())?;
    act(switch.as_mut(), arguments.action, &arguments.board)?;
    Ok(ExitCode::SUCCESS)
}

fn act(switch: &mut dyn Power, action: Action, board: &str) -> Result<()> {
    match action {
        Action::On => switch.on(),
        Action::Off => switch.off(),
        Action::Cycle => {
            switch.off()?;
            sleep(DRAIN);
            switch.on()
        }
        Action::Status => {
            let state = match switch.is_on()? {
                Some(true) => "on",
                Some(false) => "off",
                None => "unknown: this switch cannot tell",
            };
            writeln!(io::stdout(), "{board} is {state}").context("cannot write to standard output")
        }
        Action::Led { number, state } => switch.led(number, state == OnOff::On),
    }
}

/// Asks the person at the terminal; where there is none, nobody answers.
pub fn asking() -> Ask {
    Box::new(|request| {
        if !io::stdin().is_terminal() {
            return Ok(false);
        }
        write!(io::stderr(), "{request}, then press Enter: ")?;
        let mut line = String::new();
        Ok(io::stdin().lock().read_line(&mut line)? > 0)
    })
}

//! `hearth lab`: boards that checked in and that the lab does not know, and the operator's token.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hearth::dirs;
use hearth::error::Fault;
use hearth::lab::{Boot, LabStore, adopt, choose, unknown_boards};
use hearth::recipe::{LoadedLab, suggestion};
use hearth::sanitise;

use super::table::Table;
use super::terminal::Terminal;

/// Adopt unknown boards, and print the operator's token
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Add a board that checked in to the lab file
    ///
    /// Without BOARD: list the boards that checked in and are not in it.
    Adopt {
        /// Its MAC, or the name that it claims
        board: Option<String>,
        /// Its name in the lab [default: the one that it claims]
        #[arg(long, requires = "board")]
        name: Option<String>,
        /// Its board type
        #[arg(long = "type", value_name = "TYPE", requires = "board")]
        board_type: Option<String>,
        /// The lab file [default: $HEARTH_LAB, else lab.toml]
        #[arg(long, value_name = "FILE")]
        lab: Option<PathBuf>,
    },
    /// Print the operator's token, for the list that `hearth serve` has at /
    ///
    /// On the lab's own host the list needs none. Elsewhere:
    /// `curl -H "Authorization: Bearer TOKEN" http://LAB:8420/`
    Token,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let store = LabStore::open(&dirs::state().join("lab.sqlite"))?;
    let (board, name, board_type, lab) = match &arguments.action {
        Action::Token => {
            writeln!(io::stdout(), "{}", store.operator_token()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        Action::Adopt {
            board,
            name,
            board_type,
            lab,
        } => (board, name, board_type, lab),
    };
    let lab = LoadedLab::find(lab.as_deref())?.ok_or_else(|| {
        Fault::input("there is no lab.toml here").remedy("name the lab file with --lab")
    })?;
    let unknown = unknown_boards(&store, &lab)?;
    let Some(which) = board else {
        list(&unknown, terminal)?;
        return Ok(ExitCode::SUCCESS);
    };
    let chosen = choose(unknown, which)?;
    let name = name.as_deref().unwrap_or(&chosen.claim.board);
    let Some(board_type) = board_type else {
        let known: Vec<&str> = lab.types.keys().map(String::as_str).collect();
        return Err(Fault::input(format!(
            "which type of board is `{}`? It says: {}",
            sanitise::line(&chosen.claim.mac),
            sanitise::line(&chosen.claim.model)
        ))
        .remedy(format!("add --type; {}", suggestion("", &known)))
        .into());
    };
    adopt(&lab, &chosen, name, board_type)?;
    let file = lab.path.as_deref().unwrap_or(Path::new("lab.toml"));
    terminal.say(&format!(
        "added {name} to {}; give it its card with `hearth media {name}`, and a console and a power switch",
        file.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn list(unknown: &[Boot], terminal: &Terminal) -> Result<()> {
    if unknown.is_empty() {
        terminal.say("no board that the lab does not know has checked in");
        return Ok(());
    }
    let mut table = Table::new(["MAC", "NAME", "MODEL", "IMAGE"]);
    for boot in unknown {
        let claim = &boot.claim;
        table.row([&claim.mac, &claim.board, &claim.model, &claim.image]);
    }
    write!(io::stdout(), "{table}")?;
    Ok(())
}

//! `hearth boards`: lists board types and a lab's boards, and shows one of them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use hearth::lab::service::BoardStatus;
use hearth::recipe::{
    Board, BoardType, Console, LoadedLab, Place, Power, board_or_type, board_types,
};
use serde_json::json;

use super::board_actions;
use super::lab_arguments::running;
use super::table::{Table, time};
use super::terminal::Terminal;

/// List board types and the lab's boards
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    show: Option<Show>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Show one board, or one board type
    Show {
        /// A board of the lab, or a board type
        name: String,
        #[command(flatten)]
        options: Options,
    },
    #[command(flatten)]
    Action(board_actions::Action),
}

#[derive(Debug, Args)]
struct Options {
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    match &arguments.show {
        Some(Show::Action(action)) => return board_actions::run(action, terminal),
        None => list(&arguments.options)?,
        Some(Show::Show { name, options }) => show(name, options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(options: &Options) -> Result<()> {
    let lab = LoadedLab::find(options.lab.as_deref())?;
    let types = match &lab {
        Some(lab) => lab.types.clone(),
        None => board_types()?,
    };
    let states = match &lab {
        Some(lab) => states(lab)?,
        None => Vec::new(),
    };
    if options.json {
        let boards = lab.iter().flat_map(|lab| &lab.boards).map(board_json);
        let mut value = json!({ "types": types, "boards": boards.collect::<Vec<_>>() });
        if !states.is_empty() {
            value["states"] = json!(states);
        }
        println!("{value:#}");
        return Ok(());
    }
    let mut table = Table::new(["TYPE", "ARCH", "EMULATED", "DESCRIPTION"]);
    for (name, board_type) in &types {
        let emulated = board_type.emulation.as_ref().map_or("no", |_| "yes");
        table.row([
            name,
            board_type.arch.debian(),
            emulated,
            &board_type.description,
        ]);
    }
    print!("{table}");
    if let Some(lab) = &lab {
        println!();
        let mut table = Table::new(["BOARD", "TYPE", "MAC", "CONSOLE", "POWER", "TAGS"]);
        for board in &lab.boards {
            table.row([
                &board.name,
                &board.type_name,
                &board.mac.to_string(),
                board.console.as_ref().map_or("-", Console::driver),
                board.power.as_ref().map_or("-", Power::driver),
                &board.tags.join(","),
            ]);
        }
        print!("{table}");
    }
    if !states.is_empty() {
        print!("\n{}", state_table(&states));
    }
    Ok(())
}

/// The boards' states, if the lab runs.
fn states(lab: &LoadedLab) -> Result<Vec<BoardStatus>> {
    running(&lab.settings).map_or(Ok(Vec::new()), |client| client.boards())
}

fn state_table(states: &[BoardStatus]) -> Table<8> {
    let mut table = Table::new([
        "BOARD", "STATE", "HEALTH", "SINCE", "JOB", "HELD BY", "CHECK-IN", "IMAGE",
    ]);
    for board in states {
        let dash = || "-".to_string();
        let holder = board.holder.as_ref().map(|holder| match board.left {
            Some(left) if left < 172_800.0 => format!("{holder}, {:.0} min more", left / 60.0),
            _ => holder.clone(),
        });
        let seen = board
            .checked_in
            .map(|seconds| format!("{seconds:.0} s ago"));
        table.row([
            &board.name,
            &board.state,
            board.health.name(),
            &match board.since > 0.0 {
                true => time(board.since),
                false => dash(),
            },
            &board.job.map_or_else(dash, |job| job.to_string()),
            &holder.unwrap_or_else(dash),
            &seen.unwrap_or_else(dash),
            &board.image.clone().unwrap_or_else(dash),
        ]);
    }
    table
}

fn show(name: &str, options: &Options) -> Result<()> {
    let (lab, board) = board_or_type(options.lab.as_deref(), name)?;
    let board_type = &board.board_type;
    // Without a lab file, `name` is a board type.
    let of_lab = lab.path.is_some();
    if options.json {
        let value = if of_lab {
            board_json(&board)
        } else {
            json!(board_type)
        };
        println!("{value:#}");
        return Ok(());
    }
    let mut table = Table::new(["", ""]).without_heading();
    if of_lab {
        for (key, value) in board_rows(&board, &lab) {
            table.row([key, &value]);
        }
    }
    for (key, value) in type_rows(&board.type_name, board_type) {
        table.row([key, &value]);
    }
    print!("{table}");
    Ok(())
}

fn board_json(board: &Board) -> serde_json::Value {
    json!({
        "name": board.name,
        "type": board.type_name,
        "mac": board.mac,
        "address": board.address,
        "recipe": board.recipe,
        "boot-script": board.boot_script,
        "console": board.console,
        "power": board.power,
        "tags": board.tags,
        "values": board.values,
        "board-type": board.board_type,
    })
}

fn board_rows(board: &Board, lab: &LoadedLab) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("board", board.name.clone()),
        (
            "lab",
            format!("{} at {}", lab.settings.name, lab.settings.address),
        ),
        ("MAC", board.mac.to_string()),
    ];
    rows.extend(
        board
            .address
            .map(|address| ("address", address.to_string())),
    );
    rows.extend(board.recipe.clone().map(|recipe| ("recipe", recipe)));
    rows.push(("boot script", board.boot_script.clone()));
    rows.extend(
        board
            .console
            .as_ref()
            .map(|it| ("console by", it.to_string())),
    );
    rows.extend(board.power.as_ref().map(|it| ("power by", it.to_string())));
    if !board.tags.is_empty() {
        rows.push(("tags", board.tags.join(", ")));
    }
    rows.extend(
        board
            .values
            .iter()
            .map(|(key, value)| ("value", format!("{key} = {value}"))),
    );
    rows
}

fn type_rows(name: &str, board_type: &BoardType) -> Vec<(&'static str, String)> {
    let mut rows = vec![
        ("type", name.to_string()),
        ("description", board_type.description.clone()),
        ("arch", board_type.arch.to_string()),
        ("console", board_type.console.clone()),
        (
            "device tree",
            board_type
                .device_tree
                .clone()
                .unwrap_or_else(|| "U-Boot's own".into()),
        ),
        ("boots with", board_type.image.boot_command().to_string()),
    ];
    if let Some(bootloader) = &board_type.bootloader {
        rows.push(("bootloader", bootloader.packages.join(", ")));
        for blob in &bootloader.blobs {
            let what = match (&blob.file, &blob.device_tree) {
                (Some(file), _) => file.clone(),
                (None, Some(tree)) => format!("device tree {tree}"),
                (None, None) => "text".into(),
            };
            rows.push((
                "",
                match &blob.place {
                    Place::Offset(offset) => format!("{what} at byte {offset}"),
                    Place::Fat(to) if Path::new(&what).file_name() == Path::new(to).file_name() => {
                        format!("{what} in the FAT")
                    }
                    Place::Fat(to) => format!("{what} in the FAT as {to}"),
                    Place::Firmware => format!("{what} as the emulator's firmware"),
                },
            ));
        }
    }
    rows.push((
        "emulated as",
        board_type.emulation.as_ref().map_or_else(
            || "nothing: QEMU cannot".into(),
            |emulation| {
                let cpu = emulation
                    .cpu
                    .as_ref()
                    .map_or(String::new(), |cpu| format!(" -cpu {cpu}"));
                format!(
                    "qemu-system-{} -M {}{cpu} -m {}",
                    board_type.arch.qemu(),
                    emulation.machine,
                    emulation.memory
                )
            },
        ),
    ));
    rows
}

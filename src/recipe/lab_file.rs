//! Owns reading a lab file: finding it, validating it, and filling in defaults.
//! Never talks to a board.

use std::collections::BTreeMap;
use std::env;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::board_type::BoardType;
use super::lab::{
    BoardEntry, BoardRetries, BoardTimeouts, Console, HealthChecks, Lab, LabSettings, Login, Ports,
    Power, idle, largest_output,
};
use super::lab_check::{Checker, mac_of};
use super::own::Own;
use crate::data::{self, BOARD_TYPE, Source};
use crate::diagnostic::{nearest, parse_toml, suggestion};
use crate::error::Fault;
use crate::mac::Mac;

/// A lab with its boards resolved: board types loaded, addresses derived, defaults filled in.
#[derive(Clone, Debug)]
pub struct LoadedLab {
    /// The lab file; `None` for the implicit lab of one emulated board.
    pub path: Option<PathBuf>,
    pub settings: LabSettings,
    pub boards: Vec<Board>,
    /// All known board types, by name.
    pub types: BTreeMap<String, BoardType>,
}

/// One board, with all defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Board {
    pub name: String,
    /// Name of its board type.
    pub type_name: String,
    pub board_type: BoardType,
    /// Its own, or one derived from the names of lab and board.
    pub mac: Mac,
    pub address: Option<Ipv4Addr>,
    /// Its own, or its lab's.
    pub recipe: Option<String>,
    /// Its own, or its board type's.
    pub boot_script: String,
    pub console: Option<Console>,
    pub power: Option<Power>,
    pub tags: Vec<String>,
    pub values: BTreeMap<String, String>,
    pub timeouts: BoardTimeouts,
    pub retries: BoardRetries,
    /// Its own: its tests run over the console.
    pub login: Option<Login>,
    /// What it boots instead of parts of its image.
    pub own: Own,
}

/// All board types, hearth's and the user's, by name.
///
/// # Errors
/// The first mistake in any of them.
pub fn board_types() -> Result<BTreeMap<String, BoardType>> {
    let mut types = BTreeMap::new();
    for (name, source) in data::all(BOARD_TYPE)? {
        types.insert(name, BoardType::parse(&source.path, &source.text)?);
    }
    Ok(types)
}

/// The board type with this name, or in this file.
pub fn board_type(name: &str) -> Result<BoardType> {
    let source = data::find(BOARD_TYPE, name)?;
    Ok(BoardType::parse(&source.path, &source.text)?)
}

impl LoadedLab {
    /// Finds the lab file: the given one, else `HEARTH_LAB`, else `lab.toml` in the working
    /// directory if it exists.
    pub fn find(given: Option<&Path>) -> Result<Option<LoadedLab>> {
        let path = match (given, env::var_os("HEARTH_LAB")) {
            (Some(path), _) => path.to_path_buf(),
            (None, Some(path)) => PathBuf::from(path),
            (None, None) if Path::new("lab.toml").exists() => PathBuf::from("lab.toml"),
            (None, None) => return Ok(None),
        };
        LoadedLab::load(&path).map(Some)
    }

    /// # Errors
    /// If the file cannot be read, or the first mistake in it or in a board type.
    pub fn load(path: &Path) -> Result<LoadedLab> {
        LoadedLab::from_source(&data::read(path)?, board_types()?)
    }

    /// Parses and validates the text of a lab file, given the known board types.
    pub fn from_source(source: &Source, types: BTreeMap<String, BoardType>) -> Result<LoadedLab> {
        let lab: Lab = parse_toml(&source.path, &source.text)?;
        Checker {
            source,
            types: &types,
        }
        .check(&lab)?;
        let directory = source.path.parent().unwrap_or(Path::new(""));
        let boards = lab
            .boards
            .iter()
            .map(|entry| {
                let board = Board::resolve(entry, &lab.lab, &types[&entry.board_type]);
                Board {
                    own: board.own.below(directory),
                    ..board
                }
            })
            .collect();
        Ok(LoadedLab {
            path: Some(source.path.clone()),
            settings: lab.lab,
            boards,
            types,
        })
    }

    /// The server's address for emulated boards, in hearth's private network.
    pub const EMULATED_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

    /// A lab of one emulated board of a type, named after it, with hearth's own recipe for its
    /// architecture.
    pub fn emulated(type_name: &str) -> Result<LoadedLab> {
        let types = board_types()?;
        let Some(board_type) = types.get(type_name) else {
            // Fails with a suggestion.
            data::find(BOARD_TYPE, type_name)?;
            return Err(Fault::input(format!("`{type_name}` is not a board type's name")).into());
        };
        let settings = LabSettings {
            name: "emulated".into(),
            address: Self::EMULATED_ADDRESS,
            recipe: Some(format!("trixie-{}", board_type.arch)),
            ports: Ports::default(),
            dhcp: None,
            allow: Vec::new(),
            nfs_udp: false,
            idle: idle(),
            largest_output: largest_output(),
            emulated: None,
            health: HealthChecks::default(),
        };
        let entry = BoardEntry {
            name: type_name.into(),
            board_type: type_name.into(),
            mac: None,
            address: None,
            recipe: None,
            boot: None,
            boot_script: None,
            console: board_type.emulation.is_some().then_some(Console::Qemu {}),
            power: board_type.emulation.is_some().then_some(Power::Qemu {}),
            tags: Vec::new(),
            values: BTreeMap::new(),
            timeouts: BoardTimeouts::default(),
            retries: BoardRetries::default(),
            login: None,
            own: Own::default(),
        };
        Ok(LoadedLab {
            path: None,
            boards: vec![Board::resolve(&entry, &settings, board_type)],
            settings,
            types,
        })
    }

    /// The board with this name.
    ///
    /// # Errors
    /// If there is none, with a suggestion.
    pub fn board(&self, name: &str) -> Result<&Board> {
        if let Some(board) = self.boards.iter().find(|board| board.name == name) {
            return Ok(board);
        }
        let known: Vec<&str> = self
            .boards
            .iter()
            .map(|board| board.name.as_str())
            .collect();
        Err(Fault::input(format!(
            "lab `{}` has no board `{name}`",
            self.settings.name
        ))
        .remedy(suggestion(name, &known))
        .into())
    }

    /// The board with this Ethernet address.
    pub fn board_with_mac(&self, mac: Mac) -> Option<&Board> {
        self.boards.iter().find(|board| board.mac == mac)
    }
}

/// Resolves an argument that is a board of the lab, or else a board type, of which it makes an
/// emulated board in a lab of its own. Returns the lab and the board.
pub fn board_or_type(lab: Option<&Path>, name: &str) -> Result<(LoadedLab, Board)> {
    let lab = match LoadedLab::find(lab)? {
        Some(lab) if lab.boards.iter().any(|board| board.name == name) => lab,
        Some(lab) if !lab.types.contains_key(name) => {
            return Err(lab.board(name).expect_err("no board has the name"));
        }
        None if !board_types()?.contains_key(name) => return Err(no_lab(name)?.into()),
        _ => LoadedLab::emulated(name)?,
    };
    let board = lab.board(name)?.clone();
    Ok((lab, board))
}

/// The error for a name that is no board type, where there is no lab file.
fn no_lab(name: &str) -> Result<Fault> {
    let types = data::names(BOARD_TYPE)?;
    let remedy = match nearest(name, types.iter().map(String::as_str)) {
        Some(meant) => format!("did you mean the board type `{meant}`?"),
        None => "name the lab file with --lab; `hearth boards` lists the board types".into(),
    };
    Ok(Fault::input(format!(
        "there is no lab.toml here with a board `{name}`, and no board type of this name"
    ))
    .remedy(remedy))
}

impl Board {
    fn resolve(entry: &BoardEntry, lab: &LabSettings, board_type: &BoardType) -> Board {
        Board {
            name: entry.name.clone(),
            type_name: entry.board_type.clone(),
            board_type: board_type.clone(),
            mac: mac_of(entry, lab),
            address: entry.address,
            recipe: entry.recipe.clone().or_else(|| lab.recipe.clone()),
            boot_script: entry
                .boot_script
                .clone()
                .or_else(|| entry.boot.map(|boot| boot.name().into()))
                .unwrap_or_else(|| board_type.boot_script.clone()),
            console: entry.console.clone(),
            power: entry.power.clone(),
            tags: entry.tags.clone(),
            values: entry.values.clone(),
            timeouts: entry.timeouts,
            retries: entry.retries,
            login: entry.login.clone(),
            own: entry.own.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<LoadedLab> {
        let source = Source {
            path: "lab.toml".into(),
            text: text.into(),
        };
        LoadedLab::from_source(&source, board_types()?)
    }

    const LAB: &str = "[lab]\nname = 'desk'\naddress = '192.168.7.1'\n";

    #[test]
    fn what_is_left_out_is_filled_in() {
        let lab = load(&format!(
            "{LAB}recipe = 'trixie-armhf'\n[[board]]\nname = 'neo1'\ntype = 'nanopi-neo'\n"
        ))
        .unwrap();
        let board = lab.board("neo1").unwrap();
        assert_eq!(board.mac, Mac::derived("desk", "neo1"));
        assert_eq!(board.recipe.as_deref(), Some("trixie-armhf"));
        assert_eq!(board.boot_script, "nfs");
        assert_eq!(lab.board_with_mac(board.mac), Some(board));
    }

    #[test]
    fn a_mistake_points_at_its_place() {
        let neo = "[[board]]\ntype = 'nanopi-neo'\nname = 'neo1'\n";
        let derived = Mac::derived("desk", "neo1");
        for (text, expected) in [
            (
                format!("{LAB}{neo}{neo}"),
                "lab.toml:9:8: two boards are named `neo1`",
            ),
            (
                format!(
                    "{LAB}{neo}[[board]]\ntype = 'nanopi-neo'\nname = 'neo2'\nmac = '{derived}'\n"
                ),
                "lab.toml:10:7: boards `neo1` and `neo2` have one MAC",
            ),
            (
                format!("{LAB}[[board]]\nname = 'a'\ntype = 'nanopi'\n"),
                "lab.toml:6:8: there is no board type `nanopi`",
            ),
            (
                format!("{LAB}{neo}mac = '01:00:5e:00:00:01'\n"),
                "lab.toml:7:7: 01:00:5e:00:00:01 is no",
            ),
            (
                format!("{LAB}{neo}mac = 'x'\n"),
                "lab.toml:7:7: `x` is not a MAC",
            ),
            (
                format!("{LAB}{neo}values.a = \"x'y\"\n"),
                "lab.toml:7:12: '\\'' cannot be passed",
            ),
            (
                format!("{LAB}{neo}console = {{ driver = 'tpc', address = 'x' }}\n"),
                "lab.toml:7:",
            ),
            (
                format!("{LAB}{neo}power = {{ driver = 'qemu', por = 1 }}\n"),
                "lab.toml:7:",
            ),
            (
                format!(
                    "{LAB}[[board]]\nname = 'p'\ntype = 'pandaboard'\npower = {{ driver = 'qemu' }}\n"
                ),
                "lab.toml:7:9: QEMU cannot emulate",
            ),
            (
                format!("{LAB}{neo}power = {{ driver = 'tasmota', url = 'http://a:b@plug' }}\n"),
                "lab.toml:7:37: the address of a Tasmota",
            ),
            (
                format!("{LAB}{neo}timeouts.kernel = 0.0\n"),
                "lab.toml:7:19: a time-out is a number",
            ),
            (format!("{LAB}{neo}retries.kernle = 1\n"), "lab.toml:7:"),
            (
                format!("{LAB}{neo}login.prompt = '('\n"),
                "lab.toml:7:16: `(` is not a regular expression",
            ),
            (
                format!("{LAB}{neo}own = {{ kernle = 'x' }}\n"),
                "lab.toml:7:9: unknown key `kernle`",
            ),
            (
                format!("{LAB}{neo}own = {{ kernel-args = 'a \\b' }}\n"),
                "lab.toml:7:23: the kernel argument `",
            ),
            (
                format!("{LAB}allow = ['10.0.0.1/8']\n"),
                "lab.toml:4:10: `10.0.0.1/8` has host bits set",
            ),
            (
                format!("{LAB}idle = nan\n"),
                "lab.toml:4:8: a time is a number",
            ),
            (
                LAB.replace("desk", "my desk"),
                "lab.toml:2:8: `my desk` cannot name a lab",
            ),
        ] {
            let told = load(&text).unwrap_err().to_string();
            assert!(told.starts_with(expected), "{told}\n  not: {expected}");
        }
    }

    #[test]
    fn a_misspelt_board_is_recognised() {
        let lab = load(&format!(
            "{LAB}[[board]]\nname = 'panda01'\ntype = 'pandaboard'\n"
        ))
        .unwrap();
        let error = lab.board("pnada01").unwrap_err();
        assert_eq!(
            crate::error::help_of(&error),
            Some("did you mean `panda01`?")
        );
    }

    #[test]
    fn the_example_lab_and_every_board_type_are_sound() {
        let types = board_types().unwrap();
        assert_eq!(types.len(), 9);
        let example = data::find_file("recipes/lab-example.toml")
            .unwrap()
            .unwrap();
        let lab = LoadedLab::from_source(&example, types).unwrap();
        assert!(lab.boards.len() > 3);
    }
}

//! Owns how a command gets a board that it can switch on: the board, its image, its network, and its reservation for one run.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use hearth::board::{Timeouts, console, network as board_network, power, qemu};
use hearth::error::Fault;
use hearth::lab::{self, BoardAccess, network};
use hearth::recipe::{Board, LoadedLab, Power, board_or_type};
use hearth::rootfs::Manifest;
use nix::fcntl::{Flock, FlockArg};

use super::build::{self, NetworkArguments};
use super::companion;
use super::power::asking;
use super::terminal::Terminal;

/// An emulated processor stands still whenever its host is busy, which its kernel would take for a stall.
const PATIENT_KERNEL: [&str; 2] = ["rcupdate.rcu_cpu_stall_timeout=300", "watchdog_thresh=60"];

/// Which board
#[derive(Debug, Args)]
pub struct TargetArguments {
    /// A board of the lab, or a board type
    pub board: String,
    /// The lab file; HEARTH_LAB, else lab.toml, by default
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// The recipe to boot instead of the board's own
    #[arg(long)]
    recipe: Option<String>,
    /// Boot what this output directory of a build holds, and build nothing
    #[arg(long, value_name = "DIR", conflicts_with = "recipe")]
    image: Option<PathBuf>,
    /// Fail at once if another run has the board, instead of waiting
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    network: NetworkArguments,
}

/// A board whose image is built.
pub struct Target {
    pub lab: LoadedLab,
    pub board: Board,
    /// The build's output directory.
    pub build: PathBuf,
    pub emulated: bool,
}

impl TargetArguments {
    /// Finds the board, builds its image if that is not up to date, and enters the network of emulated boards if it is
    /// one: for that hearth runs itself again, and this returns in the second run only.
    pub fn ready(&self, terminal: &Terminal) -> Result<Target> {
        let (mut lab, mut entry) = board_or_type(self.lab.as_deref(), &self.board)?;
        if let Some(recipe) = &self.recipe {
            entry.recipe = Some(recipe.clone());
        }
        if let Some(image) = &self.image {
            entry.recipe = Some(Manifest::load(image)?.recipe.name);
        }
        let emulated = entry.power == Some(Power::Qemu {});
        if emulated {
            entry
                .board_type
                .kernel_arguments
                .extend(PATIENT_KERNEL.map(String::from));
        }
        // The servers look the board up in the lab.
        for other in lab
            .boards
            .iter_mut()
            .filter(|other| other.name == entry.name)
        {
            other.clone_from(&entry);
        }
        let build = match &self.image {
            Some(image) => image.clone(),
            None => output_of(&entry)?,
        };
        if emulated {
            // Before minutes of building.
            qemu::program(entry.board_type.arch)?;
        }
        if self.image.is_none() && !network::is_inside() {
            let plan = build::plan(recipe_of(&entry)?, &self.network, terminal)?;
            hearth::rootfs::build(&plan, &build, terminal)?;
        }
        match (emulated, network::is_inside()) {
            (true, false) => return Err(network::run_again_inside()),
            (true, true) => board_network::enter(LoadedLab::EMULATED_ADDRESS)?,
            (false, _) => {}
        }
        Ok(Target {
            lab,
            board: entry,
            build,
            emulated,
        })
    }

    /// Makes sure that no other run has the board, and notes where this one's console log is. A board type's emulated
    /// board is made anew for every run.
    pub fn reserve(
        &self,
        target: &Target,
        directory: &Path,
        terminal: &Terminal,
    ) -> Result<Option<Flock<File>>> {
        if target.lab.path.is_none() {
            return Ok(None);
        }
        let name = &target.board.name;
        let path = reservation(&target.lab, name)?;
        let mut lock = match Flock::lock(open(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err(_) if self.no_wait => {
                return Err(
                    Fault::infrastructure(format!("another run has board `{name}`")).into(),
                );
            }
            Err((file, _)) => {
                terminal.say(&format!("waiting for board `{name}`: another run has it"));
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| {
                    Fault::host(format!("cannot lock {}: {error}", path.display()))
                })?
            }
        };
        lock.set_len(0)?;
        lock.rewind()?;
        write!(lock, "{}", fs::canonicalize(directory)?.display())?;
        Ok(Some(lock))
    }
}

/// Where the run that has the board keeps its console log, if one has it.
pub fn run_that_has(lab: &LoadedLab, board: &str) -> Result<Option<PathBuf>> {
    let path = reservation(lab, board)?;
    match Flock::lock(open(&path)?, FlockArg::LockExclusiveNonblock) {
        Ok(_) => Ok(None),
        Err((mut file, _)) => {
            let mut directory = String::new();
            file.read_to_string(&mut directory)?;
            Ok(Some(PathBuf::from(directory)))
        }
    }
}

fn reservation(lab: &LoadedLab, board: &str) -> Result<PathBuf> {
    let directory = hearth::dirs::state().join("boards");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory.join(format!("{}-{board}.lock", lab.settings.name)))
}

fn open(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))
}

impl Target {
    /// How to switch the board on. What an emulated one is made of goes into `scratch`.
    pub fn access(&self, scratch: &Path) -> Result<BoardAccess> {
        let board = &self.board;
        if self.emulated {
            let spec = lab::emulated::prepare(board, &self.lab.settings, &self.build, scratch)?;
            return Ok(BoardAccess::Emulated {
                spec,
                launcher: companion::launcher()?,
            });
        }
        let missing = |what: &str| {
            Fault::input(format!(
                "the lab file gives board `{}` no {what}",
                board.name
            ))
            .remedy("see recipes/lab-example.toml")
        };
        let console = board.console.clone().ok_or_else(|| missing("console"))?;
        let switch = board
            .power
            .as_ref()
            .ok_or_else(|| missing("power switch"))?;
        Ok(BoardAccess::Real {
            power: power::open(switch, asking())?,
            console: Box::new(move || console::open(&console)),
        })
    }

    /// How long the board may stay in each state.
    pub fn timeouts(&self) -> Timeouts {
        let usual = match self.emulated {
            true => Timeouts::emulated(),
            false => Timeouts::default(),
        };
        usual.with(&self.board.timeouts)
    }

    /// The board's memory in bytes, where it is known: that of an emulated one.
    pub fn memory(&self) -> Option<u64> {
        let emulation = self.board.board_type.emulation.as_ref();
        emulation
            .filter(|_| self.emulated)
            .map(|emulation| u64::from(emulation.memory) << 20)
    }

    /// The directory of builds that the one to boot is in, for the servers.
    pub fn images(&self) -> &Path {
        match self.build.parent() {
            Some(directory) if !directory.as_os_str().is_empty() => directory,
            _ => Path::new("."),
        }
    }

    /// The lab's store: an emulated board's lab lasts as long as its run, in `scratch`.
    pub fn store(&self, scratch: &Path) -> PathBuf {
        match self.emulated {
            true => scratch.join("lab.sqlite"),
            false => hearth::dirs::state().join("lab.sqlite"),
        }
    }
}

fn recipe_of(board: &Board) -> Result<&str> {
    board
        .recipe
        .as_deref()
        .ok_or_else(|| Fault::input(format!("board `{}` has no recipe", board.name)).into())
}

fn output_of(board: &Board) -> Result<PathBuf> {
    let name = Path::new(recipe_of(board)?)
        .file_stem()
        .context("the recipe has no name")?;
    Ok(Path::new("out").join(name))
}

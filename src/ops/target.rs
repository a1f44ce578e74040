//! Owns a board that can be switched on: the board, its image, its network, and its reservation.
//! Never switches it.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use super::agent_layer::{self, Fit};
use super::device_lock;
use super::own::{self, OwnBoot};
use super::plan::{Sources, plan};
use super::ramdisk;
use crate::board::power::Ask;
use crate::board::{Timeouts, console, network as board_network, power, qemu};
use crate::build::compose::Derived;
use crate::error::Fault;
use crate::image::Manifest;
use crate::lab::{self, BoardAccess, network};
use crate::progress::{NoProgress, Progress};
use crate::recipe::{Board, BootMethod, LoadedLab, Login, Own, Ports, Power, board_or_type};

/// An emulated processor stands still whenever its host is busy, which its kernel would take for a stall.
const PATIENT_KERNEL: [&str; 2] = ["rcupdate.rcu_cpu_stall_timeout=300", "watchdog_thresh=60"];

/// Which board, and what it boots.
#[derive(Clone, Debug)]
pub struct Choice<'a> {
    /// A board of the lab, or a board type.
    pub board: &'a str,
    pub lab: Option<&'a Path>,
    /// Instead of the board's own.
    pub recipe: Option<&'a str>,
    /// The output directory of a build, to boot what it holds and build nothing.
    pub image: Option<&'a Path>,
    /// What it boots instead of parts of the image, before what the lab file says.
    pub own: Own,
    /// Where its root comes from, instead of where the board's own does.
    pub boot: Option<BootMethod>,
    /// How to get to a shell on its console, which then runs the tests; over the board's own.
    pub login: Option<&'a Login>,
    /// The directory in which an image that has to be built is.
    pub builds: &'a Path,
    /// Boot the directory as it is instead, whatever the lab file says.
    pub exactly: Option<Exactly>,
}

/// What a build directory does not say of how it was booted.
#[derive(Clone, Debug, Default)]
pub struct Exactly {
    /// In addition to the board type's.
    pub kernel_arguments: Vec<String>,
    /// Instead of the board type's, where it is this type.
    pub device_tree: Option<String>,
    pub board_type: String,
}

/// What only the program that runs can give.
pub struct Host {
    /// What to put before a command line, so that its process ends with this one.
    pub launcher: Vec<String>,
    /// Asks the person beside the board to switch it.
    pub ask: Ask,
}

/// A board whose image is built.
pub struct Target {
    pub lab: LoadedLab,
    pub board: Board,
    /// The build's output directory.
    pub build: PathBuf,
    pub emulated: bool,
    /// Whether it boots something that only this run knows of.
    pub only_here: bool,
    /// How to get to a shell on its console, where that runs the tests and no agent does.
    pub login: Option<Login>,
    /// Keeps what `build` names, where it is in the cache.
    /// Whether a running lab serves the board, now or as soon as it is back: nobody else may take its ports.
    pub served: bool,
    _derived: Option<Derived>,
}

impl Target {
    /// As [`Target::built`]; and enters the network of emulated boards if it is one: for that hearth runs itself again, and
    /// this returns in the second run only.
    ///
    /// # Errors
    /// As [`Target::built`], and if the network cannot be entered.
    pub fn ready(
        choice: &Choice<'_>,
        sources: &Sources<'_>,
        progress: &dyn Progress,
    ) -> Result<Target> {
        let target = Target::built(choice, sources, progress)?;
        let has_initrd = target.board.own.initrd.is_some();
        let target =
            target
                .with_own(progress)?
                .with_root(choice.boot.is_some(), has_initrd, progress)?;
        match (target.emulated, network::is_inside()) {
            (true, false) => return Err(network::run_again_inside()),
            (true, true) => board_network::enter(LoadedLab::EMULATED_ADDRESS)?,
            (false, _) => {}
        }
        Ok(target)
    }

    /// Finds the board, and builds its image if that is not up to date.
    ///
    /// # Errors
    /// If there is no such board, it has no recipe, its image cannot be built, or this host cannot emulate it.
    pub fn built(
        choice: &Choice<'_>,
        sources: &Sources<'_>,
        progress: &dyn Progress,
    ) -> Result<Target> {
        let (mut lab, mut entry) = board_or_type(choice.lab, choice.board)?;
        if let Some(recipe) = choice.recipe {
            entry.recipe = Some(recipe.to_owned());
        }
        if let Some(image) = choice.image {
            entry.recipe = Some(Manifest::load(image)?.recipe.name);
        }
        if let Some(boot) = choice.boot {
            entry.boot_script = boot.name().into();
        }
        if lab.path.is_none() && entry.console.is_none() {
            return Err(
                Fault::input(format!("QEMU cannot emulate a {}", choice.board))
                    .remedy("describe a board of this type in lab.toml")
                    .into(),
            );
        }
        let emulated = entry.power == Some(Power::Qemu {});
        if emulated {
            // It has a private network to itself, whatever addresses the lab's real boards use.
            lab.settings.address = LoadedLab::EMULATED_ADDRESS;
            lab.settings.ports = Ports::default();
            lab.settings.dhcp = None;
            lab.settings.allow = Vec::new();
            entry
                .board_type
                .kernel_arguments
                .extend(PATIENT_KERNEL.map(String::from));
        }
        entry.own = entry.own.under(&choice.own);
        if let Some(exactly) = &choice.exactly {
            entry.own = Own::default();
            let board_type = &mut entry.board_type;
            let arguments = exactly.kernel_arguments.iter().cloned();
            board_type.kernel_arguments.extend(arguments);
            if exactly.device_tree.is_some() && exactly.board_type == entry.type_name {
                board_type.device_tree.clone_from(&exactly.device_tree);
            }
        }
        let build = match choice.image {
            Some(image) => image.to_path_buf(),
            None => output_of(choice.builds, &entry)?,
        };
        if emulated {
            // Before minutes of building.
            qemu::program(entry.board_type.arch)?;
        }
        if choice.image.is_none() && !network::is_inside() {
            let plan = plan(recipe_of(&entry)?, sources, progress)?;
            crate::build::build(&plan, &build, progress)?;
        }
        Ok(Target {
            login: login(choice, &entry),
            lab,
            board: entry,
            build,
            emulated,
            only_here: !choice.own.is_empty() || choice.exactly.is_some(),
            _derived: None,
            served: false,
        })
    }

    /// The same with the board's own parts in the build, and in the lab, where the servers look the board up.
    fn with_own(mut self, progress: &dyn Progress) -> Result<Target> {
        // The first run of hearth has told what there was to tell.
        let progress = match network::is_inside() {
            true => &NoProgress,
            false => progress,
        };
        if let Some(OwnBoot { derived, board }) = own::prepare(&self.board, &self.build, progress)?
        {
            self.board = board;
            self.build.clone_from(&derived.directory);
            self._derived = Some(derived);
        }
        let boards = self.lab.boards.iter_mut();
        for other in boards.filter(|other| other.name == self.board.name) {
            other.clone_from(&self.board);
        }
        Ok(self)
    }

    /// The same with a root that the board can boot, and what runs its jobs there: an agent over an image that has none, or a shell on
    /// the console where the image could not run it. `is_told`: whether the user said where the root comes from.
    fn with_root(
        mut self,
        is_told: bool,
        has_initrd: bool,
        progress: &dyn Progress,
    ) -> Result<Target> {
        // The root on a card is not known. Of an emulated board, the second run of hearth looks.
        let is_local = self.board.boot_script == BootMethod::Local.name();
        if is_local || self.emulated && !network::is_inside() {
            return Ok(self);
        }
        let manifest = Manifest::load(&self.build)?;
        let image = manifest.open_image(&self.build)?;
        let is_usual = !is_told && self.board.boot_script == self.board.board_type.boot_script;
        if is_usual && ramdisk::is_imported_initramfs(&manifest, &image) {
            self.set_boot(BootMethod::Ramdisk);
        }
        let derived = if self.board.boot_script == BootMethod::Ramdisk.name() {
            self.login.get_or_insert_with(|| usual_login(&self.board));
            match has_initrd {
                true => None,
                false => Some(ramdisk::with_root_as_initrd(
                    &self.build,
                    &manifest,
                    &image,
                    progress,
                )?),
            }
        } else if self.login.is_some() {
            None
        } else {
            let fit = agent_layer::look(&image);
            if fit == Fit::NoNetwork {
                let told =
                    "the image has neither curl nor wget: its tests run over the board's console";
                progress.note(told);
                self.login = Some(usual_login(&self.board));
            }
            agent_layer::with_agent(&self.build, &image, &fit, progress)?
        };
        if let Some(derived) = derived {
            self.build.clone_from(&derived.directory);
            self.only_here = true;
            self._derived = Some(derived);
        }
        Ok(self)
    }

    /// Has the board boot so, in the lab too, where the servers look it up.
    fn set_boot(&mut self, boot: BootMethod) {
        self.board.boot_script = boot.name().into();
        let boards = self.lab.boards.iter_mut();
        for other in boards.filter(|other| other.name == self.board.name) {
            other.boot_script.clone_from(&self.board.boot_script);
        }
    }

    /// Makes sure that no other run has the board, and notes where this one's console log is. A board type's emulated
    /// board is made anew for every run, and has no reservation.
    ///
    /// # Errors
    /// [`Class::Infrastructure`](crate::error::Class::Infrastructure) if another run has it and `wait` is false.
    pub fn reserve(
        &self,
        directory: &Path,
        wait: bool,
        progress: &dyn Progress,
    ) -> Result<Option<Reserved>> {
        if self.lab.path.is_none() {
            return Ok(None);
        }
        // Of another lab, or of a lab with another state directory.
        let device =
            device_lock::take(&self.lab.settings.name, &crate::dirs::state(), &self.board)?;
        let name = &self.board.name;
        let path = reservation(&self.lab, name)?;
        let mut lock = match Flock::lock(open(&path)?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => lock,
            Err(_) if !wait => {
                return Err(
                    Fault::infrastructure(format!("another run has board `{name}`")).into(),
                );
            }
            Err((file, _)) => {
                progress.note(&format!("waiting for board `{name}`: another run has it"));
                Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| {
                    Fault::host(format!("cannot lock {}: {error}", path.display()))
                })?
            }
        };
        lock.set_len(0)?;
        lock.rewind()?;
        write!(lock, "{}", fs::canonicalize(directory)?.display())?;
        Ok(Some(Reserved {
            _run: lock,
            _device: device,
        }))
    }
}

/// How to get to a shell on the board's console, if the command line or the board's entry in the lab file has it run the tests.
fn login(choice: &Choice<'_>, board: &Board) -> Option<Login> {
    let usual = usual_login(board);
    let Some(given) = choice.login.cloned() else {
        return board.login.is_some().then_some(usual);
    };
    Some(Login {
        user: given.user.or(usual.user),
        password: given.password.or(usual.password),
        prompt: given.prompt.or(usual.prompt),
    })
}

/// What the lab file or the board's type says of a login.
fn usual_login(board: &Board) -> Login {
    let usual = board.login.as_ref().or(board.board_type.login.as_ref());
    usual.cloned().unwrap_or_default()
}

/// A board that is this run's alone, until this is dropped.
pub struct Reserved {
    _run: Flock<File>,
    _device: Option<File>,
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
    let directory = crate::dirs::state().join("boards");
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
    pub fn access(&self, scratch: &Path, host: Host) -> Result<BoardAccess> {
        let board = &self.board;
        if self.emulated {
            let spec = lab::emulated::prepare(board, &self.lab.settings, &self.build, scratch)?;
            return Ok(BoardAccess::Emulated {
                spec,
                launcher: host.launcher,
            });
        }
        let missing = |what: &str| {
            Fault::input(format!(
                "the lab file gives board `{}` no {what}",
                board.name
            ))
            .remedy("`hearth files recipes/lab-example.toml` shows some")
        };
        let console = board.console.clone().ok_or_else(|| missing("console"))?;
        let switch = board
            .power
            .as_ref()
            .ok_or_else(|| missing("power switch"))?;
        Ok(BoardAccess::Real {
            power: power::open(switch, host.ask)?,
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
            false => crate::dirs::state().join("lab.sqlite"),
        }
    }
}

fn recipe_of(board: &Board) -> Result<&str> {
    board
        .recipe
        .as_deref()
        .ok_or_else(|| Fault::input(format!("board `{}` has no recipe", board.name)).into())
}

fn output_of(builds: &Path, board: &Board) -> Result<PathBuf> {
    let name = Path::new(recipe_of(board)?)
        .file_stem()
        .context("the recipe has no name")?;
    Ok(builds.join(name))
}

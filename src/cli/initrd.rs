//! `hearth initrd`: builds the initrd of a recipe's image, and looks into any initrd.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use hearth::build::{WantedInitrd, build_initrd};
use hearth::error::{Fault, InputContext};
use hearth::image::index::Image;
use hearth::initrd::{self, Difference, Listing, Options};
use hearth::input;
use hearth::output::{AtomicDir, Replaces, refuse_inputs};
use hearth::progress::{Progress, Unit};
use hearth::recipe::{self, BoardType, Builder, Recipe, RecipeFile};

use super::build::{self, NetworkArguments};
use super::terminal::Terminal;

/// Build a recipe's initrd, or look into one
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    build: Option<Build>,
    #[command(flatten)]
    network: NetworkArguments,
}

#[derive(Debug, Args)]
struct Build {
    /// The recipe: a name, or a path to a TOML file
    recipe: String,
    /// The builder, instead of the recipe's
    #[arg(long, value_enum, value_name = "BUILDER")]
    builder: Option<BuilderArgument>,
    /// Only for this board type; may be given several times
    #[arg(long = "board", value_name = "TYPE")]
    boards: Vec<String>,
    /// The image for the native builder [default: out/RECIPE/rootfs.tar]
    #[arg(long, value_name = "TAR")]
    root: Option<PathBuf>,
    /// The kernel's release, for an image with several
    #[arg(long, value_name = "RELEASE")]
    kernel: Option<String>,
    /// Where to write [default: initrd.img beside the image]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum BuilderArgument {
    /// Put together by hearth
    Native,
    /// By the distribution's mkinitramfs, run in the sandbox
    Chroot,
}

#[derive(Debug, Subcommand)]
enum Action {
    Show(Show),
    Diff(Diff),
    Extract(Extract),
}

/// List the archives, files and modules of any initrd
#[derive(Debug, Args)]
struct Show {
    /// The initrd: hearth's, Debian's, or another's
    file: PathBuf,
    /// Print everything as JSON
    #[arg(long)]
    json: bool,
}

/// List what differs from one initrd to another
#[derive(Debug, Args)]
struct Diff {
    /// The first initrd
    old: PathBuf,
    /// The second initrd
    new: PathBuf,
    /// Print the differences as JSON
    #[arg(long)]
    json: bool,
}

/// Unpack an initrd into a new directory
#[derive(Debug, Args)]
struct Extract {
    /// The initrd
    file: PathBuf,
    /// The directory to make
    directory: PathBuf,
}

pub fn run(arguments: Arguments, terminal: &Terminal) -> Result<ExitCode> {
    match (arguments.action, arguments.build) {
        (Some(Action::Show(show)), _) => show.run(),
        (Some(Action::Diff(diff)), _) => diff.run(),
        (Some(Action::Extract(extract)), _) => extract.run(terminal),
        (None, Some(build)) => build.run(&arguments.network, terminal),
        (None, None) => unreachable!("clap requires a recipe or a subcommand"),
    }
}

impl Build {
    fn run(&self, network: &NetworkArguments, terminal: &Terminal) -> Result<ExitCode> {
        let RecipeFile {
            name, recipe, path, ..
        } = RecipeFile::open(&self.recipe)?;
        let root = match &self.root {
            Some(root) => root.clone(),
            None => Path::new("out").join(&name).join("rootfs.tar"),
        };
        let output = match &self.output {
            Some(output) => output.clone(),
            None => root.with_file_name("initrd.img"),
        };
        refuse_inputs(&output, [&root, &path])?;
        let builder = match self.builder {
            None => recipe.initrd.builder,
            Some(BuilderArgument::Native) => Builder::Native,
            Some(BuilderArgument::Chroot) => Builder::Chroot,
        };
        match builder {
            Builder::Native => self.native(&recipe, &root, &output, terminal),
            Builder::Chroot => self.chroot(&recipe, &output, network, terminal),
        }
    }

    /// Out of an image's tar.
    fn native(
        &self,
        recipe: &Recipe,
        root: &Path,
        output: &Path,
        terminal: &Terminal,
    ) -> Result<ExitCode> {
        if !root.exists() {
            return Err(
                Fault::input(format!("there is no image {}", root.display()))
                    .remedy(format!(
                        "run `hearth build {}`, or give one with --root",
                        self.recipe
                    ))
                    .into(),
            );
        }
        let board_types = self.board_types(recipe)?;
        let options = Options {
            arch: recipe.arch,
            board_types: &board_types,
            boards_are_named: self.boards_are_named(recipe),
            kernel: self.kernel.as_deref(),
            device_trees: None,
            modules: &recipe.initrd.modules,
            binaries: &recipe.initrd.binaries,
            compression: recipe.initrd.compression,
            roots: &recipe.initrd.roots,
        };
        let stage = terminal.stage("initrd", None, Unit::Items);
        let image = Image::open(root)?;
        initrd::build(&image, &options, output)?;
        stage.finish(&described(output)?);
        Ok(ExitCode::SUCCESS)
    }

    /// Over the directories of the recipe's image, out of the cache.
    fn chroot(
        &self,
        recipe: &Recipe,
        output: &Path,
        network: &NetworkArguments,
        terminal: &Terminal,
    ) -> Result<ExitCode> {
        for (given, option) in [
            (self.root.is_some(), "--root"),
            (self.kernel.is_some(), "--kernel"),
        ] {
            if given {
                return Err(Fault::input(format!(
                    "the chroot builder runs in the recipe's own image, and takes no {option}"
                ))
                .remedy(format!("leave {option} out, or use --builder native"))
                .into());
            }
        }
        let wanted = WantedInitrd {
            builder: Builder::Chroot,
            boards: self.board_types(recipe)?,
            boards_are_named: self.boards_are_named(recipe),
        };
        if let Some(parent) = output.parent() {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        let plan = build::plan(&self.recipe, network, terminal)?;
        build_initrd(&plan, &wanted, output, terminal)?;
        terminal.say(&described(output)?);
        Ok(ExitCode::SUCCESS)
    }

    fn boards_are_named(&self, recipe: &Recipe) -> bool {
        !(self.boards.is_empty() && recipe.boards.is_empty())
    }

    /// The board types to build for: those asked for, else the recipe's, else all of its architecture.
    fn board_types(&self, recipe: &Recipe) -> Result<BTreeMap<String, BoardType>> {
        let named = if self.boards.is_empty() {
            &recipe.boards
        } else {
            &self.boards
        };
        let mut types = BTreeMap::new();
        for name in named {
            let board_type = recipe::board_type(name)?;
            if board_type.arch != recipe.arch {
                return Err(Fault::input(format!(
                    "the board type {name} is {}, but the recipe {} is {}",
                    board_type.arch, self.recipe, recipe.arch
                ))
                .remedy("choose a board type of the recipe's architecture")
                .into());
            }
            types.insert(name.clone(), board_type);
        }
        if named.is_empty() {
            types = recipe::board_types()?;
            types.retain(|_, board_type| board_type.arch == recipe.arch);
        }
        Ok(types)
    }
}

/// A file's path and size.
fn described(path: &Path) -> Result<String> {
    let size = fs::metadata(path)
        .with_context(|| path.display().to_string())?
        .len();
    Ok(format!("{}, {} KiB", path.display(), size.div_ceil(1024)))
}

impl Show {
    fn run(&self) -> Result<ExitCode> {
        let listing = listing(&self.file)?;
        let mut out = BufWriter::new(io::stdout().lock());
        if self.json {
            serde_json::to_writer_pretty(&mut out, &listing)?;
            writeln!(out)?;
        } else {
            write_listing(&mut out, &listing)?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

fn write_listing(out: &mut impl Write, listing: &Listing) -> io::Result<()> {
    for (number, archive) in listing.archives.iter().enumerate() {
        writeln!(
            out,
            "archive {}: compression {}, {} names, {} bytes",
            number + 1,
            archive.compression,
            archive.entries,
            archive.bytes
        )?;
    }
    writeln!(out)?;
    for (kind, total) in &listing.kinds {
        writeln!(
            out,
            "{kind:15} {:6} files {:10} bytes",
            total.files, total.bytes
        )?;
    }
    if !listing.modules.is_empty() {
        writeln!(out)?;
    }
    for (name, module) in &listing.modules {
        writeln!(out, "{name:24} {:8}  {}", module.size, module.why)?;
    }
    Ok(())
}

impl Diff {
    fn run(&self) -> Result<ExitCode> {
        let differences = initrd::compare(&listing(&self.old)?, &listing(&self.new)?);
        let mut out = BufWriter::new(io::stdout().lock());
        if self.json {
            serde_json::to_writer_pretty(&mut out, &differences)?;
            writeln!(out)?;
        } else {
            for (path, difference) in &differences {
                match difference {
                    Difference::Removed(line) => writeln!(out, "- {path} ({} bytes)", line.size)?,
                    Difference::Added(line) => writeln!(out, "+ {path} ({} bytes)", line.size)?,
                    Difference::Changed(old, new) => writeln!(
                        out,
                        "! {path} ({} bytes, mode {} -> {} bytes, mode {})",
                        old.size, old.mode, new.size, new.mode
                    )?,
                }
            }
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Extract {
    fn run(&self, terminal: &Terminal) -> Result<ExitCode> {
        if self.directory.symlink_metadata().is_ok() {
            return Err(
                Fault::input(format!("{} exists already", self.directory.display()))
                    .remedy("name a directory that does not exist")
                    .into(),
            );
        }
        let directory = AtomicDir::create(&self.directory, Replaces::Nothing)?;
        let extracted = initrd::extract(open(&self.file)?, directory.path())
            .input_context(|| format!("cannot extract {}", self.file.display()))?;
        directory.commit()?;
        terminal.say(&format!(
            "{} names in {}",
            extracted.names,
            self.directory.display()
        ));
        if !extracted.left_out.is_empty() {
            terminal.say(&format!(
                "left out, since they are devices: {}",
                extracted.left_out.join(", ")
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = input::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    Ok(BufReader::with_capacity(1 << 16, file))
}

fn listing(path: &Path) -> Result<Listing> {
    initrd::list(open(path)?).input_context(|| format!("cannot read the initrd {}", path.display()))
}

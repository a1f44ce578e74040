//! `hearth bootscript`: renders boards' boot scripts, checks existing ones, and edits them.

use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Args;
use hearth::clock;
use hearth::data::Source;
use hearth::error::Fault;
use hearth::image::Manifest;
use hearth::output::{self, Batch};
use hearth::recipe::{Board, LabSettings, LoadedLab, board_or_type, boot_values};
use hearth::uboot::bootscript::{difference, rewrap};
use hearth::uboot::{self, BootScript, Templates, open, script};

use super::terminal::Terminal;

/// The largest script image that is read: far above what a board has memory for.
const LARGEST: u64 = 64 << 20;

/// Render a board's boot script, or check or edit one
///
/// Writes boot.scr and boot.scr.uimg (the same script image under both names
/// that U-Boot asks for), and where the template has an equivalent,
/// extlinux/extlinux.conf and pxelinux.cfg/01-<mac>.
#[derive(Debug, Args)]
pub struct Arguments {
    /// A board of the lab, or a board type
    #[arg(required_unless_present_any = ["all", "edit"], conflicts_with_all = ["all", "edit"])]
    board: Option<String>,
    /// The lab file [default: $HEARTH_LAB, else lab.toml]
    #[arg(long, value_name = "FILE")]
    lab: Option<PathBuf>,
    /// Every board of the lab, as the tree of a TFTP server
    #[arg(long, conflicts_with_all = ["print", "check", "edit"])]
    all: bool,
    /// A template's name (card, nfs, ramdisk, local) or file [default: the board's]
    #[arg(short, long, value_name = "TEMPLATE")]
    template: Option<String>,
    /// The image to boot [default: the one in out/RECIPE]
    #[arg(long, value_name = "ID")]
    image: Option<String>,
    /// Where to write [default: out/boards/BOARD, with --all: out]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Print the script's text, and write nothing
    #[arg(long, conflicts_with_all = ["output", "check", "edit"])]
    print: bool,
    /// Say how this boot.scr differs from what it should be
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "edit"])]
    check: Option<PathBuf>,
    /// Edit the text of this boot.scr in $EDITOR, and wrap it again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["output", "template", "image", "lab"])]
    edit: Option<PathBuf>,
}

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    if let Some(file) = &arguments.edit {
        return edit(file, terminal);
    }
    let renderer = Renderer::new(arguments)?;
    if arguments.all {
        return all(arguments, &renderer, terminal);
    }
    let name = arguments.board.as_deref().unwrap_or_default();
    let (lab, board) = board_or_type(arguments.lab.as_deref(), name)?;
    warn_of_port(&lab.settings);
    let made = renderer.render(&board, &lab.settings)?;
    if arguments.print {
        print!("{}", made.text);
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(file) = &arguments.check {
        return check(file, &made, terminal);
    }
    let directory =
        (arguments.output.clone()).unwrap_or_else(|| Path::new("out/boards").join(name));
    let mut batch = Batch::default();
    for (path, data) in made.files(board.mac) {
        batch.add(&directory.join(path), data)?;
    }
    say_written(batch.commit()?, &directory, terminal);
    Ok(ExitCode::SUCCESS)
}

fn all(arguments: &Arguments, renderer: &Renderer<'_>, terminal: &Terminal) -> Result<ExitCode> {
    let lab = LoadedLab::find(arguments.lab.as_deref())?.ok_or_else(|| {
        Fault::input("there is no lab file here").remedy("name one with --lab FILE")
    })?;
    warn_of_port(&lab.settings);
    let directory = arguments.output.as_deref().unwrap_or(Path::new("out"));
    let mut batch = Batch::default();
    for board in &lab.boards {
        let made = renderer
            .render(board, &lab.settings)
            .with_context(|| format!("board `{}`", board.name))?;
        for (path, data) in made.network_files(&board.name, board.mac) {
            batch.add(&directory.join(path), data)?;
        }
    }
    say_written(batch.commit()?, directory, terminal);
    Ok(ExitCode::SUCCESS)
}

fn say_written((written, unchanged): (usize, usize), directory: &Path, terminal: &Terminal) {
    let directory = directory.display();
    match (written, unchanged) {
        (0, _) => terminal.say(&format!("{directory} is up to date")),
        (_, 0) => terminal.say(&format!("wrote {written} files in {directory}")),
        _ => terminal.say(&format!(
            "wrote {written} files in {directory}, {unchanged} were up to date"
        )),
    }
}

/// What rendering needs beside the board.
struct Renderer<'a> {
    templates: Templates,
    arguments: &'a Arguments,
    time: u32,
}

impl<'a> Renderer<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self> {
        let mut templates = Templates::load()?;
        if let Some(file) = arguments.template.as_deref().filter(|name| is_file(name)) {
            templates.add_script(file, template(Path::new(file))?)?;
        }
        Ok(Renderer {
            templates,
            arguments,
            time: clock::reproducible()?,
        })
    }

    fn render(&self, board: &Board, lab: &LabSettings) -> Result<BootScript> {
        let built = match &self.arguments.image {
            Some(image) => Some(image.clone()),
            None => built_image(board)?,
        };
        let template = self
            .arguments
            .template
            .as_deref()
            .unwrap_or(&board.boot_script);
        let render = |image: Option<&str>| {
            let values = boot_values(board, lab, image);
            BootScript::render(
                &self.templates,
                template,
                &values,
                board.board_type.arch,
                self.time,
            )
        };
        render(built.as_deref()).map_err(|error| {
            // Would it work with an image, whichever that is?
            if built.is_none() && render(Some("image")).is_ok() {
                no_image(board).into()
            } else {
                error
            }
        })
    }
}

fn no_image(board: &Board) -> Fault {
    match &board.recipe {
        Some(recipe) => Fault::input(format!("no image of recipe `{recipe}` is built here"))
            .remedy(format!(
                "run `hearth build {recipe}`, or name an image with --image ID"
            )),
        None => Fault::input(format!("board `{}` has no recipe", board.name))
            .remedy("give it a `recipe` in the lab file, or name an image with --image ID"),
    }
}

/// The script sets `tftpdstp`, which says nothing to most U-Boots, Debian's among them.
fn warn_of_port(lab: &LabSettings) {
    if lab.ports.tftp != uboot::values::TFTP_PORT {
        log::warn!(
            "only a U-Boot built with CONFIG_TFTP_PORT asks for TFTP at port {}; Debian's are not",
            lab.ports.tftp
        );
    }
}

/// A template in a file or a pipe.
fn template(path: &Path) -> Result<Source> {
    let about = || format!("cannot read {}", path.display());
    let mut text = String::new();
    open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .with_context(about)?;
    Ok(Source {
        path: path.to_path_buf(),
        text,
    })
}

/// A script image, of which U-Boot reads only so much: the rest of a device that never ends is not waited for.
fn read_image(path: &Path) -> Result<Vec<u8>> {
    let about = || format!("cannot read {}", path.display());
    let file = open(path).with_context(about)?;
    let mut image = Vec::new();
    file.take(LARGEST)
        .read_to_end(&mut image)
        .with_context(about)?;
    Ok(image)
}

fn is_file(template: &str) -> bool {
    template.contains('/') || template.ends_with(".hbs")
}

fn check(file: &Path, made: &BootScript, terminal: &Terminal) -> Result<ExitCode> {
    let name = file.display().to_string();
    let existing = read_image(file)?;
    match difference(&existing, &name, &made.text).with_context(|| name.clone())? {
        None => {
            terminal.say(&format!("{name} is up to date"));
            Ok(ExitCode::SUCCESS)
        }
        Some(difference) => {
            io::stdout().write_all(difference.as_bytes())?;
            Err(Fault::input(format!("{name} is out of date"))
                .remedy("write it again with `hearth bootscript BOARD -o DIR`")
                .into())
        }
    }
}

/// Lets the user edit the text of a script image. What was edited is never lost: if it cannot be
/// wrapped, the text stays where the editor left it.
fn edit(file: &Path, terminal: &Terminal) -> Result<ExitCode> {
    let name = file.display();
    if fs::metadata(file).is_ok_and(|meta| !meta.is_file()) {
        return Err(Fault::input(format!("{name} is not a file that can be written again")).into());
    }
    let existing = read_image(file)?;
    let text = script::read(&existing)
        .with_context(|| name.to_string())?
        .text
        .to_vec();
    let mut copy = tempfile::Builder::new()
        .prefix("boot-")
        .suffix(".cmd")
        .tempfile()
        .context("cannot make a temporary file")?;
    copy.write_all(&text)?;
    copy.flush()?;
    run_editor(copy.path())?;
    let edited = fs::read(copy.path()).context("cannot read what the editor left")?;
    if edited == text && uboot::check::runnable(&text).is_ok() {
        terminal.say(&format!("{name} is unchanged"));
        return Ok(ExitCode::SUCCESS);
    }
    let (edited, taken_out) = uboot::check::mended(&edited);
    let written = clock::image_time()
        .and_then(|time| rewrap(&existing, &edited, time))
        .map_err(anyhow::Error::new)
        .and_then(|image| output::write_atomically(file, &image));
    if let Err(error) = written {
        let (_, kept) = copy.keep().context("cannot keep the edited text")?;
        return Err(error.context(format!("your text is kept in {}", kept.display())));
    }
    if !taken_out.is_empty() {
        let what = taken_out.join(" and ");
        log::warn!("{name}: took out {what}, which U-Boot cannot run");
    }
    terminal.say(&format!("wrote {name}"));
    Ok(ExitCode::SUCCESS)
}

/// As other programs do: `VISUAL`, else `EDITOR`, else vi; either may have arguments.
fn run_editor(file: &Path) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| env::var_os(name).filter(|editor| !editor.is_empty()))
        .unwrap_or_else(|| "vi".into());
    let mut command = editor.clone();
    command.push(" \"$@\"");
    let status = Command::new("sh")
        .arg("-c")
        .arg(command)
        .arg("editor")
        .arg(file)
        .status()
        .context("cannot run sh")?;
    if status.success() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the editor `{}` failed ({status}); nothing is changed",
        editor.display()
    ))
    .remedy("set EDITOR to an editor that is installed")
    .into())
}

/// The id of the image that `hearth build` last made of the board's recipe, if there is one.
fn built_image(board: &Board) -> Result<Option<String>> {
    let recipe = board.recipe.as_deref().map(Path::new);
    let Some(name) = recipe.and_then(Path::file_stem) else {
        return Ok(None);
    };
    let directory = Path::new("out").join(name);
    if !directory.join(Manifest::FILE).exists() {
        return Ok(None);
    }
    Ok(Some(Manifest::load(&directory)?.image))
}

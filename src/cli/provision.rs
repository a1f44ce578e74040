//! `hearth provision`: lays a master image out as a directory tree for an NFS server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use hearth::error::Fault;
use hearth::input;
use hearth::netboot::provision::Provision;
use hearth::netboot::provision::exports_file::exports;
use hearth::ops::BuildOutput;
use hearth::output::write_atomically;

use super::terminal::Terminal;

/// Lay an image out as an NFS root for kernel nfsd or others
///
/// The image becomes DIR/<image id>, beside earlier versions, and DIR/current
/// leads to it; boards that run from an earlier version keep it. Needs root,
/// for the owners of the files; `hearth serve` needs neither root nor a tree.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The recipe whose image to lay out: a name or a file
    recipe: String,
    /// The output of `hearth build` [default: out/RECIPE]
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Where the versions are
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Export to this network, as 192.168.7.0/24
    #[arg(long, value_name = "CIDR")]
    network: Vec<String>,
    /// Export to this host; may be repeated
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,
    /// The exports file to write, as /etc/exports.d/hearth.exports
    #[arg(long, value_name = "FILE")]
    exports: Option<PathBuf>,
    /// Export this version only, no longer the earlier ones
    #[arg(long, requires = "exports")]
    only_current: bool,
    /// Remove versions that no exports file names
    #[arg(long, conflicts_with = "check")]
    gc: bool,
    /// Let every user of this host into the trees, whose setuid programs they can start then
    #[arg(long)]
    open: bool,
    /// Compare the tree with the image, and change nothing
    #[arg(long)]
    check: bool,
}

/// What nfsd reads besides the file given.
const EXPORTS: [&str; 2] = ["/etc/exports", "/var/lib/nfs/etab"];
const EXPORTS_DIRECTORY: &str = "/etc/exports.d";

pub fn run(arguments: &Arguments, terminal: &Terminal) -> Result<ExitCode> {
    let build = BuildOutput::find(&arguments.recipe, arguments.from.as_deref())?;
    if arguments.check {
        return check(arguments, &build, terminal);
    }
    let hosts = [&arguments.network[..], &arguments.host[..]].concat();
    if arguments.exports.is_some() && hosts.is_empty() {
        return Err(Fault::input("the exports file needs somebody to export to")
            .remedy("add --network 192.168.7.0/24, or --host for each board")
            .into());
    }
    if let Some(file) = &arguments.exports {
        refuse_unread(file)?;
        exports(Path::new("/"), &[], &hosts)?;
    }
    let mut provision = Provision::at(&arguments.to)?;
    provision.open = arguments.open;
    let path = provision.version(&build.image);
    if provision.lay_out(&build.image, &build.tars()?, terminal)? {
        terminal.say(&format!("laid out {}", path.display()));
    } else {
        terminal.say(&format!("{} is there already", path.display()));
    }
    provision.switch(&build.image)?;
    if let Some(file) = &arguments.exports {
        write_exports(arguments, &provision, &build.image, &hosts, file, terminal)?;
    }
    if arguments.gc {
        for version in provision.collect(&all_exports(arguments.exports.as_deref())?)? {
            terminal.say(&format!(
                "removed {}",
                provision.version(&version).display()
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write_exports(
    arguments: &Arguments,
    provision: &Provision,
    image: &str,
    hosts: &[String],
    file: &Path,
    terminal: &Terminal,
) -> Result<()> {
    let before = read_if_there(file)?.unwrap_or_default();
    let mut versions = if arguments.only_current {
        vec![]
    } else {
        provision.named_by(&before)?
    };
    if !versions.iter().any(|version| version == image) {
        versions.push(image.to_string());
    }
    let text = exports(provision.directory(), &versions, hosts)?;
    if text == before {
        terminal.say(&format!("{} is up to date", file.display()));
        return Ok(());
    }
    write_atomically(file, text.as_bytes())?;
    terminal.say(&format!(
        "wrote {}; to take effect: exportfs -ra",
        file.display()
    ));
    Ok(())
}

/// exportfs reads only files of this suffix there.
fn refuse_unread(file: &Path) -> Result<()> {
    let is_read = file.extension().is_some_and(|suffix| suffix == "exports");
    if file.parent() == Some(Path::new(EXPORTS_DIRECTORY)) && !is_read {
        return Err(Fault::input(format!(
            "exportfs would not read {}: its name does not end in .exports",
            file.display()
        ))
        .into());
    }
    Ok(())
}

/// The texts of all exports files there are. Without any, no version would be known to be in use.
fn all_exports(given: Option<&Path>) -> Result<Vec<String>> {
    let mut files: Vec<PathBuf> = EXPORTS.map(PathBuf::from).into();
    files.extend(given.map(Path::to_path_buf));
    for entry in fs::read_dir(EXPORTS_DIRECTORY).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_some_and(|suffix| suffix == "exports") {
            files.push(path);
        }
    }
    let mut texts = Vec::new();
    for file in files {
        texts.extend(read_if_there(&file)?);
    }
    if texts.is_empty() {
        return Err(Fault::input(
            "there is no exports file that would tell which versions are in use",
        )
        .remedy("name it with --exports FILE")
        .into());
    }
    Ok(texts)
}

fn read_if_there(file: &Path) -> Result<Option<String>> {
    match input::read_text(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn check(arguments: &Arguments, build: &BuildOutput, terminal: &Terminal) -> Result<ExitCode> {
    let provision = Provision::at(&arguments.to)?;
    let differences = provision.check(&build.image, &build.tars()?, terminal)?;
    for difference in &differences {
        println!("{difference}");
    }
    let path = provision.version(&build.image);
    if differences.is_empty() {
        terminal.say(&format!("{} equals the image", path.display()));
        return Ok(ExitCode::SUCCESS);
    }
    Err(Fault::input(format!(
        "{} differs from the image in {} places",
        path.display(),
        differences.len()
    ))
    .remedy("remove it, and run `hearth provision` again")
    .into())
}

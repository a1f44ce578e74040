//! Owns the chroot builder: the distribution's own mkinitramfs, run over a throw-away copy of the
//! image.
//! Never leaves anything that differs between runs: see `rewrite`.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::kernel::Kernel;
use super::options::Options;
use super::read::{FileType, read};
use super::select::Selection;
use super::{native, rewrite};
use crate::error::Fault;
use crate::image::index::Image;
use crate::input;
use crate::progress::{NoProgress, Progress};
use crate::recipe::ModuleSet;
use crate::rootfs::{Mounted, fallback, tools};
use crate::sandbox::{Cause, Limits, Namespaces, Program, Root, hand_over, steps};

steps! {
    MKINITRAMFS = "mkinitramfs": mkinitramfs, Input => ();
    /// Runs in the image's root.
    CONFIGURE = "configure mkinitramfs": configure, Vec<Placed> => ();
}

/// mkinitramfs' output, in the copy of the image.
const RESULT: &str = "hearth-initrd.img";
/// How many of mkinitramfs' last lines an error shows.
const LAST_LINES: usize = 20;
const CONFIGURATION: &str = "etc/initramfs-tools";

/// Inputs of mkinitramfs beyond the image.
#[derive(Clone, Copy, Debug)]
pub struct Chroot<'a> {
    /// The image's layers, topmost first.
    pub layers: &'a [PathBuf],
    /// The directory of the native tools, if there are any.
    pub tools: Option<&'a Path>,
    /// The image's date, Unix seconds.
    pub epoch: u64,
    pub hooks: &'a Hooks,
    pub module_set: ModuleSet,
    pub limits: &'a Limits,
    /// An empty directory for temporary files, on a disk.
    pub work: &'a Path,
}

/// Runs mkinitramfs, and writes its output to `out`, made deterministic.
///
/// # Errors
/// If the image has no mkinitramfs, or it fails; the latter with its last lines.
pub fn write(
    image: &Image,
    options: &Options<'_>,
    chroot: &Chroot<'_>,
    out: &mut dyn Write,
    progress: &dyn Progress,
) -> Result<()> {
    if image.follow("usr/sbin/mkinitramfs").is_none() {
        return Err(Fault::input(format!(
            "{} has no mkinitramfs, which the chroot builder runs",
            image.path().display()
        ))
        .remedy("add initramfs-tools to the recipe's packages, or use the native builder")
        .into());
    }
    let (kernel, selection) = native::selection(image, options)?;
    let made = chroot.work.join(RESULT);
    let open = || -> Result<BufReader<File>> {
        let file = File::open(&made).with_context(|| format!("cannot open {}", made.display()))?;
        Ok(BufReader::with_capacity(1 << 16, file))
    };
    fallback::or_emulated(chroot.tools, chroot.work, progress, |tools, _| {
        let input = Input {
            directory: chroot.work.to_path_buf(),
            layers: chroot.layers.to_vec(),
            tools: tools.map(Path::to_path_buf),
            epoch: chroot.epoch,
            limits: chroot.limits.clone(),
            kernel: kernel.release.clone(),
            files: files(&kernel, &selection, options, chroot),
        };
        Namespaces::running(options.arch).step(&MKINITRAMFS, &input, progress)?;
        match tools {
            Some(_) => check_foreign(open()?),
            None => Ok(()),
        }
    })?;
    rewrite::rewrite(&open, options.compression, out).context("what mkinitramfs made")?;
    fs::remove_file(&made).with_context(|| format!("cannot remove {}", made.display()))
}

/// A user's hooks and scripts for initramfs-tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks(Vec<Placed>);

impl Hooks {
    /// Reads all files of directories laid out like `/etc/initramfs-tools/hooks` and `…/scripts`.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(hooks: Option<&Path>, scripts: Option<&Path>) -> Result<Self> {
        let mut files = Vec::new();
        for (directory, below) in [(hooks, "hooks"), (scripts, "scripts")] {
            if let Some(directory) = directory {
                let below = Path::new(CONFIGURATION).join(below);
                gather(directory, &below, &mut files).map_err(|error| {
                    Fault::input(format!(
                        "the recipe's initramfs-tools files in {} cannot be read: {error:#}",
                        directory.display()
                    ))
                    .remedy("correct `hooks` and `scripts` under [initrd], or leave them out")
                })?;
            }
        }
        Ok(Hooks(files))
    }
}

/// A file of mkinitramfs' configuration, relative to the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Placed {
    path: PathBuf,
    executable: bool,
    content: Vec<u8>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Input {
    directory: PathBuf,
    layers: Vec<PathBuf>,
    tools: Option<PathBuf>,
    epoch: u64,
    limits: Limits,
    kernel: String,
    files: Vec<Placed>,
}

/// mkinitramfs' configuration: hearth's part, overridden by the recipe's.
fn files(
    kernel: &Kernel,
    selection: &Selection,
    options: &Options<'_>,
    chroot: &Chroot<'_>,
) -> Vec<Placed> {
    let lines = |items: Vec<&String>| {
        items
            .into_iter()
            .map(|item| format!("{item}\n"))
            .collect::<String>()
    };
    let mut files = Vec::new();
    let mut put = |path: &str, executable: bool, content: &str| {
        files.push(Placed {
            path: Path::new(CONFIGURATION).join(path),
            executable,
            content: content.as_bytes().to_vec(),
        });
    };
    put("conf.d/hearth", false, &configuration(chroot.module_set));
    put("hooks/hearth", true, include_str!("initramfs/hook.sh"));
    let functions = include_str!("initramfs/functions.sh");
    put("hearth/functions", false, functions);
    let modules = lines(selection.modules.keys().collect());
    put("hearth/modules", false, &modules);
    let at_start = lines(selection.load_at_start.iter().collect());
    put("hearth/modules-at-start", false, &at_start);
    let binaries = lines(options.binaries.iter().collect());
    put("hearth/binaries", false, &binaries);
    put("hearth/modules.hearth", false, &selection.reasons());
    put("scripts/nfs", true, include_str!("initramfs/nfs.sh"));
    let init_top = include_str!("initramfs/init-top.sh");
    put("scripts/init-top/hearth", true, init_top);
    let bottom = include_str!("initramfs/bottom.sh");
    put("scripts/nfs-bottom/hearth", true, bottom);
    put("scripts/local-bottom/hearth", true, bottom);
    log::debug!(
        "mkinitramfs for {}: {} modules of the board types",
        kernel.release,
        selection.modules.len()
    );
    files.extend(chroot.hooks.0.iter().cloned());
    files
}

/// Read by mkinitramfs and by the initrd's init. The compression is temporary: `rewrite` applies
/// the recipe's.
fn configuration(module_set: ModuleSet) -> String {
    let modules = match module_set {
        ModuleSet::Most => "most",
        ModuleSet::Netboot => "netboot",
        ModuleSet::List => "list",
    };
    format!("BOOT=nfs\nMODULES={modules}\nCOMPRESS=gzip\nCOMPRESSLEVEL=1\n")
}

fn gather(directory: &Path, below: &Path, files: &mut Vec<Placed>) -> Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, target) = (entry.path(), below.join(entry.file_name()));
        // Links are followed: they may point to hooks that recipes share.
        let meta = fs::metadata(&path).with_context(|| path.display().to_string())?;
        if meta.is_dir() {
            gather(&path, &target, files)?;
        } else {
            files.push(Placed {
                path: target,
                executable: meta.permissions().mode() & 0o111 != 0,
                content: input::read(&path).with_context(|| path.display().to_string())?,
            });
        }
    }
    Ok(())
}

/// Sandbox step: runs mkinitramfs over an overlay that is removed afterwards.
fn mkinitramfs(input: Input, _progress: &dyn Progress) -> Result<()> {
    let tools = input.tools.as_deref();
    let mounted = Mounted::with_tools(&input.directory, tools, &input.layers)?;
    let root = Root {
        epoch: input.epoch,
        binds: tools::binds(tools),
        limits: input.limits,
        ..Root::new(&mounted.root)
    };
    root.step(&CONFIGURE, &input.files, &NoProgress)?;
    let result = format!("/{RESULT}");
    let program = Program::new(["/usr/sbin/mkinitramfs", "-o", &result, &input.kernel])
        .env("PATH", tools::search_path());
    let mut lines: VecDeque<String> = VecDeque::new();
    let status = root.run(&program, &mut |line| {
        log::info!("mkinitramfs: {line}");
        if lines.len() == LAST_LINES {
            lines.pop_front();
        }
        lines.push_back(format!("    {line}"));
    })?;
    if !status.success() {
        let lines: Vec<String> = lines.into();
        return Err(Fault::input(format!(
            "mkinitramfs failed in the image ({status}); its last lines are:\n{}",
            lines.join("\n")
        ))
        .remedy("look at the hook that its lines name, or use the native builder")
        .because(Cause::Program)
        .into());
    }
    // Copied, and handed to the caller: files of the overlay may belong to subordinate ids.
    let result = input.directory.join(RESULT);
    fs::copy(mounted.root.join(RESULT), &result).context("cannot take what mkinitramfs made")?;
    hand_over(&fs::File::open(&result)?)?;
    mounted.discard()
}

/// # Errors
/// If one of the native tools is in the initrd, copied by a hook.
fn check_foreign(initrd: impl BufRead) -> Result<()> {
    read(initrd, &mut |entry, content| {
        if entry.file_type() == FileType::File && tools::is_native(content)? {
            return Err(tools::taken(&format!(
                "a hook of mkinitramfs has taken the host's `{}`",
                entry.path
            )));
        }
        Ok(())
    })
    .map(drop)
}

/// Step in the image's root, where no link leads out of it: writes the configuration.
fn configure(files: Vec<Placed>, _progress: &dyn Progress) -> Result<()> {
    for file in &files {
        let path = Path::new("/").join(&file.path);
        place(&path, file)
            .with_context(|| format!("cannot write {} of the image", path.display()))?;
    }
    Ok(())
}

fn place(path: &Path, file: &Placed) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, &file.content)?;
    let mode = if file.executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::help_of;

    #[test]
    fn hooks_keep_their_place_and_whether_they_can_be_run() {
        let own = tempfile::tempdir().unwrap();
        let hook = own.path().join("my-hook");
        fs::write(&hook, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o750)).unwrap();
        fs::create_dir(own.path().join("init-top")).unwrap();
        fs::write(own.path().join("init-top/text"), "x").unwrap();
        let Hooks(files) = Hooks::read(None, Some(own.path())).unwrap();
        let told: Vec<_> = files
            .iter()
            .map(|file| (file.path.to_str().unwrap(), file.executable))
            .collect();
        assert_eq!(
            told,
            [
                ("etc/initramfs-tools/scripts/init-top/text", false),
                ("etc/initramfs-tools/scripts/my-hook", true),
            ]
        );
    }

    #[test]
    fn hooks_that_are_not_there_are_named_with_the_place_to_correct() {
        let error = Hooks::read(Some(Path::new("/nowhere/hooks")), None).unwrap_err();
        assert!(error.to_string().contains("/nowhere/hooks"), "{error}");
        assert!(help_of(&error).unwrap().contains("[initrd]"));
    }
}

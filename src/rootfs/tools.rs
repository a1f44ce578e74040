//! Owns the layer of native programs that maintainer scripts run instead of the image's own, emulated ones.
//! Never lets one of them get into an image.
//!
//! Most of the time of emulated scripts goes into starting small programs: a shell, `grep`, `sed`, Perl. The lock also has
//! these packages for the host's architecture ([`crate::recipe::TOOLS`]). Their programs, with the libraries they need, are a
//! layer that hides the image's programs of the same names while scripts run. They are the same programs in the same version,
//! so that what they make is the same; `hearth verify` builds once with and once without them. What they load of the
//! image's other packages, such as modules of Perl, the lock has as well; where it has not, Perl is not among the tools.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader, ProgramHeader};

use super::merged_usr;
use super::package::{Package, PackageFile, below_usr, read_all};
use super::steps::PackagesInput;
use super::tree::Tree;
use super::unpack::unpack_first;
use crate::error::Fault;
use crate::progress::{Progress, Unit};
use crate::recipe::{TOOLS, loads_into_perl};
use crate::sandbox::{Cause, PATH, View};

/// Where the libraries are, which no image of another architecture has.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// A library that hooks of initramfs-tools would copy into the initrd: only the programs that [`shims`] call find it.
const HIDDEN_LIBRARY: &str = "libkmod.so.";
/// Where a root has what [`outside`] holds.
const OUTSIDE: &str = "/run/hearth-tools";
/// The tools' program interpreter. It is not where the psABI has it, below `/lib64`: scripts of base-files and usrmerge object
/// to such a directory in images of other architectures.
const INTERPRETER: &str = "/run/hearth-tools/ld.so";
/// Programs at [`OUTSIDE`], and their paths there. Those in `bin` are found by [`search_path`], those in `scripts` are
/// called by [`shims`].
const OUTSIDE_PROGRAMS: [(&str, &[&str]); 7] = [
    ("usr/bin/dpkg", &["scripts/dpkg"]),
    ("usr/bin/journalctl", &["scripts/journalctl"]),
    (
        "usr/bin/kmod",
        &["bin/depmod", "bin/modinfo", "bin/modprobe"],
    ),
    ("usr/bin/systemctl", &["scripts/systemctl"]),
    ("usr/bin/systemd-hwdb", &["bin/systemd-hwdb"]),
    ("usr/bin/systemd-sysusers", &["scripts/systemd-sysusers"]),
    ("usr/bin/systemd-tmpfiles", &["scripts/systemd-tmpfiles"]),
];

/// In [`OUTSIDE`]: what [`detour`] gives.
const DETOUR: &str = "detour";
/// The packages of native Perl.
const PERL: [&str; 2] = ["perl", "perl-base"];

/// Whether this host runs the lock's tools.
pub fn are_native() -> bool {
    cfg!(target_arch = "x86_64")
}

/// In the directory of a stage's tools: the layer.
pub fn layer(tools: &Path) -> PathBuf {
    tools.join("tree")
}

/// What a root binds to run the tools: the program interpreter, and programs by the names under which they are called that
/// are not in the layer. Of these the image's own are unpacked after their preinst, and would hide those of the layer; or they
/// are themselves copied into an initrd.
pub fn binds(tools: Option<&Path>) -> Vec<(PathBuf, PathBuf)> {
    let bind = |tools: &Path| (outside(tools), OUTSIDE.into());
    tools.map(bind).into_iter().collect()
}

/// The search path of a program that is to find these, where they are, before the image's own.
pub fn search_path() -> String {
    format!("{OUTSIDE}/bin:{PATH}")
}

/// Scripts that take the place of programs of the same names and call the native ones.
///
/// # Errors
/// If the tools cannot be read.
pub fn shims(tools: &Path) -> Result<Vec<(String, String)>> {
    let mut shims = Vec::new();
    for entry in fs::read_dir(outside(tools).join("scripts"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let call = format!(
            "exec {INTERPRETER} --library-path {OUTSIDE}/lib {OUTSIDE}/scripts/{name} \"$@\""
        );
        let script = match name.as_str() {
            // All else that it does depends on the architecture it was built for.
            "dpkg" => format!(
                "case $1 in --compare-versions | --validate-*) {call} ;; esac\nexec /usr/bin/dpkg \"$@\""
            ),
            _ => call,
        };
        shims.push((name, format!("#!/bin/sh\n{script}\n")));
    }
    Ok(shims)
}

fn outside(tools: &Path) -> PathBuf {
    tools.join("outside")
}

/// Below [`View::PLACE`], the image's own programs are where the tools hide them. `below` are the image's layers, topmost first;
/// `upper` is above the tools.
///
/// # Errors
/// If the tools cannot be read.
pub fn without(tools: &Path, below: &[PathBuf], upper: &Path) -> Result<View> {
    let layer = layer(tools);
    let mut view = View {
        emptied: vec![Path::new("/").join(LIBRARIES)],
        ..View::default()
    };
    for directory in ["usr/bin", "usr/sbin"].map(Path::new) {
        let entries = match fs::read_dir(layer.join(directory)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let path = directory.join(entry?.file_name());
            let is_file = |place: &PathBuf| {
                fs::symlink_metadata(place).is_ok_and(|meta| meta.file_type().is_file())
            };
            let own = below.iter().map(|layer| layer.join(&path)).find(is_file);
            // What the topmost layer has hides the tool.
            if let Some(own) = own
                && fs::symlink_metadata(upper.join(&path)).is_err()
            {
                view.binds.push((own, Path::new("/").join(&path)));
            }
        }
    }
    Ok(view)
}

/// What takes the place of a maintainer script that is to run the image's own programs: it goes on in the root's [`View`].
pub fn detour(tools: &Path) -> PathBuf {
    outside(tools).join(DETOUR)
}

/// The start of a command line that runs a program with the image's own programs, in the root's [`View`].
pub const WITHOUT: [&str; 2] = ["/usr/sbin/chroot", View::PLACE];

/// Unpacks the tools: programs of the packages that are named, libraries of all. The layers are those of the unpacked image.
pub fn unpack(input: PackagesInput, progress: &dyn Progress) -> Result<()> {
    let packages = read_all(&input.files, input.threads)?;
    let stage = progress.stage("tools", Some(packages.len() as u64), Unit::Items);
    let all = input.directory.join("all");
    let (tree, outside) = (layer(&input.directory), outside(&input.directory));
    fs::create_dir(&all)?;
    for directory in ["bin", "lib", "scripts"] {
        fs::create_dir_all(outside.join(directory))?;
    }
    merged_usr(&mut Tree::open(&all)?)?;
    let packages: Vec<&Package> = packages.iter().collect();
    let unpacked = unpack_first(&all, &packages, holds_code, input.threads, &*stage)?;
    fs::create_dir_all(tree.join(LIBRARIES).with_file_name(""))?;
    fs::rename(all.join(LIBRARIES), tree.join(LIBRARIES))
        .context("the lock's tools have no libraries")?;
    for entry in fs::read_dir(tree.join(LIBRARIES))? {
        let entry = entry?;
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(HIDDEN_LIBRARY.as_bytes())
        {
            fs::rename(entry.path(), outside.join("lib").join(entry.file_name()))?;
        }
    }
    let interpreter = tree.join(LIBRARIES).join("ld-linux-x86-64.so.2");
    fs::hard_link(interpreter, outside.join("ld.so"))?;
    for (program, names) in OUTSIDE_PROGRAMS {
        let program = all.join(program);
        if program.is_file() {
            set_interpreter(&program)?;
            for name in names {
                fs::hard_link(&program, outside.join(name))?;
            }
        }
    }
    write_detour(&outside.join(DETOUR))?;
    let lacking = lacking_modules(&input.image, &packages, input.threads)?;
    if let Some(name) = &lacking {
        log::warn!(
            "scripts in Perl are emulated, which takes longer: the lock has no native {name}; \
             `hearth lock` adds it if the archive has it"
        );
    }
    let mut count = 0;
    for (package, unpacked) in packages.iter().zip(&unpacked) {
        if lacking.is_some() && PERL.contains(&package.name()) {
            continue;
        }
        let programs = unpacked.list.iter();
        for path in programs.filter_map(|path| program(package.name(), path)) {
            let source = all.join(&path);
            if fs::symlink_metadata(&source)?.is_file() && is_native(File::open(&source)?)? {
                let target = tree.join(&path);
                fs::create_dir_all(target.with_file_name(""))?;
                fs::rename(&source, &target)?;
                set_interpreter(&target)?;
                copy_time(&path, &input.layers, &target)?;
                count += 1;
            }
        }
    }
    // adduser calls it for each of its messages, by a search path of its own; nothing takes them.
    let logger = Path::new("usr/bin/logger");
    fs::hard_link(tree.join("usr/bin/true"), tree.join(logger))
        .context("the lock's tools have no `true`")?;
    fs::remove_dir_all(&all)?;
    stage.finish(&format!("{count} native programs for the scripts"));
    Ok(())
}

/// A package of the image with compiled modules of Perl that the tools lack. A native Perl would not find them, and a script
/// that does without makes something else.
fn lacking_modules(
    image: &[PackageFile],
    tools: &[&Package],
    threads: usize,
) -> Result<Option<String>> {
    let native = |name: &str| tools.iter().any(|tool| tool.name() == name);
    let mut with_modules = read_all(image, threads)?.into_iter().filter(|package| {
        let depends =
            ["Pre-Depends", "Depends"].map(|field| package.field(field).unwrap_or_default());
        package.file.arch != "all" && loads_into_perl(package.name(), &depends.join(", "))
    });
    Ok(with_modules
        .find(|package| !native(package.name()))
        .map(|package| package.name().to_owned()))
}

fn write_detour(path: &Path) -> Result<()> {
    let script = format!("#!/bin/sh\nexec {} \"$0\" \"$@\"\n", WITHOUT.join(" "));
    fs::write(path, script)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// Whether a path may be a program's or a library's, or is of a directory that they are in.
fn holds_code(path: &Path) -> bool {
    let path = below_usr(path);
    ["usr/bin", "usr/sbin", LIBRARIES]
        .iter()
        .any(|code| path.starts_with(code) || Path::new(code).starts_with(&path))
}

/// The path of a package's program below `usr`, if it is one that is to be native.
fn program(package: &str, path: &str) -> Option<PathBuf> {
    let path = below_usr(Path::new(path.trim_start_matches('/')));
    let name = path.file_name()?.to_str()?;
    let directories = ["usr/bin", "usr/sbin"].map(Path::new);
    let is_program = path
        .parent()
        .is_some_and(|parent| directories.contains(&parent));
    let wanted = match package {
        // These tell the processor, which has to be the image's.
        "coreutils" => !matches!(name, "arch" | "uname"),
        // What these do is the same for every architecture.
        "dpkg" => matches!(
            name,
            "dpkg-divert" | "dpkg-statoverride" | "update-alternatives"
        ),
        "kmod" | "systemd" | "udev" => false,
        _ => TOOLS.contains(&package),
    };
    (is_program && wanted).then_some(path)
}

/// Makes sure that nothing of the tools is among an image's changes, where a script may have copied, renamed or touched
/// one of them.
///
/// # Errors
/// If there is.
pub fn check_absent(upper: &Path) -> Result<()> {
    if fs::symlink_metadata(upper.join(LIBRARIES)).is_ok() {
        return Err(taken(&format!("a script has written into /{LIBRARIES}")));
    }
    let mut todo = vec![upper.to_path_buf()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() && is_native(File::open(entry.path())?)? {
                let path = entry.path();
                let path = path.strip_prefix(upper).unwrap_or(&path);
                let path = path.display();
                return Err(taken(&format!("a script has put the host's /{path} there")));
            }
        }
    }
    Ok(())
}

/// The error for one of the tools where a file of the image should be.
pub fn taken(sentence: &str) -> anyhow::Error {
    Fault::input(sentence).because(Cause::HostsFile).into()
}

/// Whether a file is of the tools' architecture: by the first bytes of the ELF header (gABI, chapter 4), class,
/// encoding and machine.
pub fn is_native(file: impl Read) -> io::Result<bool> {
    const EM_X86_64: [u8; 2] = [62, 0];
    let mut head = Vec::with_capacity(20);
    file.take(20).read_to_end(&mut head)?;
    Ok(head.starts_with(b"\x7fELF\x02\x01") && head.get(18..20) == Some(&EM_X86_64))
}

/// Gives a program the time of the image's own, which scripts give to links to it.
fn copy_time(path: &Path, layers: &[PathBuf], target: &Path) -> Result<()> {
    let own = layers
        .iter()
        .find_map(|layer| fs::symlink_metadata(layer.join(path)).ok());
    if let Some(own) = own {
        let file = File::options().write(true).open(target)?;
        file.set_modified(own.modified()?)?;
    }
    Ok(())
}

/// Makes a program look for its interpreter at [`INTERPRETER`], which is no longer than what it looked for.
fn set_interpreter(program: &Path) -> Result<()> {
    let damaged = || format!("{} of the tools is damaged", program.display());
    let mut data = fs::read(program).with_context(damaged)?;
    let elf = FileHeader64::<LittleEndian>::parse(&*data).with_context(damaged)?;
    let headers = elf
        .program_headers(LittleEndian, &*data)
        .with_context(damaged)?;
    let place = headers
        .iter()
        .find(|header| header.p_type(LittleEndian) == PT_INTERP)
        .map(|header| header.file_range(LittleEndian));
    // A static program has none.
    let Some((start, size)) = place else {
        return Ok(());
    };
    let start = usize::try_from(start)?;
    let field = data
        .get_mut(start..start + usize::try_from(size)?)
        .filter(|field| field.len() > INTERPRETER.len())
        .with_context(damaged)?;
    field.fill(0);
    field[..INTERPRETER.len()].copy_from_slice(INTERPRETER.as_bytes());
    fs::write(program, data).with_context(|| format!("cannot write {}", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_wherever_the_package_has_them() {
        let usr = |path: &str| Some(PathBuf::from(path));
        assert_eq!(program("dash", "/bin/dash"), usr("usr/bin/dash"));
        assert_eq!(program("mawk", "/usr/sbin/x"), usr("usr/sbin/x"));
        assert_eq!(program("libc-bin", "/usr/bin/ldd"), None);
        assert_eq!(program("dpkg", "/usr/bin/dpkg"), None);
        assert_eq!(
            program("dpkg", "/usr/bin/dpkg-divert"),
            usr("usr/bin/dpkg-divert")
        );
        for other in [
            "/.",
            "/usr/bin",
            "/bin/uname",
            "/usr/bin/a/b",
            "/usr/share/dash",
        ] {
            assert_eq!(program("coreutils", other), None, "{other}");
        }
    }

    #[test]
    fn a_native_program_among_the_changes_is_found() {
        let upper = tempfile::tempdir().unwrap();
        fs::create_dir_all(upper.path().join("usr/bin")).unwrap();
        fs::write(upper.path().join("usr/bin/script"), "#!/bin/sh\n").unwrap();
        check_absent(upper.path()).unwrap();
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(18, 0);
        fs::write(
            upper.path().join("usr/bin/arm"),
            [&elf[..], &[183, 0]].concat(),
        )
        .unwrap();
        check_absent(upper.path()).unwrap();
        fs::write(
            upper.path().join("usr/bin/x.distrib"),
            [&elf[..], &[62, 0]].concat(),
        )
        .unwrap();
        let error = check_absent(upper.path()).unwrap_err();
        assert!(error.to_string().contains("/usr/bin/x.distrib"), "{error}");
    }
}

//! Owns running maintainer scripts: preinst, and what dpkg itself does to configure. Never unpacks
//! anything.
//!
//! dpkg is the image's own, under qemu-user in the sandbox. Shims replace programs that a script
//! must not run in an image under construction (that start services, make an initrd or host keys),
//! and some that take very long under qemu-user: programs of the same name, earlier in `PATH`, that
//! are not written into the image.

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::thread;

use anyhow::{Context, Result};

use super::dpkg::INFO;
use super::mounted::Mounted;
use super::package::PackagesInput;
use super::tree::Tree;
use super::{certificates, tools};
use crate::error::Fault;
use crate::progress::{NoProgress, Progress, Stage};
use crate::sandbox::{Cause, FailedScript, Limits, Program, Root, View, steps};

steps! {
    /// Runs in the image's root.
    CERTIFICATES = "certificates": link_certificates, () => CertificateLinks;
}

const NOTHING: &str = include_str!("shims/nothing");
/// Programs that do nothing during the build. The board makes its own host keys; an initrd is made
/// later, if at all; depmod, systemd-hwdb and update-ca-certificates run once, from [`Configure`];
/// logger has no syslog to write to.
const SILENCED: [&str; 10] = [
    "deb-systemd-invoke",
    "depmod",
    "invoke-rc.d",
    "logger",
    "service",
    "ssh-keygen",
    "start-stop-daemon",
    "systemd-hwdb",
    "update-ca-certificates",
    "update-initramfs",
];
/// Inputs of the indices: kernel modules (depmod.d(5)) and the hardware database (hwdb(7)).
pub const INDEXED: [&str; 5] = [
    "etc/depmod.d",
    "usr/lib/depmod.d",
    "usr/lib/modules",
    "etc/udev/hwdb.d",
    "usr/lib/udev/hwdb.d",
];
/// How many of a failed script's last lines are shown.
const LAST_LINES: usize = 20;

/// The native tools of an image that is mounted with them.
#[derive(Clone, Copy, Debug)]
pub struct Native<'a> {
    /// Their directory.
    pub tools: &'a Path,
    /// The image's layers below the changes, topmost first.
    pub below: &'a [PathBuf],
    /// The layer of the changes.
    pub upper: &'a Path,
    /// Names of packages whose scripts run the image's own programs all the same.
    pub emulated: &'a BTreeSet<String>,
}

/// An image whose packages are being configured. For a step inside [`crate::sandbox::Namespaces`].
pub struct Configure<'a> {
    root: Root,
    native: Option<Native<'a>>,
    stage: &'a dyn Stage,
}

impl<'a> Configure<'a> {
    /// For the scripts of a stage, over `mounted`, with the image's layers `below` it, topmost first.
    pub fn of(
        input: &'a PackagesInput,
        mounted: &'a Mounted,
        below: &'a [PathBuf],
        stage: &'a dyn Stage,
    ) -> Result<Self> {
        let native = input.tools.as_deref().map(|tools| Native {
            tools,
            below,
            upper: mounted.upper(),
            emulated: &input.emulated,
        });
        let epoch = u64::try_from(input.epoch)?;
        Configure::new(&mounted.root, native, epoch, &input.limits, stage)
    }

    /// `root` is the image's directory, `native` what it was mounted with if there are native tools, `epoch` the image's date;
    /// `stage` is told which package is being configured.
    ///
    /// # Errors
    /// If the tools cannot be read.
    pub fn new(
        root: &Path,
        native: Option<Native<'a>>,
        epoch: u64,
        limits: &Limits,
        stage: &'a dyn Stage,
    ) -> Result<Self> {
        let tools = native.map(|native| native.tools);
        let mut shims = shims();
        if let Some(tools) = tools {
            shims.extend(tools::shims(tools)?);
        }
        let root = Root {
            epoch,
            shims,
            binds: tools::binds(tools),
            limits: limits.clone(),
            ..Root::new(root)
        };
        Ok(Configure {
            root,
            native,
            stage,
        })
    }

    /// Runs `preinst install` of a package, as dpkg(1) does before unpacking: `package` is its name
    /// in dpkg's `info` directory (`libc6:armhf`, `dash`), `arch` the architecture in its control
    /// file.
    ///
    /// # Errors
    /// [`Fault::input`] with the script's last lines if it fails.
    pub fn preinst(&self, package: &str, arch: &str) -> Result<()> {
        let name = package.split_once(':').map_or(package, |(name, _)| name);
        let script = format!("/{INFO}/{package}.preinst");
        let is_emulated = self.emulated().is_some_and(|names| names.contains(name));
        let way = is_emulated.then_some(tools::WITHOUT).into_iter().flatten();
        let argv = way.chain([script.as_str(), "install"]);
        let program = maintainer(Program::new(argv))
            .env("DPKG_MAINTSCRIPT_PACKAGE", name)
            .env("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1")
            .env("DPKG_MAINTSCRIPT_ARCH", arch)
            .env("DPKG_MAINTSCRIPT_NAME", "preinst")
            .env("DPKG_MAINTSCRIPT_DEBUG", "0")
            .env("DPKG_ADMINDIR", "/var/lib/dpkg")
            .env("DPKG_ROOT", "")
            .env("DEBCONF_PACKAGE", name);
        self.stage.message(package);
        let (status, lines) = self.run(&self.root_of_scripts()?, &program)?;
        if status.success() {
            return Ok(());
        }
        Err(scripts_failed(vec![FailedScript {
            package: name.to_owned(),
            script: "preinst".into(),
            reason: status.to_string(),
            lines: last(&lines),
        }]))
    }

    /// Configures packages even if their dependencies are not configured yet: for essential
    /// packages, which are configured first.
    ///
    /// # Errors
    /// As [`Configure::configure_all`].
    pub fn configure(&self, packages: &[String]) -> Result<()> {
        let mut arguments = vec!["--force-depends".to_owned(), "--configure".to_owned()];
        arguments.extend_from_slice(packages);
        self.dpkg(&arguments)
    }

    /// Configures all remaining packages, processes triggers, and runs what the shims postponed;
    /// with `with_indices`, also what makes the indices.
    ///
    /// # Errors
    /// [`Fault::input`] that names the package whose script failed, with its last lines.
    pub fn configure_all(&self, with_indices: bool) -> Result<()> {
        thread::scope(|scope| {
            let indices = with_indices.then(|| scope.spawn(|| self.indices()));
            self.dpkg(&["--configure".to_owned(), "-a".to_owned()])?;
            self.certificates()?;
            match indices {
                Some(indices) => indices.join().expect("making indices does not panic"),
                None => Ok(()),
            }
        })
    }

    /// Makes the indices of [`INDEXED`], the slowest work of maintainer scripts, which depends on
    /// nothing else.
    ///
    /// # Errors
    /// [`Fault::input`] with the last lines of the failed program.
    pub fn indices(&self) -> Result<()> {
        thread::scope(|scope| {
            let modules = scope.spawn(|| self.modules());
            self.hardware()?;
            modules.join().expect("depmod does not panic")
        })
    }

    fn dpkg(&self, arguments: &[String]) -> Result<()> {
        const SCRIPT: &str = "dpkg \"$@\"
            status=$?
            DPKG_MAINTSCRIPT_PACKAGE=hearth deb-systemd-helper hearth-enable-gathered
            exit $status";
        let options = ["--force-unsafe-io", "--force-confold", "--force-confdef"];
        let mut argv = vec![
            "/bin/sh".to_owned(),
            "-c".into(),
            SCRIPT.into(),
            "dpkg".into(),
        ];
        argv.extend(options.map(str::to_owned));
        argv.extend_from_slice(arguments);
        let program = maintainer(Program::new(argv));
        let (status, lines) = self.run(&self.root_of_scripts()?, &program)?;
        if status.success() {
            return Ok(());
        }
        match scripts_that_failed(&lines) {
            failed if failed.is_empty() => {
                Err(program_failed("the image's dpkg failed", status, &lines))
            }
            failed => Err(scripts_failed(failed)),
        }
    }

    /// Packages whose scripts run the image's own programs though there are native tools, if any.
    fn emulated(&self) -> Option<&BTreeSet<String>> {
        let names = self.native.map(|native| native.emulated);
        names.filter(|names| !names.is_empty())
    }

    /// The root for dpkg and scripts: those of [`Self::emulated`] make a detour into a sight of it without native tools.
    fn root_of_scripts(&self) -> Result<Root> {
        let mut root = self.root.clone();
        let (Some(native), Some(emulated)) = (self.native, self.emulated()) else {
            return Ok(root);
        };
        let view = tools::without(native.tools, native.below, native.upper)?;
        root.view = Some(Box::new(View {
            shims: shims(),
            ..view
        }));
        for file in Tree::open(&root.directory)?.list(Path::new(INFO))? {
            let name = file.to_string_lossy();
            let stem = name.strip_suffix(".postinst");
            let package = stem.map(|stem| stem.split_once(':').map_or(stem, |(name, _)| name));
            if package.is_some_and(|package| emulated.contains(package)) {
                let script = Path::new("/").join(INFO).join(&file);
                root.binds.push((tools::detour(native.tools), script));
            }
        }
        Ok(root)
    }

    /// Runs depmod, since kernel packages bring no `modules.dep`.
    fn modules(&self) -> Result<()> {
        const DEPMOD: &str = "command -v depmod >/dev/null || exit 0
            for kernel in /lib/modules/*/kernel; do
                [ -d \"$kernel\" ] || continue
                version=${kernel%/kernel}
                depmod \"${version##*/}\"
            done";
        self.must(&index(DEPMOD), "depmod")
    }

    /// Runs systemd-hwdb, as udev's postinst does.
    fn hardware(&self) -> Result<()> {
        const HWDB: &str =
            "[ -d /usr/lib/udev/hwdb.d ] && command -v systemd-hwdb >/dev/null || exit 0
            systemd-hwdb --usr update";
        self.must(&index(HWDB), "systemd-hwdb")
    }

    /// As update-ca-certificates(8); runs that program itself where packages have hooks for it.
    fn certificates(&self) -> Result<()> {
        match self.root.step(&CERTIFICATES, &(), &NoProgress)? {
            CertificateLinks::Nothing => Ok(()),
            CertificateLinks::Links => self.must(
                &Program::new(["openssl", "rehash", "/etc/ssl/certs"]),
                "openssl rehash",
            ),
            CertificateLinks::Hooked => self.must(
                &Program::new(["/usr/sbin/update-ca-certificates"]),
                "update-ca-certificates",
            ),
        }
    }

    fn must(&self, program: &Program, name: &str) -> Result<()> {
        let (status, lines) = self.run(&self.root, program)?;
        // depmod ignores modules that it cannot read.
        let complained = lines.iter().any(|line| line.contains(": ERROR: "));
        if status.success() && !complained {
            return Ok(());
        }
        let what = format!("{name} failed in the image");
        Err(program_failed(&what, status, &lines))
    }

    fn run(&self, root: &Root, program: &Program) -> Result<(ExitStatus, VecDeque<String>)> {
        let mut lines = VecDeque::new();
        let status = root.run(program, &mut |line| {
            log::info!("{line}");
            if let Some((package, _)) = line
                .strip_prefix("Setting up ")
                .and_then(|rest| rest.split_once(' '))
            {
                self.stage.message(package);
                self.stage.advance(1);
            }
            // dpkg's summary of failed packages comes last.
            if lines.len() == 5000 {
                lines.pop_front();
            }
            lines.push_back(line.to_owned());
        })?;
        match lines.back().and_then(|last| last.strip_prefix("hearth: ")) {
            Some(reason) if !status.success() => Err(Fault::host(reason).into()),
            _ => Ok((status, lines)),
        }
    }
}

/// Runs a program that makes an index: without the shims, which replace it.
fn index(script: &str) -> Program {
    Program::shell(script).env("PATH", tools::search_path())
}

/// The environment of maintainer scripts, beyond the sandbox's.
fn maintainer(program: Program) -> Program {
    program
        .env("DEBIAN_PRIORITY", "critical")
        .env("UCF_FORCE_CONFFOLD", "1")
        // hooks of kernel packages test it
        .env("INITRD", "No")
}

/// The shims of every root, with or without native tools.
fn shims() -> Vec<(String, String)> {
    let mut shims: Vec<_> = SILENCED
        .map(|name| (name.to_owned(), NOTHING.to_owned()))
        .into();
    shims.push((
        "deb-systemd-helper".into(),
        include_str!("shims/deb-systemd-helper").into(),
    ));
    shims
}

/// The scripts that dpkg says have failed, in its order. It goes on with other packages after one that failed.
fn scripts_that_failed(lines: &VecDeque<String>) -> Vec<FailedScript> {
    const FAILED: &str = "dpkg: error processing package ";
    let mut failed = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let (Some(rest), Some(reason)) = (line.strip_prefix(FAILED), lines.get(at + 1)) else {
            continue;
        };
        let package = rest.split([' ', ':']).next().unwrap_or(rest);
        // Others are left as they are since they depend on it, or for a mistake in dpkg's database.
        if reason.contains(" script") {
            failed.push(FailedScript {
                package: package.to_owned(),
                script: "postinst".into(),
                reason: reason.trim().to_owned(),
                lines: last(&said(lines, at)),
            });
        }
    }
    failed
}

/// What a script has said before line `at`, with the line in which dpkg says that it runs it.
fn said(lines: &VecDeque<String>, at: usize) -> VecDeque<String> {
    let begins = |line: &String| {
        ["Setting up ", "Processing triggers for "]
            .iter()
            .any(|words| line.starts_with(words))
    };
    let before = lines.iter().take(at);
    let begin = before.clone().rposition(begins).unwrap_or(0);
    before.skip(begin).cloned().collect()
}

fn scripts_failed(scripts: Vec<FailedScript>) -> anyhow::Error {
    let told: Vec<String> = scripts
        .iter()
        .map(|failed| {
            format!(
                "the {} script of the package {} failed ({}); its last lines are:\n{}",
                failed.script,
                failed.package,
                failed.reason,
                indented(&failed.lines)
            )
        })
        .collect();
    Fault::input(told.join("\n"))
        .remedy(
            "`hearth shell --unpacked RECIPE` gives a shell in the image before any script has run; `dpkg --configure -a` \
             there shows it again",
        )
        .because(Cause::Scripts(scripts))
        .into()
}

fn program_failed(what: &str, status: ExitStatus, lines: &VecDeque<String>) -> anyhow::Error {
    let lines = indented(&last(lines));
    Fault::input(format!("{what} ({status}); its last lines are:\n{lines}"))
        .because(Cause::Program)
        .into()
}

fn last(lines: &VecDeque<String>) -> Vec<String> {
    let skipped = lines.len().saturating_sub(LAST_LINES);
    lines.iter().skip(skipped).cloned().collect()
}

fn indented(lines: &[String]) -> String {
    let lines = lines.iter().map(|line| format!("    {line}"));
    lines.collect::<Vec<_>>().join("\n")
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum CertificateLinks {
    Nothing,
    Links,
    Hooked,
}

fn link_certificates(_: (), _progress: &dyn Progress) -> Result<CertificateLinks> {
    let hooked = std::fs::read_dir("/etc/ca-certificates/update.d")
        .is_ok_and(|mut dir| dir.next().is_some());
    if hooked {
        return Ok(CertificateLinks::Hooked);
    }
    let links = certificates::update(Path::new("/")).context("cannot update /etc/ssl/certs")?;
    Ok(links.map_or(CertificateLinks::Nothing, |_| CertificateLinks::Links))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{cause_of, help_of};

    #[test]
    fn failing_scripts_are_named_with_what_they_said() {
        let lines: VecDeque<String> = [
            "Setting up before (1.0) ...",
            "nothing of foo",
            "Setting up foo:armhf (1.0) ...",
            "foo: cannot find bar",
            "dpkg: error processing package foo:armhf (--configure):",
            " installed foo:armhf package post-installation script subprocess returned error exit status 7",
            "dpkg: dependency problems prevent configuration of user:",
            " user depends on foo; however:",
            "  Package foo:armhf is not configured yet.",
            "",
            "dpkg: error processing package user (--configure):",
            " dependency problems - leaving unconfigured",
            "Processing triggers for man-db (2) ...",
            "man-db: killed",
            "dpkg: error processing package man-db (--configure):",
            " installed man-db package post-installation script subprocess was killed by signal (Killed)",
            "Errors were encountered while processing:",
            " foo:armhf",
        ]
        .map(str::to_owned)
        .into();
        let failed = scripts_that_failed(&lines);
        let told: Vec<_> = failed
            .iter()
            .map(|one| (one.package.as_str(), one.lines.join("|")))
            .collect();
        assert_eq!(
            told,
            [
                (
                    "foo",
                    "Setting up foo:armhf (1.0) ...|foo: cannot find bar".to_owned()
                ),
                (
                    "man-db",
                    "Processing triggers for man-db (2) ...|man-db: killed".to_owned()
                ),
            ]
        );
        assert!(failed[0].reason.ends_with("exit status 7"));
        let error = scripts_failed(failed[..1].to_vec());
        assert!(
            error.to_string().ends_with("    foo: cannot find bar"),
            "{error}"
        );
        assert!(help_of(&error).unwrap().contains("hearth shell"));
        assert_eq!(
            cause_of(&error),
            Some(&Cause::Scripts(failed[..1].to_vec()))
        );
    }
}

//! Owns running maintainer scripts: preinst, and what dpkg itself does to configure. Never unpacks anything.
//!
//! dpkg is the image's own, under qemu-user in the sandbox. What such a script must not do to an image under construction
//! (start services, make an initrd, make host keys), and what takes it very long under qemu-user, is kept from it by
//! shims: programs of the same name, earlier in `PATH`, that are not written into the image.

use std::collections::VecDeque;
use std::path::Path;
use std::process::ExitStatus;
use std::thread;

use anyhow::{Context, Result};
use serde_json::Value;

use super::{certificates, tools};
use crate::error::Fault;
use crate::progress::{NoProgress, Progress, Stage};
use crate::sandbox::{Limits, Program, Root, Step};

/// What is done inside the image's root, for `main` to register.
pub const STEPS: &[Step] = &[Step::new("certificates", link_certificates)];

const NOTHING: &str = include_str!("shims/nothing");
/// Programs that must do nothing now. The board makes its own host keys; an initrd is made later, if at all; depmod,
/// systemd-hwdb and update-ca-certificates are run once, by [`Configure`]; nothing takes logger's lines.
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
/// What indices are made of: of modules (depmod.d(5)) and of hardware (hwdb(7)).
pub const INDEXED: [&str; 5] = [
    "etc/depmod.d",
    "usr/lib/depmod.d",
    "usr/lib/modules",
    "etc/udev/hwdb.d",
    "usr/lib/udev/hwdb.d",
];
/// How many of the last lines a script's failure shows.
const LAST_LINES: usize = 20;

/// An image being configured. For a step inside [`crate::sandbox::Namespaces`].
pub struct Configure<'a> {
    root: Root,
    stage: &'a dyn Stage,
}

impl<'a> Configure<'a> {
    /// `root` is the image's directory, with the layer of `tools` in it if there are any, `epoch` the image's date;
    /// `stage` is told which package is being configured.
    ///
    /// # Errors
    /// If the tools cannot be read.
    pub fn new(
        root: &Path,
        tools: Option<&Path>,
        epoch: u64,
        limits: &Limits,
        stage: &'a dyn Stage,
    ) -> Result<Self> {
        let mut shims: Vec<_> = SILENCED
            .map(|name| (name.to_owned(), NOTHING.to_owned()))
            .into();
        shims.push((
            "deb-systemd-helper".into(),
            include_str!("shims/deb-systemd-helper").into(),
        ));
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
        Ok(Configure { root, stage })
    }

    /// Runs `preinst install` of an unpacked package, as dpkg(1) does before unpacking: `package` is its name in dpkg's
    /// `info` directory (`libc6:armhf`, `dash`), `arch` what its control file says.
    ///
    /// # Errors
    /// [`Fault::input`] with its last lines if it fails.
    pub fn preinst(&self, package: &str, arch: &str) -> Result<()> {
        let name = package.split_once(':').map_or(package, |(name, _)| name);
        let script = format!("/var/lib/dpkg/info/{package}.preinst");
        let program = maintainer(Program::new([script.as_str(), "install"]))
            .env("DPKG_MAINTSCRIPT_PACKAGE", name)
            .env("DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT", "1")
            .env("DPKG_MAINTSCRIPT_ARCH", arch)
            .env("DPKG_MAINTSCRIPT_NAME", "preinst")
            .env("DPKG_MAINTSCRIPT_DEBUG", "0")
            .env("DPKG_ADMINDIR", "/var/lib/dpkg")
            .env("DPKG_ROOT", "")
            .env("DEBCONF_PACKAGE", name);
        self.stage.message(package);
        let (status, lines) = self.run(&program)?;
        if status.success() {
            return Ok(());
        }
        Err(script_failed(name, "preinst", &status.to_string(), &lines))
    }

    /// Configures some packages although others that they depend on are not configured yet: for essential ones, which come
    /// before all others.
    ///
    /// # Errors
    /// As [`Configure::configure_all`].
    pub fn configure(&self, packages: &[String]) -> Result<()> {
        let mut arguments = vec!["--force-depends".to_owned(), "--configure".to_owned()];
        arguments.extend_from_slice(packages);
        self.dpkg(&arguments)
    }

    /// Configures all packages that are not, processes triggers, and makes what the shims have put off; `with_indices` as well.
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

    /// Makes the indices of [`INDEXED`], which need nothing but these: the slowest of all that scripts would do.
    ///
    /// # Errors
    /// [`Fault::input`] with the last lines of the program that failed.
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
        let (status, lines) = self.run(&maintainer(Program::new(argv)))?;
        if status.success() {
            return Ok(());
        }
        match package_that_failed(&lines) {
            Some((package, reason, at)) => {
                let said: VecDeque<String> = lines.iter().take(at).cloned().collect();
                Err(script_failed(&package, "postinst", &reason, &said))
            }
            None => Err(Fault::input(format!(
                "the image's dpkg failed ({status}); its last lines are:\n{}",
                tail(&lines)
            ))
            .into()),
        }
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

    /// As update-ca-certificates(8), which is itself run where packages hook into it.
    fn certificates(&self) -> Result<()> {
        let made: Made = self.root.step("certificates", &(), &NoProgress)?;
        match made {
            Made::Nothing => Ok(()),
            Made::Links => self.must(
                &Program::new(["openssl", "rehash", "/etc/ssl/certs"]),
                "openssl rehash",
            ),
            Made::Hooked => self.must(
                &Program::new(["/usr/sbin/update-ca-certificates"]),
                "update-ca-certificates",
            ),
        }
    }

    fn must(&self, program: &Program, name: &str) -> Result<()> {
        let (status, lines) = self.run(program)?;
        // depmod goes on without the modules that it cannot read.
        let complained = lines.iter().any(|line| line.contains(": ERROR: "));
        if status.success() && !complained {
            return Ok(());
        }
        Err(Fault::input(format!(
            "{name} failed in the image ({status}); its last lines are:\n{}",
            tail(&lines)
        ))
        .into())
    }

    fn run(&self, program: &Program) -> Result<(ExitStatus, VecDeque<String>)> {
        let mut lines = VecDeque::new();
        let status = self.root.run(program, &mut |line| {
            log::info!("{line}");
            if let Some((package, _)) = line
                .strip_prefix("Setting up ")
                .and_then(|rest| rest.split_once(' '))
            {
                self.stage.message(package);
                self.stage.advance(1);
            }
            // What dpkg says about one that failed comes after all others are done.
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

/// A script that makes an index: without the shims, which silence the programs for that.
fn index(script: &str) -> Program {
    Program::shell(script).env("PATH", tools::search_path())
}

/// The environment of maintainer scripts, beyond the sandbox's.
fn maintainer(program: Program) -> Program {
    program
        .env("DEBIAN_PRIORITY", "critical")
        .env("UCF_FORCE_CONFFOLD", "1")
        // kernel packages' hooks look at it
        .env("INITRD", "No")
}

/// Which package dpkg says has failed first, why, and at which line it says so.
fn package_that_failed(lines: &VecDeque<String>) -> Option<(String, String, usize)> {
    let at = lines
        .iter()
        .position(|line| line.starts_with("dpkg: error processing package "))?;
    let package = lines[at]
        .strip_prefix("dpkg: error processing package ")?
        .split(' ')
        .next()?
        .to_owned();
    let reason = lines.get(at + 1).map_or("", |line| line.trim());
    Some((package, reason.to_owned(), at))
}

fn script_failed(
    package: &str,
    script: &str,
    reason: &str,
    lines: &VecDeque<String>,
) -> anyhow::Error {
    Fault::input(format!(
        "the {script} script of the package {package} failed ({reason}); its last lines are:\n{}",
        tail(lines)
    ))
    .remedy(
        "`hearth shell --unpacked RECIPE` gives a shell in the image before any script has run; `dpkg --configure -a` there \
         shows it again",
    )
    .into()
}

fn tail(lines: &VecDeque<String>) -> String {
    lines
        .iter()
        .skip(lines.len().saturating_sub(LAST_LINES))
        .map(|line| format!("    {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[derive(Debug, serde::Serialize, serde::Deserialize)]
enum Made {
    Nothing,
    Links,
    Hooked,
}

fn link_certificates(_input: Value, _progress: &dyn Progress) -> Result<Value> {
    let hooked = std::fs::read_dir("/etc/ca-certificates/update.d")
        .is_ok_and(|mut dir| dir.next().is_some());
    let made = if hooked {
        Made::Hooked
    } else {
        match certificates::update(Path::new("/")).context("cannot update /etc/ssl/certs")? {
            Some(_) => Made::Links,
            None => Made::Nothing,
        }
    };
    Ok(serde_json::to_value(made)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::help_of;

    #[test]
    fn a_failing_script_is_named_with_what_it_said() {
        let lines: VecDeque<String> = [
            "Setting up foo:armhf (1.0) ...",
            "foo: cannot find bar",
            "dpkg: error processing package foo:armhf (--configure):",
            " installed foo:armhf package post-installation script subprocess returned error exit status 7",
            "Setting up other (1) ...",
            "Errors were encountered while processing:",
            " foo:armhf",
        ]
        .map(str::to_owned)
        .into();
        let (package, reason, at) = package_that_failed(&lines).unwrap();
        assert_eq!((package.as_str(), at), ("foo:armhf", 2));
        assert!(reason.ends_with("exit status 7"));
        let said = lines.iter().take(at).cloned().collect();
        let error = script_failed(&package, "postinst", &reason, &said);
        assert!(
            error.to_string().ends_with("    foo: cannot find bar"),
            "{error}"
        );
        assert!(help_of(&error).unwrap().contains("hearth shell"));
    }
}

//! Owns what hearth's boot and the image's userspace need of a kernel, by the names of its options.
//! Never looks for modules: the initrd's builder does.

use anyhow::Result;

use super::modules::Kernel;
use super::work::Work;
use crate::error::Fault;
use crate::kernel::config::value;
use crate::recipe::{BoardType, Compression};

/// Something that a kernel is configured with: one of these options, and why.
struct Need {
    options: &'static [&'static str],
    why: &'static str,
    form: Form,
}

/// How an option must be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    BuiltIn,
    OrModule,
    /// Built in; older kernels do not have the option, and always what it is for.
    NotDenied,
}

const fn built_in(options: &'static [&'static str], why: &'static str) -> Need {
    Need {
        options,
        why,
        form: Form::BuiltIn,
    }
}

const fn or_module(options: &'static [&'static str], why: &'static str) -> Need {
    Need {
        options,
        why,
        form: Form::OrModule,
    }
}

/// For any userspace.
const ALWAYS: &[Need] = &[
    built_in(&["BINFMT_ELF"], "programs"),
    built_in(&["PROC_FS"], "/proc"),
    built_in(&["SYSFS"], "/sys"),
    built_in(&["NET"], "a network"),
    built_in(&["INET"], "a network"),
];

/// For hearth's initrd: `/init` is a script, and the root is on NFS under a layer in memory.
const HEARTH: &[Need] = &[
    built_in(&["BLK_DEV_INITRD"], "an initrd"),
    built_in(&["BINFMT_SCRIPT"], "the initrd's /init"),
    built_in(&["DEVTMPFS"], "/dev"),
    built_in(&["TMPFS"], "the layer above the root, in memory"),
    or_module(&["OVERLAY_FS"], "the layer above the root"),
    or_module(&["PACKET"], "DHCP"),
    or_module(&["NFS_FS"], "a root on NFS"),
    or_module(&["NFS_V3"], "a root on NFS, version 3"),
];

/// systemd's README, "REQUIREMENTS".
const SYSTEMD: &[Need] = &[
    built_in(&["CGROUPS"], "systemd"),
    built_in(&["INOTIFY_USER"], "systemd"),
    built_in(&["SIGNALFD"], "systemd"),
    built_in(&["TIMERFD"], "systemd"),
    built_in(&["EPOLL"], "systemd"),
    built_in(&["FHANDLE"], "systemd"),
    or_module(&["UNIX"], "systemd"),
];

/// Debian 12's programs have times of 32 bits.
const TIMES: Need = Need {
    options: &["COMPAT_32BIT_TIME"],
    why: "32-bit programs",
    form: Form::NotDenied,
};

const HARD_FLOAT: &[Need] = &[
    TIMES,
    built_in(&["AEABI"], "armhf programs"),
    built_in(&["VFP"], "armhf programs"),
];

/// Consoles by the start of their names.
const CONSOLES: &[(&str, Need)] = &[
    (
        "ttyAMA",
        built_in(&["SERIAL_AMBA_PL011_CONSOLE"], "the board's console"),
    ),
    (
        "ttyS",
        built_in(
            &["SERIAL_8250_CONSOLE", "SERIAL_SUNXI_CONSOLE"],
            "the board's console",
        ),
    ),
    (
        "ttymxc",
        built_in(&["SERIAL_IMX_CONSOLE"], "the board's console"),
    ),
    (
        "ttyO",
        built_in(
            &["SERIAL_OMAP_CONSOLE", "SERIAL_8250_CONSOLE"],
            "the board's console",
        ),
    ),
    (
        "ttySTM",
        built_in(&["SERIAL_STM32_CONSOLE"], "the board's console"),
    ),
];

/// Checks a kernel's configuration, as far as it is known. `is_hearths` says whether hearth's initrd boots it.
///
/// # Errors
/// All options that are missing, each with what needs it.
pub fn check(
    work: &Work<'_>,
    kernel: &Kernel,
    board_type: &BoardType,
    is_hearths: bool,
) -> Result<()> {
    let Some(config) = &kernel.config else {
        return Ok(());
    };
    let mut needs: Vec<&Need> = ALWAYS.iter().collect();
    if is_hearths {
        needs.extend(HEARTH);
        needs.extend(has_systemd(work)?.then_some(SYSTEMD).into_iter().flatten());
    }
    if board_type.arch == crate::arch::Arch::Armhf {
        needs.extend(HARD_FLOAT);
    }
    let consoles = CONSOLES.iter();
    let mut console = consoles.filter(|(start, _)| board_type.console.starts_with(start));
    needs.extend(console.next().map(|(_, need)| need));
    let can_load = value(config, "CONFIG_MODULES") == Some("y") && kernel.modules != Some(0);
    let missing: Vec<String> = needs
        .into_iter()
        .filter(|need| !is_met(need, config, can_load))
        .map(|need| format!("CONFIG_{} ({})", need.options.join(" or CONFIG_"), need.why))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the kernel {} was built without what the board's boot needs: {}",
        kernel.release,
        missing.join(", ")
    ))
    .remedy(match can_load {
        true => "set these options and build the kernel again",
        false => "build the kernel again with these options, built in: it has no modules",
    })
    .into())
}

fn is_met(need: &Need, config: &str, can_load: bool) -> bool {
    need.options
        .iter()
        .any(|option| match value(config, &format!("CONFIG_{option}")) {
            Some("y") => true,
            Some("m") => need.form == Form::OrModule && can_load,
            Some(_) => false,
            None => need.form == Form::NotDenied && !is_denied(config, option),
        })
}

fn is_denied(config: &str, option: &str) -> bool {
    let line = format!("# CONFIG_{option} is not set");
    config.lines().any(|known| known == line)
}

fn has_systemd(work: &Work<'_>) -> Result<bool> {
    let image = work.manifest.open_image(work.base)?;
    Ok(image.follow("usr/lib/systemd/systemd").is_some())
}

/// How to pack an initrd for a kernel: as wished if it can unpack that, else in a way that it can.
///
/// # Errors
/// If it can unpack none.
pub fn compression(
    config: Option<&str>,
    release: &str,
    wished: Compression,
) -> Result<Compression> {
    let Some(config) = config else {
        return Ok(wished);
    };
    let takes = |compression: Compression| match compression {
        Compression::Gzip => value(config, "CONFIG_RD_GZIP") == Some("y"),
        Compression::Zstd => value(config, "CONFIG_RD_ZSTD") == Some("y"),
        Compression::None => true,
    };
    let order = [wished, Compression::Zstd, Compression::Gzip];
    order.into_iter().find(|one| takes(*one)).ok_or_else(|| {
        Fault::input(format!(
            "the kernel {release} can unpack no initrd that hearth makes: it was built without CONFIG_RD_GZIP and \
             CONFIG_RD_ZSTD"
        ))
        .remedy("set one of these options and build the kernel again")
        .into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_is_a_module_counts_only_where_modules_are() {
        let need = or_module(&["A", "B"], "x");
        assert!(is_met(&need, "CONFIG_B=m\n", true));
        assert!(!is_met(&need, "CONFIG_B=m\n", false));
        assert!(is_met(&need, "CONFIG_A=y\n", false));
        assert!(!is_met(&built_in(&["A"], "x"), "CONFIG_A=m\n", true));
        assert!(!is_met(&need, "# CONFIG_A is not set\n", true));
        assert!(is_met(&TIMES, "CONFIG_A=y\n", true));
        assert!(!is_met(
            &TIMES,
            "# CONFIG_COMPAT_32BIT_TIME is not set\n",
            true
        ));
    }

    #[test]
    fn an_initrd_is_packed_as_the_kernel_unpacks_it() {
        let pack = |config: &str| compression(Some(config), "6.1", Compression::Zstd);
        assert_eq!(pack("CONFIG_RD_ZSTD=y\n").unwrap(), Compression::Zstd);
        assert_eq!(pack("CONFIG_RD_GZIP=y\n").unwrap(), Compression::Gzip);
        assert!(pack("CONFIG_RD_XZ=y\n").is_err());
        assert_eq!(
            compression(None, "6.1", Compression::Gzip).unwrap(),
            Compression::Gzip
        );
    }
}

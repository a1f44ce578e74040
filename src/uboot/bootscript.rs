//! Owns a board's boot script as files: the script, its uImage, and the equivalent extlinux.conf.
//! Never decides when a script is needed.

use anyhow::Result;
use similar::TextDiff;

use super::ids::ImageArch;
use super::template::Templates;
use super::values::Values;
use super::{check, script};
use crate::arch::Arch;
use crate::error::Fault;
use crate::mac::Mac;

/// A board's boot script in all its formats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootScript {
    /// The script's text.
    pub text: String,
    /// The text as a script uImage.
    pub image: Vec<u8>,
    /// `extlinux.conf`, if the template has an equivalent.
    pub extlinux: Option<String>,
}

impl BootScript {
    /// Renders the template `name` for one board. `time`, in seconds since 1970, goes into the
    /// header.
    ///
    /// # Errors
    /// As [`Templates::script`].
    pub fn render(
        templates: &Templates,
        name: &str,
        values: &Values,
        arch: Arch,
        time: u32,
    ) -> Result<BootScript> {
        let text = templates.script(name, values)?;
        check_bootargs(&text, arch)?;
        let extlinux = templates.extlinux(name, values)?;
        if let Some(extlinux) = &extlinux {
            check_command_line(extlinux, arch)?;
        }
        let title = format!("{} {name}", values.board);
        Ok(BootScript {
            image: script::wrap(text.as_bytes(), image_arch(arch), &title, time)?,
            extlinux,
            text,
        })
    }

    /// The script's files by path. U-Boot requests `boot.scr.uimg` over the network, and either
    /// name on a card; `pxelinux.cfg/01-<mac>` is the first path at which it looks for extlinux
    /// files by TFTP.
    pub fn files(&self, mac: Mac) -> Vec<(String, &[u8])> {
        let mut files = self.scripts();
        if let Some(extlinux) = &self.extlinux {
            files.push(("extlinux/extlinux.conf".into(), extlinux.as_bytes()));
            files.push((pxelinux_path(mac), extlinux.as_bytes()));
        }
        files
    }

    /// The same in the layout of a TFTP server's tree for many boards.
    pub fn network_files(&self, board: &str, mac: Mac) -> Vec<(String, &[u8])> {
        let mut files: Vec<_> = self
            .scripts()
            .into_iter()
            .map(|(name, data)| (format!("boards/{board}/{name}"), data))
            .collect();
        if let Some(extlinux) = &self.extlinux {
            files.push((pxelinux_path(mac), extlinux.as_bytes()));
        }
        files
    }

    fn scripts(&self) -> Vec<(String, &[u8])> {
        ["boot.scr", "boot.scr.uimg"]
            .map(|name| (name.to_string(), self.image.as_slice()))
            .to_vec()
    }
}

/// Refuses a kernel command line that the kernel would silently truncate: its size is
/// `COMMAND_LINE_SIZE` bytes including the final NUL (Linux, arch/*/include/uapi/asm/setup.h).
fn check_command_line(extlinux: &str, arch: Arch) -> Result<(), Fault> {
    let lines = extlinux.lines().map(str::trim_start);
    let length = lines
        .filter_map(|line| line.strip_prefix("append "))
        .map(str::len)
        .max();
    refuse_longer(length, arch)
}

/// The same check for the arguments in a script, before U-Boot expands its variables.
fn check_bootargs(script: &str, arch: Arch) -> Result<(), Fault> {
    let lines = script.lines().map(str::trim_start);
    let length = lines
        .filter_map(|line| line.strip_prefix("setenv bootargs "))
        .map(|line| line.chars().filter(|c| !"'\"".contains(*c)).count())
        .max();
    refuse_longer(length, arch)
}

fn refuse_longer(length: Option<usize>, arch: Arch) -> Result<(), Fault> {
    let limit = match arch {
        Arch::Armel | Arch::Armhf | Arch::Riscv64 => 1023,
        Arch::Arm64 => 2047,
    };
    match length {
        Some(length) if length > limit => Err(Fault::input(format!(
            "the kernel command line has {length} bytes, but a kernel for {arch} takes {limit}"
        ))
        .remedy("shorten the board's values or kernel arguments")),
        _ => Ok(()),
    }
}

/// The path that U-Boot and PXELINUX request for one board: its MAC, preceded by ARP's number for
/// Ethernet.
pub fn pxelinux_path(mac: Mac) -> String {
    format!("pxelinux.cfg/01-{}", mac.with_dashes())
}

/// The uImage architecture for scripts of a board.
pub fn image_arch(arch: Arch) -> ImageArch {
    match arch {
        Arch::Armel | Arch::Armhf => ImageArch::ARM,
        Arch::Arm64 => ImageArch::ARM64,
        Arch::Riscv64 => ImageArch::RISCV,
    }
}

/// The difference between the text of an existing script image and the expected text, as a unified
/// diff; `None` if they are equal.
///
/// # Errors
/// If `image` is not a valid script image.
pub fn difference(image: &[u8], name: &str, text: &str) -> Result<Option<String>, Fault> {
    let existing = script::read(image)?;
    if existing.text == text.as_bytes() {
        return Ok(None);
    }
    let existing = String::from_utf8_lossy(existing.text);
    let diff = TextDiff::from_lines(existing.as_ref(), text);
    Ok(Some(
        diff.unified_diff()
            .context_radius(3)
            .header(name, "as it should be")
            .to_string(),
    ))
}

/// Replaces the text of an existing script image, the one that U-Boot runs. Name, architecture,
/// further files and padding are kept.
///
/// # Errors
/// If `image` is not a valid script image, the text is empty, or U-Boot could not run it.
pub fn rewrap(image: &[u8], text: &[u8], time: u32) -> Result<Vec<u8>, Fault> {
    check::runnable(text)?;
    let existing = script::read(image)?;
    let mut files = vec![text];
    files.extend(existing.others);
    let name = String::from_utf8_lossy(existing.header.name());
    let mut made = script::wrap_files(&files, existing.header.arch, &name, time)?;
    if let Some(fill) = existing.padding.first() {
        made.resize(image.len().max(made.len()), *fill);
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_script_is_told_by_its_lines() {
        let image = script::wrap(b"a\nb\nc\n", ImageArch::ARM, "n", 0).unwrap();
        assert_eq!(difference(&image, "boot.scr", "a\nb\nc\n").unwrap(), None);
        let told = difference(&image, "boot.scr", "a\nB\nc\n")
            .unwrap()
            .unwrap();
        assert!(
            told.contains("--- boot.scr") && told.contains("\n-b\n+B\n"),
            "{told}"
        );
        assert!(difference(b"echo", "boot.scr", "").is_err());
    }

    #[test]
    fn a_command_line_that_the_kernel_would_cut_is_refused() {
        let line = |length| format!("default x\n  append {}\n", "a".repeat(length));
        assert!(check_command_line(&line(1023), Arch::Armhf).is_ok());
        assert!(check_command_line(&line(1024), Arch::Armhf).is_err());
        assert!(check_command_line(&line(1024), Arch::Arm64).is_ok());
    }

    #[test]
    fn rewrapping_keeps_further_files_and_padding() {
        let files: [&[u8]; 3] = [b"echo one\n", b"echo two\n", b"3"];
        let mut image = script::wrap_files(&files, ImageArch::ARM, "n", 0).unwrap();
        let whole = image.clone();
        for fill in [0, 0xff] {
            image = whole.clone();
            image.resize(512, fill);
            let again = rewrap(&image, b"echo longer\n", 0).unwrap();
            let read = script::read(&again).unwrap();
            assert_eq!(read.text, b"echo longer\n");
            assert_eq!(read.others, files[1..]);
            assert_eq!((again.len(), again[511]), (512, fill));
        }
        image[400] = 1;
        assert!(rewrap(&image, b"a\n", 0).is_err());
        assert!(rewrap(&whole, b"if a\r\n", 0).is_err());
    }

    #[test]
    fn a_command_line_in_a_script_is_measured_without_its_quotes() {
        let line = |length| format!("  setenv bootargs '{}'\n", "a".repeat(length));
        assert!(check_bootargs(&line(1023), Arch::Armhf).is_ok());
        assert!(check_bootargs(&line(1024), Arch::Armhf).is_err());
    }

    #[test]
    fn rewrapping_keeps_name_and_architecture() {
        let image = script::wrap(b"a\n", ImageArch::ARM64, "the name", 5).unwrap();
        let again = rewrap(&image, b"b\n", 7).unwrap();
        assert_eq!(
            again,
            script::wrap(b"b\n", ImageArch::ARM64, "the name", 7).unwrap()
        );
    }
}

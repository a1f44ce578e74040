//! Owns a board's boot script as files: the script, its uImage, and the extlinux.conf that does the same.
//! Never decides when a script is needed.

use anyhow::Result;
use similar::TextDiff;

use super::script;
use super::{ImageArch, Templates, Values};
use crate::error::Fault;
use crate::recipe::{Arch, Mac};

/// A board's boot script in all its forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootScript {
    /// What U-Boot runs.
    pub text: String,
    /// The text as a script uImage.
    pub image: Vec<u8>,
    /// `extlinux.conf`, where the template has an equivalent.
    pub extlinux: Option<String>,
}

impl BootScript {
    /// Renders the template `name` for one board. `time`, in seconds since 1970, goes into the header.
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

    /// The script's files by path. U-Boot asks for `boot.scr.uimg` over the network, and on a card for
    /// either name; for `pxelinux.cfg/01-<mac>` it asks where it looks for extlinux files by TFTP.
    pub fn files(&self, mac: Mac) -> Vec<(String, &[u8])> {
        let mut files = self.scripts();
        if let Some(extlinux) = &self.extlinux {
            files.push(("extlinux/extlinux.conf".into(), extlinux.as_bytes()));
            files.push((pxelinux_path(mac), extlinux.as_bytes()));
        }
        files
    }

    /// The same in the layout of a network's tree, which holds many boards.
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

/// Refuses a kernel command line that the kernel would cut without a word: it has `COMMAND_LINE_SIZE` bytes with
/// the final NUL (Linux, arch/*/include/uapi/asm/setup.h).
fn check_command_line(extlinux: &str, arch: Arch) -> Result<(), Fault> {
    let limit = match arch {
        Arch::Armel | Arch::Armhf | Arch::Riscv64 => 1023,
        Arch::Arm64 => 2047,
    };
    let lines = extlinux.lines().map(str::trim_start);
    let length = lines
        .filter_map(|line| line.strip_prefix("append "))
        .map(str::len)
        .max();
    match length {
        Some(length) if length > limit => Err(Fault::input(format!(
            "the kernel command line has {length} bytes, but a kernel for {arch} takes {limit}"
        ))
        .remedy("shorten the board's values or kernel arguments")),
        _ => Ok(()),
    }
}

/// Where U-Boot and PXELINUX ask for the file of one board: its MAC, after ARP's number for Ethernet.
pub fn pxelinux_path(mac: Mac) -> String {
    format!("pxelinux.cfg/01-{}", mac.with_dashes())
}

/// The header's architecture for scripts of a board.
pub fn image_arch(arch: Arch) -> ImageArch {
    match arch {
        Arch::Armel | Arch::Armhf => ImageArch::ARM,
        Arch::Arm64 => ImageArch::ARM64,
        Arch::Riscv64 => ImageArch::RISCV,
    }
}

/// How the text of an existing script image differs from the text it should have: a unified diff, or nothing
/// if it does not.
///
/// # Errors
/// If `image` is no sound script image.
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

/// Wraps a new text in the place of an existing script image's, with that image's name and architecture.
///
/// # Errors
/// If `image` is no sound script image, or the text is empty.
pub fn rewrap(image: &[u8], text: &[u8], time: u32) -> Result<Vec<u8>, Fault> {
    let existing = script::read(image)?.header;
    let name = String::from_utf8_lossy(existing.name());
    script::wrap(text, existing.arch, &name, time)
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
    fn rewrapping_keeps_name_and_architecture() {
        let image = script::wrap(b"a\n", ImageArch::ARM64, "the name", 5).unwrap();
        let again = rewrap(&image, b"b\n", 7).unwrap();
        assert_eq!(
            again,
            script::wrap(b"b\n", ImageArch::ARM64, "the name", 7).unwrap()
        );
    }
}

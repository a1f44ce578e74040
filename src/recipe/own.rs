//! Owns what a board boots instead of parts of its image, as a user names it: in `own = {…}` of a board, or by options.
//! Never looks at a file.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A kernel and other parts that the user has built. Everything else is the image's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Own {
    /// A tree that a kernel was built in, a kernel, or a package of one.
    pub kernel: Option<PathBuf>,
    /// A device tree, or a directory with the board type's.
    pub dtb: Option<PathBuf>,
    /// What `make modules_install` wrote, as a directory or a tar.
    pub modules: Option<PathBuf>,
    pub initrd: Option<PathBuf>,
    /// Kernel arguments in addition, separated by spaces.
    #[serde(deserialize_with = "kernel_arguments")]
    pub kernel_args: Option<String>,
    /// A directory that U-Boot was built in, or the files that the board type names.
    #[serde(deserialize_with = "one_or_many")]
    pub bootloader: Vec<PathBuf>,
}

impl Own {
    /// Whether the image boots as it is.
    pub fn is_empty(&self) -> bool {
        *self == Own::default()
    }

    /// This with `over` before it: an own kernel comes with its own modules, device tree and initrd.
    #[must_use]
    pub fn under(&self, over: &Own) -> Own {
        let below = match over.kernel {
            Some(_) => Own {
                kernel_args: self.kernel_args.clone(),
                bootloader: self.bootloader.clone(),
                ..Own::default()
            },
            None => self.clone(),
        };
        let over = over.clone();
        Own {
            kernel: over.kernel.or(below.kernel),
            dtb: over.dtb.or(below.dtb),
            modules: over.modules.or(below.modules),
            initrd: over.initrd.or(below.initrd),
            kernel_args: over.kernel_args.or(below.kernel_args),
            bootloader: match over.bootloader.is_empty() {
                true => below.bootloader,
                false => over.bootloader,
            },
        }
    }

    /// The same with paths relative to a directory.
    #[must_use]
    pub fn below(&self, directory: &Path) -> Own {
        let joined = |path: &Option<PathBuf>| path.as_ref().map(|path| directory.join(path));
        Own {
            kernel: joined(&self.kernel),
            dtb: joined(&self.dtb),
            modules: joined(&self.modules),
            initrd: joined(&self.initrd),
            kernel_args: self.kernel_args.clone(),
            bootloader: self
                .bootloader
                .iter()
                .map(|path| directory.join(path))
                .collect(),
        }
    }

    /// All paths that are named.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.kernel, &self.dtb, &self.modules, &self.initrd]
            .into_iter()
            .flatten()
            .chain(&self.bootloader)
    }

    /// The kernel arguments one by one.
    pub fn arguments(&self) -> Vec<String> {
        let words = self.kernel_args.as_deref().unwrap_or_default();
        words.split_whitespace().map(str::to_string).collect()
    }
}

/// Checks that kernel arguments can be passed through U-Boot.
///
/// # Errors
/// A sentence about the first that cannot.
pub fn check_kernel_arguments(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\');
    let mut words = text.split_whitespace();
    match words.find(|word| !word.chars().all(is_plain)) {
        None => Ok(text.to_string()),
        Some(word) => Err(format!(
            "the kernel argument `{}` cannot be passed through U-Boot: it has a quote, a backslash or a letter that is \
             not ASCII",
            word.escape_debug()
        )),
    }
}

fn kernel_arguments<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(from)?;
    check_kernel_arguments(&text)
        .map(Some)
        .map_err(serde::de::Error::custom)
}

/// A path, or a list of paths.
fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(PathBuf),
        Many(Vec<PathBuf>),
    }
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(path) => vec![path],
        OneOrMany::Many(paths) => paths,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kernel_does_not_get_the_modules_of_the_first() {
        let lab: Own = toml::from_str("kernel = 'a'\nmodules = 'm'\nbootloader = 'u'").unwrap();
        let kernel = |name: &str| Some(PathBuf::from(name));
        let args = Own {
            kernel_args: Some("quiet".into()),
            ..Own::default()
        };
        let both = lab.under(&args);
        assert_eq!(
            (both.kernel.clone(), both.modules),
            (kernel("a"), kernel("m"))
        );
        let other = lab.under(&Own {
            kernel: kernel("b"),
            ..Own::default()
        });
        assert_eq!((other.kernel, other.modules), (kernel("b"), None));
        assert_eq!(other.bootloader, [PathBuf::from("u")]);
    }

    #[test]
    fn arguments_are_words() {
        let own: Own = toml::from_str("kernel-args = ' a  b=c '").unwrap();
        assert_eq!(own.arguments(), ["a", "b=c"]);
        for wrong in ["a 'b", "a\"", "a\\b", "ä", "a\u{1}"] {
            assert!(check_kernel_arguments(wrong).is_err(), "{wrong:?}");
        }
    }
}

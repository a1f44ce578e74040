//! Owns finding recipes, board types and boot scripts: in the directories of [`dirs::data`], then
//! among the copies built into the binary.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::diagnostic::suggestion;
use crate::dirs;
use crate::error::Fault;
use crate::input;

/// A user's file, or one that hearth ships.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path; for a built-in file a path that begins with `<hearth>`.
    pub path: PathBuf,
    pub text: String,
}

/// A kind of file that is found by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in messages.
    pub noun: &'static str,
    /// Its directory, below each of the data directories.
    pub directory: &'static str,
    /// The suffix of its file names.
    pub suffix: &'static str,
}

pub const RECIPE: Kind = Kind {
    noun: "recipe",
    directory: "recipes",
    suffix: ".toml",
};
pub const BOARD_TYPE: Kind = Kind {
    noun: "board type",
    directory: "recipes/boards",
    suffix: ".toml",
};
pub const BOOT_SCRIPT: Kind = Kind {
    noun: "boot script",
    directory: "boot-scripts",
    suffix: ".cmd.hbs",
};

/// A file's path in the repository, and its text.
macro_rules! embedded {
    ($path:literal) => {
        ($path, include_str!(concat!("../", $path)))
    };
}

/// Built-in files, by their path in the repository.
static EMBEDDED: &[(&str, &str)] = &[
    embedded!("boot-scripts/addresses.hbs"),
    embedded!("boot-scripts/card.cmd.hbs"),
    embedded!("boot-scripts/local.cmd.hbs"),
    embedded!("boot-scripts/nfs.cmd.hbs"),
    embedded!("boot-scripts/nfs.extlinux.hbs"),
    embedded!("boot-scripts/nfs-arguments.hbs"),
    embedded!("boot-scripts/ramdisk.cmd.hbs"),
    embedded!("boot-scripts/ramdisk.extlinux.hbs"),
    embedded!("boot-scripts/ramdisk-arguments.hbs"),
    embedded!("examples/boot-time.yaml"),
    embedded!("examples/smoke.yaml"),
    embedded!("examples/storage.yaml"),
    embedded!("recipes/bookworm-armhf.lock"),
    embedded!("recipes/bookworm-armhf.toml"),
    embedded!("recipes/lab-example.toml"),
    embedded!("recipes/trixie-arm64.lock"),
    embedded!("recipes/trixie-arm64.toml"),
    embedded!("recipes/trixie-armhf.lock"),
    embedded!("recipes/trixie-armhf.toml"),
    embedded!("recipes/boards/beaglebone-black.toml"),
    embedded!("recipes/boards/cubieboard.toml"),
    embedded!("recipes/boards/nanopi-neo.toml"),
    embedded!("recipes/boards/orangepi-zero.toml"),
    embedded!("recipes/boards/pandaboard.toml"),
    embedded!("recipes/boards/qemu-virt-arm.toml"),
    embedded!("recipes/boards/qemu-virt-arm64.toml"),
    embedded!("recipes/boards/raspberrypi-2.toml"),
    embedded!("recipes/boards/raspberrypi-3.toml"),
];

/// The built-in files: path in the repository and text, by path.
pub fn shipped_files() -> &'static [(&'static str, &'static str)] {
    EMBEDDED
}

/// Finds the file of this kind called `name`: a path if it contains a slash or ends in the kind's
/// suffix, else a name to look for.
///
/// # Errors
/// If there is none, with a suggestion; if it cannot be read.
pub fn find(kind: Kind, name: &str) -> Result<Source> {
    if name.contains('/') || name.ends_with(kind.suffix) {
        return read(Path::new(name));
    }
    let file = format!("{}/{name}{}", kind.directory, kind.suffix);
    if let Some(source) = find_file(&file)? {
        return Ok(source);
    }
    let known = names(kind)?;
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    Err(Fault::input(format!("there is no {} `{name}`", kind.noun))
        .remedy(suggestion(name, &known))
        .into())
}

/// The first file at `path`, which is relative to the data directories.
pub fn find_file(path: &str) -> Result<Option<Source>> {
    for directory in dirs::data() {
        let candidate = directory.join(path);
        if candidate.is_file() {
            return read(&candidate).map(Some);
        }
    }
    Ok(EMBEDDED
        .iter()
        .find(|(embedded, _)| *embedded == path)
        .map(|(embedded, text)| built_in(embedded, text)))
}

/// All files of a kind, by name; of several with one name, the first.
pub fn all(kind: Kind) -> Result<BTreeMap<String, Source>> {
    let mut found = BTreeMap::new();
    for name in names(kind)? {
        let file = format!("{}/{name}{}", kind.directory, kind.suffix);
        if let Some(source) = find_file(&file)? {
            found.insert(name, source);
        }
    }
    Ok(found)
}

/// The names of all files of a kind, sorted.
pub fn names(kind: Kind) -> Result<Vec<String>> {
    let mut names: Vec<String> = EMBEDDED
        .iter()
        .filter_map(|(path, _)| {
            let name = path.strip_prefix(kind.directory)?.strip_prefix('/')?;
            Some(name.strip_suffix(kind.suffix)?.to_string())
        })
        .collect();
    for directory in dirs::data() {
        let directory = directory.join(kind.directory);
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot read the directory {}", directory.display()));
            }
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot read {}", directory.display()))?;
            if let Some(name) = entry.file_name().to_str()
                && let Some(name) = name.strip_suffix(kind.suffix)
            {
                names.push(name.to_string());
            }
        }
    }
    // The example of a lab file is beside the recipes.
    names.retain(|name| !name.contains('/') && (kind != RECIPE || name != "lab-example"));
    names.sort();
    names.dedup();
    Ok(names)
}

/// Reads a text file.
pub fn read(path: &Path) -> Result<Source> {
    let bytes = input::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|wrong| {
        Fault::input(format!(
            "{} is not UTF-8 text (at byte {})",
            path.display(),
            wrong.utf8_error().valid_up_to()
        ))
    })?;
    Ok(Source {
        path: path.strip_prefix("./").unwrap_or(path).to_path_buf(),
        text,
    })
}

fn built_in(path: &str, text: &str) -> Source {
    Source {
        path: Path::new("<hearth>").join(path),
        text: text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_a_lab_is_no_recipe() {
        let recipes = names(RECIPE).unwrap();
        assert!(recipes.contains(&"trixie-armhf".to_string()));
        assert!(!recipes.contains(&"lab-example".to_string()));
    }

    #[test]
    fn every_shipped_file_is_built_in() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for directory in ["boot-scripts", "examples", "recipes", "recipes/boards"] {
            for entry in fs::read_dir(repository.join(directory)).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    let path = format!("{directory}/{}", entry.file_name().to_str().unwrap());
                    assert!(
                        EMBEDDED.iter().any(|(embedded, _)| *embedded == path),
                        "{path} is not in EMBEDDED"
                    );
                }
            }
        }
    }
}

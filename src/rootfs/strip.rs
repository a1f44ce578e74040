//! Owns the removal of packages' files from an image: documentation, locales, paths by pattern.
//! Never removes a licence.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::dpkg;
use super::tree::{Kind, Tree};
use crate::recipe::Strip;

/// Directories of documentation, whose content is removed.
const DOCS: [&str; 7] = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/doc-base",
    "usr/share/lintian",
    "usr/share/linda",
    "usr/share/groff",
];
const LOCALES: &str = "usr/share/locale";

/// Removes what `strip` selects, updates dpkg's database, and configures dpkg to do the same for
/// later installations on the board.
pub fn apply(tree: &mut Tree, strip: &Strip, epoch: i64) -> Result<()> {
    if *strip == Strip::default() {
        return Ok(());
    }
    let rules = Rules(strip);
    let mut tops: Vec<PathBuf> = Vec::new();
    if strip.docs {
        tops.extend(DOCS.map(PathBuf::from));
    }
    if strip.locales {
        tops.push(LOCALES.into());
    }
    if !strip.paths.is_empty() {
        tops = vec![PathBuf::new()];
    }
    for top in tops {
        if top.as_os_str().is_empty() || tree.kind(&top) == Some(Kind::Directory) {
            rules
                .remove_below(tree, &top)
                .with_context(|| format!("cannot strip /{}", top.display()))?;
        }
    }
    let gone = |tree: &mut Tree, path: &Path| rules.removes(path) && tree.kind(path).is_none();
    dpkg::forget(tree, &gone, epoch)?;
    let excludes = rules.dpkg_options();
    tree.write(
        "etc/dpkg/dpkg.cfg.d/hearth-strip",
        0o644,
        excludes.as_bytes(),
        epoch,
    )
}

struct Rules<'a>(&'a Strip);

impl Rules<'_> {
    /// Whether the file `path`, relative to the root, is removed.
    fn removes(&self, path: &Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        let listed = |patterns: &[String]| {
            patterns
                .iter()
                .any(|pattern| matches(pattern.trim_start_matches('/').as_bytes(), bytes))
        };
        if listed(&self.0.keep) {
            return false;
        }
        if listed(&self.0.paths) {
            return true;
        }
        let is_copyright = path.file_name().is_some_and(|name| name == "copyright");
        if self.0.docs && DOCS.iter().any(|top| path.starts_with(top)) {
            return !is_copyright;
        }
        match path.strip_prefix(LOCALES) {
            Ok(below) if self.0.locales => below.components().next().is_some_and(|locale| {
                let locale = locale.as_os_str().to_string_lossy();
                locale != "locale.alias" && !self.0.keep_locales.iter().any(|keep| *keep == locale)
            }),
            _ => false,
        }
    }

    /// Removes selected files below a directory; returns whether it is empty afterwards.
    fn remove_below(&self, tree: &mut Tree, directory: &Path) -> Result<bool> {
        let mut left = 0;
        for name in tree.list(directory)? {
            let path = directory.join(name);
            let gone = match tree.kind(&path) {
                Some(Kind::Directory) => {
                    let empty = self.remove_below(tree, &path)?;
                    let gone = empty && self.removes(&path);
                    if gone {
                        tree.remove_all(&path)?;
                    }
                    gone
                }
                // A package's whole directory may be a link to another package's, which contains
                // the licence.
                Some(Kind::Link) if directory == Path::new(DOCS[0]) => false,
                _ if self.removes(&path) => {
                    tree.remove_file(&path)?;
                    true
                }
                _ => false,
            };
            left += usize::from(!gone);
        }
        Ok(left == 0)
    }

    /// The same rules for dpkg (dpkg(1), `--path-exclude`), whose `*` matches slashes as well.
    fn dpkg_options(&self) -> String {
        let mut text = String::from("# Left out of this image by its recipe.\n");
        let mut rule = |option: &str, pattern: &str| {
            let pattern = pattern.trim_start_matches('/').replace("**", "*");
            text.push_str(&format!("{option}=/{pattern}\n"));
        };
        if self.0.docs {
            for top in DOCS {
                rule("path-exclude", &format!("{top}/*"));
            }
            rule("path-include", "usr/share/doc/*/copyright");
        }
        if self.0.locales {
            rule("path-exclude", &format!("{LOCALES}/*"));
            rule("path-include", &format!("{LOCALES}/locale.alias"));
            for locale in &self.0.keep_locales {
                rule("path-include", &format!("{LOCALES}/{locale}/*"));
            }
        }
        for path in &self.0.paths {
            rule("path-exclude", path);
        }
        for path in &self.0.keep {
            rule("path-include", path);
        }
        text
    }
}

/// Whether a pattern matches the whole path: `*` stands for anything but a slash, `**` for
/// anything.
fn matches(pattern: &[u8], path: &[u8]) -> bool {
    match pattern {
        [] => path.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=path.len()).any(|at| matches(rest, &path[at..])),
        [b'*', rest @ ..] => {
            let end = path
                .iter()
                .position(|byte| *byte == b'/')
                .unwrap_or(path.len());
            (0..=end).any(|at| matches(rest, &path[at..]))
        }
        [first, rest @ ..] => path.first() == Some(first) && matches(rest, &path[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_match_within_and_across_directories() {
        for (pattern, path, expected) in [
            ("usr/*/x", "usr/lib/x", true),
            ("usr/*/x", "usr/lib/y/x", false),
            ("usr/**/x", "usr/lib/y/x", true),
            ("usr/**", "usr/lib/y/x", true),
            ("*.pyc", "a.pyc", true),
            ("*.pyc", "a/b.pyc", false),
            ("usr", "usr/lib", false),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), path.as_bytes()),
                expected,
                "{pattern} {path}"
            );
        }
    }

    #[test]
    fn licences_and_chosen_locales_stay() {
        let strip = Strip {
            docs: true,
            locales: true,
            keep_locales: vec!["de".into()],
            paths: vec!["/opt/**".into()],
            keep: vec!["/opt/keep".into()],
        };
        let rules = Rules(&strip);
        for (path, expected) in [
            ("usr/share/doc/dash/copyright", false),
            ("usr/share/doc/dash/changelog.gz", true),
            ("usr/share/man/man1/sh.1.gz", true),
            ("usr/share/locale/fr/LC_MESSAGES/dpkg.mo", true),
            ("usr/share/locale/de/LC_MESSAGES/dpkg.mo", false),
            ("usr/share/locale/locale.alias", false),
            ("usr/share/zoneinfo/UTC", false),
            ("opt/a/b", true),
            ("opt/keep", false),
        ] {
            assert_eq!(rules.removes(Path::new(path)), expected, "{path}");
        }
    }
}

//! Owns the validation of a recipe beyond its syntax. Never reads the archive or files that it
//! names.

use std::collections::HashSet;
use std::path::{Component, Path};

use super::limits::RANGES;
use super::model::{FileEntry, Recipe, User};
use crate::diagnostic::{Diagnostic, Step, at};

use Step::{Index, Key};

type Checked = Result<(), Box<Diagnostic>>;

/// A recipe's text, for diagnostics.
struct Checker<'a> {
    file: &'a Path,
    text: &'a str,
}

/// Validates a recipe; `file` and `text` are its source.
///
/// # Errors
/// The first mistake.
pub fn check(recipe: &Recipe, file: &Path, text: &str) -> Checked {
    let checker = Checker { file, text };
    checker.archive(recipe)?;
    checker.packages(recipe)?;
    checker.system(recipe)?;
    checker.users(&recipe.users)?;
    for (number, entry) in recipe.files.iter().enumerate() {
        checker.file_entry(number, entry)?;
    }
    for (number, command) in recipe.commands.iter().enumerate() {
        if command.run.trim().is_empty() {
            let path = [Key("command"), Index(number), Key("run")];
            return checker.wrong(&path, "the command is empty");
        }
    }
    if recipe.initrd.roots.is_empty() {
        let path = [Key("initrd"), Key("roots")];
        return checker.wrong(&path, "an initrd that can mount no root is of no use");
    }
    for (name, ..) in RANGES {
        if let Err(message) = recipe.limits.check(name) {
            return checker.wrong(&[Key("limits"), Key(name)], message);
        }
    }
    let lists = [
        ("strip", "paths", &recipe.strip.paths),
        ("strip", "keep", &recipe.strip.keep),
        ("initrd", "binaries", &recipe.initrd.binaries),
    ];
    for (table, key, list) in lists {
        for (number, path) in list.iter().enumerate() {
            let place = [Key(table), Key(key), Index(number)];
            checker.path_in_image(&place, path)?;
        }
    }
    Ok(())
}

impl Checker<'_> {
    fn wrong(&self, path: &[Step<'_>], message: impl Into<String>) -> Checked {
        Err(at(self.file, self.text, path, message))
    }

    fn archive(&self, recipe: &Recipe) -> Checked {
        let archive = &recipe.archive;
        let lists = [
            ("suites", &archive.suites),
            ("components", &archive.components),
        ];
        for (key, list) in lists {
            let path = [Key("archive"), Key(key)];
            if list.is_empty() {
                return self.wrong(&path, format!("there must be at least one of the {key}"));
            }
            self.list(&path, list, "is no name of a suite or component", |name| {
                let plain = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
                name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain)
            })?;
        }
        Ok(())
    }

    fn packages(&self, recipe: &Recipe) -> Checked {
        let what = "is no package's name";
        self.list(&[Key("packages")], &recipe.packages, what, is_package)?;
        self.list(&[Key("exclude")], &recipe.exclude, what, is_package)?;
        if let Some(kernel) = &recipe.kernel
            && !is_package(kernel)
        {
            return self.wrong(&[Key("kernel")], format!("`{kernel}` {what}"));
        }
        for (number, name) in recipe.exclude.iter().enumerate() {
            if recipe.packages.contains(name) || recipe.kernel.as_ref() == Some(name) {
                let path = [Key("exclude"), Index(number)];
                return self.wrong(&path, format!("`{name}` is asked for and excluded"));
            }
        }
        Ok(())
    }

    /// Checks that every entry is valid and none is a duplicate.
    fn list(
        &self,
        path: &[Step<'_>],
        list: &[String],
        what: &str,
        valid: impl Fn(&str) -> bool,
    ) -> Checked {
        let mut seen = HashSet::new();
        for (number, entry) in list.iter().enumerate() {
            let mut place = path.to_vec();
            place.push(Index(number));
            if !valid(entry) {
                return self.wrong(&place, format!("`{entry}` {what}"));
            }
            if !seen.insert(entry) {
                return self.wrong(&place, format!("`{entry}` is there twice"));
            }
        }
        Ok(())
    }

    fn system(&self, recipe: &Recipe) -> Checked {
        let system = &recipe.system;
        let plain = |text: &str, more: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if let Some(zone) = &system.timezone
            && !zone.split('/').all(|part| plain(part, "+-_."))
        {
            let path = [Key("system"), Key("timezone")];
            return self.wrong(
                &path,
                format!("`{zone}` is no time zone such as `Europe/Berlin`"),
            );
        }
        if let Some(locale) = &system.locale
            && !plain(locale, "_.@-")
        {
            let path = [Key("system"), Key("locale")];
            return self.wrong(&path, format!("`{locale}` is no locale such as `C.UTF-8`"));
        }
        let units = &system.units;
        let lists = [
            ("enable", &units.enable),
            ("disable", &units.disable),
            ("mask", &units.mask),
        ];
        for (key, list) in lists {
            let path = [Key("system"), Key("units"), Key(key)];
            self.list(&path, list, "is no unit's name", |name| {
                !name.is_empty() && !name.contains(['/', ' ', '\n'])
            })?;
        }
        Ok(())
    }

    fn users(&self, users: &[User]) -> Checked {
        let mut names = HashSet::new();
        let mut ids = HashSet::new();
        for (number, user) in users.iter().enumerate() {
            let path = |key| [Key("user"), Index(number), Key(key)];
            if !is_account(&user.name) {
                return self.wrong(&path("name"), format!("`{}` is no user's name", user.name));
            }
            if !names.insert(&user.name) {
                return self.wrong(
                    &path("name"),
                    format!("the user `{}` is there twice", user.name),
                );
            }
            if let Some(uid) = user.uid
                && !ids.insert(uid)
            {
                return self.wrong(&path("uid"), format!("two users have the uid {uid}"));
            }
            self.list(
                &path("groups"),
                &user.groups,
                "is no group's name",
                is_account,
            )?;
            for (key, value) in [("shell", &user.shell), ("home", &user.home)] {
                if let Some(value) = value {
                    self.path_in_image(&path(key), value)?;
                }
            }
            let hash = user.password_hash.as_deref().unwrap_or_default();
            if hash.contains([':', '\n']) {
                return self.wrong(&path("password-hash"), "this is no hash as in /etc/shadow");
            }
            for (key, line) in user.authorized_keys.iter().enumerate() {
                if line.contains('\n') || line.split_whitespace().count() < 2 {
                    let [user, number, list] = path("authorized-keys");
                    return self.wrong(
                        &[user, number, list, Index(key)],
                        "this is no line of an authorized_keys file",
                    );
                }
            }
        }
        Ok(())
    }

    fn file_entry(&self, number: usize, entry: &FileEntry) -> Checked {
        let path = |key| [Key("file"), Index(number), Key(key)];
        self.path_in_image(&path("path"), &entry.path)?;
        let given = [
            entry.source.is_some(),
            entry.content.is_some(),
            entry.template.is_some(),
            entry.link.is_some(),
            entry.directory,
        ];
        match given.iter().filter(|given| **given).count() {
            1 => {}
            0 => {
                return self.wrong(
                    &path("path"),
                    "nothing says what this file is: give `source`, `content`, `template`, `link` \
                     or `directory = true`",
                );
            }
            _ => {
                return self.wrong(
                    &path("path"),
                    "only one of `source`, `content`, `template`, `link` and `directory` can be \
                     given",
                );
            }
        }
        if let Some(mode) = &entry.mode
            && !u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777)
        {
            return self.wrong(
                &path("mode"),
                format!("`{mode}` is no mode in octal such as \"0755\""),
            );
        }
        if entry.mode.is_some() && entry.link.is_some() {
            return self.wrong(&path("mode"), "a symbolic link has no mode of its own");
        }
        if let Some(owner) = &entry.owner {
            let (user, group) = owner.split_once(':').unwrap_or((owner, "root"));
            let id = |name: &str| is_account(name) || name.parse::<u32>().is_ok();
            if !id(user) || !id(group) {
                return self.wrong(
                    &path("owner"),
                    format!("`{owner}` is no owner such as `root:adm`"),
                );
            }
        }
        Ok(())
    }

    /// Absolute, and inside the image.
    fn path_in_image(&self, place: &[Step<'_>], path: &str) -> Checked {
        let inside = path.starts_with('/')
            && !path.contains('\0')
            && Path::new(path)
                .components()
                .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        if !inside {
            return self.wrong(
                place,
                format!("`{path}` must be an absolute path in the image, without `..`"),
            );
        }
        Ok(())
    }
}

/// A package's name (Debian Policy 5.6.1).
fn is_package(name: &str) -> bool {
    name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c))
}

/// A user name that Debian's adduser accepts (adduser.conf(5), NAME_REGEX and SYS_NAME_REGEX
/// together).
fn is_account(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(more: &str) -> String {
        let text = format!(
            "description = \"d\"\narch = \"armhf\"\n{more}\n[archive]\nsuites = [\"trixie\"]\n"
        );
        match Recipe::parse(Path::new("r.toml"), &text) {
            Ok(_) => "fine".into(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (more, says) in [
            (
                "packages = [\"curl\", \"Foo\"]",
                "r.toml:3:21: `Foo` is no package's name",
            ),
            (
                "packages = [\"curl\", \"curl\"]",
                "r.toml:3:21: `curl` is there twice",
            ),
            (
                "packages = [\"curl\"]\nexclude = [\"curl\"]",
                "r.toml:4:12: `curl` is asked for",
            ),
            (
                "kernel = \"a b\"",
                "r.toml:3:10: `a b` is no package's name",
            ),
            (
                "system.timezone = \"/etc/x\"",
                "r.toml:3:19: `/etc/x` is no time zone",
            ),
            ("system.timezone = \"\"", "r.toml:3:19: `` is no time zone"),
            (
                "system.timezone = \"../etc/passwd\"",
                "`../etc/passwd` is no time zone",
            ),
            (
                "system.timezone = \"Europe//Berlin\"",
                "`Europe//Berlin` is no time zone",
            ),
            ("system.locale = \"\"", "r.toml:3:17: `` is no locale"),
            ("system.locale = \"de_DE .UTF-8\"", "is no locale"),
            ("system.locale = \"../x\"", "`../x` is no locale"),
            (
                "system.units.mask = [\"a/b\"]",
                "r.toml:3:22: `a/b` is no unit's name",
            ),
            (
                "user = [{ name = \"A\" }]",
                "r.toml:3:18: `A` is no user's name",
            ),
            (
                "user = [{ name = \"a\" }, { name = \"a\" }]",
                "the user `a` is there twice",
            ),
            (
                "user = [{ name = \"a\", uid = 1 }, { name = \"b\", uid = 1 }]",
                "two users have the uid 1",
            ),
            (
                "file = [{ path = \"etc/x\", content = \"\" }]",
                "r.toml:3:18: `etc/x` must be an absolute",
            ),
            (
                "file = [{ path = \"/a/../b\", content = \"\" }]",
                "without `..`",
            ),
            (
                "file = [{ path = \"/a\" }]",
                "nothing says what this file is",
            ),
            (
                "file = [{ path = \"/a\", content = \"\", link = \"b\" }]",
                "only one of",
            ),
            (
                "file = [{ path = \"/a\", content = \"\", mode = \"9\" }]",
                "`9` is no mode",
            ),
            (
                "file = [{ path = \"/a\", content = \"\", owner = \"a b\" }]",
                "`a b` is no owner",
            ),
            (
                "command = [{ run = \" \" }]",
                "r.toml:3:20: the command is empty",
            ),
            ("strip.paths = [\"usr/share\"]", "must be an absolute path"),
            ("pakages = []", "unknown key `pakages`"),
            (
                "limits.silence = 0",
                "r.toml:3:18: the limit of silence must be from 1 to 2592000, not 0",
            ),
            ("limits.memory = \"1M\"", "r.toml:3:17: the limit of memory"),
            (
                "limits.processes = 2",
                "r.toml:3:20: the limit of processes",
            ),
            (
                "limits.output = \"much\"",
                "r.toml:3:17: `much` is not a size such as 64M",
            ),
            ("limits.disk = -1", "r.toml:3:15: `-1` is not a size"),
            ("limits.disk = 1.5", "r.toml:3:15: "),
            ("limits.speed = 1", "unknown key `speed`"),
        ] {
            let message = told(more);
            assert!(message.contains(says), "{more}\n{message}");
        }
    }

    #[test]
    fn an_empty_list_of_suites_is_refused() {
        let text = "description = \"d\"\narch = \"armhf\"\n[archive]\nsuites = []\n";
        let error = Recipe::parse(Path::new("r.toml"), text).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("r.toml:4:10: there must be at least one"),
            "{error}"
        );
    }

    #[test]
    fn a_full_recipe_is_fine() {
        let more = "packages = [\"curl\", \"libstdc++6\"]\n\
            user = [{ name = \"lab\", groups = [\"sudo\"], home = \"/home/lab\", authorized-keys = [\"ssh-ed25519 AAAA x\"] }]\n\
            file = [{ path = \"/a\", content = \"x\", mode = \"0644\", owner = \"lab:0\" }, { path = \"/b\", link = \"a\" }]\n\
            command = [{ run = \"true\" }]\nlimits.output = \"1G\"\nlimits.disk = 1048576\nsystem.timezone = \"Europe/Berlin\"\nsystem.locale = \"C.UTF-8\"\n";
        assert_eq!(told(more), "fine");
    }
}

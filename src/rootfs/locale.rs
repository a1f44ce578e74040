//! Owns an image's locale and time zone: whether they exist, and their canonical names.
//! Never compiles a locale: the image's own locale-gen does.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::tree::{Kind, Tree};
use crate::diagnostic::nearest;
use crate::error::Fault;

/// The package locales' list of what locale-gen(8) can make, a name and a charset on each line; the
/// second file is the administrator's.
const SUPPORTED: [&str; 2] = ["usr/share/i18n/SUPPORTED", "usr/local/share/i18n/SUPPORTED"];
/// Compiled locales, a directory each, named as `locale -a` prints them; from locales-all and
/// libc-bin.
const COMPILED: &str = "usr/lib/locale";
const ZONES: &str = "usr/share/zoneinfo";

/// A locale available in the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locale {
    /// The value for `LANG`.
    pub name: String,
    /// Its charset, if locale-gen has to make it.
    pub generate: Option<String>,
}

/// The parts of a locale's name (setlocale(3)): `de_DE.UTF-8@euro`.
struct Parts<'a> {
    base: &'a str,
    charset: Option<&'a str>,
    modifier: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Self {
        let (rest, modifier) = match name.split_once('@') {
            Some((rest, modifier)) => (rest, Some(modifier)),
            None => (name, None),
        };
        let (base, charset) = match rest.split_once('.') {
            Some((base, charset)) => (base, Some(charset)),
            None => (rest, None),
        };
        Parts {
            base,
            charset,
            modifier,
        }
    }

    /// The name as `locale -a` prints it.
    fn compiled(&self) -> String {
        let charset = self
            .charset
            .map(|charset| format!(".{}", normalised(charset)));
        let modifier = self.modifier.map(|modifier| format!("@{modifier}"));
        [
            self.base,
            &charset.unwrap_or_default(),
            &modifier.unwrap_or_default(),
        ]
        .concat()
    }

    /// Whether this is `name` in SUPPORTED, with the charset of its second column.
    fn is(&self, name: &str, charset: &str) -> bool {
        let other = Parts::of(name);
        let charsets = match (self.charset, other.charset) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(own), _) => normalised(own) == normalised(charset),
        };
        self.base == other.base && self.modifier == other.modifier && charsets
    }
}

/// A charset as glibc compares it (`_nl_normalize_codeset`): `utf8`, `iso88591`.
fn normalised(charset: &str) -> String {
    let plain: String = charset
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .map(|c| c.to_ascii_lowercase())
        .collect();
    match plain.chars().all(|c| c.is_ascii_digit()) {
        true => format!("iso{plain}"),
        false => plain,
    }
}

/// Resolves the recipe's locale `asked`, in the spelling of `locale -a` or of SUPPORTED.
///
/// # Errors
/// [`Fault::input`] if the image neither has it nor can make it.
pub fn locale(tree: &mut Tree, asked: &str) -> Result<Locale> {
    let ready = |name: &str| Locale {
        name: name.to_string(),
        generate: None,
    };
    let parts = Parts::of(asked);
    let compiled = parts.compiled();
    if ["C", "POSIX"].contains(&asked) {
        return Ok(ready(asked));
    }
    if compiled == "C.utf8" {
        return Ok(ready("C.UTF-8"));
    }
    let supported = supported(tree)?;
    let known = supported
        .iter()
        .find(|(name, charset)| parts.is(name, charset));
    let names = tree.list(Path::new(COMPILED)).unwrap_or_default();
    if names.iter().any(|name| *name == *compiled) {
        let name = known.map_or_else(|| spelled(&parts), |(name, _)| name.clone());
        return Ok(ready(&name));
    }
    if tree.kind(Path::new("usr/sbin/locale-gen")).is_some()
        && let Some((name, charset)) = known
    {
        return Ok(Locale {
            name: name.clone(),
            generate: Some(charset.clone()),
        });
    }
    let mut choices: Vec<String> = supported.into_iter().map(|(name, _)| name).collect();
    choices.extend(
        names
            .iter()
            .filter_map(|name| Some(spelled(&Parts::of(name.to_str()?)))),
    );
    choices.retain(|name| !name.starts_with("C."));
    if choices.is_empty() {
        return Err(
            Fault::input(format!("the image cannot make the locale {asked}"))
                .remedy("add the package locales or locales-all to the recipe, or use C.UTF-8")
                .into(),
        );
    }
    choices.push("C.UTF-8".into());
    let help = match similar_locale(&parts, &choices) {
        Some(name) => format!("did you mean `{name}`?"),
        None => "the recipe's [system] takes one that /usr/share/i18n/SUPPORTED lists, or C.UTF-8"
            .into(),
    };
    Err(Fault::input(format!("there is no locale {asked}"))
        .remedy(help)
        .into())
}

/// A name with its charset in the usual spelling.
fn spelled(parts: &Parts<'_>) -> String {
    let charset = match parts.charset {
        Some(charset) if normalised(charset) == "utf8" => Some("UTF-8"),
        charset => charset,
    };
    let mut name = parts.base.to_string();
    for (mark, part) in [('.', charset), ('@', parts.modifier)] {
        if let Some(part) = part {
            name.push(mark);
            name.push_str(part);
        }
    }
    name
}

/// Names and charsets that locale-gen can make.
fn supported(tree: &mut Tree) -> Result<Vec<(String, String)>> {
    let mut list = Vec::new();
    for path in SUPPORTED {
        for line in tree.read_text(path)?.lines() {
            let mut words = line.split_whitespace();
            if let (Some(name), Some(charset)) = (words.next(), words.next())
                && !name.starts_with('#')
            {
                list.push((name.to_string(), charset.to_string()));
            }
        }
    }
    Ok(list)
}

/// The best suggestion: same language and territory, then the requested charset, else UTF-8.
fn similar_locale(asked: &Parts<'_>, choices: &[String]) -> Option<String> {
    let lower = asked.base.replace('-', "_").to_ascii_lowercase();
    // ISO 3166-1 reserves UK; the code is GB.
    let lower = match lower.strip_suffix("_uk") {
        Some(language) => format!("{language}_gb"),
        None => lower,
    };
    let bases: Vec<String> = choices
        .iter()
        .map(|name| Parts::of(name).base.to_ascii_lowercase())
        .collect();
    let base = nearest(&lower, bases.iter().map(String::as_str))?;
    let charset = normalised(asked.charset.unwrap_or("UTF-8"));
    let rank = |name: &&String| {
        let parts = Parts::of(name);
        let own = normalised(parts.charset.unwrap_or_default());
        (
            parts.modifier == asked.modifier,
            own == charset,
            own == "utf8",
            parts.modifier.is_none(),
        )
    };
    choices
        .iter()
        .zip(&bases)
        .filter(|(_, other)| *other == base)
        .map(|(name, _)| name)
        .max_by_key(rank)
        .cloned()
}

/// The absolute path of a time zone's file in the image.
///
/// # Errors
/// [`Fault::input`] if the image has no such zone, with the package that contains it or a
/// suggestion.
pub fn zone(tree: &mut Tree, zone: &str) -> Result<PathBuf> {
    let path = Path::new(ZONES).join(zone);
    if is_zone(tree, &path) {
        return Ok(Path::new("/").join(path));
    }
    let help = match missing_package(tree, zone)? {
        Some(help) => help,
        None => match similar_zone(zone, &zones(tree)?) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "`timezone` in the recipe's [system] is a file below /usr/share/zoneinfo of \
                     the image, such as Europe/Berlin"
                .into(),
        },
    };
    Err(Fault::input(format!("the image has no time zone {zone}"))
        .remedy(help)
        .into())
}

/// Whether `path`, with links below [`ZONES`] followed, is a file in the format of tzfile(5).
fn is_zone(tree: &mut Tree, path: &Path) -> bool {
    let mut path = path.to_path_buf();
    for _ in 0..8 {
        match tree.kind(&path) {
            // `localtime` is a link to /etc/localtime, which is made from this file.
            Some(Kind::Link) => match tree.link_target(&path) {
                Some(target) if target.is_relative() => {
                    path = path.with_file_name("").join(target);
                }
                _ => return false,
            },
            Some(Kind::File) => {
                let data = tree.read(&path).ok().flatten();
                return data.is_some_and(|data| data.starts_with(b"TZif"));
            }
            _ => return false,
        }
    }
    false
}

/// The package to add for a zone, if a package is what is missing.
fn missing_package(tree: &mut Tree, zone: &str) -> Result<Option<String>> {
    let release = tree.read_text("usr/lib/os-release")?;
    let version = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_ID="))
        .and_then(|version| version.trim_matches('"').parse::<u32>().ok());
    // Bookworm's tzdata contains the old names.
    let with_legacy = version.is_none_or(|version| version > 12);
    let data = tree.read_text(Path::new(ZONES).join("tzdata.zi"))?;
    let (plain, is_variant) = match zone
        .strip_prefix("posix/")
        .or_else(|| zone.strip_prefix("right/"))
    {
        Some(plain) => (plain, true),
        None => (zone, false),
    };
    let target = link_in_zic(&data, plain);
    if tree.kind(&Path::new(ZONES).join("Etc/UTC")).is_none() {
        return Ok(Some(match with_legacy {
            true => "add the package tzdata to the recipe, or tzdata-legacy for an old name such \
                     as US/Eastern"
                .into(),
            false => "add the package tzdata to the recipe".into(),
        }));
    }
    if !with_legacy || tree.kind(&Path::new(ZONES).join("US/Eastern")).is_some() {
        return Ok(None);
    }
    Ok(match target {
        Some(target) => Some(format!(
            "{zone} is an old name, which the package tzdata-legacy has: add it to the recipe, or \
             use `{target}`"
        )),
        None if is_variant && is_zone(tree, &Path::new(ZONES).join(plain)) => {
            Some(format!("add the package tzdata-legacy, or use `{plain}`"))
        }
        None => None,
    })
}

/// The target of a link in the compact form of zic(8)'s input, `L TARGET NAME`.
fn link_in_zic<'a>(data: &'a str, zone: &str) -> Option<&'a str> {
    data.lines().find_map(|line| {
        let (target, name) = line.strip_prefix("L ")?.split_once(' ')?;
        (name == zone).then_some(target)
    })
}

/// The names of all zones.
fn zones(tree: &mut Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut left = vec![PathBuf::new()];
    while let Some(directory) = left.pop() {
        let path = Path::new(ZONES).join(&directory);
        for name in tree.list(&path)? {
            let zone = directory.join(&name);
            match tree.kind(&path.join(&name)) {
                Some(Kind::Directory) if name != "posix" && name != "right" => left.push(zone),
                Some(Kind::File | Kind::Link) => found.extend(zone.to_str().map(str::to_string)),
                _ => {}
            }
        }
    }
    // Tables of the package, not zones.
    found.retain(|name| !name.contains(".") && !name.starts_with("leap") && name != "localtime");
    found.sort();
    Ok(found)
}

fn similar_zone(asked: &str, zones: &[String]) -> Option<String> {
    let key = |name: &str| name.replace([' ', '-'], "_").to_ascii_lowercase();
    let keys: Vec<String> = zones.iter().map(|zone| key(zone)).collect();
    let wanted = key(asked);
    let city = |name: &str| name.rsplit('/').next().unwrap_or_default().to_string();
    let at = keys
        .iter()
        .position(|zone| *zone == wanted)
        .or_else(|| keys.iter().position(|zone| city(zone) == city(&wanted)))
        .or_else(|| {
            let near = nearest(&wanted, keys.iter().map(String::as_str))?;
            keys.iter().position(|zone| zone == near)
        })?;
    Some(zones[at].clone())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::help_of;

    fn image(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let tree = Tree::open(dir.path()).unwrap();
        (dir, tree)
    }

    // Lines of the package's own file.
    const LINES: &str = "ca_ES@valencia UTF-8\nde_DE.UTF-8 UTF-8\nde_DE ISO-8859-1\n\
        de_DE@euro ISO-8859-15\nen_DK.UTF-8 UTF-8\nen_GB.UTF-8 UTF-8\nen_IN UTF-8\n\
        en_US.UTF-8 UTF-8\nxh_ZA.UTF-8 UTF-8\nyi_US.UTF-8 UTF-8\n";

    fn told<T: std::fmt::Debug>(result: Result<T>) -> String {
        let error = result.unwrap_err();
        format!("{error}: {}", help_of(&error).unwrap_or_default())
    }

    #[test]
    fn locales_are_made_under_the_names_of_the_package() {
        let (_dir, mut tree) = image(&[(SUPPORTED[0], LINES), ("usr/sbin/locale-gen", "")]);
        for (asked, name, charset) in [
            ("de_DE.UTF-8", "de_DE.UTF-8", "UTF-8"),
            ("de_DE.utf8", "de_DE.UTF-8", "UTF-8"),
            ("de_DE", "de_DE", "ISO-8859-1"),
            ("de_DE.iso88591", "de_DE", "ISO-8859-1"),
            ("de_DE.8859-1", "de_DE", "ISO-8859-1"),
            ("de_DE@euro", "de_DE@euro", "ISO-8859-15"),
            ("de_DE.iso885915@euro", "de_DE@euro", "ISO-8859-15"),
            ("en_IN.utf8", "en_IN", "UTF-8"),
            ("ca_ES.utf8@valencia", "ca_ES@valencia", "UTF-8"),
        ] {
            let made = locale(&mut tree, asked).unwrap();
            assert_eq!(
                (made.name.as_str(), made.generate.as_deref()),
                (name, Some(charset)),
                "{asked}"
            );
        }
        for (asked, help) in [
            ("en_UK.UTF-8", "`en_GB.UTF-8`"),
            ("en_uk.utf8", "`en_GB.UTF-8`"),
            ("de_de.utf-8", "`de_DE.UTF-8`"),
            ("de-DE", "`de_DE.UTF-8`"),
            ("de_DE.UTF-9", "`de_DE.UTF-8`"),
            ("DE_DE.ISO-8859-1", "`de_DE"),
            ("c.utf8", "`C.UTF-8`"),
            ("xx_YY.UTF-8", "SUPPORTED lists"),
        ] {
            let said = told(locale(&mut tree, asked));
            assert!(
                said.starts_with(&format!("there is no locale {asked}: ")),
                "{said}"
            );
            assert!(said.contains(help), "{said}");
        }
    }

    #[test]
    fn what_is_compiled_needs_no_package_locales() {
        let (_dir, mut tree) = image(&[
            ("usr/lib/locale/C.utf8/LC_TIME", ""),
            ("usr/lib/locale/de_DE.utf8/LC_TIME", ""),
            ("usr/lib/locale/de_DE@euro/LC_TIME", ""),
        ]);
        for (asked, name) in [
            ("C", "C"),
            ("POSIX", "POSIX"),
            ("C.utf8", "C.UTF-8"),
            ("C.UTF-8", "C.UTF-8"),
            ("de_DE.UTF-8", "de_DE.UTF-8"),
            ("de_DE.utf8", "de_DE.UTF-8"),
            ("de_DE@euro", "de_DE@euro"),
        ] {
            let made = locale(&mut tree, asked).unwrap();
            assert_eq!((made.name.as_str(), made.generate), (name, None), "{asked}");
        }
        assert!(told(locale(&mut tree, "de_dE.UTF-8")).contains("`de_DE.UTF-8`"));
        let (_dir, mut bare) = image(&[("usr/lib/locale/C.utf8/LC_TIME", "")]);
        assert!(told(locale(&mut bare, "de_DE.UTF-8")).contains("add the package locales or"));
    }

    #[test]
    fn zones_are_found_or_told_where_they_are() {
        let zi =
            "# version 2026\nZ America/New_York -4:56:2 - LMT\nL America/New_York US/Eastern\n";
        let mut files = vec![
            ("usr/lib/os-release", "VERSION_ID=\"13\"\n"),
            ("usr/share/zoneinfo/tzdata.zi", zi),
            ("usr/share/zoneinfo/zone.tab", "# no zone\n"),
            ("usr/share/zoneinfo/Etc/UTC", "TZif2"),
            ("usr/share/zoneinfo/Europe/Berlin", "TZif2"),
            ("usr/share/zoneinfo/America/New_York", "TZif2"),
        ];
        let (dir, mut tree) = image(&files);
        let zoneinfo = dir.path().join(ZONES);
        symlink("Berlin", zoneinfo.join("Europe/Busingen")).unwrap();
        symlink("/etc/localtime", zoneinfo.join("localtime")).unwrap();
        for good in ["Europe/Berlin", "Europe/Busingen", "Etc/UTC"] {
            let path = zone(&mut tree, good).unwrap();
            assert_eq!(path, Path::new("/usr/share/zoneinfo").join(good));
        }
        for (bad, help) in [
            ("Europe/Berlni", "`Europe/Berlin`"),
            ("europe/berlin", "`Europe/Berlin`"),
            ("Berlin", "`Europe/Berlin`"),
            ("America/New-York", "`America/New_York`"),
            ("US/Eastern", "tzdata-legacy"),
            ("US/Eastern", "`America/New_York`"),
            ("posix/Europe/Berlin", "tzdata-legacy"),
            ("Europe", ""),
            ("zone.tab", ""),
            ("localtime", ""),
            ("Mars/Base", "a file below"),
        ] {
            let said = told(zone(&mut tree, bad));
            assert!(said.contains(help), "{bad}: {said}");
        }
        // Bookworm has no tzdata-legacy.
        files[0].1 = "VERSION_ID=\"12\"\n";
        for files in [&files[..], &files[..1]] {
            let (_dir, mut tree) = image(files);
            assert!(!told(zone(&mut tree, "US/Eastern")).contains("legacy"));
        }
        let (_dir, mut none) = image(&files[..1]);
        assert!(told(zone(&mut none, "Europe/Berlin")).contains("add the package tzdata"));
    }
}

//! Owns the index of a kernel's modules inside an image: names, dependencies, aliases, built-in
//! modules.
//! Never selects the modules of an initrd.
//!
//! The files are those that depmod writes: `modules.dep(5)`, and `modules.alias`,
//! `modules.softdep`, `modules.weakdep` in the syntax of `modprobe.d(5)`; `modules.builtin` and
//! `modules.builtin.modinfo` come with the kernel (Documentation/kbuild/kbuild.rst).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result};

use super::module_name::{Name, canonical, name_of};
use super::{glob, modinfo};
use crate::error::Fault;
use crate::image::index::{Image, Kind, Number};

/// The modules of one kernel.
#[derive(Debug)]
pub struct Kernel {
    /// The release, as printed by `uname -r`.
    pub release: String,
    /// The modules' directory inside the image, without a leading slash.
    pub directory: String,
    modules: BTreeMap<Name, Module>,
    builtin: BTreeSet<Name>,
    builtin_paths: Vec<String>,
    aliases: Aliases,
    soft: BTreeMap<Name, SoftDependencies>,
    config: Option<Number>,
    /// The configuration, or nothing, of a kernel that has no modules and no list of what is built in: it has what its
    /// configuration does not deny.
    assumed: Option<String>,
}

/// One loadable module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Module {
    /// Relative to the modules' directory, as `kernel/fs/nfs/nfs.ko.xz`.
    pub path: String,
    /// Transitive dependencies, in reverse order of loading (as in `modules.dep`).
    pub dependencies: Vec<Name>,
}

/// Modules to load before and after a module (soft dependencies), as names or aliases; weak
/// dependencies count as after.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SoftDependencies {
    pub pre: Vec<String>,
    pub post: Vec<String>,
}

/// Alias patterns and the modules they name. Those for one `compatible` string of a device tree, by
/// far the most, are indexed by that string.
#[derive(Debug, Default)]
struct Aliases {
    compatible: HashMap<String, BTreeSet<Name>>,
    other: Vec<(String, Name)>,
}

impl Kernel {
    /// Reads the index of the image's kernel: of `release`, else of the only one.
    ///
    /// # Errors
    /// If there is no such kernel, there are several and none is named, or the index is malformed.
    pub fn open(image: &Image, release: Option<&str>) -> Result<Self> {
        let release = match release {
            Some(release) => release.to_string(),
            None => only_release(image)?,
        };
        let directory = format!("usr/lib/modules/{release}");
        let directory = match image
            .follow(&directory)
            .or_else(|| image.follow(format!("lib/modules/{release}")))
        {
            Some(found) => String::from_utf8(found.path).context("the modules' directory")?,
            None => {
                return Err(Fault::input(format!(
                    "{} has no modules of the kernel {release}",
                    image.path().display()
                ))
                .into());
            }
        };
        let mut kernel = Kernel {
            config: image
                .follow(format!("boot/config-{release}"))
                .map(|found| found.number),
            release,
            directory,
            modules: BTreeMap::new(),
            builtin: BTreeSet::new(),
            builtin_paths: Vec::new(),
            aliases: Aliases::default(),
            soft: BTreeMap::new(),
            assumed: None,
        };
        kernel.read_builtin(image)?;
        if !kernel.read_depmod(image)? {
            kernel.read_modules(image)?;
        }
        if kernel.modules.is_empty() && kernel.text(image, "modules.builtin")?.is_none() {
            kernel.assumed = Some(kernel.configuration(image).unwrap_or_default());
        }
        Ok(kernel)
    }

    /// The module of this name, with `-` or `_`.
    pub fn module(&self, name: &str) -> Option<&Module> {
        self.modules.get(&canonical(name))
    }

    /// All modules, sorted by name.
    pub fn modules(&self) -> impl Iterator<Item = (&Name, &Module)> {
        self.modules.iter()
    }

    /// Whether the module is built in.
    pub fn is_builtin(&self, name: &str) -> bool {
        let is_denied = |config| {
            let line = similar_option(config, name);
            line.is_some_and(|line| !line.ends_with("=y"))
        };
        match &self.assumed {
            Some(config) => !is_denied(config),
            None => self.builtin.contains(&canonical(name)),
        }
    }

    /// Whether a module below this directory (such as `drivers/net/phy/`) is built in.
    pub fn has_builtin_below(&self, directory: &str) -> bool {
        let prefix = format!("kernel/{directory}");
        self.assumed.is_some()
            || self
                .builtin_paths
                .iter()
                .any(|path| path.starts_with(&prefix))
    }

    pub fn soft_dependencies(&self, name: &str) -> Option<&SoftDependencies> {
        self.soft.get(name)
    }

    /// The modules that `modprobe` loads for `alias`: a module's name, or all whose patterns match.
    pub fn resolve(&self, alias: &str) -> BTreeSet<Name> {
        let name = canonical(alias);
        if self.modules.contains_key(&name) {
            return BTreeSet::from([name]);
        }
        let matching = self.aliases.other.iter();
        matching
            .filter(|(pattern, _)| glob::matches(pattern, alias))
            .map(|(_, name)| name.clone())
            .collect()
    }

    /// The modules that drive a device-tree node with this `compatible` string.
    pub fn compatible(&self, compatible: &str) -> BTreeSet<Name> {
        let plain = self.aliases.compatible.get(compatible);
        let mut found = plain.cloned().unwrap_or_default();
        // Other patterns contain a node's name or type as well, or wildcards.
        for (pattern, name) in &self.aliases.other {
            if let Some(("of:N", rest)) = pattern.split_at_checked(4)
                && let Some((_, wanted)) = rest.split_once('C')
                && glob::matches(wanted.strip_suffix("C*").unwrap_or(wanted), compatible)
            {
                found.insert(name.clone());
            }
        }
        found
    }

    /// Every alias of the modules in `names`, in the syntax of `modules.alias`.
    pub fn aliases_of(&self, names: &BTreeSet<&Name>) -> BTreeSet<(String, Name)> {
        let plain = self.aliases.compatible.iter();
        let plain = plain.flat_map(|(compatible, modules)| {
            modules.iter().flat_map(move |name| {
                ["", "C*"].map(|end| (format!("of:N*T*C{compatible}{end}"), name.clone()))
            })
        });
        plain
            .chain(self.aliases.other.iter().cloned())
            .filter(|(_, name)| names.contains(name))
            .collect()
    }

    /// The line of the kernel's configuration for the option most similar to the module `name`,
    /// such as `CONFIG_DWMAC_SUN8I is not set`.
    pub fn config_hint(&self, image: &Image, name: &str) -> Option<String> {
        let text = self.configuration(image)?;
        similar_option(&text, name).map(str::to_string)
    }

    /// Whether the kernel was configured with `option`; `None` if the image does not have its
    /// configuration.
    pub fn has_option(&self, image: &Image, option: &str) -> Option<bool> {
        let yes = format!("{option}=y");
        Some(self.configuration(image)?.lines().any(|line| line == yes))
    }

    /// The text of `boot/config-RELEASE`.
    pub fn configuration(&self, image: &Image) -> Option<String> {
        let text = image.read(self.config?).ok()?;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    fn read_builtin(&mut self, image: &Image) -> Result<()> {
        if let Some(text) = self.text(image, "modules.builtin")? {
            for path in text.lines().filter(|line| !line.is_empty()) {
                self.builtin.insert(name_of(path));
                self.builtin_paths.push(path.to_string());
            }
        }
        Ok(())
    }

    /// Reads depmod's files; returns `false` if there are none.
    fn read_depmod(&mut self, image: &Image) -> Result<bool> {
        let Some(dependencies) = self.text(image, "modules.dep")? else {
            return Ok(false);
        };
        for (number, line) in dependencies.lines().enumerate() {
            let (path, needed) = line.split_once(':').with_context(|| {
                format!(
                    "{}/modules.dep:{}: no colon: {line}",
                    self.directory,
                    number + 1
                )
            })?;
            self.modules.insert(
                name_of(path),
                Module {
                    path: path.to_string(),
                    dependencies: needed.split_whitespace().map(name_of).collect(),
                },
            );
        }
        for line in self
            .text(image, "modules.alias")?
            .unwrap_or_default()
            .lines()
        {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(name)) =
                (words.next(), words.next(), words.next())
            {
                self.aliases.add(pattern, name);
            }
        }
        self.read_further(image, "softdep", Kernel::add_soft)?;
        self.read_further(image, "weakdep", Kernel::add_weak)?;
        Ok(true)
    }

    /// Reads `modules.KEYWORD`; calls `add` with the module and the words of each line.
    fn read_further(
        &mut self,
        image: &Image,
        keyword: &str,
        add: fn(&mut Self, &str, &str),
    ) -> Result<()> {
        let text = self.text(image, &format!("modules.{keyword}"))?;
        for line in text.unwrap_or_default().lines() {
            if let Some((found, rest)) = line.split_once(' ')
                && found == keyword
                && let Some((name, words)) = rest.split_once(' ')
            {
                add(self, name, words);
            }
        }
        Ok(())
    }

    /// Computes from the modules themselves what depmod writes.
    fn read_modules(&mut self, image: &Image) -> Result<()> {
        let mut direct = BTreeMap::new();
        for (path, number) in module_files(image, &self.directory) {
            let about = || format!("the module {path}");
            let elf = modinfo::decompress(&path, &image.read(number).with_context(about)?)
                .with_context(about)?;
            let info = modinfo::Info::of(&elf).with_context(about)?;
            let name = name_of(&path);
            for alias in &info.aliases {
                self.aliases.add(alias, &name);
            }
            for words in &info.soft {
                self.add_soft(&name, words);
            }
            for words in &info.weak {
                self.add_weak(&name, words);
            }
            direct.insert(name, (path, info.depends));
        }
        for (name, (path, _)) in &direct {
            let module = Module {
                path: path.clone(),
                dependencies: all_dependencies(name, &direct)?,
            };
            self.modules.insert(name.clone(), module);
        }
        Ok(())
    }

    fn add_soft(&mut self, name: &str, words: &str) {
        let soft = self.soft.entry(canonical(name)).or_default();
        let mut list = &mut soft.pre;
        for word in words.split_whitespace() {
            match word {
                "pre:" => list = &mut soft.pre,
                "post:" => list = &mut soft.post,
                word => list.push(word.to_string()),
            }
        }
    }

    /// Modules that a module may request from the kernel at run time; they are not loaded
    /// beforehand.
    fn add_weak(&mut self, name: &str, words: &str) {
        let soft = self.soft.entry(canonical(name)).or_default();
        soft.post
            .extend(words.split_whitespace().map(str::to_string));
    }

    fn text(&self, image: &Image, file: &str) -> Result<Option<String>> {
        let path = format!("{}/{file}", self.directory);
        let Some(found) = image.follow(&path) else {
            return Ok(None);
        };
        let data = image.read(found.number).with_context(|| path.clone())?;
        Ok(Some(String::from_utf8(data).with_context(|| path)?))
    }
}

impl Aliases {
    fn add(&mut self, pattern: &str, name: &str) {
        let plain = pattern
            .strip_prefix("of:N*T*C")
            .map(|compatible| compatible.strip_suffix("C*").unwrap_or(compatible))
            .filter(|compatible| !compatible.contains(['*', '?', '[']));
        match plain {
            Some(compatible) => {
                let names = self.compatible.entry(compatible.to_string()).or_default();
                names.insert(canonical(name));
            }
            None => self.other.push((pattern.to_string(), canonical(name))),
        }
    }
}

/// Options whose modules have quite another name.
const OTHER_NAMES: [(&str, &str); 2] = [("NFSV3", "NFS_V3"), ("AF_PACKET", "PACKET")];

/// The line of a configuration for the option most similar to a module's name: the same name, one that ends in it, or one
/// with the same words in any order.
fn similar_option<'a>(config: &'a str, name: &str) -> Option<&'a str> {
    let wanted = option_of(name);
    let words = |name: &str| name.split('_').map(str::to_string).collect::<BTreeSet<_>>();
    let likeness = |known: &str| {
        if known == wanted || known.strip_suffix("_FS") == Some(&wanted) {
            Some(0)
        } else if known.ends_with(&format!("_{wanted}")) {
            Some(1)
        } else {
            (words(known) == words(&wanted)).then_some(2)
        }
    };
    let lines = config.lines().map(|line| line.trim_start_matches("# "));
    let (_, line) = lines
        .filter_map(|line| {
            let known = line.strip_prefix("CONFIG_")?.split(['=', ' ']).next()?;
            Some((likeness(known)?, line))
        })
        .min_by_key(|(rank, _)| *rank)?;
    Some(line)
}

/// The option, without `CONFIG_`, that a module is most likely built by.
pub fn option_of(name: &str) -> String {
    let plain = canonical(name).to_uppercase();
    let known = OTHER_NAMES.iter().find(|(module, _)| *module == plain);
    known.map_or(plain, |(_, option)| (*option).to_string())
}

fn only_release(image: &Image) -> Result<String> {
    let mut releases = Vec::new();
    if let Some(modules) = image
        .follow("usr/lib/modules")
        .or_else(|| image.follow("lib/modules"))
    {
        for entry in image.entries(modules.number) {
            releases.push(String::from_utf8_lossy(&entry.name).into_owned());
        }
    }
    match releases.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Fault::input(format!(
            "{} has no kernel modules (usr/lib/modules is missing or empty)",
            image.path().display()
        ))
        .remedy("name a kernel package in the recipe: kernel = \"linux-image-…\"")
        .into()),
        several => Err(Fault::input(format!(
            "{} has modules of several kernels: {}",
            image.path().display(),
            several.join(", ")
        ))
        .remedy("keep one of them in the image, or choose with --kernel")
        .into()),
    }
}

/// The paths (relative to `directory`) of all module files, with their inodes.
fn module_files(image: &Image, directory: &str) -> Vec<(String, Number)> {
    let Some(top) = image.follow(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut stack = vec![(String::new(), top.number)];
    while let Some((path, number)) = stack.pop() {
        for entry in image.entries(number) {
            let name = String::from_utf8_lossy(&entry.name);
            let below = if path.is_empty() {
                name.into_owned()
            } else {
                format!("{path}/{name}")
            };
            match image.inode(entry.number).map(|inode| &inode.kind) {
                Some(Kind::Directory { .. }) => stack.push((below, entry.number)),
                Some(Kind::File { .. }) if modinfo::is_module(&below) => {
                    found.push((below, entry.number));
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// All transitive dependencies of `name`, in the order of `modules.dep`: reverse order of loading.
fn all_dependencies(
    name: &Name,
    direct: &BTreeMap<Name, (String, Vec<Name>)>,
) -> Result<Vec<Name>> {
    fn visit(
        name: &Name,
        direct: &BTreeMap<Name, (String, Vec<Name>)>,
        way: &mut Vec<Name>,
        done: &mut Vec<Name>,
    ) -> Result<()> {
        if let Some(start) = way.iter().position(|on_way| on_way == name) {
            return Err(loop_fault(&way[start..]));
        }
        if done.contains(name) {
            return Ok(());
        }
        way.push(name.clone());
        for needed in direct.get(name).map_or(&[][..], |(_, needed)| needed) {
            visit(needed, direct, way, done)?;
        }
        way.pop();
        done.push(name.clone());
        Ok(())
    }
    let mut done = Vec::new();
    visit(name, direct, &mut Vec::new(), &mut done)?;
    done.pop();
    done.reverse();
    Ok(done)
}

/// Modules that depend on each other cannot be loaded.
pub fn loop_fault(names: &[Name]) -> anyhow::Error {
    Fault::input(format!(
        "these kernel modules need each other in a loop: {}",
        names.join(", ")
    ))
    .remedy("the kernel package is broken: rebuild it, or choose another")
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_spelling() {
        assert_eq!(name_of("kernel/x/dwmac-sun8i.ko.xz"), "dwmac_sun8i");
        assert_eq!(name_of("kernel/x/i2c-dev.ko"), "i2c_dev");
        assert_eq!(canonical("virtio-net.ko"), "virtio_net");
    }

    #[test]
    fn aliases_are_found_by_compatible_string_and_by_pattern() {
        let mut aliases = Aliases::default();
        aliases.add("of:N*T*Callwinner,sun8i-h3-emac", "dwmac-sun8i");
        aliases.add("of:N*T*Callwinner,sun8i-h3-emacC*", "dwmac-sun8i");
        aliases.add("virtio:d00000001v*", "virtio_net");
        assert_eq!(
            aliases.compatible["allwinner,sun8i-h3-emac"],
            BTreeSet::from(["dwmac_sun8i".to_string()])
        );
        assert_eq!(aliases.other.len(), 1);
    }

    #[test]
    fn dependencies_come_in_the_order_of_modules_dep() {
        let entry = |needed: &[&str]| {
            (
                String::new(),
                needed.iter().map(|name| (*name).to_string()).collect(),
            )
        };
        let mut direct = BTreeMap::from([
            ("a".to_string(), entry(&["b", "c"])),
            ("b".to_string(), entry(&["c"])),
            ("c".to_string(), entry(&[])),
        ]);
        assert_eq!(all_dependencies(&"a".into(), &direct).unwrap(), ["b", "c"]);
        direct.insert("c".into(), entry(&["a"]));
        let error = all_dependencies(&"a".into(), &direct).unwrap_err();
        assert!(error.to_string().contains("a, b, c"), "{error}");
    }
}

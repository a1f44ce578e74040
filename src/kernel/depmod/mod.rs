//! Owns what depmod(8) makes of a kernel's modules: their dependencies and aliases, as texts and as indices, the same as
//! kmod's own. Never reads a file.
//!
//! Of the texts only the order of the lines in `modules.symbols`, which means nothing, is another: it is sorted.

pub mod index;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use anyhow::Result;

use self::index::Index;
use super::module::Module;
use crate::error::Fault;
use crate::initrd::module_name::{Name, name_of};

/// What lies beside the modules and came with the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Texts<'a> {
    /// `modules.order`: paths of modules, in the order in which aliases are to be tried.
    pub order: Option<&'a str>,
    /// `modules.builtin`.
    pub builtin: Option<&'a str>,
    /// `modules.builtin.modinfo`: `NAME.KEY=VALUE` records, each ended by a NUL.
    pub builtin_modinfo: Option<&'a [u8]>,
}

/// The files that depmod writes, by name.
///
/// # Errors
/// If modules need each other in a loop, or a file is larger than its format allows.
pub fn depmod(modules: Vec<Module>, texts: Texts<'_>) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let set = Set::new(modules, texts.order)?;
    let mut files = BTreeMap::from([
        ("modules.dep", set.dependencies().into_bytes()),
        ("modules.dep.bin", set.dependency_index()?),
        ("modules.alias", set.aliases().into_bytes()),
        ("modules.alias.bin", set.alias_index()?),
        ("modules.softdep", set.soft_dependencies().into_bytes()),
        ("modules.weakdep", set.weak_dependencies().into_bytes()),
        ("modules.symbols", set.symbols().into_bytes()),
        ("modules.symbols.bin", set.symbol_index()?),
        ("modules.devname", set.device_names().into_bytes()),
    ]);
    if let Some(builtin) = texts.builtin {
        files.insert("modules.builtin.bin", builtin_index(builtin)?);
    }
    if let Some(modinfo) = texts.builtin_modinfo {
        files.insert("modules.builtin.alias.bin", builtin_alias_index(modinfo)?);
    }
    Ok(files)
}

/// All modules of a kernel, in the order of `modules.order`.
struct Set {
    modules: Vec<Module>,
    /// Who exports a symbol.
    owners: HashMap<String, usize>,
    /// Of each module all that it needs, whether directly or not, in the order of `modules.dep`.
    needs: Vec<Vec<usize>>,
}

impl Set {
    fn new(modules: Vec<Module>, order: Option<&str>) -> Result<Self> {
        let modules = sorted(without_doubles(modules), order);
        let mut owners = HashMap::new();
        for (number, module) in modules.iter().enumerate() {
            for symbol in &module.exports {
                owners.insert(symbol.clone(), number);
            }
        }
        let direct: Vec<Vec<usize>> = modules
            .iter()
            .map(|module| direct_needs(module, &owners))
            .collect();
        let ranks = ranks(&modules, &direct)?;
        let needs = (0..modules.len())
            .map(|number| all_needs(number, &direct, &ranks))
            .collect();
        Ok(Set {
            modules,
            owners,
            needs,
        })
    }

    fn dependency_lines(&self) -> impl Iterator<Item = (usize, String)> {
        self.modules.iter().enumerate().map(|(number, module)| {
            let mut line = format!("{}:", module.path);
            for needed in &self.needs[number] {
                line.push(' ');
                line.push_str(&self.modules[*needed].path);
            }
            (number, line)
        })
    }

    fn dependencies(&self) -> String {
        let lines = self.dependency_lines();
        lines.map(|(_, line)| line + "\n").collect()
    }

    fn dependency_index(&self) -> Result<Vec<u8>> {
        let mut index = Index::default();
        for (number, line) in self.dependency_lines() {
            index.insert(&self.modules[number].name, &line, u32::try_from(number)?);
        }
        index.to_bytes()
    }

    fn aliases(&self) -> String {
        self.text("Aliases", "alias", |module| &module.aliases, true)
    }

    fn alias_index(&self) -> Result<Vec<u8>> {
        let mut index = Index::default();
        for (module, priority) in self.modules.iter().zip(0..) {
            for alias in module
                .aliases
                .iter()
                .filter_map(|alias| with_underscores(alias))
            {
                index.insert(&alias, &module.name, priority);
            }
        }
        index.to_bytes()
    }

    fn soft_dependencies(&self) -> String {
        self.text("Soft dependencies", "softdep", |module| &module.soft, false)
    }

    fn weak_dependencies(&self) -> String {
        self.text("Weak dependencies", "weakdep", |module| &module.weak, false)
    }

    /// The lines of `modules.KEYWORD`, in the syntax of modprobe.d(5).
    fn text(
        &self,
        what: &str,
        keyword: &str,
        values: impl Fn(&Module) -> &Vec<String>,
        value_first: bool,
    ) -> String {
        let mut text = format!("# {what} extracted from modules themselves.\n");
        for module in &self.modules {
            for value in values(module) {
                let name = &module.name;
                let written = match value_first {
                    true => writeln!(text, "{keyword} {value} {name}"),
                    false => writeln!(text, "{keyword} {name} {value}"),
                };
                written.expect("a string takes everything");
            }
        }
        text
    }

    fn symbol_owners(&self) -> Vec<(&str, usize)> {
        let owners = self.owners.iter();
        let mut owners: Vec<_> = owners
            .map(|(symbol, owner)| (symbol.as_str(), *owner))
            .collect();
        owners.sort_unstable();
        owners
    }

    fn symbols(&self) -> String {
        let mut text = String::from("# Aliases for symbols, used by symbol_request().\n");
        for (symbol, owner) in self.symbol_owners() {
            let name = &self.modules[owner].name;
            writeln!(text, "alias symbol:{symbol} {name}").expect("a string takes everything");
        }
        text
    }

    fn symbol_index(&self) -> Result<Vec<u8>> {
        let mut index = Index::default();
        for (symbol, owner) in self.symbol_owners() {
            let name = &self.modules[owner].name;
            index.insert(&format!("symbol:{symbol}"), name, u32::try_from(owner)?);
        }
        index.to_bytes()
    }

    fn device_names(&self) -> String {
        let mut text = String::from("# Device nodes to trigger on-demand module loading.\n");
        for module in &self.modules {
            if let Some(node) = device_node(&module.aliases) {
                writeln!(text, "{} {node}", module.name).expect("a string takes everything");
            }
        }
        text
    }
}

/// Of modules with one name, that in `updates/`, else the first by path: depmod.d(5), `search`.
fn without_doubles(mut modules: Vec<Module>) -> Vec<Module> {
    let rank = |module: &Module| (!module.path.starts_with("updates/"), module.path.clone());
    modules.sort_by_cached_key(|module| (module.name.clone(), rank(module)));
    modules.dedup_by(|later, first| later.name == first.name);
    modules.sort_by(|one, other| one.path.cmp(&other.path));
    modules
}

/// Those in `modules.order` first, in its order.
fn sorted(mut modules: Vec<Module>, order: Option<&str>) -> Vec<Module> {
    let lines = order.unwrap_or_default().lines().zip(0_usize..);
    let places: HashMap<&str, usize> = lines.collect();
    modules.sort_by_key(|module| {
        let plain = crate::initrd::modinfo::uncompressed_path(&module.path);
        places.get(plain).copied().unwrap_or(usize::MAX)
    });
    modules
}

/// The modules that export what a module uses, in the order of its symbol table.
fn direct_needs(module: &Module, owners: &HashMap<String, usize>) -> Vec<usize> {
    let mut needs = Vec::new();
    for symbol in &module.needs {
        if let Some(owner) = owners.get(symbol.strip_prefix('.').unwrap_or(symbol))
            && !needs.contains(owner)
        {
            needs.push(*owner);
        }
    }
    needs
}

/// Ranks the modules so that each comes before those that it needs (Kahn's algorithm, with a stack).
fn ranks(modules: &[Module], direct: &[Vec<usize>]) -> Result<Vec<usize>> {
    let mut users = vec![0_usize; modules.len()];
    for needed in direct.iter().flatten() {
        users[*needed] += 1;
    }
    let mut roots: Vec<usize> = (0..modules.len())
        .filter(|number| users[*number] == 0)
        .collect();
    let mut ranks = vec![usize::MAX; modules.len()];
    let mut ranked = 0;
    while let Some(number) = roots.pop() {
        ranks[number] = ranked;
        ranked += 1;
        for needed in &direct[number] {
            users[*needed] -= 1;
            if users[*needed] == 0 {
                roots.push(*needed);
            }
        }
    }
    if ranked == modules.len() {
        return Ok(ranks);
    }
    let looped = modules.iter().zip(&users).filter(|(_, users)| **users > 0);
    let names: Vec<&str> = looped.map(|(module, _)| module.name.as_str()).collect();
    Err(Fault::input(format!(
        "these kernel modules need each other in a loop, or are needed by such: {}",
        names.join(", ")
    ))
    .remedy("modules that need each other cannot be loaded: build one of them in, or change it")
    .into())
}

fn all_needs(number: usize, direct: &[Vec<usize>], ranks: &[usize]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut pending = direct[number].clone();
    let mut seen: std::collections::HashSet<usize> = pending.iter().copied().collect();
    while let Some(next) = pending.pop() {
        found.push(next);
        pending.extend(direct[next].iter().filter(|needed| seen.insert(**needed)));
    }
    found.sort_by_key(|needed| ranks[*needed]);
    found
}

/// An alias as it is looked up: `-` is `_`, but for what is in brackets. `None` if a bracket has no other half.
fn with_underscores(alias: &str) -> Option<String> {
    let mut inside = false;
    let mut plain = String::with_capacity(alias.len());
    for character in alias.chars() {
        match character {
            '[' => inside = true,
            ']' if !inside => return None,
            ']' => inside = false,
            _ => {}
        }
        plain.push(match character {
            '-' if !inside => '_',
            other => other,
        });
    }
    (!inside).then_some(plain)
}

/// `NAME TYPEMAJOR:MINOR` of the device node whose opening loads a module.
fn device_node(aliases: &[String]) -> Option<String> {
    let (mut name, mut device) = (None, None);
    for alias in aliases {
        if let Some(found) = alias.strip_prefix("devname:") {
            name = Some(found);
        } else if let Some(numbers) = alias.strip_prefix("char-major-").and_then(numbers) {
            device = Some(('c', numbers));
        } else if let Some(numbers) = alias.strip_prefix("block-major-").and_then(numbers) {
            device = Some(('b', numbers));
        }
        if let (Some(name), Some((kind, (major, minor)))) = (name, device) {
            return Some(format!("{name} {kind}{major}:{minor}"));
        }
    }
    None
}

/// The two numbers of `MAJOR-MINOR`, whatever follows.
fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('-')?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some((major.parse().ok()?, rest[..end].parse().ok()?))
}

fn builtin_index(builtin: &str) -> Result<Vec<u8>> {
    let mut index = Index::default();
    let is_path = |line: &&str| line.starts_with(|c: char| c.is_ascii_alphabetic());
    for line in builtin.lines().filter(is_path) {
        index.insert(&name_of(line), "", 0);
    }
    index.to_bytes()
}

fn builtin_alias_index(modinfo: &[u8]) -> Result<Vec<u8>> {
    let mut index = Index::default();
    for (name, alias) in builtin_aliases(modinfo) {
        if let Some(alias) = with_underscores(&alias) {
            index.insert(&alias, &name, 0);
        }
    }
    index.to_bytes()
}

/// The aliases in `modules.builtin.modinfo`, each after its module's name.
fn builtin_aliases(modinfo: &[u8]) -> impl Iterator<Item = (Name, String)> {
    modinfo.split(|byte| *byte == 0).filter_map(|record| {
        let record = String::from_utf8_lossy(record);
        let (place, alias) = record.split_once('=')?;
        let (name, "alias") = place.split_once('.')? else {
            return None;
        };
        Some((name.to_string(), alias.to_string()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str, exports: &[&str], needs: &[&str]) -> Module {
        let strings = |list: &[&str]| list.iter().map(|item| (*item).to_string()).collect();
        Module {
            path: format!("kernel/{name}.ko"),
            name: name.into(),
            exports: strings(exports),
            needs: strings(needs),
            ..Module::default()
        }
    }

    #[test]
    fn a_module_comes_before_those_that_it_needs() {
        let modules = vec![
            module("top", &[], &["printk", "low", "mid"]),
            module("mid", &["mid"], &["low"]),
            module("low", &["low"], &[]),
        ];
        let files = depmod(modules, Texts::default()).unwrap();
        let text = std::str::from_utf8(&files["modules.dep"]).unwrap();
        assert_eq!(
            text,
            "kernel/low.ko:\nkernel/mid.ko: kernel/low.ko\nkernel/top.ko: kernel/mid.ko kernel/low.ko\n"
        );
    }

    #[test]
    fn a_loop_is_named() {
        let modules = vec![module("a", &["a"], &["b"]), module("b", &["b"], &["a"])];
        let error = depmod(modules, Texts::default()).unwrap_err();
        assert!(error.to_string().contains("a, b"), "{error}");
    }

    #[test]
    fn an_update_hides_the_module_that_it_is_of() {
        let mut update = module("a", &[], &[]);
        update.path = "updates/a.ko".into();
        let modules = vec![module("a", &[], &[]), update];
        let files = depmod(modules, Texts::default()).unwrap();
        assert_eq!(files["modules.dep"], b"updates/a.ko:\n");
    }

    #[test]
    fn aliases_are_looked_up_with_underscores() {
        assert_eq!(
            with_underscores("a-b[c-d]e-f").as_deref(),
            Some("a_b[c-d]e_f")
        );
        assert_eq!(with_underscores("a]"), None);
        assert_eq!(with_underscores("[a"), None);
    }

    #[test]
    fn a_device_node_has_a_name_and_numbers() {
        let node = |aliases: &[&str]| {
            let aliases: Vec<String> = aliases.iter().map(|alias| (*alias).to_string()).collect();
            device_node(&aliases)
        };
        assert_eq!(
            node(&["char-major-10-229", "fs-fuse", "devname:fuse"]).as_deref(),
            Some("fuse c10:229")
        );
        assert_eq!(node(&["block-major-7-*", "devname:loop"]), None);
        assert_eq!(node(&["char-major-10-229"]), None);
    }
}

//! Owns finding the parts of a kernel in the tree that it was built in, in place or with `O=`. Never runs make.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::config;
use super::form::is_release;
use super::modules::{self, ModuleFiles};
use super::parts::Parts;
use crate::arch::Arch;
use crate::error::Fault;
use crate::input;
use crate::recipe::ImageKind;

/// Written by every build, as its first step.
const RELEASE: &str = "include/config/kernel.release";

/// Whether this is a kernel's sources or the place of its build.
pub fn is_tree(directory: &Path) -> bool {
    let is_source = ["Kconfig", "Kbuild", "MAINTAINERS"]
        .iter()
        .all(|name| directory.join(name).is_file());
    is_source
        || directory.join("include/config").is_dir()
        || directory.join("scripts/kconfig").is_dir()
}

/// The parts of the kernel that was built in a tree.
///
/// # Errors
/// If it was never built, or for another architecture, or its image or its modules are missing.
pub fn locate(tree: &Path, arch: Arch, kind: ImageKind) -> Result<Parts> {
    let release = match input::read_text(&tree.join(RELEASE)) {
        Ok(text) => text.trim().to_string(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Fault::input(format!(
                "the kernel tree {} was never built: it has no {RELEASE}",
                tree.display()
            ))
            .remedy(format!(
                "build it: make ARCH={} … ; if it was built with O=DIR, give DIR",
                directory_of(arch)
            ))
            .into());
        }
        Err(error) => {
            return Err(error)
                .with_context(|| format!("cannot read {}", tree.join(RELEASE).display()));
        }
    };
    if !is_release(&release) {
        return Err(Fault::input(format!(
            "{} says `{release}`, which is no kernel's release",
            tree.join(RELEASE).display()
        ))
        .remedy("build the kernel again")
        .into());
    }
    let text = input::read_text(&tree.join(".config")).ok();
    check_arch(tree, text.as_deref(), arch)?;
    let boot = tree.join("arch").join(directory_of(arch)).join("boot");
    Ok(Parts {
        image: image(tree, &boot, kind, arch)?,
        config: text.is_some().then(|| tree.join(".config")),
        device_trees: vec![boot.join("dts")],
        modules: Some(tree_modules(tree, &release, text.as_deref())?),
        release: Some(release),
    })
}

/// The architecture's directory below `arch/`, which is also make's `ARCH`.
fn directory_of(arch: Arch) -> &'static str {
    match arch {
        Arch::Armel | Arch::Armhf => "arm",
        Arch::Arm64 => "arm64",
        Arch::Riscv64 => "riscv",
    }
}

fn check_arch(tree: &Path, text: Option<&str>, arch: Arch) -> Result<()> {
    let Some(text) = text else {
        return Ok(());
    };
    let others = [
        "ARM",
        "ARM64",
        "RISCV",
        "X86",
        "MIPS",
        "PPC",
        "S390",
        "LOONGARCH",
    ];
    let is_built = |name: &&str| config::value(text, &format!("CONFIG_{name}")) == Some("y");
    let Some(found) = others.iter().find(|name| is_built(name)) else {
        return Ok(());
    };
    let wanted = directory_of(arch);
    if found.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    Err(Fault::input(format!(
        "the kernel in {} was built for {}, but the board is {arch}",
        tree.display(),
        found.to_lowercase()
    ))
    .remedy(format!("build it with ARCH={wanted}"))
    .into())
}

/// The kernel's image, in the form that the board boots or in one that becomes it.
fn image(tree: &Path, boot: &Path, kind: ImageKind, arch: Arch) -> Result<PathBuf> {
    let names: &[&str] = match kind {
        ImageKind::ZImage => &["zImage"],
        ImageKind::Image => &[
            "Image",
            "Image.gz",
            "Image.zst",
            "Image.xz",
            "Image.lz4",
            "vmlinuz.efi",
        ],
        ImageKind::UImage => &["uImage"],
    };
    let mut places = names.iter().map(|name| boot.join(name));
    if let Some(found) = places.find(|path| path.is_file()) {
        return Ok(found);
    }
    Err(Fault::input(format!(
        "the kernel tree {} has no {} in arch/{}/boot",
        tree.display(),
        names[0],
        directory_of(arch)
    ))
    .remedy(format!(
        "build it: make ARCH={} {}",
        directory_of(arch),
        names[0]
    ))
    .into())
}

/// The modules as `make modules_install` would install them. `modules.order` lists them as `fs/nfs/nfs.ko`, since
/// Linux 6.2 as `fs/nfs/nfs.o`, before 5.3 as `kernel/fs/nfs/nfs.ko`.
fn tree_modules(tree: &Path, release: &str, text: Option<&str>) -> Result<ModuleFiles> {
    let mut modules = modules::beside(tree)?;
    modules.release = release.to_string();
    let is_set = |option: &str| text.is_some_and(|text| config::value(text, option) == Some("y"));
    if text.is_some() && !is_set("CONFIG_MODULES") {
        modules.order = None;
        return Ok(modules);
    }
    let Some(order) = modules.order.take() else {
        return Err(not_built(tree, "it has no modules.order"));
    };
    let mut found: BTreeMap<String, PathBuf> = BTreeMap::new();
    let mut installed = String::new();
    for line in order.lines().filter(|line| !line.is_empty()) {
        let stem = line.strip_suffix(".ko").or_else(|| line.strip_suffix(".o"));
        let file = format!("{}.ko", stem.unwrap_or(line));
        let plain = file.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !plain {
            return Err(Fault::input(format!(
                "{} lists `{line}`, which is not in the tree",
                tree.join("modules.order").display()
            ))
            .remedy("build the modules again: make modules")
            .into());
        }
        let without = file.strip_prefix("kernel/").unwrap_or(&file);
        let known = [file.as_str(), without];
        let Some(path) = known.into_iter().find(|path| tree.join(path).is_file()) else {
            return Err(not_built(tree, &format!("{file} is missing")));
        };
        let name = format!("kernel/{path}");
        installed.push_str(&name);
        installed.push('\n');
        found.insert(name, tree.join(path));
    }
    if !found.is_empty() && is_set("CONFIG_MODULE_SIG_FORCE") {
        return Err(Fault::input(format!(
            "the kernel in {} loads only signed modules (CONFIG_MODULE_SIG_FORCE), which those of its tree are not",
            tree.display()
        ))
        .remedy("`make modules_install INSTALL_MOD_PATH=DIR` signs them: give that with --modules DIR")
        .into());
    }
    modules.files.extend(found);
    modules.order = Some(installed);
    Ok(modules)
}

fn not_built(tree: &Path, what: &str) -> anyhow::Error {
    Fault::input(format!(
        "the modules of the kernel in {} were not built: {what}",
        tree.display()
    ))
    .remedy("build them: make modules; or give others with --modules")
    .into()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::kernel::device_tree;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Tree(tempfile::tempdir().unwrap());
            tree.put(RELEASE, "6.6.1-own+\n");
            tree.put(".config", "CONFIG_ARM=y\nCONFIG_MODULES=y\n");
            tree.put("arch/arm/boot/zImage", "kernel");
            tree.put("modules.order", "fs/a.o\n");
            tree.put("modules.builtin", "kernel/fs/b.ko\n");
            tree.put("fs/a.ko", "module");
            tree
        }

        fn put(&self, name: &str, text: &str) {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn remove(&self, name: &str) {
            fs::remove_file(self.0.path().join(name)).unwrap();
        }

        fn parts(&self) -> Result<Parts> {
            assert!(is_tree(self.0.path()));
            locate(self.0.path(), Arch::Armhf, ImageKind::ZImage)
        }

        fn refusal(&self) -> String {
            self.parts().unwrap_err().to_string()
        }
    }

    #[test]
    fn a_built_tree_has_all_parts_under_their_installed_names() {
        let tree = Tree::new();
        for (order, expected) in [
            ("fs/a.o\n", "kernel/fs/a.ko"),
            ("fs/a.ko\n", "kernel/fs/a.ko"),
            ("kernel/fs/a.ko\n", "kernel/fs/a.ko"),
            ("kernel/c.ko\n", "kernel/kernel/c.ko"),
            ("kernel/kernel/c.ko\n", "kernel/kernel/c.ko"),
        ] {
            tree.put("kernel/c.ko", "module");
            tree.put("modules.order", order);
            let parts = tree.parts().unwrap();
            assert_eq!(parts.release.as_deref(), Some("6.6.1-own+"));
            let modules = parts.modules.unwrap();
            assert_eq!(modules.order.unwrap(), format!("{expected}\n"), "{order}");
            let names: Vec<&String> = modules.files.keys().collect();
            assert_eq!(names, [expected]);
        }
    }

    #[test]
    fn a_kernel_without_modules_needs_no_modules_order() {
        let tree = Tree::new();
        tree.put(".config", "CONFIG_ARM=y\n# CONFIG_MODULES is not set\n");
        tree.remove("modules.order");
        let modules = tree.parts().unwrap().modules.unwrap();
        assert!(modules.files.is_empty());
        assert_eq!(modules.builtin.as_deref(), Some("kernel/fs/b.ko\n"));
    }

    #[test]
    fn what_is_not_built_is_named() {
        let tree = Tree::new();
        tree.put("modules.order", "../fs/a.o\n");
        assert!(tree.refusal().contains("not in the tree"));
        tree.put("modules.order", "fs/a.o\nfs/z.o\n");
        assert!(tree.refusal().contains("fs/z.ko is missing"));
        tree.put("fs/z.ko", "");
        tree.put(
            ".config",
            "CONFIG_ARM=y\nCONFIG_MODULES=y\nCONFIG_MODULE_SIG_FORCE=y\n",
        );
        assert!(tree.refusal().contains("signed"));
        tree.remove("modules.order");
        assert!(tree.refusal().contains("no modules.order"));
        tree.put(".config", "CONFIG_ARM64=y\n");
        assert!(tree.refusal().contains("built for arm64"));
        tree.remove("arch/arm/boot/zImage");
        tree.put(".config", "CONFIG_ARM=y\n");
        assert!(tree.refusal().contains("no zImage"));
        tree.put(RELEASE, "../../x\n");
        assert!(tree.refusal().contains("no kernel's release"));
        tree.remove(RELEASE);
        assert!(tree.refusal().contains("never built"));
    }

    #[test]
    fn a_device_tree_is_found_with_and_without_its_vendor() {
        let tree = Tree::new();
        let dts = tree.0.path();
        tree.put("allwinner/a.dtb", "");
        tree.put("b.dtb", "");
        for (wanted, expected) in [
            ("a.dtb", "allwinner/a.dtb"),
            ("allwinner/a.dtb", "allwinner/a.dtb"),
            ("b.dtb", "b.dtb"),
            ("vendor/b.dtb", "b.dtb"),
        ] {
            assert_eq!(device_tree(dts, wanted), Some(dts.join(expected)));
        }
        assert_eq!(device_tree(dts, "c.dtb"), None);
    }
}

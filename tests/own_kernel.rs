//! Kernels that a user brings: depmod against kmod's own, and boards in QEMU that boot another kernel than their image's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{lasting, oracle, remove, succeed};
use hearth::arch::Arch;
use hearth::kernel::{layer, modules};

/// The directory of one test, empty but for what is built in `out/`.
fn workshop(name: &str) -> PathBuf {
    remove(&lasting("own-kernel").join(name));
    lasting(&format!("own-kernel/{name}"))
}

/// The files that depmod writes into a directory of modules; lines whose order means nothing sorted.
fn indices(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = [
        "modules.alias",
        "modules.alias.bin",
        "modules.builtin.alias.bin",
        "modules.builtin.bin",
        "modules.dep",
        "modules.dep.bin",
        "modules.devname",
        "modules.softdep",
        "modules.symbols",
        "modules.symbols.bin",
    ];
    let read = |name: &str| {
        let data = fs::read(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        if name != "modules.symbols" {
            return data;
        }
        let mut lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
        lines.sort_unstable();
        lines.concat()
    };
    names.map(|name| (name.to_string(), read(name))).into()
}

/// Makes a layer of installed modules and unpacks it; returns its modules' directory.
fn layer_of(installed: &Path, arch: Arch, into: &Path) -> PathBuf {
    let found = modules::installed(installed, None).unwrap();
    let tar = into.join("layer.tar");
    let contents = layer::Contents {
        modules: &found,
        arch,
        config: None,
        directory: "usr/lib/modules",
    };
    let begun = std::time::Instant::now();
    layer::write(&contents, &tar).unwrap();
    eprintln!(
        "layer of {} modules: {:?}",
        found.files.len(),
        begun.elapsed()
    );
    succeed(oracle("tar").arg("-xf").arg(&tar).arg("-C").arg(into));
    into.join("usr/lib/modules").join(&found.release)
}

fn compare(installed: &Path, arch: Arch, name: &str) {
    let directory = workshop(name);
    let theirs = directory.join("kmod");
    let release = modules::installed(installed, None).unwrap().release;
    fs::create_dir_all(theirs.join("lib/modules")).unwrap();
    succeed(
        Command::new("cp")
            .arg("-al")
            .arg(installed.join("usr/lib/modules").join(&release))
            .arg(theirs.join("lib/modules")),
    );
    succeed(oracle("depmod").arg("-b").arg(&theirs).arg(&release));
    let theirs = indices(&theirs.join("lib/modules").join(&release));
    let ours = directory.join("hearth");
    fs::create_dir(&ours).unwrap();
    let ours = indices(&layer_of(installed, arch, &ours));
    for (name, data) in &theirs {
        assert!(*data == ours[name], "{name} differs");
        assert!(data.len() > 100, "{name} is empty");
    }
}

#[test]
fn depmod_adhoc() {
    for (name, arch) in [
        ("bookworm-armhf", Arch::Armhf),
        ("trixie-armhf", Arch::Armhf),
        ("trixie-arm64", Arch::Arm64),
    ] {
        eprintln!("{name}");
        compare(
            &common::repository().join(".cache/mods").join(name),
            arch,
            name,
        );
    }
}

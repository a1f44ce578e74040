//! Kernels that a user brings: depmod against kmod's own, and boards in QEMU that boot another kernel than their image's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{hearth, lasting, oracle, remove, succeed};
use hearth::arch::Arch;
use hearth::kernel::{layer, modules};

/// The directory of one test, empty but for what is built in `out/`.
fn workshop(name: &str) -> PathBuf {
    remove(&lasting("own-kernel").join(name));
    lasting(&format!("own-kernel/{name}"))
}

/// Builds a shipped recipe there; returns its output directory.
fn image(directory: &Path, recipe: &str) -> PathBuf {
    succeed(
        hearth()
            .current_dir(directory)
            .env("HEARTH_DATA", common::repository())
            .args(["build", recipe]),
    );
    directory.join("out").join(recipe)
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
fn depmod_writes_what_kmods_writes() {
    let directory = workshop("depmod");
    for recipe in ["bookworm-armhf", "trixie-armhf"] {
        let installed = directory.join(recipe);
        fs::create_dir(&installed).unwrap();
        succeed(
            oracle("tar")
                .arg("-xf")
                .arg(image(&directory, recipe).join("rootfs.tar"))
                .arg("-C")
                .arg(&installed)
                .arg("usr/lib/modules"),
        );
        compare(&installed, Arch::Armhf, &format!("depmod-{recipe}"));
        remove(&installed);
    }
}

const DEFINITION: &str = "
metadata: {format: Lava-Test Test Definition 1.0, name: own}
run:
  steps:
    - lava-test-case release --shell 'uname -r | grep -q ^6\\.1\\.'
    - lava-test-case root --shell 'grep -q trixie /etc/os-release'
    - lava-test-case module --shell 'modprobe dummy && test -d /sys/module/dummy'
    - lava-test-case argument --shell 'grep -q hearth.own=yes /proc/cmdline'
";

/// The package of bookworm's kernel, which its build has fetched into the cache.
fn bookworms_kernel(directory: &Path) -> PathBuf {
    let text =
        fs::read_to_string(common::repository().join("recipes/bookworm-armhf.lock")).unwrap();
    let lock: toml::Value = toml::from_str(&text).unwrap();
    let package = lock["package"]
        .as_array()
        .unwrap()
        .iter()
        .find(|package| {
            package["name"]
                .as_str()
                .unwrap()
                .starts_with("linux-image-6")
        })
        .unwrap();
    let hash = package["sha256"].as_str().unwrap();
    let cache = match std::env::var_os("HEARTH_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/hearth"),
    };
    let package = directory.join("linux.deb");
    let blob = cache.join("blobs/sha256").join(&hash[..2]).join(hash);
    fs::copy(blob, &package).unwrap();
    package
}

#[test]
fn the_kernel_package_of_another_suite_boots_an_image() {
    let directory = workshop("boot");
    for recipe in ["bookworm-armhf", "trixie-armhf"] {
        image(&directory, recipe);
    }
    bookworms_kernel(&directory);
    fs::write(directory.join("own.yaml"), DEFINITION).unwrap();
    let own = [
        "--kernel",
        "linux.deb",
        "--kernel-args",
        "hearth.own=yes",
        "--image",
        "out/trixie-armhf",
    ];
    let output = succeed(
        hearth()
            .current_dir(&directory)
            .env("HEARTH_DATA", common::repository())
            .env("HEARTH_STATE", directory.join("state"))
            .args(["test", "qemu-virt-arm", "own.yaml", "-o", "report"])
            .args(own),
    );
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("4 passed"), "{said}");
    let report = fs::read_to_string(directory.join("report/report.json")).unwrap();
    assert!(report.contains("linux.deb"), "{report}");
}

/// What does not fit is told before a board is switched on.
#[test]
fn what_does_not_fit_is_refused_in_one_sentence() {
    let directory = workshop("refused");
    let trixie = image(&directory, "trixie-armhf");
    fs::create_dir(directory.join("tree")).unwrap();
    fs::write(directory.join("tree/Kconfig"), "").unwrap();
    fs::write(directory.join("tree/Makefile"), "").unwrap();
    fs::write(
        directory.join("short"),
        &fs::read(trixie.join("vmlinuz")).unwrap()[..100_000],
    )
    .unwrap();
    let mut elf = b"\x7fELF\x01\x01\x01".to_vec();
    elf.resize(52, 0);
    elf[18] = 40;
    fs::write(directory.join("vmlinux"), elf).unwrap();
    fs::create_dir_all(directory.join("modules/lib/modules/5.10.0-other/kernel")).unwrap();
    fs::write(
        directory.join("modules/lib/modules/5.10.0-other/modules.order"),
        "",
    )
    .unwrap();
    let kernel = trixie.join("vmlinuz");
    let kernel = kernel.to_str().unwrap();
    for (own, told) in [
        (vec!["--kernel", "none"], "there is no kernel none"),
        (vec!["--kernel", "tree"], "tree"),
        (vec!["--kernel", "vmlinux"], "vmlinux"),
        (vec!["--kernel", "short"], "short"),
        (
            vec!["--kernel", kernel, "--modules", "modules"],
            "5.10.0-other",
        ),
        (
            vec!["--kernel-args", "a'b"],
            "cannot be passed through U-Boot",
        ),
    ] {
        let mut command = hearth();
        command
            .current_dir(&directory)
            .env("HEARTH_DATA", common::repository())
            .args(["boot", "qemu-virt-arm", "--image"])
            .arg(&trixie)
            .args(&own);
        common::fail(&mut command, 2, told);
    }
}

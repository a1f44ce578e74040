//! `hearth build` end to end, with real packages from the mirror. Needs user namespaces, qemu-user and a mirror.
//!
//! A small recipe without a kernel keeps it quick; its stages are in the default cache, where the tests share them.

mod mmdebstrap;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::small::{SMALL, small, workshop};
use common::tarball::{self, file, tar};
use common::{fail, hearth, lasting, oracle, pack, remove, run, succeed};
use hearth::image::Manifest;
use hearth::image::index::{Image, Kind};
use hearth::recipe::{Lock, LockedPackage, Recipe, Role};
use sha2::{Digest, Sha256};

/// How long one build may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(1200);

/// Another recipe with the same packages: its lock is there already, and so are its stages.
fn like_small(name: &str) -> PathBuf {
    let directory = workshop(name);
    fs::copy(
        small().0.with_extension("lock"),
        directory.join("small.lock"),
    )
    .unwrap();
    directory
}

fn in_image(program: &[&str]) -> String {
    let output = succeed(
        hearth()
            .args(["--quiet", "run", "--offline"])
            .arg(&small().0)
            .arg("--")
            .args(program),
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dpkg_and_apt_find_nothing_wrong_inside() {
    assert_eq!(in_image(&["dpkg", "--audit"]), "");
    // What the recipe itself replaced is the one difference.
    let verified = in_image(&["dpkg", "--verify"]);
    assert!(
        verified.lines().all(|line| line.ends_with("/etc/motd")),
        "{verified}"
    );
    in_image(&["apt-get", "check"]);
    assert!(in_image(&["apt-mark", "showmanual"]).contains("iputils-ping"));
    assert!(in_image(&["apt-mark", "showauto"]).contains("libapt-pkg7.0"));
    let sources = in_image(&["cat", "/etc/apt/sources.list"]);
    assert!(!sources.contains("://"), "{sources}");
}

#[test]
fn what_the_recipe_asks_for_is_in_the_image() {
    let image = Image::open(&small().1.join("rootfs.tar")).unwrap();
    let read = |path: &str| {
        let found = image
            .find(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        String::from_utf8(image.read(found.number).unwrap()).unwrap()
    };
    assert_eq!(read("etc/motd"), "hello\n");
    assert_eq!(read("srv/made"), "made\n");
    assert_eq!(
        read("home/board/.ssh/authorized_keys"),
        "ssh-ed25519 AAAA test\n"
    );
    let secret = image
        .inode(image.find("srv/secret").unwrap().number)
        .unwrap();
    assert_eq!((secret.uid, secret.mode), (1000, 0o400));
    assert_eq!(read("etc/machine-id"), "");
    for gone in [
        "etc/passwd-",
        "var/lib/dpkg/status-old",
        "usr/share/doc/dash/changelog.gz",
    ] {
        assert!(image.find(gone).is_none(), "{gone}");
    }
    assert!(image.find("usr/share/doc/dash/copyright").is_some());
    let epoch = u64::try_from(Manifest::load(&small().1).unwrap().epoch).unwrap();
    image.walk(|path, _, inode| {
        assert!(inode.mtime <= epoch, "{}", String::from_utf8_lossy(path));
        let device = matches!(
            inode.kind,
            Kind::CharDevice { .. } | Kind::BlockDevice { .. }
        );
        assert!(!device, "{}", String::from_utf8_lossy(path));
    });
}

#[test]
fn systemd_has_nothing_to_say_against_the_units() {
    let output = run(hearth()
        .args(["--quiet", "run", "--offline"])
        .arg(&small().0)
        .args(["--", "systemd-analyze", "verify", "default.target"]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // There is no `man` in a small image.
    let complaints = said.lines().filter(|line| !line.contains("Command 'man"));
    assert_eq!(complaints.count(), 0, "{said}");
}

#[test]
fn a_second_build_does_nothing_and_a_changed_file_changes_that_file_only() {
    let directory = like_small("changed");
    let (recipe, out) = (directory.join("small.toml"), directory.join("out"));
    let build = |words: &[&str]| {
        let output = succeed(
            hearth()
                .args(["build", "--locked", "--offline", "--explain"])
                .args(words)
                .arg(&recipe)
                .arg("-o")
                .arg(&out),
        );
        String::from_utf8(output.stderr).unwrap()
    };
    build(&[]);
    let again = build(&[]);
    assert!(
        again.contains("is up to date") && !again.contains(" ran:"),
        "{again}"
    );
    let before = directory.join("before.tar");
    fs::copy(out.join("rootfs.tar"), &before).unwrap();
    // Text that no earlier run of this test has put into the cache.
    let unseen = format!("changed at {:?}\n", std::time::SystemTime::now());
    fs::write(directory.join("motd"), unseen).unwrap();
    let changed = build(&[]);
    assert!(
        changed.contains("image        ran: changed: file motd"),
        "{changed}"
    );
    assert!(changed.contains("configure    kept"), "{changed}");
    let output = run(hearth().arg("diff").arg(&before).arg(&out));
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told, "! /etc/motd (content)\n");

    // The output shares its bytes with the cache: writing into it must not stay unnoticed.
    let tar = out.join("rootfs.tar");
    let right = fs::read(&tar).unwrap();
    let mut opened = fs::File::options().write(true).open(&tar).unwrap();
    opened.write_all(b"overwritten").unwrap();
    let mended = build(&[]);
    assert!(
        mended.contains("image        ran: what the cache had of it was changed by somebody"),
        "{mended}"
    );
    assert!(fs::read(&tar).unwrap() == right);
}

/// Puts another byte into a file, and leaves its size and date as they were.
fn swap(path: &Path) {
    let date = fs::metadata(path).unwrap().modified().unwrap();
    let mut data = fs::read(path).unwrap();
    let middle = data.len() / 2;
    data[middle] ^= 1;
    let mut file = fs::File::options().write(true).open(path).unwrap();
    file.write_all(&data).unwrap();
    file.set_modified(date).unwrap();
}

/// Whoever can write to the cache would else decide what is in the next image.
#[test]
fn a_stage_that_somebody_changed_is_told_and_made_again() {
    let directory = like_small("sealed");
    let (recipe, out) = (directory.join("small.toml"), directory.join("out"));
    let _ = fs::remove_dir_all(&out);
    remove_tree(&directory.join("cache"));
    let cache = cache_with_downloads(&directory);
    let build = || {
        let output = succeed(
            hearth()
                .args(["build", "--locked", "--offline", "--explain"])
                .arg(&recipe)
                .arg("-o")
                .arg(&out)
                .env("HEARTH_CACHE", &cache),
        );
        String::from_utf8(output.stderr).unwrap()
    };
    build();
    let stage_of = |name: &str| {
        let (has, not) = match name {
            "unpack" => ("tree/var/lib/dpkg/status", "upper"),
            "configure" => ("upper/etc/passwd", "rootfs.tar"),
            "image" => ("rootfs.tar", "tree"),
            _ => ("out/sbom.spdx.json", "tree"),
        };
        let entries = fs::read_dir(cache.join("stages")).unwrap();
        let mut stages = entries.map(|entry| entry.unwrap().path());
        stages
            .find(|stage| stage.join(has).exists() && !stage.join(not).exists())
            .unwrap_or_else(|| panic!("there is no stage {name}"))
    };
    type Attack = fn(&Path);
    // All other kinds of changes: see `rootfs::inventory`.
    let attacks: [(&str, &str, &str, Attack); 5] = [
        (
            "unpack",
            "tree/usr/bin/gzip",
            "tree/usr/bin/gzip has another content",
            swap,
        ),
        (
            "unpack",
            "tree/usr/bin",
            "tree/usr/bin/evil was added",
            |path| {
                fs::write(path.join("evil"), "#!/bin/sh\n").unwrap();
            },
        ),
        (
            "configure",
            "upper/etc/passwd",
            "upper/etc/passwd has another content",
            swap,
        ),
        (
            "image",
            "rootfs.tar",
            "rootfs.tar has another content",
            swap,
        ),
        (
            "boot",
            "out/sbom.spdx.json",
            "sbom.spdx.json has another content",
            swap,
        ),
    ];
    for (stage, path, says, attack) in attacks {
        attack(&stage_of(stage).join(path));
        if matches!(stage, "unpack" | "configure") {
            // Only what is used is looked at.
            remove_tree(&stage_of("image"));
        }
        let told = build();
        let warning = format!(
            "the stage {stage} is made again: what the cache had of it was changed by somebody: "
        );
        assert!(
            told.contains(&warning) && told.contains(says),
            "{says}: {told}"
        );
        // What was published is right as well, though it shares its bytes with the cache.
        let expected = Manifest::load(&small().1).unwrap();
        assert_eq!(Manifest::load(&out).unwrap().artifacts, expected.artifacts);
        for name in ["rootfs.tar", "sbom.spdx.json"] {
            let hash = hex::encode(Sha256::digest(fs::read(out.join(name)).unwrap()));
            assert_eq!(hash, expected.artifacts[name].sha256, "{says}");
        }
    }
    // A seal that was made for what is there now, by whoever does not have the key, or none at all.
    for seal in ["", "{\"stamp\":\"\",\"list\":\"\",\"mark\":\"\"}"] {
        let image = stage_of("image");
        swap(&image.join("rootfs.tar"));
        fs::write(image.join("seal"), seal).unwrap();
        let told = build();
        assert!(
            told.contains("was not sealed by this user's hearth"),
            "{told}"
        );
    }
    // A faithful copy, as of a cache that was moved, is as good as what it was copied from.
    let moved = directory.join("moved");
    remove_tree(&moved);
    succeed(Command::new("cp").arg("-a").arg(&cache).arg(&moved));
    remove_tree(&cache);
    fs::rename(&moved, &cache).unwrap();
    let kept = build();
    assert!(!kept.contains(" ran:"), "{kept}");
    remove_tree(&cache);
}

#[test]
fn root_and_an_ordinary_user_get_the_same_bytes() {
    let recipe = like_small("verified").join("small.toml");
    let open = Path::new("/var/tmp/hearth-test-recipe");
    // The other user has to read it.
    remove(open);
    fs::create_dir_all(open).unwrap();
    for name in ["small.toml", "small.lock", "motd"] {
        fs::copy(recipe.with_file_name(name), open.join(name)).unwrap();
    }
    let output = succeed(hearth().arg("verify").arg(open.join("small.toml")));
    fs::remove_dir_all(open).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.contains("both builds gave the same bytes"), "{said}");
}

/// A cache of its own that has the downloads of the default one.
fn cache_with_downloads(directory: &Path) -> PathBuf {
    let cache = directory.join("cache");
    fs::create_dir_all(&cache).unwrap();
    remove(&cache.join("blobs"));
    symlink(hearth::dirs::cache().join("blobs"), cache.join("blobs")).unwrap();
    cache
}

fn spawn(recipe: &Path, out: &Path, cache: &Path) -> Child {
    hearth()
        .args(["build", "--locked", "--offline"])
        .arg(recipe)
        .arg("-o")
        .arg(out)
        .env("HEARTH_CACHE", cache)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until something in the cache's `tmp` has this name.
fn wait_for(cache: &Path, name: &str, child: &mut Child) {
    let begun = Instant::now();
    loop {
        let there = fs::read_dir(cache.join("tmp")).is_ok_and(|mut entries| {
            entries.any(|entry| entry.is_ok_and(|entry| entry.path().join(name).exists()))
        });
        if there || child.try_wait().unwrap().is_some() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} never came");
        thread::sleep(Duration::from_millis(20));
    }
}

fn remove_tree(cache: &Path) {
    // Root's or our own: the tests run as whoever built.
    succeed(oracle("rm").arg("-rf").arg(cache));
}

#[test]
fn a_build_that_is_killed_in_any_stage_is_simply_run_again() {
    let directory = like_small("killed");
    let (recipe, out) = (directory.join("small.toml"), directory.join("out"));
    remove(&out);
    remove_tree(&directory.join("cache"));
    let cache = cache_with_downloads(&directory);
    for (stage, wait) in [
        ("tree", 300),
        ("upper", 3000),
        ("upper", 15000),
        ("rootfs.tar", 0),
    ] {
        let mut child = spawn(&recipe, &out, &cache);
        wait_for(&cache, stage, &mut child);
        thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        thread::sleep(Duration::from_millis(300));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains(cache.to_str().unwrap()), "{mounts}");
    }
    assert!(spawn(&recipe, &out, &cache).wait().unwrap().success());
    let expected = Manifest::load(&small().1).unwrap();
    assert_eq!(Manifest::load(&out).unwrap().image, expected.image);
    let left = fs::read_dir(cache.join("tmp")).unwrap().count();
    assert_eq!(left, 0, "what the killed runs left is gone");
    remove_tree(&cache);
}

#[test]
fn two_builds_of_one_recipe_at_once_share_the_work() {
    let directory = like_small("twice");
    let recipe = directory.join("small.toml");
    fs::write(directory.join("motd"), "twice\n").unwrap();
    let cache = hearth::dirs::cache();
    let outs = ["one", "two"].map(|name| directory.join(name));
    let children = outs.each_ref().map(|out| spawn(&recipe, out, &cache));
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let [one, two] = outs.map(|out| Manifest::load(&out).unwrap());
    assert_eq!(one, two);
}

#[test]
fn a_full_disk_is_the_hosts_fault_and_leaves_what_was_there() {
    let directory = like_small("full");
    let recipe = directory.join("small.toml");
    let out = directory.join("out");
    // An output of hearth's, as other directories are never replaced.
    remove(&out);
    succeed(Command::new("cp").arg("-a").arg(&small().1).arg(&out));
    let before = fs::read(out.join("manifest.json")).unwrap();
    let place = directory.join("disk");
    fs::create_dir_all(&place).unwrap();
    let script = "mount -t tmpfs -o size=48m tmpfs \"$1\" && ln -s \"$2\" \"$1/blobs\" && shift 2 && exec \"$@\"";
    let mut command = oracle("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(&place)
        .arg(hearth::dirs::cache().join("blobs"))
        .arg(env!("CARGO_BIN_EXE_hearth"))
        .args(["build", "--locked", "--offline"])
        .arg(&recipe)
        .arg("-o")
        .arg(&out)
        .env("HEARTH_CACHE", &place);
    fail(&mut command, 3, "No space left on device");
    assert_eq!(fs::read(out.join("manifest.json")).unwrap(), before);
    let directory = workshop("thesis");
    fs::write(directory.join("thesis"), "x").unwrap();
    let mut command = hearth();
    command.arg("build").arg(&recipe).arg("-o").arg(&directory);
    fail(&mut command, 2, "not an output of hearth's");
    assert_eq!(fs::read_to_string(directory.join("thesis")).unwrap(), "x");
}

#[test]
fn a_hostile_package_is_refused_by_name() {
    let directory = like_small("hostile");
    let canary = directory.join("canary");
    let data = tar(&[
        tarball::symlink("./link", directory.to_str().unwrap()),
        file("./link/canary", 0o644, "x"),
    ]);
    let control =
        "Package: evil\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: evil\n";
    let control = tar(&[file("./control", 0o644, control)]);
    let mut deb = ar::Builder::new(fs::File::create(directory.join("evil.deb")).unwrap());
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", control),
        ("data.tar", data),
    ] {
        let header = ar::Header::new(name.into(), bytes.len() as u64);
        deb.append(&header, &bytes[..]).unwrap();
    }
    drop(deb);
    let recipe = directory.join("evil.toml");
    let text = SMALL.replace("[archive]", "debs = [\"evil.deb\"]\n[archive]");
    fs::write(&recipe, text).unwrap();
    let mut lock = Lock::load(&directory.join("small.lock")).unwrap();
    lock.recipe = Recipe::load(recipe.to_str().unwrap())
        .unwrap()
        .selection_digest();
    let bytes = fs::read(directory.join("evil.deb")).unwrap();
    lock.packages.push(LockedPackage {
        name: "evil".into(),
        version: "1".into(),
        arch: "all".into(),
        path: "evil.deb".into(),
        size: bytes.len() as u64,
        sha256: hex::encode(Sha256::digest(&bytes)),
        suite: String::new(),
        role: Role::Root,
        local: true,
        auto: false,
    });
    lock.save(&recipe.with_extension("lock")).unwrap();
    let output = fail(
        hearth()
            .args(["build", "--locked", "--offline"])
            .arg(&recipe)
            .arg("-o")
            .arg(directory.join("out")),
        2,
        "the package evil is not safe to unpack",
    );
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("help:"), "{said}");
    assert!(!canary.exists() && !directory.join("out").exists());
}

#[test]
fn scripts_may_be_in_the_way_of_what_is_done_beside_them() {
    let directory = workshop("beside");
    let tree = directory.join("early");
    remove(&tree);
    let control = "Package: early\nVersion: 1\nArchitecture: all\nMaintainer: x\nDescription: x\n";
    let preinst = "#!/bin/sh\nmkdir -p /opt/early && echo script > /opt/early/file\n";
    let postinst = "#!/bin/sh\nmkdir -p /etc/udev/hwdb.d\n\
                    printf 'early:*\\n EARLY=yes\\n' > /etc/udev/hwdb.d/90-early.hwdb\n";
    for (path, mode, text) in [
        ("DEBIAN/control", 0o644, control),
        ("DEBIAN/preinst", 0o755, preinst),
        ("DEBIAN/postinst", 0o755, postinst),
        ("opt/early/file", 0o644, "package\n"),
    ] {
        let path = tree.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let deb = directory.join("early.deb");
    pack(&tree, &deb);
    let recipe = directory.join("beside.toml");
    let text = SMALL
        .replace("\"systemd-sysv\"", "\"systemd-sysv\", \"udev\"")
        .replace("[archive]", "debs = [\"early.deb\"]\n[archive]");
    fs::write(&recipe, text).unwrap();
    succeed(hearth().arg("lock").arg(&recipe));
    let cache = cache_with_downloads(&directory);
    let build = succeed(
        hearth()
            .args(["-vv", "build"])
            .arg(&recipe)
            .arg("-o")
            .arg(directory.join("out"))
            .env("HEARTH_CACHE", &cache),
    );
    let said = String::from_utf8_lossy(&build.stderr);
    for again in ["opt/early/file is in the way", "making the indices again"] {
        assert!(said.contains(again), "no `{again}` in {said}");
    }
    let show = "cat /opt/early/file; dpkg --verify early; systemd-hwdb query early:x";
    let shown = succeed(
        hearth()
            .args(["--quiet", "run", "--offline"])
            .arg(&recipe)
            .args(["--", "sh", "-c", show])
            .env("HEARTH_CACHE", &cache),
    );
    assert_eq!(
        String::from_utf8_lossy(&shown.stdout),
        "package\nEARLY=yes\n"
    );
    remove_tree(&cache);
}

#[test]
fn the_shipped_recipe_gives_a_kernel_device_trees_and_bootloaders() {
    let out = lasting("build").join("trixie-armhf");
    succeed(
        hearth()
            .args(["build", "trixie-armhf", "--locked", "-o"])
            .arg(&out),
    );
    let manifest = Manifest::load(&out).unwrap();
    let kernel = manifest.kernel.clone().unwrap();
    assert!(kernel.ends_with("-armmp"), "{kernel}");
    for (name, artifact) in &manifest.artifacts {
        assert_eq!(
            fs::metadata(out.join(name)).unwrap().size(),
            artifact.size,
            "{name}"
        );
    }
    for name in [
        "rootfs.tar",
        "vmlinuz",
        "dtb/sun8i-h3-nanopi-neo.dtb",
        "sbom.spdx.json",
    ] {
        assert!(manifest.artifacts.contains_key(name), "{name}");
    }
    let blob = "bootloader/nanopi-neo/usr/lib/u-boot/nanopi_neo/u-boot-sunxi-with-spl.bin";
    assert!(manifest.artifacts.contains_key(blob));
    let sum = succeed(Command::new("sha256sum").arg(out.join("rootfs.tar")));
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert!(sum.starts_with(&manifest.artifacts["rootfs.tar"].sha256));
    assert_eq!(manifest.image, format!("trixie-armhf-{}", &sum[..12]));
    let sbom: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("sbom.spdx.json")).unwrap()).unwrap();
    assert_eq!(sbom["spdxVersion"], "SPDX-2.3");
    let names = sbom["packages"].as_array().unwrap();
    assert!(names.iter().any(|package| package["name"] == "busybox"));
}

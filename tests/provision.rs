//! `hearth provision`, against GNU find and tar, and nfs-utils' own reading of the exports file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::tarball::{Entry, dir, entry, file, hard_link, symlink, tar};
use common::{fail, hearth, oracle, succeed};
use tar::EntryType;
use tempfile::TempDir;

/// What a root file system has of everything, in the order of an image's tar.
fn members() -> Vec<Entry> {
    let large: Vec<u8> = (0..3_000_001u32).map(|n| (n % 251) as u8).collect();
    vec![
        dir("./", 0o755),
        symlink("bin", "usr/bin"),
        dir("etc/", 0o755),
        file("etc/shadow", 0o640, "root:*::\n").owner(0, 42),
        dir("home/", 0o755),
        dir("home/me/", 0o700).owner(1000, 1000),
        file("home/me/na\u{ef}ve name\n", 0o644, "x").owner(1000, 1000),
        dir("run/", 0o755),
        entry("run/pipe", EntryType::Fifo, 0o622, "").owner(0, 5),
        dir("tmp/", 0o1777),
        dir("usr/", 0o755),
        dir("usr/bin/", 0o755),
        file("usr/bin/big", 0o755, large),
        file("usr/bin/perl", 0o755, "#!perl"),
        hard_link("usr/bin/perl5", 0o755, "usr/bin/perl"),
        file("usr/bin/su", 0o4755, "su"),
        file("usr/bin/wall", 0o2755, "wall").owner(0, 5),
        dir("var/", 0o755),
        dir("var/mail/", 0o2775).owner(0, 8),
    ]
}

/// A build's output, and a place to lay it out.
struct Bench {
    dir: TempDir,
}

const FIRST: &str = "small-armhf-00000000000a";
const SECOND: &str = "small-armhf-00000000000b";

impl Bench {
    fn new() -> Self {
        let bench = Bench {
            dir: tempfile::tempdir().unwrap(),
        };
        bench.build(FIRST, &members());
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn build(&self, image: &str, members: &[Entry]) {
        let build = self.path("build");
        fs::create_dir_all(&build).unwrap();
        fs::write(build.join("rootfs.tar"), tar(members)).unwrap();
        fs::write(build.join("manifest.json"), common::manifest(image)).unwrap();
    }

    fn version(&self, image: &str) -> PathBuf {
        self.path("nfs").join(image)
    }

    /// `hearth provision small-armhf …` as root, of a user namespace if this is not the real one.
    fn provision(&self, more: &[&str]) -> Command {
        let mut command = as_root(env!("CARGO_BIN_EXE_hearth"));
        command
            .args(["provision", "small-armhf", "--from"])
            .arg(self.path("build"));
        command.arg("--to").arg(self.path("nfs")).args(more);
        command
    }
}

/// Runs a program as root with many ids.
fn as_root(program: &str) -> Command {
    if nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = oracle("unshare");
    command.args(["--user", "--map-root-user", "--map-auto", program]);
    command
}

/// One line for each name: kind, mode, owner, time, links, size, target; by GNU find.
fn listing(root: &Path) -> String {
    let mut find = as_root("find");
    find.arg(root)
        .args(["-printf", "%y %#m %U:%G %T@ %P -> %l\n"]);
    let output = succeed(&mut find);
    let mut lines: Vec<_> = output.stdout.split(|&byte| byte == b'\n').collect();
    lines.sort();
    String::from_utf8(lines.join(&b'\n')).unwrap()
}

#[test]
fn the_tree_is_what_gnu_tar_makes_of_the_image() {
    let bench = Bench::new();
    succeed(&mut bench.provision(&[]));
    let peer = bench.path("peer");
    fs::create_dir(&peer).unwrap();
    let mut tar = as_root("tar");
    tar.arg("-xpf")
        .arg(bench.path("build/rootfs.tar"))
        .arg("-C")
        .arg(&peer);
    succeed(tar.args(["--numeric-owner", "--same-owner"]));
    assert_eq!(listing(&bench.version(FIRST)), listing(&peer));
    succeed(
        as_root("diff")
            .args(["-r", "--no-dereference"])
            .args([bench.version(FIRST).join("usr"), peer.join("usr")]),
    );
    let inode = |name: &str| fs::metadata(bench.version(FIRST).join(name)).unwrap().ino();
    assert_eq!(inode("usr/bin/perl"), inode("usr/bin/perl5"));
    succeed(&mut bench.provision(&["--check"]));
}

#[test]
fn versions_lie_side_by_side_and_the_switch_is_atomic() {
    let bench = Bench::new();
    let file = bench.path("hearth.exports");
    let exports = file.to_str().unwrap();
    succeed(&mut bench.provision(&["--exports", exports, "--network", "192.168.7.0/24"]));
    bench.build(SECOND, &members()[..5]);
    let more = [
        "--exports",
        exports,
        "--network",
        "192.168.7.0/24",
        "--host",
        "10.1.2.3",
    ];
    succeed(&mut bench.provision(&more));
    let current = bench.path("nfs/current");
    assert_eq!(fs::read_link(&current).unwrap(), Path::new(SECOND));
    assert!(bench.version(FIRST).join("usr/bin/su").exists());
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(FIRST) && text.contains(SECOND), "{text}");

    // Boards that run keep theirs for as long as it is exported.
    succeed(bench.provision(&more).arg("--gc"));
    assert!(bench.version(FIRST).exists());
    succeed(bench.provision(&more).args(["--only-current", "--gc"]));
    assert!(!bench.version(FIRST).exists() && bench.version(SECOND).exists());
    assert_eq!(fs::read_dir(bench.path("nfs")).unwrap().count(), 2);
}

#[test]
fn nfs_utils_reads_the_exports_file_as_it_was_meant() {
    let bench = Bench::new();
    let file = bench.path("hearth.exports");
    let nfs = bench.path("a place, #1");
    let mut command = as_root(env!("CARGO_BIN_EXE_hearth"));
    command
        .args(["provision", "small-armhf", "--from"])
        .arg(bench.path("build"));
    command.arg("--to").arg(&nfs).arg("--exports").arg(&file);
    succeed(command.args(["--network", "192.168.7.0/24", "--host", "10.1.2.3"]));
    let text = fs::read_to_string(&file).unwrap();
    for option in [
        "ro ",
        "no_root_squash",
        "no_subtree_check",
        "insecure ",
        "insecure_locks",
        "fsid=",
    ] {
        let comment = text
            .lines()
            .find(|line| line.starts_with(&format!("# {option}")));
        assert!(
            comment.is_some_and(|line| line.len() > 30),
            "{option}: {text}"
        );
    }

    // In mounts of its own, so that nothing of this host is read or changed.
    let state = bench.path("state");
    fs::create_dir(&state).unwrap();
    oracle("exportfs");
    let script = format!(
        "export PATH=$PATH:/usr/sbin:/sbin; mkdir -p /var/lib/nfs && mount --bind {state} /var/lib/nfs && \
         mount --bind {file} /etc/exports && \
         {{ test ! -d /etc/exports.d || mount -t tmpfs none /etc/exports.d; }} && \
         exportfs -ar && cat /var/lib/nfs/etab",
        state = state.display(),
        file = file.display(),
    );
    let mut command = oracle("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let output = succeed(&mut command);
    assert!(
        output.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let table = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines.len(), 2, "{table}");
    for (line, host) in lines.iter().zip(["10.1.2.3(", "192.168.7.0/24("]) {
        let path = nfs.canonicalize().unwrap().join(FIRST);
        let escaped = path
            .to_str()
            .unwrap()
            .replace(' ', "\\040")
            .replace('#', "\\043");
        let (found, options) = line.split_once('\t').unwrap();
        assert_eq!(found, escaped);
        assert!(options.starts_with(host), "{line}");
        let all = format!(",{},", options.split(['(', ')']).nth(1).unwrap());
        for option in [
            "ro",
            "no_root_squash",
            "no_subtree_check",
            "insecure",
            "insecure_locks",
        ] {
            assert!(all.contains(&format!(",{option},")), "{option}: {line}");
        }
        assert!(!all.contains(",rw,") && all.contains(",fsid="), "{line}");
    }
}

#[test]
fn check_finds_every_kind_of_difference() {
    let bench = Bench::new();
    succeed(&mut bench.provision(&[]));
    let root = bench.version(FIRST);
    let script = format!(
        "cd {} && rm etc/shadow && touch etc/new && chmod 755 usr/bin/su && chown 7:7 tmp && \
         printf X | dd of=usr/bin/big bs=1 seek=2500000 conv=notrunc 2>/dev/null && \
         ln -sfn elsewhere bin && cp --remove-destination -p usr/bin/perl usr/bin/perl5 && \
         rm run/pipe && echo > run/pipe",
        root.display()
    );
    succeed(as_root("sh").args(["-c", &script]));
    let output = fail(
        &mut bench.provision(&["--check"]),
        2,
        "differs from the image in",
    );
    let told = String::from_utf8(output.stdout).unwrap();
    for expected in [
        "/bin: points to elsewhere",
        "/etc/new: is not in the image",
        "/etc/shadow: is missing",
        "/run/pipe: is a file instead of a named pipe",
        "/tmp: is owned by 7:7 instead of 0:0",
        "/usr/bin/big: has other content",
        "/usr/bin/perl5: is a copy instead of a hard link",
        "/usr/bin/perl5: has 1 names instead of 2",
        "/usr/bin/su: has mode 0755 instead of 4755",
    ] {
        assert!(
            told.lines().any(|line| line == expected),
            "{expected}\nnot in:\n{told}"
        );
    }
}

#[test]
fn a_version_laid_out_is_not_laid_out_again_nor_half_a_one_left() {
    let bench = Bench::new();
    succeed(&mut bench.provision(&[]));
    // Unreadable from here on: nothing reads it.
    fs::write(bench.path("build/rootfs.tar"), "rubbish").unwrap();
    let output = succeed(&mut bench.provision(&[]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is there already"));

    let mut cut = members();
    cut.truncate(12);
    bench.build(SECOND, &cut);
    let tar = bench.path("build/rootfs.tar");
    let bytes = fs::read(&tar).unwrap();
    fs::write(&tar, &bytes[..bytes.len() - 1024]).unwrap();
    fail(&mut bench.provision(&[]), 2, "cut short");
    assert!(!bench.version(SECOND).exists());
    assert_eq!(
        fs::read_link(bench.path("nfs/current")).unwrap(),
        Path::new(FIRST)
    );
    assert_eq!(fs::read_dir(bench.path("nfs")).unwrap().count(), 2);
}

#[test]
fn what_would_lead_out_of_the_tree_is_refused() {
    let escape = |members: &[Entry], says: &str| {
        let bench = Bench::new();
        bench.build(SECOND, members);
        fail(&mut bench.provision(&[]), 2, says);
        assert!(!bench.path("escaped").exists() && !bench.version(SECOND).exists());
    };
    let file = |name| file(name, 0o644, "x");
    escape(&[file("../../escaped")], "..");
    // Below a symbolic link there is nothing.
    let link = symlink("out", "../..");
    escape(&[link, file("out/escaped")], "out");
}

#[test]
fn an_ordinary_user_and_mistakes_get_an_explanation() {
    let bench = Bench::new();
    let exports = bench.path("x.exports");
    let exports = exports.to_str().unwrap();
    fail(
        &mut bench.provision(&["--exports", exports]),
        2,
        "--network 192.168.7.0/24",
    );
    fail(
        &mut bench.provision(&["--exports", exports, "--network", "10.0.0.0/99"]),
        2,
        "neither a host nor a network",
    );
    fail(
        &mut bench.provision(&["--exports", "/etc/exports.d/hearth", "--host", "a"]),
        2,
        "does not end in .exports",
    );
    fail(&mut bench.provision(&["--check"]), 2, "is not laid out");
    let mut command = hearth();
    command
        .args(["provision", "nothing", "--to"])
        .arg(bench.path("nfs"));
    fail(
        command.current_dir(bench.dir.path()),
        2,
        "hearth build nothing",
    );

    // An id that is not root's, in a namespace of its own.
    let mut command = oracle("unshare");
    command.args(["--user", "--map-user", "1000", env!("CARGO_BIN_EXE_hearth")]);
    command
        .args(["provision", "small-armhf", "--from"])
        .arg(bench.path("build"));
    command.arg("--to").arg(bench.path("nfs"));
    fail(
        &mut command,
        3,
        "only root can give the files of an image their owners",
    );
}

#[test]
fn a_full_disk_leaves_no_version() {
    let bench = Bench::new();
    let script = format!(
        "mount -t tmpfs -o size=1m none /mnt && {} provision small-armhf --from {} --to /mnt; \
         code=$?; ls -A /mnt; exit $code",
        env!("CARGO_BIN_EXE_hearth"),
        bench.path("build").display()
    );
    let mut command = as_root("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    let output = fail(&mut command, 3, "No space left on device");
    assert!(output.stdout.is_empty(), "{output:?}");
}

//! What tars may hold that no directory does, read as GNU tar extracts it.

use std::fs;

use common::succeed;
use common::tarball::{Entry, dir, entry, file, hard_link, symlink, tar};
use tar::EntryType;

use super::fixture::Bench;

fn write(bench: &Bench, members: &[Entry]) {
    fs::write(bench.path("it.tar"), tar(members)).unwrap();
}

/// Files by path with their content or target, as GNU tar extracts them and as hearth imports them.
#[track_caller]
fn both(bench: &Bench) -> (Vec<String>, Vec<String>) {
    for name in ["by-tar", "by-hearth"] {
        common::remove(&bench.path(name));
        fs::create_dir(bench.path(name)).unwrap();
    }
    succeed(bench.import("it.tar", "out").args(["--arch", "armhf"]));
    let list = |name: &str, tar: &str| {
        bench.shell(&format!("tar -xf {tar} -C {name} 2>/dev/null"));
        let script = format!(
            "cd {name} && find . -mindepth 1 -printf '%P %y %n %l ' -a \\( -type f -exec sha256sum {{}} \\; -o -printf '\\n' \\) | sort"
        );
        let text = String::from_utf8(bench.shell(&script).stdout).unwrap();
        text.lines().map(String::from).collect::<Vec<_>>()
    };
    (
        list("by-tar", "it.tar"),
        list("by-hearth", "out/rootfs.tar"),
    )
}

#[test]
fn later_members_links_and_implied_directories_are_as_gnu_tar_extracts_them() {
    let bench = Bench::new();
    write(
        &bench,
        &[
            file("deep/below/file", 0o644, "no directories before"),
            dir("deep/", 0o700),
            file("twice", 0o644, "first"),
            file("twice", 0o600, "second"),
            file("was-file", 0o644, "x"),
            symlink("was-file", "twice"),
            dir("was-empty", 0o755),
            file("was-empty", 0o644, "now a file"),
            dir("usr/bin/", 0o755),
            symlink("bin", "usr/bin"),
            file("bin/through", 0o755, "through a link"),
            hard_link("linked", 0o755, "bin/through"),
            hard_link("linked-link", 0o777, "bin"),
            file("a//b/./c", 0o644, "slashes and dots"),
            entry("old-directory/", EntryType::Regular, 0o755, ""),
            entry("contiguous", EntryType::Continuous, 0o644, "as a file"),
        ],
    );
    let (theirs, ours) = both(&bench);
    assert_eq!(ours, theirs);
    assert!(
        ours.iter()
            .any(|line| line.starts_with("usr/bin/through f 2")),
        "{ours:?}"
    );
}

#[test]
fn absolute_names_lose_their_slash_as_with_gnu_tar() {
    let bench = Bench::new();
    write(
        &bench,
        &[
            file("/etc/passwd", 0o644, "x"),
            hard_link("//etc/also", 0o644, "/etc/passwd"),
        ],
    );
    let (theirs, ours) = both(&bench);
    assert_eq!(ours, theirs);
    let output = succeed(bench.import("it.tar", "out2").args(["--arch", "armhf"]));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("begin with a slash"), "{told}");
}

#[test]
fn what_leads_out_of_the_root_is_refused_by_name() {
    let bench = Bench::new();
    for (members, says) in [
        (
            vec![file("../out", 0o644, "")],
            "member `../out`: `..` in a name",
        ),
        (vec![file("a/../../out", 0o644, "")], "`..` in a name"),
        (
            vec![symlink("up", ".."), file("up/out", 0o644, "")],
            "which leads to `..`",
        ),
        (
            vec![symlink("abs", "/tmp"), file("abs/out", 0o644, "")],
            "which leads to `/tmp`",
        ),
        (
            vec![symlink("a", "b"), symlink("b", "a"), file("a/x", 0o644, "")],
            "too many symbolic links",
        ),
        (
            vec![file("f", 0o644, ""), file("f/x", 0o644, "")],
            "below `f`, which is no directory",
        ),
        (
            vec![hard_link("h", 0o644, "missing")],
            "`missing` is not there",
        ),
        (vec![hard_link("h", 0o644, "../x")], "`..` in a name"),
        (
            vec![dir("d/", 0o755), hard_link("h", 0o644, "d")],
            "a hard link to a directory",
        ),
        (
            vec![file("d/x", 0o644, ""), file("d", 0o644, "")],
            "takes the place of a directory that is not empty",
        ),
        (vec![symlink(".", "/etc")], "the root is no directory"),
    ] {
        write(&bench, &members);
        bench.refuses("it.tar", says);
    }
}

#[test]
fn links_that_only_point_outside_are_kept_as_they_are() {
    let bench = Bench::new();
    write(
        &bench,
        &[
            symlink("etc/mtab", "../../../proc/mounts"),
            symlink("host", "/etc/shadow"),
        ],
    );
    let (theirs, ours) = both(&bench);
    assert_eq!(ours, theirs);
}

#[test]
fn a_file_over_8_gib_is_imported_and_its_holes_take_no_place() {
    let bench = Bench::new();
    bench.shell("mkdir big && truncate -s 9G big/holes && echo end >> big/holes && touch -d @1500000000 big/holes big");
    // The other formats are compared in `formats`; this one has numbers of base 256.
    bench.shell("tar -C big --sparse --format=gnu -cf big.tar .");
    succeed(bench.import("big.tar", "out").args(["--arch", "armhf"]));
    let listed = bench.listed(&bench.path("out/rootfs.tar"));
    assert!(listed.contains(" 9663676420 "), "{listed}");
    let image = hearth::image::diff::open(&bench.path("out")).unwrap();
    let mut end = [0; 8];
    let found = image.find("holes").unwrap();
    let read = image.read_at(found.number, 9_663_676_412, &mut end);
    assert_eq!((read.unwrap(), &end), (8, b"\0\0\0\0end\n"));
    let tar = fs::metadata(bench.path("out/rootfs.tar")).unwrap();
    let used = std::os::unix::fs::MetadataExt::blocks(&tar);
    assert!(used * 512 < 1 << 20, "{used} blocks");
}

#[test]
fn damaged_headers_are_told_by_their_place() {
    let bench = Bench::new();
    let whole = tar(&[file("a", 0o644, "x"), file("b", 0o644, "y")]);
    let mut damaged = whole.clone();
    damaged[1024 + 100] ^= 1;
    fs::write(bench.path("it.tar"), &damaged).unwrap();
    bench.refuses("it.tar", "at byte 1024 is no header of a tar");
    // As GNU tar does, what is behind a block of zeros is not looked at.
    let mut lone = whole[..1024].to_vec();
    lone.extend([0; 512]);
    lone.extend(&whole[1024..]);
    fs::write(bench.path("it.tar"), &lone).unwrap();
    let (theirs, ours) = both(&bench);
    assert_eq!((ours.len(), &ours), (1, &theirs));
}

#[test]
fn a_global_header_holds_until_a_member_says_otherwise() {
    let bench = Bench::new();
    write(
        &bench,
        &[
            file("before", 0o644, "x"),
            entry(
                "g",
                EntryType::XGlobalHeader,
                0o644,
                "20 mtime=1400000000\n",
            ),
            file("after", 0o644, "x"),
            entry("x", EntryType::XHeader, 0o644, "20 mtime=1300000000\n"),
            file("own", 0o644, "x"),
        ],
    );
    succeed(bench.import("it.tar", "out").args(["--arch", "armhf"]));
    let sorted = |tar: &str| {
        let mut lines: Vec<String> = bench
            .listed(&bench.path(tar))
            .lines()
            .filter(|line| !line.starts_with('d'))
            .map(String::from)
            .collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted("it.tar"), sorted("out/rootfs.tar"));
}

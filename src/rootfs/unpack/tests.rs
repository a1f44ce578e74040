use super::*;
use crate::progress::NoProgress;
use crate::rootfs::package::PackageFile;
use common::tarball;
use sha2::Sha256;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

/// Entries of a data member: name, kind, target of a link or content of a file, mode.
type Entries<'a> = &'a [(&'a str, EntryType, &'a str, u32)];
const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;

fn tar_of(entries: Entries<'_>) -> Vec<u8> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    let entries: Vec<_> = entries
        .iter()
        .map(|(name, kind, text, mode)| {
            tarball::entry(name, *kind, *mode, text)
                .owner(uid.as_raw().into(), gid.as_raw().into())
                .mtime(1_000_000)
        })
        .collect();
    tarball::tar(&entries)
}

/// Makes a package in `directory`; `more` are further lines of its control file.
fn package(directory: &Path, name: &str, more: &str, entries: Entries<'_>) -> Package {
    let control = format!("Package: {name}\nVersion: 1\nArchitecture: all\n{more}");
    let control = tar_of(&[("./control", FILE, &control, 0o644)]);
    let mut deb = ar::Builder::new(Vec::new());
    for (member, data) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", control),
        ("data.tar", tar_of(entries)),
    ] {
        let header = ar::Header::new(member.into(), data.len() as u64);
        deb.append(&header, &data[..]).unwrap();
    }
    let bytes = deb.into_inner().unwrap();
    let path = directory.join(format!("{name}.deb"));
    fs::write(&path, &bytes).unwrap();
    Package::read(PackageFile {
        name: name.into(),
        version: "1".into(),
        arch: "all".into(),
        deb: path,
        sha256: hex::encode(Sha256::digest(&bytes)),
    })
    .unwrap()
}

fn unpack(root: &Path, packages: &[Package]) -> Result<Vec<Unpacked>> {
    fs::create_dir_all(root).unwrap();
    merged_usr(&mut Tree::open(root).unwrap()).unwrap();
    let all: Vec<&Package> = packages.iter().collect();
    let stage =
        crate::progress::Progress::stage(&NoProgress, "unpack", None, crate::progress::Unit::Items);
    unpack_first(root, &all, |_| true, 2, &*stage)
}

#[test]
fn links_modes_and_merged_usr_come_out_as_packed() {
    let dir = tempfile::tempdir().unwrap();
    let entries: Entries<'_> = &[
        ("./", DIR, "", 0o755),
        ("./bin/", DIR, "", 0o755),
        ("./bin/su", FILE, "su", 0o4755),
        ("./bin/su2", EntryType::Link, "./bin/su", 0o4755),
        ("./usr/share/x", EntryType::Symlink, "/etc/passwd", 0o777),
        ("./var/mail/", DIR, "", 0o2775),
    ];
    let root = dir.path().join("root");
    let unpacked = unpack(&root, &[package(dir.path(), "a", "", entries)]).unwrap();
    let su = fs::metadata(root.join("usr/bin/su")).unwrap();
    assert_eq!(
        (su.mode() & 0o7777, su.nlink(), su.mtime()),
        (0o4755, 2, 1_000_000)
    );
    let mail = fs::metadata(root.join("var/mail")).unwrap();
    assert_eq!(mail.permissions().mode() & 0o7777, 0o2775);
    assert_eq!(
        fs::read_link(root.join("usr/share/x")).unwrap(),
        Path::new("/etc/passwd")
    );
    let expected = [
        "/.",
        "/bin",
        "/bin/su",
        "/bin/su2",
        "/usr/share/x",
        "/var/mail",
    ];
    assert_eq!(unpacked[0].list, expected);
    let sums = unpacked[0].md5sums.as_ref().unwrap();
    assert!(sums.contains(&format!("{}  bin/su\n", hex::encode(Md5::digest("su")))));
}

#[test]
fn hostile_packages_are_refused_and_write_nothing_outside() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, "mine").unwrap();
    let absolute = format!("{}/evil", outside.path().display());
    let here = outside.path().to_str().unwrap();
    let hostile: &[(Entries<'_>, &str)] = &[
        (&[(&absolute, FILE, "x", 0o644)], "is absolute"),
        (&[("./../evil", FILE, "x", 0o644)], "by `..`"),
        (&[("./a/../../evil", FILE, "x", 0o644)], "by `..`"),
        (
            &[
                ("./l", EntryType::Symlink, here, 0o777),
                ("./l/evil", FILE, "x", 0o644),
            ],
            "behind a link",
        ),
        (&[("./dev/sda", EntryType::Block, "", 0o666)], "Block"),
        (&[("./dev/null", EntryType::Char, "", 0o666)], "Char"),
        (&[("./h", EntryType::Link, "../secret", 0o644)], "by `..`"),
        (
            &[("./h", EntryType::Link, "./etc/shadow", 0o644)],
            "not its own",
        ),
    ];
    for (number, (entries, says)) in hostile.iter().enumerate() {
        let work = outside.path().join(format!("work-{number}"));
        fs::create_dir(&work).unwrap();
        let root = work.join("root");
        let evil = package(&work, "evil", "", entries);
        let error = format!("{:#}", unpack(&root, &[evil]).unwrap_err());
        assert!(
            error.contains("not safe") && error.contains(says),
            "{number}: {error}"
        );
        assert!(!outside.path().join("evil").exists() && !work.join("evil").exists());
    }
    assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1);
}

#[test]
fn a_link_of_another_package_leads_nowhere_but_into_the_image() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path().to_str().unwrap();
    let link = package(
        dir.path(),
        "a",
        "",
        &[("./opt", EntryType::Symlink, here, 0o777)],
    );
    let file = package(dir.path(), "b", "", &[("./opt/evil", FILE, "x", 0o644)]);
    // The order decides, not which thread is first: both name `opt`, one of them as a directory, unlisted.
    let mut both = [link, file];
    for _ in 0..50 {
        let root = dir.path().join("link-first");
        unpack(&root, &both).unwrap_err();
        fs::remove_dir_all(&root).unwrap();
        both.reverse();
        let root = dir.path().join("file-first");
        unpack(&root, &both).unwrap();
        both.reverse();
        // As dpkg has it, a directory is not replaced by a link.
        assert_eq!(fs::read(root.join("opt/evil")).unwrap(), b"x");
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(!dir.path().join("evil").exists());
}

#[test]
fn of_two_packages_with_one_file_the_one_that_replaces_wins_whatever_its_place() {
    for (first, second) in [("a", "b"), ("b", "a")] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let old = package(
            dir.path(),
            first,
            "",
            &[("./f", FILE, "old", 0o644), ("./o", FILE, "", 0o644)],
        );
        let more = format!("Replaces: {first}\n");
        let new = package(dir.path(), second, &more, &[("./f", FILE, "new", 0o644)]);
        let mut packages = vec![old, new];
        packages.sort_by(|one, other| one.name().cmp(other.name()));
        let unpacked = unpack(&root, &packages).unwrap();
        assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "new");
        let losers = packages
            .iter()
            .position(|package| package.name() == first)
            .unwrap();
        let winners = &unpacked[1 - losers];
        assert!(winners.list.contains(&"/f".to_string()));
        let elided = winners
            .taken
            .contains(&(first.to_string(), "/f".to_string()));
        assert!(elided || !unpacked[losers].list.contains(&"/f".to_string()));
    }
}

#[test]
fn a_file_of_two_packages_is_told_with_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let one = package(dir.path(), "one", "", &[("./lib/f", FILE, "1", 0o644)]);
    let two = package(dir.path(), "two", "", &[("./usr/lib/f", FILE, "2", 0o644)]);
    let error = unpack(&dir.path().join("root"), &[one, two]).unwrap_err();
    let said = format!("{error:#}");
    assert!(said.contains("one and two both have /usr/lib/f"), "{said}");
}

#[test]
fn another_file_under_the_same_name_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut one = package(dir.path(), "one", "", &[("./f", FILE, "1", 0o644)]);
    one.file.sha256 = "0".repeat(64);
    let said = format!(
        "{:#}",
        unpack(&dir.path().join("root"), &[one]).unwrap_err()
    );
    assert!(said.contains("SHA-256"), "{said}");
}

#[test]
fn what_was_there_is_not_followed_when_it_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir(&root).unwrap();
    fs::write(dir.path().join("target"), "old").unwrap();
    symlink(dir.path().join("target"), root.join("f")).unwrap();
    unpack(
        &root,
        &[package(
            dir.path(),
            "one",
            "",
            &[("./f", FILE, "new", 0o644)],
        )],
    )
    .unwrap();
    assert_eq!(
        fs::read_to_string(dir.path().join("target")).unwrap(),
        "old"
    );
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "new");
}

//! What a lock keeps, what it updates, and how two differ; packages of the recipe's own.

use std::fs;

use hearth::progress::NoProgress;
use hearth::recipe::{Lock, RecipeFile, Role};

use crate::{IMPATIENT, contents, fetcher, lock, locked};
use common::{fail, hearth, pack, repository, run, succeed};

#[test]
fn locked_versions_stay_until_they_are_updated_or_vanish() {
    let (mut archive, first) = locked(&[10, 10, 10]);
    let recipe = archive.path("test.toml");
    let path = recipe.with_extension("lock");
    let versions = || -> Vec<String> {
        let lock = Lock::load(&path).unwrap();
        lock.packages
            .iter()
            .map(|p| format!("{}={}", p.name, p.version))
            .collect()
    };
    let output = succeed(&mut lock(&archive, &recipe, &archive.address()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is up to date"));

    for name in ["p0", "p1"] {
        archive.add(name, "2", "Depends: base", 10);
    }
    archive.remove("p2");
    archive.add("p2", "2", "Depends: base, extra", 10);
    archive.add("extra", "5", "", 10);
    archive.publish();
    let output = succeed(&mut lock(&archive, &recipe, &archive.address()));
    assert_eq!(versions(), ["base=1", "extra=5", "p0=1", "p1=1", "p2=2"]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "extra  -  5\np2     1  2\n"
    );

    let output = succeed(lock(&archive, &recipe, &archive.address()).args(["--update", "p1"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "p1  1  2\n");
    fail(
        lock(&archive, &recipe, &archive.address()).args(["--update", "p11"]),
        2,
        "no package p11 to update",
    );
    succeed(lock(&archive, &recipe, &archive.address()).arg("--update"));
    assert_eq!(versions(), ["base=1", "extra=5", "p0=2", "p1=2", "p2=2"]);
    assert_ne!(Lock::load(&path).unwrap(), first);
}

#[test]
fn a_recipe_that_changed_no_longer_fits_its_lock() {
    let (archive, _) = locked(&[10, 10]);
    let recipe = archive.path("test.toml");
    let open = || RecipeFile::open(recipe.to_str().unwrap()).unwrap();
    open().lock().unwrap();
    archive.recipe(&["p0"]);
    assert!(
        open()
            .lock()
            .unwrap_err()
            .to_string()
            .contains("does not fit the recipe")
    );
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(
        &recipe,
        text.replace("\"p0\"", "\"p0\", \"p1\"")
            .replace("test\"", "other\""),
    )
    .unwrap();
    open().lock().unwrap();
}

#[test]
fn shipped_locks_fit_their_recipes_and_hold_the_bootloaders() {
    for name in ["trixie-armhf", "bookworm-armhf", "trixie-arm64"] {
        let path = repository().join(format!("recipes/{name}.toml"));
        let lock = RecipeFile::open(path.to_str().unwrap())
            .unwrap()
            .lock()
            .unwrap();
        let of_role = |role| lock.packages.iter().filter(move |p| p.role == role);
        assert!(
            of_role(Role::Bootloader).any(|p| p.name == "u-boot-qemu"),
            "{name}"
        );
        assert!(
            of_role(Role::Root).any(|p| p.name == "nfs-common" && !p.auto),
            "{name}"
        );
        assert!(
            of_role(Role::Root).any(|p| p.name == "libc6" && p.auto),
            "{name}"
        );
        assert!(lock.epoch().is_some());
        assert!(
            !lock.to_toml().contains("://"),
            "a mirror's address in the lock of {name}"
        );
    }
}

#[test]
fn diff_tells_what_differs_between_two_locks() {
    let (archive, first) = locked(&[10]);
    let (old, new) = (archive.path("old.lock"), archive.path("new.lock"));
    first.save(&old).unwrap();
    let mut second = first.clone();
    second.packages[0].version = "2".into();
    second.packages[1].role = Role::Bootloader;
    second.save(&new).unwrap();
    let output = run(hearth().arg("diff").arg(&old).arg(&new));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "base             1  2\np0               1  -\np0 (bootloader)  -  1\n"
    );
    assert!(
        succeed(hearth().arg("diff").arg(&old).arg(&old))
            .stdout
            .is_empty()
    );
}

#[test]
fn local_packages_are_chosen_with_what_they_need() {
    let (mut archive, _) = locked(&[10]);
    archive.add("own", "9", "", 10);
    archive.add("needed", "1", "", 10);
    archive.publish();
    let build = |arch: &str| {
        let tree = archive.path("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: own\nVersion: 2\nArchitecture: {arch}\nMaintainer: T <t@example.org>\nDepends: needed\nDescription: d\n"
        );
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        let deb = archive.path("own.deb");
        pack(&tree, &deb);
    };
    build("armhf");
    let recipe = archive.recipe(&["p0"]);
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(
        &recipe,
        text.replace("[archive]", "debs = [\"own.deb\"]\n[archive]"),
    )
    .unwrap();
    succeed(&mut lock(&archive, &recipe, &archive.address()));
    let written = Lock::load(&recipe.with_extension("lock")).unwrap();
    let own = written
        .packages
        .iter()
        .find(|package| package.name == "own")
        .unwrap();
    assert_eq!(
        (own.version.as_str(), own.local, own.path.as_str()),
        ("2", true, "own.deb")
    );
    assert!(
        written
            .packages
            .iter()
            .any(|package| package.name == "needed" && package.auto)
    );
    let fetcher = fetcher(&archive, &archive.address(), IMPATIENT);
    let paths = fetcher
        .packages(&written, archive.dir.path(), &NoProgress)
        .unwrap();
    contents(&paths, &written);

    build("arm64");
    let error = fetcher
        .packages(&written, archive.dir.path(), &NoProgress)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has changed since the recipe was locked"),
        "{error}"
    );
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        2,
        "this package is for arm64",
    );
    fs::write(archive.path("own.deb"), "no package").unwrap();
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        2,
        "own.deb",
    );
}

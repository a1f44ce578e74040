//! Owns what each stage of a build is known by: the inputs that make its key. A stage runs again when one of them changes.
//! Never runs a stage. The initrd's key is with its stage.

use anyhow::Result;

use super::plan::Plan;
use super::stages::Key;
use crate::recipe::Role;
use crate::rootfs::customise::Customisation;

/// Each goes up when the stage's code makes something else of the same inputs.
const UNPACK_REVISION: u32 = 1;
const TOOLS_REVISION: u32 = 6;
const CONFIGURE_REVISION: u32 = 4;
const IMAGE_REVISION: u32 = 6;
const BOOT_REVISION: u32 = 1;

impl Plan {
    /// `owners` is how this host maps the image's owners to its own.
    pub(super) fn unpack_key(&self, owners: impl AsRef<[u8]>) -> Key {
        let key = Key::new("unpack", UNPACK_REVISION)
            .with("architecture", self.recipe.arch.debian())
            .with("epoch", self.epoch.to_string())
            .with("owners on this host", owners);
        self.with_packages(Role::Root, key)
    }

    pub(super) fn tools_key(&self, unpacked: &str) -> Key {
        let key = Key::new("tools", TOOLS_REVISION).with("stage unpack", unpacked);
        self.with_packages(Role::Tool, key)
    }

    pub(super) fn boot_key(&self, image: &str, image_id: &str) -> Result<Key> {
        let key = Key::new("boot", BOOT_REVISION)
            .with("stage image", image)
            .with("image", image_id)
            .with("board types", serde_json::to_vec(&self.boards)?);
        Ok(self.with_packages(Role::Bootloader, key))
    }

    fn with_packages(&self, role: Role, key: Key) -> Key {
        self.of_role(role).fold(key, |key, (package, _)| {
            key.with(format!("package {}", package.name), &package.sha256)
        })
    }
}

/// `tools` is there when scripts run native programs.
pub(super) fn configure_key(unpacked: &str, tools: Option<&str>) -> Key {
    let key = Key::new("configure", CONFIGURE_REVISION).with("stage unpack", unpacked);
    match tools {
        Some(tools) => key.with("stage tools", tools),
        None => key,
    }
}

pub(super) fn image_key(configured: &str, customisation: &Customisation) -> Result<Key> {
    let key = Key::new("image", IMAGE_REVISION).with("stage configure", configured);
    let inputs = customisation.inputs()?.into_iter();
    Ok(inputs.fold(key, |key, (name, value)| key.with(name, value)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::recipe::{LockedPackage, Recipe};

    const RECIPE: &str = r#"
description = "test"
arch = "armhf"
packages = ["base"]

[archive]
suites = ["trixie"]

[system]
timezone = "Etc/UTC"

[strip]
docs = true

[values]
greeting = "hello"

[[user]]
name = "board"

[[file]]
path = "/etc/motd"
source = "motd"

[[file]]
path = "/etc/issue"
template = "issue.hbs"

[[file]]
path = "/srv"
source = "tree"

[[command]]
run = "true"
"#;

    /// A plan for the recipe with one package of each role, and the files that the recipe names.
    struct Bench {
        dir: tempfile::TempDir,
        plan: Plan,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("tree/below")).unwrap();
            for name in ["motd", "issue.hbs", "tree/below/file", "not-named"] {
                fs::write(dir.path().join(name), name).unwrap();
            }
            symlink("below", dir.path().join("tree/link")).unwrap();
            let package = |name: &str, role, auto| {
                let package = LockedPackage {
                    name: name.into(),
                    version: "1".into(),
                    arch: "armhf".into(),
                    path: format!("pool/{name}.deb"),
                    size: 1,
                    sha256: format!("of {name}"),
                    suite: "trixie".into(),
                    role,
                    local: false,
                    auto,
                };
                (package, PathBuf::new())
            };
            let plan = Plan {
                name: "test".into(),
                path: dir.path().join("test.toml"),
                owner: dir.path().join("test.toml"),
                recipe: recipe(RECIPE),
                recipe_sha256: String::new(),
                lock_sha256: String::new(),
                packages: vec![
                    package("base", Role::Root, false),
                    package("library", Role::Root, true),
                    package("perl-base", Role::Tool, false),
                    package("u-boot", Role::Bootloader, false),
                ],
                boards: crate::recipe::board_types().unwrap(),
                epoch: 1_700_000_000,
                cache: PathBuf::new(),
                threads: 1,
                emulate: false,
            };
            Bench { dir, plan }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// The keys of all stages, each given the digests of those before it.
        fn keys(&self) -> Vec<Key> {
            let plan = &self.plan;
            let unpack = plan.unpack_key("owners");
            let tools = plan.tools_key(&unpack.digest());
            let configure = configure_key(&unpack.digest(), Some(&tools.digest()));
            let image = image_key(&configure.digest(), &plan.customisation().unwrap()).unwrap();
            let boot = plan.boot_key(&image.digest(), "test-0123").unwrap();
            vec![unpack, tools, configure, image, boot]
        }

        /// What changes with the plan, or with the files: `stage: input` for each input whose digest is another.
        fn changed(change: impl FnOnce(&mut Bench)) -> BTreeSet<String> {
            let mut bench = Bench::new();
            let before = bench.keys();
            change(&mut bench);
            let after = bench.keys();
            let pairs = after.iter().zip(&before);
            pairs
                .flat_map(|(after, before)| {
                    let inputs = after.changed_since(before).into_iter();
                    inputs.map(|input| format!("{}: {input}", after.stage))
                })
                .collect()
        }
    }

    fn recipe(text: &str) -> Recipe {
        Recipe::parse(Path::new("test.toml"), text).unwrap()
    }

    /// All stages from one on, after the input that changed.
    fn and_what_follows(stage: &str, input: &str) -> BTreeSet<String> {
        let links = [
            ("unpack", "tools: stage unpack"),
            ("unpack", "configure: stage unpack"),
            ("tools", "configure: stage tools"),
            ("configure", "image: stage configure"),
            ("image", "boot: stage image"),
        ];
        let order = ["unpack", "tools", "configure", "image", "boot"];
        let at = |stage: &str| order.iter().position(|name| *name == stage).unwrap();
        let mut all = BTreeSet::from([format!("{stage}: {input}")]);
        let later = links.iter().filter(|(from, _)| at(from) >= at(stage));
        all.extend(later.map(|(_, link)| (*link).to_string()));
        all
    }

    #[test]
    fn nothing_changes_by_itself_or_with_what_no_stage_uses() {
        assert_eq!(Bench::changed(|_| {}), BTreeSet::new());
        assert_eq!(
            Bench::changed(|bench| {
                bench.plan.recipe_sha256 = "comment".into();
                bench.plan.recipe.description = "another".into();
                bench.plan.threads = 8;
                fs::write(bench.path("not-named"), "changed").unwrap();
            }),
            BTreeSet::new()
        );
    }

    #[test]
    fn a_package_of_each_role_changes_its_stage_and_what_follows() {
        for (number, stage, input) in [
            (0, "unpack", "package base"),
            (2, "tools", "package perl-base"),
            (3, "boot", "package u-boot"),
        ] {
            let changed = Bench::changed(|bench| {
                bench.plan.packages[number].0.sha256 = "another".into();
            });
            assert_eq!(changed, and_what_follows(stage, input));
        }
        let gone = Bench::changed(|bench| {
            bench.plan.packages.remove(2);
        });
        assert_eq!(gone, and_what_follows("tools", "package perl-base"));
    }

    #[test]
    fn the_epoch_and_the_hosts_owners_change_everything() {
        let changed = Bench::changed(|bench| bench.plan.epoch += 1);
        assert_eq!(changed, and_what_follows("unpack", "epoch"));
        let plan = Bench::new().plan;
        assert_ne!(plan.unpack_key("root"), plan.unpack_key("100000"));
        assert_ne!(configure_key("u", None), configure_key("u", Some("t")));
    }

    #[test]
    fn each_part_of_the_recipe_changes_the_image_under_its_own_name() {
        for (old, new, input) in [
            ("Etc/UTC", "Europe/Rome", "recipe: [system]"),
            ("name = \"board\"", "name = \"other\"", "recipe: [[user]]"),
            ("docs = true", "docs = false", "recipe: [strip]"),
            ("hello", "good day", "recipe: [values]"),
            ("\"/srv\"", "\"/opt\"", "recipe: [[file]]"),
            ("run = \"true\"", "run = \"false\"", "recipe: [[command]]"),
        ] {
            let changed =
                Bench::changed(|bench| bench.plan.recipe = recipe(&RECIPE.replace(old, new)));
            assert_eq!(changed, and_what_follows("image", input));
        }
        let changed = Bench::changed(|bench| bench.plan.packages[1].0.auto = false);
        let input = "automatically installed packages";
        assert_eq!(changed, and_what_follows("image", input));
    }

    #[test]
    fn each_file_that_the_recipe_names_changes_the_image_by_content_mode_and_presence() {
        let files = [
            ("motd", "file motd"),
            ("issue.hbs", "file issue.hbs"),
            ("tree/below/file", "file tree/below/file"),
        ];
        for (path, input) in files {
            let changed = Bench::changed(|bench| fs::write(bench.path(path), "else").unwrap());
            assert_eq!(changed, and_what_follows("image", input));
            let changed = Bench::changed(|bench| {
                let executable = fs::Permissions::from_mode(0o755);
                fs::set_permissions(bench.path(path), executable).unwrap();
            });
            assert_eq!(changed, and_what_follows("image", input));
        }
        let changed = Bench::changed(|bench| {
            fs::remove_file(bench.path("tree/link")).unwrap();
            symlink(".", bench.path("tree/link")).unwrap();
        });
        assert_eq!(changed, and_what_follows("image", "file tree/link"));
        let changed = Bench::changed(|bench| {
            fs::write(bench.path("tree/new"), "").unwrap();
        });
        assert_eq!(changed, and_what_follows("image", "file tree/new"));
    }

    #[test]
    fn a_board_type_changes_only_what_boards_boot_from() {
        let changed = Bench::changed(|bench| {
            bench.plan.boards.remove("nanopi-neo").unwrap();
        });
        assert_eq!(changed, BTreeSet::from(["boot: board types".into()]));
    }
}

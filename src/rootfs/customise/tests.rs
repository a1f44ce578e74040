//! Owns the tests of what a recipe changes in an image, and in which order. Never runs a program of the image: that is
//! tested in `tests/build.rs`.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::error::help_of;
use crate::sandbox::Limits;

const EPOCH: i64 = 1_700_000_000;

/// An image of a few files, and a directory with what the recipe names.
struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Bench {
            dir: tempfile::tempdir().unwrap(),
        };
        bench.put("root/etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
        bench.put("root/etc/shadow", "root:*:20000:0:99999:7:::\n");
        bench.put("root/etc/group", "root:x:0:\nvideo:x:44:\n");
        bench.put("root/etc/gshadow", "root:*::\nvideo:*::\n");
        bench.put("root/var/lib/dpkg/info/base.list", "/usr\n");
        bench.put("root/usr/share/zoneinfo/Etc/UTC", "TZif");
        bench.put("root/usr/lib/locale/C.utf8/LC_CTYPE", "");
        fs::create_dir(bench.dir.path().join("recipe")).unwrap();
        bench
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    /// The image's text of a file.
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    /// Applies a recipe with these tables.
    fn apply(&self, tables: &str, auto: &[&str]) -> Result<Vec<String>> {
        let context = Context {
            root: &self.root(),
            arch: Arch::Armhf,
            epoch: EPOCH,
            limits: &Limits::default(),
        };
        apply(&context, &self.customisation(tables, auto))
    }

    fn customisation(&self, tables: &str, auto: &[&str]) -> Customisation {
        let text = format!(
            "description = \"test\"\narch = \"armhf\"\npackages = []\n\
             [archive]\nsuites = [\"trixie\"]\n{tables}"
        );
        let recipe = Recipe::parse(Path::new("test.toml"), &text).unwrap();
        let auto = auto.iter().map(ToString::to_string).collect();
        Customisation::new(&recipe, &self.dir.path().join("recipe"), auto)
    }
}

#[test]
fn without_a_word_in_the_recipe_an_image_gets_what_every_board_needs() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    bench.put("root/etc/apt/sources.list", "deb of the build\n");
    let told = bench.apply("", &["libc6", "zlib1g"]).unwrap();
    assert_eq!(told, Vec::<String>::new());
    assert!(
        bench
            .text("etc/apt/sources.list")
            .starts_with("# This image was built")
    );
    assert_eq!(
        bench.text("var/lib/apt/extended_states"),
        "Package: libc6\nArchitecture: armhf\nAuto-Installed: 1\n\n\
         Package: zlib1g\nArchitecture: armhf\nAuto-Installed: 1\n\n"
    );
    assert!(
        bench
            .text("etc/hosts")
            .starts_with("127.0.0.1\tlocalhost\n")
    );
    assert_eq!(bench.text("etc/default/locale"), "LANG=C.UTF-8\n");
    let zone = fs::read_link(bench.root().join("etc/localtime")).unwrap();
    assert_eq!(zone, Path::new("/usr/share/zoneinfo/Etc/UTC"));
    // No systemd, curl or sshd: neither the agent nor a unit that makes host keys.
    assert!(!bench.root().join("usr/lib/systemd").exists());
    let meta = fs::metadata(bench.root().join("etc/hosts")).unwrap();
    assert_eq!((meta.uid(), meta.mtime()), (0, EPOCH));
}

#[test]
fn a_file_of_the_recipe_comes_after_what_hearth_and_packages_bring() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    bench.put("root/usr/lib/systemd/systemd", "elf");
    bench.put("root/usr/bin/curl", "elf");
    bench.put("root/usr/share/doc/dash/changelog", "long");
    let agent = agent::FILES[0].path;
    let tables = format!(
        "[strip]\ndocs = true\n\
         [[file]]\npath = \"/etc/hosts\"\ncontent = \"mine\"\n\
         [[file]]\npath = \"{agent}\"\ncontent = \"my agent\"\n\
         [[file]]\npath = \"/usr/share/doc/mine/notes\"\ncontent = \"kept\"\n"
    );
    bench.apply(&tables, &[]).unwrap();
    assert_eq!(bench.text("etc/hosts"), "mine");
    assert_eq!(bench.text(agent.trim_start_matches('/')), "my agent");
    assert_eq!(bench.text("usr/share/doc/mine/notes"), "kept");
    assert!(!bench.root().join("usr/share/doc/dash/changelog").exists());
    // The rest of the agent is there.
    let last = agent::FILES.last().unwrap().path.trim_start_matches('/');
    assert!(bench.root().join(last).symlink_metadata().is_ok());
}

#[test]
fn a_later_file_takes_the_place_of_an_earlier_one_and_may_be_a_users() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    bench.put("recipe/tree/run.sh", "#!/bin/sh\n");
    bench.put("recipe/tree/data", "x");
    let script = bench.dir.path().join("recipe/tree/run.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).unwrap();
    bench.put("recipe/motd.hbs", "{{greeting}} & welcome");
    let tables = r#"
[values]
greeting = "hello"
[[user]]
name = "board"
uid = 1234
groups = ["video"]
[[file]]
path = "/srv/tree"
source = "tree"
owner = "board"
[[file]]
path = "/srv/tree/data"
content = "later"
owner = "board:video"
mode = "0640"
[[file]]
path = "/etc/motd"
template = "motd.hbs"
[[file]]
path = "/etc/issue"
link = "motd"
[[file]]
path = "/srv/empty"
directory = true
mode = "1777"
"#;
    bench.apply(tables, &[]).unwrap();
    let of = |path: &str| {
        let meta = fs::symlink_metadata(bench.root().join(path)).unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(of("srv/tree"), (1234, 1234, 0o755));
    assert_eq!(of("srv/tree/run.sh"), (1234, 1234, 0o755));
    assert_eq!(of("srv/tree/data"), (1234, 44, 0o640));
    assert_eq!(bench.text("srv/tree/data"), "later");
    assert_eq!(bench.text("etc/issue"), "hello & welcome");
    assert_eq!(of("srv/empty"), (0, 0, 0o1777));
    assert!(bench.text("etc/group").contains("video:x:44:board\n"));
}

#[test]
fn an_owner_that_the_image_lacks_is_told_with_the_file() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    for (owner, what) in [
        ("nobody-here", "user nobody-here"),
        ("0:staff", "group staff"),
    ] {
        let file = format!("[[file]]\npath = \"/etc/x\"\ncontent = \"\"\nowner = \"{owner}\"\n");
        let error = format!("{:#}", bench.apply(&file, &[]).unwrap_err());
        assert_eq!(
            error,
            format!("the recipe's [[file]] for /etc/x: the image has no {what}")
        );
    }
}

#[test]
fn ssh_host_keys_are_left_out_unless_the_recipe_brings_them() {
    if !common::runs_as_root() {
        return;
    }
    let bench = Bench::new();
    bench.put("root/usr/sbin/sshd", "elf");
    bench.put("root/usr/lib/systemd/systemd", "elf");
    bench.put("root/etc/ssh/ssh_host_rsa_key", "of a script");
    let brought = "[[file]]\npath = \"/etc/ssh/ssh_host_ed25519_key\"\ncontent = \"mine\"\n";
    bench.apply(brought, &[]).unwrap();
    assert!(!bench.root().join("etc/ssh/ssh_host_rsa_key").exists());
    assert_eq!(bench.text("etc/ssh/ssh_host_ed25519_key"), "mine");
    let unit = "usr/lib/systemd/system/hearth-ssh-host-keys.service";
    assert!(
        bench
            .text(unit)
            .contains("ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key")
    );
}

#[test]
fn a_source_that_is_not_there_is_told_before_anything_is_built() {
    let bench = Bench::new();
    let custom = bench.customisation("[[file]]\npath = \"/etc/x\"\nsource = \"missing\"\n", &[]);
    let error = format!("{:#}", custom.inputs().unwrap_err());
    assert!(
        error.starts_with("the recipe's [[file]] for /etc/x: cannot read "),
        "{error}"
    );
}

#[test]
fn a_template_that_asks_for_an_unknown_value_is_named() {
    let bench = Bench::new();
    bench.put("recipe/motd.hbs", "{{greting}}");
    let template = bench.dir.path().join("recipe/motd.hbs");
    let error = render(&template, &BTreeMap::new()).unwrap_err();
    let text = format!("{error:#}");
    assert!(
        text.contains("motd.hbs: ") && text.contains("greting"),
        "{text}"
    );
    assert_eq!(
        help_of(&error),
        Some("the template sees the recipe's [values]")
    );
}

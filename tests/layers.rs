//! Compares a stack of layers with what the kernel's overlayfs shows of the same layers, mounted in a user namespace.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use hearth::image::index::{Image, Kind};
use proptest::prelude::*;
use tempfile::TempDir;

/// What is done to one layer's directory.
#[derive(Clone, Debug)]
enum Step {
    Directory(String, u32),
    File(String, String),
    Link(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-c]", 1..4).prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (path(), prop::sample::select(vec![0o755, 0o700, 0o1777]))
            .prop_map(|(path, mode)| Step::Directory(path, mode)),
        4 => (path(), "[x-z]{0,3}").prop_map(|(path, text)| Step::File(path, text)),
        1 => (path(), path()).prop_map(|(path, target)| Step::Link(path, target)),
        1 => (path(), path()).prop_map(|(path, target)| Step::HardLink(path, target)),
        2 => path().prop_map(Step::Whiteout),
        1 => path().prop_map(Step::Opaque),
    ]
}

/// Makes a layer twice: as overlayfs wants it, and as a tar with whiteouts as the OCI has them.
fn make(steps: &[Step], number: usize, dir: &Path) -> (PathBuf, PathBuf) {
    let [overlay, plain] = ["overlay", "oci"].map(|kind| dir.join(format!("{kind}-{number}")));
    for (root, is_overlay) in [(&overlay, true), (&plain, false)] {
        fs::create_dir(root).unwrap();
        for step in steps {
            // A step that does not fit what is there already is left out, in both alike.
            apply(step, root, is_overlay);
        }
    }
    let tar = dir.join(format!("{number}.tar"));
    let status = Command::new("tar")
        .args(["--format=pax", "--numeric-owner", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(&plain)
        .arg(".")
        .status()
        .unwrap();
    assert!(status.success());
    (overlay, tar)
}

fn apply(step: &Step, root: &Path, is_overlay: bool) {
    let is_whited_out = |path: &Path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        path.with_file_name(format!(".wh.{name}")).exists()
    };
    let prepared = |path: &str| -> Option<PathBuf> {
        let path = root.join(path);
        let parent = path.parent().unwrap();
        let mut above = parent.ancestors().take_while(|at| *at != root);
        let fits = above.all(|at| {
            fs::symlink_metadata(at).map_or(true, |meta| meta.is_dir()) && !is_whited_out(at)
        });
        (fits && fs::create_dir_all(parent).is_ok()).then_some(path)
    };
    let free = |path: &Path| fs::symlink_metadata(path).is_err() && !is_whited_out(path);
    match step {
        Step::Directory(name, mode) => {
            if let Some(path) = prepared(name)
                && free(&path)
            {
                fs::create_dir(&path).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
            }
        }
        Step::File(name, text) => {
            if let Some(path) = prepared(name)
                && free(&path)
            {
                fs::write(path, text).unwrap();
            }
        }
        Step::Link(name, target) => {
            if let Some(path) = prepared(name)
                && free(&path)
            {
                symlink(target, path).unwrap();
            }
        }
        Step::HardLink(name, target) => {
            let target = root.join(target);
            if let Some(path) = prepared(name)
                && free(&path)
                && fs::symlink_metadata(&target).is_ok_and(|meta| meta.is_file())
            {
                fs::hard_link(target, path).unwrap();
            }
        }
        Step::Whiteout(name) => {
            if let Some(path) = prepared(name)
                && free(&path)
            {
                if is_overlay {
                    let made = Command::new("mknod")
                        .arg(&path)
                        .args(["c", "0", "0"])
                        .status();
                    assert!(made.unwrap().success());
                } else {
                    let name = path.file_name().unwrap().to_str().unwrap();
                    fs::write(path.with_file_name(format!(".wh.{name}")), "").unwrap();
                }
            }
        }
        Step::Opaque(name) => {
            let path = root.join(name);
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                if is_overlay {
                    xattr::set(&path, "user.overlay.opaque", b"y").unwrap();
                } else {
                    fs::write(path.join(".wh..wh..opq"), "").unwrap();
                }
            }
        }
    }
}

/// Path, type, mode, links of a file, target or content of every name.
fn of_stack(tars: &[PathBuf]) -> BTreeSet<String> {
    let image = Image::open_stack(tars).unwrap();
    let mut names = BTreeSet::new();
    image.walk(|path, number, inode| {
        let path = OsStr::from_bytes(path).to_str().unwrap();
        let what = match &inode.kind {
            Kind::Directory { .. } => format!("d {}", inode.links),
            Kind::File { .. } => {
                let data = image.read(number).unwrap();
                format!("f {} {}", inode.links, String::from_utf8(data).unwrap())
            }
            Kind::Symlink { target } => {
                format!("l {}", OsStr::from_bytes(target).to_str().unwrap())
            }
            other => format!("{other:?}"),
        };
        names.insert(format!("/{path} {:o} {what}", inode.mode));
    });
    names
}

/// overlayfs lists a whiteout in a directory that is not merged, though nothing can be looked up there: left out.
fn of_overlayfs(layers: &[PathBuf], dir: &Path) -> BTreeSet<String> {
    const LIST: &str = r#"mount -t overlay overlay -o "lowerdir=$1,userxattr" "$2" && cd "$2" && find . | sort | while read -r path; do
        mode=$(stat -c %a "$path" 2>/dev/null) || continue; name=${path#.}; name=/${name#/}
        if [ -h "$path" ]; then echo "$name $mode l $(readlink "$path")"
        elif [ -d "$path" ]; then echo "$name $mode d $((2 + $(find "$path" -mindepth 1 -maxdepth 1 -type d | wc -l)))"
        elif [ -f "$path" ]; then echo "$name $mode f $(stat -c %h "$path") $(cat "$path")"
        else echo "$name $mode other"; fi; done"#;
    let at = dir.join("mounted");
    fs::create_dir_all(&at).unwrap();
    let lower: Vec<&str> = layers
        .iter()
        .rev()
        .map(|path| path.to_str().unwrap())
        .collect();
    let output = Command::new("unshare")
        .args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            LIST,
            "sh",
        ])
        .arg(lower.join(":"))
        .arg(&at)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(String::from).collect()
}

/// A hard link whose other name is hidden or removed: overlayfs counts the lower file system's links still.
fn without_link_counts(names: BTreeSet<String>) -> BTreeSet<String> {
    names
        .into_iter()
        .map(|line| {
            let parts: Vec<&str> = line.splitn(5, ' ').collect();
            match parts[..] {
                [path, mode, "f", _, content] => format!("{path} {mode} f {content}"),
                _ => line.clone(),
            }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stack_shows_what_overlayfs_shows(layers in prop::collection::vec(prop::collection::vec(step(), 0..14), 2..4)) {
        let dir = TempDir::new().unwrap();
        let (mut overlays, mut tars) = (Vec::new(), Vec::new());
        for (number, steps) in layers.iter().enumerate() {
            // The lowest layer hides nothing.
            let steps: Vec<Step> = steps
                .iter()
                .filter(|step| number > 0 || !matches!(step, Step::Whiteout(_) | Step::Opaque(_)))
                .cloned()
                .collect();
            let (overlay, tar) = make(&steps, number, dir.path());
            overlays.push(overlay);
            tars.push(tar);
        }
        prop_assert_eq!(
            without_link_counts(of_stack(&tars)),
            without_link_counts(of_overlayfs(&overlays, dir.path()))
        );
    }
}

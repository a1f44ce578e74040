//! Initrds that the distribution's mkinitramfs makes, with a recipe's own hooks and scripts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use common::{fail, hearth, oracle, succeed};

use crate::{recipe, show};

/// A recipe whose initrd the distribution makes, with hooks and scripts of its own; small, so that it takes less long.
fn recipe_with_hooks(hook: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(recipe("armhf", directory.path())).unwrap();
    let path = directory.path().join("hooked.toml");
    let initrd = "builder = \"chroot\"\nmodule-set = \"list\"\n\
                  hooks = \"initramfs/hooks\"\nscripts = \"initramfs/scripts\"\n";
    fs::write(
        &path,
        format!("boards = [\"qemu-virt-arm\"]\n{text}\n[initrd]\n{initrd}"),
    )
    .unwrap();
    let own = directory.path().join("initramfs");
    for (name, text) in [("hooks/own", hook), ("scripts/init-top/own", "#!/bin/sh\n")] {
        let path = own.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    (directory, path)
}

#[test]
fn a_recipes_hooks_run_in_mkinitramfs_and_the_bytes_are_the_same_again() {
    let hook = "#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\nmkdir -p \"$DESTDIR/etc\"\ndate +%N >/tmp/x\n\
                echo \"$DPKG_ARCH\" >\"$DESTDIR/etc/own\"\n";
    let (directory, path) = recipe_with_hooks(hook);
    let build = |name: &str| {
        let out = directory.path().join(name);
        succeed(hearth().arg("initrd").arg(&path).arg("-o").arg(&out));
        out
    };
    let one = build("one.img");
    // No part of the initrd, but another input: mkinitramfs runs once more.
    fs::write(directory.path().join("initramfs/hooks/README"), "text\n").unwrap();
    let two = build("two.img");
    assert!(fs::read(&one).unwrap() == fs::read(&two).unwrap());

    let listed = succeed(oracle("lsinitramfs").arg(&one));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in [
        "etc/own",
        "scripts/init-top/own",
        "scripts/nfs-bottom/hearth",
    ] {
        assert!(listed.lines().any(|line| line == name), "{name}: {listed}");
    }
    let unpacked = directory.path().join("unpacked");
    succeed(
        hearth()
            .args(["initrd", "extract"])
            .arg(&one)
            .arg(&unpacked),
    );
    assert_eq!(fs::read(unpacked.join("etc/own")).unwrap(), b"armhf\n");
    let shown = show(&one);
    assert_eq!(
        shown["modules"]["virtio_net"]["why"],
        "named by the board type qemu-virt-arm"
    );
}

/// What takes minutes each. For `make test-long`.
mod long {
    use super::*;

    #[test]
    fn a_hook_that_fails_is_named_and_nothing_is_written() {
        let hook =
            "#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\necho the hook says why >&2\nexit 3\n";
        let (directory, path) = recipe_with_hooks(hook);
        let out = directory.path().join("none.img");
        let failed = fail(
            hearth().arg("initrd").arg(&path).arg("-o").arg(&out),
            2,
            "mkinitramfs failed in the image",
        );
        let failed = String::from_utf8(failed.stderr).unwrap();
        for part in ["the hook says why", "hooks/own failed"] {
            assert!(failed.contains(part), "{failed}");
        }
        assert!(!out.exists());
    }

    #[test]
    fn a_hook_that_takes_a_native_tool_along_runs_again_without() {
        let hook = "#!/bin/sh\n[ \"$1\" = prereqs ] && exit 0\nmkdir -p \"$DESTDIR/etc\"\n\
                    cp /bin/sed \"$DESTDIR/etc/own\"\n";
        let (directory, path) = recipe_with_hooks(hook);
        let out = directory.path().join("own.img");
        let output = succeed(hearth().arg("initrd").arg(&path).arg("-o").arg(&out));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("has taken the host's `etc/own`"), "{said}");
        let unpacked = directory.path().join("unpacked");
        succeed(
            hearth()
                .args(["initrd", "extract"])
                .arg(&out)
                .arg(&unpacked),
        );
        // e_machine of the ELF header: EM_ARM.
        assert_eq!(fs::read(unpacked.join("etc/own")).unwrap()[18..20], [40, 0]);
    }
}

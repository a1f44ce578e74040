//! The texts that users and other programs read, each kept whole in `snapshots/`: a change of one shows in review.
//!
//! `INSTA_UPDATE=always cargo nextest run --test texts` takes what hearth writes now; read the diff before it is committed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use common::{hearth, repository, succeed};
use hearth::image::{Artifact, LockReference, Manifest, RecipeReference};
use hearth::netboot::provision::exports_file::exports;
use hearth::recipe::Arch;
use insta::{Settings, assert_snapshot};

/// What a command prints, where hearth finds only what it ships.
fn printed(command: &mut Command) -> String {
    command
        .env("HEARTH_DATA", repository())
        .env("COLUMNS", "80")
        .env_remove("HEARTH_LAB");
    String::from_utf8(succeed(command).stdout).unwrap()
}

/// Compares under a name, as `snapshots/NAME.snap`.
fn compare(name: &str, text: &str) {
    let mut settings = Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.bind(|| assert_snapshot!(name, text));
}

#[test]
fn a_report_in_every_form() {
    let report = repository().join("fixtures/reports/everything.json");
    for form in ["text", "tap", "junit", "html"] {
        let text = printed(
            hearth()
                .args(["report", "convert", "--to", form])
                .arg(&report),
        );
        compare(&format!("report-{form}"), &text);
    }
    let json = printed(
        hearth()
            .args(["report", "convert", "--to", "json"])
            .arg(&report),
    );
    assert_eq!(json, fs::read_to_string(report).unwrap());
}

#[test]
fn the_manifest_of_a_build() {
    let digest = |byte: &str| byte.repeat(32);
    let artifact = |byte, size| Artifact {
        sha256: digest(byte),
        size,
    };
    let manifest = Manifest {
        hearth: "0.0.0".into(),
        recipe: RecipeReference {
            name: "trixie-armhf".into(),
            sha256: digest("0a"),
        },
        lock: Some(LockReference {
            sha256: digest("0b"),
        }),
        layers: Vec::new(),
        kernel_arguments: Vec::new(),
        sources: BTreeMap::new(),
        arch: Arch::Armhf,
        epoch: 1_700_000_000,
        kernel: Some("6.12.48+deb13-armmp".into()),
        image: "trixie-armhf-0c0c0c0c0c0c".into(),
        artifacts: BTreeMap::from([
            ("rootfs.tar".into(), artifact("0c", 600_000_000)),
            ("vmlinuz".into(), artifact("0d", 5_000_000)),
            ("dtb/sun8i-h3-nanopi-neo.dtb".into(), artifact("0e", 20_000)),
        ]),
    };
    compare("manifest", &manifest.to_json());
}

#[test]
fn the_exports_of_two_versions_to_a_network_and_a_host() {
    let text = exports(
        Path::new("/srv/nfs of mine"),
        &[
            "trixie-armhf-000000000001".into(),
            "trixie-armhf-000000000002".into(),
        ],
        &["192.168.7.0/24".into(), "board.example".into()],
    );
    compare("exports", &text.unwrap());
}

/// What each board type boots by: `nfs` over the network, `card` on a lab's card, `local` from the card alone.
#[test]
fn the_boot_scripts_and_extlinux_files_of_every_board_type() {
    let types = hearth::recipe::board_types().unwrap();
    for (name, board_type) in &types {
        let directory = tempfile::tempdir().unwrap();
        let lab = format!(
            "[lab]\nname = 'desk'\naddress = '192.168.7.1'\n\
             [[board]]\nname = 'board1'\ntype = '{name}'\nmac = '02:00:5e:10:00:07'\n"
        );
        fs::write(directory.path().join("lab.toml"), lab).unwrap();
        let image = format!("trixie-{}-0123456789ab", board_type.arch);
        let bootscript = |template: &str| {
            let mut command = hearth();
            command.current_dir(directory.path()).args([
                "bootscript",
                "board1",
                "--image",
                &image,
                "-t",
                template,
            ]);
            command
        };
        let mut text = String::new();
        for template in ["card", "nfs", "local"] {
            let script = printed(bootscript(template).arg("--print"));
            text += &format!("==== {template}\n{script}");
        }
        printed(bootscript("nfs").args(["-o", "out"]));
        let extlinux = directory.path().join("out/extlinux/extlinux.conf");
        text += "==== extlinux.conf\n";
        text += &fs::read_to_string(extlinux).unwrap();
        compare(&format!("boot-{name}"), &text);
    }
    assert_eq!(types.len(), 9);
}

/// One snapshot a command, with its subcommands; the list of commands is that of the manual pages.
#[test]
fn the_help_of_every_command() {
    let pages = tempfile::tempdir().unwrap();
    succeed(hearth().args(["man", "--quiet", "-o"]).arg(pages.path()));
    let top = printed(hearth().arg("--help"));
    let commands: Vec<&str> = top
        .lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    let mut names: Vec<String> = fs::read_dir(pages.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| {
            Some(
                name.strip_prefix("hearth-")?
                    .strip_suffix(".1")?
                    .to_string(),
            )
        })
        .collect();
    names.sort();
    compare("help", &top);
    for command in commands {
        let mut text = printed(hearth().args([command, "--help"]));
        for name in &names {
            let Some(sub) = name.strip_prefix(&format!("{command}-")) else {
                continue;
            };
            text += &format!("\n==== {command} {sub}\n");
            text += &printed(hearth().args([command, sub, "--help"]));
        }
        assert!(names.iter().any(|name| name == command), "{command}");
        compare(&format!("help-{command}"), &text);
    }
}

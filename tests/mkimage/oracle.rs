//! The same bytes as Debian's mkimage, whatever the command line.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Output;
use std::thread;

use hearth::uboot::{Comp, ImageArch, Kind, Os, write};
use sha2::{Digest, Sha256};

use crate::lines::{Line, Random, data_files, line};
use crate::{comparable, debian_mkimage, hearth_mkimage, scratch};
use common::{run, succeed};

/// What Debian 12's mkimage is too old to know.
const NEWER: (Os, Kind) = (Os::ELF, Kind::FDT_LEGACY);

/// Runs both programs with the same arguments, each for an image of its own, and compares the images.
fn compare(dir: &Path, arguments: &[&str]) -> (Output, Output) {
    let ours = succeed(hearth_mkimage(dir).args(arguments).arg("ours"));
    let theirs = succeed(debian_mkimage(dir).args(arguments).arg("theirs"));
    assert_same(dir, &format!("{arguments:?}"));
    (ours, theirs)
}

fn assert_same(dir: &Path, what: &str) {
    let ours = fs::read(dir.join("ours")).unwrap();
    let theirs = fs::read(dir.join("theirs")).unwrap();
    let differs = ours
        .iter()
        .zip(&theirs)
        .position(|(ours, theirs)| ours != theirs);
    assert!(
        ours == theirs,
        "{what}: {} and {} bytes, first difference at {differs:?}",
        ours.len(),
        theirs.len(),
    );
}

/// Splits work between two threads, each with a directory of its own.
fn in_two(work: impl Fn(&Path, usize) + Sync) {
    thread::scope(|scope| {
        for half in 0..2 {
            let work = &work;
            scope.spawn(move || {
                let dir = scratch();
                for (name, data) in data_files() {
                    fs::write(dir.path().join(name), data).unwrap();
                }
                work(dir.path(), half);
            });
        }
    });
}

#[test]
fn every_system_architecture_and_type_is_byte_identical_with_each_compression_in_turn() {
    let kinds: Vec<_> = Kind::ALL
        .iter()
        .filter(|kind| write::is_legacy(kind.id) && kind.id != NEWER.1)
        .collect();
    in_two(|dir, half| {
        let mut turn = 0;
        for os in Os::ALL.iter().filter(|os| os.id != NEWER.0) {
            for arch in ImageArch::ALL {
                for kind in &kinds {
                    turn += 1;
                    if turn % 2 != half {
                        continue;
                    }
                    // One step more each round of types, so that every compression meets every type.
                    let comp = &Comp::ALL[(turn + turn / kinds.len()) % Comp::ALL.len()];
                    let ids = [
                        "-O", os.name, "-A", arch.name, "-T", kind.name, "-C", comp.name,
                    ];
                    let others = ["-n", "matrix", "-a", "1000", "-d", "odd", "theirs"];
                    succeed(debian_mkimage(dir).args(ids).args(others));
                    // In this process: starting hearth 7,000 times more would only take time.
                    let image = write::NewImage {
                        os: os.name.parse().unwrap(),
                        comp: comp.name.parse().unwrap(),
                        load: 0x1000,
                        name: b"matrix".to_vec(),
                        ..write::NewImage::new(
                            kind.name.parse().unwrap(),
                            arch.name.parse().unwrap(),
                            1_700_000_000,
                        )
                    };
                    write::create(&image, &[dir.join("odd")], &dir.join("ours")).unwrap();
                    assert_same(dir, &format!("{ids:?}"));
                }
            }
        }
    });
}

#[test]
fn every_type_with_every_compression_lists_as_the_oracle_lists_it() {
    in_two(|dir, half| {
        let kinds = Kind::ALL
            .iter()
            .filter(|kind| write::is_legacy(kind.id) && kind.id != NEWER.1);
        for kind in kinds.skip(half).step_by(2) {
            for comp in Comp::ALL {
                let ids = ["-A", "arm", "-T", kind.name, "-C", comp.name];
                let (ours, theirs) =
                    compare(dir, &[&ids[..], &["-n", "a name", "-d", "text"]].concat());
                assert_eq!(comparable(&ours.stdout), comparable(&theirs.stdout));
                let ours = succeed(hearth_mkimage(dir).args(["-l", "theirs"]));
                let theirs = succeed(debian_mkimage(dir).args(["-l", "theirs"]));
                assert_eq!(comparable(&ours.stdout), comparable(&theirs.stdout));
            }
        }
    });
}

#[test]
fn vendor_images_are_byte_identical_and_list_alike() {
    in_two(|dir, half| {
        let lines: [&[&str]; 9] = [
            &["-T", "omapimage", "-a", "402f0400"],
            &[
                "-T",
                "omapimage",
                "-a",
                "0x402F0400",
                "-n",
                "a name",
                "-A",
                "arm",
            ],
            &["-T", "gpimage", "-a", "c000000"],
            &["-T", "sunxi_egon"],
            &["-T", "sunxi_egon", "-A", "riscv"],
            &["-T", "sunxi_egon", "-A", "arm", "-n", "sun8i-h3-nanopi-neo"],
            &[
                "-T",
                "sunxi_egon",
                "-n",
                "the longest name that still fits behind the header.",
            ],
            &[
                "-T",
                "sunxi_egon",
                "-n",
                "the shortest name that does not fit behind the header",
            ],
            &["-T", "sunxi_egon", "-a", "44000", "-O", "u-boot"],
        ];
        for arguments in lines.iter().skip(half).step_by(2) {
            for (data, _) in data_files() {
                let (ours, theirs) = compare(dir, &[arguments, &["-d", data][..]].concat());
                // The oracle says on standard output what hearth warns of on standard error.
                let theirs = comparable(&theirs.stdout)
                    .replace("WARNING: DT name too long for SPL header!\n", "");
                assert_eq!(comparable(&ours.stdout), theirs);
                // Only eGON of the three has a magic, and then only for ARM, by which the oracle finds it again.
                if arguments[1] == "sunxi_egon" && !arguments.contains(&"riscv") {
                    let ours = succeed(hearth_mkimage(dir).args(["-l", "theirs"]));
                    assert_eq!(comparable(&ours.stdout), theirs);
                    let theirs = succeed(debian_mkimage(dir).args(["-l", "theirs"]));
                    assert_eq!(comparable(&ours.stdout), comparable(&theirs.stdout));
                }
            }
        }
    });
}

#[test]
fn a_byte_swapped_omap_image_is_byte_identical() {
    in_two(|dir, half| {
        // The oracle reads behind the end of an image that fills its last page, and may crash.
        for len in [4, 8, 1000, 70_000].iter().skip(half).step_by(2) {
            let data: Vec<u8> = (0..*len).map(|at: u32| (at * 7) as u8).collect();
            fs::write(dir.join("words"), data).unwrap();
            compare(
                dir,
                &[
                    "-T",
                    "omapimage",
                    "-a",
                    "402f0400",
                    "-n",
                    "byteswap",
                    "-d",
                    "words",
                ],
            );
        }
    });
}

#[test]
fn two_thousand_random_command_lines_give_the_same_bytes() {
    const LINES: u64 = 2000;
    let seed = env::var("HEARTH_TEST_SEED").map_or(1, |seed| seed.parse().unwrap());
    in_two(|dir, half| {
        for number in (half as u64..LINES).step_by(2) {
            let made = line(&mut Random::new(seed * LINES + number));
            let what = format!("line {number} of seed {seed}: {:?}", made.arguments);
            let ours = run(hearth_mkimage(dir).args(with_image(&made, "ours")));
            let theirs = run(debian_mkimage(dir).args(with_image(&made, "theirs")));
            assert!(
                theirs.status.success(),
                "{what}: the oracle fails: {theirs:?}"
            );
            assert!(ours.status.success(), "{what}: hearth fails: {ours:?}");
            assert_same(dir, &what);
            if made.printed && !theirs.stdout.starts_with(b"WARNING") {
                assert_eq!(
                    comparable(&ours.stdout),
                    comparable(&theirs.stdout),
                    "{what}"
                );
            }
            for image in ["ours", "theirs"] {
                fs::remove_file(dir.join(image)).unwrap();
            }
        }
    });
}

fn with_image(line: &Line, image: &str) -> Vec<std::ffi::OsString> {
    let mut arguments = line.arguments.clone();
    arguments.insert(line.image_at, image.into());
    arguments
}

#[test]
fn a_ramdisk_has_the_digest_that_it_always_had() {
    let dir = scratch();
    fs::write(dir.path().join("initrd"), "not really an initrd").unwrap();
    let arguments = [
        "-A", "arm", "-O", "linux", "-T", "ramdisk", "-C", "gzip", "-a", "40800000", "-n", "small",
        "-d", "initrd",
    ];
    compare(dir.path(), &arguments);
    let image = fs::read(dir.path().join("ours")).unwrap();
    assert_eq!(
        common::sha256(&image),
        "4bef549e1e72ad46baf4850459f4973db4cfcd05a441f9e8fdf236e8bed355b6"
    );
}

#[test]
fn a_script_has_the_digest_that_it_always_had() {
    let dir = scratch();
    fs::write(dir.path().join("boot.cmd"), "echo hello\n").unwrap();
    let arguments = [
        "-A", "arm", "-O", "linux", "-T", "script", "-C", "none", "-n", "boot", "-d", "boot.cmd",
    ];
    compare(dir.path(), &arguments);
    let image = fs::read(dir.path().join("ours")).unwrap();
    assert_eq!(
        hex::encode(Sha256::digest(&image)),
        "15ed0b61453108fc60fee32f18903a3915359786a024f8a538d87fef9a9f5c74"
    );
    // What the library makes in memory is the same.
    let wrapped =
        hearth::uboot::script::wrap(b"echo hello\n", ImageArch::ARM, "boot", 1_700_000_000)
            .unwrap();
    assert_eq!(wrapped, image);
}

#[test]
fn a_device_tree_in_a_legacy_image_has_type_8_which_the_oracle_reads() {
    let dir = scratch();
    fs::write(dir.path().join("dtb"), "not really").unwrap();
    let arguments = [
        "-A",
        "arm",
        "-C",
        "none",
        "-T",
        "fdt_legacy",
        "-d",
        "dtb",
        "image",
    ];
    succeed(hearth_mkimage(dir.path()).args(arguments));
    assert_eq!(fs::read(dir.path().join("image")).unwrap()[30], 8);
    let listed = succeed(debian_mkimage(dir.path()).args(["-l", "image"]));
    assert!(
        String::from_utf8_lossy(&listed.stdout)
            .contains("ARM Linux Flat Device Tree (uncompressed)")
    );
}

#[test]
fn without_a_date_epoch_the_time_is_now() {
    let dir = scratch();
    fs::write(dir.path().join("data"), "x").unwrap();
    let seconds = || {
        std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs()
    };
    let before = seconds();
    succeed(
        hearth_mkimage(dir.path())
            .env_remove("SOURCE_DATE_EPOCH")
            .args(["-d", "data", "image"]),
    );
    let image = fs::read(dir.path().join("image")).unwrap();
    let time = u64::from(u32::from_be_bytes(*image[8..].first_chunk().unwrap()));
    assert!((before..=seconds()).contains(&time));
}

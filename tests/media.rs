//! SD images and flashing, against fdisk, gdisk, dosfstools, mtools and bmaptool.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use common::{fail, hearth, oracle, run, succeed};
use hearth::recipe::{BoardType, Place, Table, board_types};
use tempfile::TempDir;

/// A build's output with stand-ins for the bootloaders of every board type, each of a likely size.
fn stand_in_build() -> TempDir {
    let build = tempfile::tempdir().unwrap();
    for (name, board_type) in board_types().unwrap() {
        for blob in board_type.bootloader.iter().flat_map(|b| &b.blobs) {
            let path = match (&blob.file, &blob.device_tree) {
                (Some(file), _) => build.path().join("bootloader").join(&name).join(file),
                (_, Some(tree)) => build.path().join("dtb").join(tree),
                _ => continue,
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let size = if path.ends_with("start.elf") {
                3_000_000
            } else {
                500_001
            };
            let text = format!("{} ", path.display()).into_bytes();
            fs::write(
                path,
                text.iter().cycle().take(size).copied().collect::<Vec<u8>>(),
            )
            .unwrap();
        }
    }
    build
}

/// A directory without a lab file of its own, and a build.
struct Bench {
    dir: TempDir,
    build: TempDir,
}

impl Bench {
    fn new() -> Self {
        Bench {
            dir: tempfile::tempdir().unwrap(),
            build: stand_in_build(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn hearth(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = hearth();
        command
            .current_dir(self.dir.path())
            .env_remove("HEARTH_LAB");
        let (name, rest) = arguments.split_first().unwrap();
        command
            .arg(name)
            .arg("--from")
            .arg(self.build.path())
            .args(rest);
        command
    }

    /// The image of a board, and where its FAT is.
    fn image(&self, board: &str, more: &[&str]) -> PathBuf {
        let output = self.path(&format!("{board}.img"));
        succeed(self.hearth(&["media", board, "-o"]).arg(&output).args(more));
        output
    }

    /// The FAT of an image as a file of its own.
    fn fat(&self, image: &Path, board_type: &BoardType) -> PathBuf {
        let media = &board_type.media;
        let start = if media.table == Table::None {
            0
        } else {
            media.fat_offset
        } as usize;
        let bytes = fs::read(image).unwrap();
        let fat = image.with_extension("fat");
        fs::write(&fat, &bytes[start..start + media.fat_size as usize]).unwrap();
        fat
    }
}

/// What sfdisk reads out of an image.
fn sfdisk(image: &Path) -> serde_json::Value {
    let output = succeed(oracle("sfdisk").arg("--json").arg(image));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_board_types_image_satisfies_fdisk_dosfsck_and_mtools() {
    let bench = Bench::new();
    for (name, board_type) in board_types().unwrap() {
        let image = bench.image(&name, &[]);
        let media = &board_type.media;
        let table = &sfdisk(&image)["partitiontable"];
        assert_eq!(table["label"], "dos", "{name}");
        let partition = &table["partitions"][0];
        assert_eq!(partition["start"], media.fat_offset / 512, "{name}");
        assert_eq!(partition["size"], media.fat_size / 512, "{name}");
        assert_eq!(
            partition["type"], "e",
            "{name}: FAT16, addressed by sectors"
        );
        assert_eq!(partition["bootable"], true, "{name}");
        succeed(oracle("sfdisk").arg("--verify").arg(&image));

        let fat = bench.fat(&image, &board_type);
        let checked = succeed(oracle("dosfsck").args(["-n", "-v"]).arg(&fat));
        let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.contains("16 bit entries"), "{name}: {checked}");
        let hidden = format!("{} hidden sectors", media.fat_offset / 512);
        assert!(checked.contains(&hidden), "{name}: {checked}");
        let script = succeed(oracle("mtype").arg("-i").arg(&fat).arg("::boot.scr")).stdout;
        let script = String::from_utf8_lossy(&script).into_owned();
        assert!(
            script.contains(&format!("setenv hearth_board {name}\n")),
            "{name}: {script}"
        );
        places_hold_their_blobs(&bench, &name, &board_type, &image, &fat);
    }
}

/// Each blob is where the ROM looks for it, byte for byte.
fn places_hold_their_blobs(
    bench: &Bench,
    name: &str,
    board_type: &BoardType,
    image: &Path,
    fat: &Path,
) {
    let card = fs::read(image).unwrap();
    for blob in board_type.bootloader.iter().flat_map(|b| &b.blobs) {
        let expected = match (&blob.file, &blob.device_tree, &blob.content) {
            (Some(file), _, _) => {
                fs::read(bench.build.path().join("bootloader").join(name).join(file)).unwrap()
            }
            (_, Some(tree), _) => fs::read(bench.build.path().join("dtb").join(tree)).unwrap(),
            (_, _, text) => text.clone().unwrap().into_bytes(),
        };
        match &blob.place {
            Place::Offset(offset) => {
                let at = *offset as usize;
                assert!(
                    card[at..at + expected.len()] == expected,
                    "{name}: {blob:?}"
                );
            }
            Place::Fat(path) => {
                let there = succeed(oracle("mtype").arg("-i").arg(fat).arg(format!("::{path}")));
                assert!(there.stdout == expected, "{name}: {blob:?}");
            }
            Place::Firmware => {}
        }
    }
}

#[test]
fn mlo_is_the_first_entry_of_the_root_directory_and_in_one_piece() {
    let bench = Bench::new();
    let types = board_types().unwrap();
    for name in ["beaglebone-black", "pandaboard"] {
        let image = bench.image(name, &[]);
        let fat = bench.fat(&image, &types[name]);
        let bytes = fs::read(&fat).unwrap();
        let field = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let root = (field(14) + 2 * field(22)) * 512;
        assert_eq!(&bytes[root..root + 11], b"MLO        ", "{name}");
        for file in ["::MLO", "::u-boot.img"] {
            let clusters = succeed(oracle("mshowfat").arg("-i").arg(&fat).arg(file)).stdout;
            let clusters = String::from_utf8_lossy(&clusters).into_owned();
            assert_eq!(
                clusters.matches('<').count(),
                1,
                "{name} {file}: {clusters}"
            );
        }
    }
}

#[test]
fn the_same_board_gives_the_same_bytes_and_another_board_its_own_ids() {
    let bench = Bench::new();
    fs::write(
        bench.path("lab.toml"),
        "[lab]\nname = 'desk'\naddress = '192.168.7.1'\n\
         [[board]]\nname = 'neo1'\ntype = 'nanopi-neo'\n\
         [[board]]\nname = 'neo2'\ntype = 'nanopi-neo'\n",
    )
    .unwrap();
    let image = |board: &str, zone: &str| {
        let output = bench.path("card.img");
        succeed(
            bench
                .hearth(&["media", board, "-o"])
                .arg(&output)
                .env("TZ", zone),
        );
        (
            fs::read(&output).unwrap(),
            fs::read(bench.path("card.img.bmap")).unwrap(),
        )
    };
    let first = image("neo1", "UTC");
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(first == image("neo1", "Asia/Tokyo"));
    let second = image("neo2", "UTC");
    assert_ne!(first.0[440..444], second.0[440..444], "the disk signatures");
    let text = String::from_utf8_lossy(&second.0).into_owned();
    assert!(text.contains("setenv hearth_board neo2"));
    assert!(text.contains("setenv -f ethaddr"));
}

#[test]
fn the_image_is_sparse_and_bmaptool_copies_it_by_its_map() {
    let bench = Bench::new();
    let image = bench.image(
        "nanopi-neo",
        &["--card-size", "64M", "--test-partition", "rest"],
    );
    assert_eq!(fs::metadata(&image).unwrap().len(), 64 << 20);
    use std::os::unix::fs::MetadataExt;
    assert!(fs::metadata(&image).unwrap().blocks() * 512 < 2 << 20);
    let copy = bench.path("copy");
    // What is not mapped stays as it was.
    fs::write(&copy, vec![0xa5; 64 << 20]).unwrap();
    let copied = succeed(
        oracle("bmaptool")
            .args(["copy", "--nobmap"])
            .arg(&image)
            .arg(bench.path("all")),
    );
    drop(copied);
    assert!(fs::read(bench.path("all")).unwrap() == fs::read(&image).unwrap());
    succeed(oracle("bmaptool").arg("copy").arg(&image).arg(&copy));
    assert!(same_where_mapped(&image, &copy));
    let partitions = &sfdisk(&image)["partitiontable"]["partitions"];
    assert_eq!(partitions[1]["type"], "83");
    assert_eq!(partitions[1]["start"].as_u64().unwrap() * 512, 8 << 20);
    assert_eq!(partitions[1]["size"].as_u64().unwrap() * 512, 56 << 20);

    // A map that does not fit its image is noticed by the oracle: the checksums are real.
    let mut damaged = fs::read(&image).unwrap();
    damaged[8192] ^= 1;
    fs::write(&image, damaged).unwrap();
    let refused = run(oracle("bmaptool").arg("copy").arg(&image).arg(&copy));
    assert!(!refused.status.success());
}

/// Compares the blocks that the map lists, as another program wrote them.
fn same_where_mapped(image: &Path, copy: &Path) -> bool {
    let map = fs::read_to_string(format!("{}.bmap", image.display())).unwrap();
    let (image, copy) = (fs::read(image).unwrap(), fs::read(copy).unwrap());
    let mut ranges = 0;
    for line in map.lines().filter(|line| line.contains("<Range")) {
        let range = line.split(['>', '<']).nth(2).unwrap().trim();
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let block = |number: &str| number.parse::<usize>().unwrap() * 4096;
        let bytes = block(first)..block(last) + 4096;
        assert!(image[bytes.clone()] == copy[bytes], "{range}");
        ranges += 1;
    }
    ranges > 2
}

/// A board type of one's own, beside the shipped ones.
fn own_board_type(bench: &Bench, media: &str, offset: u64) -> BTreeMap<&'static str, PathBuf> {
    let boards = bench.path("recipes/boards");
    fs::create_dir_all(&boards).unwrap();
    let text = format!(
        "description = 'mine'\narch = 'armhf'\nconsole = 'ttyS0,115200'\nimage = 'zImage'\n\
         [bootloader]\npackages = ['u-boot-sunxi']\n\
         [[bootloader.blob]]\nfile = 'spl'\nplace = {{ offset = {offset} }}\n[media]\n{media}\n"
    );
    fs::write(boards.join("mine.toml"), text).unwrap();
    let blobs = bench.build.path().join("bootloader/mine");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join("spl"), vec![0x5a; 600_000]).unwrap();
    BTreeMap::from([("type", boards.join("mine.toml"))])
}

#[test]
fn a_gpt_satisfies_gdisk_and_sfdisk() {
    let bench = Bench::new();
    own_board_type(&bench, "table = 'gpt'", 131_072);
    for more in [
        &["--test-partition", "16M"][..],
        &["--card-size", "100M", "--test-partition", "rest"],
    ] {
        let image = bench.image("mine", more);
        let checked = succeed(oracle("sgdisk").arg("--verify").arg(&image));
        let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(checked.contains("No problems found"), "{checked}");
        succeed(oracle("sfdisk").arg("--verify").arg(&image));
        let table = &sfdisk(&image)["partitiontable"];
        assert_eq!(table["label"], "gpt");
        assert_eq!(table["partitions"][0]["name"], "hearth-boot");
        assert_eq!(table["partitions"][0]["attrs"], "LegacyBIOSBootable");
        assert_eq!(table["partitions"][1]["name"], "hearth-test");
        let board_type = BoardType::parse(
            Path::new("mine.toml"),
            &fs::read_to_string(bench.path("recipes/boards/mine.toml")).unwrap(),
        )
        .unwrap();
        succeed(
            oracle("dosfsck")
                .arg("-n")
                .arg(bench.fat(&image, &board_type)),
        );
    }
}

#[test]
fn parts_that_collide_or_do_not_fit_are_refused_by_name() {
    let bench = Bench::new();
    let image = bench.path("card.img");
    let media = |table: &str, offset, more: &[&str], says: &str| {
        own_board_type(&bench, table, offset);
        let told = fail(
            bench
                .hearth(&["media", "mine", "-o"])
                .arg(&image)
                .args(more),
            2,
            says,
        );
        assert!(!image.exists());
        String::from_utf8_lossy(&told.stderr).into_owned()
    };
    let told = media(
        "table = 'gpt'",
        8192,
        &[],
        "overlaps the GPT partition table",
    );
    assert!(told.contains("131072"), "{told}");
    media("table = 'mbr'", 4_000_000, &[], "overlaps");
    media("fat-size = 33554432", 8192, &[], "more than 8.0 MiB");
    media(
        "table = 'mbr'",
        8192,
        &["--test-partition", "rest"],
        "how large the card is",
    );
    media(
        "table = 'mbr'",
        8192,
        &["--card-size", "4M"],
        "the card has only 4.0 MiB",
    );
    media(
        "table = 'mbr'",
        8192,
        &["--test-partition", "7x"],
        "not a size",
    );
    own_board_type(&bench, "table = 'mbr'", 8192);
    fs::remove_file(bench.build.path().join("bootloader/mine/spl")).unwrap();
    fail(
        bench.hearth(&["media", "mine", "-o"]).arg(&image),
        2,
        "cannot read the bootloader's",
    );
    let lab = "[lab]\nname = 'desk'\naddress = '10.0.0.1'\n[[board]]\nname = 'neo1'\ntype = 'nanopi-neo'\n";
    fs::write(bench.path("lab.toml"), lab).unwrap();
    fail(
        hearth()
            .current_dir(bench.dir.path())
            .env_remove("HEARTH_LAB")
            .args(["media", "neo1"]),
        2,
        "needs a bootloader",
    );
}

#[test]
fn a_card_that_needs_a_build_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = hearth();
    command.args(["media", "raspberrypi-3", "--recipe", "trixie-arm64"]);
    let output = fail(
        command
            .current_dir(directory.path())
            .env_remove("HEARTH_LAB"),
        2,
        "which only a build has",
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("hearth build trixie-arm64"), "{said}");
}

#[test]
fn a_card_is_flashed_compared_and_updated() {
    let bench = Bench::new();
    let card = bench.path("card");
    fs::write(&card, vec![0xa5; 40 << 20]).unwrap();
    let flash = |more: &[&str]| {
        let mut command = bench.hearth(&["flash", "nanopi-neo"]);
        command.arg(&card).args(more);
        command
    };
    fail(&mut flash(&["--yes"]), 2, "is a file, not a disk");
    fail(&mut flash(&["--yes", "--force"]), 2, "give --force twice");
    fail(
        flash(&["-ff"]).stdin(std::process::Stdio::null()),
        2,
        "--yes",
    );
    assert!(fs::read(&card).unwrap().iter().all(|&byte| byte == 0xa5));
    fail(
        &mut flash(&["-ff", "--yes", "--update"]),
        2,
        "was not written for this board type",
    );

    let told = succeed(&mut flash(&["-ff", "--yes", "--test-partition", "rest"]));
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(
        told.contains("40.0 MiB") && told.contains("the card holds the image"),
        "{told}"
    );
    let image = bench.image(
        "nanopi-neo",
        &["--card-size", "40M", "--test-partition", "rest"],
    );
    assert!(same_where_mapped(&image, &card));
    let flashed = fs::read(&card).unwrap();
    assert_eq!(flashed[20 << 20], 0xa5, "the test partition is left alone");

    // What the tests wrote and what else is on the card outlives an update.
    let mut used = flashed.clone();
    used[20 << 20] = 1;
    used[(4 << 20) + 30_000] ^= 0xff;
    fs::write(&card, &used).unwrap();
    succeed(&mut flash(&["-ff", "--yes", "--update"]));
    used[(4 << 20) + 30_000] ^= 0xff;
    assert!(fs::read(&card).unwrap() == used);
}

#[test]
fn a_card_too_small_stays_untouched() {
    let bench = Bench::new();
    let card = bench.path("card");
    fs::write(&card, vec![0xa5; 5 << 20]).unwrap();
    let mut flash = bench.hearth(&["flash", "nanopi-neo"]);
    fail(
        flash.arg(&card).args(["-ff", "--yes"]),
        2,
        "the card has only 5.0 MiB",
    );
    assert!(fs::read(&card).unwrap().iter().all(|&byte| byte == 0xa5));
}

#[test]
fn a_full_disk_leaves_no_image_behind() {
    let bench = Bench::new();
    let script = format!(
        "mount -t tmpfs -o size=300k none /mnt && cd {dir} && \
         {hearth} media nanopi-neo --from {build} -o /mnt/card.img; code=$?; ls -A /mnt; exit $code",
        dir = bench.dir.path().display(),
        hearth = env!("CARGO_BIN_EXE_hearth"),
        build = bench.build.path().display(),
    );
    let mut command = oracle("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
    let output = fail(
        command.env_remove("HEARTH_LAB"),
        3,
        "No space left on device",
    );
    assert!(output.stdout.is_empty(), "{output:?}");
}

//! What hearth refuses, how it says so, and that nothing is left or lost then. Needs unshare (util-linux).

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::{EPOCH, hearth_mkimage, scratch};
use common::{fail, hearth, oracle, succeed};

/// How long a test waits for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asserts that a command line is refused with this exit code and sentence, and that an image that was there before
/// is left alone and nothing else appears.
fn refused(arguments: &[&str], code: i32, says: &str) {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("data"), "some data\n").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("image"), "the old image").unwrap();
    fs::create_dir(at("dir")).unwrap();
    fail(hearth_mkimage(dir.path()).args(arguments), code, says);
    assert_eq!(fs::read(at("image")).unwrap(), b"the old image");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4);
    assert_eq!(fs::read_dir(at("dir")).unwrap().count(), 0);
}

#[test]
fn missing_or_empty_data_and_directories_are_refused() {
    refused(&["image"], 2, "there is no data to wrap");
    refused(
        &["-d", "nowhere", "image"],
        2,
        "cannot read nowhere: No such file",
    );
    refused(&["-d", "empty", "image"], 2, "empty is empty");
    refused(
        &["-T", "script", "-d", "empty", "image"],
        2,
        "empty is empty",
    );
    refused(
        &["-T", "multi", "-d", "data:empty", "image"],
        2,
        "empty is empty",
    );
    refused(
        &["-T", "multi", "-d", "data:nowhere", "image"],
        2,
        "cannot read nowhere",
    );
    refused(
        &["-T", "multi", "-d", "data:", "image"],
        2,
        "names a file without a name",
    );
    refused(&["-T", "multi", "image"], 2, "there is no data to wrap");
    refused(&["-d", "dir", "image"], 2, "dir is a directory");
    refused(
        &["-d", "/dev/zero", "image"],
        2,
        "/dev/zero is a device without an end",
    );
    refused(&["-d", "data:data", "image"], 2, "cannot read data:data");
}

#[test]
fn an_image_that_cannot_be_written_is_refused() {
    refused(&["-d", "data", "dir"], 2, "dir is a directory");
    refused(
        &["-d", "data", "nowhere/image"],
        2,
        "cannot write nowhere/image",
    );
    refused(&["-d", "data"], 2, "IMAGE");
    refused(&["-T", "kernel", "-d", "data"], 2, "no image is named");
    refused(
        &["-d", "data", "image", "another"],
        2,
        "unexpected argument 'another'",
    );
}

#[test]
fn addresses_that_are_no_numbers_or_beyond_32_bits_are_refused() {
    for (flag, what) in [("-a", "load address"), ("-e", "entry point")] {
        for wide in [
            "100000000",
            "0x1_0000".trim_end_matches("_0000"),
            "ffffffff80008000",
        ] {
            if wide.len() > 8 {
                refused(
                    &[flag, wide, "-d", "data", "image"],
                    2,
                    &format!("the {what} {wide} does not fit"),
                );
            }
        }
        for wrong in ["", "0x", "-1", "80008000h", " 8000", "0x0x1"] {
            refused(
                &[flag, wrong, "-d", "data", "image"],
                2,
                &format!("the {what} {wrong:?} is no hexadecimal"),
            );
        }
    }
    refused(
        &["-x", "-a", "fffffff0", "-d", "data", "image"],
        2,
        "the entry point, 64 bytes after the load address fffffff0, does not fit",
    );
}

#[test]
fn unknown_names_get_a_suggestion_and_unwritten_types_a_way_out() {
    refused(
        &["-A", "amr", "-d", "data", "image"],
        2,
        "\"amr\" is no architecture: did you mean arm?",
    );
    refused(
        &["-O", "linus", "-d", "data", "image"],
        2,
        "did you mean linux?",
    );
    refused(
        &["-C", "xz", "-d", "data", "image"],
        2,
        "\"xz\" is no compression",
    );
    refused(
        &["-T", "ramdsk", "-d", "data", "image"],
        2,
        "did you mean ramdisk?",
    );
    refused(
        &["-T", "flat_dt", "-d", "data", "image"],
        2,
        "-T fdt_legacy",
    );
    refused(
        &["-T", "rksd", "-d", "data", "image"],
        2,
        "hearth writes no image of type rksd",
    );
    refused(
        &["-T", "invalid", "-d", "data", "image"],
        2,
        "hearth writes no image of type invalid",
    );
}

#[test]
fn what_the_oracle_would_write_corrupt_is_refused() {
    refused(
        &["-x", "-T", "multi", "-d", "data", "image"],
        2,
        "type multi cannot be executed in place",
    );
    refused(
        &["-x", "-T", "firmware_ivt", "-d", "data", "image"],
        2,
        "cannot be executed in place",
    );
    refused(
        &["-x", "-T", "gpimage", "-a", "1", "-d", "data", "image"],
        2,
        "cannot be executed in place",
    );
    refused(
        &["-x", "-d", "data", "image"],
        2,
        "data leaves no room for the header",
    );
    refused(
        &["-s", "-T", "gpimage", "-a", "1", "image"],
        2,
        "cannot be without data",
    );
    refused(
        &["-T", "gpimage", "-d", "data", "image"],
        2,
        "needs a load address",
    );
    refused(
        &["-T", "omapimage", "-d", "data", "image"],
        2,
        "needs a load address",
    );
    refused(
        &[
            "-T",
            "omapimage",
            "-a",
            "1",
            "-n",
            "byteswap",
            "-d",
            "data",
            "image",
        ],
        2,
        "no whole number of 32-bit words",
    );
    refused(
        &["-T", "sunxi_egon", "-A", "mips", "-d", "data", "image"],
        2,
        "arm or riscv, not for mips",
    );
}

#[test]
fn a_date_epoch_that_is_no_time_is_refused() {
    let dir = scratch();
    fs::write(dir.path().join("data"), "x").unwrap();
    for wrong in ["", "abc", "-1", "4294967296"] {
        let mut command = hearth_mkimage(dir.path());
        command
            .env("SOURCE_DATE_EPOCH", wrong)
            .args(["-d", "data", "image"]);
        fail(&mut command, 2, "SOURCE_DATE_EPOCH is");
    }
    assert!(!dir.path().join("image").exists());
}

#[test]
fn a_long_name_is_cut_with_a_warning() {
    let dir = scratch();
    fs::write(dir.path().join("data"), "x").unwrap();
    let name = "a name that is longer than thirty-two bytes";
    let output = succeed(hearth_mkimage(dir.path()).args(["-n", name, "-d", "data", "image"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("warning: the name") && said.contains("is cut to 32 bytes"),
        "{said}"
    );
}

#[test]
fn data_of_4_gib_is_refused() {
    let dir = scratch();
    File::create(dir.path().join("data"))
        .unwrap()
        .set_len(1 << 32)
        .unwrap();
    fail(
        hearth_mkimage(dir.path()).args(["-d", "data", "image"]),
        2,
        "data is too large",
    );
    assert!(!dir.path().join("image").exists());
}

/// Runs a shell script in an empty file system of 256 KiB.
fn on_a_small_disk(script: &str) -> Command {
    let mut unshare = oracle("unshare");
    unshare
        .args(["--user", "--map-root-user", "--mount", "sh", "-euc"])
        .arg(format!(
            "dir=$(mktemp -d)\ntrap 'cd /; umount \"$dir\"; rmdir \"$dir\"' EXIT\n\
             mount -t tmpfs -o size=256k tmpfs \"$dir\"\ncd \"$dir\"\n{script}"
        ))
        .env("hearth", hearth().get_program())
        .env("SOURCE_DATE_EPOCH", EPOCH);
    unshare
}

#[test]
fn a_full_disk_is_the_hosts_fault_and_leaves_the_old_image() {
    let script = "head -c 150000 /dev/zero >data\necho old >image\n\
                  status=0\n\"$hearth\" mkimage -d data image || status=$?\n\
                  [ \"$(cat image)\" = old ] || exit 90\n[ \"$(ls -A)\" = \"data\nimage\" ] || exit 91\n\
                  exit $status";
    let output = fail(&mut on_a_small_disk(script), 3, "cannot write image");
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left on device"));
}

#[test]
fn a_full_disk_stops_extraction_without_a_trace() {
    let script = "head -c 150000 /dev/zero >data\n\"$hearth\" mkimage -q -d data /dev/stdout >../$$.image\n\
                  echo old >out\nstatus=0\n\
                  \"$hearth\" image extract - -o out <../$$.image || status=$?\nrm ../$$.image\n\
                  [ \"$(cat out)\" = old ] || exit 90\n[ \"$(ls -A)\" = \"data\nout\" ] || exit 91\n\
                  exit $status";
    fail(&mut on_a_small_disk(script), 3, "cannot write out");
}

/// hearth in the middle of wrapping what comes out of a pipe, of which it has read a part.
fn interrupted(dir: &Path, end: impl FnOnce(Pid)) {
    mkfifo(&dir.join("pipe"), Mode::from_bits_truncate(0o600)).unwrap();
    fs::write(dir.join("image"), "the old image").unwrap();
    let mut wrapping = hearth_mkimage(dir)
        .args(["-d", "pipe", "image"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut pipe = File::options().write(true).open(dir.join("pipe")).unwrap();
    pipe.write_all(&[7; 2 << 20]).unwrap();
    end(Pid::from_raw(wrapping.id() as i32));
    let begun = Instant::now();
    while wrapping.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "hearth does not end");
        thread::sleep(Duration::from_millis(5));
    }
    drop(pipe);
    assert_eq!(fs::read(dir.join("image")).unwrap(), b"the old image");
    let mut left: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["image", "pipe"]);
}

#[test]
fn interrupting_or_killing_hearth_leaves_the_old_image_and_nothing_else() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let dir = scratch();
        interrupted(dir.path(), |hearth| kill(hearth, signal).unwrap());
    }
}

#[test]
fn wrapping_takes_little_memory_however_long_the_data() {
    let dir = scratch();
    interrupted(dir.path(), |hearth| {
        let mut pipe = File::options()
            .write(true)
            .open(dir.path().join("pipe"))
            .unwrap();
        for _ in 0..48 {
            pipe.write_all(&[7; 1 << 20]).unwrap();
        }
        let status = fs::read_to_string(format!("/proc/{hearth}/status")).unwrap();
        // What it allocates. Pages of the program itself are many in a debug build, which the bench does not measure.
        let allocated = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .unwrap();
        let kib: u64 = allocated.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kib < 16 << 10, "{kib} KiB allocated for 50 MiB of data");
        kill(hearth, Signal::SIGKILL).unwrap();
    });
}

//! Makes random command lines that mkimage accepts and hearth must take likewise.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use hearth::uboot::{Comp, ImageArch, Os};

/// A small generator of random numbers (xorshift64*), so that a failing line can be made again from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Files of data that every line may name, and their contents.
pub fn data_files() -> Vec<(&'static str, Vec<u8>)> {
    let mut random = Random::new(7);
    let mut bytes = |len: usize| (0..len).map(|_| random.next() as u8).collect::<Vec<u8>>();
    vec![
        ("one", b"x".to_vec()),
        ("text", b"echo hello\n".to_vec()),
        ("odd", bytes(1001)),
        ("page", bytes(4096)),
        ("page-64", bytes(4032)),
        ("large", bytes(70_001)),
        ("name with spaces", bytes(6)),
        ("optee", [b"OPTE".to_vec(), bytes(500)].concat()),
        ("xip", [vec![0xff; 64], bytes(333)].concat()),
        ("xip-only", vec![0xff; 64]),
    ]
}

const PLAIN: [&str; 8] = [
    "one",
    "text",
    "odd",
    "page",
    "page-64",
    "large",
    "name with spaces",
    "optee",
];

/// A line: the arguments but for the image's name, and where among them the name goes.
pub struct Line {
    pub arguments: Vec<OsString>,
    pub image_at: usize,
    /// Whether what is printed can be compared: the name is plain, and nobody asked for quiet, to which the oracle
    /// pays no heed.
    pub printed: bool,
}

/// Flags, and how many arguments each makes.
#[derive(Default)]
struct Builder {
    groups: Vec<Vec<OsString>>,
}

impl Builder {
    fn switch(&mut self, random: &mut Random, short: &str, long: &str) {
        let flag = if random.chance(70) { short } else { long };
        self.groups.push(vec![flag.into()]);
    }

    /// `-f VALUE`, `-fVALUE`, `--flag VALUE` or `--flag=VALUE`.
    fn option(&mut self, random: &mut Random, short: &str, long: &str, value: &OsStr) {
        let joined = |left: &str, middle: &str| {
            let mut bytes = [left.as_bytes(), middle.as_bytes()].concat();
            bytes.extend_from_slice(value.as_bytes());
            OsString::from_vec(bytes)
        };
        // getopt takes a `=` after a short option for a part of the value; and nothing can follow it directly.
        let attachable = !value.is_empty() && !value.as_bytes().starts_with(b"=");
        self.groups.push(match random.below(4) {
            0 if attachable => vec![joined(short, "")],
            1 => vec![long.into(), value.into()],
            2 => vec![joined(long, "=")],
            _ => vec![short.into(), value.into()],
        });
    }
}

pub fn line(random: &mut Random) -> Line {
    let mut builder = Builder::default();
    let kind = random.choose(&[
        "",
        "standalone",
        "kernel",
        "ramdisk",
        "multi",
        "firmware",
        "script",
        "filesystem",
        "kernel_noload",
        "firmware_ivt",
        "omapimage",
        "gpimage",
        "sunxi_egon",
        "multi",
        "script",
        "kernel",
        "ramdisk",
    ]);
    let vendor = ["omapimage", "gpimage", "sunxi_egon"].contains(&kind);
    let table = ["multi", "script"].contains(&kind);
    if !kind.is_empty() {
        let written = any_case(random, kind);
        builder.option(random, "-T", "--type", OsStr::new(&written));
    }
    name_ids(random, &mut builder, kind);
    let xip = !vendor && !table && kind != "firmware_ivt" && random.chance(15);
    if xip {
        builder.switch(random, "-x", "--xip");
    }
    let load = if vendor || random.chance(70) {
        // So that the entry point behind an XIP header fits, and no boot ROM gets 0.
        let value = random.next() as u32 | 1;
        Some(if xip || kind == "firmware_ivt" {
            value & 0x7fff_ffff
        } else {
            value
        })
    } else {
        None
    };
    for (given, short, long) in [
        (load, "-a", "--load-address"),
        (None, "-e", "--entry-point"),
    ] {
        let value =
            given.or_else(|| (short == "-e" && random.chance(40)).then(|| random.next() as u32));
        if let Some(value) = value {
            let written = hexadecimal(random, value);
            builder.option(random, short, long, OsStr::new(&written));
        }
    }
    let printable = name(random, &mut builder, kind);
    let data = data(random, table, xip);
    if !vendor && random.chance(8) {
        builder.switch(random, "-s", "--no-copy");
    }
    let quiet = random.chance(20);
    if quiet {
        builder.switch(random, "-q", "--quiet");
    }
    builder.option(random, "-d", "--image", OsStr::new(&data));
    arrange(random, builder, printable && !quiet)
}

fn name_ids(random: &mut Random, builder: &mut Builder, kind: &str) {
    let times = |random: &mut Random| {
        if random.chance(10) {
            2
        } else {
            random.below(2)
        }
    };
    for _ in 0..times(random) {
        // Newer than Debian 12's mkimage: elf.
        let known: Vec<_> = Os::ALL
            .iter()
            .filter(|entry| entry.id != Os::ELF)
            .map(|entry| entry.name)
            .collect();
        let os = random.choose(&known);
        let written = any_case(random, os);
        builder.option(random, "-O", "--os", OsStr::new(&written));
    }
    for _ in 0..times(random) {
        let known: Vec<_> = ImageArch::ALL.iter().map(|entry| entry.name).collect();
        let arch = if kind == "sunxi_egon" {
            random.choose(&["arm", "riscv"])
        } else {
            random.choose(&known)
        };
        let written = any_case(random, arch);
        builder.option(random, "-A", "--architecture", OsStr::new(&written));
    }
    for _ in 0..times(random) {
        let known: Vec<_> = Comp::ALL.iter().map(|entry| entry.name).collect();
        let comp = random.choose(&known);
        let written = any_case(random, comp);
        builder.option(random, "-C", "--compression", OsStr::new(&written));
    }
}

fn any_case(random: &mut Random, name: &str) -> String {
    match random.below(4) {
        0 => name.to_uppercase(),
        1 => name
            .chars()
            .map(|c| {
                if random.chance(50) {
                    c.to_ascii_uppercase()
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_string(),
    }
}

fn hexadecimal(random: &mut Random, value: u32) -> String {
    match random.below(5) {
        0 => format!("0x{value:x}"),
        1 => format!("0X{value:X}"),
        2 => format!("{value:08X}"),
        3 => format!("0000{value:08x}"),
        _ => format!("{value:x}"),
    }
}

/// Gives whether the name can be printed as it is.
fn name(random: &mut Random, builder: &mut Builder, kind: &str) -> bool {
    if random.chance(25) {
        return true;
    }
    let printable = random.chance(70);
    let len = random.choose(&[0, 1, 5, 31, 32, 33, 45, 51, 52, 60]);
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            let byte = random.next() as u8;
            match printable {
                true => b' ' + byte % 95,
                false => byte.max(1),
            }
        })
        .collect();
    // A word by which the oracle turns an image around; that is a test of its own.
    if kind == "omapimage" && bytes.starts_with(b"byteswap") {
        bytes.clear();
    }
    builder.option(random, "-n", "--config", OsStr::from_bytes(&bytes));
    printable
}

fn data(random: &mut Random, table: bool, xip: bool) -> String {
    if xip {
        return random.choose(&["xip", "xip-only"]).to_string();
    }
    let files = if table { 1 + random.below(5) } else { 1 };
    let names: Vec<_> = (0..files).map(|_| random.choose(&PLAIN)).collect();
    names.join(":")
}

/// Shuffles the flags, joins some switches with what follows, and finds a place for the image's name.
fn arrange(random: &mut Random, builder: Builder, printed: bool) -> Line {
    let mut groups = builder.groups;
    for index in (1..groups.len()).rev() {
        // The order of options given twice matters, but to both programs alike.
        groups.swap(index, random.below(index + 1));
    }
    let mut joined: Vec<Vec<OsString>> = Vec::new();
    for group in groups {
        let is_short = |group: &[OsString]| {
            let bytes = group[0].as_bytes();
            bytes.len() >= 2 && bytes[0] == b'-' && bytes[1] != b'-'
        };
        match joined.last_mut() {
            Some(last)
                if last.len() == 1
                    && ["-q", "-s", "-x"].iter().any(|switch| last[0] == *switch)
                    && is_short(&group)
                    && random.chance(50) =>
            {
                let mut bytes = last[0].as_bytes().to_vec();
                bytes.extend_from_slice(&group[0].as_bytes()[1..]);
                *last = group;
                last[0] = OsString::from_vec(bytes);
            }
            _ => joined.push(group),
        }
    }
    let before = random.below(joined.len() + 1);
    let image_at = if random.chance(80) {
        joined.iter().map(Vec::len).sum()
    } else {
        joined[..before].iter().map(Vec::len).sum()
    };
    Line {
        arguments: joined.concat(),
        image_at,
        printed,
    }
}

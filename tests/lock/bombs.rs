//! Signed indices and packages that expand to more than is sensible.

use std::fs;
use std::io::Read;

use hearth::archive::deb::Deb;
use nix::sys::resource::{UsageWho, getrusage};

use crate::lock;
use common::archive::Archive;
use common::{fail, oracle, succeed};

/// The most memory that a program had that this test has started, in MiB.
pub fn peak() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    usage.max_rss() / 1024
}

/// An xz file of `head` and then `count` times 16 MiB of `byte`.
fn bomb(archive: &Archive, head: &str, byte: u8, count: usize) -> Vec<u8> {
    let xz = |content: &[u8]| {
        let plain = archive.path("plain");
        fs::write(&plain, content).unwrap();
        succeed(oracle("xz").arg("-0c").arg(plain)).stdout
    };
    let block = xz(&vec![byte; 16 << 20]);
    // Streams that follow each other are one file.
    [xz(head.as_bytes()), block.repeat(count)].concat()
}

#[test]
fn a_signed_index_that_expands_without_measure_is_refused_in_bounded_memory() {
    let mut archive = Archive::new();
    archive.add("p", "1", "", 10);
    let recipe = archive.recipe(&["base"]);
    let index = archive.index();
    let line = format!("{index}\nPackage: long\nDescription: ");
    let cases = [
        // A line of 4 GiB.
        (
            bomb(&archive, &line, b'x', 256),
            None,
            "a paragraph is over",
        ),
        (bomb(&archive, &line, 0, 256), None, "a paragraph is over"),
        // 4 GiB of empty lines.
        (
            bomb(&archive, &index, b'\n', 256),
            None,
            "expands to more than",
        ),
        // More than what was signed.
        (
            bomb(&archive, &index, b'\n', 1),
            Some(index.len() as u64),
            "expands to more than",
        ),
    ];
    for (xz, plain, says) in cases {
        archive.publish_index(&xz, plain, &[]);
        let begun = std::time::Instant::now();
        fail(&mut lock(&archive, &recipe, &archive.address()), 4, says);
        eprintln!("{says}: {:?}, {} MiB", begun.elapsed(), peak());
    }
    // More packages than there are, each as small as it can be.
    let mut many = String::new();
    for number in 0..400_000 {
        many += &format!(
            "Package: p{number}\nVersion: 1\nArchitecture: armhf\nFilename: p\nSize: 1\nSHA256: {}\n\n",
            "0".repeat(64)
        );
    }
    archive.publish_index(&bomb(&archive, &many, b'\n', 0), None, &[]);
    fail(
        &mut lock(&archive, &recipe, &archive.address()),
        4,
        "packages",
    );
    assert!(peak() < 200, "{} MiB", peak());
    archive.publish_index(&bomb(&archive, &index, b'\n', 1), None, &[]);
    succeed(&mut lock(&archive, &recipe, &archive.address()));
}

/// An ar archive of these members (deb(5)).
fn deb(archive: &Archive, members: &[(&str, &[u8])]) -> std::path::PathBuf {
    let path = archive.path("bomb.deb");
    let mut builder = ar::Builder::new(fs::File::create(&path).unwrap());
    for (name, content) in [("debian-binary", &b"2.0\n"[..])].iter().chain(members) {
        let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        builder.append(&header, *content).unwrap();
    }
    path
}

/// A tar archive with one file of so many zeros, xz-compressed.
fn zeros(archive: &Archive, name: &str, size: u64) -> Vec<u8> {
    let path = archive.path("zeros.tar");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    let content = std::io::repeat(0).take(size);
    builder.append_data(&mut header, name, content).unwrap();
    builder.into_inner().unwrap();
    succeed(oracle("xz").arg("-0c").arg(path)).stdout
}

#[test]
fn a_package_whose_control_member_expands_without_measure_is_refused() {
    let archive = Archive::new();
    for name in ["control", "md5sums"] {
        let control = zeros(&archive, name, 64 << 20);
        let path = deb(&archive, &[("control.tar.xz", &control)]);
        let error = Deb::open(&path).unwrap().control().unwrap_err();
        assert!(
            format!("{error:#}").contains("expands to more than"),
            "{error:#}"
        );
    }
}

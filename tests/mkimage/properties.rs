//! What must hold for any image and any bytes. The parsers are called directly.

use std::io::Cursor;

use hearth::uboot::read::{self, Extract, ImageHeader, Report};
use hearth::uboot::uimage::{HEADER_LEN, name_field};
use hearth::uboot::{Comp, ImageArch, Input, Kind, Os, script, write};
use proptest::collection::vec;
use proptest::prelude::*;

fn inspect(bytes: &[u8], length: Option<u64>) -> anyhow::Result<Report> {
    let mut sink = Vec::new();
    let extract = Extract {
        part: Some(0),
        out: &mut sink,
    };
    // Taking a file out goes through more code, but refuses what holds none.
    let taken = read::inspect(bytes, length, Some(extract)).is_ok();
    assert!(
        !taken || sink.len() <= bytes.len(),
        "it took out more than there is"
    );
    read::inspect(bytes, length, None)
}

/// Whether the text that is read as a script's, if any is, lies in the image's data.
fn text_within(bytes: &[u8]) -> bool {
    match script::read(bytes) {
        Ok(script) => HEADER_LEN + script.text.len() <= bytes.len(),
        Err(_) => true,
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    let legacy: Vec<_> = Kind::ALL
        .iter()
        .map(|kind| kind.id)
        .filter(|kind| write::is_legacy(*kind))
        .collect();
    prop::sample::select(legacy)
}

fn spec() -> impl Strategy<Value = write::NewImage> {
    (
        any::<[u8; 3]>(),
        kinds(),
        0..0x8000_0000_u32,
        any::<Option<u32>>(),
        vec(1..=255_u8, 0..40),
        any::<u32>(),
    )
        .prop_map(
            |([os, arch, comp], kind, load, entry, name, time)| write::NewImage {
                os: Os(os),
                arch: ImageArch(arch),
                kind,
                comp: Comp(comp),
                load,
                entry,
                name,
                time,
                xip: false,
            },
        )
}

fn wrap(image: &write::NewImage, files: &[Vec<u8>]) -> Vec<u8> {
    let inputs = files
        .iter()
        .map(|data| Input {
            name: "data".to_string(),
            data: Box::new(Cursor::new(data.clone())),
        })
        .collect();
    let mut out = Cursor::new(Vec::new());
    write::write(image, inputs, &mut out).unwrap();
    out.into_inner()
}

proptest! {
    #[test]
    fn what_is_written_reads_back_whole(image in spec(), mut files in vec(vec(any::<u8>(), 1..300), 1..5)) {
        if !write::has_table(image.kind) {
            files.truncate(1);
        }
        let bytes = wrap(&image, &files);
        for length in [None, Some(bytes.len() as u64)] {
            let report = inspect(&bytes, length).unwrap();
            prop_assert!(report.problems.is_empty(), "{:?}", report.problems);
            let ImageHeader::Uimage(header) = &report.image else { panic!("no uImage") };
            prop_assert_eq!(header.name, name_field(&image.name));
            prop_assert_eq!((header.os, header.arch, header.comp, header.time), (image.os, image.arch, image.comp, image.time));
            if image.kind == Kind::FIRMWARE_IVT {
                // Padding and the vector table belong to its data.
                prop_assert!(bytes[HEADER_LEN..].starts_with(&files[0]));
                continue;
            }
            let read: Vec<_> = report.parts.iter().map(|part| &bytes[part.offset as usize..][..part.size as usize]).collect();
            prop_assert_eq!(read, files.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed(
        image in spec(),
        data in vec(any::<u8>(), 1..300),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let bytes = wrap(&image, &[data]);
        let mut damaged = bytes.clone();
        damaged[at.index(bytes.len())] ^= 1_u8 << bit;
        for bytes in [&damaged[..], &bytes[..at.index(bytes.len())]] {
            let noticed = inspect(bytes, Some(bytes.len() as u64)).map_or(true, |report| !report.problems.is_empty());
            prop_assert!(noticed);
        }
    }

    #[test]
    fn any_bytes_behind_any_magic_end_without_a_panic(
        start in prop::sample::select(vec![
            &b""[..], b"\x27\x05\x19\x56", b"\xea\0\0\x16eGON.BT0", b"@\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0CHSETTINGS",
            b"\0\0\0@\0\0\0\x0c\0\0\0\0\0\0\0\0\0\0\0\0TESHCNITSG\0\0", b"\0\0\x01\0",
        ]),
        rest in vec(prop_oneof![Just(0_u8), Just(0xff), any::<u8>()], 0..1200),
        known in any::<bool>(),
    ) {
        let bytes = [start, &rest].concat();
        inspect(&bytes, known.then_some(bytes.len() as u64)).ok();
        prop_assert!(text_within(&bytes));
    }

    #[test]
    fn any_size_type_and_table_ends_without_a_panic(
        mut image in spec(),
        size in prop_oneof![any::<u32>(), 0..100_u32, 8000..9000_u32],
        table in vec(prop_oneof![any::<u32>(), 0..20_u32], 0..40),
    ) {
        image.kind = if size % 3 == 0 { image.kind } else { Kind::MULTI };
        let mut bytes = wrap(&image, &[vec![1]]);
        bytes.truncate(HEADER_LEN);
        bytes[12..16].copy_from_slice(&size.to_be_bytes());
        bytes.extend(table.iter().flat_map(|size| size.to_be_bytes()));
        inspect(&bytes, None).ok();
        prop_assert!(text_within(&bytes));
    }

    #[test]
    fn a_script_reads_as_it_was_written(text in vec(any::<u8>(), 1..500), name in "\\PC{0,40}", time in any::<u32>()) {
        let image = script::wrap(&text, ImageArch::ARM64, &name, time).unwrap();
        prop_assert_eq!(script::read(&image).unwrap().text, &text[..]);
        prop_assert!(inspect(&image, None).unwrap().problems.is_empty());
    }
}

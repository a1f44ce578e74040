//! `hearth image show` and `hearth image extract` on arbitrary bytes: no panic, no endless loop, no flood of memory.
#![no_main]

use hearth::uboot::read::{self, Extract};
use hearth::uboot::script;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (bool, Option<u8>, &[u8])| {
    let (from_file, part, bytes) = input;
    let length = from_file.then_some(bytes.len() as u64);
    let _ = read::inspect(bytes, length, None);
    let mut taken = Vec::new();
    let extract = Extract {
        part: part.map(usize::from),
        out: &mut taken,
    };
    let _ = read::inspect(bytes, length, Some(extract));
    assert!(taken.len() <= bytes.len());
    let _ = script::read(bytes);
});

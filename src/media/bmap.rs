//! Owns the block map that goes with an SD image: bmap 2.0 (bmap-tools, `BmapCreate.py`).
//! Never reads an image file.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::image::{BLOCK, CardImage};

/// The text of the bmap: the mapped blocks, with a SHA-256 of each run of them.
pub fn bmap(image: &CardImage) -> String {
    let blocks = image.layout.size.div_ceil(BLOCK);
    let mapped: u64 = image
        .extents()
        .iter()
        .map(|extent| (extent.data.len() as u64).div_ceil(BLOCK))
        .sum();
    let nothing = "0".repeat(64);
    let mut text = format!(
        "<?xml version=\"1.0\" ?>\n<bmap version=\"2.0\">\n\
         \x20   <ImageSize> {} </ImageSize>\n\
         \x20   <BlockSize> {BLOCK} </BlockSize>\n\
         \x20   <BlocksCount> {blocks} </BlocksCount>\n\
         \x20   <MappedBlocksCount> {mapped} </MappedBlocksCount>\n\
         \x20   <ChecksumType> sha256 </ChecksumType>\n\
         \x20   <BmapFileChecksum> {nothing} </BmapFileChecksum>\n\
         \x20   <BlockMap>\n",
        image.layout.size
    );
    for extent in image.extents() {
        let first = extent.offset / BLOCK;
        let last = extent.end().div_ceil(BLOCK) - 1;
        let range = if first == last {
            first.to_string()
        } else {
            format!("{first}-{last}")
        };
        let sum = hex::encode(Sha256::digest(&extent.data));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "        <Range chksum=\"{sum}\"> {range} </Range>");
    }
    text.push_str("    </BlockMap>\n</bmap>\n");
    // The file's own checksum is computed with zeros in its place.
    let sum = hex::encode(Sha256::digest(&text));
    text.replacen(&nothing, &sum, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Extent, Layout};
    use crate::output::AtomicFile;
    use crate::recipe::Media;

    /// The other reader is bmaptool, which checks every sum while it copies.
    #[test]
    fn the_text_of_a_small_map_is_the_one_that_it_always_was() {
        let layout = Layout::plan(&Media::default(), &[], 0, None, None).unwrap();
        let extent = |offset, byte, length| Extent {
            offset,
            data: vec![byte; length],
        };
        let image = CardImage::new(layout, vec![extent(0, 1, 512), extent(1 << 20, 2, 9000)]);
        let map = bmap(&image);
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("card.bmap"), &map).unwrap();
        let output = AtomicFile::create(&path("card.img")).unwrap();
        image.write_to(output).unwrap();
        common::succeed(
            common::oracle("bmaptool")
                .arg("copy")
                .arg(path("card.img"))
                .arg(path("copy.img")),
        );
        let same =
            std::fs::read(path("card.img")).unwrap() == std::fs::read(path("copy.img")).unwrap();
        assert!(same, "bmaptool copied something else");
        assert_eq!(
            common::sha256(&map),
            "478f290a68b5693291ebd9488670d8e4a7820a5d27abe2437b10f363e92cb0dc"
        );
    }
}

//! Owns TI's GP header for Keystone: size and load address, big-endian. Never more than these eight
//! bytes.
//!
//! Source: U-Boot, `tools/gpimage.c`, `tools/gpheader.h`. There is no magic and no checksum.

use std::io::{Seek, Write};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::uboot::stream::{self, Input};

/// Size of the header in bytes.
pub const HEADER_LEN: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Size of the data after the header in bytes.
    pub size: u32,
    pub load: u32,
}

impl Header {
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Self {
        let [a, b, c, d, e, f, g, h] = *bytes;
        Header {
            size: u32::from_be_bytes([a, b, c, d]),
            load: u32::from_be_bytes([e, f, g, h]),
        }
    }

    fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&self.size.to_be_bytes());
        bytes[4..].copy_from_slice(&self.load.to_be_bytes());
        bytes
    }
}

/// Writes the header before a loader's data.
///
/// # Errors
/// If the data is empty or beyond 4 GiB, or the load address 0.
pub fn create(load: u32, data: &Path, output: &Path) -> Result<Header> {
    let mut input = Input::open(data)?;
    stream::create(output, |out| write(load, &mut input, out))
}

fn write(load: u32, input: &mut Input, out: &mut (impl Write + Seek)) -> Result<Header> {
    super::check_load(load, "gpimage")?;
    out.write_all(&[0; HEADER_LEN])?;
    let size = input.copy(u64::from(u32::MAX), |piece| out.write_all(piece))?;
    if size == 0 {
        return Err(input.empty().into());
    }
    let header = Header {
        size: super::size_field(size, &input.name)?,
        load,
    };
    stream::write_front(out, &header.encode())?;
    Ok(header)
}

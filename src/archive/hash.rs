//! Owns hashing what is left of a file.
//! Never decides what the hash has to be.

use std::fs::File;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// The hash and length of the rest of a reader.
pub(super) fn hash_rest(file: &mut File) -> io::Result<(Sha256, u64)> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok((hasher, size));
        }
        hasher.update(&buffer[..n]);
        size += n as u64;
    }
}

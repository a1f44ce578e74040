//! Owns the bytes of a card: partition table, FAT, raw blobs, and writing them to a device.
//! Never serves anything.

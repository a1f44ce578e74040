//! Owns initrds: module closure, ELF closure, the native and the chroot builder, cpio.
//! Never wraps them for U-Boot.

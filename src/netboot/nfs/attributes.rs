//! Owns an inode's attributes over NFS (RFC 1813, section 2.6) and the permission checks.
//! Never changes either.

use nfs3_types::nfs3::{
    ACCESS3_EXECUTE, ACCESS3_LOOKUP, ACCESS3_READ, fattr3 as Fattr3, ftype3, nfstime3,
    post_op_attr, specdata3,
};

use super::exports::Export;
use crate::image::index::{Inode, Kind, Number};
use crate::netboot::rpc::Credential;

/// Permission bits, as in the lowest three of a mode.
pub const READ: u32 = 4;
pub const EXECUTE: u32 = 1;

pub fn post_op(export: &Export, number: Number, inode: &Inode) -> post_op_attr {
    post_op_attr::Some(fattr3(export, number, inode))
}

pub fn fattr3(export: &Export, number: Number, inode: &Inode) -> Fattr3 {
    let (type_, major, minor) = match inode.kind {
        Kind::File { .. } => (ftype3::NF3REG, 0, 0),
        Kind::Directory { .. } => (ftype3::NF3DIR, 0, 0),
        Kind::Symlink { .. } => (ftype3::NF3LNK, 0, 0),
        Kind::CharDevice { major, minor } => (ftype3::NF3CHR, major, minor),
        Kind::BlockDevice { major, minor } => (ftype3::NF3BLK, major, minor),
        Kind::Fifo => (ftype3::NF3FIFO, 0, 0),
    };
    // Never 0: some clients treat that as a directory that they have not read yet.
    let time = nfstime3 {
        seconds: u32::try_from(inode.mtime).unwrap_or(u32::MAX).max(1),
        nseconds: 0,
    };
    Fattr3 {
        type_,
        mode: inode.mode,
        nlink: inode.links,
        uid: inode.uid,
        gid: inode.gid,
        size: inode.size(),
        used: inode.size().next_multiple_of(512),
        rdev: specdata3 {
            specdata1: major,
            specdata2: minor,
        },
        fsid: export.first_u64(),
        fileid: number.get(),
        atime: time,
        mtime: time,
        ctime: time,
    }
}

/// Whether the mode grants the caller the access. Root is not squashed: it may do everything except
/// execute a file without any execute bit.
pub fn permits(inode: &Inode, caller: &Credential, want: u32) -> bool {
    if caller.uid == 0 {
        return want != EXECUTE || inode.is_directory() || inode.mode & 0o111 != 0;
    }
    let granted = if caller.uid == inode.uid {
        inode.mode >> 6
    } else if caller.gid == inode.gid || caller.gids.contains(&inode.gid) {
        inode.mode >> 3
    } else {
        inode.mode
    };
    granted & want == want
}

/// The ACCESS3 bits granted to the caller; never those for changes.
pub fn access(inode: &Inode, caller: &Credential) -> u32 {
    let mut bits = 0;
    if permits(inode, caller, READ) {
        bits |= ACCESS3_READ;
    }
    if permits(inode, caller, EXECUTE) {
        bits |= if inode.is_directory() {
            ACCESS3_LOOKUP
        } else {
            ACCESS3_EXECUTE
        };
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_hold_for_all_but_root() {
        let inode = |mode| Inode {
            kind: Kind::Fifo,
            mode,
            uid: 10,
            gid: 20,
            mtime: 0,
            links: 1,
        };
        let user = |uid, gid, gids: &[u32]| Credential {
            uid,
            gid,
            gids: gids.to_vec(),
        };
        assert!(permits(&inode(0o400), &user(10, 0, &[]), READ));
        assert!(!permits(&inode(0o044), &user(10, 20, &[]), READ));
        assert!(permits(&inode(0o040), &user(1, 1, &[3, 20]), READ));
        assert!(!permits(&inode(0o640), &Credential::ANONYMOUS, READ));
        assert!(permits(&inode(0o000), &user(0, 0, &[]), READ));
        assert!(!permits(&inode(0o644), &user(0, 0, &[]), EXECUTE));
    }
}

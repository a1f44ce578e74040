//! Owns NFS_ACL version 3, Solaris' side protocol for POSIX ACLs, as Linux speaks it
//! (`fs/nfs_common/nfsacl.c`).
//! Never invents one: images have no ACLs, and each answer is derived from the mode.
//!
//! Needed by an overlay above an NFS root: without this program the client answers "not supported"
//! when overlayfs reads a file's ACL, and only root can run programs.

use std::ops::RangeInclusive;
use std::sync::Arc;

use nfs3_types::nfs3::nfsstat3;

use super::exports::Exports;
use super::object::{Nfs, Object, fail};
use crate::netboot::rpc::put;
use crate::netboot::rpc::{Call, Garbage, Program, Refusal, Tail};

pub const PROGRAM: u32 = 100_227;
pub const VERSION: u32 = 3;

const NULL: u32 = 0;
const GETACL: u32 = 1;
const SETACL: u32 = 2;

/// What is requested: the access ACL, and the default ACL of a directory; each itself, or only its
/// length.
const ACCESS: u32 = 1;
const EVERYTHING: u32 = 0xf;

const USER_OBJ: u32 = 0x01;
const GROUP_OBJ: u32 = 0x04;
const MASK: u32 = 0x10;
const OTHER: u32 = 0x20;

/// The NFS_ACL program, next to [`Nfs`].
#[derive(Debug)]
pub struct NfsAcl(Nfs);

impl NfsAcl {
    pub fn new(exports: Arc<Exports>) -> Self {
        NfsAcl(Nfs { exports })
    }

    fn getacl(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<(), Garbage> {
        let object = self.0.object(&mut call.arguments)?;
        let asked = call.arguments.u32()?;
        match object {
            Ok(object) if asked & !EVERYTHING == 0 => put_acls(results, &object, asked),
            Ok(_) => fail(results, &nfsstat3::NFS3ERR_INVAL.into()),
            Err(failure) => fail(results, &failure),
        }
        Ok(())
    }
}

fn put_acls(results: &mut Vec<u8>, object: &Object, asked: u32) {
    put(results, &nfsstat3::NFS3_OK);
    put(results, &object.attributes());
    put(results, &asked);
    let inode = object.inode();
    let group = inode.mode >> 3 & 7;
    // Three entries are sent as four: Solaris always has a mask.
    let entries = [
        (USER_OBJ, inode.uid, inode.mode >> 6 & 7),
        (GROUP_OBJ, inode.gid, group),
        (MASK, 0, group),
        (OTHER, 0, inode.mode & 7),
    ];
    put(results, &(entries.len() as u32));
    if asked & ACCESS == 0 {
        put(results, &0_u32);
    } else {
        put(results, &(entries.len() as u32));
        for (tag, id, permissions) in entries {
            put(results, &tag);
            put(results, &id);
            put(results, &permissions);
        }
    }
    // The default ACL: an empty array.
    put(results, &0_u32);
    put(results, &0_u32);
}

impl Program for NfsAcl {
    fn number(&self) -> u32 {
        PROGRAM
    }

    fn versions(&self) -> RangeInclusive<u32> {
        VERSION..=VERSION
    }

    fn call(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<Option<Tail>, Refusal> {
        match call.procedure {
            NULL => {}
            GETACL => self.getacl(call, results)?,
            SETACL => self.0.refuse_write(call, results, 1)?,
            _ => return Err(Refusal::NoSuchProcedure),
        }
        Ok(None)
    }
}

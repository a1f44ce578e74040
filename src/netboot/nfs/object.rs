//! Owns what procedures share: the object that a handle names, and how a procedure fails.
//! Never answers a call.

use std::sync::Arc;

use nfs3_types::nfs3::{nfs_fh3, nfsstat3, post_op_attr, post_op_fh3};
use nfs3_types::xdr_codec::Opaque;

use super::attributes;
use super::exports::{Export, Exports, Handle};
use crate::image::index::{Inode, Number};
use crate::netboot::rpc::{Transport, put};

/// The largest READ over TCP, and over UDP, where it is what U-Boot asks for: a forged request shall gain little. Bytes.
pub(super) const MAX_READ: u32 = 1 << 20;

pub(super) const MAX_READ_UDP: u32 = 1 << 10;

/// The largest READDIR or READDIRPLUS reply over TCP; over UDP that of a READ. Bytes.
pub(super) const MAX_DIRECTORY_REPLY: u32 = 64 << 10;

/// The NFS program, over the images of `exports`.
#[derive(Debug)]
pub struct Nfs {
    pub(super) exports: Arc<Exports>,
}

/// The inode of a file handle.
pub(super) struct Object {
    pub(super) export: Arc<Export>,
    pub(super) number: Number,
}

impl Object {
    pub(super) fn inode(&self) -> &Inode {
        self.export
            .image
            .inode(self.number)
            .expect("Nfs::object has seen that it is there")
    }

    pub(super) fn attributes(&self) -> post_op_attr {
        attributes::post_op(&self.export, self.number, self.inode())
    }

    pub(super) fn handle(&self, number: Number) -> nfs_fh3 {
        let prefix = self.export.prefix();
        nfs_fh3 {
            data: Opaque::owned(Handle { prefix, number }.to_bytes().to_vec()),
        }
    }
}

/// A failed procedure: the status, and the attributes that the reply contains.
pub(super) struct NfsFailure {
    pub(super) status: nfsstat3,
    pub(super) attributes: post_op_attr,
}

impl From<nfsstat3> for NfsFailure {
    fn from(status: nfsstat3) -> Self {
        NfsFailure {
            status,
            attributes: post_op_attr::None,
        }
    }
}

pub(super) fn fail(results: &mut Vec<u8>, failure: &NfsFailure) {
    put(results, &failure.status);
    put(results, &failure.attributes);
}

pub(super) fn max_read(transport: Transport) -> u32 {
    match transport {
        Transport::Tcp => MAX_READ,
        Transport::Udp => MAX_READ_UDP,
    }
}

pub(super) fn post_op_handle(object: &Object, number: Number) -> post_op_fh3 {
    post_op_fh3::Some(object.handle(number))
}

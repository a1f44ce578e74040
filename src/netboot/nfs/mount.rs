//! Owns MOUNT version 3 (RFC 1813, appendix I): the root file handle of an export path.
//! Never keeps a list of mounts.

use std::ops::RangeInclusive;
use std::sync::Arc;

use nfs3_types::mount::{
    self, MNTPATHLEN, MOUNT_PROGRAM, dirpath, export_node, exports, fhandle3, mountres3,
    mountres3_ok, mountstat3, name,
};
use nfs3_types::xdr_codec::{List, Opaque};

use super::exports::Exports;
use crate::netboot::net::access::Access;
use crate::netboot::nfs;
use crate::netboot::rpc::{Call, Program, Refusal, Tail, Transport, put};

/// The accepted authentication flavours: AUTH_SYS, then AUTH_NONE.
const FLAVORS: [u32; 2] = [1, 0];

pub struct Mount {
    pub exports: Arc<Exports>,
    /// The clients shown in the list of exports.
    pub access: Arc<Access>,
    /// Finds an image that is not exported yet, such as one that was just built.
    pub find: Box<dyn Fn(&str) + Send + Sync>,
}

impl Program for Mount {
    fn number(&self) -> u32 {
        mount::PROGRAM
    }

    fn versions(&self) -> RangeInclusive<u32> {
        mount::VERSION..=mount::VERSION
    }

    fn call(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<Option<Tail>, Refusal> {
        use MOUNT_PROGRAM as P;
        match MOUNT_PROGRAM::try_from(call.procedure).map_err(|_| Refusal::NoSuchProcedure)? {
            P::MOUNTPROC3_MNT => {
                let path = call.arguments.opaque(MNTPATHLEN)?;
                put(results, &self.mount(call, path));
            }
            // The list is larger than the call: over UDP the source may be forged.
            P::MOUNTPROC3_EXPORT if call.peer.transport == Transport::Udp => {
                return Err(Refusal::NoSuchProcedure);
            }
            P::MOUNTPROC3_EXPORT => put(results, &self.list()),
            // An empty list: mounts are not recorded.
            P::MOUNTPROC3_DUMP => put(results, &false),
            P::MOUNTPROC3_NULL | P::MOUNTPROC3_UMNT | P::MOUNTPROC3_UMNTALL => {}
        }
        Ok(None)
    }
}

impl Mount {
    /// `/<image id>`, or a directory below it.
    fn mount(&self, call: &Call<'_>, path: &[u8]) -> mountres3<'static> {
        let Ok(path) = std::str::from_utf8(path) else {
            return mountres3::Err(mountstat3::MNT3ERR_NOENT);
        };
        let trimmed = path.trim_matches('/');
        let (id, below) = trimmed.split_once('/').unwrap_or((trimmed, ""));
        let from = call.peer.address.ip();
        (self.find)(id);
        let Some(export) = self.exports.by_id(id) else {
            log::warn!("mount: {from} asks for {path}, which is no image here");
            return mountres3::Err(mountstat3::MNT3ERR_NOENT);
        };
        let Some(found) = export.image.find(below) else {
            return mountres3::Err(mountstat3::MNT3ERR_NOENT);
        };
        if !export
            .image
            .inode(found.number)
            .is_some_and(|inode| inode.is_directory())
        {
            return mountres3::Err(mountstat3::MNT3ERR_NOTDIR);
        }
        log::info!("mount: {from} mounts {path}");
        mountres3::Ok(mountres3_ok {
            fhandle: fhandle3(Opaque::owned(nfs::handle(&export, found.number).to_vec())),
            auth_flavors: FLAVORS.to_vec(),
        })
    }

    fn list(&self) -> exports<'static, 'static> {
        let text = |text: String| Opaque::owned(text.into_bytes());
        let node = |id: String| export_node {
            ex_dir: dirpath(text(format!("/{id}"))),
            ex_groups: List(
                self.access
                    .networks()
                    .iter()
                    .map(|network| name(text(network.to_string())))
                    .collect(),
            ),
        };
        List(self.exports.ids().into_iter().map(node).collect())
    }
}

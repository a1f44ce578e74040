//! Owns NFS version 3 (RFC 1813) over images: every procedure that reads. Those that write return
//! NFS3ERR_ROFS. Never keeps state for a client.

pub mod acl;
mod attributes;
mod directory;
pub mod exports;
pub mod mount;
mod object;
pub mod portmap;

use std::ops::RangeInclusive;
use std::sync::Arc;

use nfs3_types::nfs3::{
    self, ACCESS3resok, FSF3_HOMOGENEOUS, FSF3_LINK, FSF3_SYMLINK, FSINFO3resok, FSSTAT3resok,
    GETATTR3resok, LOOKUP3resok, NFS_PROGRAM, PATHCONF3resok, READLINK3resok, nfspath3, nfsstat3,
    nfstime3,
};
use nfs3_types::xdr_codec::{Opaque, Pack};

use self::exports::{Export, Exports, Handle};
pub use self::object::Nfs;
use self::object::{MAX_DIRECTORY_REPLY, NfsFailure, Object, fail, max_read};
use crate::image::index::{Kind, Number};
use crate::netboot::rpc::{Arguments, Call, Garbage, Program, Refusal, Tail, Transport, put};

/// Reads up to this size are copied into the reply, so that several replies are sent together.
/// Bytes.
const INLINE_READ: u32 = 16 << 10;
/// The write sizes in FSINFO; writes are refused anyway. Bytes.
const MAX_WRITE: u32 = 32 << 10;

/// The longest name, in bytes.
const NAME_MAX: usize = 255;

/// NFS and its side protocol for ACLs on one port: a client uses both over one connection.
pub fn programs(exports: &Arc<Exports>) -> Vec<Arc<dyn Program>> {
    vec![
        Arc::new(Nfs {
            exports: exports.clone(),
        }),
        Arc::new(acl::NfsAcl::new(exports.clone())),
    ]
}

/// The outcome of a procedure: results or an NFS status.
type Answer<T> = Result<Result<T, NfsFailure>, Garbage>;

impl Program for Nfs {
    fn number(&self) -> u32 {
        nfs3::PROGRAM
    }

    fn versions(&self) -> RangeInclusive<u32> {
        nfs3::VERSION..=nfs3::VERSION
    }

    fn call(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<Option<Tail>, Refusal> {
        use NFS_PROGRAM as P;
        let procedure =
            NFS_PROGRAM::try_from(call.procedure).map_err(|_| Refusal::NoSuchProcedure)?;
        match procedure {
            P::NFSPROC3_NULL => {}
            P::NFSPROC3_GETATTR => match self.getattr(call)? {
                Ok(done) => succeed(results, &done),
                // The only procedure whose failure has no attributes.
                Err(failure) => put(results, &failure.status),
            },
            P::NFSPROC3_LOOKUP => finish(results, self.lookup(call)?),
            P::NFSPROC3_ACCESS => finish(results, self.access(call)?),
            P::NFSPROC3_READLINK => self.readlink(call, results)?,
            P::NFSPROC3_READ => return Ok(self.read(call, results)?),
            P::NFSPROC3_READDIR => directory::readdir(self, call, results)?,
            P::NFSPROC3_READDIRPLUS => directory::readdirplus(self, call, results)?,
            P::NFSPROC3_FSSTAT => finish(results, self.fsstat(call)?),
            P::NFSPROC3_FSINFO => finish(results, self.fsinfo(call)?),
            P::NFSPROC3_PATHCONF => finish(results, self.pathconf(call)?),
            // The number of absent attributes in each failure: wcc_data has two.
            P::NFSPROC3_RENAME => self.refuse_write(call, results, 4)?,
            P::NFSPROC3_LINK => self.refuse_write(call, results, 3)?,
            _ => self.refuse_write(call, results, 2)?,
        }
        Ok(None)
    }
}

fn succeed(results: &mut Vec<u8>, done: &impl Pack) {
    put(results, &nfsstat3::NFS3_OK);
    put(results, done);
}

fn finish(results: &mut Vec<u8>, outcome: Result<impl Pack, NfsFailure>) {
    match outcome {
        Ok(done) => succeed(results, &done),
        Err(failure) => fail(results, &failure),
    }
}

impl Nfs {
    /// Resolves a handle, if its image is still exported.
    fn object(&self, arguments: &mut Arguments<'_>) -> Answer<Object> {
        let Some(handle) = Handle::from_bytes(arguments.opaque(nfs3::NFS3_FHSIZE)?) else {
            return Ok(Err(nfsstat3::NFS3ERR_BADHANDLE.into()));
        };
        let Some(export) = self.exports.by_prefix(&handle.prefix) else {
            return Ok(Err(nfsstat3::NFS3ERR_STALE.into()));
        };
        if export.image.inode(handle.number).is_none() {
            return Ok(Err(nfsstat3::NFS3ERR_STALE.into()));
        }
        let number = handle.number;
        Ok(Ok(Object { export, number }))
    }

    fn getattr(&self, call: &mut Call<'_>) -> Answer<GETATTR3resok> {
        Ok(self
            .object(&mut call.arguments)?
            .map(|object| GETATTR3resok {
                obj_attributes: attributes::fattr3(&object.export, object.number, object.inode()),
            }))
    }

    fn lookup(&self, call: &mut Call<'_>) -> Answer<LOOKUP3resok> {
        let object = self.object(&mut call.arguments)?;
        let name = call.arguments.opaque(super::rpc::MAX_CALL)?;
        let object = match object {
            Ok(object) => object,
            Err(failure) => return Ok(Err(failure)),
        };
        let failure = |status| {
            let attributes = object.attributes();
            Ok(Err(NfsFailure { status, attributes }))
        };
        let Kind::Directory { parent, .. } = object.inode().kind else {
            return failure(nfsstat3::NFS3ERR_NOTDIR);
        };
        if !attributes::permits(object.inode(), &call.credential, attributes::EXECUTE) {
            return failure(nfsstat3::NFS3ERR_ACCES);
        }
        if name.len() > NAME_MAX {
            return failure(nfsstat3::NFS3ERR_NAMETOOLONG);
        }
        let found = match name {
            b"." => Some(object.number),
            b".." => Some(parent),
            _ => object.export.image.lookup(object.number, name),
        };
        let Some((number, inode)) =
            found.and_then(|number| Some((number, object.export.image.inode(number)?)))
        else {
            return failure(nfsstat3::NFS3ERR_NOENT);
        };
        Ok(Ok(LOOKUP3resok {
            object: object.handle(number),
            obj_attributes: attributes::post_op(&object.export, number, inode),
            dir_attributes: object.attributes(),
        }))
    }

    fn access(&self, call: &mut Call<'_>) -> Answer<ACCESS3resok> {
        let object = self.object(&mut call.arguments)?;
        let asked = call.arguments.u32()?;
        Ok(object.map(|object| ACCESS3resok {
            obj_attributes: object.attributes(),
            access: asked & attributes::access(object.inode(), &call.credential),
        }))
    }

    fn readlink(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<(), Garbage> {
        match self.object(&mut call.arguments)? {
            Ok(object) => match &object.inode().kind {
                Kind::Symlink { target } => succeed(
                    results,
                    &READLINK3resok {
                        symlink_attributes: object.attributes(),
                        data: nfspath3(Opaque::borrowed(target)),
                    },
                ),
                _ => fail(results, &nfsstat3::NFS3ERR_INVAL.into()),
            },
            Err(failure) => fail(results, &failure),
        }
        Ok(())
    }

    fn read(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<Option<Tail>, Garbage> {
        let object = self.object(&mut call.arguments)?;
        let (offset, count) = (call.arguments.u64()?, call.arguments.u32()?);
        let object = match object.and_then(|object| readable(object, call)) {
            Ok(object) => object,
            Err(failure) => {
                fail(results, &failure);
                return Ok(None);
            }
        };
        let count = count.min(max_read(call.peer.transport));
        let size = object.inode().size();
        let image = &object.export.image;
        let (start, length) = image
            .extent(object.number, offset, u64::from(count))
            .unwrap_or((0, 0));
        let before = results.len();
        put(results, &nfsstat3::NFS3_OK);
        put(results, &object.attributes());
        put(results, &(length as u32));
        put(results, &(offset.saturating_add(length) >= size));
        put(results, &(length as u32));
        let tail = Tail {
            image: image.clone(),
            offset: start,
            length: length as usize,
        };
        let inline = length as u32 <= INLINE_READ || call.peer.transport == Transport::Udp;
        if !inline {
            return Ok(Some(tail));
        }
        if let Err(error) = append(results, &tail) {
            log::error!("cannot read the image {}: {error}", image.path().display());
            results.truncate(before);
            fail(results, &nfsstat3::NFS3ERR_IO.into());
        }
        Ok(None)
    }

    fn fsstat(&self, call: &mut Call<'_>) -> Answer<FSSTAT3resok> {
        Ok(self.object(&mut call.arguments)?.map(|object| {
            let image = &object.export.image;
            FSSTAT3resok {
                obj_attributes: object.attributes(),
                tbytes: image.total_size(),
                fbytes: 0,
                abytes: 0,
                tfiles: image.count(),
                ffiles: 0,
                afiles: 0,
                // The file system never changes.
                invarsec: u32::MAX,
            }
        }))
    }

    fn fsinfo(&self, call: &mut Call<'_>) -> Answer<FSINFO3resok> {
        let max_read = max_read(call.peer.transport);
        Ok(self
            .object(&mut call.arguments)?
            .map(|object| FSINFO3resok {
                obj_attributes: object.attributes(),
                rtmax: max_read,
                rtpref: max_read,
                rtmult: 4096,
                wtmax: MAX_WRITE,
                wtpref: MAX_WRITE,
                wtmult: 4096,
                dtpref: MAX_DIRECTORY_REPLY.min(max_read),
                maxfilesize: i64::MAX as u64,
                time_delta: nfstime3 {
                    seconds: 1,
                    nseconds: 0,
                },
                properties: FSF3_LINK | FSF3_SYMLINK | FSF3_HOMOGENEOUS,
            }))
    }

    fn pathconf(&self, call: &mut Call<'_>) -> Answer<PATHCONF3resok> {
        Ok(self
            .object(&mut call.arguments)?
            .map(|object| PATHCONF3resok {
                obj_attributes: object.attributes(),
                linkmax: u32::MAX,
                name_max: NAME_MAX as u32,
                no_trunc: true,
                chown_restricted: true,
                case_insensitive: false,
                case_preserving: true,
            }))
    }

    /// Answers a procedure that would change something; `absent` attributes follow the status.
    fn refuse_write(
        &self,
        call: &mut Call<'_>,
        results: &mut Vec<u8>,
        absent: usize,
    ) -> Result<(), Garbage> {
        let status = match self.object(&mut call.arguments)? {
            Ok(_) => nfsstat3::NFS3ERR_ROFS,
            Err(failure) => failure.status,
        };
        put(results, &status);
        for _ in 0..absent {
            put(results, &false);
        }
        Ok(())
    }
}

/// A file that the caller may read. Execute permission implies read, because a kernel must page
/// programs in.
fn readable(object: Object, call: &Call<'_>) -> Result<Object, NfsFailure> {
    let inode = object.inode();
    match inode.kind {
        Kind::File { .. } => {}
        Kind::Directory { .. } => return Err(nfsstat3::NFS3ERR_ISDIR.into()),
        _ => return Err(nfsstat3::NFS3ERR_INVAL.into()),
    }
    let may = |want| attributes::permits(inode, &call.credential, want);
    // The owner may read regardless of the mode, as POSIX allows for a file that is already open.
    if may(attributes::READ) || may(attributes::EXECUTE) || inode.uid == call.credential.uid {
        return Ok(object);
    }
    Err(NfsFailure {
        status: nfsstat3::NFS3ERR_ACCES,
        attributes: object.attributes(),
    })
}

/// Appends the bytes of a tail, and its padding, to `out`.
pub(super) fn append(out: &mut Vec<u8>, tail: &Tail) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let start = out.len();
    out.resize(start + tail.length + tail.padding(), 0);
    let data = &mut out[start..start + tail.length];
    let (tar, offset) = tail.image.tar_at(tail.offset);
    tar.read_exact_at(data, offset)
}

/// The handle of an image's root, or of another directory of it.
pub fn handle(export: &Export, number: Number) -> [u8; Handle::LENGTH] {
    let prefix = export.prefix();
    Handle { prefix, number }.to_bytes()
}

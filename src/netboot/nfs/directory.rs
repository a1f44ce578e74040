//! Owns READDIR and READDIRPLUS (RFC 1813, sections 3.3.16 and 3.3.17). A cookie is a position in
//! the sorted directory and stays valid; its verifier is derived from the image. Never keeps an
//! open directory.

use nfs3_types::nfs3::{cookieverf3, entry3, entryplus3, filename3, nfsstat3};
use nfs3_types::xdr_codec::Opaque;

use super::attributes;
use super::object::{MAX_DIRECTORY_REPLY, Nfs, NfsFailure, Object, fail, max_read, post_op_handle};
use crate::image::index::{Kind, Number};
use crate::netboot::rpc::put;
use crate::netboot::rpc::{Call, Garbage};

/// The cookie to continue at, and the size limits.
struct Wanted {
    cookie: u64,
    verifier: [u8; 8],
    /// Limit on names, ids and cookies, in bytes.
    names: usize,
    /// Limit on the whole reply, in bytes.
    reply: usize,
}

/// A directory entry, including `.` and `..`.
struct Cursor<'a> {
    name: &'a [u8],
    number: Number,
    /// The cookie to continue after this one.
    cookie: u64,
}

pub fn readdir(nfs: &Nfs, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<(), Garbage> {
    let object = nfs.object(&mut call.arguments)?;
    let (cookie, verifier) = (call.arguments.u64()?, call.arguments.fixed()?);
    let count = call.arguments.u32()?;
    let count = limit(call, count);
    let wanted = Wanted {
        cookie,
        verifier,
        names: count,
        reply: count,
    };
    list(object, call, &wanted, results, |_, place, out| {
        put(
            out,
            &entry3 {
                fileid: place.number.get(),
                name: filename3(Opaque::borrowed(place.name)),
                cookie: place.cookie,
            },
        );
    });
    Ok(())
}

pub fn readdirplus(nfs: &Nfs, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<(), Garbage> {
    let object = nfs.object(&mut call.arguments)?;
    let (cookie, verifier) = (call.arguments.u64()?, call.arguments.fixed()?);
    let (names, reply) = (call.arguments.u32()?, call.arguments.u32()?);
    let wanted = Wanted {
        cookie,
        verifier,
        names: limit(call, names),
        reply: limit(call, reply),
    };
    list(object, call, &wanted, results, |object, place, out| {
        let inode = object.export.image.inode(place.number);
        let entry = entryplus3 {
            fileid: place.number.get(),
            name: filename3(Opaque::borrowed(place.name)),
            cookie: place.cookie,
            name_attributes: inode.map_or_else(Default::default, |inode| {
                attributes::post_op(&object.export, place.number, inode)
            }),
            name_handle: post_op_handle(object, place.number),
        };
        put(out, &entry);
    });
    Ok(())
}

fn limit(call: &Call<'_>, count: u32) -> usize {
    count
        .min(MAX_DIRECTORY_REPLY)
        .min(max_read(call.peer.transport)) as usize
}

/// Appends the reply: as many entries as fit into `wanted`, each appended by `put_entry`.
fn list(
    object: Result<Object, NfsFailure>,
    call: &Call<'_>,
    wanted: &Wanted,
    results: &mut Vec<u8>,
    put_entry: impl Fn(&Object, &Cursor<'_>, &mut Vec<u8>),
) {
    let object = match object.and_then(|object| listable(object, call, wanted)) {
        Ok(object) => object,
        Err(failure) => return fail(results, &failure),
    };
    let start = results.len();
    put(results, &nfsstat3::NFS3_OK);
    put(results, &object.attributes());
    put(results, &verifier(&object));
    let (mut names, mut any, mut end) = (0, false, true);
    for place in places(&object, wanted.cookie) {
        names += 8 + 8 + 4 + place.name.len().next_multiple_of(4);
        let before = results.len();
        put(results, &true);
        put_entry(&object, &place, results);
        // Leaves room for the end of the list and the end-of-directory flag.
        if results.len() - start + 8 > wanted.reply || names > wanted.names {
            results.truncate(before);
            end = false;
            break;
        }
        any = true;
    }
    if !any && !end {
        results.truncate(start);
        return fail(results, &nfsstat3::NFS3ERR_TOOSMALL.into());
    }
    put(results, &false);
    put(results, &end);
}

/// Checks that it is a directory that the caller may list, and that the cookie is valid for it.
fn listable(object: Object, call: &Call<'_>, wanted: &Wanted) -> Result<Object, NfsFailure> {
    let failure = |status| NfsFailure {
        status,
        attributes: object.attributes(),
    };
    let Kind::Directory { entries, .. } = &object.inode().kind else {
        return Err(failure(nfsstat3::NFS3ERR_NOTDIR));
    };
    if !attributes::permits(object.inode(), &call.credential, attributes::READ) {
        return Err(failure(nfsstat3::NFS3ERR_ACCES));
    }
    let beyond = wanted.cookie > entries.len() as u64 + 2;
    let foreign = wanted.cookie != 0 && wanted.verifier != verifier(&object).0;
    if beyond || foreign {
        return Err(failure(nfsstat3::NFS3ERR_BAD_COOKIE));
    }
    Ok(object)
}

fn verifier(object: &Object) -> cookieverf3 {
    cookieverf3(object.export.first_u64().to_be_bytes())
}

/// The entries after `cookie`: 0 is before `.`, 1 after it, 2 after `..`, and then one for each
/// entry.
fn places(object: &Object, cookie: u64) -> impl Iterator<Item = Cursor<'_>> {
    let (parent, entries) = match &object.inode().kind {
        Kind::Directory { parent, entries } => (*parent, entries.as_slice()),
        _ => (object.number, &[][..]),
    };
    let dots = [(&b"."[..], object.number), (&b".."[..], parent)];
    let skip = usize::try_from(cookie).unwrap_or(usize::MAX);
    let entries = entries
        .get(skip.saturating_sub(dots.len())..)
        .unwrap_or_default();
    dots.into_iter()
        .skip(skip)
        .chain(entries.iter().map(|entry| (&*entry.name, entry.number)))
        .zip(cookie + 1..)
        .map(|((name, number), cookie)| Cursor {
            name,
            number,
            cookie,
        })
}

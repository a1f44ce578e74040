//! Owns the portmapper, version 2 (RFC 1833, section 3): the ports of NFS and MOUNT. Never
//! registers other programs, and never forwards calls.

use std::ops::RangeInclusive;

use nfs3_types::portmap::{self, PMAP_PROG, mapping};
use nfs3_types::xdr_codec::List;

use crate::netboot::nfs::acl;
use crate::netboot::rpc::{Call, Program, Refusal, Tail, Transport, put};

#[derive(Debug)]
pub struct Portmap {
    pub mappings: Vec<mapping>,
}

impl Portmap {
    /// NFS with its ACLs and MOUNT on these ports, over TCP, and the portmapper itself, over UDP too.
    pub fn new(nfs: u16, mount: u16, portmap: u16) -> Self {
        Portmap::over(nfs, mount, portmap, false)
    }

    /// The same; `udp` says whether NFS and MOUNT are served over UDP too.
    pub fn over(nfs: u16, mount: u16, portmap: u16, udp: bool) -> Self {
        let programs = [
            (portmap::PROGRAM, portmap::VERSION, portmap),
            (nfs3_types::nfs3::PROGRAM, nfs3_types::nfs3::VERSION, nfs),
            (acl::PROGRAM, acl::VERSION, nfs),
            (
                nfs3_types::mount::PROGRAM,
                nfs3_types::mount::VERSION,
                mount,
            ),
        ];
        let protocols = [portmap::IPPROTO_TCP, portmap::IPPROTO_UDP];
        let mappings = programs
            .iter()
            .flat_map(|&(prog, vers, port)| {
                protocols.map(|prot| mapping {
                    prog,
                    vers,
                    prot,
                    port: u32::from(port),
                })
            })
            .filter(|known| {
                udp || known.prog == portmap::PROGRAM || known.prot == portmap::IPPROTO_TCP
            })
            .collect();
        Portmap { mappings }
    }
}

impl Program for Portmap {
    fn number(&self) -> u32 {
        portmap::PROGRAM
    }

    fn versions(&self) -> RangeInclusive<u32> {
        portmap::VERSION..=portmap::VERSION
    }

    fn call(&self, call: &mut Call<'_>, results: &mut Vec<u8>) -> Result<Option<Tail>, Refusal> {
        use PMAP_PROG as P;
        match PMAP_PROG::try_from(call.procedure).map_err(|_| Refusal::NoSuchProcedure)? {
            P::PMAPPROC_NULL => {}
            P::PMAPPROC_SET | P::PMAPPROC_UNSET => put(results, &false),
            P::PMAPPROC_GETPORT => {
                let (prog, vers) = (call.arguments.u32()?, call.arguments.u32()?);
                let prot = call.arguments.u32()?;
                let known = self
                    .mappings
                    .iter()
                    .find(|known| (known.prog, known.vers, known.prot) == (prog, vers, prot));
                // 0 means that the program is not registered.
                put(results, &known.map_or(0, |known| known.port));
            }
            // The list is larger than the call: over UDP the source may be forged.
            P::PMAPPROC_DUMP if call.peer.transport == Transport::Udp => {
                return Err(Refusal::NoSuchProcedure);
            }
            P::PMAPPROC_DUMP => put(results, &List(self.mappings.clone())),
            // CALLIT is not implemented: forwarding calls allows reflection attacks.
            P::PMAPPROC_CALLIT => return Err(Refusal::NoSuchProcedure),
        }
        Ok(None)
    }
}

//! hearth's own NFS server over an image, on one port of loopback, in this process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth::image::index::Image;
use hearth::netboot::net::access::Access;
use hearth::netboot::nfs;
use hearth::netboot::nfs::exports::{Export, Exports};
use hearth::netboot::nfs::mount::Mount;
use hearth::netboot::rpc::Program;
use hearth::netboot::rpc::service::Service;
use tokio::net::{TcpListener, UdpSocket};
use tokio::runtime::Runtime;

/// Under which path the image is exported.
pub const ID: &str = "test-image";
pub const HASH: [u8; 32] = [0xa5; 32];

/// The exports that hold an image, and all programs that are served on NFS' port.
pub fn programs(
    tar: &Path,
    allowed: &[&str],
) -> (Arc<Exports>, Arc<Access>, Vec<Arc<dyn Program>>) {
    let exports = Arc::new(Exports::default());
    let image = Image::open(tar).unwrap();
    exports.insert(Export::new(ID.into(), HASH, image, PathBuf::new()));
    let networks = allowed.iter().map(|text| text.parse().unwrap()).collect();
    let access = Arc::new(Access::new(networks));
    let mut programs = nfs::programs(&exports);
    programs.push(Arc::new(Mount {
        exports: exports.clone(),
        access: access.clone(),
        find: Box::new(|_| {}),
    }));
    (exports, access, programs)
}

pub struct NfsServer {
    pub exports: Arc<Exports>,
    pub address: SocketAddr,
    _runtime: Runtime,
}

impl NfsServer {
    /// Serves the tar to these networks, until it is dropped.
    pub fn start(tar: &Path, allowed: &[&str]) -> Self {
        let (exports, access, programs) = programs(tar, allowed);
        let service = Service {
            name: "nfs",
            programs: programs.into(),
            access,
        };
        let runtime = Runtime::new().unwrap();
        let address = runtime.block_on(async {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            let address = tcp.local_addr().unwrap();
            let udp = UdpSocket::bind(address).await.unwrap();
            tokio::spawn(service.clone().serve_tcp(tcp));
            tokio::spawn(service.serve_udp(udp));
            address
        });
        NfsServer {
            exports,
            address,
            _runtime: runtime,
        }
    }
}

//! Owns what boards load over the network: the netboot tree, exports, NFS, TFTP, DHCP and HTTP
//! servers.
//! Never writes to an image.

pub mod dhcp;
pub mod http;
pub mod net;
pub mod nfs;
pub mod provision;
pub mod rpc;
pub mod serve;
pub mod tftp;
pub mod tree;

//! Owns what boards load over the network: the netboot tree, exports, NFS, TFTP, DHCP and HTTP servers.
//! Never writes to an image.

pub mod access;
pub mod compare;
pub mod connections;
mod credit;
pub mod current_lab;
pub mod dhcp;
pub mod exports;
pub mod exports_file;
pub mod extract;
pub mod http;
mod limits;
pub mod mount;
pub mod nfs;
mod openers;
mod patience;
pub mod portmap;
pub mod provision;
pub mod rpc;
pub mod rpc_net;
pub mod serve;
pub mod sockets;
pub mod store;
pub mod tftp;
pub mod transfer;
mod transfers;
pub mod tree;
pub mod view;

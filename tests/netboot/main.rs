//! Network boot against independent clients: libnfs, tftp-hpa, curl, and packets made by hand.

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod dhcp;
mod fixture;
mod forged;
mod image;
mod load;
mod malformed;
mod nfs;
#[path = "../common/nfs.rs"]
mod nfs_server;
mod rpc;
mod serve;
#[path = "../common/small.rs"]
mod small_image;
mod soak;
mod tftp;

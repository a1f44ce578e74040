//! Network boot against independent clients: libnfs, tftp-hpa, curl, and packets made by hand.

mod connections;
mod dhcp;
mod fixture;
mod image;
mod malformed;
mod nfs;
mod nfs_server;
mod rpc;
mod serve;
mod soak;
mod tftp;

//! Network boot against independent clients: libnfs, tftp-hpa, curl, and packets made by hand.

mod connections;
mod dhcp;
mod fixture;
mod forged;
mod image;
mod load;
mod malformed;
mod nfs;
mod nfs_server;
mod rpc;
mod serve;
mod soak;
mod tftp;

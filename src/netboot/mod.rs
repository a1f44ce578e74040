//! Owns what boards load over the network: the netboot tree, exports, NFS, TFTP, DHCP and HTTP servers.
//! Never writes to an image.

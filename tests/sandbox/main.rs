//! Programs of an image in the sandbox: for root and for an ordinary user, with nothing of the host's in
//! reach and nothing left behind. Needs qemu-user, uidmap, dpkg-deb, util-linux, keyutils and a mirror (or a cache that has the
//! packages of the shipped locks). Run by root, it makes the user `hearth-test`.
mod fixture;
mod host;
mod hostile;
mod limits;
mod programs;
mod screen;
mod terminal;

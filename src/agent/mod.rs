//! Owns the program that boards run to check in and to work: the shell agent and its unit.
//! Never runs on the host.

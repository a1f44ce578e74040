//! `hearth test` on boards that fail in every way: each is a script that plays the board on its console and runs the
//! real agent. No board is emulated here, and nothing is built: the image is an empty directory.

mod boot;
mod definitions;
mod job;
mod power;
mod runs;
mod shell;

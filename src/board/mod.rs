//! Owns one board: power, console, emulation, and the boot state machine.
//! Never knows how an image was built.

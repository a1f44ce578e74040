//! Owns the TOML data that people write: recipes, locks, board types and labs, and how they are found.
//! Never fetches, builds or talks to a board.

mod arch;
mod board_type;
mod diagnostic;
mod lab;
mod lock;
mod model;

pub use arch::Arch;
pub use board_type::{
    Blob, BoardType, Bootloader, Emulation, ImageKind, InitrdNeeds, LoadAddresses, Media, Place,
    Table,
};
pub use diagnostic::{Diagnostic, parse_toml};
pub use lab::{BoardEntry, Console, Dhcp, Lab, LabSettings, Mac, Ports, Power};
pub use lock::{Lock, LockedPackage, LockedRelease, Role};
pub use model::{
    ArchiveSource, Builder, Command, Compression, FileEntry, InitrdOptions, Recipe, Strip, System,
    Units, User,
};

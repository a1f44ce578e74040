//! Owns the TOML files of users: recipes, locks, board types and labs, and how they are found.
//! Never fetches, builds or talks to a board.

mod board_type;
mod boot_values;
mod check;
mod file;
mod lab;
mod lab_check;
mod lab_file;
mod limits;
mod lock;
mod model;
mod names;
mod own;

pub use crate::arch::Arch;
pub use crate::diagnostic::{Diagnostic, Step, at, nearest, parse_toml, suggestion};
pub use crate::mac::Mac;
pub use board_type::{
    Blob, BoardType, Bootloader, EmulatedCard, EmulatedNetwork, Emulation, ImageKind, InitrdNeeds,
    LoadAddresses, Media, Place, Table,
};
pub use boot_values::boot_values;
pub use file::RecipeFile;
pub use lab::{
    BoardEntry, BoardRetries, BoardTimeouts, BootMethod, Console, Dhcp, HealthChecks, Lab,
    LabSettings, Login, Network, Ports, Power,
};
pub use lab_file::{Board, LoadedLab, board_or_type, board_type, board_types};
pub use limits::{Limits, parse_size};
pub use lock::{
    Change, Lock, LockedPackage, LockedRelease, Role, TOOL_ARCH, TOOLS, loads_into_perl,
    loads_into_tools,
};
pub use model::{
    ArchiveSource, Builder, Command, Compression, FileEntry, InitrdOptions, ModuleSet, Recipe,
    RootKind, Strip, System, Units, User,
};
pub use own::{Own, check_kernel_arguments};
